/* Softmax of a row in vectors: what softmax and the cross entropy share. */
#ifndef IJ_SOFTMAX_H
#define IJ_SOFTMAX_H
#include "vector.h"
#include <math.h>

/* The largest of x (n); NaN where none counts. */
static inline float row_top(ij_dim n, const float *x) {
  vf top = vf_all(-INFINITY);
  float most = -INFINITY;
  ij_dim i = 0;
  for (; i + VL <= n; i += VL) top = vf_max(vf_load(x + i), top);
  if (i) most = vf_top(top);
  for (; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}

/* Sum of exp(x - top) over x (n); stored in y (may be x) when not NULL. */
static inline float row_exp(ij_dim n, const float *x, float top, float *y) {
  vf sum = {0};
  ij_dim i = 0;
  for (; i + VL <= n; i += VL) {
    vf e = vf_exp(vf_load(x + i) - top);
    if (y) vf_store(y + i, e);
    sum += e;
  }
  float rest[VL] = {0};
  if (i < n) {
    vf_store(rest, vf_exp(vf_load_some(x + i, n - i) - top));
    for (ij_dim j = n - i; j < VL; j++) rest[j] = 0; /* what lies behind the row */
    if (y) memcpy(y + i, rest, (size_t)(n - i) * sizeof *rest);
  }
  return vf_sum(sum + vf_load(rest));
}
#endif
