/* Ops and gradients where something fails: tensors of two devices, no memory, a device that reports a fault. */
#include "../../core/tensor/tensor.h"
#include "suite.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ij_device *cpu, *other;
static size_t live_before;

static void open_devices(void) {
  live_before = ij_mem_live();
  ck_assert_int_eq(ij_device_open("cpu", &cpu), IJ_OK);
  ck_assert_int_eq(ij_device_open("dry", &other), IJ_OK);
}
static void close_devices(void) {
  ij_mem_fail_at(0);
  ij_device_close(cpu);
  ij_device_close(other);
  ck_assert_uint_eq(ij_mem_live(), live_before);
}

static ij_tensor *filled(ij_device *dev, int ndim, const int64_t *shape, double value) {
  ij_tensor *t;
  ck_assert_int_eq(ij_tensor_new_kept(dev, IJ_F32, ndim, shape, &t), IJ_OK);
  ck_assert_int_eq(ij_fill(t, value), IJ_OK);
  return t;
}
static ij_tensor *integers(ij_device *dev, int ndim, const int64_t *shape) { /* zeros */
  ij_tensor *t;
  ck_assert_int_eq(ij_tensor_new_kept(dev, IJ_I32, ndim, shape, &t), IJ_OK);
  size_t bytes = (size_t)ij_tensor_count(t) * sizeof(int32_t);
  void *zeros = calloc(1, bytes);
  ck_assert_int_eq(ij_tensor_write(t, zeros, bytes), IJ_OK);
  free(zeros);
  return t;
}
#define SHAPE(...)                                                                                                     \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }

/* Asks for the one-line message of an op whose argument `arg` is on the device "dry" and `first` on "cpu". */
static void refused(ij_status st, const char *op, const char *arg, const char *first) {
  char want[200];
  snprintf(want, sizeof want, "%s: '%s' is on device 'dry', but '%s' is on 'cpu': use tensors of one device", op, arg,
           first);
  ck_assert_msg(st == IJ_EINVAL, "%s: status %d", want, (int)st);
  ck_assert_str_eq(ij_errmsg(), want);
}

static ij_vit_config small_vit(int depth) {
  return (ij_vit_config){.width = 32,
                         .depth = depth,
                         .heads = 2,
                         .mlp_ratio = 4,
                         .patch = 8,
                         .channels = 3,
                         .grid_h = 2,
                         .grid_w = 2,
                         .dtype = IJ_F32};
}

START_TEST(ops_refuse_tensors_of_two_devices)
{
  open_devices();
  int64_t big = 1 << 12; /* a kernel that read "dry" memory of this size would leave its block */
  ij_tensor *x = filled(cpu, SHAPE(2, big), 1), *w = filled(cpu, SHAPE(3, big), 1),
            *x3 = filled(cpu, SHAPE(2, 4, 8), 1);
  ij_tensor *dry_x = filled(other, SHAPE(2, big), 1), *dry_w = filled(other, SHAPE(3, big), 1);
  ij_tensor *dry_b = filled(other, SHAPE(3), 1), *row = filled(cpu, SHAPE(big), 1),
            *dry_row = filled(other, SHAPE(big), 1);
  ij_tensor *index = integers(other, SHAPE(1, 2, 1)), *label = integers(other, SHAPE(2)), *y = x;
  refused(ij_linear(x, dry_w, NULL, &y), "linear", "w", "x");
  ck_assert_ptr_null(y);
  refused(ij_linear(x, w, dry_b, &y), "linear", "b", "x");
  refused(ij_layer_norm(x, dry_row, row, 1e-6, &y), "layer_norm", "w", "x");
  refused(ij_layer_norm(x, row, dry_row, 1e-6, &y), "layer_norm", "b", "x");
  refused(ij_batch_norm(x, dry_row, row, .1, 1e-6, 1, &y), "batch_norm", "mean", "x");
  refused(ij_batch_norm(x, row, dry_row, .1, 1e-6, 1, &y), "batch_norm", "var", "x");
  refused(ij_matmul(x, dry_x, 0, 1, &y), "matmul", "b", "a");
  refused(ij_gather(x3, index, &y), "gather", "index", "x");
  refused(ij_binary("mul", x, dry_x, &y), "mul", "y", "x");
  refused(ij_cat((ij_tensor *[]){x, dry_x}, 2, 0, &y), "cat", "x", "x");
  refused(ij_smooth_l1(x, dry_x, 1, 1, &y), "smooth_l1", "y", "x");
  refused(ij_cross_entropy(x, label, 0, &y), "cross_entropy", "label", "logits");
  refused(ij_add_scaled(x, dry_x, 1), "add_scaled", "x", "y");
  refused(ij_tensor_copy(dry_x, x) == IJ_OK ? IJ_OK : ij_tensor_copy(x, dry_x), "copy", "src", "dst");
  double sum;
  int finite;
  refused(ij_sum_squares((ij_tensor *[]){x, dry_x}, 2, &sum, &finite), "sum_squares", "tensor", "tensor");
  ij_tensor *all[] = {x, w, x3, dry_x, dry_w, dry_b, row, dry_row, index, label};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) ij_tensor_free(all[i]);
  close_devices();
}
END_TEST

