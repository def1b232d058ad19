/* Intrinsics of CUDA that the C library lacks. Part of emu.h. */
#ifndef IJ_EMU_MATH_H
#define IJ_EMU_MATH_H
#include "emu.h"

inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
inline int __float_as_int(float x) { return emu::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
inline float __int_as_float(int x) { return emu::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emu::bits<double>(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float sinpif(float x) { return (float)sin(3.14159265358979323846 * (double)x); }
inline float cospif(float x) { return (float)cos(3.14159265358979323846 * (double)x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __exp10f(float x) { return powf(10, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
/* Rounded to nearest and never contracted: the compiler must not see through them */
inline float __fadd_rn(float x, float y) {
  volatile float z = x + y;
  return z;
}
inline float __fsub_rn(float x, float y) {
  volatile float z = x - y;
  return z;
}
inline float __fmul_rn(float x, float y) {
  volatile float z = x * y;
  return z;
}
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline double __dadd_rn(double x, double y) {
  volatile double z = x + y;
  return z;
}
inline double __dmul_rn(double x, double y) {
  volatile double z = x * y;
  return z;
}
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((uint64_t)x * y >> 32); }
inline int __mulhi(int x, int y) { return (int)((int64_t)x * y >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  uint64_t both = (uint64_t)y << 32 | x;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  return r;
}

/* Conversions to integers: out of range saturates, NaN is 0, as the hardware does it */
template <class I> inline I emu_to_integer(double x) {
  double low = (double)std::numeric_limits<I>::min(), high = (double)std::numeric_limits<I>::max();
  if (x != x) return 0;
  return x <= low ? std::numeric_limits<I>::min() : x >= high ? std::numeric_limits<I>::max() : (I)x;
}
inline int __float2int_rz(float x) { return emu_to_integer<int>(truncf(x)); }
inline int __float2int_rn(float x) { return emu_to_integer<int>(rintf(x)); }
inline int __float2int_rd(float x) { return emu_to_integer<int>(floorf(x)); }
inline int __float2int_ru(float x) { return emu_to_integer<int>(ceilf(x)); }
inline unsigned __float2uint_rz(float x) { return emu_to_integer<unsigned>(truncf(x)); }
inline unsigned __float2uint_rn(float x) { return emu_to_integer<unsigned>(rintf(x)); }
inline long long __float2ll_rz(float x) { return emu_to_integer<long long>(truncf(x)); }
inline long long __float2ll_rn(float x) { return emu_to_integer<long long>(rintf(x)); }
inline int __double2int_rz(double x) { return emu_to_integer<int>(trunc(x)); }
inline long long __double2ll_rz(double x) { return emu_to_integer<long long>(trunc(x)); }
inline float __double2float_rn(double x) { return (float)x; }
inline float __int2float_rn(int x) { return (float)x; }
inline float __uint2float_rn(unsigned x) { return (float)x; }
inline float __ll2float_rn(long long x) { return (float)x; }
inline double __ll2double_rn(long long x) { return (double)x; }

#define EMU_MIN_MAX(T)                                                                                                 \
  inline T min(T a, T b) { return b < a ? b : a; }                                                                     \
  inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
#endif
