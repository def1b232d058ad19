/* baseline.c: the common JPEG (baseline, one scan, 4:4:4, 4:2:2, 4:2:0 or grey), decoded about twice as fast as libjpeg
 * does it where a window is wanted: entropy coding is read from a 64-bit buffer by tables that give run and value at
 * once, and only blocks of the window are transformed. Same arithmetic as libjpeg's defaults (accurate integer DCT,
 * smooth upsampling), so the same bytes. libjpeg reads the headers, and does whatever is unusual or broken. */
#include "baseline.h"
#include <string.h>

#if defined __x86_64__
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))

enum { LOOK = 10, LOOKS = 1 << LOOK, PAD = 4096, PLANE_MOST = 1 << 26 };

/* An entry for the next LOOK bits: length of the code << 24 | bits of its value << 16 | advance << 8 | both together.
 * 0: a longer code. */
typedef struct table {
  JHUFF_TBL from; /* what it was made of */
  bool made;
  uint32_t fast[LOOKS];
  int32_t most[18]; /* largest code of each length, shifted up to 16 bits, or -1 */
  int32_t offset[17];
} table;

struct ij_baseline {
  table dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
  ij_buffer scan, planes, rows;
};

typedef struct part { /* one component */
  const table *dc, *ac;
  int16_t quant[64]; /* by zigzag position */
  int h, v;          /* blocks of it in an MCU */
  int last;          /* DC predictor */
  uint8_t *plane;    /* of the MCUs in the window */
  size_t stride;
} part;

typedef struct bits {
  uint64_t buffer; /* at the top */
  int count;
  const uint8_t *next, *end;
} bits;

/* Natural position of the k-th coefficient of the zigzag. */
static const uint8_t natural[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};
enum { END_OF_BLOCK = 64 };

static uint32_t entry(int len, int symbol, bool dc) {
  int advance = dc ? 0 : symbol == 0 ? END_OF_BLOCK : symbol >> 4, size = dc ? symbol : symbol & 15;
  return (uint32_t)len << 24 | (uint32_t)size << 16 | (uint32_t)advance << 8 | (uint32_t)(len + size);
}

static bool table_make(table *t, const JHUFF_TBL *from, bool dc) {
  if (!from) return false;
  if (t->made && !memcmp(t->from.bits, from->bits, sizeof from->bits) &&
      !memcmp(t->from.huffval, from->huffval, sizeof from->huffval))
    return true;
  t->made = false;
  memset(t->fast, 0, sizeof t->fast);
  int32_t code = 0, index = 0;
  for (int len = 1; len <= 16; len++) {
    t->offset[len] = index - code;
    for (int i = 0; i < from->bits[len]; i++, code++, index++) {
      if (index > 255 || code >= 1 << len) return false;
      int symbol = from->huffval[index];
      if ((dc ? symbol : symbol & 15) > (dc ? 11 : 10)) return false;
      if (len > LOOK) continue;
      for (int rest = 0; rest < 1 << (LOOK - len); rest++)
        t->fast[code << (LOOK - len) | rest] = entry(len, symbol, dc);
    }
    t->most[len] = from->bits[len] ? ((code - 1) << (16 - len)) | ((1 << (16 - len)) - 1) : -1;
    code <<= 1;
  }
  t->most[17] = INT32_MAX;
  t->from = *from;
  return t->made = true;
}

INLINE void refill(bits *b) {
  uint64_t v;
  memcpy(&v, b->next, 8);
  b->buffer |= __builtin_bswap64(v) >> b->count;
  b->next += (63 - b->count) >> 3;
  b->count |= 56;
}
INLINE void drop(bits *b, int n) {
  b->buffer <<= n;
  b->count -= n;
}

/* The entry of a code longer than LOOK; 0: there is no such code. */
static __attribute__((noinline)) uint32_t slow(uint64_t buffer, const table *t, bool dc) {
  int32_t top = (int32_t)(buffer >> 48);
  int len = 1;
  while (top > t->most[len]) len++;
  return len > 16 ? 0 : entry(len, t->from.huffval[((top >> (16 - len)) + t->offset[len]) & 255], dc);
}

/* The value that follows the code: negative where its first bit is 0. */
INLINE int value_of(uint64_t buffer, uint32_t e) {
  uint64_t x = buffer << (e >> 24);
  int size = (int)(e >> 16 & 15);
  int raw = (int)(x >> 1 >> (63 - size));
  return raw - (((1 << size) - 1) & ((int)(x >> 63) - 1));
}

