/* The tape of a device: recorded ops, run backwards; and the gradients that this makes. */
#include "tensor.h"
#include <string.h>

static void drop_saved(ij_node *n) {
  for (int i = 0; i < 2; i++) ij_drop(&n->saved[i]);
  if (n->ctx) n->drop(n->ctx);
  n->ctx = NULL;
}
static void count_uses(ij_node *n, int by) {
  for (int i = 0; i < IJ_MAX_INPUTS; i++)
    if (n->in[i]) n->in[i]->uses += by;
}
/* What is left has no output, until the tape is closed up. */
static void node_drop(ij_node *n) {
  count_uses(n, n->passed ? 0 : -1);
  for (int i = 0; i < IJ_MAX_INPUTS; i++) ij_drop(&n->in[i]);
  drop_saved(n);
  ij_drop(&n->out->grad); /* only leaves keep theirs */
  n->out->origin = IJ_RELEASED;
  ij_drop(&n->out);
}

ij_status ij_tape_reserve(ij_device *dev) {
  if (dev->tape_len < dev->tape_cap) return IJ_OK;
  int cap = dev->tape_cap ? 2 * dev->tape_cap : 64;
  ij_node *more = ij_realloc(dev->tape, (size_t)cap * sizeof *more);
  if (!more) return IJ_ENOMEM;
  dev->tape = more;
  dev->tape_cap = cap;
  return IJ_OK;
}

ij_status ij_record(const ij_node *node) {
  ij_node n = *node;
  ij_device *dev = ij_device_of(n.out);
  ij_status st = ij_tape_reserve(dev);
  if (st != IJ_OK) {
    drop_saved(&n);
    return st;
  }
  for (int i = 0; i < IJ_MAX_INPUTS; i++) {
    if (!n.in[i]) continue;
    ij_hold(n.in[i])->uses++;
    n.in_version[i] = n.in[i]->storage->version;
  }
  for (int i = 0; i < 2; i++)
    if (n.saved[i]) n.saved_version[i] = n.saved[i]->storage->version;
  n.out_version = n.out->storage->version;
  ij_hold(n.out)->requires_grad = true;
  n.out->origin = IJ_RECORDED;
  dev->tape[dev->tape_len++] = n;
  return IJ_OK;
}

void ij_tape_clear(ij_device *dev) {
  dev->walking = false;
  dev->custom = NULL;
  while (dev->tape_len > 0)
    if (dev->tape[--dev->tape_len].out) node_drop(&dev->tape[dev->tape_len]);
}

/* ---- gradients */
/* Like t. A gradient lives as long as t does, unless a sink takes it within the step. */
static ij_status make(const ij_tensor *t, bool kept, ij_tensor **g) {
  return ij_tensor_make(ij_device_of(t), IJ_F32, t->ndim, t->shape, kept, g);
}

static ij_status publish(ij_status st, ij_tensor *t, ij_tensor *g) {
  if (st == IJ_OK) t->grad = g;
  else ij_tensor_free(g);
  return st;
}

static ij_status add(ij_tensor *t, const ij_tensor *g) {
  ij_device *dev = ij_device_of(t);
  int64_t n = ij_tensor_count(t);
  if (t->grad) return dev->ops.axpy(&dev->queue, n, 1, ij_f32_of(g), ij_f32_of(t->grad));
  ij_tensor *copy;
  IJ_TRY(make(t, t->storage->step == 0, &copy));
  return publish(dev->ops.convert(&dev->queue, n, IJ_F32, ij_f32_of(g), IJ_F32, ij_f32_of(copy)), t, copy);
}

ij_status ij_grad_add(ij_tensor *t, ij_tensor *g) {
  bool outlives = t->storage->step != 0 || g->storage->step == 0; /* g does not end before t */
  if (t->requires_grad && !t->grad && g->refs == 1 && outlives) return publish(IJ_OK, t, g);
  ij_status st = t->requires_grad ? add(t, g) : IJ_OK;
  ij_tensor_free(g);
  return st;
}

ij_status ij_grad_into(ij_tensor *t, float **grad) {
  *grad = NULL;
  if (!t->grad) {
    ij_device *dev = ij_device_of(t);
    ij_tensor *g;
    IJ_TRY(make(t, t->storage->step == 0 && !t->sink, &g));
    IJ_TRY(publish(dev->ops.fill(&dev->queue, ij_tensor_count(t), 0, ij_f32_of(g)), t, g));
  }
  *grad = ij_f32_of(t->grad);
  return IJ_OK;
}

