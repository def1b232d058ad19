/* From pixels to rows of patches, and from bytes to normalised planes. */
#include "../ref.h"

ij_status ij_ref_patchify(ij_queue *q, ij_dtype dt, ij_dim C, ij_dim B, ij_dim K, ij_dim H, ij_dim W, ij_dim P, int u8,
                          const void *images, const int32_t *index, const float *scale6, void *y) {
  (void)q;
  ij_dim grid_w = W / P, at = 0;
  for (ij_dim c = 0; c < C; c++)
    for (ij_dim b = 0; b < B; b++)
      for (ij_dim k = 0; k < K; k++) {
        ij_dim patch = index ? index[(c * B + b) * K + k] : k;
        ij_dim top = patch / grid_w * P, left = patch % grid_w * P;
        for (ij_dim ch = 0; ch < 3; ch++)
          for (ij_dim i = top; i < top + P; i++)
            for (ij_dim j = left; j < left + P; j++) {
              double v;
              if (u8)
                v = (double)((const uint8_t *)images)[((b * H + i) * W + j) * 3 + ch] * scale6[2 * ch] +
                    scale6[2 * ch + 1];
              else v = ((const float *)images)[((b * 3 + ch) * H + i) * W + j];
              ij_ref_set(dt, y, at++, v);
            }
      }
  return IJ_OK;
}

ij_status ij_ref_normalise(ij_queue *q, ij_dim B, ij_dim H, ij_dim W, const uint8_t *x, const float *scale6, float *y) {
  (void)q;
  for (ij_dim b = 0; b < B; b++)
    for (ij_dim i = 0; i < H * W; i++)
      for (ij_dim ch = 0; ch < 3; ch++)
        y[(b * 3 + ch) * H * W + i] =
            (float)((double)x[(b * H * W + i) * 3 + ch] * scale6[2 * ch] + scale6[2 * ch + 1]);
  return IJ_OK;
}
