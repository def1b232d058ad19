/* From bitsets to rows of patch numbers of one length. */
#include "mask.h"
#include <string.h>

/* The patches of a mask, ascending. Returns how many. */
static int list_bits(const uint64_t *bits, int words, int32_t *row) {
  int n = 0;
  for (int i = 0; i < words; i++)
    for (uint64_t b = bits[i]; b; b &= b - 1) row[n++] = i * 64 + __builtin_ctzll(b);
  return n;
}

/* Writes `keep` of the n patches of a mask: the first ones (raster_cut), or a random subset. */
static void cut(const ij_mask_policy *p, ij_rng *rng, const uint64_t *bits, int n, int keep, int32_t *out) {
  if (keep == n) {
    list_bits(bits, p->words, out);
    return;
  }
  int32_t *row = p->row;
  list_bits(bits, p->words, row);
  if (p->c.quirks & IJ_RASTER_CUT) {
    memcpy(out, row, (size_t)keep * sizeof *out);
    return;
  }
  bool choose_kept = keep <= n - keep; /* draw the smaller part, by Floyd's algorithm */
  uint64_t *chosen = p->scratch;
  memset(chosen, 0, (size_t)p->words * 8);
  for (int j = choose_kept ? n - keep : keep; j < n; j++) {
    int t = row[ij_rng_below(rng, (uint32_t)j + 1)];
    bits_put(chosen, bits_get(chosen, t) ? row[j] : t);
  }
  if (!choose_kept)
    for (int i = 0; i < p->words; i++) chosen[i] = bits[i] & ~chosen[i];
  list_bits(chosen, p->words, out);
}

ij_status ij_mask_sample(ij_mask_policy *p, uint64_t first, int count, ij_masks *out) {
  const uint64_t group = (uint64_t)p->c.group;
  const int C = p->c.contexts, M = p->c.targets;
  const double bytes = (double)count * (C + M) * p->patches * sizeof *p->out; /* at most */
  if (count < 1) return ij_fail(IJ_EINVAL, "mask: 'count' is %d, must be at least 1", count);
  if (bytes > 0x1p34)
    return ij_fail(IJ_EINVAL, "mask: masks of %d images may take %.0f GiB: ask for fewer", count, bytes / 0x1p30);
  if (first > UINT64_MAX - group - (uint64_t)count)
    return ij_fail(IJ_EINVAL, "mask: image number %llu is too high", (unsigned long long)first);
  const uint64_t last_group = (first + (uint64_t)count - 1) / group;

  ij_masks r = {.count = count, .contexts = C, .targets = M, .k = p->patches, .t = p->patches};
  for (uint64_t g = first / group; g <= last_group; g++) { /* one length for all */
    IJ_TRY(ij_mask_draw_group(p, g));
    if (p->k < r.k) r.k = p->k;
    if (p->size.target_area < r.t) r.t = p->size.target_area;
  }
  size_t contexts = (size_t)count * (size_t)C * (size_t)r.k, targets = (size_t)count * (size_t)M * (size_t)r.t;
  if (contexts + targets > p->out_count) {
    int32_t *grown = ij_realloc(p->out, (contexts + targets) * sizeof *grown);
    if (!grown) return IJ_ENOMEM;
    p->out = grown;
    p->out_count = contexts + targets;
  }
  int32_t *context = p->out, *target = p->out + contexts; /* (C, B, K), (M, B, T) */
  r.context = context;
  r.target = target;
  for (int b = 0; b < count; b++) {
    uint64_t image = first + (uint64_t)b;
    int i = (int)(image % group);
    IJ_TRY(ij_mask_draw_group(p, image / group));
    if (b == 0) {
      r.target_h = p->size.target.h;
      r.target_w = p->size.target.w;
      r.context_h = p->size.context.h;
      r.context_w = p->size.context.w;
    }
    r.fallbacks += p->relaxed[i];
    const uint64_t *bits = p->bits + (size_t)i * (size_t)(M + C) * (size_t)p->words;
    ij_rng rng;
    ij_rng_init(&rng, p->c.seed, IJ_RNG_MASK_CUT, (uint32_t)(image >> 32), (uint32_t)image);
    for (int m = 0; m < M; m++, bits += p->words)
      cut(p, &rng, bits, p->size.target_area, r.t, target + ((size_t)m * (size_t)count + (size_t)b) * (size_t)r.t);
    for (int c = 0; c < C; c++, bits += p->words)
      cut(p, &rng, bits, p->length[i * C + c], r.k, context + ((size_t)c * (size_t)count + (size_t)b) * (size_t)r.k);
  }
  *out = r;
  return IJ_OK;
}
