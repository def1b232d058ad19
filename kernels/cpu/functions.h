/* Elementary functions in f32 for loops that the compiler turns into vectors: no branches, no tables, errors of one or
 * two units in the last place unless said. Polynomials are fitted by least squares with Lawson's weights. Files that
 * include this are compiled without -fassociative-math (CMakeLists.txt): the order of these sums matters. */
#ifndef IJ_FUNCTIONS_H
#define IJ_FUNCTIONS_H
#include "cpu.h"
#include <math.h>
#include <string.h>

#define IJ_FN __attribute__((always_inline)) static inline

IJ_FN float fn_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
IJ_FN int32_t fn_bits(float x) {
  int32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}
IJ_FN float fn_power_of_2(int32_t n) { return fn_float((int32_t)((uint32_t)(n + 127) << 23)); } /* -126 <= n <= 127 */
IJ_FN float fn_nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }                     /* |x| < 2^22 */
IJ_FN float fn_within(float x, float low, float high) { return x < low ? low : x > high ? high : x; } /* NaN stays */

/* x = n log 2 + r: r, and e^r - 1 - r */
IJ_FN float fn_exp_rest(float x, float *n, float *r) {
  *n = fn_nearest(x * 1.44269504f);
  *r = x - *n * 0.693359375f + *n * 2.12194440e-4f;
  float p = 1.381461101e-03f * *r + 8.368710036e-03f;
  p = p * *r + 4.166838741e-02f;
  p = p * *r + 1.666652069e-01f;
  p = p * *r + 4.999999345e-01f;
  return p * *r * *r;
}
IJ_FN float fn_exp(float x) {
  float n, r, p = fn_exp_rest(fn_within(x, -104, 89), &n, &r);
  int32_t k = (int32_t)n, half = k >> 1;
  return (1 + (r + p)) * fn_power_of_2(half) * fn_power_of_2(k - half);
}
IJ_FN float fn_expm1(float x) {
  float n, r, p = fn_exp_rest(fn_within(x, -20, 89), &n, &r);
  float half = fn_power_of_2((int32_t)(n - 1)); /* of 2^n, which may be too large */
  return 2 * (half * (r + p) + (half - 0.5f));
}

/* x = 2^e m with m in [sqrt(1/2), sqrt(2)), for finite x > 0 */
IJ_FN float fn_split(float x, int32_t *e) {
  int32_t tiny = x < 0x1p-126f ? 23 : 0, u = fn_bits(tiny ? x * 0x1p23f : x);
  *e = (int32_t)((uint32_t)u - 0x3f3504f3u) >> 23; /* of a NaN the difference wraps */
  float m = fn_float((int32_t)((uint32_t)u - ((uint32_t)*e << 23)));
  *e -= tiny;
  return m;
}
IJ_FN float fn_log(float x) {
  int32_t e;
  float f = fn_split(x, &e) - 1, n = (float)e;
  float p = 6.746601245e-02f * f - 1.167564126e-01f;
  p = p * f + 1.188817461e-01f;
  p = p * f - 1.240559143e-01f;
  p = p * f + 1.421955091e-01f;
  p = p * f - 1.666799567e-01f;
  p = p * f + 2.000211873e-01f;
  p = p * f - 2.500000960e-01f;
  p = p * f + 3.333331260e-01f;
  float y = (f + (p * f * f * f - 0.5f * f * f - n * 2.12194440e-4f)) + n * 0.693359375f;
  return x > 0 ? x < INFINITY ? y : x : x == 0 ? -INFINITY : NAN;
}
IJ_FN float fn_log1p(float x) { /* log(u) corrected by what 1 + x lost (Kahan) */
  float u = 1 + x, y = fn_log(u) * (x / (u - 1));
  return u == 1 ? x : x < INFINITY ? y : x == INFINITY ? x : NAN;
}

enum { FN_SIN = 0, FN_COS = 1 };
static const float fn_turns = 1e6f; /* fn_sin_or_cos up to here; beyond, sinf and cosf */
/* The multiple of pi / 2 is taken off in double. */
IJ_FN float fn_sin_or_cos(float x, int32_t which) {
  double n = ((double)x * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;
  double rest = ((double)x - n * 1.57079632673412561417e+00) - n * 6.07710050650619224932e-11;
  float r = (float)rest, z = r * r;
  float s = ((-1.951729790e-04f * z + 8.332178136e-03f) * z - 1.666665494e-01f) * z * r + r;
  float c = ((2.443844968e-05f * z - 1.388736750e-03f) * z + 4.166664687e-02f) * z * z - 0.5f * z + 1;
  int32_t quarter = (int32_t)n + which;
  float y = quarter & 1 ? c : s;
  return quarter & 2 ? -y : y;
}

IJ_FN float fn_tanh(float x) {
  float t = fn_expm1(-2 * fabsf(x));
  return copysignf(t / (t + 2), x);
}
IJ_FN float fn_sigmoid(float x) { return 1 / (1 + fn_exp(-x)); }
IJ_FN float fn_erf(float x) { /* up to 1 by a polynomial, then by one of log(1 - erf(x)) */
  float a = fabsf(x), z = x * x;
  float p = 7.889119367e-05f * z - 8.020841226e-04f;
  p = p * z + 5.189535332e-03f;
  p = p * z - 2.685444459e-02f;
  p = p * z + 1.128360018e-01f;
  p = p * z - 3.761262714e-01f;
  p = p * z + 1.128379166e+00f;
  a = a > 4 ? 4 : a;
  float q = 1.855748946e-04f * a - 2.939615749e-03f;
  q = q * a + 2.180535121e-02f;
  q = q * a - 1.030374356e-01f;
  q = q * a - 6.382256022e-01f;
  q = q * a - 1.127040080e+00f;
  q = q * a - 3.537089115e-04f;
  return a < 1 ? p * x : copysignf(1 - fn_exp(q), x);
}

/* x^y in double, for x >= 0 and finite y other than 0; else powf */
IJ_FN float fn_pow(float x, float y) {
  int32_t e;
  float m = fn_split(x, &e);
  double s = ((double)m - 1) / ((double)m + 1), z = s * s;
  double l = ((1.165148431e-01 * z + 1.427611926e-01) * z + 2.000005050e-01) * z + 3.333333332e-01;
  double log2 = 2 * 1.44269504088896341 * (s + s * z * l) + (double)e;
  log2 = x > 0 ? log2 : -1e300; /* of 0 and infinity: so that times y is beyond all limits, but for y 0 */
  log2 = x < INFINITY ? log2 : 1e300;
  double t = log2 * (double)y;
  t = t < 160 ? t : 160;
  t = t > -160 ? t : -160;
  double n = (t + 6755399441055744.0) - 6755399441055744.0, r = (t - n) * 0.69314718055994531;
  double p = 1.992416588e-04 * r + 1.394858054e-03;
  p = p * r + 8.333248654e-03;
  p = p * r + 4.166621828e-02;
  p = p * r + 1.666666700e-01;
  p = p * r + 5.000000108e-01;
  p = p * r + 1;
  p = p * r + 1;
  int32_t k = (int32_t)n, half = k >> 1;
  return (float)p * fn_power_of_2(half) * fn_power_of_2(k - half);
}
static inline bool fn_pow_fits(float x, float y) { return (x >= 0) & (fabsf(y) < INFINITY) & (y != 0); }
#endif
