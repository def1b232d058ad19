/* resize.c: bilinear with antialias, as PIL computes it on 8-bit images: across first, rounded to 8 bits, then down;
 * weights in 22-bit fixed point. An image is taken row by row. */
#include "data.h"
#include <math.h>
#include <string.h>
#if defined __x86_64__
#include <immintrin.h>
#endif

enum { PRECISION = 32 - 8 - 2, HALF = 1 << (PRECISION - 1) };

/* Outputs [from, from + n) of `full` outputs over a box of `len` inputs. */
static ij_status axis_make(ij_axis *a, int len, int full, int from, int n) {
  double scale = (double)len / full, wide = scale < 1 ? 1 : scale, inverse = 1 / wide;
  int most = 2 * (int)ceil(wide) + 1, taps = 1;
  size_t firsts = ((size_t)n * sizeof(int) + 63) / 64 * 64;
  IJ_TRY(ij_buffer_reserve(&a->buffer,
                           firsts + (size_t)n * (size_t)most * sizeof(int32_t) + (size_t)most * sizeof(double)));
  a->first = a->buffer.p;
  a->weight = (int32_t *)(void *)((char *)a->buffer.p + firsts);
  double *w = (double *)(void *)(a->weight + (size_t)n * (size_t)most + ((size_t)n * (size_t)most) % 2);
  for (int pass = 0; pass < 2; pass++) { /* first the widest support, then the weights */
    a->lo = len;
    a->hi = 0;
    for (int i = 0; i < n; i++) {
      double centre = (from + i + 0.5) * scale, sum = 0;
      int lo = (int)(centre - wide + 0.5), hi = (int)(centre + wide + 0.5);
      if (lo < 0) lo = 0;
      if (hi > len) hi = len;
      if (lo < a->lo) a->lo = lo;
      if (hi > a->hi) a->hi = hi;
      if (hi - lo > taps) taps = hi - lo;
      if (pass == 0) continue;
      for (int k = 0; k < hi - lo; k++) {
        double x = fabs((k + lo - centre + 0.5) * inverse);
        w[k] = x < 1 ? 1 - x : 0;
        sum += w[k];
      }
      int32_t *to = a->weight + (size_t)i * (size_t)taps;
      for (int k = 0; k < taps; k++)
        to[k] = k < hi - lo ? (int32_t)(0.5 + (sum != 0 ? w[k] / sum : w[k]) * (1 << PRECISION)) : 0;
      a->first[i] = lo;
    }
  }
  for (int i = 0; i < n; i++) a->first[i] -= a->lo;
  a->n = n;
  a->taps = taps;
  return IJ_OK;
}

/* Weights of two taps side by side, each for the four bytes of its pixel. */
static ij_status pairs_make(ij_axis *a) {
  int pairs = (a->taps + 1) / 2;
  IJ_TRY(ij_buffer_reserve(&a->pair_buffer, (size_t)a->n * (size_t)pairs * 8 * sizeof(int32_t)));
  int32_t *to = a->pair = a->pair_buffer.p;
  for (int i = 0; i < a->n; i++)
    for (int k = 0; k < 2 * pairs; k++, to += 4)
      for (int c = 0; c < 4; c++) to[c] = k < a->taps ? a->weight[i * a->taps + k] : 0;
  return IJ_OK;
}

static ij_status resizer_begin(ij_resizer *r, const ij_window *win) {
  IJ_TRY(axis_make(&r->across, win->w, win->full_w, win->x, win->width));
  IJ_TRY(axis_make(&r->down, win->h, win->full_h, win->y, win->height));
  r->stride = ((size_t)win->width * 3 + 1 + 63) / 64 * 64; /* slack for the loops, which read up to 64 bytes at once */
  IJ_TRY(ij_buffer_reserve(&r->mid, (size_t)(r->down.hi - r->down.lo) * r->stride));
  IJ_TRY(pairs_make(&r->across));
  r->rows = 0;
  return IJ_OK;
}

static void resizer_free(ij_resizer *r) {
  ij_buffer_free(&r->across.buffer);
  ij_buffer_free(&r->across.pair_buffer);
  ij_buffer_free(&r->down.buffer);
  ij_buffer_free(&r->mid);
}

