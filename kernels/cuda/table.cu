/* All ops of this device: one that is missing fails to link. */
#include "cuda.h"

const ij_op_table ij_cuda_table = {
#define IJ_OP(name, params, args) ij_cuda_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};
