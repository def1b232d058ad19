/* tar.c: finds the members of a tar by one pass over its headers; nothing is unpacked. Old, ustar, GNU and PAX forms.
 */
#include "data.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

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
  bool named, sized;
  char name[IJ_TAR_NAME_MOST];
  uint64_t size;
} extras;

/* PAX: records "LENGTH KEY=VALUE\n". */
static void pax(const char *p, size_t n, extras *x) {
  while (n) {
    size_t len = 0, i = 0;
    while (i < n && i < 10 && p[i] >= '0' && p[i] <= '9') len = len * 10 + (size_t)(p[i++] - '0');
    if (i == 0 || i >= n || p[i] != ' ' || len > n || len < i + 3) return;
    const char *key = p + i + 1, *end = p + len - 1;
    size_t length = (size_t)(end - key);
    if (length > 5 && !memcmp(key, "path=", 5) && length - 5 < IJ_TAR_NAME_MOST) {
      memcpy(x->name, key + 5, length - 5);
      x->name[length - 5] = 0;
      x->named = true;
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

ij_status ij_tar_scan(int fd, const char *path, ij_member_fn *add, void *arg, ij_note_fn *note, void *note_arg) {
  ij_status st = IJ_OK;
  char *text = NULL;
  reader *r = ij_alloc(sizeof *r);
  extras *x = ij_calloc(1, sizeof *x);
  char *body = ij_alloc(1 << 16);
  if (!r || !x || !body) {
    st = IJ_ENOMEM;
    goto out;
  }
  r->fd = fd;
  r->at = r->n = 0;
  uint64_t length = (uint64_t)lseek(fd, 0, SEEK_END);
  for (uint64_t at = 0;;) {
    const uint8_t *h = block(r, at, &st);
    if (st == IJ_EEND) { /* two empty blocks should end it; without them it may have been cut between members */
      st = IJ_OK;
      if (r->n || at > length) {
        if (!(text = ij_format("%s: the tar is cut off", path))) st = IJ_ENOMEM;
        else note(note_arg, text);
      }
      break;
    }
    if (!h) {
      ij_fail_in(st, "tar '%s'", path);
      break;
    }
    if (ij_interrupted()) {
      st = ij_fail(IJ_EINTERRUPT, "listing of '%s' interrupted", path);
      break;
    }
    static const uint8_t zero[BLOCK];
    if (!memcmp(h, zero, BLOCK)) break;
    uint64_t size;
    if (!is_header(h) || !number(h + 124, 12, &size)) {
      st = ij_fail(IJ_EFORMAT, "tar '%s' is damaged at byte %llu", path, (unsigned long long)at);
      break;
    }
    char type = (char)h[156];
    bool extended = type == 'L' || type == 'x';
    if (!extended && x->sized) size = x->size;
    if (size > (uint64_t)INT64_MAX / 2) {
      st = ij_fail(IJ_EFORMAT, "tar '%s' is damaged at byte %llu", path, (unsigned long long)at);
      break;
    }
    at += BLOCK;
    if (extended) {
      size_t got, want = size < 1 << 16 ? (size_t)size : 1 << 16;
      if ((st = ij_read_at(fd, body, want, at, &got)) != IJ_OK) {
        ij_fail_in(st, "tar '%s'", path);
        break;
      }
      if (type == 'x') pax(body, got, x);
      else if (got && got < IJ_TAR_NAME_MOST) {
        memcpy(x->name, body, got);
        x->name[got] = 0;
        x->named = true;
      }
    } else if (type != 'K' && type != 'g') {
      if (type == '0' || type == 0 || type == '7') {
        char name[260];
        plain_name(h, name);
        if ((st = add(arg, x->named ? x->name : name, at, size)) != IJ_OK) break;
      }
      x->named = x->sized = false;
    }
    at += (size + BLOCK - 1) / BLOCK * BLOCK;
  }
out:
  ij_free(text);
  ij_free(body);
  ij_free(x);
  ij_free(r);
  return st;
}
