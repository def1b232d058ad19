/* Files of tensors in the safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors'
 * bytes, back to back without holes. The reader maps the file and trusts nothing in it; the writer replaces a file at
 * once or not at all. */
#include "base/base.h"
#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PREFIX = 8, ALIGN = 64, PARSER_SLACK = 8 };
static const uint64_t MAX_HEADER = 100 * 1000 * 1000;
static const int64_t MAX_NUMBER = INT64_C(1) << 53; /* above it a JSON number need not be exact */

/* The types of the format; dtype -1: known, not readable here. A type that isn't listed is taken as it comes. */
static const struct type {
  const char *name;
  int dtype, bytes;
} types[] = {{"F32", IJ_F32, 4}, {"BF16", IJ_BF16, 2}, {"I32", IJ_I32, 4}, {"I64", IJ_I64, 8}, {"U8", IJ_U8, 1},
             {"F64", -1, 8},     {"F16", -1, 2},       {"I16", -1, 2},     {"I8", -1, 1},      {"BOOL", -1, 1},
             {"U64", -1, 8},     {"U32", -1, 4},       {"U16", -1, 2}};
enum { TYPES = sizeof types / sizeof types[0] };

static const struct type *type_by_name(const char *name) {
  for (int i = 0; i < TYPES; i++)
    if (!strcmp(types[i].name, name)) return &types[i];
  return NULL;
}

static const struct type *type_by_dtype(int dtype) {
  for (int i = 0; i < TYPES; i++)
    if (dtype >= 0 && types[i].dtype == dtype) return &types[i];
  return NULL;
}

/* shape[ndim] times size -> *bytes; false when a size or the product is impossible. */
static bool bytes_of(int ndim, const int64_t *shape, int size, int64_t *bytes) {
  bool empty = false;
  int64_t n = size;
  for (int i = 0; i < ndim; i++) {
    if (shape[i] < 0 || shape[i] > MAX_NUMBER) return false;
    empty |= shape[i] == 0;
  }
  for (int i = 0; i < ndim && !empty; i++)
    if (__builtin_mul_overflow(n, shape[i], &n)) return false;
  *bytes = empty ? 0 : n;
  return true;
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

typedef struct entry {
  const char *name, *type; /* in the header's tree */
  int dtype;               /* -1: not readable here */
  int ndim;
  const int64_t *shape; /* (ndim) */
  int64_t begin, end;   /* bytes from the start of the data */
} entry;

struct ij_tensors {
  char *path;
  unsigned char *map; /* the whole file */
  size_t size;
  const unsigned char *data;
  cJSON *header;
  int count, meta_count;
  entry *entries; /* (count), by place in the file */
  int *by_name;   /* (count), numbers of entries sorted by name */
  const cJSON **meta;
  int64_t *dims; /* all shapes */
};

static ij_status bad(const ij_tensors *f, const char *what) {
  return ij_fail(IJ_EFORMAT, "file '%s' is not a whole safetensors file: %s", f->path, what);
}

static ij_status map_file(ij_tensors *f) {
  struct stat s;
  ij_status st = IJ_OK;
  int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block */
  if (fd < 0) return ij_fail(IJ_EIO, "file '%s' could not be opened: %s", f->path, strerror(errno));
  if (fstat(fd, &s) != 0) {
    st = ij_fail(IJ_EIO, "file '%s' could not be read: %s", f->path, strerror(errno));
  } else if (!S_ISREG(s.st_mode)) {
    st = ij_fail(IJ_EIO, "'%s' is not a file", f->path);
  } else if (s.st_size < PREFIX + 2) {
    st = ij_fail(IJ_EFORMAT, "file '%s' is not a whole safetensors file: it has %lld bytes", f->path,
                 (long long)s.st_size);
  } else {
    f->size = (size_t)s.st_size;
    void *p = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) st = ij_fail(IJ_EIO, "file '%s' could not be mapped: %s", f->path, strerror(errno));
    else f->map = p;
  }
  close(fd);
  return st;
}

