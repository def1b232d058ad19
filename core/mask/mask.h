/* core/mask: which patches an image shows to the context encoder and which the predictor must fill in.
 *
 *   policy.c  checks a configuration, draws block sizes, refuses what could never be valid
 *   draw.c    draws the masks of one group of images as bitsets (uncut) and finds the length they share
 *   pack.c    cuts the masks to that length and writes them as rows of patch numbers
 *
 * A mask is a bitset of N = grid_h * grid_w patches, row-major, in words of 64. */
#ifndef IJ_MASK_H
#define IJ_MASK_H
#include "../base/base.h"

enum { TRIES = 20 }; /* invalid tries before one more target is no longer kept out of the context */

typedef struct block_size {
  int h, w;
} block_size;

typedef struct group_size {      /* what all images of a group share */
  block_size target, context;    /* h = w = 0: not a rectangle (IJ_MASK_RANDOM) */
  int target_area, context_area; /* patches of a target, of a context before targets are taken out */
} group_size;

struct ij_mask_policy {
  ij_mask_config c;   /* checked, group filled in */
  int patches, words; /* N; 64-bit words of a bitset */
  /* the group drawn last */
  uint64_t group;
  bool drawn;
  group_size size;
  int k;                  /* shortest context of the group; targets all have size.target_area */
  uint64_t *bits;         /* (group, M + C, words): targets, then contexts */
  int32_t *length;        /* (group, C): patches of each context */
  unsigned char *relaxed; /* (group): 1 where a target was not kept out of a context */
  uint64_t *scratch;      /* (words) */
  int32_t *row;           /* (N) */
  /* the result of the last call */
  int32_t *out;
  size_t out_count;
};

/* policy.c: the sizes of a group; IJ_EINVAL where the quirks let through a size that can never be valid. */
ij_status ij_mask_sizes(const ij_mask_policy *p, uint64_t group, group_size *out);
/* draw.c: fills the cache with a group, if it is not there yet. */
ij_status ij_mask_draw_group(ij_mask_policy *p, uint64_t group);

/* Bitsets. */
static inline void bits_set_range(uint64_t *b, int at, int n) {
  while (n > 0) {
    int bit = at & 63, take = 64 - bit < n ? 64 - bit : n;
    b[at >> 6] |= (take == 64 ? ~0ull : (1ull << take) - 1) << bit;
    at += take;
    n -= take;
  }
}
static inline bool bits_get(const uint64_t *b, int at) { return b[at >> 6] >> (at & 63) & 1; }
static inline void bits_put(uint64_t *b, int at) { b[at >> 6] |= 1ull << (at & 63); }

#endif
