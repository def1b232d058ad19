/* Folds along an axis other than f32 sums, and running sums. */
#include "../ref.h"
#include "../whole.h"
#include <math.h>

/* Whether v comes before the best so far: larger, or smaller; a NaN before all but a NaN. */
static bool better(bool largest, double v, double best) {
  if (isnan(v) || isnan(best)) return isnan(v) && !isnan(best);
  return largest ? v > best : v < best;
}

static void fold_f32(int f, ij_dim n, ij_dim Q, const float *x, float *value, int32_t *index) {
  bool largest = f == IJ_FOLD_MAX || f == IJ_FOLD_ARGMAX;
  double product = 1;
  ij_dim best = 0;
  for (ij_dim i = 0; i < n; i++) {
    product *= x[i * Q];
    if (better(largest, x[i * Q], x[best * Q])) best = i;
  }
  if (f >= IJ_FOLD_ARGMAX) *index = (int32_t)best;
  else *value = f == IJ_FOLD_PROD ? (float)product : x[best * Q];
}

static int64_t fold_whole(int f, ij_dtype dt, ij_dim n, ij_dim Q, const void *x, ij_dim from) {
  bool largest = f == IJ_FOLD_MAX || f == IJ_FOLD_ARGMAX, order = f >= IJ_FOLD_MAX;
  int64_t y = f == IJ_FOLD_PROD;
  ij_dim best = 0;
  for (ij_dim i = 0; i < n; i++) {
    int64_t v = ij_ref_whole(dt, x, from + i * Q);
    if (f == IJ_FOLD_SUM) y = ij_whole_add(y, v);
    if (f == IJ_FOLD_PROD) y = ij_whole_mul(y, v);
    if (order && (i == 0 || (largest ? v > y : v < y))) y = v, best = i;
  }
  return f >= IJ_FOLD_ARGMAX ? best : y;
}

ij_status ij_ref_fold_fwd(ij_queue *q, int f, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y) {
  (void)q;
  for (ij_dim r = 0; r < P * Q; r++) {
    ij_dim from = r / Q * n * Q + r % Q;
    if (dt == IJ_F32) fold_f32(f, n, Q, (const float *)x + from, (float *)y + r, (int32_t *)y + r);
    else ij_ref_set_whole(f >= IJ_FOLD_ARGMAX ? IJ_I32 : dt, y, r, fold_whole(f, dt, n, Q, x, from));
  }
  return IJ_OK;
}

/* dx of one fold: elements of x and dx are Q apart. */
static void unfold(int f, ij_dim n, ij_dim Q, const float *x, float y, float dy, float *dx) {
  double product = 1;
  ij_dim zeros = 0, equal = 0;
  for (ij_dim i = 0; i < n; i++) {
    float v = x[i * Q];
    if (v == 0) zeros++;
    else product *= v;
    equal += v == y || (isnan(v) && isnan(y));
  }
  for (ij_dim i = 0; i < n; i++) {
    float v = x[i * Q];
    double rest = v == 0 ? zeros == 1 ? product : 0 : zeros ? 0 : product / v; /* the product of the others */
    bool hit = v == y || (isnan(v) && isnan(y));
    dx[i * Q] = (float)(f == IJ_FOLD_PROD ? dy * rest : hit ? dy / (double)equal : 0);
  }
}

ij_status ij_ref_fold_bwd(ij_queue *q, int f, ij_dim P, ij_dim n, ij_dim Q, const float *x, const float *y,
                          const float *dy, float *dx) {
  (void)q;
  for (ij_dim r = 0; r < P * Q; r++) {
    ij_dim from = r / Q * n * Q + r % Q;
    unfold(f, n, Q, x + from, y[r], dy[r], dx + from);
  }
  return IJ_OK;
}

ij_status ij_ref_scan(ij_queue *q, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, int reverse, const void *x, void *y) {
  (void)q;
  for (ij_dim r = 0; r < P * Q; r++) {
    double sum = 0;
    int64_t whole = 0;
    for (ij_dim k = 0; k < n; k++) {
      ij_dim i = (r / Q * n + (reverse ? n - 1 - k : k)) * Q + r % Q;
      if (dt == IJ_F32) ij_ref_set(dt, y, i, sum += ij_ref_get(dt, x, i));
      else ij_ref_set_whole(dt, y, i, whole = ij_whole_add(whole, ij_ref_whole(dt, x, i)));
    }
  }
  return IJ_OK;
}