static ij_status parse_header(ij_tensors *f) {
  uint64_t n = 0;
  for (int i = 0; i < PREFIX; i++) n |= (uint64_t)f->map[i] << (8 * i);
  if (n > MAX_HEADER) return bad(f, "its header would be longer than 100 MB");
  if (n < 2 || n > f->size - PREFIX)
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a whole safetensors file: its header would have %llu bytes, the file has %zu",
                   f->path, (unsigned long long)n, f->size);
  const unsigned char *json = f->map + PREFIX;
  if (json[0] != '{' || memchr(json, 0, n)) return bad(f, "its header is not JSON");
  char *copy = ij_alloc(n + PARSER_SLACK); /* ended by zeros: the parser looks a little past some errors */
  if (!copy) return IJ_ENOMEM;
  memcpy(copy, json, n);
  memset(copy + n, 0, PARSER_SLACK);
  f->header = cJSON_ParseWithLengthOpts(copy, n + 1, NULL, 1);
  ij_free(copy);
  if (!cJSON_IsObject(f->header)) return bad(f, "its header is not JSON");
  f->data = json + n;
  return IJ_OK;
}

/* A whole number of 0 to 2^53. */
static bool get_whole(const cJSON *item, int64_t *value) {
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= (double)MAX_NUMBER)) return false;
  *value = (int64_t)item->valuedouble;
  return (double)*value == item->valuedouble;
}

/* The member called key, NULL where it is missing or there twice. */
static const cJSON *get_once(const cJSON *object, const char *key) {
  const cJSON *found = NULL, *item;
  cJSON_ArrayForEach(item, object) {
    if (strcmp(item->string, key)) continue;
    if (found) return NULL;
    found = item;
  }
  return found;
}

/* dims: where the shape goes; room for all numbers of the item's shape. */
static ij_status parse_entry(const ij_tensors *f, const cJSON *item, int64_t *dims, entry *e) {
  const cJSON *type = get_once(item, "dtype"), *shape = get_once(item, "shape"), *d;
  const cJSON *offsets = get_once(item, "data_offsets");
  int64_t bytes, room = (int64_t)(f->size - (size_t)(f->data - f->map));
  *e = (entry){.name = item->string, .shape = dims};
  if (!cJSON_IsObject(item) || !cJSON_IsString(type) || !cJSON_IsArray(shape) || !cJSON_IsArray(offsets) ||
      cJSON_GetArraySize(offsets) != 2)
    goto malformed;
  if (!get_whole(offsets->child, &e->begin) || !get_whole(offsets->child->next, &e->end)) goto malformed;
  cJSON_ArrayForEach(d, shape) if (!get_whole(d, &dims[e->ndim++])) goto malformed;
  if (e->begin > e->end || e->end > room)
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a whole safetensors file: tensor '%s' is at bytes %lld to %lld, there are %lld",
                   f->path, e->name, (long long)e->begin, (long long)e->end, (long long)room);
  const struct type *t = type_by_name(type->valuestring);
  e->type = type->valuestring;
  e->dtype = t ? t->dtype : -1;
  if (t && (!bytes_of(e->ndim, dims, t->bytes, &bytes) || bytes != e->end - e->begin))
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a whole safetensors file: tensor '%s' has %lld bytes, its shape says otherwise",
                   f->path, e->name, (long long)(e->end - e->begin));
  return IJ_OK;
malformed:
  return ij_fail(IJ_EFORMAT, "file '%s' is not a whole safetensors file: the entry '%s' of its header is malformed",
                 f->path, e->name);
}

static int by_place(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return strcmp(x->name, y->name);
}

static int by_entry_name(const void *a, const void *b, void *entries) {
  const entry *e = entries;
  return strcmp(e[*(const int *)a].name, e[*(const int *)b].name);
}

