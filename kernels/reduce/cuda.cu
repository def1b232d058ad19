/* Sums along an axis, the largest ones of a row, and the check of gradients. */
#include "../cuda/rows.h"

enum { PACK = 4, COLUMNS = 32, ROWS = 8 };
constexpr ij_dim RUN = IJ_SUM_RUN, CHUNK = IJ_SUM_CHUNK;

/* ---- sums: of runs of a row, or of chunks of rows, again and again until one is left ---- */
/* y (P, runs) (+)= scale * sums of runs of x: P rows of n, `stride` apart; a warp a run */
template <int V>
static __global__ void sum_runs(ij_dim P, ij_dim n, ij_dim runs, ij_dim stride, float scale, bool add, const float *x,
                                float *y) {
  for (ij_dim w = ij_group_row<1>(); w < P * runs; w += ij_group_step<1>()) {
    ij_dim from = w % runs * RUN, count = n - from < RUN ? n - from : RUN;
    const float *run = x + w / runs * stride + from;
    float sum = 0;
    for (ij_dim c = threadIdx.x % 32; c < count / V; c += 32) {
      ij_pack<float, V> a = ij_load<V>(run, c * V);
      for (int j = 0; j < V; j++) sum += a.v[j];
    }
    sum = scale * ij_warp_sum(sum);
    if (threadIdx.x % 32 == 0) y[w] = add ? y[w] + sum : sum;
  }
}

/* y (P, chunks, Q) (+)= scale * sums of chunks of rows of x: P pieces (n, Q), `stride` apart */
static __global__ void sum_chunks(ij_dim P, ij_dim n, ij_dim Q, ij_dim chunks, ij_dim stride, float scale, bool add,
                                  const float *x, float *y) {
  SHARED_ARRAY(float, part, [ROWS][COLUMNS]);
  ij_dim across = (Q + COLUMNS - 1) / COLUMNS;
  for (ij_dim w = blockIdx.x; w < P * chunks * across; w += gridDim.x) {
    ij_dim j = w % across * COLUMNS + threadIdx.x, k = w / across, from = k % chunks * CHUNK;
    ij_dim to = j >= Q ? 0 : n - from < CHUNK ? n : from + CHUNK;
    const float *column = x + k / chunks * stride + j;
    float sum = 0;
    for (ij_dim i = from + threadIdx.y; i < to; i += ROWS) sum += column[i * Q];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && j < Q) {
      for (int i = 1; i < ROWS; i++) sum += part[i][threadIdx.x];
      y[k * Q + j] = add ? y[k * Q + j] + scale * sum : scale * sum;
    }
    __syncthreads();
  }
}

static void sum_stage(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, ij_dim parts, ij_dim stride, float scale, bool add,
                      const float *x, float *y) {
  cudaStream_t stream = ij_cuda_of(q)->stream;
  if (Q == 1) {
    auto kernel = ij_packs<PACK>(n, x) && (P == 1 || stride % PACK == 0) ? sum_runs<PACK> : sum_runs<1>;
    LAUNCH(kernel, ij_group_blocks(P * parts, false), IJ_BLOCK, 0, stream, P, n, parts, stride, scale, add, x, y);
  } else {
    unsigned blocks = ij_blocks(P * parts * ((Q + COLUMNS - 1) / COLUMNS), 1, IJ_MOST_BLOCKS);
    LAUNCH(sum_chunks, blocks, dim3(COLUMNS, ROWS), 0, stream, P, n, Q, parts, stride, scale, add, x, y);
  }
}

