/* One mistake each, and beside it the same without: bugs NAME [good]. expect.sh says who must find which. */
#include "dev.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 256 };
static float *x, *y; /* device, N numbers each: x all 1, y all 0 */
static float *host;  /* pinned, N */
static cudaStream_t first, second;
static bool good;

/* ---- a mistake between the threads of a block ---- */
template <bool GOOD> __global__ void no_barrier_before_reading(const float *in, float *out) {
  SHARED_ARRAY(float, s, [N]);
  s[threadIdx.x] = in[threadIdx.x];
  if (GOOD) __syncthreads();
  out[threadIdx.x] = s[(threadIdx.x + 37) % N];
}
template <bool GOOD> __global__ void no_barrier_before_writing(const float *in, float *out) {
  SHARED_ARRAY(float, s, [N]);
  float sum = 0;
  for (int k = 0; k < 3; k++) {
    s[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    sum += s[(threadIdx.x + 37) % N];
    if (GOOD) __syncthreads();
  }
  out[threadIdx.x] = sum / 3;
}
template <bool GOOD> __global__ void no_syncwarp(const float *in, float *out) {
  SHARED_ARRAY(float, s, [N]);
  s[threadIdx.x] = in[threadIdx.x];
  if (GOOD) __syncwarp();
  out[threadIdx.x] = s[threadIdx.x ^ 1];
}
template <bool GOOD> __global__ void add_between_blocks(const float *in, float *out) {
  if (threadIdx.x != 0) return;
  if (GOOD) atomicAdd(out, in[blockIdx.x]);
  else *out += in[blockIdx.x];
}
template <bool GOOD> __global__ void no_copy_wait(const float *in, float *out) {
  SHARED_ARRAY_ALIGNED(16, float, s, [N]);
  if (threadIdx.x < N / 4) __pipeline_memcpy_async(&s[4 * threadIdx.x], in + 4 * threadIdx.x, 16);
  __pipeline_commit();
  if (GOOD) __pipeline_wait_prior(0);
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}
template <bool GOOD> __global__ void shared_not_set(const float *in, float *out) {
  SHARED_ARRAY(float, s, [N]);
  if (GOOD || threadIdx.x != 5) s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[N - 1 - threadIdx.x];
}
template <bool GOOD> __global__ void past_shared(const float *in, float *out) {
  SHARED_ARRAY(float, s, [N]);
  s[threadIdx.x + (GOOD ? 0 : 1)] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x | 1];
}
template <bool GOOD> __global__ void past_global(const float *in, float *out) {
  out[threadIdx.x + (GOOD ? 0 : 1)] = in[threadIdx.x];
}
template <bool GOOD> __global__ void misaligned(const float *in, float *out) {
  const float *p = in + (GOOD ? 0 : 1);
  if (threadIdx.x < N / 8) out[threadIdx.x] = ((const float4 *)p)[threadIdx.x].y;
  else out[threadIdx.x] = 1;
}

/* ---- a mistake that the emulator itself reports ---- */
template <bool GOOD> __global__ void divergent_shuffle(const float *in, float *out) {
  float v = in[threadIdx.x];
  if (GOOD || threadIdx.x % 32 < 16) v = __shfl_xor_sync(~0u, v, 1);
  __syncthreads(); /* where the others wait */
  out[threadIdx.x] = v;
}
template <bool GOOD> __global__ void divergent_barrier(const float *in, float *out) {
  if (GOOD || threadIdx.x < 40) {
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
  } else {
    out[threadIdx.x] = 1;
    __syncthreads();
  }
}
template <bool GOOD> __global__ void wrong_mask(const float *in, float *out) {
  float v = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(GOOD ? 0xffffu : 0xffu, v, 1);
  out[threadIdx.x] = v;
}
template <bool GOOD> __global__ void barrier_not_reached(const float *in, float *out) {
  if (threadIdx.x % 32 == 3 && !GOOD) __syncwarp(0x18); /* lane 4 is at the barrier */
  __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}
