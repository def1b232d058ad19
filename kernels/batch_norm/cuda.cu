/* Batch norm: a block takes some columns, all rows of them; sums in double, so that any number of rows will do. */
#include "../cuda/rows.h"

enum { COLUMNS = 32, ROWS = 16 };

/* Sum of v over the block's rows, for each of its columns */
__device__ static double column_sum(double v) {
  SHARED_ARRAY(double, part, [ROWS][COLUMNS]);
  __syncthreads(); /* those of the last sum have read it */
  part[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  v = 0;
  for (int i = 0; i < ROWS; i++) v += part[i][threadIdx.x];
  return v;
}

static __global__ void __launch_bounds__(COLUMNS *ROWS)
    fwd(ij_dim R, ij_dim D, int training, float eps, const float *x, float *m, float *s, float *y) {
  ij_dim d = (ij_dim)blockIdx.x * COLUMNS + threadIdx.x, rows = d < D ? R : 0; /* all threads meet in the sums */
  double mean = 0, var = 0;
  if (training) {
    double share = R ? 1 / (double)R : 0;
    for (ij_dim r = threadIdx.y; r < rows; r += ROWS) mean += x[r * D + d];
    mean = column_sum(mean) * share;
    for (ij_dim r = threadIdx.y; r < rows; r += ROWS) var += (x[r * D + d] - mean) * (x[r * D + d] - mean);
    var = column_sum(var) * share;
    if (d < D && threadIdx.y == 0) m[d] = (float)mean, s[d] = (float)var;
  } else if (d < D) {
    mean = m[d];
    var = s[d];
  }
  float centre = (float)mean, rstd = (float)(1 / sqrt(var + eps));
  for (ij_dim r = threadIdx.y; r < rows; r += ROWS) y[r * D + d] = (x[r * D + d] - centre) * rstd;
}

ij_status ij_cuda_batch_norm_fwd(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x, float *m,
                                 float *s, float *y) {
  if (D == 0) return IJ_OK;
  LAUNCH(fwd, (unsigned)((D + COLUMNS - 1) / COLUMNS), dim3(COLUMNS, ROWS), 0, ij_cuda_of(q)->stream, R, D, training,
         eps, x, m, s, y);
  return ij_cuda_launched("batch_norm_fwd");
}

static __global__ void __launch_bounds__(COLUMNS *ROWS)
    bwd(ij_dim R, ij_dim D, int training, float eps, const float *x, const float *m, const float *s, const float *dy,
        float *dx) {
  ij_dim d = (ij_dim)blockIdx.x * COLUMNS + threadIdx.x, rows = d < D ? R : 0;
  float mean = d < D ? m[d] : 0, rstd = d < D ? (float)(1 / sqrt((double)s[d] + eps)) : 0;
  double mean_g = 0, mean_gn = 0; /* of the gradient, and of it times the normalised x; given statistics: none */
  if (training) {
    for (ij_dim r = threadIdx.y; r < rows; r += ROWS) {
      double g = dy[r * D + d];
      mean_g += g;
      mean_gn += g * ((x[r * D + d] - mean) * rstd);
    }
    mean_g = column_sum(mean_g) / (double)(R ? R : 1);
    mean_gn = column_sum(mean_gn) / (double)(R ? R : 1);
  }
  float g0 = (float)mean_g, g1 = (float)mean_gn;
  for (ij_dim r = threadIdx.y; r < rows; r += ROWS) {
    float n = (x[r * D + d] - mean) * rstd;
    dx[r * D + d] = rstd * (dy[r * D + d] - g0 - n * g1);
  }
}

ij_status ij_cuda_batch_norm_bwd(ij_queue *q, ij_dim R, ij_dim D, int training, float eps, const float *x,
                                 const float *m, const float *s, const float *dy, float *dx) {
  if (R * D == 0) return IJ_OK;
  LAUNCH(bwd, (unsigned)((D + COLUMNS - 1) / COLUMNS), dim3(COLUMNS, ROWS), 0, ij_cuda_of(q)->stream, R, D, training,
         eps, x, m, s, dy, dx);
  return ij_cuda_launched("batch_norm_bwd");
}
