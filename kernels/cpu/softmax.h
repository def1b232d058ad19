/* Softmax of a row in vectors: what softmax and the cross entropy share. */
#ifndef IJ_SOFTMAX_H
#define IJ_SOFTMAX_H
#include "vector.h"
#include <math.h>

/* Rows end with a vector of their last VL elements, which overlaps the one before. Rows shorter than that take copies.
 */

/* The largest of x (n); -infinity where none counts. */
static inline float row_top(ij_dim n, const float *x) {
  vf top = vf_all(-INFINITY);
  for (ij_dim i = 0; i + VL <= n; i += VL) top = vf_max(vf_load(x + i), top);
  if (n >= VL) return vf_top(vf_max(vf_load(x + n - VL), top));
  float most = -INFINITY;
  for (ij_dim i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}

/* e with 0 in all but the last n places */
static inline vf last_of(vf e, ij_dim n) {
  float keep[2 * VL] = {0};
  for (int i = 0; i < VL; i++) keep[VL + i] = 1;
  return e * vf_load(keep + n);
}

/* Sum of exp(x - top) over x (n); stored in y (may be x) when not NULL. */
static inline float row_exp(ij_dim n, const float *x, float top, float *y) {
  if (n < VL) {
    float e[VL];
    vf_store(e, vf_exp(vf_load_some(x, n) - top));
    for (ij_dim i = n; i < VL; i++) e[i] = 0; /* what lies behind the row */
    if (y) memcpy(y, e, (size_t)n * sizeof *e);
    return vf_sum(vf_load(e));
  }
  vf last = vf_exp(vf_load(x + n - VL) - top), sum = last_of(last, n % VL);
  for (ij_dim i = 0; i + VL <= n; i += VL) {
    vf e = vf_exp(vf_load(x + i) - top);
    if (y) vf_store(y + i, e);
    sum += e;
  }
  if (y) vf_store(y + n - VL, last);
  return vf_sum(sum);
}
#endif