template <bool GOOD> __global__ void too_much_shared(const float *in, float *out) {
  SHARED_ARRAY(float, s, [GOOD ? 12288 : 12289]); /* 48 KiB */
  s[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void big_dynamic(const float *in, float *out) {
  SHARED_DYN(float, s);
  s[threadIdx.x + 16000] = in[threadIdx.x];
  out[threadIdx.x] = s[threadIdx.x + 16000];
}
__global__ void copy(const float *in, float *out, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) out[i] = in[i];
}
struct Pair {
  const float *in;
  float *out;
};
__global__ void copy_pair(Pair p) { p.out[threadIdx.x] = p.in[threadIdx.x]; }

/* ---- a mistake of the host ---- */
static void host_pointer() {
  float local[N];
  for (float &v : local) v = 1;
  LAUNCH(copy, 1, N, 0, first, good ? x : local, y, (int)N);
}
static void host_pointer_in_struct() {
  float local[N];
  for (float &v : local) v = 1;
  Pair p = {good ? x : local, y};
  LAUNCH(copy_pair, 1, N, 0, first, p);
}
static float *fresh(float value) {
  float *p;
  cudaMalloc(&p, N * sizeof *p);
  for (int i = 0; i < N; i++) host[i] = value;
  cudaMemcpy(p, host, N * sizeof *p, cudaMemcpyHostToDevice);
  return p;
}
static void use_after_free() {
  float *p = fresh(1);
  if (!good) cudaFree(p);
  LAUNCH(copy, 1, N, 0, first, p, y, (int)N);
}
static void use_after_free_async() {
  float *p;
  cudaMallocAsync(&p, N * sizeof *p, first);
  LAUNCH(copy, 1, N, 0, first, x, p, (int)N);
  if (!good) cudaFreeAsync(p, first);
  LAUNCH(copy, 1, N, 0, first, p, y, (int)N);
  if (good) cudaFreeAsync(p, first);
}
static void free_before_other_stream() { /* b may still read when a frees */
  float *p;
  cudaEvent_t e;
  cudaEventCreate(&e);
  cudaMallocAsync(&p, N * sizeof *p, first);
  LAUNCH(copy, 1, N, 0, first, x, p, (int)N);
  cudaEventRecord(e, first);
  cudaStreamWaitEvent(second, e, 0);
  LAUNCH(copy, 1, N, 0, second, p, y, (int)N);
  if (good) {
    cudaEventRecord(e, second);
    cudaStreamWaitEvent(first, e, 0);
  }
  cudaFreeAsync(p, first);
}
static void no_event() {
  cudaEvent_t e;
  cudaEventCreate(&e);
  float *p = fresh(0);
  LAUNCH(copy, 1, N, 0, first, x, p, (int)N);
  cudaEventRecord(e, first);
  if (good) cudaStreamWaitEvent(second, e, 0);
  LAUNCH(copy, 1, N, 0, second, p, y, (int)N);
}
static void host_reads_early() {
  LAUNCH(copy, 1, N, 0, first, x, y, (int)N);
  cudaMemcpyAsync(host, y, N * sizeof *y, cudaMemcpyDeviceToHost, first);
  if (good) cudaStreamSynchronize(first);
  if (host[5] > 2) puts("(a number that was not expected)");
}
static void host_writes_early() { /* into the source of a copy that is still to come */
  for (int i = 0; i < N; i++) host[i] = 1;
  cudaMemcpyAsync(y, host, N * sizeof *y, cudaMemcpyHostToDevice, first);
  if (good) cudaStreamSynchronize(first);
  host[7] = 3;
}
static void host_touches_device() {
  if (good) cudaMemsetAsync(y, 0, 4, first);
  else y[0] = 0;
  LAUNCH(copy, 1, N, 0, first, x, y, (int)N);
}
static void block_too_large() { LAUNCH(copy, 1, good ? 256 : 2048, 0, first, x, y, (int)N); }
static void dynamic_not_asked_for() {
  if (good) cudaFuncSetAttribute(big_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 80 << 10);
  LAUNCH(big_dynamic, 1, N, 80 << 10, first, x, y);
}
static void global_not_set() {
  float *p;
  cudaMalloc(&p, N * sizeof *p);
  if (good) cudaMemcpyAsync(p, x, N * sizeof *p, cudaMemcpyDeviceToDevice, first);
  LAUNCH(copy, 1, N, 0, first, p, y, (int)N);
}
static void copy_too_long() { cudaMemcpyAsync(y, x, (good ? N : N + 1) * sizeof *y, cudaMemcpyDeviceToDevice, first); }

#define KERNEL(name, blocks)                                                                                           \
  static void run_##name() {                                                                                           \
    if (good) LAUNCH(name<true>, blocks, N, 0, first, x, y);                                                           \
    else LAUNCH(name<false>, blocks, N, 0, first, x, y);                                                               \
  }
