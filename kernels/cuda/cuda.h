/* For kernels/<op>/cuda.cu: its only include. The functions that it exports are declared here from the op table:
 * extern "C" ij_status ij_cuda_NAME(...), which only queue work on ij_cuda_of(q)->stream: nothing waits, nothing on the
 * device is read by the host, and sums come out the same in every run (no atomics on floats). */
#ifndef IJ_CUDA_H
#define IJ_CUDA_H
extern "C" {
#include "../backend.h"
#include "costs.h"
}
#include "dev.h"

enum { IJ_CUDA_LARGE = 64 };
/* A queue's own: q->stream. */
typedef struct ij_cuda {
  cudaStream_t stream;
  struct ij_cuda_blas *blas; /* cuBLASLt (library.h) */
  void *workspace;           /* of cuBLASLt */
  size_t workspace_bytes;
  int device, sms, arch; /* its index; count of SMs; 90 for sm_90 */
  char name[80];
  bool plain_matmul; /* IJEPA_CUDA_MATMUL=plain: cuBLASLt is not asked */
  struct ij_cuda_pool *pool;
  struct ij_cuda_memory *memory;
  struct ij_cuda_weights *weights;   /* linear's: bf16 copies of weights */
  struct ij_cuda_products *products; /* linear's: the algorithm of cuBLASLt for each shape */
  struct ij_cuda_nccl *nccl;         /* NULL: not loaded so far */
  struct ij_cuda_comm *comm;
  const void *large[IJ_CUDA_LARGE]; /* kernels that have been allowed more than 48 KiB of shared memory */
} ij_cuda;
static inline ij_cuda *ij_cuda_of(ij_queue *q) { return (ij_cuda *)q->stream; }
/* The calling thread then works on that GPU: a process may have several. Every function of the backend begins with it,
 * and so does each op (table.cu); what they call relies on it. */
static inline ij_cuda *ij_cuda_enter(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  int current = -1; /* a thread seldom changes its GPU: to ask is cheaper than to set */
  if (c && (cudaGetDevice(&current) != cudaSuccess || current != c->device)) cudaSetDevice(c->device);
  return c;
}
extern const ij_host *ij_cuda_host; /* fail, alloc, free of the program */

/* Device memory that stays between calls, 256-byte aligned; NULL: out of memory (IJ_ENOMEM and its message are set).
 * What a slot held is lost when it grows. slot 0..7: a kernel may use any, none outlives the call. */
void *ij_cuda_scratch(ij_queue *q, int slot, size_t bytes);
/* Before a launch with more than 48 KiB of dynamic shared memory: allows the kernel so many bytes, once. */
void ij_cuda_allow_shared(ij_cuda *c, const void *kernel, size_t bytes);
/* After the launches of an op: IJ_OK, or the runtime's error. */
ij_status ij_cuda_launched(const char *op);

/* bf16 copies of weights, made when a matmul needs one and kept under w's version (kernels/linear/cuda_weights.cu);
 * 256- byte aligned. One of version 0 lies in scratch slot 7. NULL: out of memory. */
__nv_bfloat16 *ij_cuda_weight(ij_queue *q, const float *w, ij_dim n, uint64_t version);
/* The copy of w (n), if there is one, which the caller is about to renew: it then counts as `version`'s. NULL: none. */
__nv_bfloat16 *ij_cuda_weight_renewed(ij_queue *q, const float *w, ij_dim n, uint64_t version);
uint64_t ij_cuda_weights_bytes(ij_queue *q); /* of all copies */
void ij_cuda_weights_release(ij_queue *q);

extern "C" {
#define IJ_OP(name, params, args) ij_status ij_cuda_##name params;
IJ_OPS(IJ_OP)
#undef IJ_OP
}
extern const ij_op_table ij_cuda_table; /* of them all; table.cu */

/* ---- for kernels ---- */
/* One element of an activation, in f32. */
__device__ static inline float ij_get(const float *x, ij_dim i) { return x[i]; }
__device__ static inline float ij_get(const __nv_bfloat16 *x, ij_dim i) { return __bfloat162float(x[i]); }
__device__ static inline void ij_set(float *x, ij_dim i, float v) { x[i] = v; }
__device__ static inline void ij_set(__nv_bfloat16 *x, ij_dim i, float v) { x[i] = __float2bfloat16(v); }
/* All lanes get the warp's sum, or maximum, added up in the same order in every run. */
__device__ static inline float ij_warp_sum(float v) {
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
__device__ static inline float ij_warp_max(float v) {
  for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}
/* Blocks of `block` threads for n elements, at most `limit` of them (the kernel strides over the rest). n >= 1. */
static inline unsigned ij_blocks(ij_dim n, ij_dim block, ij_dim limit) {
  ij_dim b = (n + block - 1) / block;
  return (unsigned)(b < limit ? b : limit);
}
#endif
