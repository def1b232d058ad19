/* A file of tensors, in either format: opened, and its names, shapes, contents and metadata read. */
#include "save.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copies of contents may take this many times the file's size, and SMALL bytes more: what unpacks to more is not
 * weights. */
enum { LARGEST_GAIN = 64, SMALL = 1 << 24, PAGE = 4096 };

/* ---- opening */

static ij_status map_file(ij_tensor_file *f) {
  struct stat s;
  ij_status st = IJ_OK;
  int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
  if (fd < 0) return ij_fail(IJ_EIO, "file '%s' could not be opened: %s", f->path, strerror(errno));
  if (fstat(fd, &s) != 0) {
    st = ij_fail(IJ_EIO, "file '%s' could not be read: %s", f->path, strerror(errno));
  } else if (!S_ISREG(s.st_mode)) {
    st = ij_fail(IJ_EIO, "'%s' is not a file", f->path);
  } else if ((f->size = (size_t)s.st_size)) {
    void *p = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) st = ij_fail(IJ_EIO, "file '%s' could not be mapped: %s", f->path, strerror(errno));
    else f->map = p;
  }
  close(fd);
  return st;
}

static int by_entry_name(const void *a, const void *b, void *entries) {
  const ij_file_entry *e = entries;
  return strcmp(e[*(const int *)a].name, e[*(const int *)b].name);
}

static int by_key(const void *a, const void *b) { return strcmp(((const ij_meta *)a)->key, ((const ij_meta *)b)->key); }

/* Whether a text can stand in a message: terminals obey control characters. */
static bool is_plain(const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text < ' ' || *text == 127) return false;
  return true;
}

/* Sorts names and keys, and refuses one that is there twice. */
static ij_status index_names(ij_tensor_file *f) {
  for (int i = 0; i < f->count; i++)
    if (!is_plain(f->entries[i].name) || !is_plain(f->entries[i].type))
      return ij_fail(IJ_EFORMAT, "file '%s' is malformed: the name or type of tensor %d has control characters",
                     f->path, i);
  if (!(f->by_name = ij_calloc((size_t)f->count + 1, sizeof *f->by_name))) return IJ_ENOMEM;
  for (int i = 0; i < f->count; i++) f->by_name[i] = i;
  if (f->count) qsort_r(f->by_name, (size_t)f->count, sizeof *f->by_name, by_entry_name, f->entries);
  for (int i = 1; i < f->count; i++)
    if (!by_entry_name(&f->by_name[i - 1], &f->by_name[i], f->entries))
      return ij_fail(IJ_EFORMAT, "file '%s' is malformed: it has tensor '%s' twice", f->path,
                     f->entries[f->by_name[i]].name);
  if (f->meta_count) qsort(f->meta, (size_t)f->meta_count, sizeof *f->meta, by_key);
  for (int i = 1; i < f->meta_count; i++)
    if (!by_key(&f->meta[i - 1], &f->meta[i]))
      return ij_fail(IJ_EFORMAT, "file '%s' is malformed: its metadata has '%s' twice", f->path, f->meta[i].key);
  return IJ_OK;
}

ij_status ij_tensor_file_open(const char *path, ij_tensor_file **out) {
  ij_status st;
  *out = NULL;
  ij_tensor_file *f = ij_calloc(1, sizeof *f);
  if (!f) return IJ_ENOMEM;
  if (!(f->path = ij_strdup(path))) {
    st = IJ_ENOMEM;
    goto failed;
  }
  IJ_TRY_TO(failed, st, map_file(f));
  f->copy_budget = f->size < SIZE_MAX / (2 * LARGEST_GAIN) ? LARGEST_GAIN * f->size + SMALL : SIZE_MAX / 2;
  IJ_TRY_TO(failed, st, ij_foreign_check(f));
  IJ_TRY_TO(failed, st, ij_pth_begins(f) ? ij_pth_read(f) : ij_safetensors_read(f));
  IJ_TRY_TO(failed, st, index_names(f));
  *out = f;
  return IJ_OK;
failed:
  ij_tensor_file_close(f);
  return st;
}

void ij_tensor_file_close(ij_tensor_file *f) {
  if (!f) return;
  for (int i = 0; i < f->count; i++) ij_free(f->entries[i].own);
  ij_pth_free(f->pth);
  if (f->map) munmap(f->map, f->size);
  cJSON_Delete(f->header);
  ij_free(f->entries);
  ij_free(f->by_name);
  ij_free(f->meta);
  ij_free(f->dims);
  ij_free(f->path);
  ij_free(f);
}