KERNEL(no_barrier_before_reading, 1)
KERNEL(no_barrier_before_writing, 1)
KERNEL(no_syncwarp, 1)
KERNEL(add_between_blocks, 4)
KERNEL(no_copy_wait, 1)
KERNEL(shared_not_set, 1)
KERNEL(past_shared, 1)
KERNEL(past_global, 1)
KERNEL(misaligned, 1)
KERNEL(divergent_shuffle, 1)
KERNEL(divergent_barrier, 1)
KERNEL(wrong_mask, 1)
KERNEL(barrier_not_reached, 1)
KERNEL(too_much_shared, 1)

static const struct {
  const char *name;
  void (*run)();
} bugs[] = {
    {"no_barrier_before_reading", run_no_barrier_before_reading},
    {"no_barrier_before_writing", run_no_barrier_before_writing},
    {"no_syncwarp", run_no_syncwarp},
    {"add_between_blocks", run_add_between_blocks},
    {"no_copy_wait", run_no_copy_wait},
    {"shared_not_set", run_shared_not_set},
    {"past_shared", run_past_shared},
    {"past_global", run_past_global},
    {"misaligned", run_misaligned},
    {"divergent_shuffle", run_divergent_shuffle},
    {"divergent_barrier", run_divergent_barrier},
    {"wrong_mask", run_wrong_mask},
    {"barrier_not_reached", run_barrier_not_reached},
    {"too_much_shared", run_too_much_shared},
    {"host_pointer", host_pointer},
    {"host_pointer_in_struct", host_pointer_in_struct},
    {"use_after_free", use_after_free},
    {"use_after_free_async", use_after_free_async},
    {"free_before_other_stream", free_before_other_stream},
    {"no_event", no_event},
    {"host_reads_early", host_reads_early},
    {"host_writes_early", host_writes_early},
    {"host_touches_device", host_touches_device},
    {"block_too_large", block_too_large},
    {"dynamic_not_asked_for", dynamic_not_asked_for},
    {"global_not_set", global_not_set},
    {"copy_too_long", copy_too_long},
};

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  good = argc > 2;
  cudaMallocHost(&host, N * sizeof *host);
  x = fresh(1);
  y = fresh(0);
  cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
  cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
  bool found = false;
  for (const auto &bug : bugs) {
    if (strcmp(bug.name, argv[1])) continue;
    found = true;
    bug.run();
  }
  if (!found) return printf("no bug '%s'\n", argv[1]), 2;
  cudaError_t e = cudaGetLastError();
  cudaError_t end = cudaDeviceSynchronize();
  if (e || end) return printf("error: %s\n", cudaGetErrorString(e ? e : end)), 1;
  float result[N];
  cudaMemcpy(result, y, sizeof result, cudaMemcpyDeviceToHost);
  float want = strcmp(argv[1], "add_between_blocks") ? 1 : 4;
  for (int i = 0; i < (want == 4 ? 1 : (int)N); i++)
    if (!(result[i] == want)) return printf("wrong numbers: %g at %d\n", (double)result[i], i), 1;
  return 0;
}
