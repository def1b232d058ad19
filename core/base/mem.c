#include "base.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* Each block has a header of one cache line in front, so that live bytes can be counted and 64-byte alignment kept. */
enum { HEAD = 64, HUGE_FROM = 4 << 20 };
static atomic_size_t live, peak;
static atomic_int_least64_t fail_at;

size_t ij_mem_live(void) { return atomic_load(&live); }
size_t ij_mem_peak(void) { return atomic_load(&peak); }
void ij_mem_peak_reset(void) { atomic_store(&peak, atomic_load(&live)); }
void ij_mem_fail_at(int64_t n) { atomic_store(&fail_at, n); }

size_t ij_rss_peak(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (size_t)u.ru_maxrss * 1024;
}

static bool told_to_fail(void) {
  return atomic_load_explicit(&fail_at, memory_order_relaxed) > 0 && atomic_fetch_sub(&fail_at, 1) == 1;
}

static void count(size_t bytes) {
  size_t now = atomic_fetch_add(&live, bytes) + bytes, top = atomic_load(&peak);
  while (now > top && !atomic_compare_exchange_weak(&peak, &top, now)) {}
}

void *ij_alloc(size_t bytes) {
  char *p = NULL;
  if (bytes > SIZE_MAX - 2 * HEAD || told_to_fail() ||
      !(p = aligned_alloc(HEAD, (bytes + 2 * HEAD - 1) / HEAD * HEAD))) {
    ij_fail(IJ_ENOMEM, "out of memory: %zu bytes asked for, %zu held; lower data.batch or the model's size", bytes,
            ij_mem_live());
    return NULL;
  }
  if (bytes >= HUGE_FROM) { /* fewer misses of the page table; a hint, so failure is fine */
    uintptr_t page = ((uintptr_t)p + 4095) & ~(uintptr_t)4095;
    madvise((void *)page, bytes - 4096, MADV_HUGEPAGE);
  }
  *(size_t *)(void *)p = bytes;
  count(bytes);
  return p + HEAD;
}

void *ij_calloc(size_t n, size_t size) {
  if (size && n > SIZE_MAX / size) {
    ij_fail(IJ_ENOMEM, "out of memory: %zu items of %zu bytes asked for", n, size);
    return NULL;
  }
  void *p = ij_alloc(n * size);
  if (p) memset(p, 0, n * size);
  return p;
}

void ij_free(void *p) {
  if (!p) return;
  char *block = (char *)p - HEAD;
  atomic_fetch_sub(&live, *(size_t *)(void *)block);
  free(block);
}

void *ij_realloc(void *p, size_t bytes) {
  void *q = ij_alloc(bytes);
  if (q && p) {
    size_t old = *(size_t *)(void *)((char *)p - HEAD);
    memcpy(q, p, old < bytes ? old : bytes);
    ij_free(p);
  }
  return q;
}

char *ij_strdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *p = ij_alloc(n);
  if (p) memcpy(p, s, n);
  return p;
}

char *ij_format(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *p = ij_alloc((size_t)n + 1);
  if (!p) return NULL;
  va_start(ap, fmt);
  vsnprintf(p, (size_t)n + 1, fmt, ap);
  va_end(ap);
  return p;
}
