/* From pixels to rows of patches, and from bytes to normalised planes. */
#include "../cpu/rows.h"

/* One row of one channel of a patch: y (P) from bytes 3 apart. */
static void bytes_row(ij_dim P, const uint8_t *x, float a, float b, float *y) {
#pragma omp simd
  for (ij_dim j = 0; j < P; j++) y[j] = (float)x[3 * j] * a + b;
}

typedef struct batch {
  ij_dim H, W, P;
  int u8;
  const void *images;
  const float *scale6;
} batch;

/* y (3, P, P) = patch number `patch` of image b */
static void patch_get(const batch *v, ij_dim b, ij_dim patch, float *y) {
  ij_dim grid_w = v->W / v->P, top = patch / grid_w * v->P, left = patch % grid_w * v->P;
  for (ij_dim c = 0; c < 3; c++)
    for (ij_dim i = 0; i < v->P; i++, y += v->P) {
      if (v->u8)
        bytes_row(v->P, (const uint8_t *)v->images + ((b * v->H + top + i) * v->W + left) * 3 + c, v->scale6[2 * c],
                  v->scale6[2 * c + 1], y);
      else memcpy(y, (const float *)v->images + ((b * 3 + c) * v->H + top + i) * v->W + left, (size_t)v->P * sizeof *y);
    }
}

ij_status IJ_CPU(patchify)(ij_queue *q, ij_dtype dt, ij_dim C, ij_dim B, ij_dim K, ij_dim H, ij_dim W, ij_dim P, int u8,
                           const void *images, const int32_t *index, const float *scale6, void *y) {
  batch v = {H, W, P, u8, images, scale6};
  ij_dim F = 3 * P * P;
  int threads = C * B * K * F < SMALL ? 1 : omp_get_max_threads();
  float *bufs = ij_queue_scratch(q, 0, (size_t)(threads * F) * sizeof *bufs); /* (threads, F) */
  if (!bufs) return IJ_ENOMEM;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float *buf = bufs + omp_get_thread_num() * F;
#pragma omp for schedule(static)
    for (ij_dim r = 0; r < C * B * K; r++) {
      patch_get(&v, r / K % B, index ? index[r] : r % K, row_out(dt, y, r * F, buf));
      row_put(dt, y, r * F, F, buf);
    }
  }
  return IJ_OK;
}

ij_status IJ_CPU(normalise)(ij_queue *q, ij_dim B, ij_dim H, ij_dim W, const uint8_t *x, const float *scale6,
                            float *y) {
  (void)q;
#pragma omp parallel for schedule(static) if (B * H * W >= SMALL)
  for (ij_dim r = 0; r < B * H; r++)
    for (ij_dim c = 0; c < 3; c++)
      bytes_row(W, x + r * W * 3 + c, scale6[2 * c], scale6[2 * c + 1], y + ((r / H * 3 + c) * H + r % H) * W);
  return IJ_OK;
}
