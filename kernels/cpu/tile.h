/* The inner part of a matrix product: one tile of C, TILE_M rows by TILE_N or VL columns, held in registers. */
#ifndef IJ_TILE_H
#define IJ_TILE_H
#include "vector.h"

#if defined(__AVX512F__)
enum { TILE_M = 8 };
#elif defined(__AVX__)
enum { TILE_M = 6 };
#else
enum { TILE_M = 4 };
#endif
enum { TILE_N = 2 * VL };

static inline ij_dim round_up(ij_dim n, ij_dim to) { return (n + to - 1) / to * to; }

/* C (TILE_M, nv * VL) = or += A (TILE_M, depth) times B (depth, nv * VL): element (i, k) of A is a[i * ai + k * ak], row
 * k of B b + k * bk, row i of C c + i * ci. nv is 1 or 2. Inlined into callers that know nv and one of ai, ak. */
__attribute__((always_inline)) static inline void tile_body(int nv, ij_dim depth, const float *a, ij_dim ai, ij_dim ak,
                                                            const float *b, ij_dim bk, float *c, ij_dim ci, bool add) {
  vf left[TILE_M], right[TILE_M];
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) left[i] = right[i] = (vf){0};
  for (ij_dim k = 0; k < depth; k++) {
    vf b0 = vf_load(b), b1 = b0;
    if (nv == 2) b1 = vf_load(b + VL);
#pragma GCC unroll 16
    for (int i = 0; i < TILE_M; i++) {
      float x = a[i * ai];
      left[i] += x * b0;
      if (nv == 2) right[i] += x * b1;
    }
    a += ak;
    b += bk;
  }
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) {
    float *row = c + i * ci;
    vf_store(row, add ? left[i] + vf_load(row) : left[i]);
    if (nv == 2) vf_store(row + VL, add ? right[i] + vf_load(row + VL) : right[i]);
  }
}

/* A matrix as the left factor: element (i, k) at a[i * ai + k * ak], ai or ak is 1. */
typedef struct left {
  const float *a;
  ij_dim ai, ak;
} left;
/* As the right factor: TILE_N columns a panel, panels bp apart, row k of a panel at k * bk. */
typedef struct right {
  const float *b;
  ij_dim bp, bk;
} right;

/* C (m, n) = or += A (m, depth) B (depth, n), rows of C ci apart. Rows are worked up to the next multiple of TILE_M,
 * columns of VL: A, B and C must have room for them (their content does not matter). */
void IJ_CPU(product)(ij_dim m, ij_dim n, ij_dim depth, left x, right y, float *c, ij_dim ci, bool add);
#endif
