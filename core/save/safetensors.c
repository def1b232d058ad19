/* Files of tensors in the safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors'
 * bytes, back to back without holes. The reader trusts nothing in the file; the writer replaces a file completely or
 * not at all. */
#include "save.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PREFIX = 8, ALIGN = 64, PARSER_SLACK = 8 };
static const uint64_t MAX_HEADER = 100 * 1000 * 1000;
static const int64_t MAX_NUMBER = INT64_C(1) << 53; /* above it a JSON number need not be exact */

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static ij_status bad(const ij_tensor_file *f, const char *what) {
  return ij_fail(IJ_EFORMAT, "file '%s' is not a complete safetensors file: %s", f->path, what);
}

/* *data: where the tensors' bytes begin */
static ij_status parse_header(ij_tensor_file *f, const unsigned char **data) {
  uint64_t n = 0;
  for (int i = 0; i < PREFIX; i++) n |= (uint64_t)f->map[i] << (8 * i);
  if (n > MAX_HEADER) return bad(f, "its header would be longer than 100 MB");
  if (n < 2 || n > f->size - PREFIX)
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a complete safetensors file: its header would have %llu bytes, the file has %zu",
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
  *data = json + n;
  return IJ_OK;
}

/* An integer from 0 to 2^53. */
static bool get_whole(const cJSON *item, int64_t *value) {
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= (double)MAX_NUMBER)) return false;
  *value = (int64_t)item->valuedouble;
  return (double)*value == item->valuedouble;
}

/* The member called key, NULL where it is missing or there twice. */
static const cJSON *get_once(const cJSON *object, const char *key) {
  const cJSON *found = NULL, *item;
  cJSON_ArrayForEach(item, object) {
    if (!item->string || strcmp(item->string, key)) continue; /* an array's items have no key */
    if (found) return NULL;
    found = item;
  }
  return found;
}

/* data: where the tensors' bytes begin; dims: where the shape goes, as long as the item's shape. */
static ij_status parse_entry(const ij_tensor_file *f, const unsigned char *data, const cJSON *item, int64_t *dims,
                             ij_file_entry *e) {
  const cJSON *type = get_once(item, "dtype"), *shape = get_once(item, "shape"), *d;
  const cJSON *offsets = get_once(item, "data_offsets");
  int64_t bytes, begin, end, available = (int64_t)(f->size - (size_t)(data - f->map));
  *e = (ij_file_entry){.name = item->string, .shape = dims};
  if (!cJSON_IsObject(item) || !cJSON_IsString(type) || !cJSON_IsArray(shape) || !cJSON_IsArray(offsets) ||
      cJSON_GetArraySize(offsets) != 2)
    goto malformed;
  if (!get_whole(offsets->child, &begin) || !get_whole(offsets->child->next, &end)) goto malformed;
  cJSON_ArrayForEach(d, shape) if (!get_whole(d, &dims[e->ndim++])) goto malformed;
  if (begin > end || end > available)
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a complete safetensors file: tensor '%s' is at bytes %lld to %lld, there are %lld",
                   f->path, e->name, (long long)begin, (long long)end, (long long)available);
  e->type = type->valuestring;
  e->known = ij_type_by_name(e->type);
  e->data = data + begin;
  e->bytes = end - begin;
  if (e->known && (!ij_bytes_of(e->ndim, dims, e->known->bytes, &bytes) || bytes != e->bytes))
    return ij_fail(
        IJ_EFORMAT,
        "file '%s' is not a complete safetensors file: tensor '%s' has %lld bytes, which does not fit its shape",
        f->path, e->name, (long long)e->bytes);
  return IJ_OK;
malformed:
  return ij_fail(IJ_EFORMAT, "file '%s' is not a complete safetensors file: the entry '%s' of its header is malformed",
                 f->path, e->name);
}

static int by_place(const void *a, const void *b) {
  const ij_file_entry *x = a, *y = b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
  return strcmp(x->name, y->name);
}

