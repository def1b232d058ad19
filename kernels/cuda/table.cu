/* All ops of this device: one that is missing fails to link. Each enters the queue's GPU once. */
#include "cuda.h"

#define IJ_OP(name, params, args)                                                                                      \
  static ij_status enter_##name params {                                                                               \
    ij_cuda_enter(q);                                                                                                  \
    return ij_cuda_##name args;                                                                                        \
  }
IJ_OPS(IJ_OP)
#undef IJ_OP

const ij_op_table ij_cuda_table = {
#define IJ_OP(name, params, args) enter_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};
