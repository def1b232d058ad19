/* One spelling of what the sanitizers offer. With the thread sanitizer the emulator itself is compiled without it
 * (IJ_EMU_TSAN): what it does on behalf of a thread is announced. */
#ifndef IJ_EMU_SAN_H
#define IJ_EMU_SAN_H
#include <stddef.h>
#include <string.h>
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define IJ_EMU_MSAN
#endif
#if __has_feature(address_sanitizer)
#define IJ_EMU_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(IJ_EMU_ASAN)
#define IJ_EMU_ASAN
#endif
#ifdef IJ_EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef IJ_EMU_MSAN
#include <sanitizer/msan_interface.h>
#endif
#ifdef IJ_EMU_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void *, unsigned long);
extern "C" void __tsan_write_range(void *, unsigned long);
#endif

namespace emu {
#ifdef IJ_EMU_TSAN
enum { TSAN = 1 };
inline void acquire(void *p) { __tsan_acquire(p); }
inline void release(void *p) { __tsan_release(p); }
inline void *new_identity() { return __tsan_create_fiber(0); }
inline void free_identity(void *p) { __tsan_destroy_fiber(p); }
inline void *identity() { return __tsan_get_current_fiber(); }
inline void become(void *p) { __tsan_switch_to_fiber(p, __tsan_switch_to_fiber_no_sync); }
#else
enum { TSAN = 0 };
inline void acquire(void *) {}
inline void release(void *) {}
inline void *new_identity() { return nullptr; }
inline void free_identity(void *) {}
inline void *identity() { return nullptr; }
inline void become(void *) {}
#endif
#if defined(IJ_EMU_TSAN) || defined(IJ_EMU_ASAN) || defined(IJ_EMU_MSAN)
enum { PLAIN = 0 };
#else
enum { PLAIN = 1 };
#endif

#ifdef IJ_EMU_ASAN
inline void forbid(const void *p, size_t n) { __asan_poison_memory_region(p, n); }
inline void allow(const void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
inline void forbid(const void *, size_t) {}
inline void allow(const void *, size_t) {}
#endif

/* Code that no sanitizer sees reads, or has written, n bytes. */
inline void will_read(const void *p, size_t n) {
  (void)p, (void)n;
#if defined(IJ_EMU_TSAN)
  __tsan_read_range((void *)p, n);
#elif defined(IJ_EMU_MSAN)
  __msan_check_mem_is_initialized(p, n);
#elif defined(IJ_EMU_ASAN)
  if (void *bad = __asan_region_is_poisoned((void *)p, n)) (void)*(volatile const char *)bad; /* reports it */
#endif
}
inline void will_write(void *p, size_t n) {
  (void)p, (void)n;
#if defined(IJ_EMU_TSAN)
  __tsan_write_range(p, n);
#elif defined(IJ_EMU_MSAN)
  __msan_unpoison(p, n);
#elif defined(IJ_EMU_ASAN)
  if (void *bad = __asan_region_is_poisoned(p, n)) *(volatile char *)bad = 0;
#endif
}
/* False where the memory sanitizer knows that some of the bytes were never written, such as those between members. */
inline bool has_value(const void *p, size_t n) {
#ifdef IJ_EMU_MSAN
  return __msan_test_shadow(p, n) < 0;
#else
  return (void)p, (void)n, true;
#endif
}
/* Fills by a loop that the thread sanitizer doesn't take for an access of the current thread, as it would memset */
inline void fill_quietly(void *p, int value, size_t n) {
#ifdef IJ_EMU_TSAN
  for (volatile char *c = (volatile char *)p, *end = c + n; c < end; c++) *c = (char)value;
#else
  memset(p, value, n);
#endif
}
/* As memory is that nobody has written: garbage that shows in results, NaN or 3.4e38 (fmaxf() swallows a NaN) */
inline void make_garbage(void *p, int value, size_t n) {
  fill_quietly(p, value, n);
#ifdef IJ_EMU_MSAN
  __msan_allocated_memory(p, n);
#endif
}
} // namespace emu
#endif
