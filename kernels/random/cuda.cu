/* Random numbers by position. */
#include "../cuda/rows.h"
#include "philox.h"

__device__ static float number(bool normal, const ij_philox4 &r, int j) {
  if (!normal) return ij_philox_uniform(r.v[j]);
  float radius = sqrtf(-2.0f * logf(1.0f - ij_philox_uniform(r.v[j & 2])));
  float turns = 2.0f * ij_philox_uniform(r.v[(j & 2) + 1]); /* halves */
  return radius * (j & 1 ? sinpif(turns) : cospif(turns));
}

/* A thread makes the four numbers of a counter: those among offset..offset + n - 1 are stored. */
static __global__ void random_blocks(ij_dim normal, ij_dim n, uint64_t seed, uint64_t offset, float *x) {
  ij_dim skip = (ij_dim)(offset % 4), blocks = (n + skip + 3) / 4;
  for (ij_dim k = ij_at(); k < blocks; k += ij_step()) {
    ij_philox4 r = ij_philox(seed, offset / 4 + (uint64_t)k);
    for (int j = 0; j < 4; j++) {
      ij_dim i = 4 * k + j - skip;
      if (i >= 0 && i < n) x[i] = number(normal != 0, r, j);
    }
  }
}
ij_status ij_cuda_random(ij_queue *q, int normal, ij_dim n, uint64_t seed, uint64_t offset, float *x) {
  if (n == 0) return IJ_OK;
  LAUNCH(random_blocks, ij_fill_blocks(q, (n + 6) / 4), IJ_BLOCK, 0, ij_cuda_of(q)->stream, (ij_dim)normal, n, seed,
         offset, x);
  return ij_cuda_launched("random");
}
