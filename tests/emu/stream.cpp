/* Streams are queues that run late: nothing is done before something waits for it, and then no more than that needs
 * (IJ_EMU_SEED 0), others first (-1), or in random turns, so that a missing wait shows. */
#include "internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct CUevent_st {
  unsigned long recorded, done; /* how often */
  double time;
  int users;
  char sync;
};
namespace emu {
struct Item {
  Item *next;
  Work *work;
  const char *what;
  CUevent_st *event;
  unsigned long number, round; /* of all; of the event */
  bool waits;
  char sync;
};
} // namespace emu
struct CUstream_st {
  emu::Item *first, **end;
  bool blocking, dead; /* blocking: in order with the default stream */
  int slot, priority;
  void *identity;
  CUstream_st *next;
  char sync;
};

namespace emu {
enum { STREAMS = 64, QUEUED_MOST = 1 << 14 };
static CUstream_st default_stream, *streams;
static unsigned long last_number;
static int stream_number, queued;

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void begin(CUstream_st *s, bool blocking, int priority) {
  s->end = &s->first;
  s->blocking = blocking;
  s->priority = priority;
  s->slot = stream_number++;
  s->identity = new_identity();
  CUstream_st **last = &streams;
  while (*last) last = &(*last)->next;
  *last = s;
}
static CUstream_st *stream_of(cudaStream_t s) {
  if (!default_stream.end) begin(&default_stream, true, 0);
  if (s == cudaStreamPerThread) fail("cudaStreamPerThread is not emulated");
  if (!s || s == cudaStreamLegacy) return &default_stream;
  for (CUstream_st *t = streams; t; t = t->next)
    if (t == s) return t;
  fail("stream %p is none, or was destroyed", (void *)s);
}

static void let_go(CUevent_st *e) {
  if (e && !--e->users) delete e;
}

static void push(cudaStream_t stream, Work *work, const char *what, CUevent_st *event, bool waits) {
  CUstream_st *s = stream_of(stream);
  if (state()) { /* lost: nothing runs any more */
    delete work;
    return;
  }
  while (queued > QUEUED_MOST && progress()) {}
  Item *item = new Item();
  item->work = work;
  item->what = what;
  item->event = event;
  item->waits = waits;
  item->number = ++last_number;
  if (event) {
    event->users++;
    item->round = waits ? event->recorded : ++event->recorded;
  }
  release(&item->sync);
  *s->end = item;
  s->end = &item->next;
  queued++;
}
void enqueue(cudaStream_t stream, Work *work, const char *what) { push(stream, work, what, nullptr, false); }

static Item *unlink_first(CUstream_st *s) {
  Item *item = s->first;
  s->first = item->next;
  if (!s->first) s->end = &s->first;
  queued--;
  return item;
}
static void discard(Item *item) {
  let_go(item->event);
  delete item->work;
  delete item;
}
void drop_all() {
  for (CUstream_st *s = streams; s; s = s->next)
    while (s->first) discard(unlink_first(s));
}
bool anything_queued() { return queued > 0; }

/* The default stream and blocking ones order each other by the time of their calls. */
static bool behind(const CUstream_st *s, const CUstream_st *other) {
  if (s == other || !other->first || other->first->number > s->first->number) return false;
  return (s == &default_stream && other->blocking) || (other == &default_stream && s->blocking);
}
static bool is_ready(const CUstream_st *s) {
  const Item *item = s->first;
  if (!item || (item->waits && item->event->done < item->round)) return false;
  for (CUstream_st *o = streams; o; o = o->next)
    if (behind(s, o)) return false;
  return true;
}

static bool carry_out(CUstream_st *s) {
  Item *item = s->first;
  CUevent_st *e = item->event;
  void *me = identity();
  bool done = true;
  double start = e ? now() : 0; /* asked by the host: the answer's place on its stack would count as the stream's */
  become(s->identity);
  for (CUstream_st *o = streams; o; o = o->next)
    if ((s == &default_stream && o->blocking) || (o == &default_stream && s->blocking)) acquire(&o->sync);
  acquire(&item->sync);
  if (item->waits) acquire(&e->sync);
  if (item->work) {
    Access open;
    done = item->work->run();
  }
  if (done && e && !item->waits) {
    e->done = item->round;
    e->time = start;
    release(&e->sync);
  }
  release(&s->sync);
  if (done && s->first == item) { /* the device may have been lost meanwhile */
    unlink_first(s);
    discard(item);
  }
  become(me);
  return done;
}

/* One operation; of those that can go on `wanted` comes first, last or at random. */
static bool step(CUstream_st *wanted) {
  CUstream_st *ready[STREAMS];
  unsigned n = 0;
  for (CUstream_st *s = streams; s && n < STREAMS; s = s->next)
    if (is_ready(s)) ready[n++] = s;
  if (!n) return false;
  unsigned at = seed() > 0 ? random_below(n) : 0;
  for (unsigned i = 0; i < n && seed() <= 0; i++)
    if ((ready[i] == wanted) == (seed() == 0)) at = i;
  for (unsigned i = 0; i < n; i++)
    if (carry_out(ready[(at + i) % n])) return true;
  return false;
}
bool progress() { return step(nullptr); }

static void pause_or_fail() { /* nothing can be done: for other processes there is something to wait for */
  bool others = false;
  for (CUstream_st *s = streams; s; s = s->next) others |= is_ready(s);
  if (!others) fail("streams wait for an event that nothing will record");
  timespec t = {0, 50000};
  nanosleep(&t, nullptr);
}
static cudaError_t synchronize(CUstream_st *s) {
  if (s->first) {
    Access open;
    while (s->first)
      if (!step(s)) pause_or_fail();
    check_canaries();
  }
  acquire(&s->sync);
  memory_synced();
  return state();
}
static cudaError_t synchronize_all() {
  stream_of(nullptr);
  if (queued) {
    Access open;
    while (queued)
      if (!progress()) pause_or_fail();
    check_canaries();
  }
  for (CUstream_st *s = streams; s; s = s->next) acquire(&s->sync);
  memory_synced();
  return state();
}

/* ---- kernels ---- */
struct Attribute {
  const void *function;
  size_t dynamic;
  Attribute *next;
};
static Attribute *attributes;
static size_t dynamic_limit(const void *function) {
  for (Attribute *a = attributes; a; a = a->next)
    if (a->function == function) return a->dynamic;
  return SHARED_STATIC;
}

struct Grid : Work {
  const char *name;
  dim3 grid, block;
  size_t dynamic;
  Body *body;
  int slot;
  bool run() override {
    body->check(name, true);
    run_grid(name, grid, block, dynamic, body, slot);
    return true;
  }
  ~Grid() override { delete body; }
};

static bool fits(dim3 g, dim3 b) {
  return g.x && g.y && g.z && g.x <= 2147483647u && g.y <= 65535 && g.z <= 65535 && b.x && b.y && b.z && b.x <= 1024 &&
         b.y <= 1024 && b.z <= 64 && (size_t)b.x * b.y * b.z <= 1024;
}

void launch(const char *name, const void *function, dim3 g, dim3 b, size_t dynamic, cudaStream_t stream, Body *body) {
  Enter call;
  if (!call.error && (!fits(g, b) || dynamic > dynamic_limit(function))) {
    fprintf(stderr,
            "emulator: launch of %s refused: grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of dynamic shared memory"
            ", %zu allowed\n",
            name, g.x, g.y, g.z, b.x, b.y, b.z, dynamic, dynamic_limit(function));
    call.error = failed(cudaErrorInvalidConfiguration);
  }
  if (call.error) {
    delete body;
    return;
  }
  body->check(name, false);
  Grid *work = new Grid();
  work->name = name;
  work->grid = g;
  work->block = b;
  work->dynamic = dynamic;
  work->body = body;
  work->slot = stream_of(stream)->slot;
  enqueue(stream, work, name);
  count_launch();
}

/* ---- copies ---- */
static void copy_bytes(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDeviceToHost) check_range(to, n, "destination of a copy");
  if (kind != cudaMemcpyHostToDevice) check_range(from, n, "source of a copy");
#ifdef IJ_EMU_MSAN
  if (kind == cudaMemcpyDeviceToHost) will_read(from, n);
#endif
  memcpy(to, from, n);
}

