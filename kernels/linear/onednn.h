/* Matrix products by oneDNN, which no other file calls. All matrices are row-major and contiguous. */
#ifndef IJ_ONEDNN_H
#define IJ_ONEDNN_H
#include "../ops.h"

/* C (m, n) = op(A) (m, k) times op(B) (k, n) + beta * C in f32; op transposes where ta, tb are set, so that A is stored
 * (k, m), B (n, k). */
ij_status ij_onednn_sgemm(bool ta, bool tb, ij_dim m, ij_dim n, ij_dim k, const float *a, const float *b, float beta,
                          float *c);

/* 1 where activations of type dt go through the functions below: bf16 on a machine that multiplies it in hardware. */
int ij_onednn_takes(ij_dtype dt);

/* The three matmuls of ops.h, without db. Nothing is built once the first steps have had their (N, K), however R
 * varies. IJ_EUNSUPPORTED: the library has no such product; convert to f32 and multiply there. */
ij_status ij_onednn_linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                               uint64_t version, void *y);
ij_status ij_onednn_linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                                 uint64_t version, void *dx);
ij_status ij_onednn_linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                                 float *dw);
void ij_onednn_release(void); /* frees all kept matmuls and converted weights; they are made again when needed */
#endif
