/* Softmax attention from packed queries, keys and values. */
#include "../ref.h"
#include <math.h>

typedef struct heads {
  ij_dtype dt;
  ij_dim N, A, S;
  const void *qkv;   /* (B, N, 3, A, S) [dt] */
  const float *bias; /* (3, A, S) or NULL */
} heads;

/* part (0 query, 1 key, 2 value) of one head of one image -> x (N, S), with its bias */
static void load_part(const heads *h, ij_dim b, int part, ij_dim a, float *x) {
  for (ij_dim n = 0; n < h->N; n++)
    for (ij_dim s = 0; s < h->S; s++) {
      float v = ij_ref_get(h->dt, h->qkv, (((b * h->N + n) * 3 + part) * h->A + a) * h->S + s);
      x[n * h->S + s] = v + (h->bias ? h->bias[(part * h->A + a) * h->S + s] : 0);
    }
}

static double dot(const float *x, const float *y, ij_dim n) {
  double sum = 0;
  for (ij_dim i = 0; i < n; i++) sum += (double)x[i] * y[i];
  return sum;
}

/* p (N): softmax of the scaled products of query (S) with all keys (N, S); returns the log of the sum of exponentials
 */
static double softmax(const float *query, const float *keys, ij_dim N, ij_dim S, double *p) {
  double top = -INFINITY, total = 0, scale = 1 / sqrt((double)S);
  for (ij_dim j = 0; j < N; j++) {
    p[j] = scale * dot(query, keys + j * S, S);
    if (p[j] > top) top = p[j];
  }
  for (ij_dim j = 0; j < N; j++) total += p[j] = exp(p[j] - top);
  for (ij_dim j = 0; j < N; j++) p[j] /= total;
  return top + log(total);
}

ij_status ij_ref_attention_fwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                               const void *qkv, const float *bias, void *out, float *lse) {
  heads h = {dt, N, A, S, qkv, bias};
  float *part = ij_queue_scratch(q, 0, (size_t)(3 * N * S + 1) * sizeof *part);
  double *p = ij_ref_sums(q, 1, N), *sum = ij_ref_sums(q, 2, S);
  if (!part || !p || !sum) return IJ_ENOMEM;
  float *qs = part, *ks = part + N * S, *vs = part + 2 * N * S; /* each (N, S) */
  for (ij_dim b = 0; b < B; b++)
    for (ij_dim a = 0; a < A; a++) {
      load_part(&h, b, 0, a, qs);
      load_part(&h, b, 1, a, ks);
      load_part(&h, b, 2, a, vs);
      for (ij_dim i = first_q; i < N; i++) {
        double log_sum = softmax(qs + i * S, ks, N, S, p);
        for (ij_dim s = 0; s < S; s++) sum[s] = 0;
        for (ij_dim j = 0; j < N; j++)
          for (ij_dim s = 0; s < S; s++) sum[s] += p[j] * vs[j * S + s];
        for (ij_dim s = 0; s < S; s++) ij_ref_set(dt, out, ((b * N + i) * A + a) * S + s, sum[s]);
        if (lse) lse[(b * A + a) * N + i] = (float)log_sum;
      }
    }
  return IJ_OK;
}

ij_status ij_ref_attention_weights(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, const void *qkv,
                                   const float *bias, float *p) {
  heads h = {dt, N, A, S, qkv, bias};
  float *qs = ij_queue_scratch(q, 0, (size_t)(2 * N * S + 1) * sizeof *qs); /* (N, S), then the keys likewise */
  double *row = ij_ref_sums(q, 1, N);
  if (!qs || !row) return IJ_ENOMEM;
  float *ks = qs + N * S;
  for (ij_dim b = 0; b < B; b++)
    for (ij_dim a = 0; a < A; a++) {
      load_part(&h, b, 0, a, qs);
      load_part(&h, b, 1, a, ks);
      for (ij_dim i = 0; i < N; i++) {
        softmax(qs + i * S, ks, N, S, row);
        for (ij_dim j = 0; j < N; j++) p[((b * A + a) * N + i) * N + j] = (float)row[j];
      }
    }
  return IJ_OK;
}

ij_status ij_ref_attention_bwd(ij_queue *q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,
                               const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,
                               void *dqkv, float *dbias) {
  heads h = {dt, N, A, S, qkv, bias};
  (void)out; /* only a shortcut to the sum of p dp */
  float *part = ij_queue_scratch(q, 0, (size_t)(4 * N * S + 1) * sizeof *part);
  double *p = ij_ref_sums(q, 1, 2 * N), *dbias_sum = ij_ref_sums(q, 3, 3 * A * S);
  if (!part || !p || !dbias_sum) return IJ_ENOMEM;
  float *qs = part, *ks = part + N * S, *vs = part + 2 * N * S, *douts = part + 3 * N * S; /* each (N, S) */
  double *dp = p + N, scale = 1 / sqrt((double)S);
  for (ij_dim b = 0; b < B; b++)
    for (ij_dim a = 0; a < A; a++) {
      load_part(&h, b, 0, a, qs); /* all of this head is read before any of it is written: dqkv may be qkv */
      load_part(&h, b, 1, a, ks);
      load_part(&h, b, 2, a, vs);
      double *d = ij_ref_sums(q, 2, 3 * N * S); /* (3, N, S): dq, dk, dv */
      if (!d) return IJ_ENOMEM;
      double *dq = d, *dk = d + N * S, *dv = d + 2 * N * S;
      for (ij_dim i = first_q; i < N; i++) {
        float *g = douts + i * S;
        for (ij_dim s = 0; s < S; s++) g[s] = ij_ref_get(dt, dout, ((b * N + i) * A + a) * S + s);
        double sum_p_dp = 0;
        for (ij_dim j = 0; j < N; j++) {
          p[j] = exp(scale * dot(qs + i * S, ks + j * S, S) - lse[(b * A + a) * N + i]);
          dp[j] = dot(g, vs + j * S, S);
          sum_p_dp += p[j] * dp[j];
        }
        for (ij_dim j = 0; j < N; j++) {
          double dlogit = scale * p[j] * (dp[j] - sum_p_dp);
          for (ij_dim s = 0; s < S; s++) {
            dq[i * S + s] += dlogit * ks[j * S + s];
            dk[j * S + s] += dlogit * qs[i * S + s];
            dv[j * S + s] += p[j] * g[s];
          }
        }
      }
      for (ij_dim n = 0; n < N; n++)
        for (ij_dim c = 0; c < 3; c++)
          for (ij_dim s = 0; s < S; s++) {
            double v = d[(c * N + n) * S + s];
            ij_ref_set(dt, dqkv, (((b * N + n) * 3 + c) * A + a) * S + s, v);
            if (c != 1) dbias_sum[(c * A + a) * S + s] += v; /* the keys' is 0: see ops.h */
          }
    }
  for (ij_dim i = 0; dbias && i < 3 * A * S; i++) dbias[i] = (float)(dbias[i] + dbias_sum[i]);
  return IJ_OK;
}
