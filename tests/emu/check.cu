/* The emulator's own test: kernels of each kind against plain loops, and the runtime's promises. check [NAME] */
#include "check.h"

static int failures;
void expect(bool ok, const char *what) {
  if (ok) return;
  if (failures++ < 20) printf("FAIL %s\n", what);
}

/* ---- host side ---- */
static float noise(size_t i) { return (float)((i * 2654435761u >> 7) % 2001) / 1000 - 1; }
static float rounded(float x) { return __bfloat162float(__float2bfloat16(x)); }
static std::vector<float> noises(size_t n) {
  std::vector<float> x(n);
  for (size_t i = 0; i < n; i++) x[i] = noise(i);
  return x;
}

/* ---- one thread an element, a block's sum, four numbers at once ---- */
__global__ void add(const float *x, float *y, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] += x[i];
}
__global__ void __launch_bounds__(256) block_sum(const float *x, float *sum, int n) {
  SHARED_ARRAY(float, part, [8]);
  float s = 0;
  for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) s += __ldg(x + i);
  for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(~0u, s, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = s;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < 8; w++) s += part[w];
    *sum = s;
  }
}
__global__ void twice(float4 *x) {
  float4 v = x[threadIdx.x];
  x[threadIdx.x] = make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w);
}
static void check_simple() {
  std::vector<float> x = noises(1000), y = x;
  Device<float> dx(x), dy(y), sum(std::vector<float>(1));
  LAUNCH(add, 8, 128, 0, 0, dx.p, dy.p, 1000);
  LAUNCH(block_sum, 1, 256, 0, 0, dy.p, sum.p, 1000);
  LAUNCH(twice, 1, 25, 0, 0, (float4 *)dx.p);
  double want = 0;
  for (float v : x) want += 2 * v;
  expect(fabs(sum.read()[0] - want) < 1e-3, "sum of a block");
  x = dx.read();
  for (size_t i = 0; i < 1000; i++) expect(x[i] == (i < 100 ? 2 : 1) * noise(i), "float4");
}

/* ---- a tiled product, and one whose tiles come by asynchronous copies ---- */
template <int T> __global__ void product(const float *a, const float *b, float *c, int n) {
  SHARED_ARRAY(float, ta, [T][T + 1]);
  SHARED_ARRAY(float, tb, [T][T + 1]);
  int x = (int)threadIdx.x, y = (int)threadIdx.y, row = (int)blockIdx.y * T + y, column = (int)blockIdx.x * T + x;
  float sum = 0;
  for (int k = 0; k < n; k += T) {
    ta[y][x] = a[row * n + k + x];
    tb[y][x] = b[(k + y) * n + column];
    __syncthreads();
    for (int i = 0; i < T; i++) sum += ta[y][i] * tb[i][x];
    __syncthreads();
  }
  c[row * n + column] = sum;
}
__global__ void double_buffer(const float *x, float *sums, int tiles) { /* 128 threads, tiles of 512 */
  SHARED_DYN(float, tile);
  float sum = 0;
  int t = (int)threadIdx.x;
  __pipeline_memcpy_async(tile + 4 * t, x + 4 * t, 16);
  __pipeline_commit();
  for (int k = 0; k < tiles; k++) {
    float *here = tile + 512 * (k & 1), *there = tile + 512 * (~k & 1);
    if (k + 1 < tiles) __pipeline_memcpy_async(there + 4 * t, x + 512 * (k + 1) + 4 * t, 16);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    for (int i = 0; i < 4; i++) sum += here[(4 * (t + 1) + i) % 512];
    __syncthreads();
  }
  sums[t] = sum;
}
static void check_tiles() {
  enum { N = 64 };
  std::vector<float> x = noises(N * N);
  Device<float> a(x), c(x), sums(noises(128));
  LAUNCH(product<16>, dim3(N / 16, N / 16), dim3(16, 16), 0, 0, a.p, a.p, c.p, (int)N);
  LAUNCH(double_buffer, 1, 128, 4096, 0, a.p, sums.p, 8);
  std::vector<float> y = c.read(), s = sums.read();
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) {
      double want = 0;
      for (int k = 0; k < N; k++) want += x[i * N + k] * x[k * N + j];
      expect(fabs(y[i * N + j] - want) < 1e-4, "tiled product");
    }
  for (int t = 0; t < 128; t++) {
    double want = 0;
    for (int k = 0; k < 8; k++)
      for (int i = 0; i < 4; i++) want += x[512 * k + (4 * (t + 1) + i) % 512];
    expect(fabs(s[t] - want) < 1e-4, "double buffer of asynchronous copies");
  }
}

