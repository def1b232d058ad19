/* Sums between processes on their GPUs, by NCCL, on a stream beside the work. Without NCCL there is one process. */
#include "memory.h"
#include <string.h>
#ifdef IJ_NCCL
#include <nccl.h>
#include <time.h>

struct ij_cuda_comm {
  ncclComm_t nccl;
  cudaStream_t stream;
  cudaEvent_t ready, done; /* what a sum needs is there; all sums so far are through */
  int rank, size;
  double seconds;
  bool open; /* sums since the last join */
};

static ij_status nccl_status(ncclResult_t r, const char *what) {
  if (r == ncclSuccess || r == ncclInProgress) return IJ_OK;
  return ij_cuda_host->fail(IJ_EIO, "processes: %s: NCCL reports %s (NCCL_DEBUG=INFO prints more)", what,
                            ncclGetErrorString(r));
}

ij_status ij_cuda_comm_id(void *id) {
  static_assert(sizeof(ncclUniqueId) == 128, "kernels/backend.h states 128 bytes");
  return nccl_status(ncclGetUniqueId((ncclUniqueId *)id), "making an id");
}

/* A call that does not block is through when its state is no longer "in progress". */
static ij_status settle(ij_cuda_comm *m, const char *what) {
  struct timespec pause = {0, 1000000};
  for (double waited = 0;; waited += 1e-3) {
    ncclResult_t state = ncclSuccess, r = ncclCommGetAsyncError(m->nccl, &state);
    if (r != ncclSuccess) return nccl_status(r, what);
    if (state != ncclInProgress) return nccl_status(state, what);
    if (waited > m->seconds)
      return ij_cuda_host->fail(IJ_EIO, "processes: %s: process %d of %d waited %.0f seconds for the others", what,
                                m->rank, m->size, m->seconds);
    nanosleep(&pause, NULL);
  }
}

ij_status ij_cuda_comm_open(ij_queue *q, const void *id, int rank, int size, double seconds) {
  ij_cuda *c = ij_cuda_of(q);
  ij_cuda_comm *m = (ij_cuda_comm *)ij_cuda_host->alloc(sizeof *m);
  if (!m) return IJ_ENOMEM;
  memset(m, 0, sizeof *m);
  m->rank = rank;
  m->size = size;
  m->seconds = seconds;
  c->comm = m;
  ncclUniqueId unique;
  memcpy(&unique, id, sizeof unique);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0; /* so that a process that never comes can be told */
  int least = 0, most = 0;
  cudaDeviceGetStreamPriorityRange(&least, &most);
  ij_status st =
      ij_cuda_status(cudaStreamCreateWithPriority(&m->stream, cudaStreamNonBlocking, most), "making a stream");
  if (st == IJ_OK) st = ij_cuda_status(cudaEventCreateWithFlags(&m->ready, cudaEventDisableTiming), "making an event");
  if (st == IJ_OK) st = ij_cuda_status(cudaEventCreateWithFlags(&m->done, cudaEventDisableTiming), "making an event");
  if (st == IJ_OK)
    st = nccl_status(ncclCommInitRankConfig(&m->nccl, size, unique, rank, &config), "meeting the others");
  if (st == IJ_OK) st = settle(m, "meeting the others");
  if (st != IJ_OK) ij_cuda_comm_close(q);
  return st;
}
void ij_cuda_comm_close(ij_queue *q) {
  ij_cuda_comm *m = ij_cuda_of(q)->comm;
  if (!m) return;
  if (m->nccl) ncclCommAbort(m->nccl); /* never waits for others */
  if (m->ready) cudaEventDestroy(m->ready);
  if (m->done) cudaEventDestroy(m->done);
  if (m->stream) cudaStreamDestroy(m->stream);
  ij_cuda_host->free(m);
  ij_cuda_of(q)->comm = NULL;
}
double ij_cuda_comm_seconds(ij_queue *q) { return ij_cuda_of(q)->comm ? ij_cuda_of(q)->comm->seconds : 0; }

/* Behind what the queue has so far. */
static ij_status begin(ij_queue *q, ij_cuda_comm *m) {
  if (!m) return ij_cuda_host->fail(IJ_EINVAL, "processes: a sum, but no other processes are known");
  cudaError_t e = cudaEventRecord(m->ready, ij_cuda_of(q)->stream);
  if (e == cudaSuccess) e = cudaStreamWaitEvent(m->stream, m->ready, 0);
  m->open = true;
  return ij_cuda_status(e, "beginning a sum");
}
ij_status ij_cuda_comm_sum(ij_queue *q, float *x, size_t n, int root) {
  ij_cuda_comm *m = ij_cuda_of(q)->comm;
  ij_status st = begin(q, m);
  if (st != IJ_OK) return st;
  st = nccl_status(root < 0 ? ncclAllReduce(x, x, n, ncclFloat32, ncclSum, m->nccl, m->stream)
                            : ncclReduce(x, x, n, ncclFloat32, ncclSum, root, m->nccl, m->stream),
                   "summing");
  return st == IJ_OK ? settle(m, "summing") : st;
}
ij_status ij_cuda_comm_broadcast(ij_queue *q, void *x, size_t bytes, int root) {
  ij_cuda_comm *m = ij_cuda_of(q)->comm;
  ij_status st = begin(q, m);
  if (st != IJ_OK) return st;
  st = nccl_status(ncclBroadcast(x, x, bytes, ncclInt8, root, m->nccl, m->stream), "handing out");
  return st == IJ_OK ? settle(m, "handing out") : st;
}
ij_status ij_cuda_comm_join(ij_queue *q, double seconds) {
  ij_cuda_comm *m = ij_cuda_of(q)->comm;
  if (!m || !m->open) return IJ_OK;
  m->open = false;
  cudaError_t e = cudaEventRecord(m->done, m->stream);
  if (e == cudaSuccess) e = cudaStreamWaitEvent(ij_cuda_of(q)->stream, m->done, 0);
  if (e != cudaSuccess) return ij_cuda_status(e, "joining sums");
  return seconds > 0 ? ij_cuda_wait_event(q, m->done, seconds) : IJ_OK;
}
#else
double ij_cuda_comm_seconds(ij_queue *q) {
  (void)q;
  return 0;
}
void ij_cuda_comm_close(ij_queue *q) { (void)q; }
#endif
