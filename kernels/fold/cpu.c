/* Folds of f32 along an axis other than sums, and running sums. Long folds go in parts whose number depends on the
 * sizes alone: results are the same for any number of threads. */
#include "../cpu/rows.h"
#include "../cpu/vector.h"
#include "../ref.h"
#include <math.h>

enum { COLUMNS = 1024, LANES = 64, ENOUGH = 64, SHORT = 1024 };

/* A part of some folds side by side: the best values and where they are, or products */
typedef struct best {
  float v[COLUMNS];
  int32_t at[COLUMNS];
  double product[COLUMNS];
} best;

/* Whether v comes before the best: larger or smaller, or the first NaN */
__attribute__((always_inline)) static inline bool better(bool largest, float v, float old) {
  bool more = largest ? v > old : v < old;
  return (more & (old == old)) | ((v != v) & (old == old));
}

/* Rows [from, to) of x, rows Q apart, `count` columns: values alone, or with positions */
__attribute__((always_inline)) static inline void columns_best(bool largest, ij_dim from, ij_dim to, ij_dim Q,
                                                               ij_dim count, const float *x, best *b, bool positions) {
  memcpy(b->v, x + from * Q, (size_t)count * sizeof *x);
  for (ij_dim j = 0; j < count; j++) b->at[j] = (int32_t)from;
  for (ij_dim i = from + 1; i < to; i++) {
    const float *row = x + i * Q;
    if (positions) {
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) {
        bool wins = better(largest, row[j], b->v[j]);
        b->at[j] = wins ? (int32_t)i : b->at[j];
        b->v[j] = wins ? row[j] : b->v[j];
      }
    } else {
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) b->v[j] = better(largest, row[j], b->v[j]) ? row[j] : b->v[j];
    }
  }
}
static void columns_product(ij_dim from, ij_dim to, ij_dim Q, ij_dim count, const float *x, double *product) {
  for (ij_dim j = 0; j < count; j++) product[j] = 1;
  for (ij_dim i = from; i < to; i++) {
    const float *row = x + i * Q;
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) product[j] *= row[j];
  }
}

/* The best of x (n), n >= 1: of LANES side by side, the last ones once more, then of these. NaNs are looked for beside
 * that: with one in x, it is the result. */
__attribute__((always_inline)) static inline float row_best(bool largest, ij_dim n, const float *x) {
  enum { WIDE = LANES / VL };
  float result = x[0];
  if (n < LANES) {
    for (ij_dim i = 1; i < n; i++) result = better(largest, x[i], result) ? x[i] : result;
    return result;
  }
  vf v[WIDE];
  vi nans = {0};
#pragma GCC unroll 16
  for (int j = 0; j < WIDE; j++) v[j] = vf_load(x + j * VL);
  for (ij_dim i = 0; i < n; i += LANES) {
    const float *from = i + LANES <= n ? x + i : x + n - LANES;
#pragma GCC unroll 16
    for (int j = 0; j < WIDE; j++) {
      vf more = vf_load(from + j * VL);
      nans |= (vi)(more != more);
      v[j] = largest ? vf_max(more, v[j]) : vf_min(more, v[j]);
    }
  }
#pragma GCC unroll 16
  for (int half = WIDE / 2; half; half /= 2)
    for (int j = 0; j < half; j++) v[j] = largest ? vf_max(v[j + half], v[j]) : vf_min(v[j + half], v[j]);
  if (vf_sum((vf)(nans & 0x3f800000)) > 0) return NAN; /* 1 for each lane that has seen one */
  return largest ? vf_top(v[0]) : -vf_top(-v[0]);
}
static ij_dim find(ij_dim n, const float *x, float v) { /* the first that is v, which is there */
  ij_dim i = 0;
  for (; i + LANES <= n; i += LANES) {
    int hit = 0;
#pragma omp simd reduction(| : hit)
    for (ij_dim j = 0; j < LANES; j++) hit |= (x[i + j] == v) | ((x[i + j] != x[i + j]) & (v != v));
    if (hit) break;
  }
  while (!(x[i] == v || (x[i] != x[i] && v != v))) i++;
  return i;
}
static double row_product(ij_dim n, const float *x) {
  enum { HALF = VL / 2, SIDE = 32, WIDE = SIDE / HALF }; /* half a vector of f32 fills one of f64 */
  typedef float half_any __attribute__((vector_size(4 * HALF), aligned(4), may_alias));
  typedef double vd __attribute__((vector_size(8 * HALF)));
  vd v[WIDE];
  double product = 1;
  ij_dim i = 0;
#pragma GCC unroll 16
  for (int j = 0; j < WIDE; j++) v[j] = (vd){0} + 1;
  for (; i + SIDE <= n; i += SIDE) {
#pragma GCC unroll 16
    for (int j = 0; j < WIDE; j++) v[j] *= __builtin_convertvector(*(const half_any *)(x + i + j * HALF), vd);
  }
#pragma GCC unroll 16
  for (int half = WIDE / 2; half; half /= 2)
    for (int j = 0; j < half; j++) v[j] *= v[j + half];
  for (; i < n; i++) product *= x[i];
  for (int j = 0; j < HALF; j++) product *= v[0][j];
  return product;
}