ij_status ij_cuda_sum(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, ij_dim stride, float scale, bool add, const float *x,
                      float *y) {
  if (P * Q == 0) return IJ_OK;
  ij_dim parts = ij_sum_parts(n, Q);
  for (int slot = 0; parts > 1; slot ^= 1, n = parts, stride = n * Q, parts = ij_sum_parts(n, Q)) {
    float *part = (float *)ij_cuda_scratch(q, slot, ij_sum_scratch(P, parts, Q)); /* (P, parts, Q) */
    if (!part) return IJ_ENOMEM;
    sum_stage(q, P, n, Q, parts, stride, 1, false, x, part);
    x = part;
  }
  sum_stage(q, P, n, Q, 1, stride, scale, add, x, y);
  return ij_cuda_launched("sum");
}

ij_status ij_cuda_sum_fwd(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y) {
  return ij_cuda_sum(q, P, n, Q, n * Q, scale, false, x, y);
}

template <int V> static __global__ void spread(ij_dim P, ij_dim n, ij_dim Q, float scale, const float *dy, float *dx) {
  for (ij_dim r = ij_row(); r < P * n; r += ij_row_step())
    for (ij_dim c = ij_column(); c < Q / V; c += ij_column_step()) {
      ij_pack<float, V> a = ij_load<V>(dy, r / n * Q + c * V);
      for (int j = 0; j < V; j++) a.v[j] *= scale;
      ij_store<V>(dx, r * Q + c * V, a);
    }
}
ij_status ij_cuda_sum_bwd(ij_queue *q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *dy, float *dx) {
  if (P * n * Q == 0) return IJ_OK;
  bool pack = ij_packs<PACK>(Q, dy, dx);
  ij_grid g = ij_rows_grid(P * n, pack ? Q / PACK : Q);
  auto sum_bwd = pack ? spread<PACK> : spread<1>;
  LAUNCH(sum_bwd, g.blocks, g.threads, 0, ij_cuda_of(q)->stream, P, n, Q, scale, dy, dx);
  return ij_cuda_launched("sum_bwd");
}

/* ---- the largest ---- */
namespace {
struct Candidate {
  float rank; /* its value; -infinity for NaN */
  int at;     /* in its row; NOBODY: none yet */
};
} // namespace
enum { NOBODY = INT32_MAX };

__device__ static bool before(Candidate a, Candidate b) { return a.rank > b.rank || (a.rank == b.rank && a.at < b.at); }
__device__ static Candidate candidate(const float *row, ij_dim i) {
  return {isnan(row[i]) ? -INFINITY : row[i], (int)i};
}
__device__ static Candidate of_lane(Candidate c, int lane) {
  c.rank = __shfl_sync(0xffffffffu, c.rank, lane);
  c.at = __shfl_sync(0xffffffffu, c.at, lane);
  return c;
}

/* Each lane of a warp holds one of the 32 first so far, in order, of which `kept` are wanted, and offers one: few of
 * a long row get in. */
__device__ static void offer(Candidate *held, Candidate mine, int kept) {
  int lane = (int)threadIdx.x % 32;
  Candidate last = of_lane(*held, kept - 1);
  unsigned waiting = __ballot_sync(0xffffffffu, before(mine, last));
  for (; waiting; waiting &= waiting - 1) {
    Candidate c = of_lane(mine, __ffs((int)waiting) - 1);
    int position = __popc(__ballot_sync(0xffffffffu, before(*held, c)));
    Candidate ahead = of_lane(*held, lane ? lane - 1 : 0);
    if (lane > position) *held = ahead;
    if (lane == position) *held = c;
  }
}

