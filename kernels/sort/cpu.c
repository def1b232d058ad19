/* Rows in order: of f32 and i32 by radix, on keys that order as unsigned numbers; others by merging. */
#include "../cpu/rows.h"
#include "../ref.h"

enum { DIGITS = 2048, BITS = 11, PASSES = 3 };
typedef struct item {
  uint32_t key;
  int32_t at;
} item;

/* NaN last, equal zeros equal; descending turns all but NaN around */
static uint32_t key_of(ij_dtype dt, bool descending, const void *x, ij_dim i) {
  if (dt == IJ_I32) {
    uint32_t u = (uint32_t)((const int32_t *)x)[i] ^ 0x80000000u;
    return descending ? ~u : u;
  }
  float v = ((const float *)x)[i];
  if (v != v) return 0xffffffffu;
  uint32_t u;
  v += 0.0f;
  memcpy(&u, &v, sizeof u);
  if (u == 0x80000000u) u = 0; /* -0 */
  u = u & 0x80000000u ? ~u : u | 0x80000000u;
  return descending ? ~u : u;
}
static void by_radix(ij_dim n, item *a, item *b) { /* the result is in b: an odd number of passes */
  static const int shift[PASSES] = {0, BITS, 2 * BITS};
  for (int pass = 0; pass < PASSES; pass++) {
    ij_dim start[DIGITS] = {0}, sum = 0;
    for (ij_dim i = 0; i < n; i++) start[a[i].key >> shift[pass] & (DIGITS - 1)]++;
    for (int d = 0; d < DIGITS; d++) {
      ij_dim count = start[d];
      start[d] = sum;
      sum += count;
    }
    for (ij_dim i = 0; i < n; i++) b[start[a[i].key >> shift[pass] & (DIGITS - 1)]++] = a[i];
    item *other = a;
    a = b;
    b = other;
  }
}
/* Short rows: by insertion; the result is in b too. */
static void by_insertion(ij_dim n, const item *a, item *b) {
  for (ij_dim i = 0; i < n; i++) {
    ij_dim j = i;
    for (; j > 0 && b[j - 1].key > a[i].key; j--) b[j] = b[j - 1];
    b[j] = a[i];
  }
}
/* Rows up to some hundred: runs of 16 by insertion, then merged; the result is in b. */
static void by_merging(ij_dim n, item *a, item *b) {
  enum { RUN = 16 };
  item *from = b, *to = a;
  for (ij_dim i = 0; i < n; i += RUN) by_insertion(n - i < RUN ? n - i : RUN, a + i, b + i);
  for (ij_dim width = RUN; width < n; width *= 2) {
    for (ij_dim i = 0; i < n; i += 2 * width) {
      ij_dim middle = i + width < n ? i + width : n, end = i + 2 * width < n ? i + 2 * width : n, l = i, r = middle;
      for (ij_dim k = i; k < end; k++) {
        bool second = l == middle || (r < end && from[r].key < from[l].key);
        to[k] = second ? from[r++] : from[l++];
      }
    }
    item *other = from;
    from = to;
    to = other;
  }
  if (from != b) memcpy(b, from, (size_t)n * sizeof *b);
}

ij_status IJ_CPU(sort)(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, int descending, const void *x, void *v,
                       int32_t *index) {
  if (dt != IJ_F32 && dt != IJ_I32) return ij_ref_sort(q, dt, R, n, descending, x, v, index);
  enum { MERGED = 2048 };
  int threads = R * n < SMALL ? 1 : omp_get_max_threads();
  if (threads > R) threads = R ? (int)R : 1;
  item *items = ij_queue_scratch(q, 0, 2 * (size_t)(threads * n + 1) * sizeof *items); /* (threads, 2, n) */
  if (!items) return IJ_ENOMEM;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; t++) {
    item *a = items + 2 * t * n, *b = a + n;
    ij_dim from, to;
    share(R, t, threads, &from, &to);
    for (ij_dim r = from; r < to; r++) {
      for (ij_dim i = 0; i < n; i++) a[i] = (item){key_of(dt, descending, x, r * n + i), (int32_t)i};
      if (n <= MERGED) by_merging(n, a, b);
      else by_radix(n, a, b);
      for (ij_dim i = 0; i < n; i++) {
        index[r * n + i] = b[i].at;
        memcpy((char *)v + 4 * (r * n + i), (const char *)x + 4 * (r * n + b[i].at), 4);
      }
    }
  }
  return IJ_OK;
}
