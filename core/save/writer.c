/* A list of tensors and metadata to be written, and the replacement of a file: completely, or not at all. */
#include "save.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

ij_status ij_tensor_writer_new(const char *path, ij_tensor_writer **out) {
  *out = NULL;
  ij_tensor_writer *w = ij_calloc(1, sizeof *w);
  if (!w) return IJ_ENOMEM;
  w->path = ij_strdup(path);
  w->meta = cJSON_CreateObject();
  if (!w->path || !w->meta) {
    ij_tensor_writer_discard(w);
    return ij_fail(IJ_ENOMEM, "file '%s': out of memory", path);
  }
  *out = w;
  return IJ_OK;
}

void ij_tensor_writer_discard(ij_tensor_writer *w) {
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

ij_status ij_tensor_writer_meta(ij_tensor_writer *w, const char *key, const char *value) {
  cJSON_DeleteItemFromObjectCaseSensitive(w->meta, key);
  if (!cJSON_AddStringToObject(w->meta, key, value)) return ij_fail(IJ_ENOMEM, "file '%s': out of memory", w->path);
  return IJ_OK;
}

static ij_status add_item(ij_tensor_writer *w, const char *name, ij_dtype t, int ndim, const int64_t *shape,
                          const void *data, ij_tensor *tensor) {
  ij_item new = {.type = ij_type_by_dtype((int)t), .ndim = ndim, .data = data, .tensor = tensor};
  if (!new.type) return ij_fail(IJ_EINVAL, "tensor '%s' of '%s' has the unknown type %d", name, w->path, (int)t);
  if (!*name || !strcmp(name, "__metadata__"))
    return ij_fail(IJ_EINVAL, "a tensor of '%s' can't be called '%s'", w->path, name);
  if (ndim < 0 || !ij_bytes_of(ndim, shape, new.type->bytes, &new.bytes))
    return ij_fail(IJ_ESHAPE, "tensor '%s' of '%s' has an impossible shape", name, w->path);
  if (!data && !tensor && new.bytes) return ij_fail(IJ_EINVAL, "tensor '%s' of '%s' has no data", name, w->path);
  for (int i = 0; i < w->count; i++)
    if (!strcmp(w->items[i].name, name))
      return ij_fail(IJ_EINVAL, "tensor '%s' was already added to '%s'", name, w->path);
  if (w->count == w->capacity) {
    int capacity = w->capacity ? 2 * w->capacity : 64;
    ij_item *more = ij_realloc(w->items, (size_t)capacity * sizeof *more);
    if (!more) return IJ_ENOMEM;
    w->items = more;
    w->capacity = capacity;
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

ij_status ij_tensor_writer_add(ij_tensor_writer *w, const char *name, ij_dtype t, int ndim, const int64_t *shape,
                               const void *data) {
  return add_item(w, name, t, ndim, shape, data, NULL);
}

ij_status ij_tensor_writer_add_tensor(ij_tensor_writer *w, const char *name, ij_tensor *t) {
  int ndim = ij_tensor_ndim(t);
  int64_t *shape = ij_calloc((size_t)ndim + 1, sizeof *shape);
  if (!shape) return IJ_ENOMEM;
  for (int i = 0; i < ndim; i++) shape[i] = ij_tensor_size(t, i);
  ij_status st = add_item(w, name, ij_tensor_dtype(t), ndim, shape, NULL, t);
  ij_free(shape);
  return st;
}

ij_status ij_output_put(ij_output *s, const void *bytes, size_t n) {
  s->written += n;
  return ij_replace_put(&s->file, bytes, n);
}

ij_status ij_output_item(ij_output *s, const ij_item *t, const void **bytes) {
  *bytes = t->tensor ? s->buffer : t->data;
  if (t->tensor && ij_tensor_read(t->tensor, s->buffer, (size_t)t->bytes) != IJ_OK)
    return ij_fail_in(IJ_EINVAL, "file '%s', tensor '%s'", s->path, t->name);
  return IJ_OK;
}

ij_status ij_writer_replace(const ij_tensor_writer *w, size_t total, ij_status (*fill)(ij_output *, const void *),
                            const void *context) {
  ij_output s = {.path = w->path};
  size_t largest = 0;
  for (int i = 0; i < w->count; i++)
    if (w->items[i].tensor && (size_t)w->items[i].bytes > largest) largest = (size_t)w->items[i].bytes;
  if (largest && !(s.buffer = ij_alloc(largest))) return IJ_ENOMEM;
  ij_status st = ij_replace_begin(&s.file, w->path);
  if (st == IJ_OK) {
    /* Reserves the space first: a full disk is found before gigabytes are written. Not every file system can. */
    if (s.file.tmp && fallocate(s.file.fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)total) != 0 && errno == ENOSPC)
      st =
          ij_fail(IJ_EIO, "file '%s' could not be written: %s (%zu bytes are needed)", w->path, strerror(errno), total);
    else st = fill(&s, context);
    st = ij_replace_end(&s.file, st);
  }
  ij_free(s.buffer);
  return st;
}
