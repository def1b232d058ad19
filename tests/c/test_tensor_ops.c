/* Ops by name: results and gradients of views, broadcasting, reductions, matmul; functions of the caller's own; and
 * what is refused. */
#include "../../core/tensor/tensor.h"
#include "suite.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static ij_device *cpu, *other;
static size_t live_before;

static void open_devices(void) {
  live_before = ij_mem_live();
  ck_assert_int_eq(ij_device_open("cpu", &cpu), IJ_OK);
  ck_assert_int_eq(ij_device_open("cpu", &other), IJ_OK);
}
static void close_devices(void) {
  ij_device_close(cpu);
  ij_device_close(other);
  ck_assert_uint_eq(ij_mem_live(), live_before);
}
#define SHAPE(...)                                                                                                     \
  (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]) { __VA_ARGS__ }
#define DIMS(...)                                                                                                      \
  (int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), (int[]) { __VA_ARGS__ }
#define OK(call) ck_assert_msg((call) == IJ_OK, "%s", ij_errmsg())

static ij_tensor *made(ij_device *dev, ij_dtype dt, int nd, const int64_t *shape) {
  ij_tensor *t;
  OK(ij_tensor_new_kept(dev, dt, nd, shape, &t));
  size_t n = (size_t)ij_tensor_count(t) * ij_dtype_size(dt);
  void *zeros = calloc(1, n + 1);
  OK(ij_tensor_write(t, zeros, n));
  free(zeros);
  return t;
}
/* f32: 1, 2, 3, ... */
static ij_tensor *counted(int nd, const int64_t *shape) {
  ij_tensor *t = made(cpu, IJ_F32, nd, shape);
  for (int64_t i = 0; i < ij_tensor_count(t); i++) ij_f32_of(t)[i] = (float)(i + 1);
  return t;
}
static ij_tensor *numbers(int nd, const int64_t *shape, const float *v) {
  ij_tensor *t = made(cpu, IJ_F32, nd, shape);
  OK(ij_tensor_write(t, v, (size_t)ij_tensor_count(t) * sizeof *v));
  return t;
}
static ij_tensor *integers(int nd, const int64_t *shape, const int32_t *v) {
  ij_tensor *t = made(cpu, IJ_I32, nd, shape);
  OK(ij_tensor_write(t, v, (size_t)ij_tensor_count(t) * sizeof *v));
  return t;
}
static ij_tensor *leaf(ij_tensor *t) {
  ij_tensor_require_grad(t, 1);
  return t;
}
static void is(const ij_tensor *t, int nd, const int64_t *shape, const float *v) {
  ck_assert_ptr_nonnull(t);
  ck_assert_int_eq(t->ndim, nd);
  for (int i = 0; i < nd; i++) ck_assert_int_eq(t->shape[i], shape[i]);
  for (int64_t i = 0; i < ij_tensor_count(t); i++)
    ck_assert_msg(fabsf(ij_f32_of(t)[i] - v[i]) < 1e-5f, "element %d is %g, expected %g", (int)i,
                  (double)ij_f32_of(t)[i], (double)v[i]);
}
static void free_all(ij_tensor **t, int n) {
  for (int i = 0; i < n; i++) ij_tensor_free(t[i]);
}
/* loss = sum of t times 1, 2, 3, ...; its backward. Frees t. */
static void backward_of(ij_tensor *t, int retain) {
  ij_tensor *w = counted(t->ndim, t->shape), *y, *loss;
  OK(ij_binary("mul", t, w, &y));
  OK(ij_reduce("sum", y, 0, NULL, 0, &loss));
  OK(ij_backward(loss, retain));
  free_all((ij_tensor *[]){w, y, loss, t}, 4);
}

START_TEST(views_of_views_have_gradients)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2, 3))), *a, *b, *c;
  OK(ij_tensor_transpose(x, 0, 1, &a)); /* (3, 2) */
  OK(ij_tensor_narrow(a, 0, 1, 2, &b)); /* columns 1 and 2 of x */
  OK(ij_permute(b, DIMS(1, 0), &c));    /* (2, 2) */
  ij_tensor *y;
  OK(ij_tensor_clone(c, IJ_F32, 0, &y));
  is(y, SHAPE(2, 2), (float[]){2, 3, 5, 6});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3), (float[]){0, 1, 2, 0, 3, 4});
  free_all((ij_tensor *[]){x, a, b, c}, 4);
  close_devices();
}
END_TEST

