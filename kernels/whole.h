/* Arithmetic on whole numbers, for the reference, the CPU and CUDA (where constexpr functions run on the device too):
 * on 64 bits, from which the caller takes the low ones of its type. Nothing overflows: sums, differences and products
 * wrap. */
#ifndef IJ_WHOLE_H
#define IJ_WHOLE_H
#include "ops.h"

#ifdef __cplusplus
#define IJ_WHOLE static constexpr inline
#else
#define IJ_WHOLE static inline
#endif

IJ_WHOLE int64_t ij_whole_add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
IJ_WHOLE int64_t ij_whole_sub(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }
IJ_WHOLE int64_t ij_whole_mul(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
/* Rounded down; by 0: 0 */
IJ_WHOLE int64_t ij_whole_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  if (b == -1) return ij_whole_sub(0, a);
  return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
/* A negative power is that of a fraction, rounded toward 0; 0 to a negative power: 0. */
IJ_WHOLE int64_t ij_whole_pow(int64_t a, int64_t b) {
  if (b < 0) return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
  int64_t y = 1;
  for (; b > 0; b >>= 1) {
    if (b & 1) y = ij_whole_mul(y, a);
    a = ij_whole_mul(a, a);
  }
  return y;
}
IJ_WHOLE int64_t ij_whole_binary(int f, int64_t a, int64_t b) {
  switch (f) {
  case IJ_ADD:
    return ij_whole_add(a, b);
  case IJ_SUB:
    return ij_whole_sub(a, b);
  case IJ_MUL:
    return ij_whole_mul(a, b);
  case IJ_DIV:
    return ij_whole_div(a, b);
  case IJ_POW:
    return ij_whole_pow(a, b);
  case IJ_MIN:
    return a < b ? a : b;
  case IJ_MAX:
    return a > b ? a : b;
  case IJ_EQ:
    return a == b;
  case IJ_NE:
    return a != b;
  case IJ_LT:
    return a < b;
  case IJ_LE:
    return a <= b;
  case IJ_GT:
    return a > b;
  default:
    return a >= b;
  }
}
/* A constant as a whole number: rounded toward zero, to the nearest that there is, NaN as 0. */
IJ_WHOLE int64_t ij_whole_of(double s) {
  return s != s ? 0 : s >= 0x1p63 ? INT64_MAX : s <= -0x1p63 ? INT64_MIN : (int64_t)s;
}
/* abs sign neg square clamp */
IJ_WHOLE int64_t ij_whole_unary(int f, int64_t x, int64_t a, int64_t b) {
  switch (f) {
  case IJ_ABS:
    return x < 0 ? ij_whole_sub(0, x) : x;
  case IJ_SIGN:
    return (x > 0) - (x < 0);
  case IJ_NEG:
    return ij_whole_sub(0, x);
  case IJ_SQUARE:
    return ij_whole_mul(x, x);
  default:
    return x < a ? a : x > b ? b : x;
  }
}
#undef IJ_WHOLE
#endif
