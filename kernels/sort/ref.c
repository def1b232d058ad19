/* Rows in order, by merging. */
#include "../ref.h"
#include <string.h>

/* Whether element i of x comes strictly before element j. A NaN comes before nothing. */
static bool before(ij_dtype dt, bool descending, const void *x, ij_dim i, ij_dim j) {
  if (dt == IJ_F32) {
    float a = ij_ref_get(dt, x, i), b = ij_ref_get(dt, x, j);
    if (a != a || b != b) return a == a && b != b;
    return descending ? a > b : a < b;
  }
  int64_t a = ij_ref_whole(dt, x, i), b = ij_ref_whole(dt, x, j);
  return descending ? a > b : a < b;
}

static void sort_row(ij_dtype dt, bool descending, ij_dim n, const void *x, ij_dim row, int32_t *index,
                     int32_t *other) {
  for (ij_dim i = 0; i < n; i++) index[i] = (int32_t)i;
  for (ij_dim width = 1; width < n; width *= 2) {
    for (ij_dim from = 0; from < n; from += 2 * width) {
      ij_dim middle = from + width < n ? from + width : n, to = from + 2 * width < n ? from + 2 * width : n;
      ij_dim a = from, b = middle;
      for (ij_dim k = from; k < to; k++) {
        bool second = a == middle || (b < to && before(dt, descending, x, row + index[b], row + index[a]));
        other[k] = second ? index[b++] : index[a++];
      }
    }
    memcpy(index, other, (size_t)n * sizeof *index);
  }
}

ij_status ij_ref_sort(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, int descending, const void *x, void *v,
                      int32_t *index) {
  int32_t *other = ij_queue_scratch(q, 0, (size_t)(n ? n : 1) * sizeof *other);
  if (!other) return IJ_ENOMEM;
  for (ij_dim r = 0; r < R; r++) {
    int32_t *order = index + r * n;
    sort_row(dt, descending, n, x, r * n, order, other);
    for (ij_dim i = 0; i < n; i++) {
      ij_dim to = r * n + i, from = r * n + order[i];
      if (dt == IJ_F32) ((float *)v)[to] = ((const float *)x)[from];
      else ij_ref_set_whole(dt, v, to, ij_ref_whole(dt, x, from));
    }
  }
  return IJ_OK;
}
