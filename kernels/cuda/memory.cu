/* Memory of a GPU, and copies to and from it.
 *
 * Tensors come from the driver's pool, in the order of the stream: what is freed is used again by later work without
 * waiting. Copies to the GPU go through staging buffers (costs.h), used in turn: a pinned part and its twin on the GPU.
 * The host copies into the pinned part, a stream of its own copies that to the twin while the compute stream still
 * works, and the compute stream copies the twin to its destination, which may be in use until then. */
#include "memory.h"
#include "pool.h"
#include <string.h>
#include <time.h>

enum { TICKETS = 32 };

typedef struct stage { /* a staging buffer */
  void *pinned, *twin;
  size_t bytes;
  cudaEvent_t copied, used; /* the twin is full; the twin has been read */
  bool busy;
} stage;
typedef struct ticket {
  void *pinned; /* IJ_LATE_BYTES */
  cudaEvent_t there;
  bool taken;
} ticket;
struct ij_cuda_memory {
  cudaStream_t copies;
  stage stages[IJ_STAGES];
  ij_stage_counts counts;
  ticket tickets[TICKETS];
  char *pinned;  /* of the tickets */
  struct known { /* sizes, for the sums: open addressing by address */
    void *p;
    size_t bytes;
  } * known;
  size_t slots, count;
  uint64_t used, top;
};

/* ---- what is in use */
static size_t slot_of(const ij_cuda_memory *m, const void *p) {
  size_t i = ((uintptr_t)p >> 8) * (size_t)0x9e3779b97f4a7c15u >> 20 & (m->slots - 1);
  while (m->known[i].p && m->known[i].p != p) i = (i + 1) & (m->slots - 1);
  return i;
}
static bool know(ij_cuda_memory *m, void *p, size_t bytes) {
  if (2 * (m->count + 1) > m->slots) {
    size_t old = m->slots;
    struct ij_cuda_memory::known *was = m->known;
    m->slots = old ? 2 * old : 1024;
    m->known = (struct ij_cuda_memory::known *)ij_cuda_host->alloc(m->slots * sizeof *m->known);
    if (!m->known) {
      m->known = was;
      m->slots = old;
      return false;
    }
    memset(m->known, 0, m->slots * sizeof *m->known);
    for (size_t i = 0; i < old; i++)
      if (was[i].p) m->known[slot_of(m, was[i].p)] = was[i];
    ij_cuda_host->free(was);
  }
  m->known[slot_of(m, p)] = {p, bytes};
  m->count++;
  m->used += bytes;
  if (m->used > m->top) m->top = m->used;
  return true;
}
/* Its bytes; 0: it is not known */
static size_t forget(ij_cuda_memory *m, void *p) {
  size_t i = slot_of(m, p), mask = m->slots - 1, bytes = m->known[i].bytes;
  if (!m->known[i].p) return 0;
  m->used -= bytes;
  m->count--;
  m->known[i].p = NULL;
  for (size_t j = (i + 1) & mask; m->known[j].p; j = (j + 1) & mask) { /* what was pushed on by it moves back */
    struct ij_cuda_memory::known k = m->known[j];
    m->known[j].p = NULL;
    m->known[slot_of(m, k.p)] = k;
  }
  return bytes;
}

ij_status ij_cuda_alloc(ij_queue *q, size_t bytes, void **out) {
  ij_cuda *c = ij_cuda_enter(q);
  *out = NULL;
  cudaError_t e = ij_cuda_pool_take(c, bytes, out);
  if (e == cudaErrorMemoryAllocation) { /* memory that is freed once the queue has finished may be enough */
    cudaGetLastError();
    ij_cuda_pool_trim(c);
    e = ij_cuda_pool_take(c, bytes, out);
  }
  if (e == cudaErrorMemoryAllocation) {
    size_t unused = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&unused, &total);
    return ij_cuda_host->fail(
        IJ_ENOMEM, "out of memory on the GPU: %.2f GiB more are needed, %.2f of its %.2f GiB are free, %.2f are ours",
        (double)bytes / (1 << 30), (double)unused / (1 << 30), (double)total / (1 << 30),
        (double)c->memory->used / (1 << 30));
  }
  if (e != cudaSuccess) return ij_cuda_status(e, "memory");
  if (know(c->memory, *out, ij_pool_bytes(bytes))) return IJ_OK;
  ij_cuda_pool_give(c, *out, ij_pool_bytes(bytes));
  *out = NULL;
  return IJ_ENOMEM;
}
void ij_cuda_free(ij_queue *q, void *p) {
  if (!p) return;
  ij_cuda *c = ij_cuda_enter(q);
  ij_cuda_pool_give(c, p, forget(c->memory, p));
}
void *ij_cuda_scratch(ij_queue *q, int slot, size_t bytes) {
  if (q->slot_bytes[slot] >= bytes && q->slot[slot]) return q->slot[slot];
  ij_cuda_free(q, q->slot[slot]);
  q->slot[slot] = NULL;
  q->slot_bytes[slot] = 0;
  bytes = ij_scratch_bytes(bytes);
  if (ij_cuda_alloc(q, bytes, &q->slot[slot]) != IJ_OK) return NULL;
  q->slot_bytes[slot] = bytes;
  return q->slot[slot];
}
void ij_cuda_memory_info(ij_queue *q, ij_device_info *out) {
  ij_cuda *c = ij_cuda_of(q);
  out->memory_used = c->memory->used;
  out->memory_top = c->memory->top;
  for (int i = 0; i < IJ_STAGES; i++) out->memory_staging += c->memory->stages[i].bytes;
  ij_cuda_pool_info(c, out);
}

