/* What happens to queries and keys between their linear layer and attention: bias, layer norm, rotation. */
#include "../ref.h"
#include <math.h>

/* Row and column of token n of sequence b; false: it has no place. */
static int place(ij_dim N, ij_dim K, ij_dim W, const int32_t *pos, ij_dim b, ij_dim n, ij_dim *row, ij_dim *column) {
  ij_dim k = n - (N - K);
  if (k < 0) return 0;
  ij_dim p = pos ? pos[b * K + k] : k;
  *row = p / W;
  *column = p % W;
  return 1;
}

/* u (S) turns; back: the other way. */
static void rotate(ij_dim S, const float *rope, ij_dim row, ij_dim column, int back, double *u) {
  ij_dim quarter = S / 4;
  for (ij_dim i = 0; i < 2 * quarter; i++) {
    const float *t = rope + (i < quarter ? row : column) * 2 * quarter;
    double c = t[i % quarter], s = t[quarter + i % quarter], a = u[i], b = u[i + 2 * quarter];
    if (back) s = -s;
    u[i] = a * c - b * s;
    u[i + 2 * quarter] = a * s + b * c;
  }
}

/* n (S) = u, normalised; returns 1 / standard deviation */
static double normalise(ij_dim S, double eps, const double *u, double *n) {
  double mean = 0, var = 0;
  for (ij_dim i = 0; i < S; i++) mean += u[i] / (double)S;
  for (ij_dim i = 0; i < S; i++) var += (u[i] - mean) * (u[i] - mean) / (double)S;
  double rstd = 1 / sqrt(var + eps);
  for (ij_dim i = 0; i < S; i++) n[i] = (u[i] - mean) * rstd;
  return rstd;
}

ij_status ij_ref_heads_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W,
                           float eps, const void *qkv, const float *bias, const float *norm, const float *rope,
                           const int32_t *pos, void *out) {
  double *u = ij_ref_sums(q, 0, S);
  if (!u) return IJ_ENOMEM;
  for (ij_dim r = 0; r < B * N; r++)
    for (ij_dim h = 0; h < 3 * A; h++) {
      ij_dim at = (r * 3 * A + h) * S, part = h / A, row, column;
      for (ij_dim i = 0; i < S; i++) u[i] = (double)ij_ref_get(dt, qkv, at + i) + (bias ? bias[h * S + i] : 0);
      if (norm && part < 2) {
        normalise(S, eps, u, u);
        for (ij_dim i = 0; i < S; i++) u[i] = u[i] * norm[2 * part * S + i] + norm[(2 * part + 1) * S + i];
      }
      if (rope && part < 2 && place(N, K, W, pos, r / N, r % N, &row, &column)) rotate(S, rope, row, column, 0, u);
      for (ij_dim i = 0; i < S; i++) ij_ref_set(dt, out, at + i, u[i]);
    }
  return IJ_OK;
}

ij_status ij_ref_heads_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W,
                           float eps, const void *qkv, const float *bias, const float *norm, const float *rope,
                           const int32_t *pos, const void *dout, void *dqkv, float *dbias, float *dnorm) {
  double *g = ij_ref_sums(q, 0, S), *n = ij_ref_sums(q, 1, S), *sum = ij_ref_sums(q, 2, 3 * A * S),
         *norms = ij_ref_sums(q, 3, 4 * S);
  if (!g || !n || !sum || !norms) return IJ_ENOMEM;
  for (ij_dim r = 0; r < B * N; r++)
    for (ij_dim h = 0; h < 3 * A; h++) {
      ij_dim at = (r * 3 * A + h) * S, part = h / A, row, column;
      for (ij_dim i = 0; i < S; i++) g[i] = ij_ref_get(dt, dout, at + i);
      if (rope && part < 2 && place(N, K, W, pos, r / N, r % N, &row, &column)) rotate(S, rope, row, column, 1, g);
      if (norm && part < 2) {
        const float *w = norm + 2 * part * S;
        double *sums = norms + 2 * part * S, mean = 0, along = 0;
        for (ij_dim i = 0; i < S; i++) n[i] = (double)ij_ref_get(dt, qkv, at + i) + (bias ? bias[h * S + i] : 0);
        double rstd = normalise(S, eps, n, n);
        for (ij_dim i = 0; i < S; i++) {
          sums[i] += g[i] * n[i];
          sums[S + i] += g[i];
          g[i] *= w[i];
          mean += g[i] / (double)S;
          along += g[i] * n[i] / (double)S;
        }
        for (ij_dim i = 0; i < S; i++) g[i] = rstd * (g[i] - mean - n[i] * along);
      }
      for (ij_dim i = 0; i < S; i++) {
        sum[h * S + i] += g[i];
        ij_ref_set(dt, dqkv, at + i, g[i]);
      }
    }
  for (ij_dim i = 0; dbias && i < 3 * A * S; i++) dbias[i] = (float)(dbias[i] + sum[i]);
  for (ij_dim i = 0; dnorm && i < 4 * S; i++) dnorm[i] = (float)(dnorm[i] + norms[i]);
  return IJ_OK;
}
