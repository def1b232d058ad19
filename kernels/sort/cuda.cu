/* Rows in order, by merging neighbours: each element finds its position in the merged run by a search in the other. */
#include "cuda.h"

template <class T> __device__ static bool before(bool descending, T a, T b) {
  if (a != a || b != b) return a == a && b != b; /* NaN last */
  return descending ? a > b : a < b;
}

static __global__ void positions(ij_dim R, ij_dim n, int32_t *order) {
  for (ij_dim i = ij_at(); i < R * n; i += ij_step()) order[i] = (int32_t)(i % n);
}

/* Runs of `width` in a become runs of twice that in b. */
template <class T>
static __global__ void merge_runs(ij_dim R, ij_dim n, ij_dim width, ij_dim descending, const T *x, const int32_t *a,
                                  int32_t *b) {
  for (ij_dim w = ij_at(); w < R * n; w += ij_step()) {
    ij_dim i = w % n, row = w - i, first = i / (2 * width) * 2 * width, middle = first + width, end = middle + width;
    middle = middle < n ? middle : n;
    end = end < n ? end : n;
    bool left = i < middle;
    T own = x[row + a[w]];
    ij_dim low = left ? middle : first, high = left ? end : middle, start = low;
    while (low < high) { /* what of the other run comes first: of equal ones, those of the left run */
      ij_dim half = (low + high) / 2;
      T other = x[row + a[row + half]];
      bool ahead = left ? before(descending != 0, other, own) : !before(descending != 0, own, other);
      if (ahead) low = half + 1;
      else high = half;
    }
    b[row + first + (i - (left ? first : middle)) + (low - start)] = a[w];
  }
}

template <class T>
static int32_t *order_as(ij_queue *q, ij_dim R, ij_dim n, bool descending, const void *x, int32_t *a, int32_t *b) {
  cudaStream_t stream = ij_cuda_of(q)->stream;
  LAUNCH(positions, ij_fill_blocks(q, R * n), IJ_BLOCK, 0, stream, R, n, a);
  for (ij_dim width = 1; width < n; width *= 2) {
    LAUNCH(merge_runs<T>, ij_fill_blocks(q, R * n), IJ_BLOCK, 0, stream, R, n, width, (ij_dim)descending, (const T *)x,
           (const int32_t *)a, b);
    int32_t *done = b;
    b = a;
    a = done;
  }
  return a;
}
int32_t *ij_cuda_order(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, bool descending, const void *x, int32_t *a,
                       int32_t *b) {
  if (dt == IJ_F32) return order_as<float>(q, R, n, descending, x, a, b);
  if (dt == IJ_I32) return order_as<int32_t>(q, R, n, descending, x, a, b);
  if (dt == IJ_I64) return order_as<int64_t>(q, R, n, descending, x, a, b);
  return order_as<uint8_t>(q, R, n, descending, x, a, b);
}

template <class T> static __global__ void pick(ij_dim R, ij_dim n, const T *x, const int32_t *order, T *v) {
  for (ij_dim i = ij_at(); i < R * n; i += ij_step()) v[i] = x[i - i % n + order[i]];
}
template <class T> static void pick_as(ij_queue *q, ij_dim R, ij_dim n, const void *x, const int32_t *order, void *v) {
  LAUNCH(pick<T>, ij_fill_blocks(q, R * n), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, (const T *)x, order, (T *)v);
}
ij_status ij_cuda_sort(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim n, int descending, const void *x, void *v,
                       int32_t *index) {
  if (R * n == 0) return IJ_OK;
  int32_t *other = (int32_t *)ij_cuda_scratch(q, 0, ij_sort_scratch(R, n));
  if (!other) return IJ_ENOMEM;
  bool odd = false; /* after an odd number of passes the result is in the second buffer, which is index then */
  for (ij_dim width = 1; width < n; width *= 2) odd = !odd;
  ij_cuda_order(q, dt, R, n, descending != 0, x, odd ? other : index, odd ? index : other);
  if (dt == IJ_F32) pick_as<float>(q, R, n, x, index, v);
  else if (dt == IJ_I32) pick_as<int32_t>(q, R, n, x, index, v);
  else if (dt == IJ_I64) pick_as<int64_t>(q, R, n, x, index, v);
  else pick_as<uint8_t>(q, R, n, x, index, v);
  return ij_cuda_launched("sort");
}
