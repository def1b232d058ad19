/* Memory of the device: blocks in a range of addresses that are never given out twice, so that a pointer into freed
 * memory stays wrong; red zones between them. Without sanitizers the range is closed to the host (Access). */
#include "internal.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

namespace emu {
static const size_t SPACE = PLAIN ? (size_t)4 << 40 : (size_t)256 << 30, GRAIN = 256, CHUNK = 2 << 20, SMALL = 65536;
enum { CANARY = 0xa5 };

enum Life { EXPECTED, ALIVE, CONDEMNED }; /* in the order of its stream: not there yet, there, to be freed */
struct Block {
  char *p;
  size_t n;
  Life life;
  bool pooled;
};
static Block *blocks;           /* by address */
static const char *removed[64]; /* blocks that are gone, the last ones */
static unsigned removals;
static size_t count, capacity;
static char *space;
static size_t used, lowest, open_to; /* of the range; blocks lie in [lowest, used) */
struct Pinned {
  char *p;
  size_t n;
  bool registered;
  Pinned *next;
};
static Pinned *pinned;
static size_t plain_bytes; /* of cudaMalloc */
static struct { uint64_t used, used_most, held, held_most, threshold; } pool;
static int accesses;

static void set_access(bool yes) {
  if (PLAIN && open_to > lowest) mprotect(space + lowest, open_to - lowest, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
}
Access::Access() {
  if (!accesses++) set_access(true);
}
Access::~Access() {
  if (!--accesses) set_access(false);
}

/* Opens n bytes alone, which is cheaper, for the emulator's own hand. */
struct Opened {
  char *p;
  size_t n;
  Opened(char *at, size_t bytes) : p((char *)((uintptr_t)at & ~(uintptr_t)4095)), n(bytes + (size_t)(at - p)) {
    set(true);
  }
  ~Opened() { set(false); }
  void set(bool yes) const {
    if (PLAIN && !accesses) mprotect(p, n, yes ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
};

/* In a build without sanitizers: says who touched what, and dies as it would have */
static void on_fault(int sig, siginfo_t *info, void *) {
  char text[256];
  bool device = in_device_space(info->si_addr), kernel = strcmp(kernel_name(), "(host)") != 0;
  int n = snprintf(text, sizeof text, "emulator: %s%s %p%s\n", kernel ? kernel_name() : "the host",
                   device && !kernel ? " touches device memory" : " touches what is not there or not aligned",
                   info->si_addr, device && !kernel ? ": only copies may" : "");
  if (write(2, text, (size_t)n) < n) {}
  signal(sig, SIG_DFL);
}
static void watch_faults() {
  struct sigaction now, ours = {};
  ours.sa_sigaction = on_fault;
  ours.sa_flags = SA_SIGINFO;
  if (PLAIN && !sigaction(SIGSEGV, nullptr, &now) && now.sa_handler == SIG_DFL) sigaction(SIGSEGV, &ours, nullptr);
}

static size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }
static size_t red_zone(const Block &b) { return rounded(b.n, GRAIN) + GRAIN - b.n; }

static char *address(size_t n) {
  if (!space) {
    space = (char *)mmap(nullptr, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    watch_faults();
    if (space == MAP_FAILED) fail("no capacity for %zu bytes of addresses", SPACE);
  }
  size_t need = rounded(n, GRAIN) + GRAIN;
  if (used + need > SPACE) fail("%zu bytes of device addresses are used up", SPACE);
  if (used + need > open_to) {
    size_t more = rounded(used + need, CHUNK);
    if ((accesses || !PLAIN) && mprotect(space + open_to, more - open_to, PROT_READ | PROT_WRITE)) return nullptr;
    open_to = more;
  }
  char *p = space + used;
  used += need;
  return p;
}

static Block *block_at(const void *p) { /* the last that begins at or before p */
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if ((const char *)p < blocks[middle].p) high = middle;
    else low = middle + 1;
  }
  return low ? &blocks[low - 1] : nullptr;
}
static Block *block_of(const void *p) { /* its end belongs to it: a pointer there is fine */
  Block *b = block_at(p);
  return b && (const char *)p <= b->p + b->n ? b : nullptr;
}
static Pinned *pinned_of(const void *p) {
  for (Pinned *b = pinned; b; b = b->next)
    if ((const char *)p >= b->p && (const char *)p < b->p + b->n) return b;
  return nullptr;
}
bool is_device(const void *p) { return block_of(p); }
bool is_pinned(const void *p) { return pinned_of(p); }
bool in_device_space(const void *p) { return space && (const char *)p >= space && (const char *)p < space + used; }

/* ---- blocks ---- */
/* Pages of a large block that nobody touches are not made: without a sanitizer its beginning is garbage, the rest 0. */
static void fill_new(char *p, size_t n) { make_garbage(p, garbage(), PLAIN && n > 4 * CHUNK ? CHUNK : n); }

static Block *new_block(size_t n, bool pooled) {
  char *p = address(n);
  if (!p) return nullptr;
  if (count == capacity) {
    Block *more = (Block *)realloc(blocks, sizeof *blocks * (capacity = 2 * capacity + 256));
    if (!more) return nullptr;
    blocks = more;
  }
  Block *b = &blocks[count++];
  *b = {p, n, pooled ? EXPECTED : ALIVE, pooled};
  Opened open(p, n + red_zone(*b));
  fill_quietly(p + n, CANARY, red_zone(*b));
  forbid(p + n, red_zone(*b));
  if (pooled) forbid(p, n);
  else fill_new(p, n);
  return b;
}

static void check_canary(const Block &b) {
  if (!PLAIN) return; /* the address sanitizer sees the write itself */
  for (size_t i = b.n; i < b.n + red_zone(b); i++)
    if ((unsigned char)b.p[i] != CANARY) fail("a kernel wrote %zu bytes behind a block of %zu bytes", i - b.n + 1, b.n);
}
void check_canaries() {
  for (size_t i = 0; PLAIN && i < count; i++) check_canary(blocks[i]);
}

/* Large ranges with their page tables: Access would walk them for ever */
static void give_back(void *p, size_t n) {
  if (PLAIN && n >= CHUNK)
    mmap(p, n, accesses ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
         -1, 0);
  else madvise(p, n, MADV_DONTNEED);
}

/* Its pages, and those of blocks beside it that are gone, go back to the system; what is left reads as garbage. */
static void remove_block(Block *b) {
  char *from = b > blocks ? b[-1].p + b[-1].n + red_zone(b[-1]) : space + lowest;
  char *to = b + 1 < blocks + count ? b[1].p : space + used;
  removed[removals++ % 64] = b->p;
  {
    Opened open(b->p, b->n + red_zone(*b));
    check_canary(*b);
    fill_quietly(b->p, 0xff, b->n < SMALL ? b->n : SMALL);
    forbid(b->p, b->n);
#ifdef IJ_EMU_MSAN
    __msan_poison(b->p, b->n);
#endif
  }
  from = (char *)rounded((uintptr_t)from, 4096);
  to = (char *)((uintptr_t)to & ~(uintptr_t)4095);
  if (to >= from + SMALL) give_back(from, (size_t)(to - from));
  for (Block *end = blocks + --count; b < end; b++) b[0] = b[1];
  if (count || !PLAIN) return;
  mprotect(space + lowest, open_to - lowest, PROT_NONE); /* nothing below can be alive again */
  lowest = used = open_to = rounded(used, CHUNK);
}

/* ---- what a kernel or a copy may touch ---- */
static void check_life(const Block *b, const void *p, const char *what, bool in_turn) {
  if (b->life == CONDEMNED && !in_turn) fail("%s: %p is used after cudaFreeAsync", what, p);
  if (b->life == EXPECTED && in_turn)
    fail("%s: %p is used before its cudaMallocAsync: no event between the streams", what, p);
}

void check_pointer(const void *p, const char *what, bool in_turn) {
  if (!p || pinned_of(p)) return;
  if (const Block *b = block_of(p)) return check_life(b, p, what, in_turn);
  if (in_device_space(p))
    fail("%s: %p is in no block: freed, or outside of all%s", what, p,
         in_turn ? " (no event between the streams?)" : "");
  fail("%s: %p is not device or pinned memory", what, p);
}

/* Numbers, and what lies between them, may look like pointers: only what is hardly one by chance is refused. A float
   beside padding that still holds half of an old pointer is one; elements of 4 bytes and more lie on multiples of 4. */
void check_words(const void *words, size_t n, const char *what, bool in_turn) {
  char *here = (char *)__builtin_frame_address(0);
  for (size_t i = 0; i + sizeof(void *) <= n; i += sizeof(void *)) {
    char *p;
    if (!has_value((const char *)words + i, sizeof p)) continue; /* a pointer would */
    memcpy(&p, (const char *)words + i, sizeof p);
    if (!p || (uintptr_t)p % 4) continue;
    for (const char *dead : removed)
      if (p == dead) check_pointer(p, what, in_turn);
    if (const Block *b = block_of(p)) check_life(b, p, what, in_turn);
    if (PLAIN && p > here - (1 << 20) && p < here + (1 << 20) && !in_turn)
      fail("%s: %p, in a struct, is the host's stack, not device memory", what, (void *)p);
  }
}

void check_range(const void *p, size_t n, const char *what) {
  if (!n) return;
  if (const Pinned *b = pinned_of(p)) {
    if ((size_t)(b->p + b->n - (const char *)p) < n) fail("%s: %zu bytes at %p leave their pinned block", what, n, p);
    return;
  }
  check_pointer(p, what, true);
  const Block *b = p ? block_of(p) : nullptr;
  if (!b) fail("%s: a null pointer", what);
  size_t left = (size_t)(b->p + b->n - (const char *)p);
  if (left < n) fail("%s: %zu bytes at %p, but only %zu are left in its block", what, n, p, left);
}

/* ---- allocation ---- */
static size_t free_bytes() {
  size_t held = plain_bytes + pool.held;
  return held < gpu_bytes() ? gpu_bytes() - held : 0;
}
static void trim(uint64_t keep) {
  uint64_t least = pool.used > keep ? pool.used : keep;
  if (pool.held > least) pool.held = least;
}
void memory_synced() { trim(pool.threshold); }

/* IJ_EMU_FAIL_ALLOCATION=N, set and taken away as the process runs: the Nth allocation from then on finds no memory. */
static bool told_to_fail() {
  const char *text = getenv("IJ_EMU_FAIL_ALLOCATION");
  long n = text ? atol(text) : 0;
  char left[24];
  if (n < 1) return false;
  snprintf(left, sizeof left, "%ld", n - 1);
  setenv("IJ_EMU_FAIL_ALLOCATION", left, 1);
  return n == 1;
}

static cudaError_t allocate(void **p, size_t n) {
  *p = nullptr;
  if (!n) return cudaSuccess;
  if (told_to_fail()) return failed(cudaErrorMemoryAllocation);
  if (n > free_bytes()) trim(0);
  Block *b = n <= free_bytes() ? new_block(n, false) : nullptr;
  if (!b) return failed(cudaErrorMemoryAllocation);
  plain_bytes += n;
  *p = b->p;
  return cudaSuccess;
}

static cudaError_t allocate_in_turn(void **p, size_t n, cudaStream_t stream) {
  *p = nullptr;
  if (!has_pools()) return failed(cudaErrorNotSupported);
  if (!n) return cudaSuccess;
  if (told_to_fail()) return failed(cudaErrorMemoryAllocation);
  if (pool.used + n > pool.held && pool.used + n - pool.held > free_bytes()) return failed(cudaErrorMemoryAllocation);
  Block *b = new_block(n, true);
  if (!b) return failed(cudaErrorMemoryAllocation);
  pool.used += n;
  if (pool.used > pool.held) pool.held = pool.used;
  if (pool.used > pool.used_most) pool.used_most = pool.used;
  if (pool.held > pool.held_most) pool.held_most = pool.held;
  char *at = b->p;
  *p = at;
  enqueue_call(stream, "cudaMallocAsync", [at, n] {
    block_of(at)->life = ALIVE;
    allow(at, n);
    will_write(at, n); /* by its stream: others have to wait for that */
    fill_new(at, n);
  });
  return cudaSuccess;
}

static cudaError_t free_in_turn(void *p, cudaStream_t stream) {
  Block *b = block_of(p);
  if (!p) return cudaSuccess;
  if (!b || b->p != p || b->life == CONDEMNED) return failed(cudaErrorInvalidValue);
  b->life = CONDEMNED;
  if (b->pooled) pool.used -= b->n;
  else plain_bytes -= b->n;
  enqueue_call(stream, "cudaFreeAsync", [p] {
    Block *dead = block_of(p);
    if (TSAN) will_write(p, dead->n);
    remove_block(dead);
  });
  return cudaSuccess;
}

static cudaError_t allocate_pinned(void **p, size_t n) {
  *p = nullptr;
  if (!n) return cudaSuccess;
  Pinned *b = (Pinned *)calloc(1, sizeof *b);
  void *q = nullptr;
  if (!b || posix_memalign(&q, 4096, n)) {
    free(b);
    return failed(cudaErrorMemoryAllocation);
  }
  make_garbage(q, garbage(), n);
  *b = {(char *)q, n, false, pinned};
  pinned = b;
  *p = q;
  return cudaSuccess;
}
static cudaError_t free_pinned(void *p, bool registered) {
  for (Pinned **b = &pinned; *b; b = &(*b)->next) {
    Pinned *dead = *b;
    if (dead->p != p || dead->registered != registered) continue;
    *b = dead->next;
    if (!registered) free(dead->p);
    free(dead);
    return cudaSuccess;
  }
  return failed(cudaErrorInvalidValue);
}
} // namespace emu

using namespace emu;
static cudaMemPool_t the_pool() { return (cudaMemPool_t)&pool; }

extern "C" {
cudaError_t cudaMalloc(void **p, size_t n) {
  Enter call;
  return call.error ? call.error : allocate(p, n);
}
cudaError_t cudaFree(void *p) {
  if (p) cudaDeviceSynchronize();
  Enter call;
  if (call.error || !p) return call.error;
  Block *b = block_of(p);
  if (!b || b->p != p) return failed(cudaErrorInvalidValue);
  if (b->pooled) pool.used -= b->n;
  else plain_bytes -= b->n;
  remove_block(b);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t stream) {
  Enter call;
  return call.error ? call.error : allocate_in_turn(p, n, stream);
}
cudaError_t cudaMallocFromPoolAsync(void **p, size_t n, cudaMemPool_t from, cudaStream_t stream) {
  Enter call;
  if (call.error) return call.error;
  return from == the_pool() ? allocate_in_turn(p, n, stream) : failed(cudaErrorInvalidValue);
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t stream) {
  Enter call;
  return call.error ? call.error : free_in_turn(p, stream);
}
cudaError_t cudaMallocHost(void **p, size_t n) {
  Enter call;
  return call.error ? call.error : allocate_pinned(p, n);
}
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) { return cudaMallocHost(p, n); }
cudaError_t cudaFreeHost(void *p) {
  if (p) cudaDeviceSynchronize();
  Enter call;
  return !p ? cudaSuccess : free_pinned(p, false); /* even where the device is lost: it is the host's memory */
}
cudaError_t cudaHostRegister(void *p, size_t n, unsigned) {
  Enter call;
  if (call.error) return call.error;
  Pinned *b = (Pinned *)calloc(1, sizeof *b);
  *b = {(char *)p, n, true, pinned};
  pinned = b;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) {
  cudaDeviceSynchronize();
  Enter call;
  return free_pinned(p, true);
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
  Enter call;
  if (call.error) return call.error;
  *total = gpu_bytes();
  *free = free_bytes();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *out, int device) {
  Enter call;
  if (call.error) return call.error;
  if (!has_pools()) return failed(cudaErrorNotSupported);
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  *out = the_pool();
  return cudaSuccess;
}
cudaError_t cudaDeviceGetMemPool(cudaMemPool_t *out, int device) { return cudaDeviceGetDefaultMemPool(out, device); }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t keep) {
  Enter call;
  if (!call.error) trim(keep);
  return call.error;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t p, cudaMemPoolAttr attribute, void *value) {
  Enter call;
  if (call.error) return call.error;
  if (p != the_pool()) return failed(cudaErrorInvalidValue);
  if (attribute == cudaMemPoolAttrReleaseThreshold) pool.threshold = *(uint64_t *)value;
  else if (attribute == cudaMemPoolAttrReservedMemHigh && !*(uint64_t *)value) pool.held_most = pool.held;
  else if (attribute == cudaMemPoolAttrUsedMemHigh && !*(uint64_t *)value) pool.used_most = pool.used;
  else if (attribute > cudaMemPoolReuseAllowInternalDependencies) return failed(cudaErrorInvalidValue);
  return cudaSuccess;
}
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, cudaMemPoolAttr attribute, void *value) {
  Enter call;
  if (call.error) return call.error;
  uint64_t *out = (uint64_t *)value;
  if (p != the_pool()) return failed(cudaErrorInvalidValue);
  if (attribute == cudaMemPoolAttrReleaseThreshold) *out = pool.threshold;
  else if (attribute == cudaMemPoolAttrReservedMemCurrent) *out = pool.held;
  else if (attribute == cudaMemPoolAttrReservedMemHigh) *out = pool.held_most;
  else if (attribute == cudaMemPoolAttrUsedMemCurrent) *out = pool.used;
  else if (attribute == cudaMemPoolAttrUsedMemHigh) *out = pool.used_most;
  else return failed(cudaErrorInvalidValue);
  return cudaSuccess;
}
}