/* ---- what warps do ---- */
__global__ void warp_ops(unsigned *out) {
  unsigned l = threadIdx.x % 32;
  unsigned *o = out + threadIdx.x * 8;
  o[0] = __shfl_up_sync(~0u, l, 3);
  o[1] = __shfl_down_sync(~0u, l, 3, 16);
  o[2] = __shfl_sync(~0u, l, 5, 8);
  o[3] = __ballot_sync(~0u, l % 3 == 0);
  o[4] = __reduce_add_sync(~0u, l);
  o[5] = (unsigned)__reduce_min_sync(~0u, 5 - (int)l);
  if (l < 16) o[6] = __reduce_max_sync(0xffffu, l);
  else o[6] = 7;
  o[7] = (unsigned)__syncthreads_count(l < 4);
}
__global__ void histogram(const float *x, int *bins, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(&bins[(int)((x[i] + 1) * 4) & 7], 1);
}
static void check_warps() {
  Device<unsigned> out(std::vector<unsigned>(64 * 8));
  LAUNCH(warp_ops, 1, 64, 0, 0, out.p);
  std::vector<unsigned> o = out.read();
  unsigned thirds = 0;
  for (unsigned l = 0; l < 32; l += 3) thirds |= 1u << l;
  for (unsigned t = 0; t < 64; t++) {
    unsigned l = t % 32, *p = &o[t * 8];
    expect(p[0] == (l < 3 ? l : l - 3), "__shfl_up_sync");
    expect(p[1] == (l % 16 + 3 < 16 ? l + 3 : l), "__shfl_down_sync of 16");
    expect(p[2] == l / 8 * 8 + 5, "__shfl_sync of 8");
    expect(p[3] == thirds, "__ballot_sync");
    expect(p[4] == 496 && (int)p[5] == -26, "__reduce_add_sync, __reduce_min_sync");
    expect(p[6] == (l < 16 ? 15u : 7u), "__reduce_max_sync of half a warp");
    expect(p[7] == 8, "__syncthreads_count");
  }
  std::vector<float> x = noises(3000);
  Device<float> dx(x);
  Device<int> bins(std::vector<int>(8));
  LAUNCH(histogram, 12, 256, 0, 0, dx.p, bins.p, 3000);
  std::vector<int> want(8), got = bins.read();
  for (float v : x) want[(int)((v + 1) * 4) & 7]++;
  expect(got == want, "atomicAdd");
}

/* ---- tensor cores: fragments loaded by hand and by ldmatrix against the formula of the PTX manual, which is written
 * here in its own words: A's element i of lane l is at row g (i = 0, 1, 4, 5) or g + 8, column 2t + (i & 1), + 8 from
 * i = 4 on; B's at row 2t + (i & 1), + 8 from i = 2 on, column g; D's at row g, + 8 from i = 2 on, column 2t + (i & 1).
 */
__global__ void mma_by_hand(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *d) {
  unsigned l = threadIdx.x, group = l / 4, in_group = l % 4, fa[4], fb[2];
  float fd[4];
  __nv_bfloat16 va[8], vb[4];
  for (unsigned i = 0; i < 8; i++) {
    unsigned row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    unsigned column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    va[i] = a[row * 16 + column];
  }
  for (unsigned i = 0; i < 4; i++) vb[i] = b[(in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + group];
  for (unsigned i = 0; i < 4; i++) fd[i] = d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  memcpy(fa, va, sizeof fa);
  memcpy(fb, vb, sizeof fb);
  ij_mma_bf16(fd, fa, fb[0], fb[1]);
  for (unsigned i = 0; i < 4; i++) d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = fd[i];
}
__global__ void mma_by_ldmatrix(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *d) {
  SHARED_ARRAY_ALIGNED(16, __nv_bfloat16, sa, [16][24]);
  SHARED_ARRAY_ALIGNED(16, __nv_bfloat16, sb, [16][8]);
  unsigned l = threadIdx.x, fa[4], fb[4];
  float fd[4] = {0, 0, 0, 0};
  for (unsigned i = l; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
  for (unsigned i = l; i < 128; i += 32) sb[i / 8][i % 8] = b[i];
  __syncwarp();
  ij_ldmatrix_x4(fa, &sa[l % 8 + (l / 8 % 2) * 8][l / 16 * 8]);
  ij_ldmatrix_x4_trans(fb, &sb[l % 16][0]);
  ij_mma_bf16(fd, fa, fb[0], fb[1]);
  for (unsigned i = 0; i < 4; i++) d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] += fd[i];
}
static void check_tensor_cores() {
  std::vector<__nv_bfloat16> a(256), b(128);
  std::vector<float> d = noises(128);
  for (size_t i = 0; i < 256; i++) a[i] = __float2bfloat16(noise(i));
  for (size_t i = 0; i < 128; i++) b[i] = __float2bfloat16(noise(1000 + i));
  Device<__nv_bfloat16> da(a), db(b);
  Device<float> by_hand(d), by_ldmatrix(d);
  LAUNCH(mma_by_hand, 1, 32, 0, 0, da.p, db.p, by_hand.p);
  LAUNCH(mma_by_ldmatrix, 1, 32, 0, 0, da.p, db.p, by_ldmatrix.p);
  std::vector<float> x = by_hand.read(), y = by_ldmatrix.read();
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 8; n++) {
      double want = d[m * 8 + n];
      for (int k = 0; k < 16; k++) want += (double)rounded(noise(m * 16 + k)) * rounded(noise(1000 + k * 8 + n));
      expect(fabs(x[m * 8 + n] - want) < 1e-5, "mma with fragments loaded by hand");
      expect(fabs(y[m * 8 + n] - want) < 1e-5, "mma with fragments from ldmatrix");
    }
}

