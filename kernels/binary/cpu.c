/* Functions of two numbers with broadcasting, their derivatives, and the choice between two. */
#include "../cpu/functions.h"
#include "../cpu/rows.h"
#include "../whole.h"

enum { CHUNK = 4096, DIMS = 6, OPERANDS = 3 };

/* ---- rows of the result, with the offsets of what is read; long rows in chunks */
typedef struct walk {
  int nd;
  const ij_dim *shape, *stride[OPERANDS]; /* NULL: not read */
  ij_dim rows, n, chunks;                 /* rows of n elements, each in so many chunks */
} walk;
static walk walk_over(int nd, const ij_dim *shape, const ij_dim *a, const ij_dim *b, const ij_dim *c) {
  walk w = {.nd = nd, .shape = shape, .stride = {a, b, c}, .rows = 1, .n = shape[nd - 1]};
  for (int d = 0; d < nd - 1; d++) w.rows *= shape[d];
  w.chunks = (w.n + CHUNK - 1) / CHUNK;
  return w;
}
static ij_dim step_of(const walk *w, int k) { return w->stride[k] ? w->stride[k][w->nd - 1] : 0; }

typedef struct position {
  ij_dim index[DIMS], offset[OPERANDS]; /* of a row */
} position;
static position position_of(const walk *w, ij_dim row) {
  position p = {{0}, {0}};
  for (int d = w->nd - 2; d >= 0; d--) {
    p.index[d] = row % w->shape[d];
    row /= w->shape[d];
    for (int k = 0; k < OPERANDS; k++)
      if (w->stride[k]) p.offset[k] += p.index[d] * w->stride[k][d];
  }
  return p;
}
static void next_row(const walk *w, position *p) {
  for (int d = w->nd - 2; d >= 0; d--) {
    bool over = ++p->index[d] == w->shape[d];
    for (int k = 0; k < OPERANDS; k++)
      if (w->stride[k]) p->offset[k] += over ? w->stride[k][d] * (1 - w->shape[d]) : w->stride[k][d];
    if (!over) return;
    p->index[d] = 0;
  }
}

