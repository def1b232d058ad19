/* What kernels/cuda/dev.h includes in place of CUDA's device headers: kernels as C++17 for the CPU. Every CUDA thread
 * is a fiber, barriers and warp collectives are fiber barriers (block.cpp, warp.cpp); types and prototypes are NVIDIA's
 * own. IJ_EMU_SEED: order of threads, 0 ascending, -1 descending, else random. What is wrong ends the process (status
 * 86). */
#ifndef IJ_EMU_H
#define IJ_EMU_H
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <limits>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#define __shared__ declare_shared_memory_by_SHARED_ARRAY_or_SHARED_DYN
#define __constant__ static
#define __launch_bounds__(...)

extern uint3 threadIdx, blockIdx; /* set at each switch of fibers */
extern dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace emu {
/* A collective or barrier is known by its place in the source: one a line. */
struct Site {
  const char *file;
  int line;
};
#define EMU_SITE const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define EMU_HERE                                                                                                       \
  emu::Site { file_, line_ }

enum Op { SYNCWARP, SHFL, VOTE, ADD, MIN, MAX, AND, OR, XOR, MMA, LDMATRIX };
enum Shuffle { FROM, UP, DOWN, ACROSS };
/* What a lane brings to a collective and takes away: copied, so that no lane reads another's stack. */
struct Payload {
  uint32_t word[10];
  int mode, lane, width;
};
void collective(Op op, unsigned mask, Payload *io, Site at);
enum Vote { COUNT, ALL, ANY };
int barrier(int predicate, Vote how, Site at);
void *shared_array(const void *key, size_t size, size_t align, const char *name);
void *shared_dynamic();
int lane();
void copy_async(void *to, const void *from, size_t n, size_t zeros);
void copy_commit();
void copy_wait(int allowed);
[[noreturn]] void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- launching: arguments are converted and copied once, at the launch, as by <<<>>> ---- */
struct Body {
  virtual void call() = 0;
  virtual void check(const char *name, bool running) = 0; /* that its pointers are the device's, and alive */
  virtual ~Body() {}
};
void launch(const char *name, const void *function, dim3 grid, dim3 block, size_t dynamic, cudaStream_t stream, Body *);
void check_pointer(const void *p, const char *name, bool running);
void check_words(const void *words, size_t n, const char *name, bool running); /* a struct that may hold pointers */

template <class T> inline void check_argument(const T &x, const char *name, bool running) {
  if constexpr (std::is_pointer_v<T>) check_pointer((const void *)x, name, running);
  else if constexpr (std::is_class_v<T>) check_words(&x, sizeof x, name, running);
}
template <class... P> struct Kernel : Body {
  void (*function)(P...);
  std::tuple<std::decay_t<P>...> arguments;
  template <class... A> Kernel(void (*f)(P...), A &&...a) : function(f), arguments(static_cast<P>(a)...) {}
  void call() override { std::apply(function, arguments); }
  void check(const char *name, bool running) override {
    std::apply([&](auto &...each) { (check_argument(each, name, running), ...); }, arguments);
  }
};
template <class... P, class... A>
inline void launch_kernel(const char *name, dim3 grid, dim3 block, size_t dynamic, cudaStream_t stream,
                          void (*function)(P...), A &&...a) {
  launch(name, (const void *)function, grid, block, dynamic, stream, new Kernel<P...>(function, a...));
}
/* f of the value at p, in one piece; real atomics, so that the thread sanitizer knows that they don't race */
template <class T, class F> inline T atomically(T *p, F f) {
  T was, now;
  __atomic_load(p, &was, __ATOMIC_ACQUIRE);
  do now = f(was);
  while (!__atomic_compare_exchange(p, &was, &now, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
  return was;
}
template <class To, class From> inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "sizes differ");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
/* One collective on a value of up to 16 bytes */
template <class T> inline T exchange(Op op, unsigned mask, T value, int mode, int from, int width, Site at) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>, "a shuffle moves at most 16 bytes");
  Payload io = {};
  memcpy(io.word, &value, sizeof value);
  io.mode = mode;
  io.lane = from;
  io.width = width;
  collective(op, mask, &io, at);
  memcpy(&value, io.word, sizeof value);
  return value;
}
} // namespace emu

