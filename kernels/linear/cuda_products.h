/* Matrix products by cublasLt, which no other file calls. Matrices are row-major and contiguous, as everywhere. */
#ifndef IJ_PRODUCTS_H
#define IJ_PRODUCTS_H
#include "../cuda/cuda.h"

/* P products c (M, N) = A B, or c += A B. A (M, K) is a (M, K), or, with ta, a (K, M) transposed; B (K, N) is b (K, N),
 * or, with tb, b (N, K) transposed. Types: a and b alike, and c no narrower than they. */
typedef struct ij_cuda_product {
  ij_dim P, M, N, K;
  bool ta, tb, add;
  ij_dtype in, out;
} ij_cuda_product;

/* a_sum (M), not NULL: receives the sum of A over its K columns in the same pass; for P = 1, M, N, K >= 1.
 * IJ_EUNSUPPORTED, with nothing done and no message: not for such a product, sum by yourself. */
ij_status ij_cuda_multiply(ij_queue *q, const ij_cuda_product *p, const void *a, const void *b, void *c, float *a_sum);
#endif