/* ---- f32 */
IJ_FN float value(int f, float x, float y) {
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
    return x + y;
  case IJ_SUB:
    return x - y;
  case IJ_MUL:
    return x * y;
  case IJ_DIV:
    return x / y;
  case IJ_POW:
    return fn_pow(x, y);
  case IJ_MIN:
    return x < y || x != x ? x : y;
  default:
    return x > y || x != x ? x : y;
  }
}
IJ_FN bool compare(int f, float x, float y) {
  switch ((ij_binary_fn)f) {
  case IJ_EQ:
    return x == y;
  case IJ_NE:
    return x != y;
  case IJ_LT:
    return x < y;
  case IJ_LE:
    return x <= y;
  case IJ_GT:
    return x > y;
  default:
    return x >= y;
  }
}
/* x, y: n elements side by side, or one, where its step is 0 */
IJ_FN void loop(int f, ij_dim n, const float *x, ij_dim sx, const float *y, ij_dim sy, void *out) {
  float *z = out;
  uint8_t *truth = out;
  if (f >= IJ_EQ) {
    if (sx && sy) {
#pragma omp simd
      for (ij_dim i = 0; i < n; i++) truth[i] = compare(f, x[i], y[i]);
    } else if (sx) {
      float b = *y;
#pragma omp simd
      for (ij_dim i = 0; i < n; i++) truth[i] = compare(f, x[i], b);
    } else {
      float a = *x;
#pragma omp simd
      for (ij_dim i = 0; i < n; i++) truth[i] = compare(f, a, y[i * sy]);
    }
  } else if (sx && sy) {
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = value(f, x[i], y[i]);
  } else if (sx) {
    float b = *y;
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = value(f, x[i], b);
  } else if (sy) {
    float a = *x;
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = value(f, a, y[i]);
  } else {
    float v = value(f, *x, *y);
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = v;
  }
}
/* Powers that fn_pow does not know, and their derivatives */
static bool any_odd(ij_dim n, const float *x, ij_dim sx, const float *y, ij_dim sy) {
  int odd = 0;
#pragma omp simd reduction(| : odd)
  for (ij_dim i = 0; i < n; i++) odd |= !fn_pow_fits(x[i * sx], y[i * sy]);
  return odd;
}
static void odd_powers(ij_dim n, const float *x, ij_dim sx, const float *y, ij_dim sy, float *z) {
  for (ij_dim i = 0; i < n; i++) z[i] = powf(x[i * sx], y[i * sy]);
}
static bool any_slope_odd(ij_dim n, const float *x, const float *y) {
  int odd = 0;
#pragma omp simd reduction(| : odd)
  for (ij_dim i = 0; i < n; i++) odd |= !(fn_pow_fits(x[i], y[i]) & (x[i] > 0) & (y[i] != 1));
  return odd;
}
static void odd_slopes(ij_dim n, const float *x, const float *y, const float *dz, float *dx, float *dy) {
  for (ij_dim i = 0; i < n; i++) {
    float a = x[i], b = y[i], g = dz[i];
    if (dx) dx[i] = b == 0 ? g * 0 : g * (b * powf(a, b - 1));
    if (dy) dy[i] = a == 0 && b >= 0 ? g * 0 : g * (powf(a, b) * logf(a));
  }
}
static void piece(int f, ij_dim n, const float *x, ij_dim sx, const float *y, ij_dim sy, void *z) {
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
    loop(IJ_ADD, n, x, sx, y, sy, z);
    break;
  case IJ_SUB:
    loop(IJ_SUB, n, x, sx, y, sy, z);
    break;
  case IJ_MUL:
    loop(IJ_MUL, n, x, sx, y, sy, z);
    break;
  case IJ_DIV:
    loop(IJ_DIV, n, x, sx, y, sy, z);
    break;
  case IJ_POW:
    if (any_odd(n, x, sx, y, sy)) odd_powers(n, x, sx, y, sy, z);
    else loop(IJ_POW, n, x, sx, y, sy, z);
    break;
  case IJ_MIN:
    loop(IJ_MIN, n, x, sx, y, sy, z);
    break;
  case IJ_MAX:
    loop(IJ_MAX, n, x, sx, y, sy, z);
    break;
  case IJ_EQ:
    loop(IJ_EQ, n, x, sx, y, sy, z);
    break;
  case IJ_NE:
    loop(IJ_NE, n, x, sx, y, sy, z);
    break;
  case IJ_LT:
    loop(IJ_LT, n, x, sx, y, sy, z);
    break;
  case IJ_LE:
    loop(IJ_LE, n, x, sx, y, sy, z);
    break;
  case IJ_GT:
    loop(IJ_GT, n, x, sx, y, sy, z);
    break;
  default:
    loop(IJ_GE, n, x, sx, y, sy, z);
  }
}
/* n elements from x on, `step` apart, side by side: as they are, or in buffer */
static const float *spread(ij_dim n, const float *x, ij_dim step, float *buffer) {
  if (step == 1) return x;
  for (ij_dim i = 0; i < n; i++) buffer[i] = x[i * step];
  return buffer;
}
/* The same, but for one element again and again, which stays one */
static const float *beside(ij_dim n, const float *x, ij_dim step, float *buffer) {
  return step == 0 ? x : spread(n, x, step, buffer);
}

/* ---- whole numbers */
static int64_t whole_at(ij_dtype dt, const void *x, ij_dim i) {
  return dt == IJ_I32 ? ((const int32_t *)x)[i] : dt == IJ_I64 ? ((const int64_t *)x)[i] : ((const uint8_t *)x)[i];
}
IJ_FN void whole_loop(int f, ij_dtype dt, ij_dim n, const void *x, ij_dim ix, ij_dim sx, const void *y, ij_dim iy,
                      ij_dim sy, int64_t s, void *z, ij_dim iz) {
  for (ij_dim i = 0; i < n; i++) {
    int64_t v = ij_whole_binary(f, x ? whole_at(dt, x, ix + i * sx) : s, y ? whole_at(dt, y, iy + i * sy) : s);
    if (f >= IJ_EQ || dt == IJ_U8) ((uint8_t *)z)[iz + i] = (uint8_t)(uint64_t)v;
    else if (dt == IJ_I32) ((int32_t *)z)[iz + i] = (int32_t)(uint32_t)(uint64_t)v;
    else ((int64_t *)z)[iz + i] = v;
  }
}
static void whole_piece(int f, ij_dtype dt, ij_dim n, const void *x, ij_dim ix, ij_dim sx, const void *y, ij_dim iy,
                        ij_dim sy, int64_t s, void *z, ij_dim iz) {
  if (dt == IJ_I32) whole_loop(f, IJ_I32, n, x, ix, sx, y, iy, sy, s, z, iz);
  else if (dt == IJ_I64) whole_loop(f, IJ_I64, n, x, ix, sx, y, iy, sy, s, z, iz);
  else whole_loop(f, IJ_U8, n, x, ix, sx, y, iy, sy, s, z, iz);
}

