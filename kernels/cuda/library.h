/* NVIDIA's libraries, loaded when they are needed: cuBLASLt when a GPU is opened, NCCL when processes sum on it. The
 * plug-in is linked with neither, so that it loads without them, and says where it has searched. */
#ifndef IJ_CUDA_LIBRARY_H
#define IJ_CUDA_LIBRARY_H
#include "memory.h"
#include <cublasLt.h>

#define IJ_BLAS_FUNCTIONS(F)                                                                                           \
  F(cublasLtCreate)                                                                                                    \
  F(cublasLtDestroy)                                                                                                   \
  F(cublasLtGetVersion)                                                                                                \
  F(cublasLtGetStatusString)                                                                                           \
  F(cublasLtMatmul)                                                                                                    \
  F(cublasLtMatmulAlgoCheck)                                                                                           \
  F(cublasLtMatmulAlgoGetHeuristic)                                                                                    \
  F(cublasLtMatmulDescCreate)                                                                                          \
  F(cublasLtMatmulDescDestroy)                                                                                         \
  F(cublasLtMatmulDescSetAttribute)                                                                                    \
  F(cublasLtMatmulPreferenceCreate)                                                                                    \
  F(cublasLtMatmulPreferenceDestroy)                                                                                   \
  F(cublasLtMatmulPreferenceSetAttribute)                                                                              \
  F(cublasLtMatrixLayoutCreate)                                                                                        \
  F(cublasLtMatrixLayoutDestroy)                                                                                       \
  F(cublasLtMatrixLayoutSetAttribute)
#define IJ_LIBRARY_FUNCTION(name) decltype(&::name) name;

enum { IJ_LIBRARY_PATH = 1024 };
typedef struct ij_cuda_blas {
  char path[IJ_LIBRARY_PATH]; /* the file that it came from */
  cublasLtHandle_t handle;
  IJ_BLAS_FUNCTIONS(IJ_LIBRARY_FUNCTION)
} ij_cuda_blas;
/* Makes c->blas, with its handle. IJ_EUNSUPPORTED: where it was searched. */
ij_status ij_cuda_blas_open(ij_cuda *c);
void ij_cuda_blas_close(ij_cuda *c);

#ifdef IJ_NCCL
#include <nccl.h>
#define IJ_NCCL_FUNCTIONS(F)                                                                                           \
  F(ncclAllReduce)                                                                                                     \
  F(ncclBroadcast)                                                                                                     \
  F(ncclCommAbort)                                                                                                     \
  F(ncclCommGetAsyncError)                                                                                             \
  F(ncclCommInitRankConfig)                                                                                            \
  F(ncclGetErrorString)                                                                                                \
  F(ncclGetUniqueId)                                                                                                   \
  F(ncclGetVersion)                                                                                                    \
  F(ncclReduce)
typedef struct ij_cuda_nccl {
  char path[IJ_LIBRARY_PATH];
  IJ_NCCL_FUNCTIONS(IJ_LIBRARY_FUNCTION)
} ij_cuda_nccl;
/* Makes c->nccl, once. IJ_EUNSUPPORTED: where it was searched. */
ij_status ij_cuda_nccl_open(ij_cuda *c);
/* The same without an error: false and why (n bytes) */
bool ij_cuda_nccl_try(ij_cuda *c, char *why, size_t n);
#endif
#endif
