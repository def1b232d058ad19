/* Elements at positions along an axis, and sums at such positions. */
#include "../sort/cuda.h"
#include "../whole.h"

template <class T>
static __global__ void take_all(ij_dim P, ij_dim R, ij_dim N, ij_dim Q, ij_dim shared, const T *x, const int32_t *index,
                                T *y) {
  for (ij_dim i = ij_at(); i < P * R * Q; i += ij_step()) {
    ij_dim t = i / Q % R, p = i / (R * Q);
    y[i] = x[(p * N + index[shared ? t : i]) * Q + i % Q];
  }
}
template <class T>
static void take_as(ij_queue *q, ij_dim P, ij_dim R, ij_dim N, ij_dim Q, ij_dim shared, const void *x,
                    const int32_t *index, void *y) {
  LAUNCH(take_all<T>, ij_fill_blocks(q, P * R * Q), IJ_BLOCK, 0, ij_cuda_of(q)->stream, P, R, N, Q, shared,
         (const T *)x, index, (T *)y);
}
ij_status ij_cuda_take(ij_queue *q, ij_dim size, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared, const void *x,
                       const int32_t *index, void *y) {
  if (P * T * Q == 0) return IJ_OK;
  if (size == 1) take_as<uint8_t>(q, P, T, N, Q, shared, x, index, y);
  else if (size == 4) take_as<uint32_t>(q, P, T, N, Q, shared, x, index, y);
  else take_as<uint64_t>(q, P, T, N, Q, shared, x, index, y);
  return ij_cuda_launched("take");
}

/* ---- sums: of each (p, q) in the order of T, by a thread; or, with positions in order, of each element of y ---- */
template <class T> __device__ static T plus(T a, T b) {
  if constexpr (std::is_same_v<T, float>) return a + b;
  else return (T)ij_whole_add(a, b);
}
template <class T>
static __global__ void add_columns(ij_dim P, ij_dim R, ij_dim N, ij_dim Q, ij_dim shared, const T *x,
                                   const int32_t *index, T *y) {
  for (ij_dim w = ij_at(); w < P * Q; w += ij_step()) {
    ij_dim p = w / Q, j = w % Q;
    for (ij_dim t = 0; t < R; t++) {
      ij_dim i = (p * R + t) * Q + j;
      T *to = y + (p * N + index[shared ? t : i]) * Q + j;
      *to = plus(*to, x[i]);
    }
  }
}
/* order: of index (P or, shared, 1; R), whose rows say for each element of y which of x go there */
template <class T>
static __global__ void add_ordered(ij_dim P, ij_dim R, ij_dim N, ij_dim Q, ij_dim shared, const T *x,
                                   const int32_t *index, const int32_t *order, T *y) {
  for (ij_dim w = ij_at(); w < P * N * Q; w += ij_step()) {
    ij_dim j = w % Q, k = w / Q % N, p = w / (N * Q), row = shared ? 0 : p * R, low = 0, high = R;
    while (low < high) {
      ij_dim half = (low + high) / 2;
      if (index[row + order[row + half]] < k) low = half + 1;
      else high = half;
    }
    T sum = y[w];
    for (; low < R && index[row + order[row + low]] == k; low++) sum = plus(sum, x[(p * R + order[row + low]) * Q + j]);
    y[w] = sum;
  }
}
template <class T>
static void add_as(ij_queue *q, ij_dim P, ij_dim R, ij_dim N, ij_dim Q, ij_dim shared, const void *from,
                   const int32_t *index, const int32_t *order, void *to) {
  const T *x = (const T *)from;
  T *y = (T *)to;
  cudaStream_t stream = ij_cuda_of(q)->stream;
  if (order)
    LAUNCH(add_ordered<T>, ij_fill_blocks(q, P * N * Q), IJ_BLOCK, 0, stream, P, R, N, Q, shared, x, index, order, y);
  else LAUNCH(add_columns<T>, ij_fill_blocks(q, P * Q), IJ_BLOCK, 0, stream, P, R, N, Q, shared, x, index, y);
}
ij_status ij_cuda_scatter_add(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared,
                              const void *x, const int32_t *index, void *y) {
  if (P * T * Q == 0) return IJ_OK;
  int32_t *order = NULL;
  if (ij_scatter_orders(P, T, Q, shared)) {
    ij_dim rows = shared ? 1 : P;
    int32_t *buffer = (int32_t *)ij_cuda_scratch(q, 0, 2 * ij_sort_scratch(rows, T));
    if (!buffer) return IJ_ENOMEM;
    order = ij_cuda_order(q, IJ_I32, rows, T, false, index, buffer, buffer + rows * T);
  }
  if (dt == IJ_F32) add_as<float>(q, P, T, N, Q, shared, x, index, order, y);
  else if (dt == IJ_I32) add_as<int32_t>(q, P, T, N, Q, shared, x, index, order, y);
  else if (dt == IJ_I64) add_as<int64_t>(q, P, T, N, Q, shared, x, index, order, y);
  else add_as<uint8_t>(q, P, T, N, Q, shared, x, index, order, y);
  return ij_cuda_launched("scatter_add");
}