/* The parts of a walk that thread t of count does: pieces of rows */
typedef struct part {
  ij_dim from, to;
  position at;
} part;
static part part_of(const walk *w, int t, int count) {
  part p;
  share(w->rows * w->chunks, t, count, &p.from, &p.to);
  p.at = position_of(w, p.from / w->chunks);
  return p;
}
/* Columns [*c, *c + result) of the piece; steps to the next row behind the row's last piece. */
static ij_dim piece_at(const walk *w, ij_dim k, ij_dim *c) {
  *c = k % w->chunks * CHUNK;
  return w->n - *c < CHUNK ? w->n - *c : CHUNK;
}
static void after_piece(const walk *w, ij_dim k, position *p) {
  if (k % w->chunks == w->chunks - 1) next_row(w, p);
}

ij_status IJ_CPU(binary_fwd)(ij_queue *q, int f, ij_dtype dt, int nd, const ij_dim *shape, double s, const void *x,
                             const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  (void)q;
  walk w = walk_over(nd, shape, x ? xstride : NULL, y ? ystride : NULL, NULL);
  ij_dim sx = step_of(&w, 0), sy = step_of(&w, 1);
  if (w.rows * w.n == 0) return IJ_OK;
  int threads = w.rows * w.n < SMALL ? 1 : omp_get_max_threads();
  const float number = (float)s;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    part p = part_of(&w, t, threads);
    float xs[CHUNK], ys[CHUNK];
    for (ij_dim k = p.from; k < p.to; k++) {
      ij_dim c, n = piece_at(&w, k, &c), ix = p.at.offset[0] + c * sx, iy = p.at.offset[1] + c * sy;
      ij_dim iz = k / w.chunks * w.n + c;
      if (dt == IJ_F32) {
        const float *a = x ? beside(n, (const float *)x + ix, sx, xs) : &number;
        const float *b = y ? beside(n, (const float *)y + iy, sy, ys) : &number;
        piece(f, n, a, sx != 0, b, sy != 0, (char *)z + iz * (f >= IJ_EQ ? 1 : 4));
      } else {
        whole_piece(f, dt, n, x, ix, sx, y, iy, sy, ij_whole_of(s), z, iz);
      }
      after_piece(&w, k, &p.at);
    }
  }
  return IJ_OK;
}

/* ---- derivatives */
IJ_FN float slope_x(int f, float x, float y) {
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
  case IJ_SUB:
    return 1;
  case IJ_MUL:
    return y;
  case IJ_DIV:
    return 1 / y;
  case IJ_POW:
    return y * fn_pow(x, y - 1);
  case IJ_MIN:
    return x == y ? 0.5f : x > y ? 0 : 1;
  case IJ_MAX:
    return x == y ? 0.5f : x > y ? 1 : 0;
  default:
    return 0;
  }
}
IJ_FN float slope_y(int f, float x, float y) {
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
    return 1;
  case IJ_SUB:
    return -1;
  case IJ_MUL:
    return x;
  case IJ_DIV:
    return -x / y / y;
  case IJ_POW:
    return fn_pow(x, y) * fn_log(x);
  case IJ_MIN:
    return x == y ? 0.5f : x > y ? 1 : 0;
  case IJ_MAX:
    return x == y ? 0.5f : x > y ? 0 : 1;
  default:
    return 0;
  }
}
/* x and y side by side; dx or dy may be NULL or dz */
IJ_FN void loop_back(int f, ij_dim n, const float *x, const float *y, const float *dz, float *dx, float *dy) {
  if (dx && dy) {
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) {
      float g = dz[i], a = x[i], b = y[i];
      dx[i] = g * slope_x(f, a, b);
      dy[i] = g * slope_y(f, a, b);
    }
  } else if (dx) {
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) dx[i] = dz[i] * slope_x(f, x[i], y[i]);
  } else if (dy) {
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) dy[i] = dz[i] * slope_y(f, x[i], y[i]);
  }
}
static void piece_back(int f, ij_dim n, const float *x, const float *y, const float *dz, float *dx, float *dy) {
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
    loop_back(IJ_ADD, n, x, y, dz, dx, dy);
    break;
  case IJ_SUB:
    loop_back(IJ_SUB, n, x, y, dz, dx, dy);
    break;
  case IJ_MUL:
    loop_back(IJ_MUL, n, x, y, dz, dx, dy);
    break;
  case IJ_DIV:
    loop_back(IJ_DIV, n, x, y, dz, dx, dy);
    break;
  case IJ_POW:
    if (any_slope_odd(n, x, y)) odd_slopes(n, x, y, dz, dx, dy);
    else loop_back(IJ_POW, n, x, y, dz, dx, dy);
    break;
  case IJ_MIN:
    loop_back(IJ_MIN, n, x, y, dz, dx, dy);
    break;
  case IJ_MAX:
    loop_back(IJ_MAX, n, x, y, dz, dx, dy);
    break;
  default:
    loop_back(IJ_EQ, n, x, y, dz, dx, dy);
  }
}

