/* Products of matrices that lie in the caches: tile by tile. */
#include "tile.h"

static void tile_rows_2(ij_dim depth, const float *a, ij_dim ai, const float *b, ij_dim bk, float *c, ij_dim ci,
                        bool add) {
  tile_body(2, depth, a, ai, 1, b, bk, c, ci, add);
}
static void tile_rows_1(ij_dim depth, const float *a, ij_dim ai, const float *b, ij_dim bk, float *c, ij_dim ci,
                        bool add) {
  tile_body(1, depth, a, ai, 1, b, bk, c, ci, add);
}
static void tile_columns_2(ij_dim depth, const float *a, ij_dim ak, const float *b, ij_dim bk, float *c, ij_dim ci,
                           bool add) {
  tile_body(2, depth, a, 1, ak, b, bk, c, ci, add);
}
static void tile_columns_1(ij_dim depth, const float *a, ij_dim ak, const float *b, ij_dim bk, float *c, ij_dim ci,
                           bool add) {
  tile_body(1, depth, a, 1, ak, b, bk, c, ci, add);
}

void IJ_CPU(product)(ij_dim m, ij_dim n, ij_dim depth, left x, right y, float *c, ij_dim ci, bool add) {
  for (ij_dim j = 0; j < n; j += TILE_N, y.b += y.bp)
    for (ij_dim i = 0; i < m; i += TILE_M) {
      const float *a = x.a + i * x.ai;
      float *out = c + i * ci + j;
      if (x.ak == 1) {
        if (n - j > VL) tile_rows_2(depth, a, x.ai, y.b, y.bk, out, ci, add);
        else tile_rows_1(depth, a, x.ai, y.b, y.bk, out, ci, add);
      } else {
        if (n - j > VL) tile_columns_2(depth, a, x.ak, y.b, y.bk, out, ci, add);
        else tile_columns_1(depth, a, x.ak, y.b, y.bk, out, ci, add);
      }
    }
}
