/* Functions of one number, and their derivatives. */
#include "../cpu/functions.h"
#include "../cpu/rows.h"
#include "../whole.h"

enum { CHUNK = 4096 };

IJ_FN float value(int f, float x, float a, float b) {
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    return fn_exp(x);
  case IJ_LOG:
    return fn_log(x);
  case IJ_SQRT:
    return sqrtf(x);
  case IJ_RSQRT:
    return 1 / sqrtf(x);
  case IJ_ABS:
    return fabsf(x);
  case IJ_SIGN:
    return x > 0 ? 1 : x < 0 ? -1 : x;
  case IJ_FLOOR:
    return floorf(x);
  case IJ_CEIL:
    return ceilf(x);
  case IJ_ROUND:
    return rintf(x);
  case IJ_SIN:
    return fn_sin_or_cos(x, FN_SIN);
  case IJ_COS:
    return fn_sin_or_cos(x, FN_COS);
  case IJ_TANH:
    return fn_tanh(x);
  case IJ_SIGMOID:
    return fn_sigmoid(x);
  case IJ_SILU:
    return x / (1 + fn_exp(-x));
  case IJ_ERF:
    return fn_erf(x);
  case IJ_NEG:
    return -x;
  case IJ_RECIPROCAL:
    return 1 / x;
  case IJ_LOG1P:
    return fn_log1p(x);
  case IJ_EXPM1:
    return fn_expm1(x);
  case IJ_SQUARE:
    return x * x;
  case IJ_POWER:
    return fn_pow(x, a);
  default:
    return fn_within(x, a, b);
  }
}

IJ_FN float slope(int f, float x, float y, float a, float b) { /* y = f(x) */
  float s;
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    return y;
  case IJ_LOG:
    return 1 / x;
  case IJ_SQRT:
    return 0.5f / y;
  case IJ_RSQRT:
    return -0.5f * y * y * y;
  case IJ_ABS:
    return x > 0 ? 1 : x < 0 ? -1 : 0;
  case IJ_SIN:
    return fn_sin_or_cos(x, FN_COS);
  case IJ_COS:
    return -fn_sin_or_cos(x, FN_SIN);
  case IJ_TANH:
    return 1 - y * y;
  case IJ_SIGMOID:
    return y * (1 - y);
  case IJ_SILU:
    s = fn_sigmoid(x);
    return s * (1 + x * (1 - s));
  case IJ_ERF:
    return 1.12837917f * fn_exp(-x * x);
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
    return a * fn_pow(x, a - 1);
  case IJ_CLAMP:
    return x >= a && x <= b ? 1 : 0;
  default:
    return 0;
  }
}

IJ_FN void loop(int f, ij_dim n, float a, float b, const float *x, float *y) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) y[i] = value(f, x[i], a, b);
}
IJ_FN void loop_back(int f, ij_dim n, float a, float b, const float *x, const float *y, const float *dy, float *dx) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) dx[i] = dy[i] * slope(f, x[i], y[i], a, b);
}
static bool any_far(ij_dim n, const float *x) {
  int far = 0;
#pragma omp simd reduction(| : far)
  for (ij_dim i = 0; i < n; i++) far |= !(fabsf(x[i]) <= fn_turns);
  return far;
}

static bool any_odd(ij_dim n, const float *x, float y) { /* for fn_pow */
  int odd = 0;
#pragma omp simd reduction(| : odd)
  for (ij_dim i = 0; i < n; i++) odd |= !fn_pow_fits(x[i], y);
  return odd;
}

/* Powers that are something simpler */
static int simpler(int f, double a) {
  if (f != IJ_POWER) return f;
  return a == 2 ? IJ_SQUARE : a == 0.5 ? IJ_SQRT : a == -0.5 ? IJ_RSQRT : a == -1 ? IJ_RECIPROCAL : f;
}

