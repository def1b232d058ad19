#include "tensor.h"
#include <string.h>

bool ij_recording(const ij_tensor *const *in, int n) {
  for (int i = 0; i < n; i++)
    if (in[i] && in[i]->requires_grad) return in[i]->storage->dev->grad_on;
  return false;
}

static void node_drop(ij_node *n) {
  for (int i = 0; i < 8; i++) ij_drop(&n->in[i]);
  ij_drop(&n->out);
  if (n->ctx) (n->drop ? n->drop : ij_free)(n->ctx);
  n->ctx = NULL;
}

ij_status ij_record(ij_tensor *out, ij_tensor *const *in, int n, ij_status (*backward)(ij_node *), void *ctx,
                    void (*drop)(void *), ij_node **node) {
  ij_device *dev = out->storage->dev;
  if (dev->tape_len == dev->tape_cap) {
    int cap = dev->tape_cap ? 2 * dev->tape_cap : 64;
    ij_node *more = ij_realloc(dev->tape, (size_t)cap * sizeof *more);
    if (!more) {
      if (ctx) (drop ? drop : ij_free)(ctx);
      return IJ_ENOMEM;
    }
    dev->tape = more;
    dev->tape_cap = cap;
  }
  ij_node *e = &dev->tape[dev->tape_len++];
  *e = (ij_node){.backward = backward, .ctx = ctx, .drop = drop, .out = ij_hold(out)};
  for (int i = 0; i < n; i++) e->in[i] = ij_hold(in[i]);
  out->requires_grad = true;
  if (node) *node = e;
  return IJ_OK;
}

void ij_tape_clear(ij_device *dev) {
  for (int i = dev->tape_len - 1; i >= 0; i--) node_drop(&dev->tape[i]);
  dev->tape_len = 0;
}

ij_status ij_grad_add(ij_tensor *t, ij_tensor *g) {
  if (!t->requires_grad) {
    ij_tensor_free(g);
    return IJ_OK;
  }
  if (!t->grad) {
    bool outlives = t->storage->step != 0 || g->storage->step == 0;
    if (g->refs == 1 && outlives) {
      t->grad = g;
      return IJ_OK;
    }
    /* someone else holds g, or it ends with the step and t does not: copy */
    t->grad = ij_make(t->storage->dev, IJ_F32, t->ndim, t->shape, t->storage->step == 0);
    ij_status st = t->grad ? t->storage->dev->ops.convert(&t->storage->dev->queue, ij_tensor_count(t), IJ_F32,
                                                          ij_f32_of(g), IJ_F32, ij_f32_of(t->grad))
                           : IJ_ENOMEM;
    ij_tensor_free(g);
    return st;
  }
  ij_device *dev = t->storage->dev;
  ij_status st = dev->ops.axpy(&dev->queue, ij_tensor_count(t), 1, ij_f32_of(g), ij_f32_of(t->grad));
  ij_tensor_free(g);
  return st;
}

float *ij_grad_of(ij_tensor *t) {
  if (!t->grad) {
    ij_device *dev = t->storage->dev;
    t->grad = ij_make(dev, IJ_F32, t->ndim, t->shape, t->storage->step == 0 && !t->sink);
    if (!t->grad || dev->ops.fill(&dev->queue, ij_tensor_count(t), 0, ij_f32_of(t->grad)) != IJ_OK) return NULL;
  }
  return ij_f32_of(t->grad);
}

ij_status ij_grad_whole(ij_tensor *t) {
  if (!t->sink || !t->grad) return IJ_OK;
  ij_status st = t->sink->take(t->sink, t);
  ij_drop(&t->grad);
  return st;
}

ij_status ij_backward(ij_tensor *loss) {
  IJ_TRY(ij_want("backward", "loss", loss, IJ_F32));
  if (ij_tensor_count(loss) != 1)
    return ij_fail(IJ_ESHAPE, "backward: the loss has %lld elements, expected one: take its mean()",
                   (long long)ij_tensor_count(loss));
  if (!loss->requires_grad) return ij_fail(IJ_EINVAL, "backward: nothing that the loss depends on requires a gradient");
  ij_device *dev = loss->storage->dev;
  float *seed = ij_grad_of(loss);
  ij_status st = seed ? dev->ops.fill(&dev->queue, 1, 1, seed) : IJ_ENOMEM;
  for (int i = dev->tape_len - 1; i >= 0 && st == IJ_OK; i--) {
    ij_node *n = &dev->tape[i];
    if (n->out->grad) {
      st = n->backward(n);
      ij_drop(&n->out->grad); /* only leaves keep theirs; memory is given back as early as can be */
    }
    node_drop(n);
    dev->tape_len = i;
  }
  ij_tape_clear(dev);
  return st;
}