static cudaMemcpyKind resolved(void *to, const void *from, cudaMemcpyKind kind) {
  bool to_device = is_device(to), from_device = is_device(from);
  cudaMemcpyKind real = to_device ? (from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                                  : (from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
  return kind == cudaMemcpyDefault ? real : kind;
}

/* From pageable memory: its bytes as they are now. To pageable memory: there when the call returns. Pinned memory is
 * read and written when the stream comes to it. */
static cudaError_t copy(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!n) return cudaSuccess;
  if (in_device_space(to)) check_pointer(to, "destination of a copy", false);
  if (in_device_space(from)) check_pointer(from, "source of a copy", false);
  kind = resolved(to, from, kind);
  if (kind == cudaMemcpyHostToHost) {
    cudaError_t e = synchronize(stream_of(stream));
    memcpy(to, from, n);
    return e;
  }
  if (kind == cudaMemcpyHostToDevice && is_device(from))
    fail("source of a copy: %p is the device's, not the host's", from);
  if (kind == cudaMemcpyDeviceToHost && is_device(to))
    fail("destination of a copy: %p is the device's, not the host's", to);
  if (kind == cudaMemcpyHostToDevice && !is_pinned(from)) {
    void *staged = malloc(n);
    memcpy(staged, from, n);
    enqueue_call(stream, "cudaMemcpyAsync", [=] {
      copy_bytes(to, staged, n, kind);
      free(staged);
    });
    return cudaSuccess;
  }
  enqueue_call(stream, "cudaMemcpyAsync", [=] { copy_bytes(to, from, n, kind); });
  return kind == cudaMemcpyDeviceToHost && !is_pinned(to) ? synchronize(stream_of(stream)) : cudaSuccess;
}
} // namespace emu