/* Reads one block. With keep, coefficients go to block (64, zeroed) times their quantum; returns the last one's number.
 * A code and its value have at most 27 bits; a refill gives 56. */
INLINE int read_block(bits *b, part *p, int16_t *block, bool keep) {
  refill(b);
  uint32_t e = p->dc->fast[b->buffer >> (64 - LOOK)];
  if (!e && !(e = slow(b->buffer, p->dc, true))) return -1;
  p->last += value_of(b->buffer, e);
  drop(b, (int)(e & 255));
  if (keep) block[0] = (int16_t)(p->last * p->quant[0]);
  const table *ac = p->ac;
  int k = 1, last = 0;
  for (;;) {
    if (b->count < 28) refill(b);
    e = ac->fast[b->buffer >> (64 - LOOK)];
    if (!e && !(e = slow(b->buffer, ac, false))) return -1;
    k += (int)(e >> 8 & 255);
    int value = keep ? value_of(b->buffer, e) : 0;
    drop(b, (int)(e & 255));
    if (k > 63) break;
    if (keep) {
      last = k;
      block[natural[k]] = (int16_t)(value * p->quant[k]);
    }
    if (++k > 63) break;
  }
  return last;
}

/* ---- the transform: Loeffler, Ligtenberg and Moschytz, 1989, in 13-bit fixed point ---- */
INLINE __m256i times(__m256i a, int c) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(c)); }
#define ADD _mm256_add_epi32
#define SUB _mm256_sub_epi32
INLINE void transform(__m256i v[8], int bias, int shift) {
  __m256i z = times(ADD(v[2], v[6]), 4433);
  __m256i e2 = SUB(z, times(v[6], 15137)), e3 = ADD(z, times(v[2], 6270));
  __m256i round = _mm256_set1_epi32(bias);
  __m256i e0 = ADD(_mm256_slli_epi32(ADD(v[0], v[4]), 13), round),
          e1 = ADD(_mm256_slli_epi32(SUB(v[0], v[4]), 13), round);
  __m256i a0 = ADD(e0, e3), a3 = SUB(e0, e3), a1 = ADD(e1, e2), a2 = SUB(e1, e2);
  __m256i z1 = times(ADD(v[7], v[1]), -7373), z2 = times(ADD(v[5], v[3]), -20995);
  __m256i s3 = ADD(v[7], v[3]), s4 = ADD(v[5], v[1]), z5 = times(ADD(s3, s4), 9633);
  __m256i z3 = ADD(times(s3, -16069), z5), z4 = ADD(times(s4, -3196), z5);
  __m256i o0 = ADD(times(v[7], 2446), ADD(z1, z3)), o1 = ADD(times(v[5], 16819), ADD(z2, z4));
  __m256i o2 = ADD(times(v[3], 25172), ADD(z2, z3)), o3 = ADD(times(v[1], 12299), ADD(z1, z4));
  v[0] = _mm256_srai_epi32(ADD(a0, o3), shift);
  v[7] = _mm256_srai_epi32(SUB(a0, o3), shift);
  v[1] = _mm256_srai_epi32(ADD(a1, o2), shift);
  v[6] = _mm256_srai_epi32(SUB(a1, o2), shift);
  v[2] = _mm256_srai_epi32(ADD(a2, o1), shift);
  v[5] = _mm256_srai_epi32(SUB(a2, o1), shift);
  v[3] = _mm256_srai_epi32(ADD(a3, o0), shift);
  v[4] = _mm256_srai_epi32(SUB(a3, o0), shift);
}