/* ---- what there is */

static ij_file_entry *entry_at(const ij_tensor_file *f, int i) {
  return i >= 0 && i < f->count ? &f->entries[i] : NULL;
}

int ij_tensor_file_count(const ij_tensor_file *f) { return f->count; }

const char *ij_tensor_file_name(const ij_tensor_file *f, int i) {
  const ij_file_entry *e = entry_at(f, i);
  return e ? e->name : NULL;
}

int ij_tensor_file_find(const ij_tensor_file *f, const char *name) {
  int lo = 0, hi = f->count;
  while (lo < hi) {
    int mid = lo + (hi - lo) / 2, order = strcmp(f->entries[f->by_name[mid]].name, name);
    if (order == 0) return f->by_name[mid];
    if (order < 0) lo = mid + 1;
    else hi = mid;
  }
  return -1;
}

ij_dtype ij_tensor_file_dtype(const ij_tensor_file *f, int i) {
  const ij_file_entry *e = entry_at(f, i);
  return (ij_dtype)(e && e->known ? e->known->dtype : -1);
}

const char *ij_tensor_file_type(const ij_tensor_file *f, int i) {
  const ij_file_entry *e = entry_at(f, i);
  return e ? e->type : NULL;
}

int ij_tensor_file_ndim(const ij_tensor_file *f, int i) {
  const ij_file_entry *e = entry_at(f, i);
  return e ? e->ndim : -1;
}

int64_t ij_tensor_file_size(const ij_tensor_file *f, int i, int dim) {
  const ij_file_entry *e = entry_at(f, i);
  return e && dim >= 0 && dim < e->ndim ? e->shape[dim] : -1;
}

int ij_tensor_file_meta_count(const ij_tensor_file *f) { return f->meta_count; }

const char *ij_tensor_file_meta_key(const ij_tensor_file *f, int i) {
  return i >= 0 && i < f->meta_count ? f->meta[i].key : NULL;
}

const char *ij_tensor_file_meta(const ij_tensor_file *f, const char *key) {
  const ij_meta want = {.key = key};
  const ij_meta *found = f->meta_count ? bsearch(&want, f->meta, (size_t)f->meta_count, sizeof want, by_key) : NULL;
  return found ? found->value : NULL;
}

/* ---- contents */

/* Compares an entry's bytes with the hash that was saved, once. */
static ij_status check_hash(const ij_tensor_file *f, int i, ij_file_entry *e) {
  static const char none[IJ_HASH_DIGITS + 1] = "0000000000000000";
  char digits[IJ_HASH_DIGITS + 1];
  const char *all = f->pth ? NULL : ij_tensor_file_meta(f, IJ_HASHES_KEY);
  if (!all || strlen(all) != (size_t)f->count * IJ_HASH_DIGITS) e->whole = true;
  else if (!strncmp(all + (size_t)i * IJ_HASH_DIGITS, none, IJ_HASH_DIGITS)) e->whole = true;
  if (e->whole) return IJ_OK;
  snprintf(digits, sizeof digits, "%016llx", (unsigned long long)ij_bytes_hash(e->data, (size_t)e->bytes));
  if (strncmp(all + (size_t)i * IJ_HASH_DIGITS, digits, IJ_HASH_DIGITS) != 0)
    return ij_fail(IJ_EFORMAT, "file '%s' is damaged: the values of tensor '%s' are not what was saved", f->path,
                   e->name);
  e->whole = true;
  return IJ_OK;
}

/* Where an entry's elements are, and their strides (NULL: row-major without gaps). */
static ij_status view_of(ij_tensor_file *f, int i, ij_file_entry **e, const unsigned char **first,
                         const int64_t **stride) {
  *stride = NULL;
  if (!(*e = entry_at(f, i)))
    return ij_fail(IJ_EINVAL, "file '%s' has no tensor number %d: there are %d", f->path, i, f->count);
  *first = (*e)->data;
  if (!(*e)->whole) IJ_TRY(check_hash(f, i, *e));
  return f->pth ? ij_pth_view(f, *e, first, stride) : IJ_OK;
}

/* A view's elements in row-major order -> out. The view has been checked to lie in its storage. */
static void gather(const ij_file_entry *e, const unsigned char *first, const int64_t *stride, unsigned char *out) {
  int64_t index[64] = {0}, size = e->known->bytes, n = e->bytes / size;
  const unsigned char *p = first;
  for (int64_t k = 0; k < n; k++, out += size) {
    memcpy(out, p, (size_t)size);
    for (int d = e->ndim - 1; d >= 0; d--) {
      p += stride[d] * size;
      if (++index[d] < e->shape[d]) break;
      p -= stride[d] * size * e->shape[d];
      index[d] = 0;
    }
  }
}

