/* The only file with inline PTX: one function an instruction. Its twin for the emulator is tests/emu/ptx_emu.h.
 * Fragments by lane l as the PTX manual lays them out, with g = l / 4 and t = l % 4. */
#ifndef IJ_PTX_H
#define IJ_PTX_H
#ifdef IJ_EMU
#include "ptx_emu.h"
#else
/* Four 8 x 8 matrices of 16-bit numbers from shared memory: lane l gives the address of row l % 8 of matrix l / 8,
 * 16-byte aligned; r[i] gets columns 2t, 2t + 1 of row g of matrix i (low half first). */
__device__ __forceinline__ void ij_ldmatrix_x4(unsigned (&r)[4], const void *row) {
  unsigned at = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
/* The same of each matrix transposed: r[i] gets rows 2t, 2t + 1 of column g. */
__device__ __forceinline__ void ij_ldmatrix_x4_trans(unsigned (&r)[4], const void *row) {
  unsigned at = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
/* d (16 x 8, f32) += a (16 x 16, bf16, row-major) times b (16 x 8, bf16, column-major). a[0]: rows g, columns 2t, 2t +
 * 1; a[1]: rows g + 8; a[2], a[3]: columns 8 on. b0: rows 2t, 2t + 1 of column g; b1: rows 8 on. d[0], d[1]: row g,
 * columns 2t, 2t + 1; d[2], d[3]: row g + 8. */
__device__ __forceinline__ void ij_mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif
#endif