START_TEST(an_expanded_tensor_sums_its_gradient)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2, 1))), *wide, *y, *d;
  OK(ij_expand(x, SHAPE(3, -1, 2), &wide));
  OK(ij_tensor_clone(wide, IJ_F32, 0, &y));
  is(y, SHAPE(3, 2, 2), (float[]){1, 1, 2, 2, 1, 1, 2, 2, 1, 1, 2, 2});
  OK(ij_detach(y, &d));
  ck_assert(!ij_tensor_requires_grad(d) && ij_tensor_requires_grad(y));
  backward_of(y, 0); /* weights 1..12 */
  is(x->grad, SHAPE(2, 1), (float[]){1 + 2 + 5 + 6 + 9 + 10, 3 + 4 + 7 + 8 + 11 + 12});
  free_all((ij_tensor *[]){x, wide, d}, 3);
  close_devices();
}
END_TEST

START_TEST(binary_broadcasts_and_sums_its_gradients)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2, 1, 3))), *y = leaf(numbers(SHAPE(2, 1), (float[]){10, 20})), *z;
  OK(ij_binary("mul", x, y, &z));
  is(z, SHAPE(2, 2, 3), (float[]){10, 20, 30, 20, 40, 60, 40, 50, 60, 80, 100, 120});
  backward_of(z, 0); /* weights 1..12 */
  is(x->grad, SHAPE(2, 1, 3), (float[]){90, 120, 150, 270, 300, 330});
  is(y->grad, SHAPE(2, 1), (float[]){1 + 4 + 9 + 28 + 40 + 54, 4 + 10 + 18 + 40 + 55 + 72});
  free_all((ij_tensor *[]){x, y}, 2);
  /* numbers on either side, integers, comparisons */
  ij_tensor *i = integers(SHAPE(4), (int32_t[]){-7, 7, 0, INT32_MAX}), *j, *k;
  OK(ij_scalar("div", i, 2, 0, &j));
  ck_assert_int_eq(((int32_t *)ij_data_of(j))[0], -4);
  ck_assert_int_eq(((int32_t *)ij_data_of(j))[1], 3);
  OK(ij_scalar("div", i, 2, 1, &k)); /* 2 / x */
  ck_assert_int_eq(((int32_t *)ij_data_of(k))[0], -1);
  ck_assert_int_eq(((int32_t *)ij_data_of(k))[2], 0);
  free_all((ij_tensor *[]){j, k}, 2);
  OK(ij_scalar("add", i, 1, 0, &j));
  ck_assert_int_eq(((int32_t *)ij_data_of(j))[3], INT32_MIN);
  OK(ij_binary("lt", j, i, &k));
  ck_assert_int_eq(k->dtype, IJ_U8);
  ck_assert_int_eq(((uint8_t *)ij_data_of(k))[0] + 2 * ((uint8_t *)ij_data_of(k))[3], 2);
  free_all((ij_tensor *[]){i, j, k}, 3);
  close_devices();
}
END_TEST

START_TEST(where_chooses_and_gives_each_its_gradient)
{
  open_devices();
  ij_tensor *c = made(cpu, IJ_U8, SHAPE(2, 2)), *x = leaf(counted(SHAPE(2, 2))), *y = leaf(counted(SHAPE(1))), *z;
  OK(ij_tensor_write(c, (uint8_t[]){1, 0, 0, 5}, 4));
  OK(ij_where(c, x, y, &z));
  is(z, SHAPE(2, 2), (float[]){1, 1, 1, 4});
  backward_of(z, 0);
  is(x->grad, SHAPE(2, 2), (float[]){1, 0, 0, 4});
  is(y->grad, SHAPE(1), (float[]){5});
  free_all((ij_tensor *[]){c, x, y}, 3);
  close_devices();
}
END_TEST