START_TEST(models_and_optimizers_refuse_another_device)
{
  open_devices();
  ij_vit_config c = small_vit(1);
  ij_predictor_config pc = {.vit = c, .encoder_width = 32};
  ij_encoder *e;
  ij_predictor *p;
  ij_optim *o;
  ij_tensor *y;
  ck_assert_int_eq(ij_encoder_new(cpu, &c, &e), IJ_OK);
  ck_assert_int_eq(ij_predictor_new(cpu, &pc, &p), IJ_OK);
  ck_assert_int_eq(ij_adamw_new(NULL, &o), IJ_OK);
  ij_tensor *images = filled(cpu, SHAPE(1, 3, 16, 16), 1), *dry_images = filled(other, SHAPE(1, 3, 16, 16), 1);
  ij_tensor *index = integers(cpu, SHAPE(1, 1, 2)), *dry_index = integers(other, SHAPE(1, 1, 2));
  ij_tensor *x = filled(cpu, SHAPE(1, 2, 32), 1), *dry_x = filled(other, SHAPE(1, 2, 32), 1);
  ij_tensor *gate = filled(other, SHAPE(1), 1);
  refused(ij_encoder_forward(e, dry_images, NULL, &y), "encoder", "images", "the model");
  refused(ij_encoder_forward(e, images, dry_index, &y), "encoder", "context", "the model");
  refused(ij_predictor_forward(p, dry_x, index, index, 0, 0, &y), "predictor", "x", "the model");
  refused(ij_predictor_forward(p, x, dry_index, index, 0, 0, &y), "predictor", "context", "the model");
  refused(ij_predictor_forward(p, x, index, dry_index, 0, 0, &y), "predictor", "target", "the model");
  refused(ij_optim_add(o, x, 1, dry_x), "adamw", "average", "parameter");
  ck_assert_int_eq(ij_optim_add(o, x, 1, NULL), IJ_OK);
  refused(ij_optim_add(o, dry_x, 1, NULL), "adamw", "parameter", "first parameter");
  refused(ij_optim_add_part(o, dry_x, 0, 1, 1, 1), "adamw", "parameter", "first parameter");
  refused(ij_optim_gate(o, gate), "adamw", "gate", "first parameter");
  ij_tensor *all[] = {images, dry_images, index, dry_index, x, dry_x, gate};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) ij_tensor_free(all[i]);
  ij_optim_free(o);
  ij_predictor_free(p);
  ij_encoder_free(e);
  close_devices();
}
END_TEST