static ij_status index_meta(ij_tensor_file *f, const cJSON *meta) {
  const cJSON *item;
  if (!meta) return IJ_OK;
  if (!cJSON_IsObject(meta)) return bad(f, "its metadata is malformed");
  int n = cJSON_GetArraySize(meta);
  if (!(f->meta = ij_calloc((size_t)n + 1, sizeof *f->meta))) return IJ_ENOMEM;
  cJSON_ArrayForEach(item, meta) {
    if (!cJSON_IsString(item)) return bad(f, "its metadata is malformed");
    f->meta[f->meta_count++] = (ij_meta){item->string, item->valuestring};
  }
  return IJ_OK;
}

static ij_status index_entries(ij_tensor_file *f, const unsigned char *data) {
  const cJSON *item, *meta = NULL;
  size_t dims = 0, total = 0;
  cJSON_ArrayForEach(item, f->header) {
    total++;
    dims += (size_t)cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(item, "shape"));
  }
  f->entries = ij_calloc(total + 1, sizeof *f->entries);
  f->dims = ij_calloc(dims + 1, sizeof *f->dims);
  if (!f->entries || !f->dims) return IJ_ENOMEM;
  int64_t *next = f->dims;
  cJSON_ArrayForEach(item, f->header) {
    if (!strcmp(item->string, "__metadata__")) {
      if (meta) return bad(f, "it has two entries '__metadata__'");
      meta = item;
      continue;
    }
    ij_file_entry *e = &f->entries[f->count];
    IJ_TRY(parse_entry(f, data, item, next, e));
    next += e->ndim;
    f->count++;
  }
  if (f->count) qsort(f->entries, (size_t)f->count, sizeof *f->entries, by_place);
  const unsigned char *expected = data;
  for (int i = 0; i < f->count; expected += f->entries[i++].bytes)
    if (f->entries[i].data != expected)
      return ij_fail(IJ_EFORMAT,
                     "file '%s' is not a complete safetensors file: tensor '%s' starts at byte %lld, expected %lld",
                     f->path, f->entries[i].name, (long long)(f->entries[i].data - data), (long long)(expected - data));
  if (expected != f->map + f->size)
    return ij_fail(IJ_EFORMAT,
                   "file '%s' is not a complete safetensors file: its tensors have %lld bytes, there are %lld", f->path,
                   (long long)(expected - data), (long long)(f->map + f->size - data));
  return index_meta(f, meta);
}

