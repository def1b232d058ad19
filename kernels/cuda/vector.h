/* V neighbouring elements of global memory as f32: 1, 2, 4 or 8, in accesses of up to 128 bits, to which the pointers
 * must be aligned. */
#ifndef IJ_VECTOR_H
#define IJ_VECTOR_H
#include "cuda.h"

template <int V> __device__ static inline void ij_load(float (&v)[V], const float *x) {
  if constexpr (V == 1) {
    v[0] = x[0];
  } else if constexpr (V == 2) {
    float2 u = *reinterpret_cast<const float2 *>(x);
    v[0] = u.x, v[1] = u.y;
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      float4 u = *reinterpret_cast<const float4 *>(x + i);
      v[i] = u.x, v[i + 1] = u.y, v[i + 2] = u.z, v[i + 3] = u.w;
    }
  }
}
__device__ static inline void ij_unpack_two(float *v, unsigned two) { /* the first element is the low half */
  v[0] = __uint_as_float(two << 16);
  v[1] = __uint_as_float(two & 0xffff0000u);
}
template <int V> __device__ static inline void ij_load(float (&v)[V], const __nv_bfloat16 *x) {
  if constexpr (V == 1) {
    v[0] = __bfloat162float(x[0]);
  } else if constexpr (V == 2) {
    ij_unpack_two(v, *reinterpret_cast<const unsigned *>(x));
  } else if constexpr (V == 4) {
    uint2 u = *reinterpret_cast<const uint2 *>(x);
    ij_unpack_two(v, u.x), ij_unpack_two(v + 2, u.y);
  } else {
    uint4 u = *reinterpret_cast<const uint4 *>(x);
    ij_unpack_two(v, u.x), ij_unpack_two(v + 2, u.y), ij_unpack_two(v + 4, u.z), ij_unpack_two(v + 6, u.w);
  }
}
/* Stores name their instruction (st.global.wb): the compiler takes plain ones apart at times. */
template <int V> __device__ static inline void ij_store(float *x, const float (&v)[V]) {
  if constexpr (V == 1) {
    x[0] = v[0];
  } else if constexpr (V == 2) {
    __stwb(reinterpret_cast<float2 *>(x), make_float2(v[0], v[1]));
  } else {
#pragma unroll
    for (int i = 0; i < V; i += 4)
      __stwb(reinterpret_cast<float4 *>(x + i), make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]));
  }
}
__device__ static inline unsigned ij_pack_two(const float *v) {
  __nv_bfloat162_raw two = __floats2bfloat162_rn(v[0], v[1]);
  return (unsigned)two.y << 16 | two.x;
}
template <int V> __device__ static inline void ij_store(__nv_bfloat16 *x, const float (&v)[V]) {
  if constexpr (V == 1) x[0] = __float2bfloat16(v[0]);
  else if constexpr (V == 2) __stwb(reinterpret_cast<unsigned *>(x), ij_pack_two(v));
  else if constexpr (V == 4) __stwb(reinterpret_cast<uint2 *>(x), make_uint2(ij_pack_two(v), ij_pack_two(v + 2)));
  else
    __stwb(reinterpret_cast<uint4 *>(x),
           make_uint4(ij_pack_two(v), ij_pack_two(v + 2), ij_pack_two(v + 4), ij_pack_two(v + 6)));
}

/* How many elements of type T fill 128 bits */
template <class T> constexpr int ij_width = 16 / (int)sizeof(T);
/* Whether all pointers (NULL: none) are aligned to so many bytes */
template <class... P> static inline bool ij_aligned(size_t bytes, P... p) {
  return (... && ((uintptr_t)p % bytes == 0));
}
#endif
