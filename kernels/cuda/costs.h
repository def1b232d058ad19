/* What the CUDA kernels and their runtime take of a GPU's memory besides tensors: constants, and sizes as functions of
 * an op's arguments. Plain C: the kernels size their buffers with it, and the device "dry" (dry.c) records the same
 * sizes where no GPU is. A function gives bytes unless its comment says otherwise; sms: the GPU's count of SMs. */
#ifndef IJ_CUDA_COSTS_H
#define IJ_CUDA_COSTS_H
#include "../backend.h"

/* ---- the runtime */
enum {
  IJ_POOL_UNIT = 512,           /* the driver's pool rounds sizes up to it */
  IJ_CUDA_WORKSPACE = 32 << 20, /* of cuBLASLt: what NVIDIA advises for Hopper and newer */
  /* Copies to the GPU go through staging buffers: two large ones in use and one that is filled; small ones apart. */
  IJ_LARGE_STAGES = 3,
  IJ_SMALL_STAGES = 8,
  IJ_STAGES = IJ_LARGE_STAGES + IJ_SMALL_STAGES,
  IJ_SMALL_COPY = 1 << 16,
  IJ_LARGEST_COPY = 64 << 20 /* a larger tensor is copied in pieces */
};
typedef struct ij_stage_counts { /* copies of each kind so far */
  unsigned large, small;
} ij_stage_counts;
/* Index of the staging buffer for the next copy of n <= IJ_LARGEST_COPY bytes; large ones are first. */
static inline unsigned ij_next_stage(ij_stage_counts *counts, size_t n) {
  return n > IJ_SMALL_COPY ? counts->large++ % IJ_LARGE_STAGES : IJ_LARGE_STAGES + counts->small++ % IJ_SMALL_STAGES;
}
/* What a staging buffer is made to hold for n bytes */
static inline size_t ij_stage_bytes(size_t n) { return n > IJ_SMALL_COPY ? n : (size_t)IJ_SMALL_COPY; }
static inline size_t ij_pool_bytes(size_t n) { return (n + IJ_POOL_UNIT - 1) / IJ_POOL_UNIT * IJ_POOL_UNIT; }
/* What a scratch slot grows to for a need of n bytes: lengths vary from step to step, and some slack saves growing
 * again */
static inline size_t ij_scratch_bytes(size_t n) { return n + n / 8 + 256; }

static inline ij_dim ij_ceil_div(ij_dim n, ij_dim unit) { return (n + unit - 1) / unit; }
static inline ij_dim ij_least(ij_dim a, ij_dim b) { return a < b ? a : b; }

/* ---- sums over the rows of a matrix (stripes.h) */
enum { IJ_STRIPE_WARPS = 8, IJ_STRIPE_THREADS = 32 * IJ_STRIPE_WARPS, IJ_MOST_STRIPES = 512, IJ_STRIPE_BLOCKS = 6 };
/* Count of stripes of R rows, where each takes `blocks` blocks; IJ_STRIPE_BLOCKS blocks of 256 threads fill an SM. */
static inline ij_dim ij_stripe_count(int sms, ij_dim R, ij_dim blocks) {
  ij_dim wanted = ij_ceil_div(IJ_STRIPE_BLOCKS * (ij_dim)sms, blocks);
  wanted = ij_least(ij_least(wanted, ij_ceil_div(R, IJ_STRIPE_WARPS)), IJ_MOST_STRIPES);
  return wanted < 1 ? 1 : wanted;
}
/* Elements of 16 bytes, which a thread loads together where D is a multiple of them; else 1. Not bytes. */
static inline int ij_stripe_width(ij_dtype dt, ij_dim D) {
  int width = dt == IJ_BF16 ? 8 : 4;
  return D % width == 0 ? width : 1;
}
/* Partial sums (stripes, D) f32 of R rows, whose threads take `width` columns each */
static inline size_t ij_column_sum_scratch(int sms, ij_dim R, ij_dim D, int width) {
  return (size_t)(ij_stripe_count(sms, R, ij_ceil_div(D, 32 * width)) * D) * sizeof(float);
}

/* ---- norm_bwd */
enum { IJ_NORM_WIDEST = 2048, IJ_NORM_GROUP = 4, IJ_NORM_THREADS = 768 };
/* Whether the kernel for wide loads takes rows of D elements (and their addresses are aligned) */
static inline bool ij_norm_wide(ij_dim D) { return D % 4 == 0 && D <= IJ_NORM_WIDEST; }
/* Count of blocks. IJ_NORM_THREADS threads per SM have enough loads under way; more blocks leave more sums to add. */
static inline ij_dim ij_norm_bwd_blocks(int sms, ij_dim R, ij_dim D, bool wide) {
  ij_dim threads = ij_ceil_div(D / 4, 32) * 32;
  if (!wide) return ij_stripe_count(sms, R, ij_ceil_div(D, 32));
  return ij_least(ij_ceil_div(R, IJ_NORM_GROUP), sms * ij_ceil_div(IJ_NORM_THREADS, threads));
}
/* Partial sums (2, blocks, D) f32 of dw and db */
static inline size_t ij_norm_bwd_scratch(int sms, ij_dim R, ij_dim D, bool wide) {
  return 2 * (size_t)(ij_norm_bwd_blocks(sms, R, D, wide) * D) * sizeof(float);
}

/* ---- linear_bwd_w */
/* Whether cuBLASLt gives db beside dw (and addresses are aligned): then it needs N sums, else column sums. */
static inline bool ij_linear_sums_fit(ij_dtype dt, ij_dim N, ij_dim K) {
  return dt == IJ_BF16 && N % 8 == 0 && K % 8 == 0;
}

