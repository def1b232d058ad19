/* container.c: what the structure of an image file tells without decoding: its format, the EXIF orientation, whether it
 * is cut off. Every offset comes from the file, so each is checked. */
#include "formats.h"
#include <string.h>

/* ---- reading numbers ---- */
typedef struct view {
  const uint8_t *p;
  size_t n;
  bool big; /* big-endian */
} view;

static uint64_t get(const view *v, uint64_t at, int bytes) { /* 0 beyond the end */
  uint64_t x = 0;
  if (at > v->n || v->n - at < (uint64_t)bytes) return 0;
  for (int i = 0; i < bytes; i++) x = x << 8 | v->p[at + (uint64_t)(v->big ? i : bytes - 1 - i)];
  return x;
}

static bool starts(const uint8_t *p, size_t n, const char *magic, size_t len) {
  return n >= len && !memcmp(p, magic, len);
}

ij_filetype ij_filetype_of(const uint8_t *p, size_t n) {
  if (starts(p, n, "\xff\xd8", 2) && n > 2) return IJ_FILE_JPEG;
  if (starts(p, n, "\x89PNG\r\n\x1a\n", 8)) return IJ_FILE_PNG;
  if (starts(p, n, "RIFF", 4) && n >= 12 && !memcmp(p + 8, "WEBP", 4)) return IJ_FILE_WEBP;
  if (starts(p, n, "GIF87a", 6) || starts(p, n, "GIF89a", 6)) return IJ_FILE_GIF;
  if (starts(p, n, "II*\0", 4) || starts(p, n, "MM\0*", 4) || starts(p, n, "II+\0", 4) || starts(p, n, "MM\0+", 4))
    return IJ_FILE_TIFF;
  if (starts(p, n, "BM", 2) && n >= 18) return IJ_FILE_BMP;
  if (n > 2 && p[0] == 'P' && p[1] >= '1' && p[1] <= '6' && (strchr(" \t\r\n#", p[2]) && p[2])) return IJ_FILE_PNM;
  if (n >= 12 && !memcmp(p + 4, "ftyp", 4)) return IJ_FILE_HEIF;
  return IJ_FILE_OTHER;
}

const char *ij_filetype_name(ij_filetype f) {
  static const char *const names[] = {"file", "JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP", "PNM", "HEIF"};
  return names[f];
}

/* ---- TIFF ---- */
typedef struct tiff {
  view v;
  int count_bytes, entry_bytes, value_bytes; /* classic, or BigTIFF */
  uint64_t folder, entries;                  /* the first */
} tiff;

static bool tiff_open(tiff *t, const uint8_t *p, size_t n) {
  if (n < 8) return false;
  bool wide = p[p[0] == 'I' ? 2 : 3] == '+';
  *t = (tiff){{p, n, p[0] == 'M'}, wide ? 8 : 2, wide ? 20 : 12, wide ? 8 : 4, 0, 0};
  t->folder = get(&t->v, wide ? 8 : 4, t->value_bytes);
  if (t->folder < 8 || t->folder > n || n - t->folder < (size_t)t->count_bytes) return false;
  t->entries = get(&t->v, t->folder, t->count_bytes);
  return t->entries <= (n - t->folder - (uint64_t)t->count_bytes) / (uint64_t)t->entry_bytes;
}

typedef struct values { /* of one tag */
  uint64_t count, at;
  int bytes; /* of each; 0: no such tag */
} values;

static values tag(const tiff *t, unsigned code) {
  for (uint64_t i = 0; i < t->entries; i++) {
    uint64_t at = t->folder + (uint64_t)t->count_bytes + i * (uint64_t)t->entry_bytes;
    if (get(&t->v, at, 2) != code) continue;
    uint64_t type = get(&t->v, at + 2, 2);
    values x = {get(&t->v, at + 4, t->value_bytes), at + 4 + (uint64_t)t->value_bytes, 0};
    x.bytes = type == 1 ? 1 : type == 3 ? 2 : type == 4 || type == 13 ? 4 : type == 16 ? 8 : 0;
    if (x.bytes && x.count > (uint64_t)t->value_bytes / (uint64_t)x.bytes) x.at = get(&t->v, x.at, t->value_bytes);
    return x;
  }
  return (values){0, 0, 0};
}
static uint64_t value(const tiff *t, values x, uint64_t i, uint64_t otherwise) {
  return x.bytes && i < x.count ? get(&t->v, x.at + i * (uint64_t)x.bytes, x.bytes) : otherwise;
}