INLINE void transpose(__m256i v[8]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    v[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
}

AVX2 static void block_out(const int16_t *block, int last, uint8_t *to, size_t stride) {
  if (last == 0) { /* one value for all */
    int v = ((block[0] + 4) >> 3) + 128;
    uint64_t all = (uint64_t)(v < 0 ? 0 : v > 255 ? 255 : v) * 0x0101010101010101u;
    for (int i = 0; i < 8; i++) memcpy(to + (size_t)i * stride, &all, 8);
    return;
  }
  __m256i v[8];
  for (int i = 0; i < 8; i++)
    v[i] = _mm256_cvtepi16_epi32(_mm_load_si128((const __m128i *)(const void *)(block + 8 * i)));
  transform(v, 1 << 10, 11);
  transpose(v);
  transform(v, (128 << 18) + (1 << 17), 18); /* v[x]: column x of the output, a row in each lane */
  const __m256i by_column =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  __m256i left = _mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  __m256i right = _mm256_packus_epi16(_mm256_packs_epi32(v[4], v[5]), _mm256_packs_epi32(v[6], v[7]));
  left = _mm256_shuffle_epi8(left, by_column);
  right = _mm256_shuffle_epi8(right, by_column);
  __m256i rows01 = _mm256_unpacklo_epi32(left, right), rows23 = _mm256_unpackhi_epi32(left, right);
  __m128i pair[4] = {_mm256_castsi256_si128(rows01), _mm256_castsi256_si128(rows23),
                     _mm256_extracti128_si256(rows01, 1), _mm256_extracti128_si256(rows23, 1)};
  for (int i = 0; i < 4; i++) {
    _mm_storel_epi64((__m128i *)(void *)(to + (size_t)(2 * i) * stride), pair[i]);
    _mm_storel_epi64((__m128i *)(void *)(to + (size_t)(2 * i + 1) * stride), _mm_srli_si128(pair[i], 8));
  }
}

/* ---- colours ---- */
/* Twice as wide: near is the row itself, far the next one above or below (the same where rows aren't doubled). Both
 * have a readable sample to each side. */
AVX2 static void widen_2x2(const uint8_t *near, const uint8_t *far, int n, uint16_t *sum, uint8_t *to) {
  for (int i = 0; i < n + 2; i++) sum[i] = (uint16_t)(3 * near[i - 1] + far[i - 1]);
  for (int i = 0; i < n; i++) {
    int mid = 3 * sum[i + 1];
    to[2 * i] = (uint8_t)((mid + sum[i] + 8) >> 4);
    to[2 * i + 1] = (uint8_t)((mid + sum[i + 2] + 7) >> 4);
  }
}
AVX2 static void widen_2x1(const uint8_t *near, int n, uint8_t *to) {
  for (int i = 0; i < n; i++) {
    int mid = 3 * near[i];
    to[2 * i] = (uint8_t)((mid + near[i - 1] + 1) >> 2);
    to[2 * i + 1] = (uint8_t)((mid + near[i + 1] + 2) >> 2);
  }
}

/* n pixels, rounded up to 16, to 4 bytes each. 1.402 = 1 + 26345 / 65536, 1.772 = 2 - 14942 / 65536,
 * 0.71414 = 1 - 18734 / 65536, 0.34414 = 22554 / 65536. */
AVX2 static void to_rgb(const uint8_t *y_row, const uint8_t *cb_row, const uint8_t *cr_row, int n, uint8_t *to) {
  const __m256i centre = _mm256_set1_epi16(128), one = _mm256_set1_epi16(1), half = _mm256_set1_epi32(1 << 15);
  const __m256i green = _mm256_set1_epi32((int)(18734u << 16 | (uint16_t)-22554)), full = _mm256_set1_epi8(-1);
  for (int i = 0; i < n; i += 16, to += 64) {
    __m256i y = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(y_row + i)));
    __m256i cb =
        _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(cb_row + i))), centre);
    __m256i cr =
        _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(cr_row + i))), centre);
    __m256i r = _mm256_mulhi_epi16(_mm256_add_epi16(cr, cr), _mm256_set1_epi16(26345));
    r = _mm256_add_epi16(_mm256_add_epi16(y, cr), _mm256_srai_epi16(_mm256_add_epi16(r, one), 1));
    __m256i b = _mm256_mulhi_epi16(_mm256_add_epi16(cb, cb), _mm256_set1_epi16(-14942));
    b = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)), _mm256_srai_epi16(_mm256_add_epi16(b, one), 1));
    __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), green),
            high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), green);
    __m256i g = _mm256_packs_epi32(_mm256_srai_epi32(ADD(low, half), 16), _mm256_srai_epi32(ADD(high, half), 16));
    g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), g);
    r = _mm256_packus_epi16(r, r);
    g = _mm256_packus_epi16(g, g);
    b = _mm256_packus_epi16(b, b);
    __m256i rg = _mm256_unpacklo_epi8(r, g), bx = _mm256_unpacklo_epi8(b, full);
    low = _mm256_unpacklo_epi16(rg, bx);  /* pixels 0-3, 8-11 */
    high = _mm256_unpackhi_epi16(rg, bx); /* 4-7, 12-15 */
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(to + 32), _mm256_permute2x128_si256(low, high, 0x31));
  }
}
AVX2 static void grey_to_rgb(const uint8_t *y, int n, uint8_t *to) {
  for (int i = 0; i < n; i++) to[4 * i] = to[4 * i + 1] = to[4 * i + 2] = to[4 * i + 3] = y[i];
}