#define LAUNCH(kernel, grid, block, bytes, stream, ...)                                                                \
  emu::launch_kernel(#kernel, grid, block, bytes, stream, kernel, ##__VA_ARGS__)
#define SHARED_ARRAY_ALIGNED(bytes, T, name, dims)                                                                     \
  static char name##_key_;                                                                                             \
  typedef T name##_type_ dims;                                                                                         \
  name##_type_ &name = *(name##_type_ *)emu::shared_array(&name##_key_, sizeof(name##_type_), bytes, #name)
#define SHARED_ARRAY(T, name, dims) SHARED_ARRAY_ALIGNED(alignof(T), T, name, dims)
#define SHARED_DYN(T, name) T *name = (T *)emu::shared_dynamic()

/* ---- barriers, votes, shuffles, reductions ---- */
inline void __syncthreads(EMU_SITE) { emu::barrier(0, emu::COUNT, EMU_HERE); }
inline int __syncthreads_count(int p, EMU_SITE) { return emu::barrier(p, emu::COUNT, EMU_HERE); }
inline int __syncthreads_and(int p, EMU_SITE) { return emu::barrier(p, emu::ALL, EMU_HERE); }
inline int __syncthreads_or(int p, EMU_SITE) { return emu::barrier(p, emu::ANY, EMU_HERE); }
inline void __syncwarp(unsigned mask = ~0u, EMU_SITE) {
  emu::Payload io = {};
  emu::collective(emu::SYNCWARP, mask, &io, EMU_HERE);
}
inline unsigned __activemask() { return 1u << emu::lane(); } /* the least that CUDA promises */
template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, EMU_SITE) {
  return emu::exchange(emu::SHFL, mask, v, emu::FROM, from, width, EMU_HERE);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_SITE) {
  return emu::exchange(emu::SHFL, mask, v, emu::UP, (int)by, width, EMU_HERE);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, EMU_SITE) {
  return emu::exchange(emu::SHFL, mask, v, emu::DOWN, (int)by, width, EMU_HERE);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, EMU_SITE) {
  return emu::exchange(emu::SHFL, mask, v, emu::ACROSS, with, width, EMU_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int p, EMU_SITE) {
  return emu::exchange(emu::VOTE, mask, (unsigned)(p != 0), 0, 0, 0, EMU_HERE);
}
inline int __any_sync(unsigned mask, int p, EMU_SITE) { return __ballot_sync(mask, p, file_, line_) != 0; }
inline int __all_sync(unsigned mask, int p, EMU_SITE) { return __ballot_sync(mask, !p, file_, line_) == 0; }
/* mode: 1 for signed numbers */
#define EMU_REDUCE(name, op, T)                                                                                        \
  inline T name(unsigned mask, T v, EMU_SITE) {                                                                        \
    return emu::exchange(emu::op, mask, v, std::is_signed_v<T>, 0, 0, EMU_HERE);                                       \
  }
EMU_REDUCE(__reduce_add_sync, ADD, unsigned)
EMU_REDUCE(__reduce_add_sync, ADD, int)
EMU_REDUCE(__reduce_min_sync, MIN, unsigned)
EMU_REDUCE(__reduce_min_sync, MIN, int)
EMU_REDUCE(__reduce_max_sync, MAX, unsigned)
EMU_REDUCE(__reduce_max_sync, MAX, int)
EMU_REDUCE(__reduce_and_sync, AND, unsigned)
EMU_REDUCE(__reduce_or_sync, OR, unsigned)
EMU_REDUCE(__reduce_xor_sync, XOR, unsigned)
inline void __threadfence_block() { __asm__ volatile("" ::: "memory"); } /* atomics acquire and release already */
inline void __threadfence() { __threadfence_block(); }
inline void __threadfence_system() { __threadfence_block(); }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emu::fail("__trap()"); }

/* ---- atomics ---- */
#define EMU_ATOMIC(name, expression)                                                                                   \
  template <class T> inline T name(T *p, std::common_type_t<T> v) {                                                    \
    return emu::atomically(p, [v](T was) -> T { return expression; });                                                 \
  }
EMU_ATOMIC(atomicAdd, was + v)
EMU_ATOMIC(atomicSub, was - v)
EMU_ATOMIC(atomicExch, ((void)was, v))
EMU_ATOMIC(atomicMin, was < v ? was : v)
EMU_ATOMIC(atomicMax, was > v ? was : v)
EMU_ATOMIC(atomicAnd, was &v)
EMU_ATOMIC(atomicOr, was | v)
EMU_ATOMIC(atomicXor, was ^ v)
EMU_ATOMIC(atomicInc, was >= v ? 0 : was + 1)
template <class T> inline T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  return emu::atomically(p, [=](T was) -> T { return was == expected ? v : was; });
}

/* ---- loads and stores with hints ---- */
template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldca(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldlu(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T v) { *p = v; }
template <class T> inline void __stcg(T *p, T v) { *p = v; }
template <class T> inline void __stwb(T *p, T v) { *p = v; }
template <class T> inline void __stwt(T *p, T v) { *p = v; }

/* ---- copies from global to shared memory that are done at the wait, or before ---- */
inline void __pipeline_memcpy_async(void *to, const void *from, size_t n, size_t zeros = 0) {
  emu::copy_async(to, from, n, zeros);
}
inline void __pipeline_commit() { emu::copy_commit(); }
inline void __pipeline_wait_prior(size_t n) { emu::copy_wait((int)n); }

#include "emu_math.h"

/* The one C++ form of a runtime call that cuda_runtime.h gives to nvcc alone */
template <class R, class... P>
inline cudaError_t cudaFuncSetAttribute(R (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}
#endif