const void *ij_tensor_file_data(ij_tensor_file *f, int i, size_t *bytes) {
  ij_file_entry *e;
  const unsigned char *first;
  const int64_t *stride;
  if (view_of(f, i, &e, &first, &stride) != IJ_OK) return NULL;
  if (!e->known || e->known->dtype < 0) {
    ij_fail(IJ_EUNSUPPORTED, "file '%s': tensor '%s' is %s, which can't be read here; store it as F32 or BF16", f->path,
            e->name, e->type);
    return NULL;
  }
  if (bytes) *bytes = (size_t)e->bytes;
  if (!stride) return first;
  if (!e->own) {
    if ((size_t)e->bytes > f->copy_budget) {
      ij_fail(IJ_EFORMAT, "file '%s': its tensors overlap too much to be copied: '%s'", f->path, e->name);
      return NULL;
    }
    if (!(e->own = ij_alloc((size_t)e->bytes + 1))) return NULL;
    f->copy_budget -= (size_t)e->bytes;
    gather(e, first, stride, e->own);
  }
  return e->own;
}

/* All elements in order as f32. */
static ij_status read_f32(const ij_tensor_file *f, const ij_file_entry *e, const unsigned char *first,
                          const int64_t *stride, float *out) {
  void *copy = NULL;
  if (!e->known)
    return ij_fail(IJ_EUNSUPPORTED, "file '%s': tensor '%s' is %s, which can't be read here; store it as F32 or BF16",
                   f->path, e->name, e->type);
  if (stride) {
    if (!(copy = ij_alloc((size_t)e->bytes + 1))) return IJ_ENOMEM;
    gather(e, first, stride, copy);
  }
  e->known->to_f32(copy ? copy : first, (size_t)(e->bytes / e->known->bytes), out);
  ij_free(copy);
  return IJ_OK;
}

static ij_status want_elements(const ij_tensor_file *f, const ij_file_entry *e, int64_t n) {
  int64_t own = e->known ? e->bytes / e->known->bytes : n;
  if (own == n) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "file '%s': tensor '%s' has %lld elements, %lld are wanted", f->path, e->name,
                 (long long)own, (long long)n);
}

ij_status ij_tensor_file_read(ij_tensor_file *f, int i, float *out, size_t n) {
  ij_file_entry *e;
  const unsigned char *first;
  const int64_t *stride;
  IJ_TRY(view_of(f, i, &e, &first, &stride));
  IJ_TRY(want_elements(f, e, (int64_t)n));
  IJ_TRY(read_f32(f, e, first, stride, out));
  ij_plain_nans(out, n);
  return IJ_OK;
}

/* The pages that lie wholly in these bytes of the map leave the process's memory; the page cache keeps them. */
static void let_go(const ij_tensor_file *f, const unsigned char *first, size_t bytes) {
  if (first < f->map || first >= f->map + f->size) return;
  size_t from = ((size_t)(first - f->map) + PAGE - 1) / PAGE * PAGE, to = (size_t)(first - f->map) + bytes;
  if (to > from + PAGE) madvise(f->map + from, (to - from) / PAGE * PAGE, MADV_DONTNEED);
}

ij_status ij_tensor_file_load(ij_tensor_file *f, int i, ij_tensor *t) {
  ij_file_entry *e;
  const unsigned char *first;
  const int64_t *stride;
  IJ_TRY(view_of(f, i, &e, &first, &stride));
  IJ_TRY(want_elements(f, e, ij_tensor_count(t)));
  if (ij_tensor_dtype(t) != IJ_F32) return ij_fail(IJ_ESHAPE, "file '%s': tensors are loaded as f32", f->path);
  if (!stride && e->known && e->known->dtype == IJ_F32) {
    IJ_TRY(ij_tensor_write(t, first, (size_t)e->bytes));
    let_go(f, first, (size_t)e->bytes);
    return IJ_OK;
  }
  size_t n = (size_t)ij_tensor_count(t);
  float *values = ij_alloc(n * sizeof *values + 1);
  if (!values) return IJ_ENOMEM;
  ij_status st = read_f32(f, e, first, stride, values);
  if (st == IJ_OK) st = ij_tensor_write(t, values, n * sizeof *values);
  ij_free(values);
  return st;
}