/* ---- one image ---- */
/* Copies the scan without stuffed bytes; 0: not one scan that ends with the image. */
static size_t unstuff(const uint8_t *from, size_t n, uint8_t *to) {
  const uint8_t *end = from + n;
  uint8_t *start = to;
  for (;;) {
    const uint8_t *ff = memchr(from, 0xff, (size_t)(end - from));
    if (!ff || ff + 1 >= end) return 0;
    size_t k = (size_t)(ff - from);
    memcpy(to, from, k);
    to += k;
    if (ff[1] == 0xd9) return (size_t)(to - start);
    if (ff[1] != 0) return 0;
    *to++ = 0xff;
    from = ff + 2;
  }
}

static bool fits(const struct jpeg_decompress_struct *info) {
  int n = info->num_components;
  if (info->progressive_mode || info->arith_code || info->data_precision != 8 || info->restart_interval ||
      info->comps_in_scan != n || info->Ss != 0 || info->Se != 63 || info->Ah != 0 || info->Al != 0)
    return false;
  if (n == 1) return info->jpeg_color_space == JCS_GRAYSCALE;
  if (n != 3 || info->jpeg_color_space != JCS_YCbCr) return false;
  const jpeg_component_info *c = info->comp_info;
  for (int i = 0; i < 3; i++)
    if (info->cur_comp_info[i] != &c[i]) return false;
  if (c[1].h_samp_factor != 1 || c[1].v_samp_factor != 1 || c[2].h_samp_factor != 1 || c[2].v_samp_factor != 1)
    return false;
  int h = c[0].h_samp_factor, v = c[0].v_samp_factor;
  return (h == 1 && v == 1) || (h == 2 && v <= 2 && info->image_width > 4);
}

static bool parts_make(ij_baseline *b, const struct jpeg_decompress_struct *info, part p[3]) {
  for (int i = 0; i < info->num_components; i++) {
    const jpeg_component_info *c = &info->comp_info[i];
    const JQUANT_TBL *q = info->quant_tbl_ptrs[c->quant_tbl_no & 3];
    int dc = c->dc_tbl_no, ac = c->ac_tbl_no;
    if (!q || c->quant_tbl_no > 3 || dc < 0 || dc > 3 || ac < 0 || ac > 3) return false;
    if (!table_make(&b->dc[dc], info->dc_huff_tbl_ptrs[dc], true) ||
        !table_make(&b->ac[ac], info->ac_huff_tbl_ptrs[ac], false))
      return false;
    p[i] = (part){.dc = &b->dc[dc], .ac = &b->ac[ac], .h = c->h_samp_factor, .v = c->v_samp_factor};
    if (info->num_components == 1) p[i].h = p[i].v = 1;
    for (int k = 0; k < 64; k++) {
      if (q->quantval[natural[k]] > 255) return false;
      p[i].quant[k] = (int16_t)q->quantval[natural[k]];
    }
  }
  return true;
}

typedef struct mcus { /* those of the window, of `wide` in a row */
  int x0, x1, y0, y1, wide;
} mcus;

/* Decodes MCU rows up to the window's last; false where the stream ends early or makes no sense. */
AVX2 static bool read_scan(bits *from, part *part_of, int parts, mcus m) {
  bits b = *from;
  _Alignas(32) int16_t block[64];
  for (int y = 0; y < m.y1; y++) {
    for (int x = 0; x < m.wide; x++) {
      bool keep = y >= m.y0 && x >= m.x0 && x < m.x1;
      if (b.next > b.end + 16) return false;
      for (int i = 0; i < parts; i++) {
        part *p = &part_of[i];
        for (int v = 0; v < p->v; v++)
          for (int h = 0; h < p->h; h++) {
            if (!keep) {
              if (read_block(&b, p, NULL, false) < 0) return false;
              continue;
            }
            for (int k = 0; k < 64; k += 16) _mm256_store_si256((__m256i *)(void *)(block + k), _mm256_setzero_si256());
            int last = read_block(&b, p, block, true);
            if (last < 0) return false;
            block_out(block, last,
                      p->plane + 8 * ((size_t)((y - m.y0) * p->v + v) * p->stride + (size_t)((x - m.x0) * p->h + h)),
                      p->stride);
          }
      }
    }
  }
  /* bits read beyond the end */
  return (b.next - b.end) * 8 <= b.count;
}

static int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