START_TEST(reductions_over_any_dimensions)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2, 3, 2))), *y;
  OK(ij_reduce("sum", x, DIMS(0, 2), 0, &y)); /* not neighbours */
  is(y, SHAPE(3), (float[]){1 + 2 + 7 + 8, 3 + 4 + 9 + 10, 5 + 6 + 11 + 12});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3, 2), (float[]){1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 3, 3});
  ij_drop(&x->grad);
  OK(ij_reduce("max", x, DIMS(2, 0), 1, &y));
  is(y, SHAPE(1, 3, 1), (float[]){8, 10, 12});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3, 2), (float[]){0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 3});
  ij_drop(&x->grad);
  OK(ij_reduce("mean", x, 0, NULL, 0, &y));
  is(y, SHAPE(1), (float[]){6.5f});
  backward_of(y, 0);
  ij_drop(&x->grad);
  OK(ij_reduce("prod", x, DIMS(1), 0, &y));
  is(y, SHAPE(2, 2), (float[]){15, 48, 693, 960});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3, 2), (float[]){15, 48, 5, 24, 3, 16, 297, 480, 231, 384, 189, 320});
  OK(ij_reduce("argmin", x, DIMS(1), 0, &y));
  ck_assert_int_eq(y->dtype, IJ_I32);
  ck_assert_int_eq(y->ndim, 2);
  ij_tensor_free(y);
  OK(ij_cumsum(x, 1, &y));
  is(y, SHAPE(2, 3, 2), (float[]){1, 2, 4, 6, 9, 12, 7, 8, 16, 18, 27, 30});
  ij_drop(&x->grad);
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3, 2), (float[]){9, 12, 8, 10, 5, 6, 27, 30, 20, 22, 11, 12});
  ij_tensor_free(x);
  close_devices();
}
END_TEST

START_TEST(sort_take_and_scatter)
{
  open_devices();
  ij_tensor *x = leaf(numbers(SHAPE(3, 2), (float[]){3, 1, 2, NAN, 1, 5})), *v, *index, *y;
  OK(ij_sort(x, 0, 1, &v, &index));
  const int32_t *at = ij_data_of(index);
  ck_assert(at[0] == 0 && at[2] == 1 && at[4] == 2 && at[1] == 2 && at[3] == 0 && at[5] == 1);
  ck_assert(ij_f32_of(v)[1] == 5 && isnan(ij_f32_of(v)[5]));
  OK(ij_take(x, 0, index, &y)); /* sorts as well */
  ck_assert(!memcmp(ij_f32_of(y), ij_f32_of(v), 5 * sizeof(float)));
  ij_tensor_free(y);
  ij_tensor_free(index);
  OK(ij_tensor_narrow(v, 1, 0, 1, &y));
  ij_tensor_free(v);
  backward_of(y, 0);
  is(x->grad, SHAPE(3, 2), (float[]){1, 0, 2, 0, 3, 0});
  ij_tensor_free(x);

  x = leaf(counted(SHAPE(2, 3)));
  index = integers(SHAPE(4), (int32_t[]){2, 0, 2, 1});
  OK(ij_index_select(x, 1, index, &y));
  is(y, SHAPE(2, 4), (float[]){3, 1, 3, 2, 6, 4, 6, 5});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3), (float[]){2, 4, 4, 6, 8, 12});
  ij_tensor_free(index);
  ij_drop(&x->grad);
  index = integers(SHAPE(1, 2), (int32_t[]){2, 1});
  OK(ij_take(x, 1, index, &y)); /* smaller than x */
  is(y, SHAPE(1, 2), (float[]){3, 2});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3), (float[]){0, 2, 1, 0, 0, 0});
  ij_tensor_free(index);
  ij_drop(&x->grad);
  index = integers(SHAPE(2, 4), (int32_t[]){0, 0, 2, 1, 1, 1, 1, 0});
  ij_tensor *src = leaf(counted(SHAPE(2, 4)));
  OK(ij_scatter_add(x, 1, index, src, &y));
  is(y, SHAPE(2, 3), (float[]){4, 6, 6, 12, 23, 6});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 3), (float[]){1, 2, 3, 4, 5, 6});
  is(src->grad, SHAPE(2, 4), (float[]){1, 1, 3, 2, 5, 5, 5, 4});
  free_all((ij_tensor *[]){x, index, src}, 3);
  close_devices();
}
END_TEST

START_TEST(cat_joins_any_dimension_and_type)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2, 2))), *t, *y;
  OK(ij_tensor_transpose(x, 0, 1, &t));
  OK(ij_cat((ij_tensor *[]){x, t}, 2, 0, &y));
  is(y, SHAPE(4, 2), (float[]){1, 2, 3, 4, 1, 3, 2, 4});
  backward_of(y, 0);
  is(x->grad, SHAPE(2, 2), (float[]){1 + 5, 2 + 7, 3 + 6, 4 + 8});
  ij_tensor *i = integers(SHAPE(1, 2), (int32_t[]){5, 6}), *z;
  OK(ij_cat((ij_tensor *[]){i, i, i}, 3, 1, &z));
  ck_assert_int_eq(((int32_t *)ij_data_of(z))[5], 6);
  free_all((ij_tensor *[]){x, t, i, z}, 4);
  close_devices();
}
END_TEST

