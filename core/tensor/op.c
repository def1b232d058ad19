/* An op from the checks of its inputs to its record on the tape, see tensor.h. */
#include "tensor.h"
#include <string.h>

ij_op ij_begin(const char *name, ij_status (*backward)(ij_node *), ij_tensor **out) {
  *out = NULL;
  return (ij_op){.name = name, .result = out, .node = {.name = name, .backward = backward, .reads = IJ_READS_INPUTS}};
}

/* The first input chooses the device. dx: the tape makes its gradient. */
static ij_status add_input(ij_op *op, const char *arg, ij_tensor *t, bool dx) {
  if (op->inputs == IJ_MAX_INPUTS) IJ_BUG("an op with too many inputs");
  if (!op->dev) {
    op->dev = ij_device_of(t);
    op->first = arg;
  }
  IJ_TRY(ij_want_device(op->name, arg, t, op->dev, op->first));
  op->node.makes_dx[op->inputs] = dx;
  op->node.in[op->inputs++] = t;
  return IJ_OK;
}
ij_status ij_in(ij_op *op, const char *arg, ij_tensor *t, ij_dtype dt) {
  IJ_TRY(ij_want(op->name, arg, t, dt));
  return add_input(op, arg, t, dt == IJ_F32);
}
ij_status ij_in_shape(ij_op *op, const char *arg, ij_tensor *t, ij_dtype dt, int ndim, const int64_t *shape) {
  IJ_TRY(ij_want_shape(op->name, arg, t, dt, ndim, shape));
  return add_input(op, arg, t, dt == IJ_F32);
}
ij_status ij_in_weight(ij_op *op, const char *arg, ij_tensor *t, int ndim, const int64_t *shape) {
  IJ_TRY(ij_want_shape(op->name, arg, t, IJ_F32, ndim, shape));
  return add_input(op, arg, t, false);
}
ij_status ij_in_any(ij_op *op, const char *arg, ij_tensor *t) {
  IJ_TRY(ij_want_alive(op->name, arg, t));
  return add_input(op, arg, t, t->dtype == IJ_F32);
}

void ij_attr(ij_op *op, const void *attributes, size_t bytes) {
  if (bytes > sizeof op->node.attr) IJ_BUG("an op with too many attributes");
  memcpy(op->node.attr, attributes, bytes);
}

static void *make(ij_op *op, ij_dtype dt, int ndim, const int64_t *shape, ij_tensor **t) {
  if (op->status == IJ_OK) op->status = ij_tensor_make(op->dev, dt, ndim, shape, false, t);
  return op->status == IJ_OK ? ij_data_of(*t) : NULL;
}
void *ij_out(ij_op *op, ij_dtype dt, int ndim, const int64_t *shape) {
  return make(op, dt, ndim, shape, &op->node.out);
}
void *ij_save(ij_op *op, ij_dtype dt, int ndim, const int64_t *shape) {
  return make(op, dt, ndim, shape, &op->node.saved[op->saves++]);
}

bool ij_ready(ij_op *op) {
  bool wanted = false;
  for (int i = 0; i < op->inputs; i++) wanted |= op->node.in[i]->requires_grad;
  op->record = wanted && op->node.backward && op->dev->grad_on && !op->dev->walking;
  if (op->status == IJ_OK && op->record) op->status = ij_tape_reserve(op->dev);
  return op->status == IJ_OK;
}

ij_status ij_end(ij_op *op) {
  ij_node *n = &op->node;
  bool record = op->status == IJ_OK && op->record;
  for (int i = 0; i < op->saves && !record; i++) ij_drop(&n->saved[i]);
  if (record) op->status = ij_record(n); /* takes over what is saved */
  if (op->status != IJ_OK) ij_drop(&n->out);
  *op->result = n->out;
  return op->status;
}