ij_status ij_grad_whole(ij_tensor *t) {
  if (!t->sink || !t->grad || t->uses > 0) return IJ_OK;
  ij_status st = t->sink->take(t->sink, t);
  ij_drop(&t->grad);
  return st;
}

/* ---- backward */
/* Backward reads values that forward saw: whether they are still the same, and whether the gradients that it makes can
 * go on to the leaves. */
static ij_status check_values(const ij_node *n) {
  bool same = !(n->reads & IJ_READS_OUT) || n->out->storage->version == n->out_version;
  for (int i = 0; i < IJ_MAX_INPUTS && n->in[i]; i++) {
    if (n->reads & 1U << i) same = same && n->in[i]->storage->version == n->in_version[i];
    if (n->in[i]->requires_grad && n->in[i]->origin == IJ_RELEASED)
      return ij_fail(IJ_EINVAL,
                     "backward: what '%s' was computed from has had its backward, which freed its record: give "
                     "that one { retain = true }, or use detach()",
                     n->name);
  }
  for (int i = 0; i < 2; i++) same = same && (!n->saved[i] || n->saved[i]->storage->version == n->saved_version[i]);
  if (same) return IJ_OK;
  return ij_fail(IJ_EINVAL,
                 "backward: a tensor that '%s' needs was changed in place after it: change a clone(), or after "
                 "the backward",
                 n->name);
}
/* Runs a node with new gradients for its inputs, and adds these only where it succeeds. */
static ij_status run(ij_node *n) {
  ij_tensor *g[IJ_MAX_INPUTS] = {0};
  ij_status st = check_values(n);
  for (int i = 0; i < IJ_MAX_INPUTS && st == IJ_OK; i++) {
    bool wanted = n->makes_dx[i] && (n->in[i]->requires_grad || (i == 0 && n->always_dx));
    if (wanted) st = make(n->in[i], false, &g[i]);
    n->dx[i] = g[i] ? ij_f32_of(g[i]) : NULL;
  }
  if (st == IJ_OK) st = n->backward(n);
  for (int i = 0; i < IJ_MAX_INPUTS; i++) {
    if (g[i] && st == IJ_OK) st = ij_grad_add(n->in[i], g[i]);
    else ij_tensor_free(g[i]);
  }
  return st;
}
/* A node whose gradient has been used, or that the loss does not depend on. Without retain the first kind is dropped,
 * to free memory as early as possible; and of the second what nobody can ask a gradient of any more. */
static void node_done(ij_device *dev) {
  ij_node *n = &dev->tape[--dev->walk];
  bool used = n->out->grad != NULL;
  dev->custom = NULL;
  if (!dev->retain && (used || n->out->refs == 1)) {
    node_drop(n);
    return;
  }
  ij_drop(&n->out->grad);
  n->spent |= used && n->ctx != NULL;
  n->passed = !dev->retain; /* it adds nothing to its inputs' gradients in this backward */
  count_uses(n, n->passed ? -1 : 0);
}
/* Nodes that are left close up, in their order. */
static void close_up(ij_device *dev) {
  int len = 0;
  for (int i = 0; i < dev->tape_len; i++) {
    if (!dev->tape[i].out) continue;
    ij_node *n = &dev->tape[len++];
    *n = dev->tape[i];
    count_uses(n, n->passed ? 1 : 0);
    n->passed = false;
  }
  dev->tape_len = len;
}

static ij_status custom_backward(ij_node *n) {
  (void)n;
  return ij_fail(IJ_EINVAL, "backward: a function of the caller's own is on the tape: begin with ij_backward_begin");
}

void ij_backward_stop(ij_device *dev) {
  if (!dev->walking) return;
  for (int i = 0; i < dev->walk; i++) ij_drop(&dev->tape[i].out->grad);
  dev->walking = false;
  dev->custom = NULL;
  close_up(dev);
}

ij_status ij_backward_begin(ij_tensor *loss, int retain) {
  IJ_TRY(ij_want("backward", "loss", loss, IJ_F32));
  if (ij_tensor_count(loss) != 1)
    return ij_fail(IJ_ESHAPE, "backward: the loss has %lld elements, expected one: take its mean()",
                   (long long)ij_tensor_count(loss));
  if (!loss->requires_grad) return ij_fail(IJ_EINVAL, "backward: nothing that the loss depends on requires a gradient");
  if (loss->origin == IJ_RELEASED)
    return ij_fail(IJ_EINVAL, "backward: the loss has had its backward, which freed its record: give the first one "
                              "{ retain = true }");
  ij_device *dev = ij_device_of(loss);
  if (dev->walking) return ij_fail(IJ_EINVAL, "backward: another backward of this device has not ended");
  float *seed;
  dev->walking = true;
  dev->retain = retain != 0;
  dev->walk = dev->tape_len;
  ij_status st = ij_grad_into(loss, &seed);
  if (st == IJ_OK) st = dev->ops.fill(&dev->queue, 1, 1, seed);
  if (st != IJ_OK) ij_backward_stop(dev);
  return st;
}