static int tiff_orientation(const uint8_t *p, size_t n) {
  tiff t;
  if (ij_filetype_of(p, n) != IJ_FILE_TIFF || !tiff_open(&t, p, n)) return 1;
  uint64_t o = value(&t, tag(&t, 274), 0, 1);
  return o >= 1 && o <= 8 ? (int)o : 1;
}

const char *ij_tiff_problem(const uint8_t *p, size_t n) {
  tiff t;
  if (!tiff_open(&t, p, n)) return NULL;
  uint64_t colours = value(&t, tag(&t, 262), 0, 1), packed = value(&t, tag(&t, 259), 0, 1);
  bool planes = value(&t, tag(&t, 284), 0, 1) == 2 && value(&t, tag(&t, 277), 0, 1) > 1;
  if (planes && colours <= 1) return "TIFF of several bands in separate planes that are not RGB or CMYK";
  return colours == 6 && packed != 6 && packed != 7 ? "TIFF of YCbCr values without JPEG compression" : NULL;
}

static ij_cut tiff_cut(const uint8_t *p, size_t n) {
  tiff t;
  if (!tiff_open(&t, p, n)) return IJ_CUT_YES;
  values offset = tag(&t, 273), length = tag(&t, 279);
  if (!offset.bytes) offset = tag(&t, 324), length = tag(&t, 325);
  if (!offset.bytes) return IJ_CUT_NO; /* no pixels: libvips reports that */
  if (offset.count > n || offset.at > n || offset.count * (uint64_t)offset.bytes > n - offset.at) return IJ_CUT_YES;
  for (uint64_t i = 0; i < offset.count; i++) {
    uint64_t from = value(&t, offset, i, 0), size = value(&t, length, i, 0);
    if (from > n) return IJ_CUT_YES;
    /* libtiff works out the length of a single strip without compression itself */
    if (size > n - from && (offset.count > 1 || value(&t, tag(&t, 259), 0, 1) != 1)) return IJ_CUT_YES;
    if (size > n - from) {
      uint64_t bits = value(&t, tag(&t, 258), 0, 1) * value(&t, tag(&t, 277), 0, 1);
      uint64_t row = (value(&t, tag(&t, 256), 0, 0) * bits + 7) / 8, rows = value(&t, tag(&t, 257), 0, 0);
      if (row && rows > (n - from) / row) return IJ_CUT_YES;
    }
  }
  return IJ_CUT_NO;
}

/* ---- PNG, WebP, JPEG, GIF, HEIF ---- */
/* The next chunk of a PNG (from 8 on) or of a RIFF (from 12 on): its name at *name, its data at *data. False: the end.
 */
static bool chunk(const view *v, bool png, uint64_t *at, const uint8_t **name, uint64_t *data, uint64_t *size) {
  if (*at > v->n || v->n - *at < 8) return false;
  *size = get(v, *at + (png ? 0 : 4), 4);
  *name = v->p + *at + (png ? 4 : 0);
  *data = *at + 8;
  *at = *data + *size + (png ? 4 : *size % 2);
  return true;
}

static int exif_orientation(const uint8_t *p, uint64_t n) {
  if (starts(p, n, "Exif\0\0", 6)) p += 6, n -= 6;
  return tiff_orientation(p, n);
}

