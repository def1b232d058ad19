/* Elements at positions along an axis, and sums at such positions. */
#include "../ref.h"
#include "../whole.h"
#include <string.h>

ij_status ij_ref_take(ij_queue *q, ij_dim size, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared, const void *x,
                      const int32_t *index, void *y) {
  (void)q;
  for (ij_dim i = 0; i < P * T * Q; i++) {
    ij_dim p = i / (T * Q), t = i / Q % T, from = (p * N + index[shared ? t : i]) * Q + i % Q;
    memcpy((char *)y + i * size, (const char *)x + from * size, (size_t)size);
  }
  return IJ_OK;
}

ij_status ij_ref_scatter_add(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared,
                             const void *x, const int32_t *index, void *y) {
  (void)q;
  for (ij_dim i = 0; i < P * T * Q; i++) {
    ij_dim p = i / (T * Q), t = i / Q % T, to = (p * N + index[shared ? t : i]) * Q + i % Q;
    if (dt == IJ_F32) ((float *)y)[to] += ((const float *)x)[i];
    else ij_ref_set_whole(dt, y, to, ij_whole_add(ij_ref_whole(dt, y, to), ij_ref_whole(dt, x, i)));
  }
  return IJ_OK;
}