static int by_key(const void *a, const void *b) {
  return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

static ij_status index_meta(ij_tensors *f, const cJSON *meta) {
  const cJSON *item;
  if (!meta) return IJ_OK;
  if (!cJSON_IsObject(meta)) return bad(f, "its metadata is malformed");
  int n = cJSON_GetArraySize(meta);
  if (!(f->meta = ij_calloc((size_t)n + 1, sizeof *f->meta))) return IJ_ENOMEM;
  cJSON_ArrayForEach(item, meta) {
    if (!cJSON_IsString(item)) return bad(f, "its metadata is malformed");
    f->meta[f->meta_count++] = item;
  }
  if (n) qsort(f->meta, (size_t)n, sizeof *f->meta, by_key);
  for (int i = 1; i < n; i++)
    if (!by_key(&f->meta[i - 1], &f->meta[i])) return bad(f, "its metadata has a key twice");
  return IJ_OK;
}

static ij_status index_entries(ij_tensors *f) {
  const cJSON *item, *meta = NULL;
  size_t dims = 0, total = 0;
  cJSON_ArrayForEach(item, f->header) {
    total++;
    dims += (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(item, "shape"));
  }
  f->entries = ij_calloc(total + 1, sizeof *f->entries);
  f->by_name = ij_calloc(total + 1, sizeof *f->by_name);
  f->dims = ij_calloc(dims + 1, sizeof *f->dims);
  if (!f->entries || !f->by_name || !f->dims) return IJ_ENOMEM;
  int64_t *next = f->dims;
  cJSON_ArrayForEach(item, f->header) {
    if (!strcmp(item->string, "__metadata__")) {
      if (meta) return bad(f, "it has two entries '__metadata__'");
      meta = item;
      continue;
    }
    entry *e = &f->entries[f->count];
    IJ_TRY(parse_entry(f, item, next, e));
    next += e->ndim;
    f->count++;
  }
  if (f->count) qsort(f->entries, (size_t)f->count, sizeof *f->entries, by_place);
  int64_t at = 0, room = (int64_t)(f->size - (size_t)(f->data - f->map));
  for (int i = 0; i < f->count; at = f->entries[i++].end)
    if (f->entries[i].begin != at)
      return ij_fail(IJ_EFORMAT,
                     "file '%s' is not a whole safetensors file: tensor '%s' starts at byte %lld, expected %lld",
                     f->path, f->entries[i].name, (long long)f->entries[i].begin, (long long)at);
  if (at != room)
    return ij_fail(IJ_EFORMAT, "file '%s' is not a whole safetensors file: its tensors have %lld bytes, there are %lld",
                   f->path, (long long)at, (long long)room);
  for (int i = 0; i < f->count; i++) f->by_name[i] = i;
  if (f->count) qsort_r(f->by_name, (size_t)f->count, sizeof *f->by_name, by_entry_name, f->entries);
  for (int i = 1; i < f->count; i++)
    if (!by_entry_name(&f->by_name[i - 1], &f->by_name[i], f->entries))
      return ij_fail(IJ_EFORMAT, "file '%s' is not a whole safetensors file: it has tensor '%s' twice", f->path,
                     f->entries[f->by_name[i]].name);
  return index_meta(f, meta);
}

ij_status ij_tensors_open(const char *path, ij_tensors **out) {
  ij_status st;
  *out = NULL;
  ij_tensors *f = ij_calloc(1, sizeof *f);
  if (!f) return IJ_ENOMEM;
  if (!(f->path = ij_strdup(path))) {
    st = IJ_ENOMEM;
    goto failed;
  }
  IJ_TRY_TO(failed, st, map_file(f));
  IJ_TRY_TO(failed, st, parse_header(f));
  IJ_TRY_TO(failed, st, index_entries(f));
  *out = f;
  return IJ_OK;
failed:
  ij_tensors_close(f);
  return st;
}

void ij_tensors_close(ij_tensors *f) {
  if (!f) return;
  if (f->map) munmap(f->map, f->size);
  cJSON_Delete(f->header);
  ij_free(f->entries);
  ij_free(f->by_name);
  ij_free(f->meta);
  ij_free(f->dims);
  ij_free(f->path);
  ij_free(f);
}

static const entry *entry_at(const ij_tensors *f, int i) { return i >= 0 && i < f->count ? &f->entries[i] : NULL; }

int ij_tensors_count(const ij_tensors *f) { return f->count; }

const char *ij_tensors_name(const ij_tensors *f, int i) {
  const entry *e = entry_at(f, i);
  return e ? e->name : NULL;
}

int ij_tensors_find(const ij_tensors *f, const char *name) {
  int lo = 0, hi = f->count;
  while (lo < hi) {
    int mid = lo + (hi - lo) / 2, order = strcmp(f->entries[f->by_name[mid]].name, name);
    if (order == 0) return f->by_name[mid];
    if (order < 0) lo = mid + 1;
    else hi = mid;
  }
  return -1;
}

ij_dtype ij_tensors_dtype(const ij_tensors *f, int i) {
  const entry *e = entry_at(f, i);
  return (ij_dtype)(e ? e->dtype : -1);
}

const char *ij_tensors_type(const ij_tensors *f, int i) {
  const entry *e = entry_at(f, i);
  return e ? e->type : NULL;
}

int ij_tensors_ndim(const ij_tensors *f, int i) {
  const entry *e = entry_at(f, i);
  return e ? e->ndim : -1;
}

int64_t ij_tensors_size(const ij_tensors *f, int i, int dim) {
  const entry *e = entry_at(f, i);
  return e && dim >= 0 && dim < e->ndim ? e->shape[dim] : -1;
}

const void *ij_tensors_data(const ij_tensors *f, int i, size_t *bytes) {
  const entry *e = entry_at(f, i);
  if (!e) {
    ij_fail(IJ_EINVAL, "file '%s' has no tensor number %d: there are %d", f->path, i, f->count);
    return NULL;
  }
  if (e->dtype < 0) {
    ij_fail(IJ_EUNSUPPORTED, "file '%s': tensor '%s' is %s, which can't be read here; store it as F32 or BF16", f->path,
            e->name, e->type);
    return NULL;
  }
  if (bytes) *bytes = (size_t)(e->end - e->begin);
  return f->data + e->begin;
}

int ij_tensors_meta_count(const ij_tensors *f) { return f->meta_count; }

const char *ij_tensors_meta_key(const ij_tensors *f, int i) {
  return i >= 0 && i < f->meta_count ? f->meta[i]->string : NULL;
}

const char *ij_tensors_meta(const ij_tensors *f, const char *key) {
  for (int i = 0; i < f->meta_count; i++)
    if (!strcmp(f->meta[i]->string, key)) return f->meta[i]->valuestring;
  return NULL;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

typedef struct item {
  char *name;
  const struct type *type;
  int ndim;
  int64_t *shape;    /* (ndim) */
  const void *data;  /* borrowed; NULL where there is */
  ij_tensor *tensor; /* one reference held */
  void *copy;        /* of a tensor's bytes, owned; data points to it */
  int64_t bytes;
} item;

struct ij_tensors_writer {
  char *path;
  cJSON *meta;
  int count, room;
  item *items;
};

ij_status ij_tensors_create(const char *path, ij_tensors_writer **out) {
  *out = NULL;
  ij_tensors_writer *w = ij_calloc(1, sizeof *w);
  if (!w) return IJ_ENOMEM;
  w->path = ij_strdup(path);
  w->meta = cJSON_CreateObject();
  if (!w->path || !w->meta) {
    ij_tensors_discard(w);
    return ij_fail(IJ_ENOMEM, "file '%s': out of memory", path);
  }
  *out = w;
  return IJ_OK;
}

void ij_tensors_discard(ij_tensors_writer *w) {
  if (!w) return;
  for (int i = 0; i < w->count; i++) {
    ij_free(w->items[i].name);
    ij_free(w->items[i].shape);
    ij_free(w->items[i].copy);
    ij_tensor_free(w->items[i].tensor);
  }
  ij_free(w->items);
  cJSON_Delete(w->meta);
  ij_free(w->path);
  ij_free(w);
}

ij_status ij_tensors_set_meta(ij_tensors_writer *w, const char *key, const char *value) {
  cJSON_DeleteItemFromObjectCaseSensitive(w->meta, key);
  if (!cJSON_AddStringToObject(w->meta, key, value)) return ij_fail(IJ_ENOMEM, "file '%s': out of memory", w->path);
  return IJ_OK;
}

static ij_status add_item(ij_tensors_writer *w, const char *name, ij_dtype t, int ndim, const int64_t *shape,
                          const void *data, ij_tensor *tensor) {
  item new = {.type = type_by_dtype((int)t), .ndim = ndim, .data = data, .tensor = tensor};
  if (!new.type) return ij_fail(IJ_EINVAL, "tensor '%s' of '%s' has the unknown type %d", name, w->path, (int)t);
  if (!*name || !strcmp(name, "__metadata__"))
    return ij_fail(IJ_EINVAL, "a tensor of '%s' can't be called '%s'", w->path, name);
  if (ndim < 0 || !bytes_of(ndim, shape, new.type->bytes, &new.bytes))
    return ij_fail(IJ_ESHAPE, "tensor '%s' of '%s' has an impossible shape", name, w->path);
  if (!data && !tensor && new.bytes) return ij_fail(IJ_EINVAL, "tensor '%s' of '%s' has no data", name, w->path);
  for (int i = 0; i < w->count; i++)
    if (!strcmp(w->items[i].name, name))
      return ij_fail(IJ_EINVAL, "tensor '%s' was already added to '%s'", name, w->path);
  if (w->count == w->room) {
    int room = w->room ? 2 * w->room : 64;
    item *more = ij_realloc(w->items, (size_t)room * sizeof *more);
    if (!more) return IJ_ENOMEM;
    w->items = more;
    w->room = room;
  }
  new.name = ij_strdup(name);
  new.shape = ij_calloc((size_t)ndim + 1, sizeof *new.shape);
  if (!new.name || !new.shape) {
    ij_free(new.name);
    ij_free(new.shape);
    return IJ_ENOMEM;
  }
  if (ndim) memcpy(new.shape, shape, (size_t)ndim * sizeof *shape);
  if (tensor) ij_tensor_ref(tensor);
  w->items[w->count++] = new;
  return IJ_OK;
}

ij_status ij_tensors_add(ij_tensors_writer *w, const char *name, ij_dtype t, int ndim, const int64_t *shape,
                         const void *data) {
  return add_item(w, name, t, ndim, shape, data, NULL);
}

ij_status ij_tensors_add_tensor(ij_tensors_writer *w, const char *name, ij_tensor *t) {
  int ndim = ij_tensor_ndim(t);
  int64_t *shape = ij_calloc((size_t)ndim + 1, sizeof *shape);
  if (!shape) return IJ_ENOMEM;
  for (int i = 0; i < ndim; i++) shape[i] = ij_tensor_size(t, i);
  ij_status st = add_item(w, name, ij_tensor_dtype(t), ndim, shape, NULL, t);
  ij_free(shape);
  return st;
}

/* "name":{"dtype":..,"shape":[..],"data_offsets":[begin,end]}; false when out of memory. */
static bool add_entry(cJSON *header, const item *t, int64_t begin) {
  cJSON *e = cJSON_AddObjectToObject(header, t->name);
  if (!e || !cJSON_AddStringToObject(e, "dtype", t->type->name)) return false;
  cJSON *shape = cJSON_AddArrayToObject(e, "shape"), *offsets = cJSON_AddArrayToObject(e, "data_offsets");
  if (!shape || !offsets) return false;
  for (int i = 0; i < t->ndim; i++)
    if (!cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[i]))) return false;
  return cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)begin)) &&
         cJSON_AddItemToArray(offsets, cJSON_CreateNumber((double)(begin + t->bytes)));
}