/* Rows [from, to) of `count` columns of x (n, Q) */
static void fold_part(int f, ij_dim from, ij_dim to, ij_dim Q, ij_dim count, const float *x, best *b) {
  bool positions = f >= IJ_FOLD_ARGMAX, largest = f == IJ_FOLD_MAX || f == IJ_FOLD_ARGMAX;
  if (f == IJ_FOLD_PROD) {
    if (Q == 1) b->product[0] = row_product(to - from, x + from);
    else columns_product(from, to, Q, count, x, b->product);
  } else if (Q == 1) {
    b->v[0] = largest ? row_best(true, to - from, x + from) : row_best(false, to - from, x + from);
    b->at[0] = positions ? (int32_t)(from + find(to - from, x + from, b->v[0])) : 0;
  } else if (largest) {
    if (positions) columns_best(true, from, to, Q, count, x, b, true);
    else columns_best(true, from, to, Q, count, x, b, false);
  } else {
    if (positions) columns_best(false, from, to, Q, count, x, b, true);
    else columns_best(false, from, to, Q, count, x, b, false);
  }
}
static void store(int f, ij_dim count, const best *b, void *y) {
  if (f >= IJ_FOLD_ARGMAX) memcpy(y, b->at, (size_t)count * sizeof *b->at);
  else if (f != IJ_FOLD_PROD) memcpy(y, b->v, (size_t)count * sizeof *b->v);
  else
    for (ij_dim j = 0; j < count; j++) ((float *)y)[j] = (float)b->product[j];
}
static void join(int f, ij_dim count, best *a, const best *b) { /* b comes behind a */
  bool largest = f == IJ_FOLD_MAX || f == IJ_FOLD_ARGMAX;
  for (ij_dim j = 0; j < count; j++) {
    if (f == IJ_FOLD_PROD) {
      a->product[j] *= b->product[j];
    } else if (better(largest, b->v[j], a->v[j])) {
      a->v[j] = b->v[j];
      a->at[j] = b->at[j];
    }
  }
}

ij_status IJ_CPU(fold_fwd)(ij_queue *q, int f, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  if (dt != IJ_F32 || n == 0) return ij_ref_fold_fwd(q, f, dt, P, n, Q, x, y);
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS, folds = P * blocks, parts = folds ? ENOUGH / folds : 1;
  if (parts > n / SHORT) parts = n / SHORT;
  if (parts <= 1) {
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
    for (ij_dim k = 0; k < folds; k++) {
      ij_dim p = k / blocks, c = k % blocks * COLUMNS, count = Q - c < COLUMNS ? Q - c : COLUMNS;
      best b;
      fold_part(f, 0, n, Q, count, (const float *)x + p * n * Q + c, &b);
      store(f, count, &b, (char *)y + 4 * (p * Q + c));
    }
    return IJ_OK;
  }
  best *b = ij_queue_scratch(q, 0, (size_t)(folds * parts) * sizeof *b);
  if (!b) return IJ_ENOMEM;
#pragma omp parallel for schedule(static)
  for (ij_dim k = 0; k < folds * parts; k++) {
    ij_dim p = k / parts / blocks, c = k / parts % blocks * COLUMNS, part = k % parts, from, to;
    share(n, (int)part, (int)parts, &from, &to);
    fold_part(f, from, to, Q, Q - c < COLUMNS ? Q - c : COLUMNS, (const float *)x + p * n * Q + c, b + k);
  }
  for (ij_dim k = 0; k < folds; k++) {
    ij_dim c = k % blocks * COLUMNS, count = Q - c < COLUMNS ? Q - c : COLUMNS;
    for (ij_dim part = 1; part < parts; part++) join(f, count, b + k * parts, b + k * parts + part);
    store(f, count, b + k * parts, (char *)y + 4 * (k / blocks * Q + c));
  }
  return IJ_OK;
}