/* The loops, plain and for AVX2, chosen at run time. Weights that stand beyond the last pixel are 0, so what is read
 * there doesn't matter: but it must be readable. */
static void across(const ij_axis *a, const uint8_t *row, uint8_t *to) {
  const int32_t *w = a->weight;
  for (int i = 0; i < a->n; i++, w += a->taps, to += 3) {
    const uint8_t *from = row + 4 * (size_t)a->first[i];
    int32_t red = HALF, green = HALF, blue = HALF;
    for (int k = 0; k < a->taps; k++, from += 4) {
      red += from[0] * w[k];
      green += from[1] * w[k];
      blue += from[2] * w[k];
    }
    to[0] = (uint8_t)(red >> PRECISION);
    to[1] = (uint8_t)(green >> PRECISION);
    to[2] = (uint8_t)(blue >> PRECISION);
  }
}

/* One row of output from `taps` rows that lie stride bytes apart. */
static void down(const int32_t *w, int taps, const uint8_t *from, size_t stride, size_t bytes, uint8_t *to) {
  enum { PART = 64 };
  for (size_t x = 0; x < bytes; x += PART) {
    int32_t sum[PART];
    size_t n = bytes - x < PART ? bytes - x : PART;
    for (size_t i = 0; i < PART; i++) sum[i] = HALF;
    for (int k = 0; k < taps; k++) {
      const uint8_t *p = from + (size_t)k * stride + x; /* rows have slack */
      for (size_t i = 0; i < PART; i++) sum[i] += p[i] * w[k];
    }
    for (size_t i = 0; i < n; i++) to[x + i] = (uint8_t)(sum[i] >> PRECISION);
  }
}

#if defined __x86_64__
#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline, target("avx2")))
INLINE __m256i widen(const uint8_t *p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

/* Eight lanes are two taps of a pixel. Four bytes are written for three: the next pixel, or the row's slack, takes the
 * fourth. */
INLINE void across_pairs(const ij_axis *a, int pairs, const uint8_t *row, uint8_t *to) {
  const __m128i half = _mm_set1_epi32(HALF), low_bytes = _mm_set1_epi32(0x0c080400);
  const __m256i *w = (const __m256i *)(const void *)a->pair;
  const int *first = a->first;
  for (int i = 0, n = a->n; i < n; i++, w += pairs, to += 3) {
    const uint8_t *from = row + 4 * (size_t)first[i];
    __m256i sum = _mm256_mullo_epi32(widen(from), w[0]);
    for (int k = 1; k < pairs; k++) sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(widen(from + 8 * (size_t)k), w[k]));
    __m128i v = _mm_add_epi32(_mm_add_epi32(_mm256_castsi256_si128(sum), half), _mm256_extracti128_si256(sum, 1));
    int bytes = _mm_cvtsi128_si32(_mm_shuffle_epi8(_mm_srli_epi32(v, PRECISION), low_bytes));
    memcpy(to, &bytes, 4);
  }
}
AVX2 static void across_avx2(const ij_axis *a, const uint8_t *row, uint8_t *to) {
  int pairs = (a->taps + 1) / 2;
  if (pairs == 1) across_pairs(a, 1, row, to);
  else if (pairs == 2) across_pairs(a, 2, row, to);
  else if (pairs == 3) across_pairs(a, 3, row, to);
  else across_pairs(a, pairs, row, to);
}

/* Sixteen bytes at a time: two sums of eight lanes. */
INLINE void down_taps(const int32_t *w, int taps, const uint8_t *from, size_t stride, size_t bytes, uint8_t *to) {
  for (size_t x = 0; x < bytes; x += 16) {
    __m256i a = _mm256_set1_epi32(HALF), b = a;
    for (int k = 0; k < taps; k++) {
      const uint8_t *p = from + (size_t)k * stride + x;
      __m256i weight = _mm256_set1_epi32(w[k]);
      a = _mm256_add_epi32(a, _mm256_mullo_epi32(widen(p), weight));
      b = _mm256_add_epi32(b, _mm256_mullo_epi32(widen(p + 8), weight));
    }
    a = _mm256_packus_epi32(_mm256_srli_epi32(a, PRECISION), _mm256_srli_epi32(b, PRECISION));
    a = _mm256_permute4x64_epi64(a, 0xd8);
    __m128i v = _mm_packus_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    if (x + 16 <= bytes) _mm_storeu_si128((__m128i *)(void *)(to + x), v);
    else memcpy(to + x, &v, bytes - x);
  }
}
AVX2 static void down_avx2(const int32_t *w, int taps, const uint8_t *from, size_t stride, size_t bytes, uint8_t *to) {
  if (taps == 2) down_taps(w, 2, from, stride, bytes, to);
  else if (taps == 3) down_taps(w, 3, from, stride, bytes, to);
  else if (taps == 4) down_taps(w, 4, from, stride, bytes, to);
  else down_taps(w, taps, from, stride, bytes, to);
}
#define HAS_AVX2() __builtin_cpu_supports("avx2")
#else
#define across_avx2 across
#define down_avx2 down
#define HAS_AVX2() 0
#endif

