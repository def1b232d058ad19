/* From pixels to rows of patches, and from bytes to normalised planes. A thread takes V pixels of a row in all three
 * channels: 3 V bytes in one piece, one pack of each channel out. */
#include "../cuda/rows.h"

namespace {
struct Images {
  ij_dim C, B, K, H, W, P;
};
struct Scale {
  float by[3], plus[3];
};
} // namespace

__device__ static Scale scale_of(const float *scale6) {
  Scale s;
  for (int c = 0; c < 3; c++) s.by[c] = scale6[2 * c], s.plus[c] = scale6[2 * c + 1];
  return s;
}

/* f[c] = the V pixels that begin at byte x, in channel c. x is aligned to V. */
template <int V> __device__ static void pixels_of(const uint8_t *x, const Scale &s, ij_pack<float, V> (&f)[3]) {
  ij_pack<uint8_t, V> bytes[3]; /* (V, 3), in three loads */
  for (int i = 0; i < 3; i++) bytes[i] = ij_load<V>(x, i * V);
  for (int c = 0; c < 3; c++)
    for (int j = 0; j < V; j++) f[c].v[j] = fmaf((float)bytes[(3 * j + c) / V].v[(3 * j + c) % V], s.by[c], s.plus[c]);
}
/* The same of planes; `plane` elements lie between channels */
template <int V> __device__ static void pixels_of(const float *x, ij_dim plane, ij_pack<float, V> (&f)[3]) {
  for (int c = 0; c < 3; c++) f[c] = ij_load<V>(x, c * plane);
}

template <class Image, class T, int V>
static __global__ void patches(Images d, const Image *__restrict__ images, const int32_t *__restrict__ index,
                               const float *__restrict__ scale6, T *__restrict__ y) {
  constexpr bool u8 = sizeof(Image) == 1;
  int P = (int)d.P, across = P / V, grid_w = (int)(d.W / d.P);
  Scale scale = {};
  if (u8) scale = scale_of(scale6);
  for (ij_dim r = ij_row(); r < d.C * d.B * d.K; r += ij_row_step()) {
    ij_dim b = r / d.K % d.B;
    int patch = index ? index[r] : (int)(r % d.K), top = patch / grid_w * P, left = patch % grid_w * P;
    T *row = y + r * 3 * d.P * d.P;
    for (ij_dim c = ij_column(); c < P * across; c += ij_column_step()) {
      int i = (int)c / across, j = (int)c % across * V;
      ij_pack<float, V> f[3];
      if constexpr (u8) pixels_of<V>(images + ((b * d.H + top + i) * d.W + left + j) * 3, scale, f);
      else pixels_of<V>(images + (b * 3 * d.H + top + i) * d.W + left + j, d.H * d.W, f);
      for (int k = 0; k < 3; k++) ij_store_f32<V>(row, (k * d.P + i) * d.P + j, f[k]);
    }
  }
}

template <class Image, class T, int V>
static bool patches_as(ij_queue *q, Images d, const Image *images, const int32_t *index, const float *scale6, T *y) {
  if (d.P % V || !ij_packs<V>(d.W, images, y)) return false;
  ij_grid g = ij_rows_grid(d.C * d.B * d.K, d.P * d.P / V);
  auto patchify = patches<Image, T, V>;
  LAUNCH(patchify, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, d, images, index, scale6, y);
  return true;
}
template <class Image, class T>
static void widest(ij_queue *q, Images d, const Image *images, const int32_t *index, const float *scale6, T *y) {
  if (patches_as<Image, T, 4>(q, d, images, index, scale6, y)) return;
  if (patches_as<Image, T, 2>(q, d, images, index, scale6, y)) return;
  patches_as<Image, T, 1>(q, d, images, index, scale6, y);
}

ij_status ij_cuda_patchify(ij_queue *q, ij_dtype dt, ij_dim C, ij_dim B, ij_dim K, ij_dim H, ij_dim W, ij_dim P, int u8,
                           const void *images, const int32_t *index, const float *scale6, void *y) {
  Images d = {C, B, K, H, W, P};
  const uint8_t *bytes = (const uint8_t *)images;
  const float *planes = (const float *)images;
  if (C * B * K == 0) return IJ_OK;
  if (u8 && dt == IJ_BF16) widest(q, d, bytes, index, scale6, (__nv_bfloat16 *)y);
  else if (u8) widest(q, d, bytes, index, scale6, (float *)y);
  else if (dt == IJ_BF16) widest(q, d, planes, index, scale6, (__nv_bfloat16 *)y);
  else widest(q, d, planes, index, scale6, (float *)y);
  return ij_cuda_launched("patchify");
}

template <int V>
static __global__ void planes_of(ij_dim B, ij_dim area, const uint8_t *__restrict__ x, const float *__restrict__ scale6,
                                 float *__restrict__ y) {
  Scale scale = scale_of(scale6);
  for (ij_dim b = ij_row(); b < B; b += ij_row_step())
    for (ij_dim c = ij_column(); c < area / V; c += ij_column_step()) {
      ij_pack<float, V> f[3];
      pixels_of<V>(x + (b * area + c * V) * 3, scale, f);
      for (int k = 0; k < 3; k++) ij_store<V>(y, (b * 3 + k) * area + c * V, f[k]);
    }
}
ij_status ij_cuda_normalise(ij_queue *q, ij_dim B, ij_dim H, ij_dim W, const uint8_t *x, const float *scale6,
                            float *y) {
  if (B * H * W == 0) return IJ_OK;
  bool pack = ij_packs<4>(H * W, x, y);
  ij_grid g = ij_rows_grid(B, pack ? H * W / 4 : H * W);
  auto normalise = pack ? planes_of<4> : planes_of<1>;
  LAUNCH(normalise, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, B, H * W, x, scale6, y);
  return ij_cuda_launched("normalise");
}
