/* tar.c: finds the members of a tar by one pass over its headers; nothing is unpacked. Old, ustar, GNU and PAX forms,
 * several tars one after the other, and what follows a damaged header. */
#include "data.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK = 512, WINDOW = 1 << 14, NEAR = 1 << 11 };

/* A number field: octal digits, or GNU's base 256 where the top bit is set. False: neither. */
static bool number(const uint8_t *p, int n, uint64_t *out) {
  uint64_t v = 0;
  if (*p & 0x80) {
    for (int i = 1; i < n; i++) {
      if (v >> 55) return false;
      v = v << 8 | p[i];
    }
    *out = v;
    return true;
  }
  int i = 0;
  while (i < n && p[i] == ' ') i++;
  for (; i < n && p[i] >= '0' && p[i] <= '7'; i++) v = v << 3 | (uint64_t)(p[i] - '0');
  *out = v;
  return i == n || p[i] == 0 || p[i] == ' ';
}

static bool is_header(const uint8_t *h) {
  uint64_t want;
  uint32_t sum = 0;
  int32_t with_sign = 0; /* as some old programs summed */
  if (!number(h + 148, 8, &want)) return false;
  for (int i = 0; i < BLOCK; i++) {
    uint8_t c = i >= 148 && i < 156 ? ' ' : h[i];
    sum += c;
    with_sign += (int8_t)c;
  }
  return want == sum || (int64_t)want == with_sign;
}

int ij_tar_kind(const uint8_t *head, size_t n) {
  static const struct {
    const char *magic;
    size_t n;
  } packed[] = {{"\x1f\x8b", 2},
                {"BZh", 3},
                {"\xfd"
                 "7zXZ",
                 5},
                {"\x28\xb5\x2f\xfd", 4}};
  for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
    if (n >= packed[i].n && !memcmp(head, packed[i].magic, packed[i].n)) return 2;
  return n >= BLOCK && is_header(head);
}

typedef struct reader {
  int fd;
  uint64_t at; /* of the window */
  size_t n;
  uint8_t window[WINDOW];
} reader;

/* The block at offset, or NULL with status: IJ_EEND where the file ends before it. */
static const uint8_t *block(reader *r, uint64_t offset, ij_status *st) {
  *st = IJ_OK;
  if (offset < r->at || offset + BLOCK > r->at + r->n) {
    bool far = offset > r->at + 2 * WINDOW; /* then the next header will be far too */
    r->at = offset;
    *st = ij_read_at(r->fd, r->window, far ? NEAR : WINDOW, offset, &r->n);
    if (*st == IJ_OK && r->n < BLOCK) *st = IJ_EEND;
    if (*st != IJ_OK) return NULL;
  }
  return r->window + (offset - r->at);
}

typedef struct extras { /* what extended headers say of the next member */
  bool named, sized, linked, sparse;
  char name[IJ_TAR_NAME_MOST], link[IJ_TAR_NAME_MOST];
  uint64_t size;
} extras;

static void take_name(const char *from, size_t n, char *to, bool *taken) {
  if (n == 0 || n >= IJ_TAR_NAME_MOST) return;
  memcpy(to, from, n);
  to[n] = 0;
  *taken = true;
}

/* PAX: records "LENGTH KEY=VALUE\n". */
static void pax(const char *p, size_t n, extras *x) {
  while (n) {
    size_t len = 0, i = 0;
    while (i < n && i < 10 && p[i] >= '0' && p[i] <= '9') len = len * 10 + (size_t)(p[i++] - '0');
    if (i == 0 || i >= n || p[i] != ' ' || len > n || len < i + 3) return;
    const char *key = p + i + 1, *end = p + len - 1;
    size_t length = (size_t)(end - key);
    if (length > 5 && !memcmp(key, "path=", 5) && !x->sparse) take_name(key + 5, length - 5, x->name, &x->named);
    else if (length > 9 && !memcmp(key, "linkpath=", 9)) take_name(key + 9, length - 9, x->link, &x->linked);
    else if (length > 11 && !memcmp(key, "GNU.sparse.", 11)) {
      x->sparse = true;
      if (length > 16 && !memcmp(key, "GNU.sparse.name=", 16)) take_name(key + 16, length - 16, x->name, &x->named);
    } else if (length > 5 && !memcmp(key, "size=", 5)) {
      x->size = 0;
      for (const char *c = key + 5; c < end && *c >= '0' && *c <= '9' && x->size < UINT64_MAX / 16; c++)
        x->size = x->size * 10 + (uint64_t)(*c - '0');
      x->sized = true;
    }
    p += len;
    n -= len;
  }
}

static void plain_name(const uint8_t *h, char name[static 260]) {
  size_t n = 0;
  if (!memcmp(h + 257, "ustar\0", 6) && h[345]) {
    n = strnlen((const char *)h + 345, 155);
    memcpy(name, h + 345, n);
    name[n++] = '/';
  }
  size_t k = strnlen((const char *)h, 100);
  memcpy(name + n, h, k);
  name[n + k] = 0;
}

typedef struct walk {
  reader *r;
  extras *x;
  char *body; /* of an extended header */
  const char *path;
  uint64_t end;
  ij_note_fn *note;
  void *note_arg;
} walk;

static ij_status note(const walk *w, char *text) { /* takes the text */
  if (!text) return IJ_ENOMEM;
  w->note(w->note_arg, text);
  ij_free(text);
  return IJ_OK;
}

/* The block at offset within the tar; see `block`. */
static const uint8_t *block_of(walk *w, uint64_t offset, ij_status *st) {
  if (offset > w->end || w->end - offset < BLOCK) {
    *st = IJ_EEND;
    return NULL;
  }
  return block(w->r, offset, st);
}

