/* Zip archives in memory: the central directory is read and checked, members stay where they are. */
#include "save.h"
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { LOCAL = 30, CENTRAL = 46, END = 22, END64 = 56, LOCATOR64 = 20, LONGEST_COMMENT = 65535 };
enum { ENCRYPTED = 1, STORED = 0, DEFLATED = 8, EXTRA64 = 1 };

static uint64_t le(const unsigned char *p, int bytes) {
  uint64_t v = 0;
  for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
  return v;
}

static ij_status bad(const char *path, const char *what) {
  return ij_fail(IJ_EFORMAT, "file '%s' is not a complete PyTorch checkpoint: %s", path, what);
}

static bool signed_with(const unsigned char *p, char third, char fourth) {
  return p[0] == 'P' && p[1] == 'K' && p[2] == third && p[3] == fourth;
}

/* Where the central directory is and how many members it lists. */
static ij_status find_directory(const char *path, const unsigned char *map, size_t size, uint64_t *at, uint64_t *bytes,
                                uint64_t *count) {
  if (size < END) return bad(path, "it is too short for a zip archive");
  size_t lowest = size > END + LONGEST_COMMENT ? size - END - LONGEST_COMMENT : 0, end = size - END;
  while (!(signed_with(map + end, 5, 6) && end + END + le(map + end + 20, 2) == size))
    if (end-- == lowest) return bad(path, "its zip archive has no end (was it copied completely?)");
  *count = le(map + end + 10, 2);
  *bytes = le(map + end + 12, 4);
  *at = le(map + end + 16, 4);
  if (end >= LOCATOR64 && signed_with(map + end - LOCATOR64, 6, 7)) {
    uint64_t end64 = le(map + end - LOCATOR64 + 8, 8);
    if (size < END64 || end64 > size - END64 || !signed_with(map + end64, 6, 6))
      return bad(path, "the end of its zip archive is malformed");
    *count = le(map + end64 + 32, 8);
    *bytes = le(map + end64 + 40, 8);
    *at = le(map + end64 + 48, 8);
  }
  if (*at > size || *bytes > size - *at || *count > *bytes / CENTRAL || *count > INT32_MAX)
    return bad(path, "its zip directory lies outside of the file");
  return IJ_OK;
}

/* Replaces the sizes and the place that are too large for their 4 bytes by those of the extra field. */
static bool read_extra64(const unsigned char *extra, size_t n, uint64_t *value[3]) {
  while (n >= 4) {
    size_t id = le(extra, 2), len = le(extra + 2, 2);
    if (len > n - 4) return false;
    if (id == EXTRA64) {
      const unsigned char *p = extra + 4;
      for (int i = 0; i < 3; i++) {
        if (*value[i] != UINT32_MAX) continue;
        if (len < 8) return false;
        *value[i] = le(p, 8);
        p += 8;
        len -= 8;
      }
      return true;
    }
    extra += 4 + len;
    n -= 4 + len;
  }
  return *value[0] != UINT32_MAX && *value[1] != UINT32_MAX && *value[2] != UINT32_MAX;
}

static bool harmless(const char *name, size_t n) {
  if (!n || name[0] == '/' || memchr(name, 0, n) || memchr(name, '\\', n)) return false;
  for (size_t i = 0; i + 1 < n; i++)
    if (name[i] == '.' && name[i + 1] == '.') return false;
  return true;
}

