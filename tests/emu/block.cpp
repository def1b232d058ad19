/* Blocks and their threads: fibers, the order in which they run, barriers, shared memory. One block at a time. A thread
 * that has not begun needs no fiber of its own: it runs on the stack of one that has ended. */
#include "internal.h"
#include "threads.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu {
enum { STACK = 256 << 10, PAGE = 4096, ARENA = 320 << 10, GAP = 64, ARRAYS = 64, NO_FIT = 87 };
/* The thread sanitizer knows threads by their fiber: each has its own there, two sets by turns for blocks of a stream.
 */
enum { SETS = TSAN ? 2 * STREAM_SLOTS : 1 };

struct Fiber {
  void *stack_pointer;
  char *stack;
  void *fake; /* the address sanitizer's */
  void *identity;
  Fiber *next;
  Thread *first;
};

Thread threads[THREADS];
Warp warps[THREADS / 32];
int thread_count;
Thread *current;

static struct {
  int waiting, phase, sum, all, any, result[2][3];
  Site at;
  char sync[2];
} bar;
static Thread *queue[THREADS];
static int queued, ended, set;
static Fiber host, *running = &host, *idle, *fiber_of[SETS][THREADS];
static Body *body;
static const char *name = "(host)";
static struct {
  const void *key;
  void *p;
} arrays[ARRAYS];
static int array_count;
static char *arena[SETS];
static size_t arena_used[SETS], static_bytes, dynamic_bytes;
static void *dynamic_memory;
/* A thread comes behind its grid's beginning and the blocks before its own that had the same identities, but not behind
 * threads of its own block: what they release at their end is for the next block, hence two by turns. */
static char begin_sync[STREAM_SLOTS], end_sync[SETS][2];
static int block_turn[SETS];
[[maybe_unused]] static const void *host_stack;
[[maybe_unused]] static size_t host_stack_bytes;
static uint64_t state_of_random = 88172645463325252ull;

long seed() {
  static const long value = getenv("IJ_EMU_SEED") ? atol(getenv("IJ_EMU_SEED")) : 0;
  return value;
}
unsigned random_below(unsigned n) {
  static bool begun;
  if (!begun) state_of_random ^= (uint64_t)seed() * 0x9e3779b97f4a7c15ull;
  begun = true;
  if (!state_of_random) state_of_random = 1;
  state_of_random ^= state_of_random << 13;
  state_of_random ^= state_of_random >> 7;
  state_of_random ^= state_of_random << 17;
  return (unsigned)((state_of_random >> 11) % n);
}
const char *kernel_name() { return name; }
int garbage() { return seed() & 1 ? 0x7f : 0xff; }

