/* Which ops have a fast version on the CPU; the others keep the reference. */
#include "cpu.h"

void IJ_CPU(table)(ij_op_table *t) {
  t->linear_fwd = IJ_CPU(linear_fwd);
  t->linear_bwd_x = IJ_CPU(linear_bwd_x);
  t->linear_bwd_w = IJ_CPU(linear_bwd_w);
  t->attention_fwd = IJ_CPU(attention_fwd);
  t->attention_bwd = IJ_CPU(attention_bwd);
  t->bias_add = IJ_CPU(bias_add);
  t->norm_fwd = IJ_CPU(norm_fwd);
  t->norm_bwd = IJ_CPU(norm_bwd);
  t->heads_fwd = IJ_CPU(heads_fwd);
  t->heads_bwd = IJ_CPU(heads_bwd);
  t->swiglu_fwd = IJ_CPU(swiglu_fwd);
  t->swiglu_bwd = IJ_CPU(swiglu_bwd);
  t->weight_scale_fwd = IJ_CPU(weight_scale_fwd);
  t->weight_scale_bwd = IJ_CPU(weight_scale_bwd);
  t->gelu_fwd = IJ_CPU(gelu_fwd);
  t->gelu_bwd = IJ_CPU(gelu_bwd);
  t->patchify = IJ_CPU(patchify);
  t->normalise = IJ_CPU(normalise);
  t->pos_add = IJ_CPU(pos_add);
  t->tokens_fwd = IJ_CPU(tokens_fwd);
  t->tokens_bwd = IJ_CPU(tokens_bwd);
  t->tail_fwd = IJ_CPU(tail_fwd);
  t->tail_bwd = IJ_CPU(tail_bwd);
  t->gather_fwd = IJ_CPU(gather_fwd);
  t->gather_bwd = IJ_CPU(gather_bwd);
  t->smooth_l1_fwd = IJ_CPU(smooth_l1_fwd);
  t->smooth_l1_bwd = IJ_CPU(smooth_l1_bwd);
  t->cross_entropy_fwd = IJ_CPU(cross_entropy_fwd);
  t->cross_entropy_bwd = IJ_CPU(cross_entropy_bwd);
  t->softmax_fwd = IJ_CPU(softmax_fwd);
  t->softmax_bwd = IJ_CPU(softmax_bwd);
  t->matmul = IJ_CPU(matmul);
  t->scale_rows = IJ_CPU(scale_rows);
  t->adamw = IJ_CPU(adamw);
  t->affine = IJ_CPU(affine);
  t->axpy = IJ_CPU(axpy);
  t->relu_fwd = IJ_CPU(relu_fwd);
  t->relu_bwd = IJ_CPU(relu_bwd);
  t->sum_fwd = IJ_CPU(sum_fwd);
  t->sum_bwd = IJ_CPU(sum_bwd);
  t->argmax = IJ_CPU(argmax);
  t->topk = IJ_CPU(topk);
  t->batch_norm_fwd = IJ_CPU(batch_norm_fwd);
  t->batch_norm_bwd = IJ_CPU(batch_norm_bwd);
  t->sum_squares = IJ_CPU(sum_squares);
  t->convert = IJ_CPU(convert);
  t->copy = IJ_CPU(copy);
  t->fill = IJ_CPU(fill);
}