/* ---- attention_bwd */
enum { IJ_ATTENTION_WIDEST = 128, IJ_ATTENTION_ROWS = 64, IJ_ATTENTION_F32_WIDE = 96, IJ_ATTENTION_F32_WIDE_ROWS = 32 };
/* Rows of queries in a block's tile, for heads of S; each tile leaves a row of sums. Not bytes. */
static inline int ij_attention_rows(ij_dtype dt, ij_dim S) {
  if (S > IJ_ATTENTION_WIDEST) return 1;
  return dt == IJ_F32 && S > IJ_ATTENTION_F32_WIDE ? IJ_ATTENTION_F32_WIDE_ROWS : IJ_ATTENTION_ROWS;
}
typedef struct ij_attention_costs {
  size_t copy; /* (B, A, N, S) [dt] of the queries; heads wider than IJ_ATTENTION_WIDEST: as much of keys and values */
  size_t copies; /* all of them */
  size_t stats;  /* (3, B, A, N) f32 */
  size_t sums;   /* (B * tiles, 2, A, S) f32: of the biases' gradients */
} ij_attention_costs;
static inline ij_attention_costs ij_attention_bwd_scratch(ij_dtype dt, ij_dim B, ij_dim N, ij_dim A, ij_dim S,
                                                          ij_dim first) {
  ij_dim rows = B * A * N, tiles = B * ij_ceil_div(N - first, ij_attention_rows(dt, S));
  ij_attention_costs c;
  c.copy = (size_t)ij_ceil_div(rows * S * (dt == IJ_BF16 ? 2 : 4), 256) * 256; /* copies start 256-byte aligned */
  c.copies = S > IJ_ATTENTION_WIDEST ? 3 * c.copy : c.copy;
  c.stats = 3 * (size_t)rows * sizeof(float);
  c.sums = (size_t)(tiles * 2 * A * S) * sizeof(float);
  return c;
}

/* ---- heads_bwd */
static inline ij_dim ij_heads_parts(int sms, ij_dim R) { return ij_least(ij_ceil_div(R, 8), 4 * (ij_dim)sms); }
static inline size_t ij_heads_stats_scratch(ij_dim R, ij_dim A) { return (size_t)(R * 2 * A * 2) * sizeof(float); }
static inline size_t ij_heads_sums_scratch(int sms, ij_dim R, ij_dim S) {
  return (size_t)(ij_heads_parts(sms, R) * 4 * S) * sizeof(float);
}

/* ---- sum_fwd, losses, sum_squares */
enum { IJ_SUM_RUN = 1024, IJ_SUM_CHUNK = 256, IJ_LOSS_PARTS = 1024, IJ_SQUARE_PARTS = 1024 };
/* Into how many parts a pass of the sum over n of (P, n, Q) goes; 1: it is the last pass. Not bytes. */
static inline ij_dim ij_sum_parts(ij_dim n, ij_dim Q) { return ij_ceil_div(n, Q == 1 ? IJ_SUM_RUN : IJ_SUM_CHUNK); }
static inline size_t ij_sum_scratch(ij_dim P, ij_dim parts, ij_dim Q) {
  return (size_t)(P * parts * Q) * sizeof(float);
}
static inline size_t ij_smooth_l1_scratch(void) { return IJ_LOSS_PARTS * sizeof(double); }
static inline size_t ij_cross_entropy_scratch(ij_dim R) { return (size_t)(R + 1) * sizeof(float); }
static inline size_t ij_sum_squares_scratch(void) { return 2 * IJ_SQUARE_PARTS * sizeof(double); }

/* ---- trust: two sums of each block, of so many elements of a tensor of n */
enum { IJ_TRUST_CHUNK = 1 << 16 };
static inline size_t ij_trust_blocks(ij_dim n) { return n ? (size_t)ij_ceil_div(n, IJ_TRUST_CHUNK) : 1; }
static inline size_t ij_trust_scratch(size_t blocks) { return 2 * blocks * sizeof(double); }

/* ---- tokens_bwd: sums (sequences, E) f32 of the mask token's gradient, then sum_fwd's over them */
static inline size_t ij_tokens_bwd_scratch(ij_dim sequences, ij_dim E) {
  return (size_t)(sequences * E) * sizeof(float);
}

/* ---- fold_fwd, sort, scatter_add */
enum { IJ_FOLD_RUN = 1024, IJ_FOLD_ENOUGH = 1 << 16, IJ_FOLD_STATE = 16 };
/* Into how many runs each fold of (P, n, Q) goes; 1: there are enough folds, or they are short. Not bytes. */
static inline ij_dim ij_fold_parts(ij_dim P, ij_dim n, ij_dim Q) {
  ij_dim most = IJ_FOLD_ENOUGH / (P * Q < 1 ? 1 : P * Q), parts = ij_least(most, n / IJ_FOLD_RUN);
  return parts < 1 ? 1 : parts;
}
static inline size_t ij_fold_scratch(ij_dim P, ij_dim n, ij_dim Q) {
  return (size_t)(P * ij_fold_parts(P, n, Q) * Q) * IJ_FOLD_STATE;
}
static inline size_t ij_sort_scratch(ij_dim R, ij_dim n) { return (size_t)(R * n) * sizeof(int32_t); }
/* Whether sums at positions put these in order first: one row of positions for all columns, and many of them */
static inline bool ij_scatter_orders(ij_dim P, ij_dim T, ij_dim Q, int shared) {
  return (shared || Q == 1) && T > 32 && P * Q < IJ_FOLD_ENOUGH;
}

/* ---- a weight's copy in bf16, n elements: kept under its version, or, of version 0, in a scratch slot */
enum { IJ_WEIGHT_SLOT = 7 };
static inline size_t ij_weight_bytes(ij_dim n) { return (size_t)n * 2; }
#endif