static int jpeg_orientation(const view *v) {
  for (uint64_t at = 2; at + 4 <= v->n && v->p[at] == 0xff;) {
    uint8_t marker = v->p[at + 1];
    if (marker == 0xff) {
      at++; /* fill */
      continue;
    }
    uint64_t size = get(v, at + 2, 2);
    if (marker == 0xda || marker == 0xd9 || size < 2 || size > v->n - at - 2) break;
    if (marker == 0xe1 && starts(v->p + at + 4, size - 2, "Exif\0\0", 6))
      return exif_orientation(v->p + at + 4, size - 2);
    at += 2 + size;
  }
  return 1;
}

int ij_orientation(ij_filetype f, const uint8_t *p, size_t n) {
  bool png = f == IJ_FILE_PNG;
  view v = {p, n, f != IJ_FILE_WEBP};
  if (f == IJ_FILE_TIFF) return tiff_orientation(p, n);
  if (f == IJ_FILE_JPEG) return jpeg_orientation(&v);
  if (!png && f != IJ_FILE_WEBP) return 1;
  const uint8_t *name;
  uint64_t at = png ? 8 : 12, data, size;
  while (chunk(&v, png, &at, &name, &data, &size))
    if (!memcmp(name, png ? "eXIf" : "EXIF", 4) && size <= n - data) return exif_orientation(p + data, size);
  return 1;
}

/* From a GIF's first byte to its first image: the offset of that, or 0 where the file ends before; *flags: see
 * ij_gif_flags. */
static uint64_t gif_image(const uint8_t *p, size_t n, size_t *flags) {
  *flags = 0;
  if (n < 13) return 0;
  uint64_t at = 13 + (p[10] & 0x80 ? (uint64_t)3 << ((p[10] & 7) + 1) : 0);
  while (at < n && p[at] == 0x21) {
    if (at + 4 < n && p[at + 1] == 0xf9 && p[at + 2] >= 4) *flags = (size_t)at + 3;
    at += 2;
    while (at < n && p[at]) at += 1 + (uint64_t)p[at];
    at++;
  }
  return at < n ? at : 0;
}
size_t ij_gif_flags(const uint8_t *p, size_t n) {
  size_t flags;
  return gif_image(p, n, &flags) ? flags : 0;
}
static ij_cut gif_cut(const uint8_t *p, size_t n) {
  size_t flags;
  uint64_t at = gif_image(p, n, &flags);
  if (!at) return IJ_CUT_YES;
  if (p[at] != 0x2c) return IJ_CUT_NO; /* libvips reports what is wrong */
  if (n - at < 11) return IJ_CUT_YES;
  at += 11 + (p[at + 9] & 0x80 ? (uint64_t)3 << ((p[at + 9] & 7) + 1) : 0);
  while (at < n && p[at]) at += 1 + (uint64_t)p[at];
  return at < n ? IJ_CUT_NO : IJ_CUT_YES;
}

ij_cut ij_is_cut(ij_filetype f, const uint8_t *p, size_t n) {
  view v = {p, n, f != IJ_FILE_WEBP};
  const uint8_t *name;
  uint64_t at, data, size;
  switch (f) {
  case IJ_FILE_TIFF:
    return tiff_cut(p, n);
  case IJ_FILE_GIF:
    return gif_cut(p, n);
  case IJ_FILE_PNG:
    for (at = 8; chunk(&v, true, &at, &name, &data, &size);) {
      if (!memcmp(name, "IEND", 4)) return IJ_CUT_NO;
      if (!memcmp(name, "IDAT", 4) && size > n - data) return IJ_CUT_YES;
    }
    return IJ_CUT_PERHAPS;
  case IJ_FILE_WEBP:
    return get(&v, 4, 4) > n - 8 ? IJ_CUT_YES : IJ_CUT_NO;
  case IJ_FILE_HEIF:
    for (at = 0; at < n; at += size) {
      if (n - at < 8) return IJ_CUT_YES;
      size = get(&v, at, 4);
      if (size == 1) size = get(&v, at + 8, 8);
      if (size < 8) return IJ_CUT_NO; /* 0: to the end of the file */
      if (size > n - at) return IJ_CUT_YES;
    }
    return IJ_CUT_NO;
  default:
    return IJ_CUT_NO;
  }
}
