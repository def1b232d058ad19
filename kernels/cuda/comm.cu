/* Sums between processes on their GPUs, by NCCL, on a stream beside the work. Without NCCL there is one process. */
#include "library.h"
#include <string.h>
#ifdef IJ_NCCL
#include <sched.h>
#include <time.h>

enum { EVENTS = 256 }; /* more than there are buckets in a step; an event that serves again stands for a later sum */

struct ij_cuda_comm {
  ncclComm_t nccl;
  cudaStream_t stream;
  cudaEvent_t ready;        /* what a sum needs is there */
  cudaEvent_t done[EVENTS]; /* the sum of ticket t is through: t % EVENTS */
  int64_t begun, joined;    /* tickets: the last one given; the last one that the queue waits for */
  int rank, size;
  double seconds;
};

static ij_status nccl_status(const ij_cuda *c, ncclResult_t r, const char *what) {
  if (r == ncclSuccess || r == ncclInProgress) return IJ_OK;
  return ij_cuda_host->fail(IJ_EIO, "processes: %s: NCCL reports %s (NCCL_DEBUG=INFO prints more)", what,
                            c->nccl->ncclGetErrorString(r));
}

ij_status ij_cuda_comm_id(ij_queue *q, void *id) {
  static_assert(sizeof(ncclUniqueId) == 128, "kernels/backend.h states 128 bytes");
  ij_cuda *c = ij_cuda_enter(q);
  ij_status st = ij_cuda_nccl_open(c);
  return st == IJ_OK ? nccl_status(c, c->nccl->ncclGetUniqueId((ncclUniqueId *)id), "making an id") : st;
}

/* A call that does not block is through when its state is no longer "in progress". For a collective that is some tens
 * of microseconds, in which the thread that launches a step's work must not sleep: it looks again at once, and only
 * later with pauses in between. */
static ij_status settle(const ij_cuda *c, const char *what) {
  static const double SPIN = 300e-6;
  const ij_cuda_comm *m = c->comm;
  struct timespec pause = {0, 20000};
  for (double start = ij_cuda_now(), waited = 0;; waited = ij_cuda_now() - start) {
    ncclResult_t state = ncclSuccess, r = c->nccl->ncclCommGetAsyncError(m->nccl, &state);
    if (r != ncclSuccess) return nccl_status(c, r, what);
    if (state != ncclInProgress) return nccl_status(c, state, what);
    if (waited > m->seconds)
      return ij_cuda_host->fail(IJ_EIO, "processes: %s: process %d of %d waited %.0f seconds for the others", what,
                                m->rank, m->size, m->seconds);
    if (waited < SPIN) {
      sched_yield();
      continue;
    }
    nanosleep(&pause, NULL);
    if (pause.tv_nsec < 1000000) pause.tv_nsec *= 2;
  }
}

ij_status ij_cuda_comm_open(ij_queue *q, const void *id, int rank, int size, double seconds) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_status st = ij_cuda_nccl_open(c);
  if (st != IJ_OK) return st;
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
  cudaError_t e = cudaStreamCreateWithPriority(&m->stream, cudaStreamNonBlocking, most);
  if (e == cudaSuccess) e = cudaEventCreateWithFlags(&m->ready, cudaEventDisableTiming);
  for (int i = 0; i < EVENTS && e == cudaSuccess; i++)
    e = cudaEventCreateWithFlags(&m->done[i], cudaEventDisableTiming);
  st = ij_cuda_status(e, "making a stream and events");
  if (st == IJ_OK)
    st = nccl_status(c, c->nccl->ncclCommInitRankConfig(&m->nccl, size, unique, rank, &config), "meeting the others");
  if (st == IJ_OK) st = settle(c, "meeting the others");
  if (st != IJ_OK) ij_cuda_comm_close(q);
  return st;
}
void ij_cuda_comm_close(ij_queue *q) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_cuda_comm *m = c->comm;
  if (!m) return;
  if (m->nccl) c->nccl->ncclCommAbort(m->nccl); /* never waits for others */
  if (m->ready) cudaEventDestroy(m->ready);
  for (int i = 0; i < EVENTS; i++)
    if (m->done[i]) cudaEventDestroy(m->done[i]);
  if (m->stream) cudaStreamDestroy(m->stream);
  ij_cuda_host->free(m);
  c->comm = NULL;
}
double ij_cuda_comm_seconds(ij_queue *q) { return ij_cuda_of(q)->comm ? ij_cuda_of(q)->comm->seconds : 0; }

/* Behind what the queue has so far. */
static ij_status begin(const ij_cuda *c) {
  ij_cuda_comm *m = c->comm;
  if (!m) return ij_cuda_host->fail(IJ_EINVAL, "processes: a sum, but no other processes are known");
  cudaError_t e = cudaEventRecord(m->ready, c->stream);
  if (e == cudaSuccess) e = cudaStreamWaitEvent(m->stream, m->ready, 0);
  return ij_cuda_status(e, "beginning a sum");
}
/* r: of the collective's call. It is in the stream once it has settled, and its event comes behind it. */
static ij_status end(const ij_cuda *c, ncclResult_t r, const char *what, int64_t *ticket) {
  ij_cuda_comm *m = c->comm;
  ij_status st = nccl_status(c, r, what);
  if (st == IJ_OK) st = settle(c, what);
  if (st != IJ_OK) return st;
  *ticket = ++m->begun;
  return ij_cuda_status(cudaEventRecord(m->done[*ticket % EVENTS], m->stream), what);
}
ij_status ij_cuda_comm_sum(ij_queue *q, float *x, size_t n, int root, int64_t *ticket) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_status st = begin(c);
  if (st != IJ_OK) return st;
  const ij_cuda_comm *m = c->comm;
  return end(c,
             root < 0 ? c->nccl->ncclAllReduce(x, x, n, ncclFloat32, ncclSum, m->nccl, m->stream)
                      : c->nccl->ncclReduce(x, x, n, ncclFloat32, ncclSum, root, m->nccl, m->stream),
             "summing", ticket);
}
ij_status ij_cuda_comm_broadcast(ij_queue *q, void *x, size_t bytes, int root, int64_t *ticket) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_status st = begin(c);
  if (st != IJ_OK) return st;
  const ij_cuda_comm *m = c->comm;
  return end(c, c->nccl->ncclBroadcast(x, x, bytes, ncclInt8, root, m->nccl, m->stream), "handing out", ticket);
}
ij_status ij_cuda_comm_join(ij_queue *q, int64_t ticket) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_cuda_comm *m = c->comm;
  if (!m || ticket <= m->joined) return IJ_OK; /* sums end in their order */
  m->joined = ticket;
  return ij_cuda_status(cudaStreamWaitEvent(c->stream, m->done[ticket % EVENTS], 0), "joining a sum");
}
#else
double ij_cuda_comm_seconds(ij_queue *q) {
  (void)q;
  return 0;
}
void ij_cuda_comm_close(ij_queue *q) { (void)q; }
#endif
