/* Twins of the functions of kernels/cuda/ptx.h. What a lane touches in memory is read here, by itself, so that
 * sanitizers see it; the exchange between lanes is warp.cpp's. */
#ifndef IJ_PTX_EMU_H
#define IJ_PTX_EMU_H
#include "emu.h"

namespace emu {
inline void load_matrices(unsigned (&r)[4], const void *row, bool transposed, Site at) {
  Payload io = {};
  if ((uintptr_t)row & 15) fail("ldmatrix at %s:%d: row %p is not 16-byte aligned", at.file, at.line, row);
  for (int i = 0; i < 4; i++) io.word[i] = ((const unsigned *)row)[i];
  io.mode = transposed;
  collective(LDMATRIX, ~0u, &io, at);
  for (int i = 0; i < 4; i++) r[i] = io.word[i];
}
} // namespace emu

inline void ij_ldmatrix_x4(unsigned (&r)[4], const void *row, EMU_SITE) { emu::load_matrices(r, row, false, EMU_HERE); }
inline void ij_ldmatrix_x4_trans(unsigned (&r)[4], const void *row, EMU_SITE) {
  emu::load_matrices(r, row, true, EMU_HERE);
}
/* words of a lane: a 0..3, b 4..5, d 6..9 */
inline void ij_mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, EMU_SITE) {
  emu::Payload io = {};
  for (int i = 0; i < 4; i++) io.word[i] = a[i];
  io.word[4] = b0;
  io.word[5] = b1;
  for (int i = 0; i < 4; i++) io.word[6 + i] = __float_as_uint(d[i]);
  emu::collective(emu::MMA, ~0u, &io, EMU_HERE);
  for (int i = 0; i < 4; i++) d[i] = __uint_as_float(io.word[6 + i]);
}
#endif
