/* plain.c: BMP and PNM (PBM, PGM, PPM, in binary and in ASCII), which libvips reads by ImageMagick or by a loader that
 * it calls unsafe. The pixels are those of Pillow. Every size comes from the file, so each is checked. */
#include "formats.h"
#include <math.h>
#include <string.h>

static ij_status cut(const char *format) { return ij_fail(IJ_EFORMAT, "truncated %s", format); }

void ij_plain_close(ij_plain *p) { ij_buffer_free(&p->values); }

/* ---- BMP ---- */
enum { RGB = 0, RLE8 = 1, RLE4 = 2, FIELDS = 3, ALPHA_FIELDS = 6 };

static uint32_t le(const uint8_t *p, int bytes) {
  uint32_t v = 0;
  for (int i = 0; i < bytes; i++) v |= (uint32_t)p[i] << 8 * i;
  return v;
}

static ij_status bmp_open(const uint8_t *b, size_t n, ij_plain *p) {
  uint32_t head = le(b + 14, 4), used = 0;
  bool old = head == 12;
  if ((!old && (head < 16 || head > 1 << 16)) || n < 14 + (size_t)head)
    return head < 1 << 16 && n < 14 + (size_t)head ? cut("BMP")
                                                   : ij_fail(IJ_EFORMAT, "BMP with a header of %u bytes", head);
  p->width = old ? (int)le(b + 18, 2) : (int)le(b + 18, 4);
  int64_t height = old ? (int64_t)le(b + 20, 2) : (int32_t)le(b + 22, 4);
  p->upward = height > 0;
  p->bits = (int)le(b + (old ? 24 : 28), 2);
  if (head >= 20) p->compression = (int)le(b + 30, 4);
  if (head >= 36) used = le(b + 46, 4);
  p->height = (int)(height < 0 ? -height : height);
  if (p->width < 1 || p->height < 1) return ij_fail(IJ_EFORMAT, "BMP of %d x %d pixels", p->width, p->height);
  p->data = le(b + 10, 4);
  p->stride = ((size_t)p->width * (size_t)p->bits + 31) / 32 * 4;
  int bits = p->bits, c = p->compression;
  bool known = c == RGB    ? bits == 1 || bits == 4 || bits == 8 || bits == 16 || bits == 24 || bits == 32
               : c == RLE8 ? bits == 8
               : c == RLE4 ? bits == 4
               : c == FIELDS || c == ALPHA_FIELDS ? bits == 16 || bits == 32
                                                  : false;
  if (!known) return ij_fail(IJ_EFORMAT, "BMP of %d bits with compression %d, which is not read", bits, c);
  size_t at = 14 + head;
  if (bits == 16) memcpy(p->mask, (uint32_t[]){0x7c00, 0x3e0, 0x1f}, sizeof p->mask);
  if (bits == 32) memcpy(p->mask, (uint32_t[]){0xff0000, 0xff00, 0xff}, sizeof p->mask);
  if (c == FIELDS || c == ALPHA_FIELDS) { /* they follow a short header, and belong to a long one */
    if (n < 66) return cut("BMP");
    for (int i = 0; i < 3; i++)
      if (!(p->mask[i] = le(b + 54 + 4 * i, 4))) return ij_fail(IJ_EFORMAT, "BMP with a colour that has no bits");
  }
  if (bits > 8) return IJ_OK;
  size_t entry = old ? 3 : 4, entries = used && used < 1u << bits ? used : (size_t)1 << bits;
  if (p->data > at && entries > (p->data - at) / entry) entries = (p->data - at) / entry;
  if (at > n || entries > (n - at) / entry) return cut("BMP");
  for (size_t i = 0; i < entries; i++)
    for (size_t k = 0; k < 3; k++) p->palette[i][k] = b[at + i * entry + 2 - k];
  return IJ_OK;
}