bool ij_baseline_rows(ij_baseline *b, struct jpeg_decompress_struct *info, int top, int bottom, int left, int right,
                      ij_windows *w) {
  part p[3] = {0};
  int parts = info->num_components, height = (int)info->image_height, width = (int)info->image_width;
  if (!__builtin_cpu_supports("avx2") || !fits(info) || !parts_make(b, info, p)) return false;
  int mcu_w = 8 * p[0].h, mcu_h = 8 * p[0].v; /* doubled colours look one sample around */
  mcus m = {clamp(left - 2, 0, width) / mcu_w, (clamp(right + 2, 0, width) + mcu_w - 1) / mcu_w,
            clamp(top - 2, 0, height) / mcu_h, (clamp(bottom + 2, 0, height) + mcu_h - 1) / mcu_h,
            (width + mcu_w - 1) / mcu_w};
  size_t n = info->src->bytes_in_buffer, size = 0, across = (size_t)(m.x1 - m.x0), rows = (size_t)(m.y1 - m.y0);
  size_t at[3];
  for (int i = 0; i < parts; i++) {
    p[i].stride = across * (size_t)p[i].h * 8 + 64; /* slack to both sides */
    at[i] = size + 32;
    size += p[i].stride * rows * (size_t)p[i].v * 8 + 64;
  }
  size_t row = (across * (size_t)mcu_w + (size_t)w->taps + 128) / 64 * 64;
  if (size > PLANE_MOST || ij_buffer_reserve(&b->scan, n + PAD) != IJ_OK ||
      ij_buffer_reserve(&b->planes, size) != IJ_OK || ij_buffer_reserve(&b->rows, row * 4 + 2 * row + 2 * row) != IJ_OK)
    return false;
  for (int i = 0; i < parts; i++) p[i].plane = (uint8_t *)b->planes.p + at[i];
  uint8_t *scan = b->scan.p;
  n = unstuff(info->src->next_input_byte, n, scan);
  if (n == 0) return false;
  memset(scan + n, 0, PAD);
  bits from = {.next = scan, .end = scan + n};
  if (!read_scan(&from, p, parts, m)) return false;

  uint8_t *pixels = b->rows.p, *cb = pixels + row * 4, *cr = cb + row;
  uint16_t *sum = (uint16_t *)(void *)(cr + row);
  int x0 = m.x0 * mcu_w, skip = left - x0, many = right - x0;
  if (p[0].h == 2) { /* past the image's edge its last sample counts */
    int edge = (width + 1) / 2 - m.x0 * 8;
    for (int i = 1; i < 3; i++)
      for (size_t y = 0; y < rows * 8; y++) {
        uint8_t *line = p[i].plane + y * p[i].stride;
        if (m.x0 == 0) line[-1] = line[0];
        if (edge <= (int)across * 8) line[edge] = line[edge - 1];
      }
  }
  int last_c = (height + p[0].v - 1) / p[0].v - 1;
  for (int y = top; y < bottom; y++) {
    const uint8_t *luma = p[0].plane + (size_t)(y - m.y0 * mcu_h) * p[0].stride;
    if (parts == 1) grey_to_rgb(luma, many, pixels);
    else if (p[0].h == 1) {
      size_t off = (size_t)(y - m.y0 * 8);
      to_rgb(luma, p[1].plane + off * p[1].stride, p[2].plane + off * p[2].stride, many, pixels);
    } else {
      int near = y / p[0].v, far = p[0].v == 1 ? near : clamp(y % 2 ? near + 1 : near - 1, 0, last_c);
      for (int i = 1; i < 3; i++) {
        const uint8_t *from_row = p[i].plane + (size_t)(near - m.y0 * 8) * p[i].stride;
        const uint8_t *far_row = p[i].plane + (size_t)(far - m.y0 * 8) * p[i].stride;
        if (p[0].v == 2) widen_2x2(from_row, far_row, (many + 1) / 2, sum, i == 1 ? cb : cr);
        else widen_2x1(from_row, (many + 1) / 2, i == 1 ? cb : cr);
      }
      to_rgb(luma, cb, cr, many, pixels);
    }
    ij_windows_row(w, pixels + 4 * (size_t)skip);
  }
  return true;
}
#else
struct ij_baseline {
  ij_buffer scan, planes, rows;
};
bool ij_baseline_rows(ij_baseline *b, struct jpeg_decompress_struct *info, int top, int bottom, int left, int right,
                      ij_windows *w) {
  (void)b, (void)info, (void)top, (void)bottom, (void)left, (void)right, (void)w;
  return false;
}
#endif

ij_baseline *ij_baseline_new(void) { return ij_calloc(1, sizeof(ij_baseline)); }

void ij_baseline_free(ij_baseline *b) {
  if (!b) return;
  ij_buffer_free(&b->scan);
  ij_buffer_free(&b->planes);
  ij_buffer_free(&b->rows);
  ij_free(b);
}
