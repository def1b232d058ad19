/* Random numbers by position. */
#include "../cpu/functions.h"
#include "../cpu/rows.h"
#include "philox.h"

enum { BLOCKS = 256 }; /* of four numbers, at a time */

static void normal_pairs(ij_dim blocks, const float *u, float *v) { /* u, v (4, blocks) */
  for (int pair = 0; pair < 4; pair += 2) {
    const float *a = u + pair * blocks, *b = a + blocks;
    float *x = v + pair * blocks, *y = x + blocks;
#pragma omp simd
    for (ij_dim i = 0; i < blocks; i++) {
      float radius = sqrtf(-2 * fn_log(1 - a[i])), angle = 6.28318531f * b[i];
      x[i] = radius * fn_sin_or_cos(angle, FN_COS);
      y[i] = radius * fn_sin_or_cos(angle, FN_SIN);
    }
  }
}

/* Blocks first.., those of their numbers that are in [0, n) behind `skip` */
static void numbers(int normal, uint64_t seed, uint64_t first, ij_dim blocks, ij_dim skip, ij_dim from, ij_dim n,
                    float *x) {
  float u[4 * BLOCKS], v[4 * BLOCKS]; /* (4, blocks) */
#pragma omp simd
  for (ij_dim k = 0; k < blocks; k++) {
    ij_philox4 r = ij_philox(seed, first + (uint64_t)k);
    for (int j = 0; j < 4; j++) u[j * blocks + k] = ij_philox_uniform(r.v[j]);
  }
  if (normal) normal_pairs(blocks, u, v);
  const float *out = normal ? v : u;
  for (ij_dim k = 0; k < blocks; k++)
    for (int j = 0; j < 4; j++) {
      ij_dim i = from + 4 * k + j - skip;
      if (i >= 0 && i < n) x[i] = out[j * blocks + k];
    }
}

ij_status IJ_CPU(random)(ij_queue *q, int normal, ij_dim n, uint64_t seed, uint64_t offset, float *x) {
  (void)q;
  ij_dim skip = (ij_dim)(offset % 4), blocks = n ? (n + skip + 3) / 4 : 0;
#pragma omp parallel for schedule(static) if (n >= SMALL)
  for (ij_dim k = 0; k < blocks; k += BLOCKS)
    numbers(normal, seed, offset / 4 + (uint64_t)k, blocks - k < BLOCKS ? blocks - k : BLOCKS, skip, 4 * k, n, x);
  return IJ_OK;
}
