/* Where tensors' memory comes from: the driver's pool, in the order of the stream. GPUs without pools (some virtual
 * ones) get a plain allocator: blocks of cudaMalloc that are kept and handed out again. Everything that uses such
 * memory is in the order of one stream, so that it can be used again at once, as with the pool. */
#ifndef IJ_CUDA_POOL_H
#define IJ_CUDA_POOL_H
#include "cuda.h"

cudaError_t ij_cuda_pool_open(ij_cuda *c);
void ij_cuda_pool_close(ij_cuda *c); /* gives back what is spare */
cudaError_t ij_cuda_pool_take(ij_cuda *c, size_t bytes, void **out);
void ij_cuda_pool_give(ij_cuda *c, void *p, size_t bytes); /* bytes: as asked for, or rounded up by ij_pool_bytes */
void ij_cuda_pool_trim(ij_cuda *c); /* what is spare goes back to the driver; waits for the GPU */
void ij_cuda_pool_info(ij_cuda *c, ij_device_info *out);
const char *ij_cuda_pool_name(const ij_cuda *c);
#endif
