/* What the cpu.c files share: rows of bf16 seen as f32, splitting work over threads, sums over rows. */
#ifndef IJ_ROWS_H
#define IJ_ROWS_H
#include "cpu.h"
#include <string.h>

enum { SMALL = 16384 }; /* elements below which starting threads costs more than it brings */

/* Element `at` of an array of dt (IJ_F32 or IJ_BF16). */
static inline const void *at_const(ij_dtype dt, const void *x, ij_dim at) {
  return (const char *)x + (dt == IJ_BF16 ? 2 : 4) * at;
}
static inline void *at_mut(ij_dtype dt, void *x, ij_dim at) { return (char *)x + (dt == IJ_BF16 ? 2 : 4) * at; }

static inline void f32_from_bf16(ij_dim n, const uint16_t *restrict x, float *restrict y) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) y[i] = ij_bf16_to_f32(x[i]);
}
static inline void bf16_from_f32(ij_dim n, const float *restrict x, uint16_t *restrict y) {
#pragma omp simd
  for (ij_dim i = 0; i < n; i++) {
    uint32_t u;
    memcpy(&u, &x[i], 4);
    uint32_t nan = (u & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : 0;
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 0x40;
    y[i] = (uint16_t)((rounded & ~nan) | (quiet & nan));
  }
}

/* Elements [at, at + n) of x [dt] as f32: in place when they are, else converted into buf (n). */
static inline const float *row_get(ij_dtype dt, const void *x, ij_dim at, ij_dim n, float *buf) {
  if (dt == IJ_F32) return (const float *)x + at;
  f32_from_bf16(n, (const uint16_t *)x + at, buf);
  return buf;
}
/* Where f32 results for elements [at, at + n) of y [dt] go: y itself or buf; row_put brings buf to y. */
static inline float *row_out(ij_dtype dt, void *y, ij_dim at, float *buf) {
  return dt == IJ_F32 ? (float *)y + at : buf;
}
static inline void row_put(ij_dtype dt, void *y, ij_dim at, ij_dim n, const float *buf) {
  if (dt == IJ_BF16) bf16_from_f32(n, buf, (uint16_t *)y + at);
}

/* The part [*from, *to) of n for thread t of count. */
static inline void share(ij_dim n, int t, int count, ij_dim *from, ij_dim *to) {
  *from = n * t / count;
  *to = n * (t + 1) / count;
}

/* out (N) += sums over the rows of x (R, N) [dt]. part: scratch (threads, N) f32 and, for bf16, one more row a thread.
 * Each thread sums a fixed part of the rows, so the result depends on the number of threads alone. */
ij_status IJ_CPU(column_sum)(ij_queue *q, int slot, ij_dtype dt, ij_dim R, ij_dim N, const void *x, float *out);
/* out (N) += sums over the rows of part (R, N) f32; small, in this thread. */
void IJ_CPU(rows_add)(ij_dim R, ij_dim N, const float *part, float *out);
#endif
