/* Kernels whose instructions can be told by looking at them: sass.lua's self-test counts them. */
#include <cstdint>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

extern "C" __global__ void moves(const float4 *a, const float2 *b, const float *c, const uint16_t *d, const uint8_t *e,
                                 float4 *va, float2 *vb, float *vc, uint16_t *vd, uint8_t *ve) {
  int i = threadIdx.x;
  va[i] = a[i];
  vb[i] = b[i];
  vc[i] = c[i];
  vd[i] = d[i];
  ve[i] = e[i];
}
extern "C" __global__ void shares(const float4 *x, float2 *y) {
  __shared__ float4 s[32];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = ((float2 *)s)[threadIdx.x ^ 5];
}
extern "C" __global__ void copies(const float4 *a, const float2 *b, const float *c, float *y) {
  __shared__ float4 sa[32];
  __shared__ float2 sb[32];
  __shared__ float sc[32];
  int i = threadIdx.x, j = i ^ 3;
  __pipeline_memcpy_async(&sa[i], &a[i], 16);
  __pipeline_memcpy_async(&sb[i], &b[i], 8);
  __pipeline_memcpy_async(&sc[i], &c[i], 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  y[i] = sa[j].x + sb[j].x + sc[j];
}
extern "C" __global__ void product(const uint4 *p, float *y) {
  __shared__ uint4 s[64];
  int i = threadIdx.x;
  s[i] = p[i];
  s[i + 32] = p[i + 32];
  __syncthreads();
  uint32_t a[4], b[2];
  unsigned at = (unsigned)__cvta_generic_to_shared(&s[i]);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(b[0]), "=r"(b[1])
               : "r"(at + 512));
  float c[4] = {0, 0, 0, 0};
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  y[i] = c[0] + c[3] + __shfl_xor_sync(~0u, c[1], 1) + __shfl_sync(~0u, c[2], i / 2);
}
