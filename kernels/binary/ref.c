/* Functions of two numbers with broadcasting, their derivatives, and the choice between two. */
#include "../ref.h"
#include "../whole.h"
#include <math.h>
#include <string.h>

static double value(int f, double x, double y) {
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
    return pow(x, y);
  case IJ_MIN:
    return x < y || x != x ? x : y; /* NaN stays */
  case IJ_MAX:
    return x > y || x != x ? x : y;
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

ij_status ij_ref_binary_fwd(ij_queue *q, int f, ij_dtype dt, int nd, const ij_dim *shape, double s, const void *x,
                            const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  (void)q;
  ij_dim n = ij_ref_count(nd, shape);
  for (ij_dim i = 0; i < n; i++) {
    ij_dim ix = ij_ref_offset(nd, shape, xstride, i), iy = ij_ref_offset(nd, shape, ystride, i);
    if (dt == IJ_F32) {
      double v = value(f, x ? ij_ref_get(dt, x, ix) : (float)s, y ? ij_ref_get(dt, y, iy) : (float)s);
      if (f >= IJ_EQ) ((uint8_t *)z)[i] = v != 0;
      else ((float *)z)[i] = (float)v;
    } else {
      int64_t a = x ? ij_ref_whole(dt, x, ix) : ij_whole_of(s), b = y ? ij_ref_whole(dt, y, iy) : ij_whole_of(s);
      ij_ref_set_whole(f >= IJ_EQ ? IJ_U8 : dt, z, i, ij_whole_binary(f, a, b));
    }
  }
  return IJ_OK;
}

/* The derivatives of f(x, y) with respect to x and y */
static void slopes(int f, double x, double y, double *dx, double *dy) {
  *dx = *dy = 0;
  switch ((ij_binary_fn)f) {
  case IJ_ADD:
    *dx = *dy = 1;
    break;
  case IJ_SUB:
    *dx = 1, *dy = -1;
    break;
  case IJ_MUL:
    *dx = y, *dy = x;
    break;
  case IJ_DIV:
    *dx = 1 / y, *dy = -x / y / y;
    break;
  case IJ_POW:
    *dx = y == 0 ? 0 : y * pow(x, y - 1);
    *dy = x == 0 && y >= 0 ? 0 : pow(x, y) * log(x);
    break;
  case IJ_MIN:
  case IJ_MAX:
    *dx = x == y ? 0.5 : (f == IJ_MAX) == (x > y);
    *dy = 1 - *dx;
    break;
  default:
    break;
  }
}

ij_status ij_ref_binary_bwd(ij_queue *q, int f, int nd, const ij_dim *shape, double s, const float *x,
                            const ij_dim *xstride, const float *y, const ij_dim *ystride, const float *dz, float *dx,
                            float *dy) {
  (void)q;
  ij_dim n = ij_ref_count(nd, shape);
  for (ij_dim i = 0; i < n; i++) {
    float a = x ? x[ij_ref_offset(nd, shape, xstride, i)] : (float)s;
    float b = y ? y[ij_ref_offset(nd, shape, ystride, i)] : (float)s, g = dz[i];
    double ga, gb;
    slopes(f, a, b, &ga, &gb);
    if (dx) dx[i] = (float)(g * ga);
    if (dy) dy[i] = (float)(g * gb);
  }
  return IJ_OK;
}

ij_status ij_ref_choose(ij_queue *q, int nd, const ij_dim *shape, ij_dim size, const uint8_t *c, const ij_dim *cstride,
                        const void *x, const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z) {
  (void)q;
  ij_dim n = ij_ref_count(nd, shape);
  for (ij_dim i = 0; i < n; i++) {
    bool first = c[ij_ref_offset(nd, shape, cstride, i)] != 0;
    const char *from = first ? x : y;
    char *to = (char *)z + i * size;
    if (from) memcpy(to, from + ij_ref_offset(nd, shape, first ? xstride : ystride, i) * size, (size_t)size);
    else memset(to, 0, (size_t)size);
  }
  return IJ_OK;
}
