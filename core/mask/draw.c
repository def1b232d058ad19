/* The masks of one group of images, uncut: sizes by group, positions by image. */
#include "mask.h"
#include <string.h>

static uint64_t *mask_bits(const ij_mask_policy *p, int image, int mask) {
  int masks = p->c.targets + p->c.contexts;
  return p->bits + ((size_t)image * (size_t)masks + (size_t)mask) * (size_t)p->words;
}

/* Marks r of the numbers 0..n-1 in b, every subset of r being as likely as any other (Floyd's algorithm). */
static void choose(uint64_t *b, ij_rng *rng, int n, int r) {
  for (int j = n - r; j < n; j++) {
    int t = (int)ij_rng_below(rng, (uint32_t)j + 1);
    bits_put(b, bits_get(b, t) ? j : t);
  }
}

/* A block (or, for IJ_MASK_RANDOM, a subset) at a random position. */
static void draw_block(const ij_mask_policy *p, ij_rng *rng, block_size b, int area, uint64_t *bits) {
  memset(bits, 0, (size_t)p->words * 8);
  if (b.h == 0) {
    bool most = area > p->patches / 2; /* then draw those left out */
    choose(bits, rng, p->patches, most ? p->patches - area : area);
    if (most) {
      for (int i = 0; i < p->words; i++) bits[i] = ~bits[i];
      if (p->patches & 63) bits[p->words - 1] &= (1ull << (p->patches & 63)) - 1;
    }
    return;
  }
  int rows = p->c.grid_h - b.h, cols = p->c.grid_w - b.w; /* highest top, highest left */
  int inclusive = (p->c.quirks & IJ_EXCLUSIVE_POSITION) ? 0 : 1;
  int top = (int)ij_rng_below(rng, (uint32_t)(rows + inclusive));
  int left = (int)ij_rng_below(rng, (uint32_t)(cols + inclusive));
  for (int r = top; r < top + b.h; r++) bits_set_range(bits, r * p->c.grid_w + left, b.w);
}

/* A context for an image whose targets are drawn: tried until more than min_keep patches are left, with one target
 * fewer kept out after every TRIES tries. Ends, since without targets size.context_area patches are left. */
static int draw_context(const ij_mask_policy *p, ij_rng *rng, int image, uint64_t *bits, unsigned char *relaxed) {
  int keep_out = p->c.allow_overlap ? 0 : p->c.targets;
  for (int tries = 1;; tries++) {
    draw_block(p, rng, p->size.context, p->size.context_area, bits);
    for (int m = 0; m < keep_out; m++) {
      const uint64_t *target = mask_bits(p, image, m);
      for (int i = 0; i < p->words; i++) bits[i] &= ~target[i];
    }
    int n = 0;
    for (int i = 0; i < p->words; i++) n += __builtin_popcountll(bits[i]);
    if (n > p->c.min_keep) return n;
    if (keep_out == 0) IJ_BUG("a context block without targets is not valid");
    if (tries % TRIES == 0) {
      keep_out--;
      *relaxed = 1;
    }
  }
}

ij_status ij_mask_draw_group(ij_mask_policy *p, uint64_t group) {
  if (p->drawn && p->group == group) return IJ_OK;
  p->drawn = false;
  IJ_TRY(ij_mask_sizes(p, group, &p->size));
  p->k = p->patches;
  for (int i = 0; i < p->c.group; i++) {
    uint64_t image = group * (uint64_t)p->c.group + (uint64_t)i;
    ij_rng rng;
    ij_rng_init(&rng, p->c.seed, IJ_RNG_MASK_POS, (uint32_t)(image >> 32), (uint32_t)image);
    p->relaxed[i] = 0;
    for (int m = 0; m < p->c.targets; m++) draw_block(p, &rng, p->size.target, p->size.target_area, mask_bits(p, i, m));
    for (int c = 0; c < p->c.contexts; c++) {
      int n = draw_context(p, &rng, i, mask_bits(p, i, p->c.targets + c), &p->relaxed[i]);
      p->length[i * p->c.contexts + c] = n;
      if (n < p->k) p->k = n;
    }
  }
  p->group = group;
  p->drawn = true;
  return IJ_OK;
}