/* The header, prefix included, filled up with spaces so that the data starts at a multiple of ALIGN. */
static ij_status make_header(const ij_tensors_writer *w, const item *items, char **out, size_t *size) {
  ij_status st = ij_fail(IJ_ENOMEM, "file '%s': out of memory for its header", w->path);
  char *json = NULL;
  int64_t begin = 0;
  cJSON *header = cJSON_CreateObject();
  if (!header) goto out;
  if (w->meta->child && !cJSON_AddItemReferenceToObject(header, "__metadata__", w->meta)) goto out;
  for (int i = 0; i < w->count; begin += items[i++].bytes)
    if (!add_entry(header, &items[i], begin)) goto out;
  if (!(json = cJSON_PrintUnformatted(header))) goto out;
  size_t n = strlen(json), whole = (PREFIX + n + ALIGN - 1) / ALIGN * ALIGN;
  if (whole - PREFIX > MAX_HEADER) {
    st = ij_fail(IJ_EINVAL, "file '%s' could not be written: its names and metadata pass 100 MB", w->path);
    goto out;
  }
  if (!(*out = ij_alloc(whole))) goto out;
  for (int i = 0; i < PREFIX; i++) (*out)[i] = (char)((whole - PREFIX) >> (8 * i));
  memcpy(*out + PREFIX, json, n);
  memset(*out + PREFIX + n, ' ', whole - PREFIX - n);
  *size = whole;
  st = IJ_OK;
out:
  cJSON_free(json);
  cJSON_Delete(header);
  return st;
}

