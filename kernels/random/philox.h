/* Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) for the op random: the four
 * numbers of counter `block` in a seed's stream. Constexpr in C++, so that it runs on the device too. */
#ifndef IJ_PHILOX_H
#define IJ_PHILOX_H
#include "../ops.h"

#ifdef __cplusplus
#define IJ_PHILOX static constexpr inline
#else
#define IJ_PHILOX static inline
#endif
typedef struct ij_philox4 {
  uint32_t v[4];
} ij_philox4;
enum { IJ_PHILOX_TENSOR = 0x54 }; /* in the counter: apart from ij_rng's streams of the same seed */

IJ_PHILOX ij_philox4 ij_philox(uint64_t seed, uint64_t block) {
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  uint32_t a = (uint32_t)block, b = (uint32_t)(block >> 32), c = 0, d = 0xffffff00u | IJ_PHILOX_TENSOR;
  for (int round = 0; round < 10; round++) {
    uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
    a = (uint32_t)(q >> 32) ^ b ^ k0;
    c = (uint32_t)(p >> 32) ^ d ^ k1;
    b = (uint32_t)q;
    d = (uint32_t)p;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  ij_philox4 out = {{a, b, c, d}};
  return out;
}
/* In [0, 1), 24 bits */
IJ_PHILOX float ij_philox_uniform(uint32_t u) { return (float)(u >> 8) * 0x1p-24f; }
#undef IJ_PHILOX
#endif
