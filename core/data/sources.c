/* sources.c: one source of images or several mixed by weights, and the order of an epoch.
 *
 * An epoch has as many positions as all sources together have images. Of these each source gets its share, always the
 * same number, which is its quota. Its images come in a shuffled order of its own, which resumes from epoch to epoch
 * and is drawn again when all have come: turn t of a source shows each of its images once. What stands at a position
 * is a function of (seed, epoch, position) alone, by permutations that are computed and not kept, so any place is found
 * at once. Of one source each epoch is a turn. */
#include "data.h"
#include <stdlib.h>
#include <string.h>

typedef struct source {
  ij_list *list;
  uint32_t first;        /* its first image's number */
  uint32_t quota, begin; /* of an epoch's (unshuffled) positions: how many, from where */
  int *class;            /* numbers of its classes; NULL: as they are */
} source;

struct ij_sources {
  source *s;
  int n;
  uint32_t count;
  char *title;
  char **class; /* of all, sorted; the lists' own strings. NULL with one source */
  int classes;
};

int ij_sources_number(const ij_sources *s) { return s->n; }
ij_list *ij_sources_list(ij_sources *s, int i) { return s->s[i].list; }
uint32_t ij_sources_count(const ij_sources *s) { return s->count; }
const char *ij_sources_title(const ij_sources *s) { return s->title; }

int ij_sources_of(const ij_sources *s, uint32_t sample, uint32_t *within) {
  int i = s->n - 1;
  while (s->s[i].first > sample) i--;
  *within = sample - s->s[i].first;
  return i;
}

/* ---- classes: those of the same name are one ---- */
int ij_sources_classes(const ij_sources *s) { return s->class ? s->classes : ij_list_classes(s->s[0].list); }
const char *ij_sources_class(const ij_sources *s, int i) {
  return s->class ? s->class[i] : ij_list_class(s->s[0].list, i);
}
int ij_sources_label(const ij_sources *s, uint32_t sample) {
  uint32_t within;
  const source *from = &s->s[ij_sources_of(s, sample, &within)];
  int label = ij_list_label(from->list, within);
  return label < 0 || !from->class ? label : from->class[label];
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }
static ij_status join_classes(ij_sources *s) {
  int all = 0, kept = 0;
  for (int i = 0; i < s->n; i++) all += ij_list_classes(s->s[i].list);
  if (!(s->class = ij_alloc((size_t)(all + 1) * sizeof *s->class))) return IJ_ENOMEM;
  all = 0;
  for (int i = 0; i < s->n; i++)
    for (int k = 0; k < ij_list_classes(s->s[i].list); k++) s->class[all++] = (char *)ij_list_class(s->s[i].list, k);
  if (all) qsort(s->class, (size_t)all, sizeof *s->class, by_bytes);
  for (int i = 0; i < all; i++)
    if (!kept || strcmp(s->class[i], s -> class[kept - 1]) != 0) s->class[kept++] = s->class[i];
  s->classes = kept;
  for (int i = 0; i < s->n; i++) {
    source *from = &s->s[i];
    int n = ij_list_classes(from->list);
    if (!(from->class = ij_alloc((size_t)(n + 1) * sizeof *from->class))) return IJ_ENOMEM;
    for (int k = 0; k < n; k++) {
      const char *name = ij_list_class(from->list, k);
      char **hit = bsearch(&name, s->class, (size_t)kept, sizeof *s->class, by_bytes);
      from->class[k] = hit ? (int)(hit - s->class) : -1;
    }
  }
  return IJ_OK;
}

uint64_t ij_sources_stamp(const ij_sources *s) {
  uint64_t h = ij_list_stamp(s->s[0].list);
  for (int i = 1; i < s->n; i++) {
    uint64_t next = ij_list_stamp(s->s[i].list);
    h = ij_hash(h, &next, sizeof next);
  }
  return h;
}

/* ---- the order of an epoch ---- */
/* A Feistel network on an even number of bits, walked until it comes back into [0, n): Black and Rogaway, "Ciphers with
 * arbitrary finite domains", 2002. */