static bool write_all(int fd, const void *bytes, size_t n) {
  for (const char *p = bytes; n;) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return false;
    p += k;
    n -= (size_t)k;
  }
  return true;
}

static void sync_folder_of(char *path) {
  char *slash = strrchr(path, '/');
  if (slash) *(slash == path ? slash + 1 : slash) = 0;
  int folder = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return; /* some file systems refuse this; the rename has happened all the same */
  fsync(folder);
  close(folder);
}

/* header and items -> fd. buffer: room for the largest item that is a tensor. */
static ij_status write_items(int fd, const char *path, const char *header, size_t header_size, const item *items,
                             int count, void *buffer) {
  if (!write_all(fd, header, header_size)) goto failed;
  for (int i = 0; i < count; i++) {
    size_t n = (size_t)items[i].bytes;
    if (items[i].tensor && ij_tensor_read(items[i].tensor, buffer, n) != IJ_OK)
      return ij_fail_in(IJ_EINVAL, "file '%s', tensor '%s'", path, items[i].name);
    if (!write_all(fd, items[i].tensor ? buffer : items[i].data, n)) goto failed;
  }
  if (fsync(fd) == 0) return IJ_OK;
failed:
  return ij_fail(IJ_EIO, "file '%s' could not be written: %s", path, strerror(errno));
}