static bool is_zero(const uint8_t *h) {
  static const uint8_t zero[BLOCK];
  return !memcmp(h, zero, BLOCK);
}

/* The next header from *offset on, past empty blocks and past what is damaged, which is noted. NULL: the end, with
 * IJ_EEND, or a failure. */
static const uint8_t *next_header(walk *w, uint64_t *offset, ij_status *st) {
  uint64_t damage = 0;
  int empty = 0;
  bool damaged = false;
  for (;; *offset += BLOCK) {
    const uint8_t *h = block_of(w, *offset, st);
    if (h && ij_interrupted()) *st = ij_fail(IJ_EINTERRUPT, "listing of '%s' interrupted", w->path);
    if (*st == IJ_EEND && damaged) {
      ij_status noted =
          note(w, ij_format("%s: damaged at byte %llu: what follows is left out", w->path, (unsigned long long)damage));
      if (noted != IJ_OK) *st = noted;
    } else if (*st == IJ_EEND && !empty) {
      /* two empty blocks should end it; without them it may have been cut between members */
      bool whole = *offset == w->end && !w->x->named && !w->x->sized && !w->x->linked && !w->x->sparse;
      ij_status noted = note(
          w, ij_format(whole ? "%s: it has no end blocks: the tar may be cut off" : "%s: the tar is cut off", w->path));
      if (noted != IJ_OK) *st = noted;
    }
    if (*st != IJ_OK) return NULL;
    uint64_t size;
    if (!damaged && is_zero(h)) empty++;
    else if (is_header(h) && number(h + 124, 12, &size) && size <= (uint64_t)INT64_MAX / 2) {
      if (damaged)
        *st = note(w, ij_format("%s: damaged at byte %llu: members up to byte %llu are left out", w->path,
                                (unsigned long long)damage, (unsigned long long)*offset));
      return *st == IJ_OK ? h : NULL;
    } else if (empty >= 2) { /* what follows the end of a tar is none of ours */
      *st = IJ_EEND;
      return NULL;
    } else if (!damaged) {
      damaged = true;
      damage = *offset;
      w->x->named = w->x->sized = w->x->linked = w->x->sparse = false;
    }
  }
}

static ij_status extended(walk *w, char type, uint64_t offset, uint64_t size) {
  size_t got, want = size < 1 << 16 ? (size_t)size : 1 << 16;
  ij_status st = ij_read_at(w->r->fd, w->body, want, offset, &got);
  if (st != IJ_OK) return ij_fail_in(st, "tar '%s'", w->path);
  extras *x = w->x;
  if (type == 'x') pax(w->body, got, x);
  else take_name(w->body, strnlen(w->body, got), type == 'L' ? x->name : x->link, type == 'L' ? &x->named : &x->linked);
  return IJ_OK;
}

static ij_status members(walk *w, uint64_t at, ij_tar_entry_fn *f, void *arg) {
  extras *x = w->x;
  for (ij_status st;;) {
    const uint8_t *h = next_header(w, &at, &st);
    if (!h) return st == IJ_EEND ? IJ_OK : st == IJ_EIO ? ij_fail_in(st, "tar '%s'", w->path) : st;
    uint64_t size = 0;
    char name[260], link[101], type = (char)h[156];
    bool more = h[482] != 0; /* GNU's old sparse form: further blocks of its map follow */
    number(h + 124, 12, &size);
    plain_name(h, name);
    snprintf(link, sizeof link, "%.100s", (const char *)h + 157);
    at += BLOCK;
    if (type == 'L' || type == 'K' || type == 'x') {
      IJ_TRY(extended(w, type, at, size));
      at += (size + BLOCK - 1) / BLOCK * BLOCK;
      continue;
    }
    if (x->sized) size = x->size < (uint64_t)INT64_MAX / 2 ? x->size : 0;
    for (; type == 'S' && more && (h = block_of(w, at, &st)); at += BLOCK) more = h[504] != 0;
    if (type == '1' && size && (h = block_of(w, at, &st)) && (is_header(h) || is_zero(h)))
      size = 0; /* some programs write the target's size there, without its bytes */
    ij_tar_entry e = {x->named ? x->name : name, x->linked ? x->link : link, IJ_TAR_FILE, at, size};
    bool file = type == '0' || type == 0 || type == '7';
    if (type == '1') e.kind = IJ_TAR_HARD;
    else if (type == '2') e.kind = IJ_TAR_SYMBOLIC;
    else if (type == 'S' || (file && x->sparse)) e.kind = IJ_TAR_SPARSE;
    if (file || e.kind != IJ_TAR_FILE) IJ_TRY(f(arg, &e));
    if (type != 'g') x->named = x->sized = x->linked = x->sparse = false;
    at += (size + BLOCK - 1) / BLOCK * BLOCK;
  }
}

ij_status ij_tar_walk(int fd, const char *path, uint64_t from, uint64_t end, ij_tar_entry_fn *f, void *arg,
                      ij_note_fn *note_fn, void *note_arg) {
  walk w = {ij_alloc(sizeof *w.r), ij_calloc(1, sizeof *w.x), ij_alloc(1 << 16), path, end, note_fn, note_arg};
  ij_status st = w.r && w.x && w.body ? IJ_OK : IJ_ENOMEM;
  if (st == IJ_OK) {
    w.r->fd = fd;
    w.r->at = w.r->n = 0;
    st = members(&w, from, f, arg);
  }
  ij_free(w.body);
  ij_free(w.x);
  ij_free(w.r);
  return st;
}
