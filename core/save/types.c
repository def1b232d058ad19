/* Types of elements as files name them: their sizes, and their conversion to f32. */
#include "save.h"
#include <math.h>
#include <string.h>

static const int64_t MAX_NUMBER = INT64_C(1) << 53; /* above it a JSON number need not be exact */

static float from_half(uint16_t h) {
  int exponent = h >> 10 & 31, mantissa = h & 1023;
  float v = exponent == 31 ? (mantissa ? NAN : INFINITY)
            : exponent     ? ldexpf((float)(mantissa + 1024), exponent - 25)
                           : ldexpf((float)mantissa, -24);
  return h >> 15 ? -v : v;
}

static float from_bf16(uint16_t h) {
  uint32_t bits = (uint32_t)h << 16;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

#define READER(name, type, value)                                                                                      \
  static void name(const unsigned char *p, size_t n, float *out) {                                                     \
    for (size_t i = 0; i < n; i++) {                                                                                   \
      type v;                                                                                                          \
      memcpy(&v, p + i * sizeof v, sizeof v);                                                                          \
      out[i] = (value);                                                                                                \
    }                                                                                                                  \
  }
READER(read_float, float, v)
READER(read_double, double, (float)v)
READER(read_half, uint16_t, from_half(v))
READER(read_bf16, uint16_t, from_bf16(v))
READER(read_i64, int64_t, (float)v)
READER(read_i32, int32_t, (float)v)
READER(read_i16, int16_t, (float)v)
READER(read_i8, int8_t, (float)v)
READER(read_u64, uint64_t, (float)v)
READER(read_u32, uint32_t, (float)v)
READER(read_u16, uint16_t, (float)v)
READER(read_u8, uint8_t, (float)v)
READER(read_bool, uint8_t, v != 0)

static const ij_type types[] = {
    {"F32", IJ_F32, 4, read_float}, {"BF16", IJ_BF16, 2, read_bf16}, {"I32", IJ_I32, 4, read_i32},
    {"I64", IJ_I64, 8, read_i64},   {"U8", IJ_U8, 1, read_u8},       {"F64", -1, 8, read_double},
    {"F16", -1, 2, read_half},      {"I16", -1, 2, read_i16},        {"I8", -1, 1, read_i8},
    {"BOOL", -1, 1, read_bool},     {"U64", -1, 8, read_u64},        {"U32", -1, 4, read_u32},
    {"U16", -1, 2, read_u16}};
enum { TYPES = sizeof types / sizeof types[0] };

const ij_type *ij_type_by_name(const char *name) {
  for (int i = 0; i < TYPES; i++)
    if (!strcmp(types[i].name, name)) return &types[i];
  return NULL;
}

const ij_type *ij_type_by_dtype(int dtype) {
  for (int i = 0; i < TYPES; i++)
    if (dtype >= 0 && types[i].dtype == dtype) return &types[i];
  return NULL;
}

bool ij_bytes_of(int ndim, const int64_t *shape, int size, int64_t *bytes) {
  bool empty = false;
  int64_t n = size;
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0 || shape[i] > MAX_NUMBER) return false;
    empty |= shape[i] == 0;
  }
  for (int i = 0; i < ndim && !empty; i++)
    if (__builtin_mul_overflow(n, shape[i], &n)) return false;
  *bytes = empty ? 0 : n;
  return true;
}