START_TEST(matmul_broadcasts_its_batch)
{
  open_devices();
  ij_tensor *a = leaf(counted(SHAPE(2, 1, 1, 2))), *b = leaf(counted(SHAPE(2, 2, 1))), *c;
  OK(ij_matmul(a, b, 0, 0, &c));
  is(c, SHAPE(2, 2, 1, 1), (float[]){1 + 4, 3 + 8, 3 + 8, 9 + 16});
  backward_of(c, 0); /* weights 1..4 */
  is(a->grad, SHAPE(2, 1, 1, 2), (float[]){1 + 6, 2 + 8, 3 + 12, 6 + 16});
  is(b->grad, SHAPE(2, 2, 1), (float[]){1 + 9, 2 + 12, 2 + 12, 4 + 16});
  ij_tensor *w = leaf(counted(SHAPE(2, 3))), *t; /* one matrix for all, seen through a view */
  OK(ij_tensor_transpose(w, 0, 1, &t));
  ij_tensor *x = counted(SHAPE(2, 2, 3));
  OK(ij_matmul(x, t, 0, 0, &c));
  is(c, SHAPE(2, 2, 2), (float[]){14, 32, 32, 77, 50, 122, 68, 167});
  backward_of(c, 0);
  is(w->grad, SHAPE(2, 3),
     (float[]){1 + 12 + 35 + 70, 2 + 15 + 40 + 77, 3 + 18 + 45 + 84, 2 + 16 + 42 + 80, 4 + 20 + 48 + 88,
               6 + 24 + 54 + 96});
  free_all((ij_tensor *[]){a, b, w, t, x}, 5);
  close_devices();
}
END_TEST

START_TEST(windows_of_a_convolution)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(1, 1, 2, 3))), *y;
  OK(ij_im2col(x, 2, 2, 1, 0, &y));
  is(y, SHAPE(1, 2, 4), (float[]){1, 2, 4, 5, 2, 3, 5, 6});
  backward_of(y, 0);
  is(x->grad, SHAPE(1, 1, 2, 3), (float[]){1, 2 + 5, 6, 3, 4 + 7, 8});
  ij_tensor_free(x);
  close_devices();
}
END_TEST

START_TEST(random_numbers_depend_on_their_position)
{
  open_devices();
  ij_tensor *a = made(cpu, IJ_F32, SHAPE(1000)), *b = made(cpu, IJ_F32, SHAPE(10));
  for (int kind = 0; kind < 2; kind++) {
    const char *name = kind ? "normal" : "uniform";
    OK(ij_random(a, name, 7, 5));
    OK(ij_random(b, name, 7, 98));
    ck_assert(!memcmp(ij_f32_of(a) + 93, ij_f32_of(b), 10 * sizeof(float)));
    double sum = 0, squares = 0;
    for (int i = 0; i < 1000; i++) sum += ij_f32_of(a)[i], squares += pow(ij_f32_of(a)[i], 2);
    ck_assert_double_eq_tol(sum / 1000, kind ? 0 : .5, .1);
    ck_assert_double_eq_tol(squares / 1000, kind ? 1 : 1. / 3, .15);
  }
  free_all((ij_tensor *[]){a, b}, 2);
  close_devices();
}
END_TEST

START_TEST(a_tape_that_is_kept_runs_again)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2))), *y, *loss;
  OK(ij_unary("square", x, 0, 0, &y));
  OK(ij_reduce("sum", y, 0, NULL, 0, &loss));
  for (int i = 0; i < 3; i++) OK(ij_backward(loss, i < 2));
  is(x->grad, SHAPE(2), (float[]){6, 12});
  ck_assert_ptr_null(y->grad);
  ck_assert_int_eq(cpu->tape_len, 0);
  free_all((ij_tensor *[]){x, y, loss}, 3);
  close_devices();
}
END_TEST