void fail(const char *fmt, ...) {
  va_list ap;
  fflush(stdout);
  fprintf(stderr, "emulator: %s", name);
  if (body) fprintf(stderr, ", block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
  if (current) fprintf(stderr, ", thread (%u, %u, %u)", current->index.x, current->index.y, current->index.z);
  fputs(": ", stderr);
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
#ifdef IJ_EMU_ASAN
  __sanitizer_print_stack_trace();
#endif
  _exit(86);
}

/* ---- fibers ---- */
#ifndef __x86_64__
#error "emu_switch is written for x86-64: save the callee's registers and swap stacks here"
#endif
extern "C" void emu_switch(void **save, void *to);
__asm__(".text\n.p2align 4\n.hidden emu_switch\n.globl emu_switch\n.type emu_switch, @function\nemu_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size emu_switch, . - emu_switch\n");

static void fiber_main();

static Fiber *new_fiber() {
  Fiber *f = (Fiber *)calloc(1, sizeof *f);
  char *m =
      (char *)mmap(nullptr, PAGE + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!f || m == MAP_FAILED || mprotect(m, PAGE, PROT_NONE)) {
    perror("emulator: no memory for a thread");
    _exit(NO_FIT);
  }
  f->stack = m + PAGE;
  void **top = (void **)(f->stack + STACK) - 2; /* what emu_switch pops: six registers, then where to go */
  top[0] = (void *)fiber_main;
  top[1] = nullptr;
  for (int i = 1; i <= 6; i++) top[-i] = nullptr;
  f->stack_pointer = top - 6;
  f->identity = new_identity();
  return f;
}

static void arrived(Fiber *f) {
  (void)f;
#ifdef IJ_EMU_ASAN
  const void *bottom;
  size_t n;
  __sanitizer_finish_switch_fiber(f->fake, &bottom, &n);
  if (!host_stack) host_stack = bottom, host_stack_bytes = n; /* the grid's first switch is the host's */
#endif
}

static void switch_to(Fiber *to, Thread *t) {
  Fiber *from = running;
  running = to;
  current = t;
  if (t) threadIdx = t->index;
  become(to->identity);
#ifdef IJ_EMU_ASAN
  bool back = to == &host;
  __sanitizer_start_switch_fiber(&from->fake, back ? host_stack : to->stack, back ? host_stack_bytes : (size_t)STACK);
#endif
  emu_switch(&from->stack_pointer, to->stack_pointer);
  arrived(from);
}

static Fiber *fiber_for(const Thread *t) {
  if (TSAN) return fiber_of[set][t->number];
  Fiber *f = idle;
  if (f) idle = f->next;
  return f ? f : new_fiber();
}

static void continue_with(Thread *t) {
  if (!t->fiber) {
    t->fiber = fiber_for(t);
    t->fiber->first = t;
  }
  switch_to(t->fiber, t);
}

/* ---- order ---- */
void make_ready(Thread *t) {
  t->state = READY;
  queue[queued++] = t;
}

static Thread *next_thread() {
  if (!queued) return nullptr;
  int i = seed() > 0 ? (int)random_below((unsigned)queued) : queued - 1;
  Thread *t = queue[i];
  queue[i] = queue[--queued];
  return t;
}

[[noreturn]] static void deadlock() {
  static const char *const states[] = {"not begun", "ready", "waits for its warp", "waits at a barrier", "ended"};
  fprintf(stderr, "emulator: threads of %s that cannot go on:\n", name);
  for (int i = 0, j = 0, shown = 0; i < thread_count && shown < 12; i = j, shown++) {
    const Thread &t = threads[i];
    while (j < thread_count && threads[j].state == t.state && threads[j].at.line == t.at.line) j++;
    fprintf(stderr, "  threads %d..%d: %s", i, j - 1, states[t.state]);
    if (t.state != ENDED && t.state != NEW) fprintf(stderr, " %s:%d", t.at.file, t.at.line);
    fputc('\n', stderr);
  }
  fail("deadlock: a barrier or collective that not all threads reach");
}

void wait_here(State state, Site at) {
  Thread *me = current;
  me->state = state;
  me->at = at;
  Thread *next = next_thread();
  if (!next) deadlock();
  if (next != me) continue_with(next);
}

/* ---- barriers ---- */
static void open_barrier() {
  int *result = bar.result[bar.phase++ & 1];
  result[COUNT] = bar.sum;
  result[ALL] = bar.all;
  result[ANY] = bar.any;
  bar.waiting = 0;
  for (int i = thread_count - 1; i >= 0; i--)
    if (threads[i].state == AT_BARRIER) make_ready(&threads[i]);
}

int barrier(int predicate, Vote how, Site at) {
  if (!current) fail("a barrier at %s:%d outside of a kernel", at.file, at.line);
  if (bar.waiting && !same(bar.at, at))
    fail("divergent barrier: here at %s:%d while %d threads wait at %s:%d", at.file, at.line, bar.waiting, bar.at.file,
         bar.at.line);
  refuse_if_warp_waits(at);
  if (!bar.waiting) {
    bar.at = at;
    bar.sum = bar.any = 0;
    bar.all = 1;
  }
  bar.waiting++;
  bar.sum += predicate != 0;
  bar.all &= predicate != 0;
  bar.any |= predicate != 0;
  int round = bar.phase & 1;
  release(&bar.sync[round]);
  current->state = AT_BARRIER;
  if (bar.waiting == thread_count - ended) open_barrier();
  wait_here(current->state, at);
  acquire(&bar.sync[round]);
  return bar.result[round][how];
}

int lane() { return current->number & 31; }

/* ---- shared memory ---- */
/* Aligned as asked and no better: a kernel that needs more would work by chance. */
static void *from_arena(size_t n, size_t align) {
  size_t &used = arena_used[set];
  used = (used + GAP + align - 1) & ~(align - 1);
  if (align < 64 && !(used & align)) used += align;
  char *p = arena[set] + used;
  used += n;
  if (used + GAP > ARENA) fail("the arrays of shared memory need %zu bytes", used);
  allow(p, n);
  make_garbage(p, garbage(), n);
  return p;
}

void *shared_array(const void *key, size_t size, size_t align, const char *array) {
  for (int i = 0; i < array_count; i++)
    if (arrays[i].key == key) return arrays[i].p;
  static_bytes += size;
  if (array_count == ARRAYS || static_bytes > SHARED_STATIC || static_bytes + dynamic_bytes > SHARED_MOST)
    fail("too much shared memory: %zu bytes in arrays (at '%s'; %d at most) and %zu dynamic (%d together at most)",
         static_bytes, array, (int)SHARED_STATIC, dynamic_bytes, (int)SHARED_MOST);
  arrays[array_count].key = key;
  return arrays[array_count++].p = from_arena(size, align);
}

void *shared_dynamic() {
  if (!dynamic_bytes) fail("SHARED_DYN, but the launch gives no dynamic shared memory");
  return dynamic_memory;
}

static void fresh_shared_memory() {
  array_count = 0;
  static_bytes = 0;
  forbid(arena[set], arena_used[set]);
  arena_used[set] = 0;
  dynamic_memory = dynamic_bytes ? from_arena(dynamic_bytes, 128) : nullptr;
}

/* ---- blocks and grids ---- */
static void run_thread(Thread *t) {
  t->fiber = running;
  current = t;
  threadIdx = t->index;
  acquire(&begin_sync[set / 2]);
  acquire(&end_sync[set][!block_turn[set]]);
  body->call();
  finish_copies();
  t->state = ENDED;
  ended++;
  release(&end_sync[set][block_turn[set]]);
  leave_warp(t);
  if (bar.waiting && bar.waiting == thread_count - ended) open_barrier();
}

static void fiber_main() {
  arrived(running);
  for (Fiber *me = running;;) {
    Thread *t = me->first;
    do {
      run_thread(t);
      t = next_thread();
    } while (t && !t->fiber && !TSAN);
    if (!TSAN) {
      me->next = idle;
      idle = me;
    }
    if (t) continue_with(t);
    else if (ended == thread_count) switch_to(&host, nullptr);
    else deadlock();
  }
}

static void run_block(const dim3 &size) {
  ended = queued = 0;
  block_turn[set] ^= 1;
  bar.waiting = 0;
  reset_warps();
  fresh_shared_memory();
  for (int i = 0; i < thread_count; i++) {
    Thread &t = threads[i];
    unsigned n = (unsigned)i;
    t.number = i;
    t.state = NEW;
    t.fiber = nullptr;
    t.copies = t.groups = 0;
    t.index = {n % size.x, n / size.x % size.y, n / (size.x * size.y)};
  }
  for (int i = 0; i < thread_count; i++) queue[queued++] = &threads[seed() < 0 ? i : thread_count - 1 - i];
  continue_with(next_thread());
  current = nullptr;
}

/* By the host, before the first thread runs: an identity, or memory, comes behind all that its maker has seen. */
static void make_set(int s) {
  for (int i = 0; TSAN && i < thread_count; i++)
    if (!fiber_of[s][i]) fiber_of[s][i] = new_fiber();
  if (arena[s]) return;
  arena[s] = (char *)mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena[s] == MAP_FAILED) _exit(NO_FIT);
  arena_used[s] = ARENA;
}

