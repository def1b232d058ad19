/* resize.c: bilinear with antialias, as PIL computes it on 8-bit pictures: across first, rounded to 8 bits, then down;
 * weights in 22-bit fixed point. A picture is taken row by row. */
#include "data.h"
#include <math.h>
#include <string.h>

enum { PRECISION = 32 - 8 - 2 };

ij_status ij_room_get(ij_room *r, size_t bytes) {
  if (bytes <= r->size) return IJ_OK;
  size_t size = bytes + bytes / 4;
  ij_room_free(r);
  if (!(r->p = ij_alloc(size))) return IJ_ENOMEM;
  r->size = size;
  return IJ_OK;
}

void ij_room_free(ij_room *r) {
  ij_free(r->p);
  *r = (ij_room){0};
}

/* Outputs [from, from + n) of `full` outputs over a box of `len` inputs. */
static ij_status axis_make(ij_axis *a, int len, int full, int from, int n) {
  double scale = (double)len / full, wide = scale < 1 ? 1 : scale, inverse = 1 / wide;
  int most = 2 * (int)ceil(wide) + 1, taps = 1;
  size_t firsts = ((size_t)n * sizeof(int) + 63) / 64 * 64;
  IJ_TRY(ij_room_get(&a->room, firsts + (size_t)n * (size_t)most * sizeof(int32_t) + (size_t)most * sizeof(double)));
  a->first = a->room.p;
  a->weight = (int32_t *)(void *)((char *)a->room.p + firsts);
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

ij_status ij_resizer_begin(ij_resizer *r, const ij_window *win) {
  IJ_TRY(axis_make(&r->across, win->w, win->full_w, win->x, win->width));
  IJ_TRY(axis_make(&r->down, win->h, win->full_h, win->y, win->height));
  size_t in = (size_t)(r->across.hi - r->across.lo) + (size_t)r->across.taps;
  IJ_TRY(ij_room_get(&r->row, in * 4 + IJ_ROW_SLACK));
  IJ_TRY(ij_room_get(&r->mid, (size_t)(r->down.hi - r->down.lo) * (size_t)win->width * 4));
  r->rows = 0;
  return IJ_OK;
}

void ij_resizer_free(ij_resizer *r) {
  ij_room_free(&r->across.room);
  ij_room_free(&r->down.room);
  ij_room_free(&r->row);
  ij_room_free(&r->mid);
}

typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint8_t u8x4 __attribute__((vector_size(4)));

/* Weights that stand beyond the last pixel are 0, so what is read there doesn't matter: but it must be readable. */
void ij_resizer_row(ij_resizer *r, const uint8_t *row) {
  const ij_axis *a = &r->across;
  uint8_t *to = (uint8_t *)r->mid.p + (size_t)r->rows++ * (size_t)a->n * 4;
  const i32x4 half = {1 << (PRECISION - 1), 1 << (PRECISION - 1), 1 << (PRECISION - 1), 1 << (PRECISION - 1)};
  const int32_t *w = a->weight;
  for (int i = 0; i < a->n; i++, w += a->taps) {
    const uint8_t *from = row + 4 * (size_t)a->first[i];
    i32x4 sum = half;
    for (int k = 0; k < a->taps; k++) {
      u8x4 p;
      memcpy(&p, from + 4 * (size_t)k, 4);
      sum += __builtin_convertvector(p, i32x4) * w[k];
    }
    sum >>= PRECISION;
    u8x4 p = __builtin_convertvector(sum, u8x4);
    memcpy(to + 4 * (size_t)i, &p, 4);
  }
}

void ij_resizer_end(ij_resizer *r, uint8_t *out) {
  const ij_axis *a = &r->down;
  int width = r->across.n, rows = a->hi - a->lo;
  size_t stride = (size_t)width * 4;
  const int32_t *w = a->weight;
  for (int i = 0; i < a->n; i++, w += a->taps) {
    int taps = a->taps < rows - a->first[i] ? a->taps : rows - a->first[i];
    const uint8_t *from = (const uint8_t *)r->mid.p + (size_t)a->first[i] * stride;
    for (int x = 0; x < width; x++, out += 3)
      for (int c = 0; c < 3; c++) {
        int32_t sum = 1 << (PRECISION - 1);
        for (int k = 0; k < taps; k++) sum += from[(size_t)k * stride + 4 * (size_t)x + (size_t)c] * w[k];
        out[c] = (uint8_t)(sum >> PRECISION);
      }
  }
}