START_TEST(a_function_of_the_callers_own)
{
  open_devices();
  ij_tensor *x = leaf(counted(SHAPE(2))), *n = leaf(counted(SHAPE(2))), *y = counted(SHAPE(2)), *z, *loss, *grad, *g;
  int64_t id;
  OK(ij_record_custom((ij_tensor *[]){x, n}, 2, y, 42));
  ck_assert(ij_tensor_requires_grad(y));
  OK(ij_binary("mul", y, x, &z)); /* x is used twice */
  OK(ij_reduce("sum", z, 0, NULL, 0, &loss));
  ck_assert_int_eq(ij_backward(loss, 1), IJ_EINVAL); /* nobody does the function's backward */
  ij_drop(&x->grad);
  OK(ij_backward_begin(loss, 0));
  ck_assert_int_eq(ij_backward_begin(loss, 0), IJ_EINVAL);
  OK(ij_backward_run(cpu, &id, &grad));
  ck_assert_int_eq(id, 42);
  is(grad, SHAPE(2), (float[]){1, 2});
  OK(ij_scalar("mul", grad, 10, 0, &g));
  ck_assert(!ij_tensor_requires_grad(g)); /* nothing is recorded meanwhile */
  OK(ij_backward_give(cpu, 0, g));
  OK(ij_backward_give(cpu, 1, NULL));
  ck_assert_int_eq(ij_backward_give(cpu, 2, g), IJ_EINVAL);
  ck_assert_int_eq(ij_backward_give(cpu, 1, loss), IJ_ESHAPE);
  OK(ij_backward_run(cpu, &id, &grad));
  ck_assert(id == 0 && grad == NULL);
  is(x->grad, SHAPE(2), (float[]){1 + 10, 2 + 20});
  ck_assert_ptr_null(n->grad);
  ck_assert_int_eq(ij_backward_run(cpu, &id, &grad), IJ_EINVAL);
  ck_assert_int_eq(ij_backward_give(cpu, 0, g), IJ_EINVAL);
  ck_assert_int_eq(cpu->tape_len, 0);
  free_all((ij_tensor *[]){g, z, loss}, 3);
  ij_drop(&x->grad);
  /* a caller that fails in between */
  ij_tensor *out = counted(SHAPE(2));
  OK(ij_record_custom(&x, 1, out, 1));
  OK(ij_reduce("sum", out, 0, NULL, 0, &loss));
  OK(ij_backward_begin(loss, 0));
  OK(ij_backward_run(cpu, &id, &grad));
  ij_backward_stop(cpu);
  ck_assert_ptr_null(out->grad);
  ck_assert_int_eq(cpu->tape_len, 1); /* what has not run stays */
  ck_assert(ij_custom_recorded(cpu, 1) && !ij_custom_recorded(cpu, 42));
  ij_tape_clear(cpu);
  ck_assert(!ij_custom_recorded(cpu, 1));
  OK(ij_record_custom(&n, 1, x, 0) == IJ_EINVAL ? IJ_OK : IJ_EINVAL);
  ck_assert_int_eq(ij_record_custom(&x, 1, x, 1), IJ_EINVAL);
  free_all((ij_tensor *[]){out, loss, x, n, y}, 5);
  close_devices();
}
END_TEST

