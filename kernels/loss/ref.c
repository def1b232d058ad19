/* Smooth L1 and cross entropy. A mean over nothing is 0. */
#include "../ref.h"
#include <math.h>

/* x is (outer, repeat, inner): the element of y (outer, inner) that belongs to x[i] */
static ij_dim partner(ij_dim i, ij_dim repeat, ij_dim inner) { return i / (repeat * inner) * inner + i % inner; }

ij_status ij_ref_smooth_l1_fwd(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                               const float *y, float *loss) {
  (void)q;
  ij_dim n = outer * repeat * inner;
  double sum = 0;
  for (ij_dim i = 0; i < n; i++) {
    double d = fabs((double)x[i] - y[partner(i, repeat, inner)]);
    sum += d < beta ? d * d / (2 * (double)beta) : d - 0.5 * beta;
  }
  loss[0] = n ? (float)(sum / (double)n) : 0;
  return IJ_OK;
}

ij_status ij_ref_smooth_l1_bwd(ij_queue *q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,
                               const float *y, const float *scale, float *dx, float *dy) {
  (void)q;
  ij_dim n = outer * repeat * inner;
  for (ij_dim i = 0; i < n; i++) {
    double d = (double)x[i] - y[partner(i, repeat, inner)];
    double slope = fabs(d) < beta ? d / beta : d > 0 ? 1 : d < 0 ? -1 : d; /* the last: NaN */
    dx[i] = (float)(scale[0] * slope / (double)n);
  }
  for (ij_dim i = 0; dy && i < outer * inner; i++) {
    double sum = 0;
    for (ij_dim r = 0; r < repeat; r++) sum += dx[(i / inner * repeat + r) * inner + i % inner];
    dy[i] = (float)-sum;
  }
  return IJ_OK;
}

static ij_dim labelled(ij_dim R, const int32_t *label) {
  ij_dim count = 0;
  for (ij_dim r = 0; r < R; r++) count += label[r] >= 0;
  return count;
}

/* Log of the sum of the exponentials of x (n) */
static double log_sum_exp(ij_dim n, const float *x) {
  double top = -INFINITY, sum = 0;
  for (ij_dim i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
  for (ij_dim i = 0; i < n; i++) sum += exp(x[i] - top);
  return top + log(sum);
}

ij_status ij_ref_cross_entropy_fwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                   float *loss) {
  (void)q;
  double sum = 0;
  for (ij_dim r = 0; r < R; r++) {
    if (label[r] < 0) continue;
    double lse = log_sum_exp(n, x + r * n);
    for (ij_dim i = 0; i < n; i++) {
      double target = (i == label[r] ? 1 - (double)s : 0) + s / (double)n;
      if (target != 0) sum += target * (lse - x[r * n + i]);
    }
  }
  ij_dim count = labelled(R, label);
  loss[0] = count ? (float)(sum / (double)count) : 0;
  return IJ_OK;
}

ij_status ij_ref_cross_entropy_bwd(ij_queue *q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,
                                   const float *scale, float *dx) {
  (void)q;
  ij_dim count = labelled(R, label);
  for (ij_dim r = 0; r < R; r++) {
    double lse = log_sum_exp(n, x + r * n);
    for (ij_dim i = 0; i < n; i++) {
      double target = (i == label[r] ? 1 - (double)s : 0) + s / (double)n;
      double g = scale[0] * (exp(x[r * n + i] - lse) - target) / (double)count;
      dx[r * n + i] = label[r] < 0 ? 0 : (float)g;
    }
  }
  return IJ_OK;
}