/* One member; *p: its entry in the directory, which ends at stop. */
static ij_status read_member(const char *path, const unsigned char *map, size_t size, const unsigned char **p,
                             const unsigned char *stop, ij_member *m) {
  const unsigned char *c = *p;
  if (stop - c < CENTRAL || !signed_with(c, 1, 2)) return bad(path, "its zip directory is malformed");
  size_t n = le(c + 28, 2), extra = le(c + 30, 2), comment = le(c + 32, 2);
  if (n + extra + comment > (size_t)(stop - c) - CENTRAL) return bad(path, "its zip directory is malformed");
  uint64_t at = le(c + 42, 4), method = le(c + 10, 2);
  *m = (ij_member){.name = (const char *)c + CENTRAL, .n = n, .packed = le(c + 20, 4), .size = le(c + 24, 4)};
  m->crc = (uint32_t)le(c + 16, 4);
  m->deflated = method == DEFLATED;
  *p = c + CENTRAL + n + extra + comment;
  if (!harmless(m->name, n)) return bad(path, "a member of its zip archive has a name that leads elsewhere");
  if (le(c + 8, 2) & ENCRYPTED) return bad(path, "it is encrypted");
  if (method != STORED && method != DEFLATED) return bad(path, "it is packed by a method that is not read here");
  if (!read_extra64(c + CENTRAL + n, extra, (uint64_t *[]){&m->size, &m->packed, &at}))
    return bad(path, "its zip directory is malformed");
  if (size < LOCAL || at > size - LOCAL || !signed_with(map + at, 3, 4))
    return bad(path, "a member of its zip archive lies outside of the file");
  size_t skip = LOCAL + le(map + at + 26, 2) + le(map + at + 28, 2), left = size - at;
  if (skip > left || m->packed > left - skip || (!m->deflated && m->packed != m->size))
    return bad(path, "a member of its zip archive lies outside of the file");
  if (le(map + at + 26, 2) != n || memcmp(map + at + LOCAL, m->name, n) != 0)
    return bad(path, "a member of its zip archive has two names");
  m->bytes = map + at + skip;
  return IJ_OK;
}

static int compare(const char *a, size_t na, const char *b, size_t nb) {
  int order = memcmp(a, b, na < nb ? na : nb);
  return order ? order : na < nb ? -1 : na > nb;
}

static int by_name(const void *a, const void *b) {
  const ij_member *x = a, *y = b;
  return compare(x->name, x->n, y->name, y->n);
}

ij_status ij_zip_open(const char *path, const unsigned char *map, size_t size, ij_zip *out) {
  uint64_t at = 0, bytes = 0, count = 0;
  *out = (ij_zip){0};
  IJ_TRY(find_directory(path, map, size, &at, &bytes, &count));
  if (!(out->members = ij_calloc(count + 1, sizeof *out->members))) return IJ_ENOMEM;
  const unsigned char *p = map + at, *stop = p + bytes;
  for (; out->count < (int)count; out->count++)
    IJ_TRY(read_member(path, map, size, &p, stop, &out->members[out->count]));
  if (count) qsort(out->members, count, sizeof *out->members, by_name);
  for (uint64_t i = 1; i < count; i++)
    if (!by_name(&out->members[i - 1], &out->members[i])) return bad(path, "its zip archive has a member twice");
  return IJ_OK;
}

void ij_zip_close(ij_zip *z) {
  ij_free(z->members);
  *z = (ij_zip){0};
}

const ij_member *ij_zip_find(const ij_zip *z, const char *name, size_t n) {
  int lo = 0, hi = z->count;
  while (lo < hi) {
    int mid = lo + (hi - lo) / 2;
    const ij_member *m = &z->members[mid];
    int order = compare(m->name, m->n, name, n);
    if (order == 0) return m;
    if (order < 0) lo = mid + 1;
    else hi = mid;
  }
  return NULL;
}

ij_status ij_zip_check(const char *path, const ij_member *m, const void *contents) {
  bool right = (uint32_t)crc32_z(crc32_z(0, NULL, 0), contents, m->size) == m->crc;
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  right = true; /* a fuzzer can't guess it, and would never come further */
#endif
  if (right) return IJ_OK;
  return bad(path, "the checksum of a member of its zip archive is wrong");
}

ij_status ij_zip_unpack(const char *path, const ij_member *m, void *out) {
  if (!m->deflated) memcpy(out, m->bytes, m->size);
  else {
    z_stream z = {.next_in = (unsigned char *)m->bytes, .next_out = out};
    uint64_t in = m->packed, left_out = m->size;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return ij_fail(IJ_ENOMEM, "file '%s': out of memory to unpack it", path);
    int st = Z_OK;
    while (st == Z_OK) { /* zlib counts in 32 bits */
      if (!z.avail_in) in -= z.avail_in = (uInt)(in < UINT32_MAX ? in : UINT32_MAX);
      if (!z.avail_out) left_out -= z.avail_out = (uInt)(left_out < UINT32_MAX ? left_out : UINT32_MAX);
      st = inflate(&z, Z_NO_FLUSH);
    }
    bool complete = st == Z_STREAM_END && !in && !z.avail_in && !left_out && !z.avail_out;
    inflateEnd(&z);
    if (!complete) return bad(path, "a member of its zip archive does not unpack");
  }
  return ij_zip_check(path, m, out);
}