static void chunk(int f, ij_dim n, float a, float b, const float *x, float *y) {
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    loop(IJ_EXP, n, a, b, x, y);
    break;
  case IJ_LOG:
    loop(IJ_LOG, n, a, b, x, y);
    break;
  case IJ_SQRT:
    loop(IJ_SQRT, n, a, b, x, y);
    break;
  case IJ_RSQRT:
    loop(IJ_RSQRT, n, a, b, x, y);
    break;
  case IJ_ABS:
    loop(IJ_ABS, n, a, b, x, y);
    break;
  case IJ_SIGN:
    loop(IJ_SIGN, n, a, b, x, y);
    break;
  case IJ_FLOOR:
    loop(IJ_FLOOR, n, a, b, x, y);
    break;
  case IJ_CEIL:
    loop(IJ_CEIL, n, a, b, x, y);
    break;
  case IJ_ROUND:
    loop(IJ_ROUND, n, a, b, x, y);
    break;
  case IJ_SIN:
    if (any_far(n, x))
      for (ij_dim i = 0; i < n; i++) y[i] = sinf(x[i]);
    else loop(IJ_SIN, n, a, b, x, y);
    break;
  case IJ_COS:
    if (any_far(n, x))
      for (ij_dim i = 0; i < n; i++) y[i] = cosf(x[i]);
    else loop(IJ_COS, n, a, b, x, y);
    break;
  case IJ_TANH:
    loop(IJ_TANH, n, a, b, x, y);
    break;
  case IJ_SIGMOID:
    loop(IJ_SIGMOID, n, a, b, x, y);
    break;
  case IJ_SILU:
    loop(IJ_SILU, n, a, b, x, y);
    break;
  case IJ_ERF:
    loop(IJ_ERF, n, a, b, x, y);
    break;
  case IJ_NEG:
    loop(IJ_NEG, n, a, b, x, y);
    break;
  case IJ_RECIPROCAL:
    loop(IJ_RECIPROCAL, n, a, b, x, y);
    break;
  case IJ_LOG1P:
    loop(IJ_LOG1P, n, a, b, x, y);
    break;
  case IJ_EXPM1:
    loop(IJ_EXPM1, n, a, b, x, y);
    break;
  case IJ_SQUARE:
    loop(IJ_SQUARE, n, a, b, x, y);
    break;
  case IJ_POWER:
    if (any_odd(n, x, a))
      for (ij_dim i = 0; i < n; i++) y[i] = powf(x[i], a);
    else loop(IJ_POWER, n, a, b, x, y);
    break;
  default:
    loop(IJ_CLAMP, n, a, b, x, y);
  }
}
static void chunk_back(int f, ij_dim n, float a, float b, const float *x, const float *y, const float *dy, float *dx) {
  switch ((ij_unary_fn)f) {
  case IJ_EXP:
    loop_back(IJ_EXP, n, a, b, x, y, dy, dx);
    break;
  case IJ_LOG:
    loop_back(IJ_LOG, n, a, b, x, y, dy, dx);
    break;
  case IJ_SQRT:
    loop_back(IJ_SQRT, n, a, b, x, y, dy, dx);
    break;
  case IJ_RSQRT:
    loop_back(IJ_RSQRT, n, a, b, x, y, dy, dx);
    break;
  case IJ_ABS:
    loop_back(IJ_ABS, n, a, b, x, y, dy, dx);
    break;
  case IJ_SIN:
    if (any_far(n, x))
      for (ij_dim i = 0; i < n; i++) dx[i] = dy[i] * cosf(x[i]);
    else loop_back(IJ_SIN, n, a, b, x, y, dy, dx);
    break;
  case IJ_COS:
    if (any_far(n, x))
      for (ij_dim i = 0; i < n; i++) dx[i] = dy[i] * -sinf(x[i]);
    else loop_back(IJ_COS, n, a, b, x, y, dy, dx);
    break;
  case IJ_TANH:
    loop_back(IJ_TANH, n, a, b, x, y, dy, dx);
    break;
  case IJ_SIGMOID:
    loop_back(IJ_SIGMOID, n, a, b, x, y, dy, dx);
    break;
  case IJ_SILU:
    loop_back(IJ_SILU, n, a, b, x, y, dy, dx);
    break;
  case IJ_ERF:
    loop_back(IJ_ERF, n, a, b, x, y, dy, dx);
    break;
  case IJ_NEG:
    loop_back(IJ_NEG, n, a, b, x, y, dy, dx);
    break;
  case IJ_RECIPROCAL:
    loop_back(IJ_RECIPROCAL, n, a, b, x, y, dy, dx);
    break;
  case IJ_LOG1P:
    loop_back(IJ_LOG1P, n, a, b, x, y, dy, dx);
    break;
  case IJ_EXPM1:
    loop_back(IJ_EXPM1, n, a, b, x, y, dy, dx);
    break;
  case IJ_SQUARE:
    loop_back(IJ_SQUARE, n, a, b, x, y, dy, dx);
    break;
  case IJ_POWER:
    if (any_odd(n, x, a - 1))
      for (ij_dim i = 0; i < n; i++) dx[i] = dy[i] * (a * powf(x[i], a - 1));
    else loop_back(IJ_POWER, n, a, b, x, y, dy, dx);
    break;
  case IJ_CLAMP:
    loop_back(IJ_CLAMP, n, a, b, x, y, dy, dx);
    break;
  default: /* steps */
    loop_back(IJ_FLOOR, n, a, b, x, y, dy, dx);
  }
}

static void chunk_whole(int f, ij_dtype dt, ij_dim from, ij_dim to, int64_t a, int64_t b, const void *x, void *y) {
  if (dt == IJ_I32)
    for (ij_dim i = from; i < to; i++)
      ((int32_t *)y)[i] = (int32_t)(uint32_t)(uint64_t)ij_whole_unary(f, ((const int32_t *)x)[i], a, b);
  else if (dt == IJ_I64)
    for (ij_dim i = from; i < to; i++) ((int64_t *)y)[i] = ij_whole_unary(f, ((const int64_t *)x)[i], a, b);
  else
    for (ij_dim i = from; i < to; i++)
      ((uint8_t *)y)[i] = (uint8_t)(uint64_t)ij_whole_unary(f, ((const uint8_t *)x)[i], a, b);
}

ij_status IJ_CPU(unary_fwd)(ij_queue *q, int f, ij_dtype dt, ij_dim n, double a, double b, const void *x, void *y) {
  (void)q;
  f = simpler(f, a);
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK) {
    ij_dim count = n - i < CHUNK ? n - i : CHUNK;
    if (dt == IJ_F32) chunk(f, count, (float)a, (float)b, (const float *)x + i, (float *)y + i);
    else chunk_whole(f, dt, i, i + count, ij_whole_of(a), ij_whole_of(b), x, y);
  }
  return IJ_OK;
}

ij_status IJ_CPU(unary_bwd)(ij_queue *q, int f, ij_dim n, double a, double b, const float *x, const float *y,
                            const float *dy, float *dx) {
  (void)q;
  f = f == IJ_POWER && a == 0 ? IJ_FLOOR : simpler(f, a);
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim i = 0; i < n; i += CHUNK)
    chunk_back(f, n - i < CHUNK ? n - i : CHUNK, (float)a, (float)b, x + i, y + i, dy + i, dx + i);
  return IJ_OK;
}
