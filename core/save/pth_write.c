/* Writing PyTorch checkpoints: a zip archive of stored members, each storage at a multiple of 64 bytes as torch.save
 * puts them, ZIP64 where 4 bytes don't hold a number. */
#include "save.h"
#include <stdio.h>
#include <string.h>
#include <zlib.h>

enum { ALIGN = 64, MAX_NAME = 64, LOCAL = 30, EXTRA64 = 20, PADDING = 4 };

typedef struct member {
  char name[MAX_NAME];
  uint64_t offset, size;
  uint32_t crc;
} member;

typedef struct archive {
  const ij_tensor_writer *w;
  const void *pickle;
  size_t pickle_size;
  member *members; /* (count + 3), filled while writing */
} archive;

static unsigned char *put(unsigned char *p, uint64_t v, int bytes) {
  for (int i = 0; i < bytes; i++) *p++ = (unsigned char)(v >> (8 * i));
  return p;
}

static uint64_t narrow(uint64_t v) { return v < UINT32_MAX ? v : UINT32_MAX; }

/* What local header and directory have in common: from "version needed" to the name's length. */
static unsigned char *put_common(unsigned char *p, const member *m, int extra) {
  p = put(p, 45, 2);         /* version needed: ZIP64 */
  p = put(p, 0, 2);          /* flags */
  p = put(p, 0, 2);          /* stored */
  p = put(p, 0x00210000, 4); /* 1980-01-01: the same contents give the same file */
  p = put(p, m->crc, 4);
  p = put(p, narrow(m->size), 4);
  p = put(p, narrow(m->size), 4);
  p = put(p, strlen(m->name), 2);
  return put(p, (uint64_t)extra, 2);
}

/* One member; its bytes begin at a multiple of ALIGN. */
static ij_status put_member(ij_output *s, member *m, const char *name, const void *bytes, uint64_t n) {
  snprintf(m->name, sizeof m->name, "%s", name);
  m->offset = s->written;
  m->size = n;
  m->crc = (uint32_t)crc32_z(crc32_z(0, NULL, 0), bytes, n);
  unsigned char head[LOCAL + MAX_NAME + EXTRA64 + PADDING + ALIGN] = "PK\3\4", *p = head + 4;
  size_t bare = LOCAL + strlen(name) + EXTRA64 + PADDING, pad = (ALIGN - (s->written + bare) % ALIGN) % ALIGN;
  p = put_common(p, m, (int)(EXTRA64 + PADDING + pad));
  memcpy(p, name, strlen(name));
  p = put(p + strlen(name), 1, 2);
  p = put(p, EXTRA64 - 4, 2);
  p = put(p, n, 8);
  p = put(p, n, 8);
  put(put(p, 0x4246, 2), pad, 2); /* "FB", as torch.save calls its padding */
  IJ_TRY(ij_output_put(s, head, bare + pad));
  return ij_output_put(s, bytes, n);
}

static ij_status put_directory(ij_output *s, const member *members, int count) {
  uint64_t start = s->written;
  for (int i = 0; i < count; i++) {
    const member *m = &members[i];
    unsigned char c[46 + MAX_NAME + 28] = "PK\1\2", *p = put(c + 4, 45, 2);
    p = put_common(p, m, 28);
    p = put(p, 0, 2 + 2 + 2); /* comment, disk, internal attributes */
    p = put(p, 0, 4);
    p = put(p, UINT32_MAX, 4); /* the member stands in the extra field, always */
    memcpy(p, m->name, strlen(m->name));
    p += strlen(m->name);
    unsigned char *extra = p;
    p = put(p, 1, 2) + 2;
    if (m->size >= UINT32_MAX) p = put(put(p, m->size, 8), m->size, 8);
    p = put(p, m->offset, 8);
    put(extra + 2, (uint64_t)(p - extra - 4), 2);
    put(extra - strlen(m->name) - 46 + 30, (uint64_t)(p - extra), 2);
    IJ_TRY(ij_output_put(s, c, (size_t)(p - c)));
  }
  uint64_t end64 = s->written, bytes = end64 - start;
  unsigned char e[56 + 20 + 22] = "PK\6\6", *p = put(e + 4, 44, 8);
  p = put(put(p, 45, 2), 45, 2);
  p = put(put(p, 0, 4), 0, 4);
  p = put(put(p, (uint64_t)count, 8), (uint64_t)count, 8);
  p = put(put(p, bytes, 8), start, 8);
  memcpy(p, "PK\6\7", 4);
  p = put(put(p + 4, 0, 4), end64, 8);
  p = put(p, 1, 4);
  memcpy(p, "PK\5\6", 4);
  p = put(p + 4, 0, 4);
  uint64_t few = count < UINT16_MAX ? (uint64_t)count : UINT16_MAX;
  p = put(put(p, few, 2), few, 2);
  p = put(put(p, narrow(bytes), 4), narrow(start), 4);
  put(p, 0, 2);
  return ij_output_put(s, e, sizeof e);
}

static ij_status fill(ij_output *s, const void *context) {
  const archive *a = context;
  member *m = a->members;
  IJ_TRY(put_member(s, m++, "archive/data.pkl", a->pickle, a->pickle_size));
  IJ_TRY(put_member(s, m++, "archive/byteorder", "little", 6));
  for (int i = 0; i < a->w->count; i++) {
    const void *bytes;
    char name[MAX_NAME];
    snprintf(name, sizeof name, "archive/data/%d", i);
    IJ_TRY(ij_output_item(s, &a->w->items[i], &bytes));
    IJ_TRY(put_member(s, m++, name, bytes, (uint64_t)a->w->items[i].bytes));
  }
  IJ_TRY(put_member(s, m++, "archive/version", "3\n", 2));
  return put_directory(s, a->members, (int)(m - a->members));
}

ij_status ij_tensor_writer_commit_pth(ij_tensor_writer *w, const void *pickle, size_t n) {
  ij_status st = IJ_ENOMEM;
  archive a = {.w = w, .pickle = pickle, .pickle_size = n};
  size_t total = n;
  for (int i = 0; i < w->count; i++) total += (size_t)w->items[i].bytes + 2 * (MAX_NAME + ALIGN);
  if ((a.members = ij_calloc((size_t)w->count + 3, sizeof *a.members))) st = ij_writer_replace(w, total, fill, &a);
  ij_free(a.members);
  ij_tensor_writer_discard(w);
  return st;
}
