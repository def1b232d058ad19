/* Products of matrices that lie in the caches: tile by tile. */
#include "tile.h"

/* A by rows: ak is 1. */
static void rows_2(ij_dim depth, const float *a, ij_dim ai, const float *b, float *c, ij_dim ci, bool add) {
  tile_body(2, depth, a, ai, 1, b, c, ci, add);
}
static void rows_1(ij_dim depth, const float *a, ij_dim ai, const float *b, float *c, ij_dim ci, bool add) {
  tile_body(1, depth, a, ai, 1, b, c, ci, add);
}
/* By columns: ai is 1. */
static void columns_2(ij_dim depth, const float *a, ij_dim ak, const float *b, float *c, ij_dim ci, bool add) {
  tile_body(2, depth, a, 1, ak, b, c, ci, add);
}
static void columns_1(ij_dim depth, const float *a, ij_dim ak, const float *b, float *c, ij_dim ci, bool add) {
  tile_body(1, depth, a, 1, ak, b, c, ci, add);
}
/* By packed columns: ai is 1, ak TILE_M. */
static void panels_2(ij_dim depth, const float *a, ij_dim ak, const float *b, float *c, ij_dim ci, bool add) {
  (void)ak;
  tile_body(2, depth, a, 1, TILE_M, b, c, ci, add);
}

void IJ_CPU(product)(ij_dim m, ij_dim n, ij_dim depth, left x, right y, float *c, ij_dim ci, bool add) {
  bool rows = x.ak == 1;
  ij_dim stride = rows ? x.ai : x.ak;
  for (ij_dim j = 0; j < n; j += TILE_N, y.b += y.bp) {
    void (*tile)(ij_dim, const float *, ij_dim, const float *, float *, ij_dim, bool) =
        n - j <= VL      ? (rows ? rows_1 : columns_1)
        : rows           ? rows_2
        : x.ak == TILE_M ? panels_2
                         : columns_2;
    for (ij_dim i = 0; i < m; i += TILE_M) tile(depth, x.a + i / TILE_M * x.at, stride, y.b, c + i * ci + j, ci, add);
  }
}

void IJ_CPU(panel_rows)(ij_dim n, ij_dim depth, const float *x, ij_dim xk, float *y) {
  for (ij_dim k = 0; k < depth; k++, x += xk, y += TILE_N) {
    if (n == TILE_N) {
      vf_store(y, vf_load(x));
      vf_store(y + VL, vf_load(x + VL));
      continue;
    }
    for (ij_dim j = 0; j < TILE_N; j++) y[j] = j < n ? x[j] : 0;
  }
}

typedef float four __attribute__((vector_size(16)));
typedef float four_any __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t pick __attribute__((vector_size(16)));
#if defined(__clang__)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (pick){i, j, k, l})
#endif

/* y (4, 4), rows TILE_N apart, = x (4, 4) transposed, rows xj apart */
static void transpose_4(const float *x, ij_dim xj, float *y) {
  four r0 = *(const four_any *)x, r1 = *(const four_any *)(x + xj);
  four r2 = *(const four_any *)(x + 2 * xj), r3 = *(const four_any *)(x + 3 * xj);
  four a = SHUFFLE(r0, r1, 0, 4, 1, 5), b = SHUFFLE(r2, r3, 0, 4, 1, 5);
  four c = SHUFFLE(r0, r1, 2, 6, 3, 7), d = SHUFFLE(r2, r3, 2, 6, 3, 7);
  *(four_any *)y = SHUFFLE(a, b, 0, 1, 4, 5);
  *(four_any *)(y + TILE_N) = SHUFFLE(a, b, 2, 3, 6, 7);
  *(four_any *)(y + 2 * TILE_N) = SHUFFLE(c, d, 0, 1, 4, 5);
  *(four_any *)(y + 3 * TILE_N) = SHUFFLE(c, d, 2, 3, 6, 7);
}

void IJ_CPU(panel_transposed)(ij_dim n, ij_dim depth, const float *x, ij_dim xj, float *y) {
  ij_dim whole_k = depth / 4 * 4, whole_j = n / 4 * 4;
  for (ij_dim k = 0; k < whole_k; k += 4)
    for (ij_dim j = 0; j < whole_j; j += 4) transpose_4(x + j * xj + k, xj, y + k * TILE_N + j);
  for (ij_dim k = 0; k < depth; k++) /* what is left at both ends */
    for (ij_dim j = k < whole_k ? whole_j : 0; j < TILE_N; j++) y[k * TILE_N + j] = j < n ? x[j * xj + k] : 0;
}
