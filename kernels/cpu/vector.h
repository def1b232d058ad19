/* Vectors of f32 as wide as the instruction set, for loops that a compiler does not turn into such by itself. */
#ifndef IJ_VECTOR_H
#define IJ_VECTOR_H
#include "cpu.h"
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef float vf_any __attribute__((vector_size(4 * VL), aligned(4), may_alias)); /* at any address */

static inline vf vf_load(const float *p) { return *(const vf_any *)p; }
static inline void vf_store(float *p, vf v) { *(vf_any *)p = v; }
/* The first n < VL elements; the others are 0. */
static inline vf vf_load_some(const float *p, ij_dim n) {
  float v[VL] = {0};
  memcpy(v, p, (size_t)n * sizeof *v);
  return vf_load(v);
}
static inline void vf_store_some(float *p, vf v, ij_dim n) { memcpy(p, &v, (size_t)n * sizeof *p); }

static inline vf vf_all(float x) {
#if defined(__AVX512F__)
  return (vf)_mm512_set1_ps(x);
#elif defined(__AVX__)
  return (vf)_mm256_set1_ps(x);
#else
  return (vf){x, x, x, x};
#endif
}

/* The larger, the smaller; b where one is NaN. */
static inline vf vf_max(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  vi more = (vi)(a > b);
  return (vf)((more & (vi)a) | (~more & (vi)b));
#endif
}

static inline vf vf_min(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  vi less = (vi)(a < b);
  return (vf)((less & (vi)a) | (~less & (vi)b));
#endif
}

/* a * b + c as one operation, which no compiler regroups. */
static inline vf vf_fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

static inline vf vf_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }
static inline vf vf_sign(vf x, vf of) { return (vf)((vi)x | ((vi)of & INT32_MIN)); } /* x >= 0 with the sign of `of` */

/* Sum and largest of the elements. */
#if defined(__x86_64__)
static inline __m128 vf_fold(vf x, bool top) { /* to four elements */
#if defined(__AVX512F__)
  __m256 low = _mm512_castps512_ps256((__m512)x), high = _mm512_extractf32x8_ps((__m512)x, 1);
  __m256 y = top ? _mm256_max_ps(low, high) : _mm256_add_ps(low, high);
#elif defined(__AVX__)
  __m256 y = (__m256)x;
#endif
#if defined(__AVX__)
  __m128 a = _mm256_castps256_ps128(y), b = _mm256_extractf128_ps(y, 1);
  return top ? _mm_max_ps(a, b) : _mm_add_ps(a, b);
#else
  (void)top;
  return (__m128)x;
#endif
}
static inline float vf_sum(vf x) {
  __m128 y = vf_fold(x, false), z = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
static inline float vf_top(vf x) {
  __m128 y = vf_fold(x, true), z = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_shuffle_ps(z, z, 1)));
}
#else
static inline float vf_sum(vf x) { return (x[0] + x[1]) + (x[2] + x[3]); }
static inline float vf_top(vf x) {
  float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}
#endif

/* 2^t for t <= 0 or so (wrong above 127), to 1.5 ulp; 0 below -127; NaN stays. */
static inline vf vf_exp2(vf t) {
  t = vf_max(vf_all(-127.0f), t);               /* n = -127 gives the bits of 0 */
  vi n = __builtin_convertvector(t - 0.5f, vi); /* nearest, for negative t */
  vf f = t - __builtin_convertvector(n, vf);    /* [-.5, .5] */
  vf p = 1.3264715e-3f * f + 9.6715135e-3f;
  p = p * f + 5.5507338e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314698e-1f;
  p = p * f + 1.0f;
  return p * (vf)((n + 127) << 23);
}
/* e^x for x <= 0 or so. The caller's subtraction comes before the change of base: large logits keep their digits. */
static inline vf vf_exp(vf x) { return vf_exp2(x * 1.44269504f); }
#endif
