/* Internals of files of tensors: what the readers of safetensors and of PyTorch's checkpoints fill, zip archives, and
 * the restricted pickle machine. Nothing in a file is trusted: sizes are checked before they are used. */
#ifndef IJ_SAVE_H
#define IJ_SAVE_H
#include "../base/base.h"
#include <cjson/cJSON.h>

/* An element type: its name in a file, and dtype -1 where ij_dtype has none (then only ij_tensor_file_read converts
 * it). */
typedef struct ij_type {
  const char *name;
  int dtype, bytes;
  void (*to_f32)(const unsigned char *p, size_t n, float *out); /* n elements, perhaps not aligned */
} ij_type;
const ij_type *ij_type_by_name(const char *name);
const ij_type *ij_type_by_dtype(int dtype);
/* shape[ndim] times size -> *bytes; false when a size or the result is impossible. */
bool ij_bytes_of(int ndim, const int64_t *shape, int size, int64_t *bytes);

/* Metadata of a safetensors file under this key holds a hash of each tensor's bytes, 16 hexadecimal digits, in the
 * order of the file; zeros: none. A writer whose metadata has the key fills it in; a reader compares before it gives a
 * tensor. */
#define IJ_HASHES_KEY "ijepa.tensors"
enum { IJ_HASH_DIGITS = 16, IJ_HASH_CHUNK = 1 << 18 }; /* the chunk: half of a core's cache */
uint64_t ij_bytes_hash(const void *bytes, size_t n);   /* quicker than ij_hash for large n */

typedef struct ij_pth ij_pth;
typedef struct ij_file_entry {
  const char *name, *type;
  const ij_type *known; /* NULL: a type that is not in our table */
  int ndim;
  const int64_t *shape;      /* (ndim) */
  const unsigned char *data; /* all elements, row-major, in the map; NULL: ij_pth_view gives their address */
  int64_t bytes;
  bool whole; /* the bytes have the hash that was saved, or there is none */
  int view;   /* number in the checkpoint's list of views */
  void *own;  /* a copy in order, made for ij_tensor_file_data */
} ij_file_entry;

typedef struct ij_meta {
  const char *key, *value;
} ij_meta;

struct ij_tensor_file {
  char *path;
  unsigned char *map; /* the complete file */
  size_t size;
  int count, meta_count;
  ij_file_entry *entries; /* (count), in the order of the file */
  int *by_name;           /* (count), indices of entries, sorted by name */
  ij_meta *meta;          /* (meta_count), sorted by key */
  int64_t *dims;          /* all shapes */
  size_t copy_budget;     /* bytes that copies of contents may still take: a small file can't claim all memory */
  cJSON *header;          /* safetensors: owns the names */
  ij_pth *pth;            /* PyTorch: owns names and storages */
};

ij_status ij_safetensors_read(ij_tensor_file *f); /* fills f from its map */
ij_status ij_pth_read(ij_tensor_file *f);
bool ij_pth_begins(const ij_tensor_file *f); /* whether its first bytes are those of a PyTorch checkpoint, old or new */
void ij_pth_free(ij_pth *p);
ij_status ij_foreign_check(const ij_tensor_file *f); /* fails, with what to do, for a format that is not read */
/* The first element of a view and its strides in elements (NULL: row-major without gaps); unpacks it when it must. */
ij_status ij_pth_view(ij_tensor_file *f, const ij_file_entry *e, const unsigned char **first, const int64_t **stride);

/* ---- zip: stored and deflated members, ZIP64 */
typedef struct ij_member {
  const char *name; /* n bytes in the map */
  size_t n;
  const unsigned char *bytes; /* packed bytes in the map */
  uint64_t packed, size;
  uint32_t crc;
  bool deflated;
} ij_member;
typedef struct ij_zip {
  ij_member *members; /* (count), sorted by name */
  int count;
} ij_zip;
ij_status ij_zip_open(const char *path, const unsigned char *map, size_t size, ij_zip *out);
void ij_zip_close(ij_zip *z);
const ij_member *ij_zip_find(const ij_zip *z, const char *name, size_t n);
/* Whether these are the member's contents, by its checksum. */
ij_status ij_zip_check(const char *path, const ij_member *m, const void *contents);
ij_status ij_zip_unpack(const char *path, const ij_member *m, void *out); /* out: m->size bytes */

/* ---- pickle: values in two arrays. A container's items are a chain of cells; a dict's are key, value, key, value. */
typedef enum ij_pkind {
  IJ_P_NONE,
  IJ_P_BOOL,
  IJ_P_INT,
  IJ_P_FLOAT,
  IJ_P_STRING, /* also bytes */
  IJ_P_TUPLE,
  IJ_P_LIST,
  IJ_P_DICT,
  IJ_P_RAW,     /* up to 8 bytes of a numpy scalar: i holds them, count is their count */
  IJ_P_GLOBAL,  /* i: number in the list of allowed names */
  IJ_P_STORAGE, /* items: type's name, key, number of elements */
  IJ_P_TENSOR   /* items: storage, offset, sizes, strides */
} ij_pkind;
typedef struct ij_pvalue {
  ij_pkind kind;
  uint32_t first, last, count; /* items: first and last cell, number of items */
  union {
    int64_t i;
    double f;
    struct {
      const char *s;
      uint32_t n;
    };
  };
} ij_pvalue;
typedef struct ij_pcell {
  uint32_t value, next;
} ij_pcell;
typedef struct ij_pickle {
  ij_pvalue *values;
  ij_pcell *cells;
  uint32_t count, cap, cell_count, cell_cap, root;
} ij_pickle;
/* Runs a pickle of n bytes, which must outlive the result. Whatever is not on the allow-list is refused by its name. */
ij_status ij_pickle_load(const char *path, const unsigned char *bytes, size_t n, ij_pickle *out);
void ij_pickle_free(ij_pickle *p);

/* ---- writing */
typedef struct ij_item {
  char *name;
  const ij_type *type;
  int ndim;
  int64_t *shape;    /* (ndim) */
  const void *data;  /* borrowed; NULL where there is */
  ij_tensor *tensor; /* one reference held */
  void *copy;        /* of a tensor's bytes, owned; data points to it */
  int64_t bytes;
} ij_item;
struct ij_tensor_writer {
  char *path;
  cJSON *meta;
  int count, capacity;
  ij_item *items;
};
/* A file that is being written; written: bytes so far; buffer: as large as the largest item that is a tensor. */
typedef struct ij_output {
  const char *path;
  ij_replacement file;
  uint64_t written;
  void *buffer;
} ij_output;
ij_status ij_output_put(ij_output *s, const void *bytes, size_t n);
/* An item's bytes, valid until the next call. */
ij_status ij_output_item(ij_output *s, const ij_item *t, const void **bytes);
/* Writes w's file by fill(sink, context) as an ij_replacement. total: about how long it will be. */
ij_status ij_writer_replace(const ij_tensor_writer *w, size_t total, ij_status (*fill)(ij_output *, const void *),
                            const void *context);
#endif