START_TEST(two_openings_of_one_device_are_two_devices)
{
  open_devices();
  ij_device *again;
  ck_assert_int_eq(ij_device_open("cpu", &again), IJ_OK);
  ij_tensor *x = filled(cpu, SHAPE(2, 2), 1), *w = filled(again, SHAPE(2, 2), 1), *y;
  ck_assert_int_eq(ij_linear(x, w, NULL, &y), IJ_EINVAL);
  ck_assert_str_eq(ij_errmsg(), "linear: 'w' and 'x' are on two devices that were each opened as 'cpu': "
                                "use tensors of one device");
  ij_tensor_free(x);
  ij_tensor_free(w);
  ij_device_close(again);
  close_devices();
}
END_TEST

START_TEST(an_optimizer_is_closed_after_its_first_update)
{
  open_devices();
  for (int eager = 0; eager < 2; eager++) {
    ij_optim *o;
    ij_tensor *p = filled(cpu, SHAPE(3), 1), *q = filled(cpu, SHAPE(300), 1);
    ck_assert_int_eq(ij_adamw_new(NULL, &o), IJ_OK);
    ck_assert_int_eq(ij_optim_add(o, p, 1, NULL), IJ_OK);
    ij_optim_set_steps(o, 7); /* a resumed run: this alone is no update */
    ck_assert_int_eq(ij_optim_add(o, q, 1, NULL), IJ_OK);
    if (eager) ck_assert_int_eq(ij_optim_eager(o, 1e-3, 0, 1, 1), IJ_OK);
    else ck_assert_int_eq(ij_optim_step(o, 1e-3, 0, 1, 1), IJ_OK);
    const char *why = "adamw: tensors can't be added after the first update: make a new optimizer";
    ck_assert_int_eq(ij_optim_add(o, q, 1, q), IJ_EINVAL);
    ck_assert_str_eq(ij_errmsg(), why);
    ck_assert_int_eq(ij_optim_add_part(o, q, 0, 10, 1, 1), IJ_EINVAL);
    ck_assert_str_eq(ij_errmsg(), why);
    ck_assert_int_eq(ij_optim_count(o), 2);
    if (eager) ck_assert_int_eq(ij_optim_step(o, 1e-3, 0, 1, 1), IJ_OK);
    ij_optim_free(o);
    ij_tensor_free(p);
    ij_tensor_free(q);
  }
  close_devices();
}
END_TEST

/* ---- a graph of all ops, run again and again with one more fault */
enum { LEAVES = 9 };
typedef struct graph {
  ij_tensor *leaf[LEAVES]; /* each used once, so that its gradient is one term */
  ij_tensor *mean, *var, *index, *label;
  float *grad[LEAVES]; /* the right gradients */
} graph;

static void graph_make(graph *g) {
  static const int64_t shape[LEAVES][3] = {{2, 4, 12}, {12, 12}, {12}, {12}, {12}, {12}, {2, 4, 4}, {12}, {10, 8}};
  static const int ndim[LEAVES] = {3, 2, 1, 1, 1, 1, 3, 1, 2};
  for (int i = 0; i < LEAVES; i++) {
    g->leaf[i] = filled(cpu, ndim[i], shape[i], 0);
    int64_t n = ij_tensor_count(g->leaf[i]);
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t k = 0; k < n; k++) v[k] = .5f + (float)((k * 7 + i * 3) % 11) / 8;
    ck_assert_int_eq(ij_tensor_write(g->leaf[i], v, (size_t)n * sizeof *v), IJ_OK);
    free(v);
    ij_tensor_require_grad(g->leaf[i], 1);
  }
  g->mean = filled(cpu, SHAPE(4), 0);
  g->var = filled(cpu, SHAPE(4), 1);
  g->index = integers(cpu, SHAPE(1, 2, 2));
  g->label = integers(cpu, SHAPE(4));
}
static void graph_free(graph *g) {
  for (int i = 0; i < LEAVES; i++) {
    ij_tensor_free(g->leaf[i]);
    free(g->grad[i]);
  }
  ij_tensor_free(g->mean);
  ij_tensor_free(g->var);
  ij_tensor_free(g->index);
  ij_tensor_free(g->label);
}

