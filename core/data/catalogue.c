/* catalogue.c: which images there are: the lists of one source or several as one, with one numbering and one set of
 * classes. */
#include "data.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct source {
  uint32_t first; /* its first image's number */
  int *class;     /* numbers of its classes; NULL: as they are */
} source;

struct ij_catalogue {
  atomic_int users; /* who opened it, loaders and manifests */
  ij_catalogue_config limits;
  ij_list **list; /* (n) */
  source *s;      /* (n) */
  int n;
  uint32_t count;
  char *title;
  char **class; /* of all, sorted; the lists' own strings. NULL with one source */
  int classes;
  ij_notes notes;
  ij_copy *copy; /* under way, or NULL */
};

/* ---- what it knows ---- */
static bool is_sample(const ij_catalogue *c, int64_t sample) { return sample >= 0 && sample < c->count; }

int ij_catalogue_of(const ij_catalogue *c, uint32_t sample, uint32_t *within) {
  int i = c->n - 1;
  while (c->s[i].first > sample) i--;
  *within = sample - c->s[i].first;
  return i;
}
ij_list *ij_catalogue_list(const ij_catalogue *c, int i) { return c->list[i]; }
uint32_t ij_catalogue_first(const ij_catalogue *c, int i) { return c->s[i].first; }
const char *ij_catalogue_title(const ij_catalogue *c) { return c->title; }
const ij_catalogue_config *ij_catalogue_limits(const ij_catalogue *c) { return &c->limits; }

int64_t ij_catalogue_count(const ij_catalogue *c) { return c->count; }
int ij_catalogue_class_count(const ij_catalogue *c) { return c->class ? c->classes : ij_list_classes(c->list[0]); }
const char *ij_catalogue_class(const ij_catalogue *c, int i) {
  if (i < 0 || i >= ij_catalogue_class_count(c)) return NULL;
  return c->class ? c->class[i] : ij_list_class(c->list[0], i);
}
int ij_catalogue_source_count(const ij_catalogue *c) { return c->n; }
int ij_catalogue_source(const ij_catalogue *c, int64_t sample) {
  uint32_t within;
  return is_sample(c, sample) ? ij_catalogue_of(c, (uint32_t)sample, &within) : -1;
}
const char *ij_catalogue_name(const ij_catalogue *c, int64_t sample) {
  uint32_t within;
  if (!is_sample(c, sample)) return NULL;
  int i = ij_catalogue_of(c, (uint32_t)sample, &within);
  return ij_list_name(c->list[i], within);
}
int ij_catalogue_label(const ij_catalogue *c, int64_t sample) {
  uint32_t within;
  if (!is_sample(c, sample)) return -1;
  int i = ij_catalogue_of(c, (uint32_t)sample, &within), label = ij_list_label(c->list[i], within);
  return label < 0 || !c->s[i].class ? label : c->s[i].class[label];
}

uint64_t ij_catalogue_stamp(const ij_catalogue *c) {
  uint64_t h = ij_list_stamp(c->list[0]);
  for (int i = 1; i < c->n; i++) {
    uint64_t next = ij_list_stamp(c->list[i]);
    h = ij_hash(h, &next, sizeof next);
  }
  return h;
}

const char *ij_catalogue_note(ij_catalogue *c) { return ij_notes_next(&c->notes); }

ij_status ij_catalogue_copy(ij_catalogue *c, const char *folder, double seconds, ij_progress *p) {
  ij_status st = c->copy ? IJ_OK : ij_copy_start(c->list, c->n, folder, &c->copy);
  if (st == IJ_OK) st = ij_copy_wait(c->copy, seconds, p);
  if (st != IJ_OK || p->over) {
    ij_copy_free(c->copy);
    c->copy = NULL;
  }
  return st;
}

