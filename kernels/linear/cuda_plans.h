/* Plans: what cuBLASLt answered for a matmul of some shape, types and alignment. Asking costs it tens of microseconds,
 * and the number of rows changes with every step's masks, so the answers of a run are all kept. */
#ifndef IJ_PLANS_H
#define IJ_PLANS_H
#include "../cuda/library.h"
#include "cuda_products.h"

typedef struct ij_plan_key { /* all that the choice depends on; compared as bytes */
  ij_dim P, M, N, K;
  uint8_t ta, tb, add, in, out, sums;
  uint8_t align[3]; /* of a, b, c: 0 for 256 bytes, 1 for 16, 2 for an element */
  uint8_t none[7];
} ij_plan_key;
typedef struct ij_plan {
  ij_plan_key key;
  struct ij_plan *next; /* in its bucket */
  uint64_t calls, refusals;
  bool refused; /* the library has no algorithm, or had none when it came to it */
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
} ij_plan;

/* The plan of x on these operands; sums as in ij_cuda_multiply. Counts a call. */
ij_status ij_cuda_plan(ij_queue *q, const ij_cuda_product *x, const void *a, const void *b, const void *c, float *sums,
                       ij_plan **out);
cublasStatus_t ij_cuda_plan_sums(const ij_cuda *c, ij_plan *p, float *sums); /* where the sums of A go */
/* The matmul by algorithm `a`, which is the plan's own or a candidate */
cublasStatus_t ij_cuda_plan_run(const ij_cuda *c, const ij_plan *p, const cublasLtMatmulAlgo_t *a, const void *x,
                                const void *y, void *to);

/* ---- cuda_tune.cu: choosing by timing, where IJEPA_CUDA_TUNE asks for it. "1": for this process. Another value: a
 * file that keeps the choices, so that another run gets the same ones, and with them the same bits. */
enum { IJ_CANDIDATES = 8 };
typedef struct ij_cuda_tune ij_cuda_tune;
ij_status ij_cuda_tune_open(ij_cuda *c, ij_cuda_tune **out); /* NULL: not asked for */
void ij_cuda_tune_close(ij_cuda_tune *t);
/* Sets p->algorithm to the fastest of the n candidates, or to the choice that was kept for its class of shapes. */
ij_status ij_cuda_tune_choose(ij_queue *q, ij_cuda_tune *t, ij_plan *p, const cublasLtMatmulHeuristicResult_t *all,
                              int n, const void *x, const void *y);
#endif