/* All ops that have a gradient, up to the loss (1). Tensors on the way are freed here: the tape alone holds them. */
static ij_status forward(graph *g, ij_tensor **loss) {
  ij_tensor **l = g->leaf, *t[24] = {0};
  ij_status st = ij_linear(l[0], l[1], l[2], &t[0]); /* (2, 4, 12) */
  if (st == IJ_OK) st = ij_layer_norm(t[0], l[3], l[4], 1e-6, &t[1]);
  if (st == IJ_OK) st = ij_gelu(t[1], &t[2]);
  if (st == IJ_OK) st = ij_binary("div", t[2], l[5], &t[3]);
  if (st == IJ_OK) st = ij_attention(t[3], 2, &t[4]); /* (2, 4, 4) */
  if (st == IJ_OK) st = ij_softmax(t[4], &t[5]);
  if (st == IJ_OK) st = ij_matmul(t[5], l[6], 0, 1, &t[6]); /* (2, 4, 4) */
  if (st == IJ_OK) st = ij_gather(t[6], g->index, &t[7]);   /* (2, 2, 4) */
  if (st == IJ_OK) st = ij_tensor_reshape(t[7], 2, (int64_t[]){4, 4}, &t[8]);
  if (st == IJ_OK) st = ij_batch_norm(t[8], g->mean, g->var, .1, 1e-5, 1, &t[9]);
  if (st == IJ_OK) st = ij_relu(t[9], &t[10]);
  if (st == IJ_OK) st = ij_scalar("mul", t[10], 2, 0, &t[11]);
  if (st == IJ_OK) st = ij_cat((ij_tensor *[]){t[11], t[8], t[11]}, 3, 1, &t[12]); /* (4, 12) */
  if (st == IJ_OK) st = ij_smooth_l1(t[12], l[7], 1, 1, &t[13]);
  if (st == IJ_OK) st = ij_linear(t[12], l[1], NULL, &t[14]); /* l[1] gets two terms */
  if (st == IJ_OK) st = ij_tensor_narrow(l[8], 0, 2, 4, &t[15]);
  if (st == IJ_OK) st = ij_cross_entropy(t[15], g->label, .1, &t[16]);
  if (st == IJ_OK) st = ij_mean(t[14], 0, &t[17]);
  if (st == IJ_OK) st = ij_mean(t[17], -1, &t[18]);
  if (st == IJ_OK) st = ij_binary("add", t[13], t[16], &t[19]);
  if (st == IJ_OK) st = ij_binary("sub", t[19], t[18], &t[20]);
  if (st == IJ_OK) st = ij_tensor_clone(t[20], IJ_F32, 0, loss);
  for (int i = 0; i < 24; i++) ij_tensor_free(t[i]);
  return st;
}
static ij_status forward_backward(graph *g) {
  ij_tensor *loss = NULL;
  ij_status st = forward(g, &loss);
  if (st != IJ_OK) ck_assert_ptr_null(loss);
  if (st == IJ_OK) st = ij_backward(loss, 0);
  if (st == IJ_OK || !loss) ck_assert(st != IJ_OK || loss->grad == NULL);
  else ck_assert_msg(loss->grad == NULL, "a failed backward leaves the loss a gradient");
  ij_tensor_free(loss);
  return st;
}
static void keep_right_gradients(graph *g) {
  for (int i = 0; i < LEAVES; i++) {
    size_t bytes = (size_t)ij_tensor_count(g->leaf[i]) * sizeof(float);
    ck_assert_ptr_nonnull(g->leaf[i]->grad);
    g->grad[i] = malloc(bytes);
    ck_assert_int_eq(ij_tensor_read(g->leaf[i]->grad, g->grad[i], bytes), IJ_OK);
    ij_drop(&g->leaf[i]->grad);
  }
}
/* After a failure a leaf has no gradient, zeros, or all of its one term. */
static void no_half_made_gradient(graph *g, int fault) {
  for (int i = 0; i < LEAVES; i++) {
    ij_tensor *t = g->leaf[i]->grad;
    if (!t) continue;
    int64_t n = ij_tensor_count(g->leaf[i]);
    const float *v = ij_f32_of(t);
    bool zeros = true, right = true, known = true;
    for (int64_t k = 0; k < n; k++) {
      zeros &= v[k] == 0;
      right &= v[k] == g->grad[i][k];
      known &= isfinite(v[k]) && fabsf(v[k]) < 1e4f;
    }
    ck_assert_msg(i == 1 ? known : zeros || right,
                  "fault %d leaves a gradient of leaf %d that is neither none, zeros "
                  "nor the right one",
                  fault, i);
    ij_drop(&g->leaf[i]->grad);
  }
}

