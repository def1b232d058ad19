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

/* Step k of a tile: left and right are its columns in registers, A's element i lies at a + i * ai, B's row at b. */
__attribute__((always_inline)) static inline void tile_step(int nv, const float *a, ij_dim ai, const float *b, vf *left,
                                                            vf *right) {
  vf b0 = vf_load(b), b1 = nv == 2 ? vf_load(b + VL) : b0;
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) {
    vf x = vf_all(a[i * ai]);
    left[i] = vf_fma(x, b0, left[i]);
    if (nv == 2) right[i] = vf_fma(x, b1, right[i]);
  }
}

/* C (TILE_M, nv * VL) = or += A (TILE_M, depth) times B (depth, nv * VL): element (i, k) of A is a[i * ai + k * ak],
 * row k of B b + k * TILE_N, row i of C c + i * ci. nv is 1 or 2. Inlined into callers that know nv and one of ai, ak.
 */
__attribute__((always_inline)) static inline void tile_body(int nv, ij_dim depth, const float *a, ij_dim ai, ij_dim ak,
                                                            const float *b, float *c, ij_dim ci, bool add) {
  vf left[TILE_M], right[TILE_M];
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) {
    left[i] = right[i] = (vf){0};
    __builtin_prefetch(c + i * ci, 1);
  }
  ij_dim k = 0;
  for (; k + 4 <= depth; k += 4, a += 4 * ak, b += 4 * TILE_N) {
    tile_step(nv, a, ai, b, left, right);
    tile_step(nv, a + ak, ai, b + TILE_N, left, right);
    tile_step(nv, a + 2 * ak, ai, b + 2 * TILE_N, left, right);
    tile_step(nv, a + 3 * ak, ai, b + 3 * TILE_N, left, right);
  }
  for (; k < depth; k++, a += ak, b += TILE_N) tile_step(nv, a, ai, b, left, right);
#pragma GCC unroll 16
  for (int i = 0; i < TILE_M; i++) {
    float *row = c + i * ci;
    vf_store(row, add ? left[i] + vf_load(row) : left[i]);
    if (nv == 2) vf_store(row + VL, add ? right[i] + vf_load(row + VL) : right[i]);
  }
}

/* A matrix as the left factor, tiles of TILE_M rows at apart: element (i, k) of a tile at a[i * ai + k * ak], ai or ak
 * is 1. */
typedef struct left {
  const float *a;
  ij_dim at, ai, ak;
} left;
static inline left left_rows(const float *a, ij_dim stride) { return (left){a, TILE_M * stride, stride, 1}; }
static inline left left_columns(const float *a, ij_dim stride) { return (left){a, TILE_M, 1, stride}; }
static inline left left_panels(const float *a, ij_dim depth) { return (left){a, TILE_M * depth, 1, TILE_M}; }
/* As the right factor: panels (depth, TILE_N) of its columns, bp apart. */
typedef struct right {
  const float *b;
  ij_dim bp;
} right;

/* C (m, n) = or += A (m, depth) B (depth, n), rows of C ci apart. Rows are worked up to the next multiple of TILE_M,
 * columns of VL: A, B and C must have room for them (their content does not matter). */
void IJ_CPU(product)(ij_dim m, ij_dim n, ij_dim depth, left x, right y, float *c, ij_dim ci, bool add);

/* One panel of a right factor: y (depth, TILE_N) from x, whose element (k, j) is x[k * xk + j] or, transposed, x[j * xj
 * + k]. Columns from n <= TILE_N on are 0. */
void IJ_CPU(panel_rows)(ij_dim n, ij_dim depth, const float *x, ij_dim xk, float *y);
void IJ_CPU(panel_transposed)(ij_dim n, ij_dim depth, const float *x, ij_dim xj, float *y);
#endif