using namespace emu;
extern "C" {
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
  Enter call;
  return call.error ? call.error : copy(to, from, n, kind, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind) {
  Enter call;
  cudaError_t e = call.error ? call.error : copy(to, from, n, kind, nullptr);
  return e || (kind == cudaMemcpyHostToDevice && !is_pinned(from)) ? e : synchronize(stream_of(nullptr));
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t stream) {
  Enter call;
  if (call.error || !n) return call.error;
  enqueue_call(stream, "cudaMemsetAsync", [=] {
    check_range(p, n, "cudaMemset");
    memset(p, value, n);
  });
  return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int value, size_t n) { return cudaMemsetAsync(p, value, n, nullptr); }
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  Enter call;
  if (call.error) return call.error;
  enqueue_call(stream, "cudaLaunchHostFunc", [=] {
    in_callback = true;
    function(data);
    in_callback = false;
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority) {
  Enter call;
  if (call.error) return call.error;
  stream_of(nullptr);
  CUstream_st *s = new CUstream_st();
  begin(s, !(flags & cudaStreamNonBlocking), priority);
  *out = s;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
  return cudaStreamCreateWithPriority(out, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t *out) { return cudaStreamCreateWithPriority(out, cudaStreamDefault, 0); }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *out) {
  Enter call;
  if (!call.error) *out = stream_of(s)->priority;
  return call.error;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  Enter call;
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return call.error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  Enter call;
  return call.error ? call.error : synchronize(stream_of(s));
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Enter call;
  if (call.error) return call.error;
  CUstream_st *s = stream_of(stream);
  if (s->first) {
    Access open;
    step(s);
    return s->first ? cudaErrorNotReady : state();
  }
  acquire(&s->sync);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { /* what is queued is still done */
  Enter call;
  CUstream_st *s = stream_of(stream);
  cudaError_t e = call.error ? call.error : synchronize(s);
  for (CUstream_st **p = &streams; *p; p = &(*p)->next) {
    if (*p != s) continue;
    *p = s->next;
    break;
  }
  free_identity(s->identity);
  delete s;
  return e;
}
cudaError_t cudaDeviceSynchronize(void) {
  Enter call;
  return call.error ? call.error : synchronize_all();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned) {
  Enter call;
  if (call.error) return call.error;
  CUevent_st *e = new CUevent_st();
  e->users = 1;
  *out = e;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *out) { return cudaEventCreateWithFlags(out, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  Enter call;
  let_go(e);
  return call.error;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  Enter call;
  if (!call.error) push(s, nullptr, "cudaEventRecord", e, false);
  return call.error;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  Enter call;
  if (!call.error) push(s, nullptr, "cudaStreamWaitEvent", e, true);
  return call.error;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  Enter call;
  if (call.error) return call.error;
  if (e->done < e->recorded) {
    Access open;
    while (e->done < e->recorded && !state())
      if (!progress()) pause_or_fail();
  }
  acquire(&e->sync);
  memory_synced();
  return state();
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  Enter call;
  if (call.error) return call.error;
  if (e->done < e->recorded) {
    Access open;
    progress();
    if (state()) return state();
    if (e->done < e->recorded) return failed(cudaErrorNotReady); /* as some runtimes do: the next call reports it */
  }
  acquire(&e->sync);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
  Enter call;
  if (call.error) return call.error;
  if (!a->recorded || !b->recorded) return failed(cudaErrorInvalidResourceHandle);
  if (a->done < a->recorded || b->done < b->recorded) return failed(cudaErrorNotReady);
  *ms = (float)(b->time - a->time);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute attribute, int value) {
  Enter call;
  if (call.error) return call.error;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > SHARED_MOST) return failed(cudaErrorInvalidValue);
  for (Attribute *a = attributes; a; a = a->next) {
    if (a->function != function) continue;
    a->dynamic = (size_t)value;
    return cudaSuccess;
  }
  attributes = new Attribute{function, (size_t)value, attributes};
  return cudaSuccess;
}
}
