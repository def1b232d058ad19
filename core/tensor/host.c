/* The backends whose memory is the host's: "cpu", "ref" (the reference kernels), and "guard", for tests. */
#include "tensor.h"
#include "../../kernels/linear/onednn.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

/* ---- plain memory */
static ij_status plain_open(int index, ij_queue *q) {
  (void)index;
  q->stream = NULL;
  return IJ_OK;
}
static void plain_close(ij_queue *q) {
  ij_queue_release(q);
  ij_onednn_release();
}
static ij_status plain_alloc(ij_queue *q, size_t bytes, void **out) {
  (void)q;
  return (*out = ij_alloc(bytes)) ? IJ_OK : IJ_ENOMEM;
}
static void plain_free(ij_queue *q, void *p) {
  (void)q;
  ij_free(p);
}
static ij_status plain_write(ij_queue *q, void *to, const void *host, size_t n) {
  (void)q;
  memcpy(to, host, n);
  return IJ_OK;
}
static ij_status plain_read(ij_queue *q, const void *from, void *host, size_t n) {
  (void)q;
  memcpy(host, from, n);
  return IJ_OK;
}
static ij_status plain_read_begin(ij_queue *q, const void *from, size_t n, void **ticket) {
  (void)q;
  if (!(*ticket = ij_alloc(n))) return IJ_ENOMEM;
  memcpy(*ticket, from, n);
  return IJ_OK;
}
static ij_status plain_read_end(ij_queue *q, void *ticket, void *host, size_t n) {
  (void)q;
  if (host) memcpy(host, ticket, n);
  ij_free(ticket);
  return IJ_OK;
}
static ij_status plain_wait(ij_queue *q) {
  (void)q;
  return IJ_OK;
}
static void cpu_info(ij_queue *q, ij_device_info *out) {
  (void)q;
  snprintf(out->name, sizeof out->name, "CPU");
  snprintf(out->arch, sizeof out->arch, "%s", ij_cpu_isa());
  out->bf16 = strcmp(ij_cpu_matmul(), "f32") != 0;
}
static void ref_info(ij_queue *q, ij_device_info *out) {
  (void)q;
  snprintf(out->name, sizeof out->name, "reference");
}

static ij_backend plain(ij_op_table ops, void (*info)(ij_queue *, ij_device_info *)) {
  return (ij_backend){.abi = IJ_BACKEND_ABI,
                      .addressable = 1,
                      .ops = ops,
                      .open = plain_open,
                      .close = plain_close,
                      .alloc = plain_alloc,
                      .free = plain_free,
                      .write = plain_write,
                      .read = plain_read,
                      .read_begin = plain_read_begin,
                      .read_end = plain_read_end,
                      .wait = plain_wait,
                      .info = info};
}

/* ---- guard: cpu ops on memory that is unreadable except while an op or a copy runs, which proves that nothing else
 * touches a tensor's memory */
typedef struct page_run {
  struct page_run *prev, *next;
  void *ptr;
  size_t bytes;
} page_run;
typedef struct guard {
  page_run *all;
} guard;

static ij_status guard_open(int index, ij_queue *q) {
  (void)index;
  return (q->stream = ij_calloc(1, sizeof(guard))) ? IJ_OK : IJ_ENOMEM;
}
static void guard_close(ij_queue *q) {
  ij_free(q->stream);
  plain_close(q);
}
/* All memory of the device becomes readable and writable, or neither. */
static void guard_access(ij_queue *q, int access) {
  for (page_run *r = ((guard *)q->stream)->all; r; r = r->next) mprotect(r->ptr, r->bytes, access);
}

static ij_status guard_alloc(ij_queue *q, size_t bytes, void **out) {
  guard *g = q->stream;
  page_run *r = ij_calloc(1, sizeof *r);
  if (!r) return IJ_ENOMEM;
  r->bytes = (bytes + 4095) / 4096 * 4096;
  r->ptr = mmap(NULL, r->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (r->ptr == MAP_FAILED) {
    ij_free(r);
    return ij_fail(IJ_ENOMEM, "out of memory: %zu bytes on the guard device", bytes);
  }
  if ((r->next = g->all)) g->all->prev = r;
  g->all = r;
  *out = r->ptr;
  return IJ_OK;
}
static void guard_free(ij_queue *q, void *p) {
  guard *g = q->stream;
  page_run *r = g->all;
  while (r && r->ptr != p) r = r->next;
  if (!r) IJ_BUG("the guard device does not know this memory");
  munmap(r->ptr, r->bytes);
  if (r->prev) r->prev->next = r->next;
  else g->all = r->next;
  if (r->next) r->next->prev = r->prev;
  ij_free(r);
}
static ij_op_table cpu_table(void) {
  ij_op_table t;
  ij_cpu_fill(&t);
  return t;
}
/* guard_NAME: the call, with access to the device's memory */
#define GUARDED(name, params, call)                                                                                    \
  static ij_status guard_##name params {                                                                               \
    guard_access(q, PROT_READ | PROT_WRITE);                                                                           \
    ij_status st = call;                                                                                               \
    guard_access(q, PROT_NONE);                                                                                        \
    return st;                                                                                                         \
  }
GUARDED(write, (ij_queue * q, void *to, const void *host, size_t n), plain_write(q, to, host, n))
GUARDED(read, (ij_queue * q, const void *from, void *host, size_t n), plain_read(q, from, host, n))
GUARDED(read_begin, (ij_queue * q, const void *from, size_t n, void **ticket), plain_read_begin(q, from, n, ticket))
#define IJ_OP(name, params, args) GUARDED(name, params, cpu_table().name args)
IJ_OPS(IJ_OP)
#undef IJ_OP
static const ij_op_table guard_table = {
#define IJ_OP(name, params, args) .name = guard_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

bool ij_backend_host(const char *name, ij_backend *out) {
  if (!strcmp(name, "cpu")) {
    *out = plain(cpu_table(), cpu_info);
  } else if (!strcmp(name, "ref")) {
    *out = plain(ij_ref_table, ref_info);
  } else if (!strcmp(name, "guard")) {
    *out = plain(guard_table, cpu_info);
    out->addressable = 0;
    out->open = guard_open;
    out->close = guard_close;
    out->alloc = guard_alloc;
    out->free = guard_free;
    out->write = guard_write;
    out->read = guard_read;
    out->read_begin = guard_read_begin;
  } else if (!strcmp(name, "dry")) {
    *out = ij_backend_dry();
  } else {
    return false;
  }
  return true;
}
