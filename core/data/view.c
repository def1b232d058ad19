/* view.c: one image of a catalogue as pixels: its file read, decoded, cropped, resized and coloured. */
#include "data.h"
#include <math.h>

static bool in_unit(double p) { return p >= 0 && p <= 1; }

ij_status ij_view_check(ij_view *v) {
  if (v->height < 1 || v->width < 1 || v->height > 1 << 14 || v->width > 1 << 14)
    return ij_fail(IJ_EINVAL, "data: the output of %d x %d pixels is not between 1 and 16384", v->width, v->height);
  if (v->resize <= 0) v->resize = (int)rint(v->height * 8.0 / 7);
  if (v->resize > 1 << 16) return ij_fail(IJ_EINVAL, "data.resize = %d is above 65536", v->resize);
  if (v->scale[0] == 0 && v->scale[1] == 0) v->scale[0] = .3, v->scale[1] = 1;
  if (v->ratio[0] == 0 && v->ratio[1] == 0) v->ratio[0] = 3. / 4, v->ratio[1] = 4. / 3;
  if (!(v->scale[0] > 0 && v->scale[0] <= v->scale[1] && v->scale[1] <= 1))
    return ij_fail(IJ_EINVAL, "data.scale = %g, %g: expected 0 < low <= high <= 1", v->scale[0], v->scale[1]);
  if (!(v->ratio[0] > 0 && v->ratio[0] <= v->ratio[1] && v->ratio[1] < 1e6))
    return ij_fail(IJ_EINVAL, "data.ratio = %g, %g: expected 0 < low <= high", v->ratio[0], v->ratio[1]);
  if (!in_unit(v->flip) || !in_unit(v->jitter_p) || !in_unit(v->grey_p) || !in_unit(v->blur_p))
    return ij_fail(IJ_EINVAL, "data: flip, jitter_p, grey_p and blur_p are probabilities, between 0 and 1");
  if (!(v->jitter >= 0 && v->jitter <= 2.5))
    return ij_fail(IJ_EINVAL, "data.jitter = %g is not between 0 and 2.5", v->jitter);
  return IJ_OK;
}

ij_status ij_reader_init(ij_reader *r, const ij_catalogue *c) {
  const ij_catalogue_config *limits = ij_catalogue_limits(c);
  *r = (ij_reader){0};
  ij_decode_options o = {limits->max_pixels, limits->untrusted_loaders, limits->skip_damaged,
                         limits->orient,     limits->range[0],          limits->range[1]};
  return ij_decoder_new(&o, &r->decoder);
}

void ij_reader_free(ij_reader *r) {
  ij_decoder_free(r->decoder);
  ij_buffer_free(&r->file);
  ij_buffer_free(&r->blur);
}

/* The random numbers of a view: a stretch of the image's own, which begins at its first for view 0 of group 0. */
static void rng_of(ij_rng *r, const ij_view *v, uint32_t purpose, uint32_t round, uint32_t drawn, int group, int view) {
  ij_rng_init(r, v->seed, purpose, round, drawn);
  r->ctr[0] = (uint32_t)(group * IJ_VIEWS_OF_GROUP + view) << 16;
}

static ij_status colour(ij_rng *rng, const ij_view *v, uint8_t *pixels, ij_buffer *buffer) {
  ij_colours colours = {v->flip, v->jitter, v->jitter_p, v->grey_p, v->blur_p};
  return ij_augment(rng, &colours, v->height, v->width, pixels, buffer);
}

ij_status ij_reader_read(ij_reader *r, const ij_catalogue *c, int groups, const ij_view_group *group, uint32_t sample,
                         uint32_t drawn, uint32_t round, uint8_t *const *out) {
  size_t n;
  uint32_t within;
  int height, width, box[4], count = 0;
  ij_window win[IJ_VIEWS];
  ij_rng rng;
  ij_list *list = ij_catalogue_list(c, ij_catalogue_of(c, sample, &within));
  IJ_TRY(ij_list_read(list, within, (size_t)ij_catalogue_limits(c)->max_bytes, &r->file, &n));
  IJ_TRY(ij_decoder_open(r->decoder, r->file.p, n, &height, &width));
  for (int g = 0; g < groups; g++)
    for (int i = 0; i < group[g].n; i++) {
      const ij_view *v = &group[g].view;
      ij_window *to = &win[count++];
      if (v->train) {
        rng_of(&rng, v, IJ_RNG_CROP, round, drawn, g, i);
        ij_crop_draw(&rng, height, width, v->scale, v->ratio, box);
        *to = (ij_window){box[0], box[1], box[2], box[3], v->height, v->width, 0, 0, v->height, v->width};
      } else ij_crop_centre(height, width, v->resize, v->height, v->width, to);
    }
  IJ_TRY(ij_decoder_read_all(r->decoder, count, win, out));
  for (int g = 0; g < groups; g++) {
    const ij_view *v = &group[g].view;
    bool coloured = v->flip > 0 || (v->jitter > 0 && v->jitter_p > 0) || v->grey_p > 0 || v->blur_p > 0;
    for (int i = 0; i < group[g].n; i++, out++) {
      if (!v->train || !coloured) continue;
      rng_of(&rng, v, IJ_RNG_AUGMENT, round, drawn, g, i);
      IJ_TRY(colour(&rng, v, *out, &r->blur));
    }
  }
  return IJ_OK;
}

ij_status ij_catalogue_image(const ij_catalogue *c, const ij_view *view, int64_t sample, int64_t epoch,
                             uint8_t *pixels) {
  int64_t n = ij_catalogue_count(c);
  if (sample < 0 || sample >= n || epoch < 0 || epoch > UINT32_MAX)
    return ij_fail(IJ_EINVAL, "data: image %lld of %lld, epoch %lld: images and epochs count from 0", (long long)sample,
                   (long long)n, (long long)epoch);
  ij_view_group group = {*view, 1};
  ij_reader r;
  IJ_TRY(ij_view_check(&group.view));
  ij_status st = ij_reader_init(&r, c);
  if (st == IJ_OK) st = ij_reader_read(&r, c, 1, &group, (uint32_t)sample, (uint32_t)sample, (uint32_t)epoch, &pixels);
  ij_reader_free(&r);
  return st;
}
