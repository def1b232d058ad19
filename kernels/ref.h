/* What the reference kernels share: one element of an activation, whatever its type, and sums in double.
 * The reference kernels are the definition of the ops: plain loops, one thread, to be read beside the contracts. */
#ifndef IJ_REF_H
#define IJ_REF_H
#include "ops.h"

static inline float ij_ref_get(ij_dtype dt, const void *x, ij_dim i) {
  return dt == IJ_BF16 ? ij_bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static inline void ij_ref_set(ij_dtype dt, void *x, ij_dim i, double value) {
  if (dt == IJ_BF16) ((uint16_t *)x)[i] = ij_f32_to_bf16((float)value);
  else ((float *)x)[i] = (float)value;
}

/* n doubles of scratch, all 0; NULL: out of memory */
static inline double *ij_ref_sums(ij_queue *q, int slot, ij_dim n) {
  double *sum = ij_queue_scratch(q, slot, (size_t)(n ? n : 1) * sizeof *sum);
  for (ij_dim i = 0; sum && i < n; i++) sum[i] = 0;
  return sum;
}
#endif
