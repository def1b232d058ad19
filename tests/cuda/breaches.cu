/* Kernels that break the rules, each in one way: sass.lua's self-test expects each to be found. */
#include <cuda_runtime.h>

extern "C" __global__ void array_at_run_time(const float *x, float *y, int n) { /* registers have no index */
  float a[64];
  for (int i = 0; i < 64; i++) a[i] = x[i];
  for (int i = 0; i < n; i++) a[i * 7 & 63] += a[n - i & 63];
  for (int i = 0; i < 64; i++) y[i] = a[i];
}
extern "C" __global__ void __launch_bounds__(1024, 2) too_many_registers(const float *x, float *y) {
  float a[96];
#pragma unroll
  for (int i = 0; i < 96; i++) a[i] = x[1024 * i + threadIdx.x];
  for (int k = 0; k < 100; k++)
#pragma unroll
    for (int i = 0; i < 96; i++) a[i] = a[i] * a[(i + 1) % 96] + y[k];
#pragma unroll
  for (int i = 0; i < 96; i++) y[1024 * i + threadIdx.x] = a[i];
}
extern "C" __global__ void scalar(const float *x, float *y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }
