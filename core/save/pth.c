/* PyTorch checkpoints: a zip archive with a pickle, NAME/data.pkl, and a member for each storage, NAME/data/KEY. The
 * pickle's nested dicts become names joined by dots; tensors are views of storages, each checked to lie in its own. */
#include "save.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 32, MAX_DIMS = 64, MAX_VISITS = 1 << 22, MAX_ENTRIES = 1 << 20, MAX_TEXT = 100000000 };

typedef struct storage {
  const ij_member *member;
  const unsigned char *bytes; /* NULL: still packed */
  void *own;
} storage;

typedef struct view {
  int storage;
  int64_t offset;        /* in bytes */
  const int64_t *stride; /* NULL: row-major without gaps */
} view;

struct ij_pth {
  ij_zip zip;
  ij_pickle pickle;
  storage *storages;
  view *views;
  char *text;       /* names, metadata's keys and values */
  int64_t *strides; /* of all views */
  void *data_pkl;   /* the pickle, where it was packed */
  int *storage_of;  /* by value of the pickle: number of the storage + 1 */
  int storage_count;
};

static ij_status bad(const ij_tensor_file *f, const char *what) {
  return ij_fail(IJ_EFORMAT, "file '%s' is not a complete PyTorch checkpoint: %s", f->path, what);
}

void ij_pth_free(ij_pth *p) {
  if (!p) return;
  for (int i = 0; i < p->storage_count; i++) ij_free(p->storages[i].own);
  ij_zip_close(&p->zip);
  ij_pickle_free(&p->pickle);
  ij_free(p->storages);
  ij_free(p->views);
  ij_free(p->text);
  ij_free(p->strides);
  ij_free(p->data_pkl);
  ij_free(p->storage_of);
  ij_free(p);
}