/* ---- streams, events, pools ---- */
static void set_flag(void *p) { __atomic_store_n((int *)p, 1, __ATOMIC_RELAXED); }
static int flag_at(int *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static void check_streams() {
  enum { N = 1024 };
  std::vector<float> ones(N, 1);
  cudaStream_t s, t;
  cudaEvent_t e;
  float *p, *q, *host;
  int flag = 0;
  cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
  cudaStreamCreateWithPriority(&t, cudaStreamNonBlocking, -1);
  cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
  cudaMallocHost(&host, N * sizeof *host);
  cudaMallocAsync(&p, N * sizeof *p, s);
  cudaMallocAsync(&q, N * sizeof *q, s);
  cudaMemcpyAsync(p, ones.data(), N * sizeof *p, cudaMemcpyHostToDevice, s);
  ones.assign(N, 7); /* pageable: already taken */
  cudaMemcpyAsync(q, p, N * sizeof *p, cudaMemcpyDeviceToDevice, s);
  cudaEventRecord(e, s);
  cudaStreamWaitEvent(t, e, 0);
  LAUNCH(add, 4, 256, 0, t, p, q, (int)N);
  cudaMemcpyAsync(host, q, N * sizeof *q, cudaMemcpyDeviceToHost, t);
  cudaLaunchHostFunc(t, set_flag, &flag);
  cudaEventRecord(e, t);
  expect(flag_at(&flag) == 0, "streams run late");
  while (cudaEventQuery(e) == cudaErrorNotReady) {}
  expect(flag_at(&flag) == 1, "a host function in its stream's order");
  for (int i = 0; i < N; i++) expect(host[i] == 2, "two streams with an event between them");
  uint64_t used = 0;
  cudaMemPool_t pool;
  cudaDeviceGetDefaultMemPool(&pool, 0);
  cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
  expect(used == 2 * N * sizeof(float), "what the pool has in use");
  cudaFreeAsync(p, t);
  cudaFreeAsync(q, t);
  expect(cudaDeviceSynchronize() == cudaSuccess, "synchronisation");
  cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &used);
  expect(used == 0, "the pool gives back what it need not keep");
  void *much;
  size_t free_bytes, total;
  cudaMemGetInfo(&free_bytes, &total);
  expect(cudaMalloc(&much, free_bytes + 1) == cudaErrorMemoryAllocation, "more memory than the GPU has");
  expect(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess, "the last error, once");
  LAUNCH(add, 1, 2048, 0, s, p, q, 1);
  expect(cudaGetLastError() == cudaErrorInvalidConfiguration, "a block of 2048 threads");
  cudaFreeHost(host);
  cudaEventDestroy(e);
  cudaStreamDestroy(s);
  cudaStreamDestroy(t);
}

int main(int argc, char **argv) {
  const struct {
    const char *name;
    void (*run)();
  } checks[] = {{"simple", check_simple},   {"tiles", check_tiles},
                {"warps", check_warps},     {"tensor cores", check_tensor_cores},
                {"streams", check_streams}, {"products", check_products}};
  for (const auto &c : checks)
    if (argc < 2 || strstr(c.name, argv[1])) c.run();
  if (failures) printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
