/* The plug-in's runtime: one GPU, one stream of work, memory from the driver's pool, copies beside the work. */
#include "cuda.h"
#include "library.h"
#include "marks.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const ij_host *ij_cuda_host;

ij_status ij_cuda_status(cudaError_t e, const char *what) {
  if (e == cudaSuccess) return IJ_OK;
  return ij_cuda_host->fail(
      e == cudaErrorMemoryAllocation ? IJ_ENOMEM : IJ_EIO,
      "cuda: %s: %s (%s); if this persists, start again: the run resumes from its last checkpoint", what,
      cudaGetErrorString(e), cudaGetErrorName(e));
}
void ij_cuda_allow_shared(ij_cuda *c, const void *kernel, size_t bytes) {
  int i = 0;
  while (i < IJ_CUDA_LARGE && c->large[i] && c->large[i] != kernel) i++;
  if (i < IJ_CUDA_LARGE && c->large[i]) return;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
  if (i < IJ_CUDA_LARGE) c->large[i] = kernel;
}
ij_status ij_cuda_launched(const char *op) { return ij_cuda_status(cudaGetLastError(), op); }

/* ---- opening */
static ij_status usable(int *gpus) {
  int driver = 0, needed = CUDART_VERSION;
  cudaDriverGetVersion(&driver);
  if (driver == 0)
    return ij_cuda_host->fail(IJ_EUNSUPPORTED,
                              "device 'cuda': this machine has no NVIDIA driver: install it, or use device=cpu");
  if (driver / 1000 < needed / 1000) /* within a major version older drivers do */
    return ij_cuda_host->fail(
        IJ_EUNSUPPORTED, "device 'cuda': the driver is for CUDA %d.%d and this build needs %d.%d: update the driver",
        driver / 1000, driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
  cudaError_t e = cudaGetDeviceCount(gpus);
  if (e != cudaSuccess || *gpus < 1)
    return ij_cuda_host->fail(IJ_EUNSUPPORTED,
                              "device 'cuda': no GPU can be used: %s (see nvidia-smi and CUDA_VISIBLE_DEVICES)",
                              e != cudaSuccess ? cudaGetErrorString(e) : "the driver sees none");
  return IJ_OK;
}

/* The GPU that this process should take: processes of one machine share its GPUs by their local number. SLURM's
 * comes last: a batch script has its own, 0, which all processes of an mpirun in it inherit. */
static int own_gpu(int gpus) {
  static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK",
                                      "SLURM_LOCALID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *v = getenv(names[i]);
    if (v && *v) return atoi(v) % gpus;
  }
  return 0;
}

static void close_queue(ij_queue *q) {
  ij_cuda *c = ij_cuda_enter(q);
  if (!c) return;
  ij_cuda_comm_close(q); /* first: a sum that waits for others would block the stream forever */
  if (c->stream) cudaStreamSynchronize(c->stream);
  ij_cuda_weights_release(q);
  ij_cuda_plans_release(q);
  for (int i = 0; i < 8; i++)
    if (q->slot[i]) ij_cuda_free(q, q->slot[i]);
  if (c->workspace) ij_cuda_free(q, c->workspace);
  ij_cuda_blas_close(c);
  ij_cuda_host->free(c->nccl);
  ij_cuda_memory_close(q);
  if (c->stream) cudaStreamDestroy(c->stream);
  ij_cuda_host->free(c);
  memset(q, 0, sizeof *q);
}

/* IJEPA_CUDA_MATMUL: "plain" for the plug-in's own kernel in place of cuBLASLt, to tell whose fault a result is */
static ij_status matmul_choice(ij_cuda *c) {
  const char *choice = getenv("IJEPA_CUDA_MATMUL");
  c->plain_matmul = choice && !strcmp(choice, "plain");
  if (!choice || !*choice || c->plain_matmul || !strcmp(choice, "cublaslt")) return IJ_OK;
  return ij_cuda_host->fail(IJ_EINVAL, "IJEPA_CUDA_MATMUL=%s: cublaslt or plain", choice);
}