/* Run lengths to palette numbers (height, width), bottom row first; what is skipped is 0. */
static ij_status bmp_unpack(ij_plain *p, const uint8_t *b, size_t n) {
  size_t w = (size_t)p->width, all = w * (size_t)p->height, x = 0, y = 0, at = p->data;
  IJ_TRY(ij_buffer_reserve(&p->values, all));
  uint8_t *to = p->values.p;
  memset(to, 0, all);
  bool four = p->compression == RLE4;
  while (y < (size_t)p->height) {
    if (at > n || n - at < 2) return y + 1 == (size_t)p->height && x >= w ? IJ_OK : cut("BMP");
    size_t count = b[at], v = b[at + 1];
    at += 2;
    if (count) {
      for (size_t i = 0; i < count && x < w; i++, x++) to[y * w + x] = four ? (i % 2 ? v & 15 : v >> 4) : (uint8_t)v;
    } else if (v == 0) x = 0, y++;
    else if (v == 1) return IJ_OK;
    else if (v == 2) {
      if (n - at < 2) return cut("BMP");
      x += b[at];
      y += b[at + 1];
      at += 2;
    } else {
      size_t bytes = four ? (v + 1) / 2 : v;
      if (n - at < bytes) return cut("BMP");
      for (size_t i = 0; i < v && x < w; i++, x++)
        to[y * w + x] = four ? (i % 2 ? b[at + i / 2] & 15 : b[at + i / 2] >> 4) : b[at + i];
      at += bytes + bytes % 2;
    }
  }
  return IJ_OK;
}

/* The colour in v under a mask, as 8 bits. */
static uint8_t field(uint32_t v, uint32_t mask) {
  int shift = __builtin_ctz(mask);
  uint64_t most = mask >> shift;
  return (uint8_t)((uint64_t)((v & mask) >> shift) * 255 / most);
}

static void bmp_row(const ij_plain *p, const uint8_t *row, const uint8_t *unpacked, int left, int right, uint8_t *to) {
  for (int x = left; x < right; x++, to += 4) {
    if (p->bits == 24) {
      for (int k = 0; k < 3; k++) to[k] = row[3 * (size_t)x + 2 - (size_t)k];
    } else if (p->bits > 8) {
      uint32_t v = le(row + (size_t)x * (size_t)p->bits / 8, p->bits / 8);
      for (int k = 0; k < 3; k++) to[k] = field(v, p->mask[k]);
    } else {
      size_t bit = (size_t)x * (size_t)p->bits;
      int v = unpacked ? unpacked[x] : row[bit / 8] >> (8 - p->bits - (int)(bit % 8)) & ((1 << p->bits) - 1);
      memcpy(to, p->palette[v], 3);
    }
  }
}

/* ---- PNM ---- */
static void skip_blanks(const uint8_t *b, size_t n, size_t *at) { /* and comments */
  for (; *at < n; ++*at) {
    if (b[*at] == '#')
      while (*at + 1 < n && b[*at + 1] != '\n' && b[*at + 1] != '\r') ++*at;
    else if (!(b[*at] == ' ' || (b[*at] >= '\t' && b[*at] <= '\r'))) break;
  }
}

/* The next number of a header or of ASCII pixels. False: the end, or something else. */
static bool number(const uint8_t *b, size_t n, size_t *at, uint32_t *out) {
  uint64_t v = 0;
  skip_blanks(b, n, at);
  size_t from = *at;
  for (; *at < n && b[*at] >= '0' && b[*at] <= '9' && v <= UINT32_MAX; ++*at) v = v * 10 + (uint64_t)(b[*at] - '0');
  *out = (uint32_t)v;
  return *at > from && v <= UINT32_MAX;
}

static ij_status pnm_open(const uint8_t *b, size_t n, ij_plain *p) {
  size_t at = 2;
  uint32_t v[3] = {0, 0, 1};
  p->kind = b[1] - '0';
  bool bits = p->kind == 1 || p->kind == 4;
  for (int i = 0; i < (bits ? 2 : 3); i++)
    if (!number(b, n, &at, &v[i])) return at >= n ? cut("PNM") : ij_fail(IJ_EFORMAT, "PNM without a complete header");
  if (v[0] < 1 || v[1] < 1 || v[0] > INT32_MAX || v[1] > INT32_MAX || v[2] < 1 || v[2] > 65535)
    return ij_fail(IJ_EFORMAT, "PNM of %u x %u pixels up to %u", v[0], v[1], v[2]);
  p->width = (int)v[0];
  p->height = (int)v[1];
  p->most = v[2];
  p->bits = bits ? 1 : v[2] > 255 ? 16 : 8;
  p->bands = p->kind == 3 || p->kind == 6 ? 3 : 1;
  p->data = at + (p->kind > 3); /* one blank */
  p->stride =
      p->kind == 4 ? ((size_t)p->width + 7) / 8 : (size_t)p->width * (size_t)p->bands * (size_t)(p->bits > 8 ? 2 : 1);
  return IJ_OK;
}

