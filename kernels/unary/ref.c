/* Functions of one number, and their derivatives. */
#include "../ref.h"
#include "../whole.h"
#include <math.h>

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double value(int f, double x, double a, double b) {
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    return exp(x);
  case IJ_LOG:
    return log(x);
  case IJ_SQRT:
    return sqrt(x);
  case IJ_RSQRT:
    return 1 / sqrt(x);
  case IJ_ABS:
    return fabs(x);
  case IJ_SIGN:
    return x > 0 ? 1 : x < 0 ? -1 : x; /* NaN stays */
  case IJ_FLOOR:
    return floor(x);
  case IJ_CEIL:
    return ceil(x);
  case IJ_ROUND:
    return rint(x);
  case IJ_SIN:
    return sin(x);
  case IJ_COS:
    return cos(x);
  case IJ_TANH:
    return tanh(x);
  case IJ_SIGMOID:
    return sigmoid(x);
  case IJ_SILU:
    return x * sigmoid(x);
  case IJ_ERF:
    return erf(x);
  case IJ_NEG:
    return -x;
  case IJ_RECIPROCAL:
    return 1 / x;
  case IJ_LOG1P:
    return log1p(x);
  case IJ_EXPM1:
    return expm1(x);
  case IJ_SQUARE:
    return x * x;
  case IJ_POWER:
    return pow(x, a);
  default:
    return x < a ? a : x > b ? b : x;
  }
}

static double slope(int f, double x, double y, double a, double b) { /* y = f(x) */
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    return y;
  case IJ_LOG:
    return 1 / x;
  case IJ_SQRT:
    return 0.5 / y;
  case IJ_RSQRT:
    return -0.5 * y * y * y;
  case IJ_ABS:
    return x > 0 ? 1 : x < 0 ? -1 : 0;
  case IJ_SIN:
    return cos(x);
  case IJ_COS:
    return -sin(x);
  case IJ_TANH:
    return 1 - y * y;
  case IJ_SIGMOID:
    return y * (1 - y);
  case IJ_SILU:
    return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
  case IJ_ERF:
    return 1.12837916709551257390 * exp(-x * x);
  case IJ_NEG:
    return -1;
  case IJ_RECIPROCAL:
    return -y * y;
  case IJ_LOG1P:
    return 1 / (1 + x);
  case IJ_EXPM1:
    return y + 1;
  case IJ_SQUARE:
    return 2 * x;
  case IJ_POWER:
    return a == 0 ? 0 : a * pow(x, a - 1);
  case IJ_CLAMP:
    return x >= a && x <= b;
  default:
    return 0;
  }
}

ij_status ij_ref_unary_fwd(ij_queue *q, int f, ij_dtype dt, ij_dim n, double a, double b, const void *x, void *y) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) {
    if (dt == IJ_F32) ij_ref_set(dt, y, i, value(f, ij_ref_get(dt, x, i), a, b));
    else ij_ref_set_whole(dt, y, i, ij_whole_unary(f, ij_ref_whole(dt, x, i), ij_whole_of(a), ij_whole_of(b)));
  }
  return IJ_OK;
}

ij_status ij_ref_unary_bwd(ij_queue *q, int f, ij_dim n, double a, double b, const float *x, const float *y,
                           const float *dy, float *dx) {
  (void)q;
  for (ij_dim i = 0; i < n; i++) dx[i] = (float)(dy[i] * slope(f, x[i], y[i], a, b));
  return IJ_OK;
}
