/* One product of matrices in f32: the loops of the cublasLt shim, compiled without sanitizers and for AVX2 where there
 * is one (gemm.cpp). */
#ifndef IJ_EMU_GEMM_H
#define IJ_EMU_GEMM_H
#include <stdint.h>

namespace emu {
enum Rounding { EXACT, TF32 }; /* of what is multiplied */
struct Matrix {                /* element (i, j) lies i * down + j * across elements behind p */
  const char *p;
  bool bf16;
  int64_t rows, columns, down, across;
};
/* out (m, n), columns one after the other, = a (m, k) times b (k, n) */
void multiply(const Matrix &a, const Matrix &b, Rounding rounding, float *out);
/* out (rows) = sums of a over its columns, or, by_column, out (columns) over its rows */
void sum_of(const Matrix &a, bool by_column, float *out);
} // namespace emu
#endif
