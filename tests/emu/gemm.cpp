#include "gemm.h"
#include <stdlib.h>
#include <string.h>

namespace emu {
enum { TALL = 16, WIDE = 6, DEEP = 512 }; /* a tile of the result stays in registers while DEEP products are added */
typedef float Eight __attribute__((vector_size(32)));

static inline float element(const Matrix &x, int64_t i, int64_t j) {
  int64_t at = i * x.down + j * x.across;
  if (!x.bf16) return ((const float *)x.p)[at];
  uint32_t u = (uint32_t)((const uint16_t *)x.p)[at] << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static inline float rounded(float x, Rounding r) { /* to the 10 bits of TF32 */
  if (r == EXACT) return x;
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  u = (u + 0xfff + (u >> 13 & 1)) & ~0x1fffu;
  memcpy(&x, &u, sizeof u);
  return x;
}

/* Strips of `width` rows (of x transposed: columns), k by k; what is missing at the edge is 0. */
static void pack(const Matrix &x, bool columns, int width, int64_t first, int64_t k0, int64_t k, Rounding r,
                 float *out) {
  int64_t most = columns ? x.columns : x.rows;
  for (int64_t l = 0; l < k; l++)
    for (int64_t i = first; i < first + width; i++)
      *out++ = i >= most ? 0 : rounded(columns ? element(x, k0 + l, i) : element(x, i, k0 + l), r);
}

__attribute__((always_inline)) static inline void tile(const float *a, const float *b, int64_t k, float *out) {
  Eight sum[WIDE][2] = {};
  for (int64_t l = 0; l < k; l++, a += TALL, b += WIDE) {
    Eight low, high;
    memcpy(&low, a, sizeof low);
    memcpy(&high, a + 8, sizeof high);
    for (int j = 0; j < WIDE; j++) {
      sum[j][0] += low * b[j];
      sum[j][1] += high * b[j];
    }
  }
  memcpy(out, sum, sizeof sum);
}
static void tile_plain(const float *a, const float *b, int64_t k, float *out) { tile(a, b, k, out); }
#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void tile_avx2(const float *a, const float *b, int64_t k, float *out) {
  tile(a, b, k, out);
}
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
static void tile_avx2(const float *a, const float *b, int64_t k, float *out) { tile(a, b, k, out); }
static bool has_avx2() { return false; }
#endif

static void add_tile(const float *t, int64_t m, int64_t n, int64_t i0, int64_t j0, float *out) {
  for (int64_t j = j0; j < j0 + WIDE && j < n; j++, t += TALL)
    for (int64_t i = i0; i < i0 + TALL && i < m; i++) out[j * m + i] += t[i - i0];
}

void multiply(const Matrix &a, const Matrix &b, Rounding rounding, float *out) {
  int64_t m = a.rows, n = b.columns, strips = (n + WIDE - 1) / WIDE;
  void (*const one)(const float *, const float *, int64_t, float *) = has_avx2() ? tile_avx2 : tile_plain;
  float *pa = (float *)malloc(sizeof(float) * TALL * DEEP),
        *pb = (float *)malloc(sizeof(float) * (size_t)strips * WIDE * DEEP);
  float result[TALL * WIDE];
  for (int64_t i = 0; i < m * n; i++) out[i] = 0;
  for (int64_t k0 = 0; k0 < a.columns; k0 += DEEP) {
    int64_t k = a.columns - k0 < DEEP ? a.columns - k0 : (int64_t)DEEP;
    for (int64_t j = 0; j < strips; j++) pack(b, true, WIDE, j * WIDE, k0, k, rounding, pb + j * WIDE * k);
    for (int64_t i = 0; i < m; i += TALL) {
      pack(a, false, TALL, i, k0, k, rounding, pa);
      for (int64_t j = 0; j < strips; j++) {
        one(pa, pb + j * WIDE * k, k, result);
        add_tile(result, m, n, i, j * WIDE, out);
      }
    }
  }
  free(pa);
  free(pb);
}

void sum_of(const Matrix &a, bool by_column, float *out) {
  int64_t n = by_column ? a.columns : a.rows, k = by_column ? a.rows : a.columns;
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
    for (int64_t l = 0; l < k; l++) sum += (double)(by_column ? element(a, l, i) : element(a, i, l));
    out[i] = (float)sum;
  }
}
} // namespace emu