/* ---- what is refused: an error with a message, the result NULL */
#define REFUSED(call, want)                                                                                            \
  do {                                                                                                                 \
    out = x;                                                                                                           \
    ck_assert_msg((call) != IJ_OK, #call " is not refused");                                                           \
    ck_assert_ptr_null(out);                                                                                           \
    ck_assert_msg(strstr(ij_errmsg(), want) != NULL, "'%s' lacks '%s'", ij_errmsg(), want);                            \
  } while (0)

START_TEST(mistakes_are_refused)
{
  open_devices();
  ij_tensor *x = counted(SHAPE(2, 3)), *y = counted(SHAPE(2, 2)), *i = integers(SHAPE(2), (int32_t[]){0, 5}), *out;
  ij_tensor *far = made(other, IJ_F32, SHAPE(2, 3)), *half = made(cpu, IJ_BF16, SHAPE(2, 3)), *more = NULL;
  ij_tensor *six = counted(SHAPE(1, 1, 1, 1, 1, 2)), *none = counted(SHAPE(0, 3)),
            *i2 = integers(SHAPE(1, 2), (int32_t[]){0, 3});
  REFUSED(ij_unary("sine", x, 0, 0, &out), "expected one of exp, log");
  REFUSED(ij_unary("exp", i, 0, 0, &out), "exp: 'x' is i32, expected f32");
  REFUSED(ij_unary("abs", half, 0, 0, &out), "bf16");
  REFUSED(ij_unary("clamp", x, 2, 1, &out), "clamp");
  REFUSED(ij_binary("plus", x, x, &out), "add, sub");
  REFUSED(ij_binary("add", x, y, &out), "(2, 3) and (2, 2) do not fit");
  REFUSED(ij_binary("add", x, i, &out), "'x' is f32 and 'y' is i32");
  REFUSED(ij_binary("add", x, far, &out), "two devices");
  REFUSED(ij_scalar("mod", x, 1, 0, &out), "mul");
  REFUSED(ij_where(x, x, x, &out), "'cond' is f32, expected u8");
  REFUSED(ij_reduce("median", x, 0, NULL, 0, &out), "sum, mean");
  REFUSED(ij_reduce("sum", x, DIMS(2), 0, &out), "no dimension 3 of 2");
  REFUSED(ij_reduce("sum", x, DIMS(1, 1), 0, &out), "named twice");
  REFUSED(ij_reduce("sum", x, DIMS(0, 1, 0), 0, &out), "3 dimensions of 2");
  REFUSED(ij_reduce("argmax", x, DIMS(0, 1), 0, &out), "expected one");
  REFUSED(ij_reduce("max", none, DIMS(0), 0, &out), "no elements");
  REFUSED(ij_reduce("mean", i, 0, NULL, 0, &out), "expected f32");
  REFUSED(ij_cumsum(x, -1, &out), "no dimension");
  REFUSED(ij_sort(x, 2, 0, &out, &more), "no dimension");
  REFUSED(ij_take(x, 1, x, &out), "expected i32");
  REFUSED(ij_take(x, 1, i, &out), "as many dimensions");
  REFUSED(ij_take(x, 1, i2, &out), "index 3 at position 2 is outside 0..2");
  REFUSED(ij_index_select(x, 0, i, &out), "index 5 at position 2 is outside 0..1");
  REFUSED(ij_index_select(x, 0, i2, &out), "one dimension");
  REFUSED(ij_scatter_add(x, 1, i2, y, &out), "one shape");
  REFUSED(ij_cat((ij_tensor *[]){x, y}, 2, 0, &out), "tensor 2 is (2, 2), but the first is (2, 3)");
  REFUSED(ij_cat((ij_tensor *[]){x, i}, 2, 0, &out), "tensor 2 is i32");
  REFUSED(ij_cat(&x, 9, 0, &out), "1 to 8");
  REFUSED(ij_cat(&x, 1, 2, &out), "no dimension");
  REFUSED(ij_permute(x, DIMS(0, 0), &out), "twice");
  REFUSED(ij_permute(x, DIMS(0), &out), "1 dimensions");
  REFUSED(ij_expand(x, SHAPE(2, 4), &out), "does not expand");
  REFUSED(ij_expand(x, SHAPE(3), &out), "does not expand");
  REFUSED(ij_expand(six, SHAPE((int64_t)1 << 40, (int64_t)1 << 40, 1, 1, 1, 2), &out), "does not expand");
  REFUSED(ij_expand(x, SHAPE(1, 1, 1, 1, 1, 2, 3), &out), "7 dimensions");
  REFUSED(ij_expand(x, SHAPE(-1, 2, 3), &out), "does not expand");
  REFUSED(ij_matmul(x, x, 0, 0, &out), "do not fit");
  REFUSED(ij_matmul(i, i, 0, 0, &out), "do not fit");
  REFUSED(ij_matmul(i2, i2, 1, 0, &out), "expected f32");
  REFUSED(ij_im2col(x, 2, 2, 1, 0, &out), "im2col");
  REFUSED(ij_im2col(x, 0, 2, 1, 0, &out), "im2col");
  ck_assert_int_eq(ij_random(x, "cauchy", 1, 0), IJ_EINVAL);
  ck_assert_int_eq(ij_random(i, "normal", 1, 0), IJ_ESHAPE);
  ij_tensor *image = counted(SHAPE(1, 1, 2, 2));
  REFUSED(ij_im2col(image, 3, 3, 1, 0, &out), "do not fit");
  REFUSED(ij_im2col(image, 1, 1, 1, INT32_MAX, &out), "");
  ij_step_begin(cpu); /* a tensor that a step took away */
  ij_tensor *dead;
  OK(ij_unary("exp", x, 0, 0, &dead));
  ij_step_end(cpu);
  REFUSED(ij_unary("exp", dead, 0, 0, &out), "clone()");
  REFUSED(ij_binary("add", x, dead, &out), "clone()");
  REFUSED(ij_reduce("sum", dead, 0, NULL, 0, &out), "clone()");
  REFUSED(ij_matmul(dead, x, 1, 0, &out), "clone()");
  free_all((ij_tensor *[]){x, y, i, far, half, six, none, i2, image, dead}, 10);
  close_devices();
}
END_TEST

START_TEST(empty_tensors_and_six_dimensions)
{
  open_devices();
  ij_tensor *none = leaf(counted(SHAPE(0, 3))), *six = leaf(counted(SHAPE(2, 1, 3, 1, 2, 1))), *y, *z, *index;
  ij_tensor *three = leaf(counted(SHAPE(3)));
  OK(ij_binary("add", none, three, &y));
  ck_assert_int_eq(ij_tensor_count(y), 0);
  backward_of(y, 1);
  is(three->grad, SHAPE(3), (float[]){0, 0, 0});
  OK(ij_reduce("sum", none, DIMS(0), 0, &y));
  is(y, SHAPE(3), (float[]){0, 0, 0});
  backward_of(y, 1);
  OK(ij_reduce("prod", none, 0, NULL, 0, &y));
  is(y, SHAPE(1), (float[]){1});
  backward_of(y, 1);
  OK(ij_sort(none, 0, 0, &y, &index));
  backward_of(y, 1);
  ij_tensor_free(index);
  OK(ij_sort(none, 1, 0, &y, &index));
  backward_of(y, 1);
  ij_tensor_free(index);
  OK(ij_cumsum(none, 0, &y));
  backward_of(y, 1);
  OK(ij_unary("exp", none, 0, 0, &y));
  backward_of(y, 1);
  OK(ij_cat((ij_tensor *[]){none, none}, 2, 0, &y));
  backward_of(y, 1);
  index = integers(SHAPE(0), NULL);
  OK(ij_index_select(three, 0, index, &y));
  backward_of(y, 1);
  ij_tensor_free(index);
  OK(ij_tensor_transpose(none, 0, 1, &z)); /* (3, 0) times (0, 3) */
  OK(ij_matmul(z, none, 0, 0, &y));
  ck_assert_int_eq(ij_tensor_count(y), 9);
  ck_assert(ij_f32_of(y)[8] == 0);
  backward_of(y, 1);
  OK(ij_matmul(none, z, 0, 0, &y));
  backward_of(y, 1);
  ij_tensor_free(z);

  OK(ij_permute(six, DIMS(5, 4, 3, 2, 1, 0), &z));
  OK(ij_binary("mul", z, six, &y)); /* (1, 2, 1, 3, 1, 2) and (2, 1, 3, 1, 2, 1) */
  ck_assert_int_eq(ij_tensor_count(y), 144);
  ck_assert(ij_f32_of(y)[143] == 144);
  backward_of(y, 1);
  OK(ij_reduce("sum", z, DIMS(1, 3, 5), 0, &y));
  is(y, SHAPE(1, 1, 1), (float[]){78});
  ij_tensor_free(y);
  free_all((ij_tensor *[]){none, six, three, z}, 4);
  close_devices();
}
END_TEST

int main(void) {
  Suite *s = suite_create("tensor_ops");
  TCase *t = tcase_create("tensor_ops");
  tcase_set_timeout(t, 60);
  tcase_add_test(t, views_of_views_have_gradients);
  tcase_add_test(t, an_expanded_tensor_sums_its_gradient);
  tcase_add_test(t, binary_broadcasts_and_sums_its_gradients);
  tcase_add_test(t, where_chooses_and_gives_each_its_gradient);
  tcase_add_test(t, reductions_over_any_dimensions);
  tcase_add_test(t, sort_take_and_scatter);
  tcase_add_test(t, cat_joins_any_dimension_and_type);
  tcase_add_test(t, matmul_broadcasts_its_batch);
  tcase_add_test(t, windows_of_a_convolution);
  tcase_add_test(t, random_numbers_depend_on_their_position);
  tcase_add_test(t, a_tape_that_is_kept_runs_again);
  tcase_add_test(t, a_function_of_the_callers_own);
  tcase_add_test(t, mistakes_are_refused);
  tcase_add_test(t, empty_tensors_and_six_dimensions);
  suite_add_tcase(s, t);
  return run_suite(s);
}