/* ---- their derivatives */
/* Of `count` folds side by side: the product of what is not 0, the zeros, those equal to the result */
static void unfold(bool prod, ij_dim n, ij_dim Q, ij_dim count, const float *x, const float *y, const float *dy,
                   float *dx) {
  double product[COLUMNS];
  int32_t zeros[COLUMNS] = {0}, equal[COLUMNS] = {0};
  for (ij_dim j = 0; j < count; j++) product[j] = 1;
  for (ij_dim i = 0; i < n; i++) {
    const float *row = x + i * Q;
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) {
      zeros[j] += row[j] == 0;
      equal[j] += (row[j] == y[j]) | ((row[j] != row[j]) & (y[j] != y[j]));
    }
    if (prod)
      for (ij_dim j = 0; j < count; j++) product[j] *= row[j] == 0 ? 1 : (double)row[j];
  }
  for (ij_dim i = 0; i < n; i++) {
    const float *row = x + i * Q;
    float *to = dx + i * Q;
    if (!prod) {
#pragma omp simd
      for (ij_dim j = 0; j < count; j++) {
        bool hit = (row[j] == y[j]) | ((row[j] != row[j]) & (y[j] != y[j]));
        float each = dy[j] / (float)equal[j];
        to[j] = hit ? each : 0;
      }
      continue;
    }
    for (ij_dim j = 0; j < count; j++) {
      double rest = row[j] == 0 ? zeros[j] == 1 ? product[j] : 0 : zeros[j] ? 0 : product[j] / row[j];
      to[j] = (float)(dy[j] * rest);
    }
  }
}
/* One fold whose elements lie side by side, max or min */
static void unfold_row(ij_dim n, const float *x, float y, float dy, float *dx) {
  ij_dim equal = 0;
#pragma omp simd reduction(+ : equal)
  for (ij_dim i = 0; i < n; i++) equal += (x[i] == y) | ((x[i] != x[i]) & (y != y));
  float each = dy / (float)equal;
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) dx[i] = (x[i] == y) | ((x[i] != x[i]) & (y != y)) ? each : 0;
}
ij_status IJ_CPU(fold_bwd)(ij_queue *q, int f, ij_dim P, ij_dim n, ij_dim Q, const float *x, const float *y,
                           const float *dy, float *dx) {
  (void)q;
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
  for (ij_dim k = 0; k < P * blocks; k++) {
    ij_dim p = k / blocks, c = k % blocks * COLUMNS, from = p * n * Q + c, r = p * Q + c;
    if (Q == 1 && f != IJ_FOLD_PROD) unfold_row(n, x + from, y[r], dy[r], dx + from);
    else unfold(f == IJ_FOLD_PROD, n, Q, Q - c < COLUMNS ? Q - c : COLUMNS, x + from, y + r, dy + r, dx + from);
  }
  return IJ_OK;
}

/* ---- running sums */
static void scan_columns(ij_dim n, ij_dim Q, ij_dim count, bool reverse, const float *x, float *y) {
  double sum[COLUMNS] = {0};
  for (ij_dim k = 0; k < n; k++) {
    ij_dim i = reverse ? n - 1 - k : k;
#pragma omp simd
    for (ij_dim j = 0; j < count; j++) {
      sum[j] += x[i * Q + j];
      y[i * Q + j] = (float)sum[j];
    }
  }
}
/* `rows` <= 8 rows whose elements lie side by side: each sum waits for the one before, so several go at once. */
enum { ROWS = 8 };
__attribute__((always_inline)) static inline void scan_rows(ij_dim rows, ij_dim n, bool reverse, const float *x,
                                                            float *y) {
  double sum[ROWS] = {0};
  for (ij_dim k = 0; k < n; k++) {
    ij_dim i = reverse ? n - 1 - k : k;
    for (ij_dim r = 0; r < rows; r++) {
      sum[r] += x[r * n + i];
      y[r * n + i] = (float)sum[r];
    }
  }
}
ij_status IJ_CPU(scan)(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, int reverse, const void *x, void *y) {
  if (dt != IJ_F32) return ij_ref_scan(q, dt, P, n, Q, reverse, x, y);
  if (Q == 1) {
    const float *from = x;
    float *to = y;
#pragma omp parallel for schedule(static) if (P * n >= SMALL)
    for (ij_dim p = 0; p < P; p += ROWS) {
      if (p + ROWS <= P) scan_rows(ROWS, n, reverse, from + p * n, to + p * n);
      else scan_rows(P - p, n, reverse, from + p * n, to + p * n);
    }
    return IJ_OK;
  }
  ij_dim blocks = (Q + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for schedule(static) if (P * n * Q >= SMALL)
  for (ij_dim k = 0; k < P * blocks; k++) {
    ij_dim c = k % blocks * COLUMNS, from = k / blocks * n * Q + c;
    scan_columns(n, Q, Q - c < COLUMNS ? Q - c : COLUMNS, reverse, (const float *)x + from, (float *)y + from);
  }
  return IJ_OK;
}