START_TEST(no_memory_leaves_no_half_made_gradient)
{
  open_devices();
  graph g;
  graph_make(&g);
  ck_assert_int_eq(forward_backward(&g), IJ_OK);
  keep_right_gradients(&g);
  int faults = 0;
  for (ij_status st = IJ_ENOMEM; st != IJ_OK;) {
    size_t before = ij_mem_live();
    ij_mem_fail_at(++faults);
    st = forward_backward(&g);
    ij_mem_fail_at(0);
    ck_assert_msg(st == IJ_OK || st == IJ_ENOMEM, "fault %d: status %d", faults, (int)st);
    if (st == IJ_OK) break;
    no_half_made_gradient(&g, faults);
    ij_tape_clear(cpu); /* of a forward that failed */
    ck_assert_msg(ij_mem_live() == before, "fault %d: %zu bytes before, %zu after", faults, before, ij_mem_live());
    ck_assert_int_lt(faults, 2000);
  }
  ck_assert_int_gt(faults, 60);
  no_half_made_gradient(&g, faults);
  graph_free(&g);
  close_devices();
}
END_TEST

/* ---- a device whose n-th call of an op fails */
static int64_t calls_left;
static ij_op_table right_ops;
static ij_status fault(void) {
  return calls_left > 0 && --calls_left == 0 ? ij_fail(IJ_EIO, "the device is lost") : IJ_OK;
}
#define IJ_OP(name, params, args)                                                                                      \
  static ij_status faulty_##name params {                                                                              \
    ij_status st = fault();                                                                                            \
    return st == IJ_OK ? right_ops.name args : st;                                                                     \
  }