uint32_t ij_permute(const uint32_t key[IJ_PERMUTE_ROUNDS], uint32_t n, uint32_t i) {
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

/* number: 0 mixes the sources, 1 + s orders source s. Other draws of this purpose count samples from below. */
static uint32_t shuffled(uint64_t seed, uint32_t number, uint32_t turn, uint32_t n, uint32_t i) {
  uint32_t key[IJ_PERMUTE_ROUNDS];
  ij_rng r;
  ij_rng_init(&r, seed, IJ_RNG_ORDER, turn, UINT32_MAX - number);
  for (int k = 0; k < IJ_PERMUTE_ROUNDS; k++) key[k] = ij_rng_u32(&r);
  return ij_permute(key, n, i);
}

void ij_sources_at(const ij_sources *s, uint64_t seed, bool shuffle, uint32_t epoch, uint32_t position,
                   uint32_t *sample, uint32_t *turn) {
  int i = s->n - 1;
  if (shuffle && s->n > 1) position = shuffled(seed, 0, epoch, s->count, position);
  while (s->s[i].begin > position) i--;
  const source *from = &s->s[i];
  uint32_t n = ij_list_count(from->list);
  uint64_t shown = (uint64_t)epoch * from->quota + (position - from->begin); /* of this source since the start */
  *turn = (uint32_t)(shown / n);
  uint32_t at = (uint32_t)(shown % n);
  *sample = from->first + (shuffle ? shuffled(seed, (uint32_t)i + 1, *turn, n, at) : at);
}

/* Quotas by weights: rounded so that they add up, the largest remainders up. */
static ij_status share_out(ij_sources *s, const double *weights) {
  double sum = 0;
  uint32_t given = 0, begin = 0;
  for (int i = 0; i < s->n; i++) {
    double w = weights ? weights[i] : 1;
    if (!(w > 0 && w < 1e100))
      return ij_fail(IJ_EINVAL, "data.weights: %g for '%s': weights are above 0", w, ij_list_root(s->s[i].list));
    sum += w;
  }
  for (int i = 0; i < s->n; i++) {
    source *from = &s->s[i];
    from->quota = weights ? (uint32_t)(s->count * (weights[i] / sum)) : ij_list_count(from->list);
    given += from->quota;
  }
  for (; given < s->count; given++) {
    int most = 0;
    double left = -1;
    for (int i = 0; i < s->n; i++) {
      double rest = s->count * (weights[i] / sum) - s->s[i].quota;
      if (rest > left) left = rest, most = i;
    }
    s->s[most].quota++;
  }
  for (int i = 0; i < s->n; i++) {
    s->s[i].begin = begin;
    begin += s->s[i].quota;
    if (s->s[i].quota == 0)
      return ij_fail(IJ_EINVAL, "data.weights: '%s' gets none of the %u images of an epoch; raise its weight",
                     ij_list_root(s->s[i].list), s->count);
  }
  return IJ_OK;
}

ij_status ij_sources_open(const ij_data_config *c, ij_note_fn *note, void *arg, ij_sources **out) {
  ij_sources *s = ij_calloc(1, sizeof *s);
  ij_status st = IJ_ENOMEM;
  uint64_t count = 0;
  if (!s) return st;
  int n = c->sources ? c->sources : 1;
  if (n < 0 || n > 1 << 10) IJ_TRY_TO(failed, st, ij_fail(IJ_EINVAL, "data: %d sources are not 1 to 1024", n));
  if (n > 1 && c->subset && *c->subset)
    IJ_TRY_TO(failed, st, ij_fail(IJ_EINVAL, "data.subset belongs to one data.root, not to %d", n));
  if (!(s->s = ij_calloc((size_t)n, sizeof *s->s))) goto failed;
  for (; s->n < n; s->n++) {
    source *from = &s->s[s->n];
    const char *root = c->sources ? c->roots[s->n] : c->root;
    IJ_TRY_TO(failed, st, ij_list_open(root, c->subset, c->cache, note, arg, &from->list));
    from->first = (uint32_t)count;
    count += ij_list_count(from->list);
    char *title = s->n ? ij_format("%s, %s", s->title, root) : ij_strdup(root);
    ij_free(s->title);
    if (!(s->title = title)) {
      s->n++; /* its list is there */
      st = IJ_ENOMEM;
      goto failed;
    }
    if (count > UINT32_MAX / 2) {
      s->n++;
      IJ_TRY_TO(failed, st, ij_fail(IJ_EUNSUPPORTED, "data '%s': more than 2^31 images", s->title));
    }
  }
  s->count = (uint32_t)count;
  IJ_TRY_TO(failed, st, share_out(s, c->sources ? c->weights : NULL));
  if (n > 1) IJ_TRY_TO(failed, st, join_classes(s));
  *out = s;
  return IJ_OK;
failed:
  ij_sources_free(s);
  return st;
}

void ij_sources_free(ij_sources *s) {
  if (!s) return;
  for (int i = 0; i < s->n; i++) {
    ij_list_free(s->s[i].list);
    ij_free(s->s[i].class);
  }
  ij_free(s->s);
  ij_free(s->class);
  ij_free(s->title);
  ij_free(s);
}
