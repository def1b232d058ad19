/* Positions in order, for sort and for sums at positions. */
#ifndef IJ_CUDA_SORT_H
#define IJ_CUDA_SORT_H
#include "../cuda/rows.h"

/* The positions (R, n) of each row of x (R, n) in order. a and b (R, n) are both written; the result is in the one that
 * is returned. */
int32_t *ij_cuda_order(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, bool descending, const void *x, int32_t *a,
                       int32_t *b);
#endif