/* ASCII to u16 values (height, width, bands). */
static ij_status pnm_unpack(ij_plain *p, const uint8_t *b, size_t n) {
  size_t all = (size_t)p->width * (size_t)p->height * (size_t)p->bands, at = p->data;
  if (at > n || all > n - at) return cut("PNM");
  IJ_TRY(ij_buffer_reserve(&p->values, all * sizeof(uint16_t)));
  uint16_t *to = p->values.p;
  for (size_t i = 0; i < all; i++) {
    uint32_t v;
    if (p->kind == 1) { /* digits need no blanks between them */
      skip_blanks(b, n, &at);
      if (at >= n) return cut("PNM");
      if (b[at] != '0' && b[at] != '1') return ij_fail(IJ_EFORMAT, "PNM with something other than 0 and 1 in it");
      to[i] = b[at++] == '1';
      continue;
    }
    if (!number(b, n, &at, &v))
      return at >= n ? cut("PNM") : ij_fail(IJ_EFORMAT, "PNM with something other than numbers in it");
    if (v > p->most) return ij_fail(IJ_EFORMAT, "PNM with %u in it, above its maximum %g", v, p->most);
    to[i] = (uint16_t)v;
  }
  return IJ_OK;
}

static void pnm_row(const ij_plain *p, const uint8_t *row, const uint16_t *unpacked, const uint8_t *table, ij_levels *l,
                    bool given, int left, int right, uint8_t *to) {
  for (int x = left; x < right; x++, to += 4)
    for (int c = 0; c < 3; c++) {
      size_t i = (size_t)x * (size_t)p->bands + (p->bands == 3 ? (size_t)c : 0);
      unsigned v = unpacked       ? unpacked[i]
                   : p->bits == 1 ? row[x / 8] >> (7 - x % 8) & 1u
                   : p->bits == 8 ? row[i]
                                  : (unsigned)row[2 * i] << 8 | row[2 * i + 1];
      if (p->bits == 1) to[c] = v ? 0 : 255;
      else if (p->bits == 8) to[c] = table[v];
      else {
        to[c] = ij_level(l, v);
        if (!given) to[c] = (uint8_t)rint(fmin(v / p->most, 1) * 255); /* halves as Pillow rounds them */
      }
    }
}

ij_status ij_plain_open(ij_filetype f, const uint8_t *bytes, size_t n, ij_plain *p) {
  ij_buffer values = p->values; /* its memory is used again */
  *p = (ij_plain){.values = values};
  return f == IJ_FILE_BMP ? bmp_open(bytes, n, p) : pnm_open(bytes, n, p);
}

ij_status ij_plain_rows(ij_plain *p, const uint8_t *b, size_t n, const ij_decode_options *o, ij_levels *l,
                        const ij_window *box, ij_windows *to) {
  bool bmp = p->kind == 0, packed = bmp ? p->compression == RLE8 || p->compression == RLE4 : p->kind <= 3;
  size_t w = (size_t)p->width, h = (size_t)p->height;
  uint8_t table[256];
  if (packed) IJ_TRY(bmp ? bmp_unpack(p, b, n) : pnm_unpack(p, b, n));
  else {
    size_t last = bmp ? (w * (size_t)p->bits + 7) / 8 : p->stride; /* a BMP's last row may lack what fills it up */
    if (p->data > n || n - p->data < last || (n - p->data - last) / p->stride < h - 1) return cut(bmp ? "BMP" : "PNM");
  }
  if (p->bits == 16 && !bmp) ij_levels_begin(l, o, 0, p->most);
  for (int v = 0; v < 256; v++) table[v] = (uint8_t)(v >= p->most ? 255 : rint(v / p->most * 255));
  uint8_t *out = to->row.p;
  for (int y = box->top; y < box->top + box->h; y++) {
    size_t from = bmp && p->upward ? h - 1 - (size_t)y : (size_t)y;
    const uint8_t *row = packed ? NULL : b + p->data + from * p->stride;
    const void *values = !packed ? NULL : (const uint8_t *)p->values.p + from * w * (bmp ? 1 : 2 * (size_t)p->bands);
    if (bmp) bmp_row(p, row, values, box->left, box->left + box->w, out);
    else pnm_row(p, row, values, table, l, o->low != o->high, box->left, box->left + box->w, out);
    ij_windows_row(to, out);
  }
  return IJ_OK;
}
