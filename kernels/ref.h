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

/* One element of i32, i64 or u8; what does not fit wraps. */
static inline int64_t ij_ref_whole(ij_dtype dt, const void *x, ij_dim i) {
  return dt == IJ_I32 ? ((const int32_t *)x)[i] : dt == IJ_I64 ? ((const int64_t *)x)[i] : ((const uint8_t *)x)[i];
}
static inline void ij_ref_set_whole(ij_dtype dt, void *x, ij_dim i, int64_t value) {
  if (dt == IJ_I32) ((int32_t *)x)[i] = (int32_t)(uint32_t)(uint64_t)value;
  else if (dt == IJ_I64) ((int64_t *)x)[i] = value;
  else ((uint8_t *)x)[i] = (uint8_t)(uint64_t)value;
}

/* The offset of element i of nd dimensions with these strides; strides NULL: 0 */
static inline ij_dim ij_ref_offset(int nd, const ij_dim *shape, const ij_dim *stride, ij_dim i) {
  ij_dim offset = 0;
  for (int d = nd - 1; stride && d >= 0; d--) {
    offset += i % shape[d] * stride[d];
    i /= shape[d];
  }
  return offset;
}
static inline ij_dim ij_ref_count(int nd, const ij_dim *shape) {
  ij_dim n = 1;
  for (int d = 0; d < nd; d++) n *= shape[d];
  return n;
}

/* n doubles of scratch, all 0; NULL: out of memory */
static inline double *ij_ref_sums(ij_queue *q, int slot, ij_dim n) {
  double *sum = ij_queue_scratch(q, slot, (size_t)(n ? n : 1) * sizeof *sum);
  for (ij_dim i = 0; sum && i < n; i++) sum[i] = 0;
  return sum;
}
#endif