ij_status IJ_CPU(binary_bwd)(ij_queue *q, int f, int nd, const ij_dim *shape, double s, const float *x,
                             const ij_dim *xstride, const float *y, const ij_dim *ystride, const float *dz, float *dx,
                             float *dy) {
  (void)q;
  walk w = walk_over(nd, shape, x ? xstride : NULL, y ? ystride : NULL, NULL);
  ij_dim sx = step_of(&w, 0), sy = step_of(&w, 1);
  if (w.rows * w.n == 0) return IJ_OK;
  int threads = w.rows * w.n < SMALL ? 1 : omp_get_max_threads();
  const float number = (float)s;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    part p = part_of(&w, t, threads);
    float xs[CHUNK], ys[CHUNK];
    for (ij_dim k = p.from; k < p.to; k++) {
      ij_dim c, n = piece_at(&w, k, &c), iz = k / w.chunks * w.n + c;
      const float *a = spread(n, x ? x + p.at.offset[0] + c * sx : &number, sx, xs);
      const float *b = spread(n, y ? y + p.at.offset[1] + c * sy : &number, sy, ys);
      piece_back(f, n, a, b, dz + iz, dx ? dx + iz : NULL, dy ? dy + iz : NULL);
      after_piece(&w, k, &p.at);
    }
  }
  return IJ_OK;
}

/* ---- choice */
static void choose_4(ij_dim n, const uint8_t *c, ij_dim sc, const uint32_t *x, ij_dim sx, const uint32_t *y, ij_dim sy,
                     uint32_t *z) {
  static const uint32_t zero;
  if (!x) x = &zero, sx = 0;
  if (!y) y = &zero, sy = 0;
  if (sc == 1 && sx == 1 && sy == 1) {
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = c[i] ? x[i] : y[i];
  } else if (sc == 1 && sx == 1 && sy == 0) {
    uint32_t b = *y;
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = c[i] ? x[i] : b;
  } else if (sc == 1 && sx == 0 && sy == 1) {
    uint32_t a = *x;
#pragma omp simd
    for (ij_dim i = 0; i < n; i++) z[i] = c[i] ? a : y[i];
  } else {
    for (ij_dim i = 0; i < n; i++) z[i] = c[i * sc] ? x[i * sx] : y[i * sy];
  }
}
static void choose_any(ij_dim n, ij_dim size, const uint8_t *c, ij_dim sc, const char *x, ij_dim sx, const char *y,
                       ij_dim sy, char *z) {
  for (ij_dim i = 0; i < n; i++) {
    const char *from = c[i * sc] ? x : y;
    ij_dim step = c[i * sc] ? sx : sy;
    if (from) memcpy(z + i * size, from + i * step * size, (size_t)size);
    else memset(z + i * size, 0, (size_t)size);
  }
}
ij_status IJ_CPU(choose)(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const uint8_t *c, const ij_dim *cstride,
                         const void *x, const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  (void)q;
  walk w = walk_over(nd, shape, cstride, x ? xstride : NULL, y ? ystride : NULL);
  ij_dim sc = step_of(&w, 0), sx = step_of(&w, 1), sy = step_of(&w, 2);
  if (w.rows * w.n == 0) return IJ_OK;
  int threads = w.rows * w.n < SMALL ? 1 : omp_get_max_threads();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    part p = part_of(&w, t, threads);
    for (ij_dim k = p.from; k < p.to; k++) {
      ij_dim first, n = piece_at(&w, k, &first), iz = k / w.chunks * w.n + first;
      const uint8_t *flags = c + p.at.offset[0] + first * sc;
      const char *a = x ? (const char *)x + (p.at.offset[1] + first * sx) * size : NULL;
      const char *b = y ? (const char *)y + (p.at.offset[2] + first * sy) * size : NULL;
      if (size == 4) choose_4(n, flags, sc, (const void *)a, sx, (const void *)b, sy, (uint32_t *)z + iz);
      else choose_any(n, size, flags, sc, a, sx, b, sy, (char *)z + iz * size);
      after_piece(&w, k, &p.at);
    }
  }
  return IJ_OK;
}