static void resizer_row(ij_resizer *r, const uint8_t *row) {
  uint8_t *to = (uint8_t *)r->mid.p + (size_t)r->rows++ * r->stride;
  if (HAS_AVX2()) across_avx2(&r->across, row, to);
  else across(&r->across, row, to);
}

static void resizer_end(ij_resizer *r, uint8_t *out) {
  const ij_axis *a = &r->down;
  int rows = a->hi - a->lo;
  size_t bytes = (size_t)r->across.n * 3;
  const int32_t *w = a->weight;
  for (int i = 0; i < a->n; i++, w += a->taps, out += bytes) {
    int taps = a->taps < rows - a->first[i] ? a->taps : rows - a->first[i];
    const uint8_t *from = (const uint8_t *)r->mid.p + (size_t)a->first[i] * r->stride;
    if (HAS_AVX2()) down_avx2(w, taps, from, r->stride, bytes, out);
    else down(w, taps, from, r->stride, bytes, out);
  }
}

/* ---- several windows ---- */
static ij_status resizers_reserve(ij_windows *w, int count) {
  if (count <= w->cap) return IJ_OK;
  ij_resizer *more = ij_realloc(w->resizer, (size_t)count * sizeof *more);
  if (!more) return IJ_ENOMEM;
  memset(more + w->cap, 0, (size_t)(count - w->cap) * sizeof *more);
  w->resizer = more;
  w->cap = count;
  return IJ_OK;
}

ij_status ij_windows_begin(ij_windows *w, int count, const ij_window *win) {
  int bottom = 0, right = 0;
  IJ_TRY(resizers_reserve(w, count));
  w->count = count;
  w->rows = w->taps = 0;
  for (int i = 0; i < count; i++) {
    ij_resizer *r = &w->resizer[i];
    IJ_TRY(resizer_begin(r, &win[i]));
    r->top = win[i].top + r->down.lo;
    r->left = win[i].left + r->across.lo;
    int end = win[i].top + r->down.hi, edge = win[i].left + r->across.hi;
    if (i == 0 || r->top < w->box.top) w->box.top = r->top;
    if (i == 0 || r->left < w->box.left) w->box.left = r->left;
    if (end > bottom) bottom = end;
    if (edge > right) right = edge;
    if (r->across.taps > w->taps) w->taps = r->across.taps;
  }
  w->box.h = bottom - w->box.top;
  w->box.w = right - w->box.left;
  for (int i = 0; i < count; i++) {
    w->resizer[i].top -= w->box.top;
    w->resizer[i].left -= w->box.left;
  }
  return ij_buffer_reserve(&w->row, ((size_t)w->box.w + (size_t)w->taps + 1) * 4 + IJ_ROW_SLACK);
}

void ij_windows_row(ij_windows *w, const uint8_t *row) {
  int y = w->rows++;
  for (int i = 0; i < w->count; i++) {
    ij_resizer *r = &w->resizer[i];
    if (y >= r->top && r->rows < r->down.hi - r->down.lo) resizer_row(r, row + 4 * (size_t)r->left);
  }
}

void ij_windows_end(ij_windows *w, uint8_t *const *out) {
  for (int i = 0; i < w->count; i++) resizer_end(&w->resizer[i], out[i]);
}

void ij_windows_free(ij_windows *w) {
  for (int i = 0; i < w->cap; i++) resizer_free(&w->resizer[i]);
  ij_free(w->resizer);
  ij_buffer_free(&w->row);
}
