/* For kernels on elements and rows: packs of elements, grids, sums over a block. Includes vector.h. */
#ifndef IJ_CUDA_ROWS_H
#define IJ_CUDA_ROWS_H
#include "vector.h"
#include <math.h>
#include <type_traits>

/* ---- packs: vector.h's accesses by value, and V elements of any type ---- */
template <class T, int V> struct alignas(sizeof(T) * V < 16 ? sizeof(T) * V : 16) ij_pack { T v[V]; };
template <int V, class T> __device__ static inline ij_pack<T, V> ij_load(const T *x, ij_dim i) {
  return *reinterpret_cast<const ij_pack<T, V> *>(x + i);
}
template <int V, class T> __device__ static inline void ij_store(T *y, ij_dim i, const ij_pack<T, V> &p) {
  if constexpr (std::is_same<T, float>::value) ij_store(y + i, p.v);
  else *reinterpret_cast<ij_pack<T, V> *>(y + i) = p;
}
/* The same of activations of any type, as f32 */
template <int V, class T> __device__ static inline ij_pack<float, V> ij_load_f32(const T *x, ij_dim i) {
  ij_pack<float, V> f;
  ij_load(f.v, x + i);
  return f;
}
template <int V, class T> __device__ static inline void ij_store_f32(T *y, ij_dim i, const ij_pack<float, V> &f) {
  ij_store(y + i, f.v);
}
/* Whether rows of `width` elements can be taken in packs of V; null pointers are fine. */
template <int V, class... T> static inline bool ij_packs(ij_dim width, const T *...p) {
  return width % V == 0 && (((uintptr_t)p % alignof(ij_pack<T, V>) == 0) && ...);
}

/* ---- grids ---- */
enum { IJ_BLOCK = 256, IJ_WARPS = IJ_BLOCK / 32, IJ_MOST_BLOCKS = 1 << 20 };
/* Threads over n elements in a row: ij_at(), ij_at() + ij_step(), ... */
__device__ static inline ij_dim ij_at() { return (ij_dim)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ static inline ij_dim ij_step() { return (ij_dim)gridDim.x * blockDim.x; }
/* Blocks that fill the device some times over */
static inline unsigned ij_fill_blocks(ij_queue *q, ij_dim n) {
  return ij_blocks(n, IJ_BLOCK, (ij_dim)ij_cuda_of(q)->sms * 16);
}
/* Rows of `width` packs, both >= 1: x of a block takes columns, y rows; few rows leave columns to y of the grid. */
typedef struct ij_grid {
  dim3 blocks, threads;
} ij_grid;
static inline ij_grid ij_rows_grid(ij_dim rows, ij_dim width) {
  constexpr ij_dim ACROSS = 64, ENOUGH = 4096;
  ij_dim most = rows < IJ_BLOCK / ACROSS ? IJ_BLOCK / rows : ACROSS, turns = (width + most - 1) / most;
  ij_dim x = (width + turns - 1) / turns, y = IJ_BLOCK / x < rows ? IJ_BLOCK / x : rows;
  unsigned down = ij_blocks(rows, y, IJ_MOST_BLOCKS);
  ij_dim across = down < ENOUGH ? ENOUGH / down : 1;
  return {dim3(down, (unsigned)(across < turns ? across : turns)), dim3((unsigned)x, (unsigned)y)};
}
__device__ static inline ij_dim ij_row() { return (ij_dim)blockIdx.x * blockDim.y + threadIdx.y; }
__device__ static inline ij_dim ij_row_step() { return (ij_dim)gridDim.x * blockDim.y; }
__device__ static inline ij_dim ij_column() { return (ij_dim)blockIdx.y * blockDim.x + threadIdx.x; }
__device__ static inline ij_dim ij_column_step() { return (ij_dim)gridDim.y * blockDim.x; }

/* ---- sums over blocks of IJ_BLOCK threads: all of them get it ---- */
__device__ static inline double ij_warp_sum(double v) {
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
  return v;
}
template <class T> __device__ static inline T ij_block_sum(T v) {
  SHARED_ARRAY(T, part, [IJ_WARPS]);
  v = ij_warp_sum(v);
  __syncthreads(); /* those of the last sum have read it */
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = part[0];
  for (int w = 1; w < IJ_WARPS; w++) v += part[w];
  return v;
}
__device__ static inline float ij_block_max(float v) {
  SHARED_ARRAY(float, part, [IJ_WARPS]);
  v = ij_warp_max(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  v = part[0];
  for (int w = 1; w < IJ_WARPS; w++) v = fmaxf(v, part[w]);
  return v;
}

/* ---- a row to a group of W warps: 1, or the whole block (IJ_WARPS) ---- */
template <int W> __device__ static inline ij_dim ij_group_row() {
  return (ij_dim)blockIdx.x * (IJ_WARPS / W) + threadIdx.x / (32 * W);
}
template <int W> __device__ static inline ij_dim ij_group_step() { return (ij_dim)gridDim.x * (IJ_WARPS / W); }
template <int W> __device__ static inline int ij_group_lane() { return (int)threadIdx.x % (32 * W); }
template <int W> __device__ static inline float ij_group_sum(float v) {
  if constexpr (W == 1) return ij_warp_sum(v);
  else return ij_block_sum(v);
}
template <int W> __device__ static inline float ij_group_max(float v) {
  if constexpr (W == 1) return ij_warp_max(v);
  else return ij_block_max(v);
}
static inline bool ij_wide(ij_dim n) { return n > 1024; } /* rows of n: a block each, not a warp */
static inline unsigned ij_group_blocks(ij_dim rows, bool wide) {
  return ij_blocks(rows, wide ? 1 : IJ_WARPS, IJ_MOST_BLOCKS);
}

/* y (P, Q) = scale * sum over n of x, P pieces (n, Q), each `stride` elements behind the last; add: y += it.
 * kernels/reduce/cuda.cu; uses slots 0 and 1. */
ij_status ij_cuda_sum(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, ij_dim stride, float scale, bool add, const float *x,
                      float *y);
#endif