static ij_status open_gpu(int index, ij_queue *q) {
  int gpus = 0;
  ij_status st = usable(&gpus);
  if (st != IJ_OK) return st;
  if (index >= gpus)
    return ij_cuda_host->fail(IJ_EINVAL, "device 'cuda:%d': this machine has %d GPU%s, numbered from 0", index, gpus,
                              gpus == 1 ? "" : "s");
  if (index < 0) index = own_gpu(gpus);
  cudaDeviceProp p;
  if ((st = ij_cuda_status(cudaSetDevice(index), "opening the GPU")) != IJ_OK) return st;
  if ((st = ij_cuda_status(cudaGetDeviceProperties(&p, index), "reading the GPU's properties")) != IJ_OK) return st;
  if (p.major < 8)
    return ij_cuda_host->fail(IJ_EUNSUPPORTED,
                              "device 'cuda:%d': %s is older than Ampere (sm_80), which this needs: use device=cpu",
                              index, p.name);
  ij_cuda *c = (ij_cuda *)ij_cuda_host->alloc(sizeof *c);
  if (!c) return IJ_ENOMEM;
  memset(c, 0, sizeof *c);
  q->stream = c;
  c->device = index;
  snprintf(c->name, sizeof c->name, "%.79s", p.name);
  c->sms = p.multiProcessorCount;
  c->arch = 10 * p.major + p.minor;
  c->workspace_bytes = IJ_CUDA_WORKSPACE;
  if ((st = matmul_choice(c)) != IJ_OK) {
    close_queue(q);
    return st;
  }
  st = ij_cuda_status(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "making a stream");
  if (st == IJ_OK) st = ij_cuda_memory_open(q);
  if (st == IJ_OK) st = ij_cuda_blas_open(c);
  if (st == IJ_OK) st = ij_cuda_alloc(q, c->workspace_bytes, &c->workspace);
  if (st != IJ_OK) close_queue(q);
  return st;
}

static void gpu_info(ij_queue *q, ij_device_info *out) {
  ij_cuda *c = ij_cuda_enter(q);
  size_t unused = 0, total = 0;
  memcpy(out->name, c->name, sizeof c->name);
  cudaMemGetInfo(&unused, &total);
  snprintf(out->arch, sizeof out->arch, "sm_%d", c->arch);
  out->memory = total;
  out->memory_free = unused;
  ij_cuda_memory_info(q, out);
  out->memory_weights = ij_cuda_weights_bytes(q);
  out->memory_scratch = c->workspace_bytes;
  for (int i = 0; i < 8; i++) out->memory_scratch += ij_pool_bytes(q->slot_bytes[i]);
  out->bf16 = 1;
  out->ahead = 1;
}

extern "C" __attribute__((visibility("default"))) const ij_backend *ij_backend_cuda(const ij_host *host) {
  static ij_backend b; /* written with the same values at every call */
  ij_cuda_host = host;
  b.abi = IJ_BACKEND_ABI;
  b.ops = ij_cuda_table;
  b.open = open_gpu;
  b.close = close_queue;
  b.alloc = ij_cuda_alloc;
  b.free = ij_cuda_free;
  b.write = ij_cuda_write;
  b.read = ij_cuda_read;
  b.read_begin = ij_cuda_read_begin;
  b.read_end = ij_cuda_read_end;
  b.wait = ij_cuda_wait;
  b.info = gpu_info;
  b.report = ij_cuda_report;
#ifdef IJ_NCCL
  b.comm_id = ij_cuda_comm_id;
  b.comm_open = ij_cuda_comm_open;
  b.comm_close = ij_cuda_comm_close;
  b.comm_sum = ij_cuda_comm_sum;
  b.comm_broadcast = ij_cuda_comm_broadcast;
  b.comm_join = ij_cuda_comm_join;
#endif
  return &b;
}
