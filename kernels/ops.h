/* The op table: one IJ_OP line and a contract an op. Expanded into the device's table, the prototypes and the names.
 *
 * Kernels see memory, not tensors: pointers of the queue's device, checked shapes, contiguous rows. "dt" is the type of
 * the activations of an op (IJ_F32 or IJ_BF16): pointers marked [dt] have it, all others are f32 unless said. Sums are
 * taken in f32 or better. An output may not overlap an input unless the contract says so. A kernel returns IJ_OK or
 * IJ_ENOMEM (scratch). R, N, K, ... may be 0 where a contract does not exclude it.
 *
 * IJ_OP(name, (parameters), (arguments)) */
#ifndef IJ_OPS_H
#define IJ_OPS_H
#include "../core/base/base.h"

/* What an op runs on. Scratch memory is the device's, kept between calls: slots 0..7, grown when needed. */
typedef struct ij_queue ij_queue;
struct ij_queue {
  void *stream;      /* the backend's own; NULL on the CPU */
  void *slot[8];
  size_t slot_bytes[8];
};
void *ij_queue_scratch(ij_queue *q, int slot, size_t bytes); /* 64-byte aligned; NULL: out of memory */
void ij_queue_release(ij_queue *q);

typedef int64_t ij_dim;

/* What updates parameters: see the op update. */
typedef enum ij_update_kind { IJ_UPDATE_ADAMW, IJ_UPDATE_SGD, IJ_UPDATE_LION } ij_update_kind;
/* One tensor of an update: n elements each, on the device. g NULL: p stays, and only avg is moved. avg NULL: none follows
 * p. m: NULL for SGD without momentum; v: AdamW's alone. ratio (1): of SGD, a factor of the step, or NULL. version,
 * avg_version: of p's and avg's content afterwards; a backend that keeps converted copies of weights may renew them in
 * the same pass. */
typedef struct ij_update_item {
  ij_dim n;
  double lr, wd;
  float *p, *g, *m, *v, *avg, *ratio;
  uint64_t version, avg_version;
} ij_update_item;
typedef struct ij_update { /* the same for all tensors of a call */
  ij_update_kind kind;
  bool nesterov;
  ij_dim t; /* the step, from 1 */
  double beta1, beta2, eps; /* beta1: SGD's momentum */
  double gscale, mom;       /* mom: of the average */
  const float *gate;        /* (1) on the device, or NULL */
} ij_update;

/* The functions of unary_fwd. CLAMP: to a..b, POWER: x^a. ROUND: to even. */
typedef enum ij_unary_fn {
  IJ_EXP, IJ_LOG, IJ_SQRT, IJ_RSQRT, IJ_ABS, IJ_SIGN, IJ_FLOOR, IJ_CEIL, IJ_ROUND, IJ_SIN, IJ_COS, IJ_TANH, IJ_SIGMOID,
  IJ_SILU, IJ_ERF, IJ_NEG, IJ_RECIPROCAL, IJ_LOG1P, IJ_EXPM1, IJ_SQUARE, IJ_POWER, IJ_CLAMP, IJ_UNARY_FNS
} ij_unary_fn;
/* Of binary_fwd; comparisons are last. */
typedef enum ij_binary_fn {
  IJ_ADD, IJ_SUB, IJ_MUL, IJ_DIV, IJ_POW, IJ_MIN, IJ_MAX, IJ_EQ, IJ_NE, IJ_LT, IJ_LE, IJ_GT, IJ_GE, IJ_BINARY_FNS
} ij_binary_fn;
/* Of fold_fwd */
typedef enum ij_fold_fn { IJ_FOLD_SUM, IJ_FOLD_PROD, IJ_FOLD_MAX, IJ_FOLD_MIN, IJ_FOLD_ARGMAX, IJ_FOLD_ARGMIN } ij_fold_fn;