/* ---- opening and closing ---- */
static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Classes of the same name are one. */
static ij_status join_classes(ij_catalogue *c) {
  int all = 0, kept = 0;
  for (int i = 0; i < c->n; i++) all += ij_list_classes(c->list[i]);
  if (!(c->class = ij_alloc((size_t)(all + 1) * sizeof *c->class))) return IJ_ENOMEM;
  all = 0;
  for (int i = 0; i < c->n; i++)
    for (int k = 0; k < ij_list_classes(c->list[i]); k++) c->class[all++] = (char *)ij_list_class(c->list[i], k);
  if (all) qsort(c->class, (size_t)all, sizeof *c->class, by_bytes);
  for (int i = 0; i < all; i++)
    if (!kept || by_bytes(&c->class[i], &c -> class[kept - 1]) != 0) c->class[kept++] = c->class[i];
  c->classes = kept;
  for (int i = 0; i < c->n; i++) {
    source *from = &c->s[i];
    int n = ij_list_classes(c->list[i]);
    if (!(from->class = ij_alloc((size_t)(n + 1) * sizeof *from->class))) return IJ_ENOMEM;
    for (int k = 0; k < n; k++) {
      const char *name = ij_list_class(c->list[i], k);
      char **hit = bsearch(&name, c->class, (size_t)kept, sizeof *c->class, by_bytes);
      from->class[k] = hit ? (int)(hit - c->class) : -1;
    }
  }
  return IJ_OK;
}

static void on_note(void *arg, const char *text) { ij_notes_add(arg, ij_strdup(text)); }

static ij_status add_source(ij_catalogue *c, const char *root, const ij_catalogue_config *config) {
  int i = c->n;
  IJ_TRY(ij_list_open(root, config->subset, config->cache, config->untrusted_loaders != 0, on_note, &c->notes,
                      &c->list[i]));
  c->n++;
  c->s[i].first = c->count;
  char *title = i ? ij_format("%s, %s", c->title, root) : ij_strdup(root);
  if (!title) return IJ_ENOMEM;
  ij_free(c->title);
  c->title = title;
  if ((uint64_t)c->count + ij_list_count(c->list[i]) > UINT32_MAX / 2)
    return ij_fail(IJ_EUNSUPPORTED, "data '%s': more than 2^31 images", title);
  c->count += ij_list_count(c->list[i]);
  return IJ_OK;
}

ij_status ij_catalogue_open(const ij_catalogue_config *config, ij_catalogue **out) {
  ij_status st = IJ_ENOMEM;
  int n = config->source_count ? config->source_count : 1;
  if (n < 0 || n > 1 << 10) return ij_fail(IJ_EINVAL, "data: expected 1 to 1024 sources, got %d", n);
  if (n > 1 && config->subset && *config->subset)
    return ij_fail(IJ_EINVAL, "data.subset works with one data.root, not with %d", n);
  if (config->orient < 0 || config->orient > IJ_ORIENT_STORED)
    return ij_fail(IJ_EINVAL, "data.orient = %d is not one of ij_orient", config->orient);
  if (!isfinite(config->range[0]) || !isfinite(config->range[1]) || config->range[0] > config->range[1])
    return ij_fail(IJ_EINVAL, "data.range = %g, %g: expected two numbers, rising", config->range[0], config->range[1]);
  ij_catalogue *c = ij_calloc(1, sizeof *c);
  if (!c) return st;
  c->users = 1;
  c->limits = (ij_catalogue_config){.max_pixels = config->max_pixels > 0 ? config->max_pixels : (int64_t)1 << 28,
                                    .max_bytes = config->max_bytes > 0 ? config->max_bytes : (int64_t)1 << 28,
                                    .untrusted_loaders = config->untrusted_loaders,
                                    .orient = config->orient,
                                    .skip_damaged = config->skip_damaged,
                                    .range = {config->range[0], config->range[1]}};
  if (!(c->list = ij_calloc((size_t)n, sizeof *c->list)) || !(c->s = ij_calloc((size_t)n, sizeof *c->s))) goto failed;
  for (int i = 0; i < n; i++)
    IJ_TRY_TO(failed, st, add_source(c, config->source_count ? config->roots[i] : config->root, config));
  if (n > 1) IJ_TRY_TO(failed, st, join_classes(c));
  *out = c;
  return IJ_OK;
failed:
  ij_catalogue_close(c);
  return st;
}

ij_catalogue *ij_catalogue_keep(ij_catalogue *c) {
  c->users++;
  return c;
}

void ij_catalogue_close(ij_catalogue *c) {
  if (!c || --c->users > 0) return;
  ij_copy_free(c->copy);
  for (int i = 0; i < c->n; i++) {
    ij_list_free(c->list[i]);
    ij_free(c->s[i].class);
  }
  ij_notes_free(&c->notes);
  ij_free(c->list);
  ij_free(c->s);
  ij_free(c->class);
  ij_free(c->title);
  ij_free(c);
}