static unsigned long common_divisor(unsigned long a, unsigned long b) { return b ? common_divisor(b, a % b) : a; }

void run_grid(const char *kernel, dim3 grid, dim3 block, size_t dynamic, Body *b, int slot) {
  unsigned long n = (unsigned long)grid.x * grid.y * grid.z, step = 1, first = 0;
  name = kernel;
  body = b;
  gridDim = grid;
  blockDim = block;
  dynamic_bytes = dynamic;
  host.identity = identity();
  host_stack = nullptr;
  slot %= STREAM_SLOTS;
  thread_count = (int)(block.x * block.y * block.z);
  for (int i = 0; i < (TSAN ? 2 : 1); i++) make_set(TSAN ? 2 * slot + i : 0);
  if (seed() > 0) { /* blocks come in no order */
    first = random_below(1u << 20);
    do step = 1 + random_below((unsigned)(n < 1u << 20 ? n : 1u << 20));
    while (common_divisor(step, n) != 1);
  }
  release(&begin_sync[slot]);
  for (unsigned long i = 0; i < n; i++) {
    unsigned long at = seed() < 0 ? n - 1 - i : (i * step + first) % n;
    blockIdx = {(unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y)};
    set = !TSAN ? 0 : 2 * slot + (seed() > 0 ? (int)random_below(2) : (int)(i & 1));
    run_block(block);
  }
  for (int i = 0; TSAN && i < 4; i++) acquire(&end_sync[2 * slot + i / 2][i % 2]);
  name = "(host)";
  body = nullptr;
}
} // namespace emu
