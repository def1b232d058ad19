/* names.c: millions of names in little memory. Records lie in blocks of characters and are known by 32-bit offsets: a
 * name costs its characters, a 0, 4 bytes, and in a tar 12 more. */
#include "data.h"
#include <stdlib.h>
#include <string.h>

enum { BLOCK_BITS = 20, BLOCK = 1 << BLOCK_BITS };

static const char *record(const ij_names *v, uint32_t offset) {
  return v->block[offset >> BLOCK_BITS] + (offset & (BLOCK - 1));
}
const char *ij_names_meta(const ij_names *v, uint32_t i) { return record(v, v->index[i]); }
const char *ij_names_at(const ij_names *v, uint32_t i) { return record(v, v->index[i]) + v->meta; }

ij_status ij_names_add(ij_names *v, const char *name, const void *meta) {
  size_t len = strlen(name) + 1;
  if (v->blocks == 0 || v->used + v->meta + len > BLOCK) {
    if (v->blocks == (size_t)1 << (32 - BLOCK_BITS) || len > BLOCK / 2)
      return ij_fail(IJ_EUNSUPPORTED, "too many images: their names pass 4 GiB");
    if (v->blocks == v->cap_blocks) {
      size_t cap = v->cap_blocks ? 2 * v->cap_blocks : 16;
      char **more = ij_realloc(v->block, cap * sizeof *more);
      if (!more) return IJ_ENOMEM;
      v->block = more;
      v->cap_blocks = cap;
    }
    if (!(v->block[v->blocks] = ij_alloc(BLOCK))) return IJ_ENOMEM;
    v->blocks++;
    v->used = 0;
  }
  if (v->n == v->cap) {
    size_t cap = v->cap ? v->cap + v->cap / 4 : 1024;
    uint32_t *more = ij_realloc(v->index, cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    v->index = more;
    v->cap = cap;
  }
  char *to = v->block[v->blocks - 1] + v->used;
  if (v->meta) memcpy(to, meta, v->meta);
  memcpy(to + v->meta, name, len);
  v->index[v->n++] = (uint32_t)((v->blocks - 1) << BLOCK_BITS | v->used);
  v->used += v->meta + len;
  return IJ_OK;
}

static int by_record(const void *a, const void *b, void *arg) {
  const ij_names *v = arg;
  uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
  int order = strcmp(record(v, i) + v->meta, record(v, j) + v->meta);
  return order ? order : i < j ? -1 : i > j; /* the same name in two tars: in the order of the tars */
}

ij_status ij_names_sort(ij_names *v) {
  bool sorted = true; /* as tars and ready lists often are */
  for (size_t i = 1; sorted && i < v->n; i++) sorted = by_record(&v->index[i - 1], &v->index[i], v) < 0;
  if (!sorted) qsort_r(v->index, v->n, sizeof *v->index, by_record, v);
  if (v->n == v->cap || v->n == 0) return IJ_OK;
  uint32_t *exact = ij_realloc(v->index, v->n * sizeof *exact); /* it grows no more */
  if (!exact) return IJ_ENOMEM;
  v->index = exact;
  v->cap = v->n;
  return IJ_OK;
}

void ij_names_free(ij_names *v) {
  for (size_t i = 0; i < v->blocks; i++) ij_free(v->block[i]);
  ij_free(v->block);
  ij_free(v->index);
  *v = (ij_names){0};
}
