/* Internals of the models: named parameters, a stack of transformer blocks, position tables. */
#ifndef IJ_MODEL_H
#define IJ_MODEL_H
#include "../tensor/tensor.h"

/* A model's tensors: all trained values in one flat run of memory. */
typedef struct ij_param {
  char *name;
  ij_tensor *t; /* kept; a view of params.flat when trained */
  bool trained, decayed;
} ij_param;
struct ij_params {
  ij_param *p;
  int count, cap;
  ij_tensor *flat;
};
/* Declares a tensor; ij_params_build then makes them all. */
ij_status ij_params_add(ij_params *ps, bool trained, int ndim, const int64_t *shape, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* Values: matrices from a normal cut at +-2 (standard deviation: see ij_vit_config), norm weights ("norm...weight") 1,
 * the rest 0. */
ij_status ij_params_build(ij_params *ps, ij_device *dev, const ij_vit_config *c);
void ij_params_release(ij_params *ps);
ij_tensor *ij_params_get(ij_params *ps, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* IJ_BUG if missing */

/* One transformer block's parameters, borrowed from the params. */
typedef struct ij_block {
  ij_tensor *norm1_w, *norm1_b;             /* (D) */
  ij_tensor *qkv_w, *qkv_b;                 /* (3D, D), (3D) */
  ij_tensor *proj_w, *proj_b;               /* (D, D), (D) */
  ij_tensor *norm2_w, *norm2_b;             /* (D) */
  ij_tensor *fc1_w, *fc1_b, *fc2_w, *fc2_b; /* (F, D), (F), (D, F), (D); with SwiGLU fc1 (2F, D), (2F) */
  ij_tensor *qk_norm[4];                    /* (S): weight and bias of queries' norm, of keys'; NULL without */
  ij_tensor *ls1, *ls2;                     /* (D): factors of the branches; NULL without */
} ij_block;
/* Which patches the tokens of a forward are, for rotary positions: see ij_vit_blocks_places. */
typedef struct ij_places {
  ij_tensor *context; /* i32 (C, B, K), or NULL */
  int64_t K, W;       /* tokens with a place, columns of the grid */
} ij_places;
typedef struct ij_drop_path { /* stochastic depth of recorded forwards; rate 0: off */
  double rate;
  uint64_t seed;
  uint32_t step;
} ij_drop_path;
typedef struct ij_stack {
  ij_device *dev;
  ij_block *blocks;
  ij_tensor *norm_w, *norm_b; /* the last norm */
  int depth;
  int64_t D, F, A, S;
  ij_dtype dt;
  bool recompute;
  int frozen; /* the first blocks, of recorded forwards: neither they nor the input get gradients */
  bool swiglu;
  double rope;           /* 0: none */
  ij_tensor *rope_table; /* (L, 2, S / 4); NULL before the first forward */
  ij_places places;      /* of the forward or backward that runs; borrowed */
  int recorded;          /* forwards whose backward is still to come: gradients are complete after the last one */
  ij_drop_path drop;
} ij_stack;
ij_status ij_stack_declare(ij_params *ps, const ij_vit_config *c, const char *prefix); /* prefix "blocks" */
ij_status ij_stack_init(ij_stack *s, ij_device *dev, ij_params *ps, const ij_vit_config *c, const char *prefix,
                        const char *norm);
void ij_stack_release(ij_stack *s);
int64_t ij_mlp_width(const ij_vit_config *c);
/* The places of the next forward's tokens: checks them and makes the table of angles. Does nothing without rope. */
ij_status ij_stack_places(ij_stack *s, const char *what, int64_t Q, int64_t N, ij_tensor *context, int64_t grid_h,
                          int64_t grid_w);

/* ---- options.c: what a block has besides, each only where its parameters are there */
bool ij_heads_special(const ij_stack *s, const ij_block *w); /* whether queries and keys are more than a linear layer */
/* qkv (Q * N, 3D) with its bias, norms and rotation -> *out: qkv itself (one more reference) where it need not stay */
ij_status ij_heads_fwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, ij_tensor *qkv, bool stays,
                       ij_tensor **out);
/* d (Q * N, 3D): the gradient of what ij_heads_fwd gave becomes that of qkv */
ij_status ij_heads_bwd(ij_stack *s, const ij_block *w, int64_t Q, int64_t N, ij_tensor *qkv, ij_tensor *d);
/* A branch's last layer with its factor: *ws, *bs are w and b times gamma, or, where that is NULL, w and b themselves
 * (one more reference each); version: ws's for linear_fwd. */
ij_status ij_scaled_weight(ij_stack *s, ij_tensor *w, ij_tensor *b, ij_tensor *gamma, ij_tensor **ws, ij_tensor **bs,
                           uint64_t *version);
/* dy (R, N) [dt], x (R, K) [dt]: adds the gradients of w, b and, where it is not NULL, gamma */
ij_status ij_scaled_weight_bwd(ij_stack *s, int64_t R, ij_tensor *dy, ij_tensor *x, ij_tensor *w, ij_tensor *b,
                               ij_tensor *gamma);

/* What a forward keeps for its backward; opaque. */
typedef struct ij_stack_saved ij_stack_saved;
/* x (Q, N, D) f32, taken over -> y (Q * n, D) [y_dt] after the last norm, n = N - first: rows before `first` of each
 * sequence are only attended to in the last block. saved NULL: no gradient, least memory. taps: the outputs of the
 * last `n_taps` blocks (Q, N, D) f32, when n_taps > 0 (then first is 0, and y may be NULL). */
ij_status ij_stack_fwd(ij_stack *s, int64_t Q, int64_t N, int64_t first, ij_tensor *x, ij_dtype y_dt, ij_tensor **y,
                       ij_stack_saved **saved, int n_taps, ij_tensor **taps);
/* Attention probabilities of block `block` for x (Q, N, D) f32, taken over -> p (Q, A, N, N) f32; no gradient. */
ij_status ij_stack_attention(ij_stack *s, int64_t Q, int64_t N, int block, ij_tensor *x, ij_tensor **p);
/* dy (Q * n, D) [y_dt] -> dx (Q, N, D) f32, of the first block that is not frozen, and its copy in s->dt (the same
 * tensor when that is f32). The gradients of a block's parameters are given to their sinks when this is the last
 * backward to come. */
ij_status ij_stack_bwd(ij_stack *s, ij_stack_saved *saved, ij_tensor *dy, ij_tensor **dx, ij_tensor **dx_dt);
void ij_stack_saved_free(void *saved);

/* Fixed 2-D sine-cosine positions (1, N, D), patches row-major: first half of D the column, second the row. A model's
 * table for a grid: the configured one, or another, computed when asked for and kept for the next call. */
typedef struct ij_positions {
  ij_tensor *table, *other; /* table: borrowed parameter (1, N, D) */
  int grid_h, grid_w, other_h, other_w;
} ij_positions;
/* Fills table, a borrowed parameter. */
ij_status ij_positions_init(ij_positions *p, ij_tensor *table, int grid_h, int grid_w);
ij_status ij_positions_get(ij_positions *p, int grid_h, int grid_w, ij_tensor **table);

/* How images become tokens. w (D, 3, P, P), b (D), scale6 (6): bytes -> normalised. All borrowed. */
typedef struct ij_embedding {
  const char *name; /* in messages */
  ij_device *dev;
  ij_dtype dt;
  ij_tensor *w, *b, *scale6;
} ij_embedding;
typedef struct ij_embed_sizes { /* of one call */
  int64_t C, B, K, H, W, gh, gw;
  int u8;
} ij_embed_sizes;
ij_status ij_embed_measure(const ij_embedding *e, ij_tensor *images, ij_tensor *context, ij_embed_sizes *g);
/* pos (1, gh * gw, D) -> x (C * B, K, D) f32 */
ij_status ij_embed_fwd(const ij_embedding *e, const ij_embed_sizes *g, ij_tensor *images, ij_tensor *context,
                       ij_tensor *pos, ij_tensor **x);
/* dx_dt (C * B * K, D) [dt]: adds the gradients of w and b; last: they are complete now. */
ij_status ij_embed_bwd(const ij_embedding *e, const ij_embed_sizes *g, ij_tensor *images, ij_tensor *context,
                       ij_tensor *dx_dt, bool last);

/* The end of a model's forward: y becomes *out (one more reference), recorded with ctx where that is not NULL (as
 * ij_record does); takes over ctx. in: n inputs. */
ij_status ij_model_output(ij_tensor *y, ij_tensor *const *in, int n, ij_status (*backward)(ij_node *), void *ctx,
                          void (*drop)(void *), ij_tensor **out);
ij_status ij_vit_config_check(const ij_vit_config *c, const char *what);
/* t in the type dt: t itself (one more reference) or a converted copy */
ij_status ij_as_dtype(ij_tensor *t, ij_dtype dt, ij_tensor **out);
#endif