IJ_OPS(IJ_OP)
#undef IJ_OP
static const ij_op_table faulty_ops = {
#define IJ_OP(name, params, args) .name = faulty_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

START_TEST(a_device_fault_keeps_its_status_and_leaves_no_half_made_gradient)
{
  open_devices();
  graph g;
  graph_make(&g);
  ck_assert_int_eq(forward_backward(&g), IJ_OK);
  keep_right_gradients(&g);
  right_ops = cpu->ops;
  cpu->ops = faulty_ops;
  int faults = 0;
  for (;;) {
    size_t before = ij_mem_live();
    calls_left = ++faults;
    ij_status st = forward_backward(&g);
    if (st == IJ_OK) break;
    ck_assert_msg(st == IJ_EIO, "fault %d: status %d, '%s'", faults, (int)st, ij_errmsg());
    ck_assert_str_eq(ij_errmsg(), "the device is lost");
    no_half_made_gradient(&g, faults);
    ij_tape_clear(cpu);
    ck_assert_msg(ij_mem_live() == before, "fault %d: %zu bytes before, %zu after", faults, before, ij_mem_live());
    ck_assert_int_lt(faults, 2000);
  }
  ck_assert_int_gt(faults, 60);
  calls_left = 0;
  graph_free(&g);
  close_devices();
}
END_TEST

START_TEST(a_norm_with_one_wanted_gradient_gives_back_its_spare)
{
  open_devices();
  ij_tensor *x = filled(cpu, SHAPE(2, 3), 1), *w = filled(cpu, SHAPE(3), 2), *b = filled(cpu, SHAPE(3), 1), *y, *loss;
  ij_tensor_require_grad(b, 1);
  right_ops = cpu->ops;
  cpu->ops = faulty_ops;
  size_t before = 0;
  for (int64_t n = 0; n < 12; n++) {
    calls_left = 0;
    ck_assert_int_eq(ij_layer_norm(x, w, b, 1e-6, &y), IJ_OK);
    ck_assert_int_eq(ij_mean(y, -1, &loss), IJ_OK);
    calls_left = n;
    ij_status st = ij_backward(loss, 0);
    ck_assert_int_eq(st, n == 0 || calls_left > 0 ? IJ_OK : IJ_EIO);
    ij_drop(&b->grad);
    ij_tensor_free(y);
    ij_tensor_free(loss);
    ij_tape_clear(cpu); /* what a failed backward left */
    if (n == 0) before = ij_mem_live();
    ck_assert_msg(ij_mem_live() == before, "call %d fails: %zu bytes before, %zu after", (int)n, before, ij_mem_live());
  }
  ck_assert_int_gt(calls_left, 0); /* the last ones had no fault: all calls had their turn */
  ij_tensor_free(x);
  ij_tensor_free(w);
  ij_tensor_free(b);
  close_devices();
}
END_TEST

START_TEST(a_parameter_of_a_model_gets_no_unfilled_gradient)
{ /* kept gradients that the kernels add to: the fill that makes them zeros fails */
  open_devices();
  ij_vit_config c = small_vit(2);
  ij_encoder *e;
  ck_assert_int_eq(ij_encoder_new(cpu, &c, &e), IJ_OK);
  ij_tensor *images = filled(cpu, SHAPE(1, 3, 16, 16), 1), *y, *loss;
  ij_params *p = ij_encoder_params(e);
  right_ops = cpu->ops;
  cpu->ops = faulty_ops;
  int faults = 0;
  for (ij_status st = IJ_EIO; st != IJ_OK;) {
    calls_left = 0;
    ck_assert_int_eq(ij_encoder_forward(e, images, NULL, &y), IJ_OK);
    ck_assert_int_eq(ij_mean(y, -1, &loss), IJ_OK);
    calls_left = ++faults;
    st = ij_backward(loss, 0);
    if (st != IJ_OK) {
      ck_assert_msg(st == IJ_EIO, "fault %d: status %d, '%s'", faults, (int)st, ij_errmsg());
      ck_assert_str_eq(ij_errmsg(), "the device is lost");
    }
    ij_tensor_free(y);
    ij_tensor_free(loss);
    for (int i = 0; i < ij_params_count(p); i++) {
      ij_tensor *t = ij_params_tensor(p, i);
      for (int64_t k = 0; t->grad && k < ij_tensor_count(t); k++) ck_assert(isfinite(ij_f32_of(t->grad)[k]));
      ij_drop(&t->grad);
    }
    ck_assert_int_lt(faults, 2000);
  }
  ck_assert_int_gt(faults, 60);
  ij_encoder_free(e);
  ij_tensor_free(images);
  close_devices();
}
END_TEST

int main(void) {
  Suite *s = suite_create("autograd");
  TCase *t = tcase_create("autograd");
  tcase_set_timeout(t, 100); /* a busy machine */
  tcase_add_test(t, ops_refuse_tensors_of_two_devices);
  tcase_add_test(t, models_and_optimizers_refuse_another_device);
  tcase_add_test(t, two_openings_of_one_device_are_two_devices);
  tcase_add_test(t, an_optimizer_is_closed_after_its_first_update);
  tcase_add_test(t, no_memory_leaves_no_half_made_gradient);
  tcase_add_test(t, a_device_fault_keeps_its_status_and_leaves_no_half_made_gradient);
  tcase_add_test(t, a_norm_with_one_wanted_gradient_gives_back_its_spare);
  tcase_add_test(t, a_parameter_of_a_model_gets_no_unfilled_gradient);
  suite_add_tcase(s, t);
  return run_suite(s);
}