ij_status ij_safetensors_read(ij_tensor_file *f) {
  if (f->size < PREFIX + 2)
    return ij_fail(IJ_EFORMAT, "file '%s' is not a complete safetensors file: it has %zu bytes", f->path, f->size);
  const unsigned char *data = NULL;
  IJ_TRY(parse_header(f, &data));
  return index_entries(f, data);
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* "name":{"dtype":..,"shape":[..],"data_offsets":[begin,end]}; false when out of memory. */
static bool add_entry(cJSON *header, const ij_item *t, int64_t begin) {
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
static ij_status make_header(const ij_tensor_writer *w, const ij_item *items, char **out, size_t *size) {
  ij_status st = ij_fail(IJ_ENOMEM, "file '%s': out of memory for its header", w->path);
  char *json = NULL;
  int64_t begin = 0;
  cJSON *header = cJSON_CreateObject();
  if (!header) goto out;
  if (w->meta->child && !cJSON_AddItemReferenceToObject(header, "__metadata__", w->meta)) goto out;
  for (int i = 0; i < w->count; begin += items[i++].bytes)
    if (!add_entry(header, &items[i], begin)) goto out;
  if (!(json = cJSON_PrintUnformatted(header))) goto out;
  size_t n = strlen(json), total = (PREFIX + n + ALIGN - 1) / ALIGN * ALIGN;
  if (total - PREFIX > MAX_HEADER) {
    st = ij_fail(IJ_EINVAL, "file '%s' could not be written: its names and metadata pass 100 MB", w->path);
    goto out;
  }
  if (!(*out = ij_alloc(total))) goto out;
  for (int i = 0; i < PREFIX; i++) (*out)[i] = (char)((total - PREFIX) >> (8 * i));
  memcpy(*out + PREFIX, json, n);
  memset(*out + PREFIX + n, ' ', total - PREFIX - n);
  *size = total;
  st = IJ_OK;
out:
  cJSON_free(json);
  cJSON_Delete(header);
  return st;
}

/* Four streams of words, since one is bound by the latency of its multiplications. */
static uint64_t chunk_hash(uint64_t seed, const unsigned char *p, size_t n) {
  enum { LANES = 4, BLOCK = 8 * LANES };
  uint64_t h[LANES] = {seed, 2, 3, 4}, word[LANES];
  size_t left = n;
  for (; left >= BLOCK; left -= BLOCK, p += BLOCK) {
    memcpy(word, p, sizeof word);
    for (int i = 0; i < LANES; i++) {
      h[i] = (h[i] ^ word[i]) * 0x9e3779b97f4a7c15u;
      h[i] ^= h[i] >> 29;
    }
  }
  return ij_hash(ij_hash(n, p, left), h, sizeof h);
}

uint64_t ij_bytes_hash(const void *bytes, size_t n) {
  uint64_t h = n;
  for (size_t at = 0; at < n; at += IJ_HASH_CHUNK)
    h = chunk_hash(h, (const unsigned char *)bytes + at, n - at < IJ_HASH_CHUNK ? n - at : IJ_HASH_CHUNK);
  return h;
}

/* Writes a tensor's bytes; *hash: as ij_bytes_hash gives it. Chunk by chunk: the second reading is of the cache. */
static ij_status put_hashed(ij_output *s, const unsigned char *p, size_t n, uint64_t *hash) {
  *hash = n;
  for (size_t at = 0; at < n; at += IJ_HASH_CHUNK) {
    size_t k = n - at < IJ_HASH_CHUNK ? n - at : IJ_HASH_CHUNK;
    *hash = chunk_hash(*hash, p + at, k);
    IJ_TRY(ij_output_put(s, p + at, k));
  }
  return IJ_OK;
}

typedef struct contents {
  const char *header;
  size_t header_size;
  const ij_item *items;
  int count;
  size_t hashes; /* where in the file the tensors' hashes go; 0: nowhere */
} contents;

/* Where the header has the value of IJ_HASHES_KEY, or 0. */
static size_t hashes_at(const char *header, size_t n) {
  static const char key[] = "\"" IJ_HASHES_KEY "\":\"";
  const char *found = memmem(header, n, key, sizeof key - 1);
  return found ? (size_t)(found - header) + sizeof key - 1 : 0;
}

static ij_status fill(ij_output *s, const void *context) {
  const contents *c = context;
  const void *bytes;
  bool sealed = c->hashes && s->file.tmp; /* what is written into a pipe can't be completed later */
  char digits[IJ_HASH_DIGITS + 1];
  IJ_TRY(ij_output_put(s, c->header, c->header_size));
  for (int i = 0; i < c->count; i++) {
    size_t n = (size_t)c->items[i].bytes;
    uint64_t hash;
    IJ_TRY(ij_output_item(s, &c->items[i], &bytes));
    if (!sealed) IJ_TRY(ij_output_put(s, bytes, n));
    else {
      IJ_TRY(put_hashed(s, bytes, n, &hash));
      snprintf(digits, sizeof digits, "%016llx", (unsigned long long)hash);
      off_t at = (off_t)(c->hashes + (size_t)i * IJ_HASH_DIGITS);
      if (pwrite(s->file.fd, digits, IJ_HASH_DIGITS, at) != IJ_HASH_DIGITS)
        return ij_fail(IJ_EIO, "file '%s' could not be written: %s", s->path, strerror(errno));
    }
  }
  return IJ_OK;
}

/* Zeros for the hashes, which are known after the tensors are written. */
static ij_status reserve_hashes(ij_tensor_writer *w) {
  if (!cJSON_HasObjectItem(w->meta, IJ_HASHES_KEY)) return IJ_OK;
  size_t n = (size_t)w->count * IJ_HASH_DIGITS;
  char *zeros = ij_alloc(n + 1);
  if (!zeros) return IJ_ENOMEM;
  memset(zeros, '0', n);
  zeros[n] = 0;
  ij_status st = ij_tensor_writer_meta(w, IJ_HASHES_KEY, zeros);
  ij_free(zeros);
  return st;
}

ij_status ij_tensor_writer_commit(ij_tensor_writer *w) {
  ij_status st = IJ_ENOMEM;
  size_t header_size = 0, total;
  int n = 0;
  char *header = NULL;
  ij_item *items = ij_calloc((size_t)w->count + 1, sizeof *items);
  if (!items) goto out;
  /* Wide types first, so that every tensor lies at a multiple of its element size; else the order of adding. */
  for (int bytes = 8; bytes >= 1; bytes /= 2)
    for (int i = 0; i < w->count; i++)
      if (w->items[i].type->bytes == bytes) items[n++] = w->items[i];
  IJ_TRY_TO(out, st, reserve_hashes(w));
  IJ_TRY_TO(out, st, make_header(w, items, &header, &header_size));
  total = header_size;
  for (int i = 0; i < n; i++) total += (size_t)items[i].bytes;
  st = ij_writer_replace(w, total, fill, &(contents){header, header_size, items, n, hashes_at(header, header_size)});
out:
  ij_free(header);
  ij_free(items);
  ij_tensor_writer_discard(w);
  return st;
}

/* ---- writing in a thread */
struct ij_tensor_writer_job {
  pthread_t thread;
  ij_tensor_writer *w;
  atomic_bool done;
  ij_status status;
  char *message; /* of the thread's failure */
};

/* Every tensor's bytes now, whatever happens to it later. */
static ij_status copy_tensors(ij_tensor_writer *w) {
  for (int i = 0; i < w->count; i++) {
    ij_item *t = &w->items[i];
    if (!t->tensor) continue;
    if (!(t->copy = ij_alloc((size_t)t->bytes + 1))) return IJ_ENOMEM;
    if (ij_tensor_read(t->tensor, t->copy, (size_t)t->bytes) != IJ_OK)
      return ij_fail_in(IJ_EINVAL, "file '%s', tensor '%s'", w->path, t->name);
  }
  for (int i = 0; i < w->count; i++) {
    ij_item *t = &w->items[i];
    if (!t->tensor) continue;
    t->data = t->copy;
    ij_tensor_free(t->tensor);
    t->tensor = NULL;
  }
  return IJ_OK;
}

static void *write_later(void *arg) {
  ij_tensor_writer_job *job = arg;
  setpriority(PRIO_PROCESS, 0, 19); /* of this thread alone: the computation needs the CPUs more */
  job->status = ij_tensor_writer_commit(job->w);
  if (job->status != IJ_OK) job->message = ij_strdup(ij_errmsg());
  atomic_store(&job->done, true);
  return NULL;
}

ij_status ij_tensor_writer_commit_later(ij_tensor_writer *w, ij_tensor_writer_job **out) {
  *out = NULL;
  ij_tensor_writer_job *job = ij_calloc(1, sizeof *job);
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
    return ij_tensor_writer_commit(w);
  }
  ij_tensor_writer_discard(w);
  return st;
}

int ij_tensor_writer_job_done(const ij_tensor_writer_job *job) { return !job || atomic_load(&job->done); }

ij_status ij_tensor_writer_job_end(ij_tensor_writer_job *job) {
  if (!job) return IJ_OK;
  pthread_join(job->thread, NULL);
  ij_status st = job->status;
  if (st != IJ_OK) ij_fail(st, "%s", job->message ? job->message : "a file could not be written");
  ij_free(job->message);
  ij_free(job);
  return st;
}