/* The magic number of the format before zip: a pickled long. */
static const unsigned char OLD[] = {0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

static bool is_old(const ij_tensor_file *f) { return f->size >= sizeof OLD && !memcmp(f->map, OLD, sizeof OLD); }

bool ij_pth_begins(const ij_tensor_file *f) { return is_old(f) || (f->size >= 4 && !memcmp(f->map, "PK\3\4", 4)); }

/* Takes n bytes out of what copies of this file's contents may have. */
static ij_status unpack(ij_tensor_file *f, const ij_member *m, void **out) {
  if (m->size > f->copy_budget)
    return ij_fail(IJ_EFORMAT, "file '%s' refused: it would unpack to more than 64 times its size", f->path);
  if (!(*out = ij_alloc(m->size + 1))) return IJ_ENOMEM;
  ij_status st = ij_zip_unpack(f->path, m, *out);
  if (st == IJ_OK) f->copy_budget -= m->size;
  else {
    ij_free(*out);
    *out = NULL;
  }
  return st;
}

static bool ends_with(const ij_member *m, const char *end) {
  size_t n = strlen(end);
  return m->n >= n && !memcmp(m->name + m->n - n, end, n);
}

/* Finds data.pkl and its folder's name, with the slash. */
static ij_status find_pickle(ij_tensor_file *f, const ij_member **m, size_t *folder) {
  ij_zip *z = &f->pth->zip;
  *m = NULL;
  for (int i = 0; i < z->count; i++) {
    if (!ends_with(&z->members[i], "/data.pkl") || memchr(z->members[i].name, '/', z->members[i].n - 9)) continue;
    if (*m) return bad(f, "it holds two pickles");
    *m = &z->members[i];
  }
  if (!*m) return bad(f, "its zip archive holds no NAME/data.pkl");
  *folder = (*m)->n - strlen("data.pkl");
  char *order = ij_format("%.*sbyteorder", (int)*folder, (*m)->name);
  if (!order) return IJ_ENOMEM;
  const ij_member *b = ij_zip_find(z, order, strlen(order));
  ij_free(order);
  if (b && !b->deflated && b->size == 3 && !memcmp(b->bytes, "big", 3))
    return bad(f, "it was written on a big-endian machine");
  return IJ_OK;
}

/* ---- from values to entries */

typedef struct walk {
  ij_tensor_file *f;
  const ij_member *pkl;
  size_t folder;
  bool counting;
  char *prefix; /* the name so far */
  size_t length, prefix_size;
  int visits, entries, metas;
  size_t text, dims;
} walk;

static int64_t cell_value(const ij_pickle *p, uint32_t container, int i) {
  uint32_t cell = p->values[container].first;
  while (i--) cell = p->cells[cell].next;
  return p->cells[cell].value;
}

/* Numbers a storage the first time it is met: its member must have just its bytes. */
static ij_status storage_at(walk *w, uint32_t value, int *number, const ij_type **type, int64_t *count) {
  ij_pth *p = w->f->pth;
  const ij_pvalue *v = p->pickle.values;
  int64_t key = cell_value(&p->pickle, value, 1), bytes;
  *type = ij_type_by_name(v[cell_value(&p->pickle, value, 0)].s);
  *count = v[cell_value(&p->pickle, value, 2)].i;
  if (*count < 0 || !ij_bytes_of(1, count, (*type)->bytes, &bytes))
    return bad(w->f, "a storage has an impossible size");
  if (!p->storage_of[value]) {
    char *name =
        ij_format("%.*sdata/%.*s", (int)w->folder, w->pkl->name, (int)(v[key].n < 4096 ? v[key].n : 4096), v[key].s);
    if (!name) return IJ_ENOMEM;
    const ij_member *m = ij_zip_find(&p->zip, name, strlen(name));
    ij_free(name);
    if (!m) return bad(w->f, "its pickle names a storage that is not in the archive");
    if (m->size != (uint64_t)bytes) return bad(w->f, "the size of a storage differs from its pickle");
    p->storages[p->storage_count] = (storage){.member = m, .bytes = m->deflated ? NULL : m->bytes};
    p->storage_of[value] = ++p->storage_count;
  }
  *number = p->storage_of[value] - 1;
  return IJ_OK;
}

static bool dims_of(const ij_pickle *p, uint32_t tuple, int64_t *out) {
  uint32_t cell = p->values[tuple].first;
  for (uint32_t i = 0; i < p->values[tuple].count; i++, cell = p->cells[cell].next) {
    if (p->values[p->cells[cell].value].kind != IJ_P_INT) return false;
    out[i] = p->values[p->cells[cell].value].i;
    if (out[i] < 0) return false;
  }
  return true;
}

/* Fills e and v from a tensor of the pickle; shape and stride are as long as its dimensions. */
static ij_status make_view(walk *w, uint32_t value, ij_file_entry *e, view *v, int64_t *shape, int64_t *stride) {
  const ij_pickle *p = &w->f->pth->pickle;
  uint32_t parts[4];
  for (int i = 0; i < 4; i++) parts[i] = (uint32_t)cell_value(p, value, i);
  int64_t count, offset = p->values[parts[1]].i, n = 1, last = offset, expected = 1;
  int ndim = (int)p->values[parts[2]].count;
  IJ_TRY(storage_at(w, parts[0], &v->storage, &e->known, &count));
  if (!dims_of(p, parts[2], shape) || !dims_of(p, parts[3], stride) || offset < 0 ||
      !ij_bytes_of(ndim, shape, e->known->bytes, &e->bytes))
    return ij_fail(IJ_EFORMAT, "file '%s' is malformed: tensor '%s' has an impossible shape", w->f->path, e->name);
  bool plain = true;
  for (int d = ndim - 1; d >= 0 && e->bytes; d--) {
    int64_t reach;
    if (__builtin_mul_overflow(shape[d] - 1, stride[d], &reach) || __builtin_add_overflow(last, reach, &last))
      goto outside;
    if (shape[d] != 1 && stride[d] != expected) plain = false;
    expected *= shape[d]; /* no more than e->bytes, which was checked */
  }
  n = e->bytes / e->known->bytes;
  if ((n && last >= count) || offset > count) goto outside;
  if (n > count)
    return ij_fail(IJ_EFORMAT, "file '%s' is malformed: tensor '%s' is larger than what it is stored in", w->f->path,
                   e->name);
  e->type = e->known->name;
  e->ndim = ndim;
  e->shape = shape;
  v->offset = offset * e->known->bytes;
  v->stride = plain ? NULL : stride;
  return IJ_OK;
outside:
  return ij_fail(IJ_EFORMAT, "file '%s' is malformed: tensor '%s' lies outside of what it is stored in", w->f->path,
                 e->name);
}

/* The text of a number or word; *s points to n bytes, into buffer or the pickle. */
static bool text_of(const ij_pvalue *v, char buffer[32], const char **s, size_t *n) {
  int k;
  *s = buffer;
  if (v->kind == IJ_P_INT) k = snprintf(buffer, 32, "%lld", (long long)v->i);
  else if (v->kind == IJ_P_FLOAT) k = snprintf(buffer, 32, "%.17g", v->f);
  else if (v->kind == IJ_P_BOOL) k = snprintf(buffer, 32, "%s", v->i ? "true" : "false");
  else if (v->kind == IJ_P_STRING && !memchr(v->s, 0, v->n)) {
    *s = v->s;
    *n = v->n;
    return true;
  } else return false;
  *n = (size_t)k;
  return true;
}

/* Copies n bytes and a 0 to the checkpoint's text, or only counts them. */
static const char *keep_text(walk *w, const char *s, size_t n) {
  char *to = w->counting ? NULL : w->f->pth->text + w->text;
  if (to) {
    if (n) memcpy(to, s, n); /* the name of what is in no dict is empty */
    to[n] = 0;
  }
  w->text += n + 1;
  return to;
}

static ij_status add_tensor(walk *w, uint32_t value) {
  ij_pth *p = w->f->pth;
  uint32_t sizes = (uint32_t)cell_value(&p->pickle, value, 2), strides = (uint32_t)cell_value(&p->pickle, value, 3);
  uint32_t ndim = p->pickle.values[sizes].count;
  if (ndim > MAX_DIMS || ndim != p->pickle.values[strides].count || w->entries >= MAX_ENTRIES)
    return bad(w->f, "it has a malformed tensor, or more than a million");
  const char *name = keep_text(w, w->prefix, w->length);
  int i = w->entries++;
  size_t first_dim = w->dims;
  w->dims += ndim;
  if (w->counting) return IJ_OK;
  ij_file_entry *e = &w->f->entries[i];
  *e = (ij_file_entry){.name = name, .view = i};
  w->f->count = i + 1;
  return make_view(w, value, e, &p->views[i], w->f->dims + first_dim, p->strides + first_dim);
}

static ij_status add_meta(walk *w, const char *s, size_t n) {
  const char *key = keep_text(w, w->prefix, w->length), *value = keep_text(w, s, n);
  if (w->metas >= MAX_ENTRIES) return bad(w->f, "it has more than a million numbers and texts");
  int i = w->metas++;
  if (w->counting) return IJ_OK;
  w->f->meta[i] = (ij_meta){key, value};
  w->f->meta_count = i + 1;
  return IJ_OK;
}

/* Lengthens the prefix by ".key"; the caller restores w->length. */
static ij_status enter(walk *w, const char *key, size_t n) {
  size_t want = w->length + n + 2;
  if (want > 1 << 16) return bad(w->f, "it has a name of more than 65,536 bytes");
  if (want > w->prefix_size) {
    char *more = ij_realloc(w->prefix, 2 * want);
    if (!more) return IJ_ENOMEM;
    w->prefix = more;
    w->prefix_size = 2 * want;
  }
  if (w->length) w->prefix[w->length++] = '.';
  if (n) memcpy(w->prefix + w->length, key, n);
  w->length += n;
  return IJ_OK;
}

static ij_status visit(walk *w, uint32_t value, int depth) {
  const ij_pickle *p = &w->f->pth->pickle;
  const ij_pvalue *v = &p->values[value];
  char buffer[32];
  const char *s;
  size_t n;
  if (depth > MAX_DEPTH) return bad(w->f, "its dicts are nested too deep");
  if (++w->visits > MAX_VISITS || w->text > MAX_TEXT)
    return bad(w->f, "it has too many values (one inside of itself?)");
  if (v->kind == IJ_P_TENSOR) return add_tensor(w, value);
  if (v->kind == IJ_P_STORAGE || v->kind == IJ_P_NONE || v->kind == IJ_P_GLOBAL || v->kind == IJ_P_RAW) return IJ_OK;
  if (v->kind < IJ_P_TUPLE) return text_of(v, buffer, &s, &n) ? add_meta(w, s, n) : IJ_OK;
  bool dict = v->kind == IJ_P_DICT;
  uint32_t cell = v->first;
  for (uint32_t i = 0; i < v->count; i += 1 + dict) {
    size_t length = w->length;
    ij_pvalue key = dict ? p->values[p->cells[cell].value] : (ij_pvalue){.kind = IJ_P_INT, .i = i};
    if (dict) cell = p->cells[cell].next;
    if ((key.kind != IJ_P_STRING && key.kind != IJ_P_INT) || !text_of(&key, buffer, &s, &n))
      return bad(w->f, "it has a key that is neither a string nor an integer");
    IJ_TRY(enter(w, s, n));
    IJ_TRY(visit(w, p->cells[cell].value, depth + 1));
    w->length = length;
    cell = p->cells[cell].next;
  }
  return IJ_OK;
}

/* Once to count, once to fill. */
static ij_status flatten(ij_tensor_file *f, const ij_member *pkl, size_t folder) {
  ij_pth *p = f->pth;
  walk w = {.f = f, .pkl = pkl, .folder = folder, .counting = true};
  ij_status st = visit(&w, p->pickle.root, 0);
  if (st != IJ_OK) goto out;
  st = IJ_ENOMEM;
  if (!(p->text = ij_alloc(w.text + 1)) || !(p->strides = ij_calloc(w.dims + 1, sizeof *p->strides)) ||
      !(p->views = ij_calloc((size_t)w.entries + 1, sizeof *p->views)) ||
      !(p->storages = ij_calloc((size_t)w.entries + 1, sizeof *p->storages)) ||
      !(p->storage_of = ij_calloc((size_t)p->pickle.count + 1, sizeof *p->storage_of)) ||
      !(f->entries = ij_calloc((size_t)w.entries + 1, sizeof *f->entries)) ||
      !(f->meta = ij_calloc((size_t)w.metas + 1, sizeof *f->meta)) ||
      !(f->dims = ij_calloc(w.dims + 1, sizeof *f->dims)))
    goto out;
  w = (walk){.f = f, .pkl = pkl, .folder = folder, .prefix = w.prefix, .prefix_size = w.prefix_size};
  st = visit(&w, p->pickle.root, 0);
out:
  ij_free(w.prefix);
  ij_pickle_free(&p->pickle);
  return st;
}

ij_status ij_pth_read(ij_tensor_file *f) {
  const ij_member *m = NULL;
  size_t folder = 0;
  if (is_old(f))
    return ij_fail(IJ_EUNSUPPORTED,
                   "file '%s' is in PyTorch's format before 1.6, which is not read: in Python, "
                   "torch.save(torch.load(path), path) makes it a new one",
                   f->path);
  if (!(f->pth = ij_calloc(1, sizeof *f->pth))) return IJ_ENOMEM;
  IJ_TRY(ij_zip_open(f->path, f->map, f->size, &f->pth->zip));
  IJ_TRY(find_pickle(f, &m, &folder));
  if (m->deflated) IJ_TRY(unpack(f, m, &f->pth->data_pkl));
  else IJ_TRY(ij_zip_check(f->path, m, m->bytes)); /* storages are not: that would take longer than reading them */
  IJ_TRY(ij_pickle_load(f->path, m->deflated ? f->pth->data_pkl : m->bytes, m->size, &f->pth->pickle));
  return flatten(f, m, folder);
}

ij_status ij_pth_view(ij_tensor_file *f, const ij_file_entry *e, const unsigned char **first, const int64_t **stride) {
  const view *v = &f->pth->views[e->view];
  storage *s = &f->pth->storages[v->storage];
  if (!s->bytes) {
    IJ_TRY(unpack(f, s->member, &s->own));
    s->bytes = s->own;
  }
  *first = s->bytes + v->offset;
  *stride = v->stride;
  return IJ_OK;
}