ij_status ij_backward_run(ij_device *dev, int64_t *id, ij_tensor **grad) {
  *id = 0;
  *grad = NULL;
  if (!dev->walking) return ij_fail(IJ_EINVAL, "backward: none has begun");
  ij_status st = IJ_OK;
  if (dev->custom) node_done(dev); /* the caller is done with it */
  while (dev->walk > 0 && st == IJ_OK) {
    ij_node *n = &dev->tape[dev->walk - 1];
    if (n->out->grad && n->backward == custom_backward) {
      st = check_values(n);
      if (st != IJ_OK) break;
      memcpy(id, n->attr, sizeof *id);
      *grad = n->out->grad;
      dev->custom = n;
      return IJ_OK;
    }
    if (n->out->grad && n->spent)
      st = ij_fail(IJ_EINVAL, "backward: a model's forward can be run back once: run it again for another backward");
    if (n->out->grad && st == IJ_OK) st = run(n);
    if (st == IJ_OK) node_done(dev);
  }
  ij_backward_stop(dev);
  return st;
}

ij_status ij_backward_give(ij_device *dev, int i, ij_tensor *g) {
  ij_node *n = dev->custom;
  if (!n) return ij_fail(IJ_EINVAL, "backward: no function of the caller's own is at work");
  if (i < 0 || i >= IJ_MAX_INPUTS || !n->in[i])
    return ij_fail(IJ_EINVAL, "backward: a gradient for input %d, which the function does not have", i + 1);
  if (!g || !n->in[i]->requires_grad) return IJ_OK;
  IJ_TRY(ij_want_shape("backward", "gradient", g, IJ_F32, n->in[i]->ndim, n->in[i]->shape));
  IJ_TRY(ij_want_device("backward", "gradient", g, dev, "the function"));
  return ij_grad_add(n->in[i], ij_hold(g));
}

ij_status ij_record_custom(ij_tensor **in, int n, ij_tensor *out, int64_t id) {
  ij_node node = {.name = "tensor.fn", .backward = custom_backward, .out = out, .reads = IJ_READS_INPUTS};
  bool wanted = false;
  if (n < 1 || n > IJ_MAX_INPUTS) return ij_fail(IJ_EINVAL, "custom: %d inputs, expected 1 to %d", n, IJ_MAX_INPUTS);
  if (!id) return ij_fail(IJ_EINVAL, "custom: the id is 0");
  IJ_TRY(ij_want("custom", "out", out, IJ_F32));
  ij_device *dev = ij_device_of(out);
  for (int i = 0; i < n; i++) {
    IJ_TRY(ij_want_alive("custom", "in", in[i]));
    IJ_TRY(ij_want_device("custom", "in", in[i], dev, "out"));
    if (in[i] == out) return ij_fail(IJ_EINVAL, "custom: 'out' is one of the inputs: return a clone()");
    if (in[i]->requires_grad && in[i]->dtype != IJ_F32)
      return ij_fail(IJ_ESHAPE, "custom: input %d is %s and requires a gradient, expected f32", i + 1,
                     ij_dtype_name(in[i]->dtype));
    wanted |= in[i]->requires_grad;
    node.in[i] = in[i];
  }
  if (!wanted || !dev->grad_on || dev->walking) return IJ_OK;
  if (out->requires_grad) return ij_fail(IJ_EINVAL, "custom: 'out' has a record already: return a detach() of it");
  memcpy(node.attr, &id, sizeof id);
  return ij_record(&node);
}

int ij_custom_recorded(ij_device *dev, int64_t id) {
  int64_t of_node;
  for (int i = 0; i < dev->tape_len; i++) {
    if (dev->tape[i].backward != custom_backward) continue;
    memcpy(&of_node, dev->tape[i].attr, sizeof of_node);
    if (of_node == id) return 1;
  }
  return 0;
}

ij_status ij_backward(ij_tensor *loss, int retain) {
  int64_t id;
  ij_tensor *grad;
  IJ_TRY(ij_backward_begin(loss, retain));
  ij_device *dev = ij_device_of(loss);
  ij_status st = ij_backward_run(dev, &id, &grad);
  if (st == IJ_OK && id) {
    st = custom_backward(dev->custom);
    ij_backward_stop(dev);
  }
  return st;
}