/* 32 a pass: those that come behind the last of the pass before */
template <int W>
static __global__ void topk_rows(ij_dim R, ij_dim n, ij_dim k, const float *x, float *v, int32_t *index) {
  enum { AHEAD = 4 }; /* loads on their way */
  SHARED_ARRAY(Candidate, part, [IJ_WARPS][32]);
  int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % W;
  for (ij_dim r = ij_group_row<W>(); r < R; r += ij_group_step<W>()) {
    const float *row = x + r * n;
    Candidate limit = {INFINITY, -1};
    for (ij_dim done = 0; done < k; done += 32) {
      int kept = k - done < 32 ? (int)(k - done) : 32;
      Candidate held = {-INFINITY, NOBODY}, next[AHEAD];
      for (ij_dim i = warp * 32 + lane; i - lane < n; i += 32 * W * AHEAD) {
        for (int a = 0; a < AHEAD; a++) {
          ij_dim at = i + 32 * W * a;
          next[a] = at < n ? candidate(row, at) : Candidate{-INFINITY, NOBODY};
        }
        for (int a = 0; a < AHEAD; a++)
          offer(&held, before(limit, next[a]) ? next[a] : Candidate{-INFINITY, NOBODY}, kept);
      }
      if (W > 1) { /* every warp merges all lists */
        part[warp][lane] = held;
        __syncthreads();
        held = {-INFINITY, NOBODY};
        for (int w = 0; w < W; w++) offer(&held, part[w][lane], kept);
        __syncthreads();
      }
      if (warp == 0 && lane < kept) {
        v[r * k + done + lane] = row[held.at];
        index[r * k + done + lane] = held.at;
      }
      limit = of_lane(held, 31);
    }
  }
}
ij_status ij_cuda_topk(ij_queue *q, ij_dim R, ij_dim n, ij_dim k, const float *x, float *v, int32_t *index) {
  if (R == 0) return IJ_OK;
  bool wide = ij_wide(n);
  auto topk = wide ? topk_rows<IJ_WARPS> : topk_rows<1>;
  LAUNCH(topk, ij_group_blocks(R, wide), IJ_BLOCK, 0, ij_cuda_of(q)->stream, R, n, k, x, v, index);
  return ij_cuda_launched("topk");
}

/* ---- the check of gradients ---- */
__device__ static void square(float x, double *sum, double *wrong) {
  *sum += (double)x * (double)x;
  *wrong += !isfinite(x);
}
/* part (2, blocks): sums, counts */
static __global__ void square_parts(ij_dim n, ij_dim packs, const float *x, double *part) {
  double sum = 0, wrong = 0;
  for (ij_dim i = ij_at(); i < packs; i += ij_step()) {
    ij_pack<float, PACK> a = ij_load<PACK>(x, i * PACK);
    for (int j = 0; j < PACK; j++) square(a.v[j], &sum, &wrong);
  }
  for (ij_dim i = packs * PACK + ij_at(); i < n; i += ij_step()) square(x[i], &sum, &wrong);
  sum = ij_block_sum(sum);
  wrong = ij_block_sum(wrong);
  if (threadIdx.x == 0) part[blockIdx.x] = sum, part[gridDim.x + blockIdx.x] = wrong;
}
static __global__ void square_finish(int parts, const double *part, double *out) {
  double sum = 0, wrong = 0;
  for (int i = (int)threadIdx.x; i < parts; i += IJ_BLOCK) sum += part[i], wrong += part[parts + i];
  sum = ij_block_sum(sum);
  wrong = ij_block_sum(wrong);
  if (threadIdx.x == 0) out[0] += sum, out[1] += wrong;
}
ij_status ij_cuda_sum_squares(ij_queue *q, ij_dim n, const float *x, double *out) {
  if (n == 0) return IJ_OK;
  unsigned blocks = ij_blocks(n, (ij_dim)IJ_BLOCK * PACK, IJ_SQUARE_PARTS);
  double *part = (double *)ij_cuda_scratch(q, 0, ij_sum_squares_scratch()); /* (2, blocks) */
  if (!part) return IJ_ENOMEM;
  ij_dim packs = ij_packs<PACK>(0, x) ? n / PACK : 0;
  LAUNCH(square_parts, blocks, IJ_BLOCK, 0, ij_cuda_of(q)->stream, n, packs, x, part);
  LAUNCH(square_finish, 1, IJ_BLOCK, 0, ij_cuda_of(q)->stream, (int)blocks, part, out);
  return ij_cuda_launched("sum_squares");
}