/* header and items -> tmp -> path; the temporary is gone when it fails. */
static ij_status replace_file(const char *path, const char *tmp, const char *header, size_t header_size,
                              const item *items, int count) {
  ij_status st = IJ_OK;
  size_t total = header_size, largest = 0;
  void *buffer = NULL;
  for (int i = 0; i < count; i++) {
    total += (size_t)items[i].bytes;
    if (items[i].tensor && (size_t)items[i].bytes > largest) largest = (size_t)items[i].bytes;
  }
  if (largest && !(buffer = ij_alloc(largest))) return IJ_ENOMEM;
  int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    st = ij_fail(IJ_EIO, "file '%s' could not be written: %s", path, strerror(errno));
    goto out;
  }
  /* Asks for the room first: a full disk is found before gigabytes are written. Not every file system can. */
  if (fallocate(fd, 0, 0, (off_t)total) != 0 && errno == ENOSPC)
    st = ij_fail(IJ_EIO, "file '%s' could not be written: %s (%zu bytes are needed)", path, strerror(errno), total);
  if (st == IJ_OK) st = write_items(fd, path, header, header_size, items, count, buffer);
  int closed = close(fd);
  if (st == IJ_OK && (closed != 0 || rename(tmp, path) != 0))
    st = ij_fail(IJ_EIO, "file '%s' could not be written: %s", path, strerror(errno));
  if (st != IJ_OK) unlink(tmp);