#define IJ_OPS(IJ_OP)                                                                                                  \
  /* y (R, N) [dt] = x (R, K) [dt] times w (N, K) f32 transposed. R >= 0, N, K >= 1. w does not change during a step:  \
   * a backend may keep a converted copy under `version`, which differs whenever w's content does (0: don't keep). */  \
  IJ_OP(linear_fwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,           \
                     uint64_t version, void *y), (q, dt, R, N, K, x, w, version, y))                                   \
  /* dx (R, K) [dt] = dy (R, N) [dt] times w (N, K) */                                                                 \
  IJ_OP(linear_bwd_x, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,        \
                       uint64_t version, void *dx), (q, dt, R, N, K, dy, w, version, dx))                              \
  /* dw (N, K) += dy (R, N) [dt] transposed times x (R, K) [dt]; db (N) += sum of dy over rows; dw or db may be NULL */\
  IJ_OP(linear_bwd_w, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,         \
                       float *dw, float *db), (q, dt, R, N, K, dy, x, dw, db))                                         \
  /* y (R, N) [dt] += b (N), in place */                                                                               \
  IJ_OP(bias_add, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim N, const float *b, void *y), (q, dt, R, N, b, y))       \
  /* s = x (+ add [dt] + add_b (D), both or none NULL; add_b alone may be NULL); sum (R, D) = s (may be x itself; NULL:\
   * not stored); y [dt] = (s - mean) * rstd * w + b, variance in two passes, biased, rstd = 1/sqrt(var + eps). w and b\
   * (D) both NULL: no affine. y NULL: only the sum. mean, rstd (R) stored when not NULL. D >= 1. */                   \
  IJ_OP(norm_fwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim D, const float *x, const void *add, const float *add_b, \
                   const float *w, const float *b, float eps, float *sum, void *y, float *mean, float *rstd),          \
        (q, dt, R, D, x, add, add_b, w, b, eps, sum, y, mean, rstd))                                                   \
  /* dx (R, D) f32 = res (R, D) f32 or 0 when NULL, plus the gradient of norm_fwd's y with respect to s, where s (R, D)\
   * f32 is the sum, dy (R, D) [dt]; dx may be res. dw, db (D) are added to; both NULL without affine. dx_dt [dt], when\
   * not NULL, receives a copy of dx in dt. */                                                                         \
  IJ_OP(norm_bwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim D, const float *s, const float *mean, const float *rstd,\
                   const float *w, const void *dy, const float *res, float *dx, void *dx_dt, float *dw, float *db),    \
        (q, dt, R, D, s, mean, rstd, w, dy, res, dx, dx_dt, dw, db))                                                   \
  /* y (R, F) [dt] = gelu(x (R, F) [dt] + b (F)), gelu(u) = u * Phi(u), to 1e-6; b may be NULL; y may be x */          \
  IJ_OP(gelu_fwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y),             \
        (q, dt, R, F, x, b, y))                                                                                        \
  /* dx = dy * gelu'(x + b); y (R, F) [dt], when not NULL, receives gelu(x + b) again; db (F) += column sums of dx when\
   * not NULL. dx may be dy or x; y may be x, if dx is not. */                                                         \
  IJ_OP(gelu_bwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,       \
                   void *dx, void *y, float *db), (q, dt, R, F, x, b, dy, dx, y, db))                                  \
  /* Softmax attention of A heads of width S over N tokens: qkv (B, N, 3, A, S) [dt] without its bias (3, A, S), which \
   * is added here (NULL: none); out (B, N, A, S) [dt]; logits scaled by S^-1/2; lse (B, A, N): log of the sum of      \
   * exponentials, NULL: not stored. Queries first_q..N-1 only: the others' out and lse are not written. */            \
  IJ_OP(attention_fwd, (ij_queue * q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,             \
                        const void *qkv, const float *bias, void *out, float *lse),                                    \
        (q, dt, B, N, A, S, first_q, qkv, bias, out, lse))                                                             \
  /* The softmax of attention_fwd itself, for display: p (B, A, N, N) f32, a row a query; each row sums to 1 */            \
  IJ_OP(attention_weights, (ij_queue * q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, const void *qkv,        \
                            const float *bias, float *p), (q, dt, B, N, A, S, qkv, bias, p))                           \
  /* dqkv (B, N, 3, A, S) [dt], wholly written (dq of queries before first_q is 0); dbias (3, A, S) += its sum, when   \
   * not NULL, but for the keys' part: a shift of all keys changes no softmax, so its gradient is 0, and the rounding  \
   * noise of the sum would be blown up by Adam. dqkv may be qkv. dout, out rows before first_q are not read. */       \
  IJ_OP(attention_bwd, (ij_queue * q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim first_q,             \
                        const void *qkv, const float *bias, const void *out, const float *lse, const void *dout,       \
                        void *dqkv, float *dbias),                                                                     \
        (q, dt, B, N, A, S, first_q, qkv, bias, out, lse, dout, dqkv, dbias))                                          \
  /* Queries and keys made ready for attention: out = qkv (B, N, 3, A, S) [dt] + bias (3, A, S; NULL: none), where     \
   * then each head's queries and keys pass a layer norm, weights and shifts norm (4, S): of queries, of keys; NULL:   \
   * none; and turn by the place of their patch, rope (L, 2, S / 4): cosines and sines of places 0..L-1; NULL: none.   \
   * The last K of the N tokens are patches pos (B, K) i32 (NULL: 0..K-1) of a grid W wide, the others do not turn:    \
   * values i and i + S / 2 are a pair that turns with the patch's row, for i < S / 4, else with its column. out may   \
   * be qkv. With rope S divides by 4. */                                                                              \
  IJ_OP(heads_fwd, (ij_queue * q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W, float eps,  \
                    const void *qkv, const float *bias, const float *norm, const float *rope, const int32_t *pos,      \
                    void *out), (q, dt, B, N, A, S, K, W, eps, qkv, bias, norm, rope, pos, out))                       \
  /* dqkv [dt], which may be dout; dbias (3, A, S) and dnorm (4, S) are added to, either may be NULL. qkv and bias are \
   * read with norm alone. */                                                                                          \
  IJ_OP(heads_bwd, (ij_queue * q, ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S, ij_dim K, ij_dim W, float eps,  \
                    const void *qkv, const float *bias, const float *norm, const float *rope, const int32_t *pos,      \
                    const void *dout, void *dqkv, float *dbias, float *dnorm),                                         \
        (q, dt, B, N, A, S, K, W, eps, qkv, bias, norm, rope, pos, dout, dqkv, dbias, dnorm))                          \
  /* y (R, F) [dt] = silu(u[:F]) * u[F:] of each row u = x (R, 2 F) [dt] + b (2 F), silu(u) = u / (1 + exp(-u)) */     \
  IJ_OP(swiglu_fwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, void *y),           \
        (q, dt, R, F, x, b, y))                                                                                        \
  /* dx (R, 2 F) [dt], which may be x; y (R, F) receives the output again; db (2 F) += column sums of dx */            \
  IJ_OP(swiglu_bwd, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim F, const void *x, const float *b, const void *dy,     \
                     void *dx, void *y, float *db), (q, dt, R, F, x, b, dy, dx, y, db))                                \
  /* A linear layer and a factor g (N) of its outputs in one: ws (N, K) = g * w, row by row, bs (N) = g * b */         \
  IJ_OP(weight_scale_fwd, (ij_queue * q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b, float *ws,\
                           float *bs), (q, N, K, g, w, b, ws, bs))                                                     \
  /* dg (N), dw (N, K), db (N) are added to */                                                                         \
  IJ_OP(weight_scale_bwd, (ij_queue * q, ij_dim N, ij_dim K, const float *g, const float *w, const float *b,           \
                           const float *dws, const float *dbs, float *dg, float *dw, float *db),                       \
        (q, N, K, g, w, b, dws, dbs, dg, dw, db))                                                                      \
  /* Patches as rows: y (C, B, K, 3 * P * P) [dt], feature order (channel, row, column), of the patches index (C, B, K)\
   * i32 of a grid W / P wide; index NULL: C = 1, all patches in order, K = their number. images: f32 (B, 3, H, W), or,\
   * with u8 = 1, bytes (B, H, W, 3) turned into (p / 255 - mean) / std, scale6 = {1/(255 std), -mean/std} x 3. */     \
  IJ_OP(patchify, (ij_queue * q, ij_dtype dt, ij_dim C, ij_dim B, ij_dim K, ij_dim H, ij_dim W, ij_dim P, int u8,      \
                   const void *images, const int32_t *index, const float *scale6, void *y),                            \
        (q, dt, C, B, K, H, W, P, u8, images, index, scale6, y))                                                       \
  /* y (R, D) f32 = x (R, D) [dt] + b (D) + pos (index[r], D); b NULL: none; index (R) i32, NULL: row r % N of pos     \
   * (N, D) */                                                                                                         \
  IJ_OP(pos_add, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim D, ij_dim N, const void *x, const float *b,              \
                  const float *pos, const int32_t *index, float *y), (q, dt, R, D, N, x, b, pos, index, y))            \
  /* The predictor's sequences: y (M, C, B, K + T, E) f32; first K rows: x (C, B, K, E) [dt] + b (E) + pos[context (C, \
   * B, K)]; last T: token (E) + pos[target (M, B, T)]; pos (N, E) */                                                  \
  IJ_OP(tokens_fwd, (ij_queue * q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,            \
                     const void *x, const float *b, const float *token, const float *pos, const int32_t *context,      \
                     const int32_t *target, float *y),                                                                 \
        (q, dt, M, C, B, K, T, E, x, b, token, pos, context, target, y))                                               \
  /* dx (C, B, K, E) [dt] = sum over M of dy; dtoken (E) += sum over all mask tokens of dy (M, C, B, K + T, E) f32 */  \
  IJ_OP(tokens_bwd, (ij_queue * q, ij_dtype dt, ij_dim M, ij_dim C, ij_dim B, ij_dim K, ij_dim T, ij_dim E,            \
                     const float *dy, void *dx, float *dtoken), (q, dt, M, C, B, K, T, E, dy, dx, dtoken))             \
  /* y (Q, T, D) = rows first..first+T-1 of x (Q, N, D); f32. bwd: dx (Q, N, D) wholly written, 0 elsewhere */         \
  IJ_OP(tail_fwd, (ij_queue * q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *x, float *y),                \
        (q, Q, N, first, D, x, y))                                                                                     \
  IJ_OP(tail_bwd, (ij_queue * q, ij_dim Q, ij_dim N, ij_dim first, ij_dim D, const float *dy, float *dx),              \
        (q, Q, N, first, D, dy, dx))                                                                                   \
  /* y (M, B, T, D) = x (B, N, D) at index (M, B, T) i32; f32. bwd: dx (B, N, D) += */                                 \
  IJ_OP(gather_fwd, (ij_queue * q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *x,                   \
                     const int32_t *index, float *y), (q, M, B, T, N, D, x, index, y))                                 \
  IJ_OP(gather_bwd, (ij_queue * q, ij_dim M, ij_dim B, ij_dim T, ij_dim N, ij_dim D, const float *dy,                  \
                     const int32_t *index, float *dx), (q, M, B, T, N, D, dy, index, dx))                              \
  /* loss (1) = mean over n of smooth L1 (beta > 0): d^2/(2 beta) where |d| < beta, else |d| - beta/2, summed in double.\
   * y (n / repeat) is read cyclically in blocks: x is (outer, repeat, inner), y (outer, inner). dx = gradient of the  \
   * loss times scale[0]; dy likewise (sign reversed, summed over repeat) when not NULL. */                            \
  IJ_OP(smooth_l1_fwd, (ij_queue * q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,           \
                        const float *y, float *loss), (q, outer, repeat, inner, beta, x, y, loss))                     \
  IJ_OP(smooth_l1_bwd, (ij_queue * q, ij_dim outer, ij_dim repeat, ij_dim inner, float beta, const float *x,           \
                        const float *y, const float *scale, float *dx, float *dy),                                     \
        (q, outer, repeat, inner, beta, x, y, scale, dx, dy))                                                          \
  /* loss (1) = mean over rows with label >= 0 of the cross entropy of softmax(x (R, n)), target (1 - s) one-hot + s/n;\
   * dx = its gradient times scale[0] */                                                                               \
  IJ_OP(cross_entropy_fwd, (ij_queue * q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,           \
                            float *loss), (q, R, n, s, x, label, loss))                                                \
  IJ_OP(cross_entropy_bwd, (ij_queue * q, ij_dim R, ij_dim n, float s, const float *x, const int32_t *label,           \
                            const float *scale, float *dx), (q, R, n, s, x, label, scale, dx))                         \
  /* y (R, n) = softmax of each row of x, dx = its gradient from y and dy; n >= 1. y may be x, dx may be dy. */           \
  IJ_OP(softmax_fwd, (ij_queue * q, ij_dim R, ij_dim n, const float *x, float *y), (q, R, n, x, y))                    \
  IJ_OP(softmax_bwd, (ij_queue * q, ij_dim R, ij_dim n, const float *y, const float *dy, float *dx),                   \
        (q, R, n, y, dy, dx))                                                                                          \
  /* P matmuls c (M, N) = A B, where A (M, K) is a (M, K), or, with ta, a (K, M) transposed, and B (K, N) is b (K, N),\
   * or, with tb, b (N, K) transposed */                                                                               \
  IJ_OP(matmul, (ij_queue * q, ij_dim P, ij_dim M, ij_dim N, ij_dim K, int ta, int tb, const float *a, const float *b, \
                 float *c), (q, P, M, N, K, ta, tb, a, b, c))                                                          \
  /* y (Q, n, D) [dt] = s[q] * (x (Q, n, D) [dt] + b (D)); b NULL: none; y may be x */                                 \
  IJ_OP(scale_rows, (ij_queue * q, ij_dtype dt, ij_dim Q, ij_dim n, ij_dim D, const void *x, const float *b,           \
                     const float *s, void *y), (q, dt, Q, n, D, x, b, s, y))                                           \
  /* One update of `count` tensors (item, u: host memory), G = g * gscale, with old p on the right:                    \
   * ADAMW: m = beta1 m + (1 - beta1) G; v = beta2 v + (1 - beta2) G^2;                                                \
   *        p -= lr wd p + lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)                                  \
   * SGD:   d = ratio * (G + wd p); with m: m = beta1 m + d, and d = m, or with nesterov d + beta1 m; p -= lr d        \
   * LION:  c = beta1 m + (1 - beta1) G; m = beta2 m + (1 - beta2) G; p -= lr (sign(c) + wd p)                         \
   * Then g = 0, and avg = mom avg + (1 - mom) p when not NULL. One pass. Where the gate is not finite, g = 0 is all   \
   * that happens. */                                                                                                  \
  IJ_OP(update, (ij_queue * q, ij_dim count, const ij_update_item *item, const ij_update *u), (q, count, item, u))     \
  /* Of each item with a ratio: ratio[0] = trust * |p| / |g * gscale + wd p|, the norms of all n elements; 1 where a   \
   * norm is 0 or NaN */                                                                                               \
  IJ_OP(trust, (ij_queue * q, ij_dim count, const ij_update_item *item, double gscale, double trust),                  \
        (q, count, item, gscale, trust))                                                                               \
  /* y (n) = f(x (n)), f an ij_unary_fn with constants a, b; dt f32; abs sign neg square clamp also i32, i64, u8, where   \
   * what does not fit wraps. y may be x. bwd (f32): dx = dy * f'(x), from x and y = f(x); dx may be dy. */            \
  IJ_OP(unary_fwd, (ij_queue * q, int f, ij_dtype dt, ij_dim n, double a, double b, const void *x, void *y),           \
        (q, f, dt, n, a, b, x, y))                                                                                     \
  IJ_OP(unary_bwd, (ij_queue * q, int f, ij_dim n, double a, double b, const float *x, const float *y,                 \
                    const float *dy, float *dx), (q, f, n, a, b, x, y, dy, dx))                                        \
  /* z = f(x, y), f an ij_binary_fn; z is dense with nd <= 6 dimensions, x and y have strides in elements, 0 to repeat;\
   * x or y NULL: the number s in its stead. x, y of type dt: f32, i32, i64, u8; z likewise, or u8 (0, 1) of           \
   * comparisons. Integers wrap; division rounds down, by 0 gives 0; a negative power is that of a fraction, rounded   \
   * toward 0. min and max of a NaN are NaN. bwd (f32): dz dense, dx and dy dense in z's shape, NULL: not wanted;      \
   * equal ones share the gradient of min and max; dx or dy may be dz. */                                              \
  IJ_OP(binary_fwd, (ij_queue * q, int f, ij_dtype dt, int nd, const ij_dim *shape, double s, const void *x,           \
                     const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z),                            \
        (q, f, dt, nd, shape, s, x, xstride, y, ystride, z))                                                           \
  IJ_OP(binary_bwd, (ij_queue * q, int f, int nd, const ij_dim *shape, double s, const float *x,                       \
                     const ij_dim *xstride, const float *y, const ij_dim *ystride, const float *dz, float *dx,         \
                     float *dy), (q, f, nd, shape, s, x, xstride, y, ystride, dz, dx, dy))                             \
  /* z (dense) = x where c (u8) is not 0, else y, elements of size 1, 4 or 8 bytes, strides as above; x or y NULL: 0 */\
  IJ_OP(choose, (ij_queue * q, int nd, const ij_dim *shape, ij_dim size, const uint8_t *c, const ij_dim *cstride,      \
                 const void *x, const ij_dim *xstride, const void *y, const ij_dim *ystride, void *z),                 \
        (q, nd, shape, size, c, cstride, x, xstride, y, ystride, z))                                                   \
  /* z = scale * x + shift */                                                                                          \
  IJ_OP(affine, (ij_queue * q, ij_dim n, float scale, float shift, const float *x, float *z),                          \
        (q, n, scale, shift, x, z))                                                                                    \
  /* y += scale * x */                                                                                                 \
  IJ_OP(axpy, (ij_queue * q, ij_dim n, float scale, const float *x, float *y), (q, n, scale, x, y))                    \
  IJ_OP(relu_fwd, (ij_queue * q, ij_dim n, const float *x, float *y), (q, n, x, y))                                    \
  IJ_OP(relu_bwd, (ij_queue * q, ij_dim n, const float *x, const float *dy, float *dx), (q, n, x, dy, dx))             \
  /* y (P, Q) = scale * sum over n of x (P, n, Q); bwd: dx = scale * dy, spread */                                     \
  IJ_OP(sum_fwd, (ij_queue * q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *x, float *y),                  \
        (q, P, n, Q, scale, x, y))                                                                                     \
  IJ_OP(sum_bwd, (ij_queue * q, ij_dim P, ij_dim n, ij_dim Q, float scale, const float *dy, float *dx),                \
        (q, P, n, Q, scale, dy, dx))                                                                                   \
  /* The k largest of each row of x (R, n), falling, of equals the first, NaN as -infinity: their places index (R, k)  \
   * i32 and values v (R, k); 1 <= k <= n */                                                                           \
  IJ_OP(topk, (ij_queue * q, ij_dim R, ij_dim n, ij_dim k, const float *x, float *v, int32_t *index),                  \
        (q, R, n, k, x, v, index))                                                                                     \
  /* y (P, Q) = x (P, n, Q) folded over n by an ij_fold_fn; y of x's type, dt: f32, i32, i64, u8, or i32: the index of  \
   * the first of the largest (smallest), where a NaN is before all others. n >= 1 but for sum (integers, which wrap;  \
   * sum_fwd has f32) and prod. f32 products in double. bwd (f32; prod, max, min): equal ones share the gradient. */   \
  IJ_OP(fold_fwd, (ij_queue * q, int f, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, const void *x, void *y),            \
        (q, f, dt, P, n, Q, x, y))                                                                                     \
  IJ_OP(fold_bwd, (ij_queue * q, int f, ij_dim P, ij_dim n, ij_dim Q, const float *x, const float *y,                  \
                   const float *dy, float *dx), (q, f, P, n, Q, x, y, dy, dx))                                         \
  /* y (P, n, Q) = sums of the first i of x (P, n, Q) along n, of the last i with reverse; f32 (added in double), i32  \
   * or i64 */                                                                                                         \
  IJ_OP(scan, (ij_queue * q, ij_dtype dt, ij_dim P, ij_dim n, ij_dim Q, int reverse, const void *x, void *y),          \
        (q, dt, P, n, Q, reverse, x, y))                                                                               \
  /* v (R, n) = each row of x (R, n) in order, index (R, n) i32 its positions in x; equal ones stay in their order,    \
   * NaN comes last. dt: f32, i32, i64, u8 */                                                                          \
  IJ_OP(sort, (ij_queue * q, ij_dtype dt, ij_dim R, ij_dim n, int descending, const void *x, void *v, int32_t *index), \
        (q, dt, R, n, descending, x, v, index))                                                                        \
  /* y (P, T, Q) = x (P, N, Q) at index: (P, T, Q) i32, or, with shared = 1, (T) for all p and q; elements of `size`   \
   * 1, 4 or 8 bytes. scatter_add: y (P, N, Q) += x (P, T, Q) at index, in the order of T; dt f32, i32, i64, u8 */     \
  IJ_OP(take, (ij_queue * q, ij_dim size, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared, const void *x,           \
               const int32_t *index, void *y), (q, size, P, T, N, Q, shared, x, index, y))                             \
  IJ_OP(scatter_add, (ij_queue * q, ij_dtype dt, ij_dim P, ij_dim T, ij_dim N, ij_dim Q, int shared, const void *x,    \
                      const int32_t *index, void *y), (q, dt, P, T, N, Q, shared, x, index, y))                        \
  /* y (B, oh * ow, C * kh * kw) = the windows of x (B, C, H, W), `stride` apart, with a border of `pad` zeros;        \
   * oh = (H + 2 pad - kh) / stride + 1 >= 1, ow likewise. bwd: dx = sum of dy at each element's windows */            \
  IJ_OP(im2col_fwd, (ij_queue * q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,        \
                     ij_dim pad, const float *x, float *y), (q, B, C, H, W, kh, kw, stride, pad, x, y))                \
  IJ_OP(im2col_bwd, (ij_queue * q, ij_dim B, ij_dim C, ij_dim H, ij_dim W, ij_dim kh, ij_dim kw, ij_dim stride,        \
                     ij_dim pad, const float *dy, float *dx), (q, B, C, H, W, kh, kw, stride, pad, dy, dx))            \
  /* x[i] = random number offset + i of the seed's stream (Philox 4x32-10, four a counter): uniform in [0, 1), 24      \
   * bits, or, with normal, by Box and Muller from the pair that it belongs to */                                      \
  IJ_OP(random, (ij_queue * q, int normal, ij_dim n, uint64_t seed, uint64_t offset, float *x),                        \
        (q, normal, n, seed, offset, x))                                                                               \
  /* Training: m, s (D) = batch mean and biased variance of x (R, D); else as given. y = (x - m) / sqrt(s + eps) */    \
  IJ_OP(batch_norm_fwd, (ij_queue * q, ij_dim R, ij_dim D, int training, float eps, const float *x, float *m,          \
                         float *s, float *y), (q, R, D, training, eps, x, m, s, y))                                    \
  IJ_OP(batch_norm_bwd, (ij_queue * q, ij_dim R, ij_dim D, int training, float eps, const float *x, const float *m,    \
                         const float *s, const float *dy, float *dx), (q, R, D, training, eps, x, m, s, dy, dx))       \
  /* y f32 (B, 3, H, W) of bytes (B, H, W, 3), scale6 as in patchify */                                                \
  IJ_OP(normalise, (ij_queue * q, ij_dim B, ij_dim H, ij_dim W, const uint8_t *x, const float *scale6, float *y),      \
        (q, B, H, W, x, scale6, y))                                                                                    \
  /* out (2) double: sum of squares of x (n), count of elements that are not finite; both added to */                  \
  IJ_OP(sum_squares, (ij_queue * q, ij_dim n, const float *x, double *out), (q, n, x, out))                            \
  /* Element-wise conversion and copy of n elements between types; any pair of f32, bf16, i32, i64, u8 (round to       \
   * nearest even to bf16, toward zero to integers) */                                                                 \
  IJ_OP(convert, (ij_queue * q, ij_dim n, ij_dtype from, const void *x, ij_dtype to, void *y), (q, n, from, x, to, y)) \
  /* Strided copy of elements of `size` bytes: y[i * ystride] = x[i * xstride], shape and strides (in elements) of nd  \
   * dimensions, nd <= 6 */                                                                                            \
  IJ_OP(copy, (ij_queue * q, int nd, const ij_dim *shape, ij_dim size, const void *x, const ij_dim *xstride, void *y,  \
               const ij_dim *ystride), (q, nd, shape, size, x, xstride, y, ystride))                                   \
  IJ_OP(fill, (ij_queue * q, ij_dim n, float value, float *x), (q, n, value, x))

typedef struct ij_op_table {
#define IJ_OP(name, params, args) ij_status(*name) params;
  IJ_OPS(IJ_OP)
#undef IJ_OP
} ij_op_table;

/* Prototypes: ij_ref_NAME in kernels/<op>/ref.c. The cpu ones are compiled once for each instruction set, see cpu.h. */
#define IJ_OP(name, params, args) ij_status ij_ref_##name params;
IJ_OPS(IJ_OP)
#undef IJ_OP
extern const ij_op_table ij_ref_table;
void ij_cpu_fill(ij_op_table *t); /* the best table of this machine (IJEPA_ISA=base or avx2 limits it) */

static inline float ij_bf16_to_f32(uint16_t h) {
  union { uint32_t u; float f; } v = {(uint32_t)h << 16};
  return v.f;
}
static inline uint16_t ij_f32_to_bf16(float f) { /* to nearest even; NaN stays NaN */
  union { float f; uint32_t u; } v = {f};
  if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(v.u >> 16 | 0x40);
  return (uint16_t)((v.u + 0x7fffu + (v.u >> 16 & 1)) >> 16);
}
#endif