/* ---- opening */
void ij_cuda_memory_close(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  ij_cuda_memory *m = c->memory;
  if (!m) return;
  if (m->copies) cudaStreamSynchronize(m->copies);
  for (int i = 0; i < IJ_STAGES; i++) {
    if (m->stages[i].pinned) cudaFreeHost(m->stages[i].pinned);
    if (m->stages[i].twin) cudaFree(m->stages[i].twin);
    if (m->stages[i].copied) cudaEventDestroy(m->stages[i].copied);
    if (m->stages[i].used) cudaEventDestroy(m->stages[i].used);
  }
  for (int i = 0; i < TICKETS; i++)
    if (m->tickets[i].there) cudaEventDestroy(m->tickets[i].there);
  if (m->pinned) cudaFreeHost(m->pinned);
  if (m->copies) cudaStreamDestroy(m->copies);
  ij_cuda_host->free(m->known);
  ij_cuda_host->free(m);
  c->memory = NULL;
  ij_cuda_pool_close(c);
}
ij_status ij_cuda_memory_open(ij_queue *q) {
  ij_cuda *c = ij_cuda_of(q);
  ij_cuda_memory *m = (ij_cuda_memory *)ij_cuda_host->alloc(sizeof *m);
  if (!m) return IJ_ENOMEM;
  memset(m, 0, sizeof *m);
  c->memory = m;
  cudaError_t e = ij_cuda_pool_open(c);
  if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&m->copies, cudaStreamNonBlocking);
  if (e == cudaSuccess) e = cudaMallocHost((void **)&m->pinned, TICKETS * IJ_LATE_BYTES);
  for (int i = 0; i < IJ_STAGES && e == cudaSuccess; i++) {
    e = cudaEventCreateWithFlags(&m->stages[i].copied, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&m->stages[i].used, cudaEventDisableTiming);
  }
  for (int i = 0; i < TICKETS && e == cudaSuccess; i++) {
    m->tickets[i].pinned = m->pinned + i * IJ_LATE_BYTES;
    e = cudaEventCreateWithFlags(&m->tickets[i].there, cudaEventDisableTiming);
  }
  return ij_cuda_status(e, "making buffers");
}

/* ---- waiting */
double ij_cuda_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
ij_status ij_cuda_wait_event(ij_queue *q, cudaEvent_t e, double seconds) {
  (void)q;
  if (seconds <= 0) return ij_cuda_status(cudaEventSynchronize(e), "waiting for the GPU");
  for (double until = ij_cuda_now() + seconds;;) {
    cudaError_t st = cudaEventQuery(e);
    if (st != cudaErrorNotReady) return ij_cuda_status(st, "waiting for the GPU");
    cudaGetLastError(); /* some runtimes keep "not ready" as an error, which the next launch would be blamed for */
    if (ij_cuda_now() > until)
      return ij_cuda_host->fail(
          IJ_EIO, "processes: a sum between GPUs did not finish within %.0f seconds: another process is gone or hangs",
          seconds);
    struct timespec pause = {0, 50000};
    nanosleep(&pause, NULL);
  }
}
ij_status ij_cuda_wait(ij_queue *q) {
  ij_cuda *c = ij_cuda_enter(q);
  double seconds = ij_cuda_comm_seconds(q);
  if (seconds <= 0) return ij_cuda_status(cudaStreamSynchronize(c->stream), "waiting for the GPU");
  cudaEvent_t e;
  cudaError_t made = cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
  if (made != cudaSuccess) return ij_cuda_status(made, "waiting for the GPU");
  ij_status st = ij_cuda_status(cudaEventRecord(e, c->stream), "waiting for the GPU");
  if (st == IJ_OK) st = ij_cuda_wait_event(q, e, seconds);
  cudaEventDestroy(e);
  return st;
}