out:
  ij_free(buffer);
  return st;
}

ij_status ij_tensors_commit(ij_tensors_writer *w) {
  ij_status st = IJ_ENOMEM;
  size_t header_size = 0;
  int n = 0;
  char *tmp = ij_format("%s.tmp", w->path), *header = NULL;
  item *items = ij_calloc((size_t)w->count + 1, sizeof *items);
  if (!tmp || !items) goto out;
  /* Wide types first, so that every tensor lies at a multiple of its element size; else the order of adding. */
  for (int bytes = 8; bytes >= 1; bytes /= 2)
    for (int i = 0; i < w->count; i++)
      if (w->items[i].type->bytes == bytes) items[n++] = w->items[i];
  IJ_TRY_TO(out, st, make_header(w, items, &header, &header_size));
  IJ_TRY_TO(out, st, replace_file(w->path, tmp, header, header_size, items, n));
  sync_folder_of(w->path);
out:
  ij_free(tmp);
  ij_free(header);
  ij_free(items);
  ij_tensors_discard(w);
  return st;
}

/* ---- writing in a thread */
struct ij_tensors_job {
  pthread_t thread;
  ij_tensors_writer *w;
  atomic_bool done;
  ij_status status;
  char *message; /* of the thread's failure */
};

/* Every tensor's bytes now, whatever happens to it later. */
static ij_status copy_tensors(ij_tensors_writer *w) {
  for (int i = 0; i < w->count; i++) {
    item *t = &w->items[i];
    if (!t->tensor) continue;
    if (!(t->copy = ij_alloc((size_t)t->bytes + 1))) return IJ_ENOMEM;
    if (ij_tensor_read(t->tensor, t->copy, (size_t)t->bytes) != IJ_OK)
      return ij_fail_in(IJ_EINVAL, "file '%s', tensor '%s'", w->path, t->name);
  }
  for (int i = 0; i < w->count; i++) {
    item *t = &w->items[i];
    if (!t->tensor) continue;
    t->data = t->copy;
    ij_tensor_free(t->tensor);
    t->tensor = NULL;
  }
  return IJ_OK;
}

static void *write_later(void *arg) {
  ij_tensors_job *job = arg;
  job->status = ij_tensors_commit(job->w);
  if (job->status != IJ_OK) job->message = ij_strdup(ij_errmsg());
  atomic_store(&job->done, true);
  return NULL;
}

ij_status ij_tensors_commit_later(ij_tensors_writer *w, ij_tensors_job **out) {
  *out = NULL;
  ij_tensors_job *job = ij_calloc(1, sizeof *job);
  ij_status st = job ? copy_tensors(w) : IJ_ENOMEM;
  if (st == IJ_OK) {
    sigset_t all, before;
    sigfillset(&all); /* signals are for the thread that called us */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    job->w = w;
    if (pthread_create(&job->thread, NULL, write_later, job) == 0) *out = job;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (*out) return IJ_OK;
    st = IJ_ENOMEM;
  }
  ij_free(job);
  if (st == IJ_ENOMEM) {
    for (int i = 0; i < w->count; i++) { /* what was copied is room that is needed */
      if (!w->items[i].tensor) continue;
      ij_free(w->items[i].copy);
      w->items[i].copy = NULL;
    }
    return ij_tensors_commit(w);
  }
  ij_tensors_discard(w);
  return st;
}

int ij_tensors_job_done(const ij_tensors_job *job) { return !job || atomic_load(&job->done); }

ij_status ij_tensors_job_end(ij_tensors_job *job) {
  if (!job) return IJ_OK;
  pthread_join(job->thread, NULL);
  ij_status st = job->status;
  if (st != IJ_OK) ij_fail(st, "%s", job->message ? job->message : "a file could not be written");
  ij_free(job->message);
  ij_free(job);
  return st;
}
