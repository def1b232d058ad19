/* Many matmuls of one shape: one batched call of cublasLt. */
#include "../cuda/cuda.h"
#include "../linear/cuda_products.h"

extern "C" ij_status ij_cuda_matmul(ij_queue *q, ij_dim P, ij_dim M, ij_dim N, ij_dim K, int ta, int tb, const float *a,
                                    const float *b, float *c) {
  ij_cuda_product p = {P, M, N, K, ta != 0, tb != 0, false, IJ_F32, IJ_F32};
  return ij_cuda_multiply(q, &p, a, b, c, NULL);
}