/* ---- bytes in */
static cudaError_t grow(ij_cuda *c, stage *s, size_t n) {
  if (s->bytes >= n) return cudaSuccess;
  size_t bytes = ij_stage_bytes(n);
  if (s->pinned) cudaFreeHost(s->pinned);
  if (s->twin) cudaFree(s->twin); /* waits for the GPU: seldom, since batches have one size */
  s->pinned = s->twin = NULL;
  s->bytes = 0;
  cudaError_t e = cudaMallocHost(&s->pinned, bytes);
  if (e == cudaSuccess) e = cudaMalloc(&s->twin, bytes);
  if (e == cudaSuccess) s->bytes = bytes;
  (void)c;
  return e;
}
static cudaError_t carry(ij_cuda *c, stage *s, void *to, const void *host, size_t n) {
  cudaStream_t copies = c->memory->copies;
  cudaError_t e = grow(c, s, n);
  if (e != cudaSuccess) return e;
  memcpy(s->pinned, host, n);
  if (s->busy) e = cudaStreamWaitEvent(copies, s->used, 0); /* the twin is free */
  if (e == cudaSuccess) e = cudaMemcpyAsync(s->twin, s->pinned, n, cudaMemcpyHostToDevice, copies);
  if (e == cudaSuccess) e = cudaEventRecord(s->copied, copies);
  if (e == cudaSuccess) e = cudaStreamWaitEvent(c->stream, s->copied, 0);
  if (e == cudaSuccess) e = cudaMemcpyAsync(to, s->twin, n, cudaMemcpyDeviceToDevice, c->stream);
  if (e == cudaSuccess) e = cudaEventRecord(s->used, c->stream);
  s->busy = true;
  return e;
}
ij_status ij_cuda_write(ij_queue *q, void *to, const void *host, size_t n) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_cuda_memory *m = c->memory;
  for (size_t offset = 0; offset < n; offset += IJ_LARGEST_COPY) {
    size_t piece = n - offset < IJ_LARGEST_COPY ? n - offset : (size_t)IJ_LARGEST_COPY;
    stage *s = &m->stages[ij_next_stage(&m->counts, piece)];
    double seconds = ij_cuda_comm_seconds(q);
    ij_status st = IJ_OK;
    if (s->busy)
      st = ij_cuda_wait_event(q, s->bytes < piece ? s->used : s->copied, seconds); /* the pinned part is free */
    if (st == IJ_OK)
      st = ij_cuda_status(carry(c, s, (char *)to + offset, (const char *)host + offset, piece), "copying to the GPU");
    if (st != IJ_OK) return st;
  }
  return IJ_OK;
}

/* ---- bytes out */
ij_status ij_cuda_read(ij_queue *q, const void *from, void *host, size_t n) {
  ij_cuda *c = ij_cuda_enter(q);
  /* a copy to memory that is not pinned blocks the caller: with other processes wait first, with a time limit */
  ij_status st = ij_cuda_comm_seconds(q) > 0 ? ij_cuda_wait(q) : IJ_OK;
  if (st != IJ_OK) return st;
  st = ij_cuda_status(cudaMemcpyAsync(host, from, n, cudaMemcpyDeviceToHost, c->stream), "copying from the GPU");
  return st == IJ_OK ? ij_cuda_wait(q) : st;
}
ij_status ij_cuda_read_begin(ij_queue *q, const void *from, size_t n, void **out) {
  ij_cuda *c = ij_cuda_enter(q);
  *out = NULL;
  int i = 0;
  while (i < TICKETS && c->memory->tickets[i].taken) i++;
  if (i == TICKETS) return ij_cuda_host->fail(IJ_EINVAL, "cuda: %d late reads are open: end some first", TICKETS);
  ticket *t = &c->memory->tickets[i];
  cudaError_t e = cudaMemcpyAsync(t->pinned, from, n, cudaMemcpyDeviceToHost, c->stream);
  if (e == cudaSuccess) e = cudaEventRecord(t->there, c->stream);
  if (e != cudaSuccess) return ij_cuda_status(e, "copying from the GPU");
  t->taken = true;
  *out = t;
  return IJ_OK;
}
ij_status ij_cuda_read_end(ij_queue *q, void *which, void *host, size_t n) {
  ticket *t = (ticket *)which;
  ij_cuda_enter(q);
  ij_status st = ij_cuda_wait_event(q, t->there, ij_cuda_comm_seconds(q));
  if (st == IJ_OK && host) memcpy(host, t->pinned, n);
  t->taken = false;
  return st;
}
