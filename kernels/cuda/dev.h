/* What differs between nvcc and the emulator (tests/emu: every CUDA thread a fiber of the CPU; a kernel's source is the
 * same). A kernel is launched by LAUNCH, its shared memory declared by SHARED_ARRAY or SHARED_DYN; one barrier or
 * collective a source line, since the emulator knows them by their line. */
#ifndef IJ_DEV_H
#define IJ_DEV_H
#ifdef IJ_EMU
#include "emu.h" /* tests/emu/ */
#else
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_pipeline_primitives.h>
/* LAUNCH(kernel, grid, block, bytes of dynamic shared memory, stream, arguments...) */
#define LAUNCH(kernel, grid, block, bytes, stream, ...) (kernel)<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__)
/* SHARED_ARRAY(float, tile, [16][33]); */
#define SHARED_ARRAY(T, name, dims) __shared__ T name dims
#define SHARED_ARRAY_ALIGNED(bytes, T, name, dims)                                                                     \
  __shared__ __align__(bytes)                                                                                          \
  T name dims
/* SHARED_DYN(float, tile); the launch's dynamic shared memory, 128-byte aligned */
#define SHARED_DYN(T, name)                                                                                            \
  extern __shared__ __align__(128) unsigned char ij_dynamic_shared[];                                                  \
  T *name = reinterpret_cast<T *>(ij_dynamic_shared)
#endif
#include "ptx.h"
#endif
