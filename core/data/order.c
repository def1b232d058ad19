/* order.c: which image comes when, of one source or of several mixed by weights.
 *
 * An epoch has as many positions as the catalogue has images. Each source gets a fixed number of them, its quota. Its
 * images come in a shuffled order of its own, which continues from epoch to epoch and is drawn again when all have
 * come: round r of a source shows each of its images once. With one source each epoch is a round. The image at a
 * position is a function of (seed, epoch, position) alone, by permutations that are computed and not stored, so any
 * position is found directly. */
#include "data.h"

typedef struct source {
  uint32_t first, count; /* its images in the catalogue */
  uint32_t quota, begin; /* its positions of an unshuffled epoch: how many, from where */
} source;

struct ij_order {
  int n;
  uint32_t count;
  source s[]; /* (n) */
};

/* A Feistel network on an even number of bits, walked until it comes back into [0, n): Black and Rogaway, "Ciphers with
 * arbitrary finite domains", 2002. */
uint32_t ij_permuted_position(const uint32_t key[IJ_PERMUTE_ROUNDS], uint32_t n, uint32_t i) {
  int half = 1;
  while (half < 16 && (uint32_t)1 << (2 * half) < n) half++;
  uint32_t mask = ((uint32_t)1 << half) - 1;
  do {
    uint32_t left = i >> half, right = i & mask;
    for (int k = 0; k < IJ_PERMUTE_ROUNDS; k++) {
      uint32_t x = right ^ key[k]; /* mixed as MurmurHash3 ends */
      x = (x ^ x >> 16) * 0x85ebca6bu;
      x = (x ^ x >> 13) * 0xc2b2ae35u;
      x ^= x >> 16;
      x = left ^ (x & mask);
      left = right;
      right = x;
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

/* Key `number` mixes the sources (0) or orders source number - 1. It counts down from 2^32 - 1: recorded orders, and
 * runs that resume, depend on these keys. */
static uint32_t shuffled(uint64_t seed, uint32_t number, uint32_t round, uint32_t n, uint32_t i) {
  uint32_t key[IJ_PERMUTE_ROUNDS];
  ij_rng r;
  ij_rng_init(&r, seed, IJ_RNG_ORDER, round, UINT32_MAX - number);
  for (int k = 0; k < IJ_PERMUTE_ROUNDS; k++) key[k] = ij_rng_u32(&r);
  return ij_permuted_position(key, n, i);
}

void ij_order_at(const ij_order *o, uint64_t seed, bool shuffle, uint32_t epoch, uint32_t position, uint32_t *sample,
                 uint32_t *round) {
  int i = o->n - 1;
  if (shuffle && o->n > 1) position = shuffled(seed, 0, epoch, o->count, position);
  while (o->s[i].begin > position) i--;
  const source *from = &o->s[i];
  uint64_t shown = (uint64_t)epoch * from->quota + (position - from->begin); /* of this source since the start */
  *round = (uint32_t)(shown / from->count);
  uint32_t offset = (uint32_t)(shown % from->count);
  *sample = from->first + (shuffle ? shuffled(seed, (uint32_t)i + 1, *round, from->count, offset) : offset);
}

/* Quotas in proportion to the weights, rounded so that they add up: the largest remainders are rounded up. */
static ij_status quotas_set(ij_order *o, const ij_catalogue *c, const double *weights) {
  double sum = 0;
  uint32_t given = 0, begin = 0;
  for (int i = 0; i < o->n; i++) {
    double w = weights ? weights[i] : 1;
    if (!(w > 0 && w < 1e100))
      return ij_fail(IJ_EINVAL, "data.weights: %g for '%s': expected a number above 0", w,
                     ij_list_root(ij_catalogue_list(c, i)));
    sum += w;
  }
  for (int i = 0; i < o->n; i++) {
    o->s[i].quota = weights ? (uint32_t)(o->count * (weights[i] / sum)) : o->s[i].count;
    given += o->s[i].quota;
  }
  for (; given < o->count; given++) {
    int best = 0;
    double most = -1;
    for (int i = 0; i < o->n; i++) {
      double rest = o->count * (weights[i] / sum) - o->s[i].quota;
      if (rest > most) most = rest, best = i;
    }
    o->s[best].quota++;
  }
  for (int i = 0; i < o->n; i++) {
    o->s[i].begin = begin;
    begin += o->s[i].quota;
    if (o->s[i].quota == 0)
      return ij_fail(IJ_EINVAL, "data.weights: '%s' gets none of the %u images of an epoch; raise its weight",
                     ij_list_root(ij_catalogue_list(c, i)), o->count);
  }
  return IJ_OK;
}

ij_status ij_order_new(const ij_catalogue *c, const double *weights, ij_order **out) {
  int n = ij_catalogue_source_count(c);
  ij_order *o = ij_calloc(1, sizeof *o + (size_t)n * sizeof *o->s);
  if (!o) return IJ_ENOMEM;
  o->n = n;
  o->count = (uint32_t)ij_catalogue_count(c);
  for (int i = 0; i < n; i++)
    o->s[i] = (source){.first = ij_catalogue_first(c, i), .count = ij_list_count(ij_catalogue_list(c, i))};
  ij_status st = quotas_set(o, c, weights);
  if (st == IJ_OK) *out = o;
  else ij_order_free(o);
  return st;
}

void ij_order_free(ij_order *o) { ij_free(o); }
