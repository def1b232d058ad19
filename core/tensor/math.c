/* Functions of the elements of one, two or three tensors, by name. */
#include "tensor.h"
#include <string.h>

static const float *out_grad(const ij_node *n) { return ij_f32_of(n->out->grad); }

/* ---- of one tensor */
enum { GELU = IJ_UNARY_FNS, RELU };
enum { NOTHING = 0, OF_X = 1, OF_Y = IJ_READS_OUT };
typedef struct unary_name {
  const char *name;
  int f;
  bool whole;     /* integers too */
  unsigned reads; /* what the slope is computed from */
} unary_name;
static const unary_name unary_names[] = {
    {"exp", IJ_EXP, false, OF_Y},
    {"log", IJ_LOG, false, OF_X},
    {"sqrt", IJ_SQRT, false, OF_Y},
    {"rsqrt", IJ_RSQRT, false, OF_Y},
    {"abs", IJ_ABS, true, OF_X},
    {"sign", IJ_SIGN, true, NOTHING},
    {"floor", IJ_FLOOR, false, NOTHING},
    {"ceil", IJ_CEIL, false, NOTHING},
    {"round", IJ_ROUND, false, NOTHING},
    {"sin", IJ_SIN, false, OF_X},
    {"cos", IJ_COS, false, OF_X},
    {"tanh", IJ_TANH, false, OF_Y},
    {"sigmoid", IJ_SIGMOID, false, OF_Y},
    {"silu", IJ_SILU, false, OF_X},
    {"erf", IJ_ERF, false, OF_X},
    {"relu", RELU, false, OF_X},
    {"gelu", GELU, false, OF_X},
    {"neg", IJ_NEG, true, NOTHING},
    {"reciprocal", IJ_RECIPROCAL, false, OF_Y},
    {"log1p", IJ_LOG1P, false, OF_X},
    {"expm1", IJ_EXPM1, false, OF_Y},
    {"square", IJ_SQUARE, true, OF_X},
    {"pow", IJ_POWER, false, OF_X},
    {"clamp", IJ_CLAMP, true, OF_X},
};
enum { UNARY = sizeof unary_names / sizeof *unary_names };

struct unary {
  int f;
  double a, b;
};
static ij_status unary_backward(ij_node *n) { /* in: x */
  const struct unary *s = (const void *)n->attr;
  ij_tensor *x = n->in[0];
  ij_device *dev = ij_device_of(x);
  return dev->ops.unary_bwd(&dev->queue, s->f, ij_tensor_count(x), s->a, s->b, ij_f32_of(x), ij_f32_of(n->out),
                            out_grad(n), n->dx[0]);
}
static ij_status unary(const unary_name *u, ij_tensor *x, double a, double b, ij_tensor **out) {
  int f = u->f;
  ij_op op = ij_begin(u->name, x->dtype == IJ_F32 ? unary_backward : NULL, out);
  op.node.reads = u->reads;
  IJ_TRY(ij_in(&op, "x", x, x->dtype));
  ij_attr(&op, &(struct unary){f, a, b}, sizeof(struct unary));
  void *y = ij_out(&op, x->dtype, x->ndim, x->shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.unary_fwd(&op.dev->queue, f, x->dtype, ij_tensor_count(x), a, b, ij_data_of(x), y);
  return ij_end(&op);
}

ij_status ij_unary(const char *f, ij_tensor *x, double a, double b, ij_tensor **out) {
  const char *known[UNARY];
  int i = 0;
  *out = NULL;
  while (i < UNARY && strcmp(unary_names[i].name, f) != 0) i++;
  for (int k = 0; k < UNARY; k++) known[k] = unary_names[k].name;
  if (i == UNARY) return ij_unknown_name("unary", f, known, UNARY);
  const char *name = unary_names[i].name;
  if (x->dtype == IJ_BF16 || (x->dtype != IJ_F32 && !unary_names[i].whole))
    return ij_fail(IJ_ESHAPE, "%s: 'x' is %s, expected f32%s", name, ij_dtype_name(x->dtype),
                   unary_names[i].whole ? ", i32, i64 or u8" : "");
  if (unary_names[i].f == IJ_CLAMP && !(a <= b))
    return ij_fail(IJ_EINVAL, "clamp: the bounds are %g and %g, expected the smaller one first", a, b);
  ij_tensor *dense;
  IJ_TRY(ij_dense(name, "x", x, &dense));
  ij_status st = unary_names[i].f == GELU   ? ij_gelu(dense, out)
                 : unary_names[i].f == RELU ? ij_relu(dense, out)
                                            : unary(&unary_names[i], dense, a, b, out);
  ij_tensor_free(dense);
  return st;
}

/* ---- of two */
static const char *const binary_names[IJ_BINARY_FNS] = {"add", "sub", "mul", "div", "pow", "min", "max",
                                                        "eq",  "ne",  "lt",  "le",  "gt",  "ge"};
static int binary_called(const char *name) {
  int f = 0;
  while (f < IJ_BINARY_FNS && strcmp(binary_names[f], name) != 0) f++;
  return f;
}

struct binary {
  int f;
  int number; /* 1: the second argument is a number, 2: the first; 0: both are tensors */
  double s;
};
/* What the kernels read: x or y NULL is the number. Dimensions that continue each other are one. */
typedef struct pair {
  int nd;
  int64_t shape[IJ_MAX_DIMS], stride[2][IJ_MAX_DIMS];
} pair;
static pair pair_of(const ij_tensor *x, const ij_tensor *y, int nd, const int64_t *shape) {
  pair p = {.nd = nd};
  memcpy(p.shape, shape, sizeof p.shape);
  if (x) ij_strides_for(x, nd, p.stride[0]);
  if (y) ij_strides_for(y, nd, p.stride[1]);
  const ij_tensor *only = x && y ? NULL : x ? x : y;
  if (only) memcpy(p.stride[only == x], p.stride[only == y], sizeof *p.stride); /* the number's are not read */
  p.nd = ij_collapse(nd, p.shape, p.stride, 2);
  return p;
}
static const void *data_or_null(const ij_tensor *t) { return t ? ij_data_of(t) : NULL; }

/* Where the gradient of t goes: dx itself, or, where t repeats, a wide one that is summed afterwards. */
static ij_status wide_for(const ij_node *n, const ij_tensor *t, float *dx, ij_tensor **wide, float **to) {
  *to = dx;
  *wide = NULL;
  if (!dx || ij_tensor_count(t) == ij_tensor_count(n->out)) return IJ_OK;
  IJ_TRY(ij_tensor_make(ij_device_of(t), IJ_F32, n->out->ndim, n->out->shape, false, wide));
  *to = ij_f32_of(*wide);
  return IJ_OK;
}
/* Sums the wide one, if there is one, and frees it. */
static ij_status narrow_to(ij_status st, const ij_node *n, const ij_tensor *t, float *dx, ij_tensor *wide) {
  if (st == IJ_OK && wide) st = ij_sum_to(n->out->ndim, n->out->shape, ij_f32_of(wide), t, dx);
  ij_tensor_free(wide);
  return st;
}

static ij_status binary_backward(ij_node *n) { /* in: x, y, or one of them */
  const struct binary *a = (const void *)n->attr;
  ij_tensor *x = a->number == 2 ? NULL : n->in[0], *y = a->number == 2 ? n->in[0] : a->number ? NULL : n->in[1];
  float *dx = x ? n->dx[0] : NULL, *dy = !y ? NULL : x ? n->dx[1] : n->dx[0], *to_x = NULL, *to_y = NULL;
  ij_device *dev = ij_device_of(n->out);
  pair p = pair_of(x, y, n->out->ndim, n->out->shape);
  ij_tensor *wide_x = NULL, *wide_y = NULL;
  ij_status st = IJ_OK;
  if (x) st = wide_for(n, x, dx, &wide_x, &to_x);
  if (y && st == IJ_OK) st = wide_for(n, y, dy, &wide_y, &to_y);
  if (st == IJ_OK)
    st = dev->ops.binary_bwd(&dev->queue, a->f, p.nd, p.shape, a->s, data_or_null(x), p.stride[0], data_or_null(y),
                             p.stride[1], out_grad(n), to_x, to_y);
  st = narrow_to(st, n, x, dx, wide_x);
  return narrow_to(st, n, y, dy, wide_y);
}

static ij_status check_type(const char *name, const char *arg, const ij_tensor *t) {
  if (t->dtype != IJ_BF16) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "%s: '%s' is bf16, expected f32, i32, i64 or u8", name, arg);
}
static ij_status same_type(const char *name, const ij_tensor *x, const ij_tensor *y) {
  if (x->dtype == y->dtype) return IJ_OK;
  return ij_fail(IJ_ESHAPE, "%s: 'x' is %s and 'y' is %s, expected one type: convert one with to()", name,
                 ij_dtype_name(x->dtype), ij_dtype_name(y->dtype));
}
static ij_status do_not_fit(const char *name, const ij_tensor *x, const ij_tensor *y) {
  char a[160], b[160];
  return ij_fail(IJ_ESHAPE, "%s: %s and %s do not fit: from the last dimension on, sizes must be equal or 1", name,
                 ij_shape_text(x, a), ij_shape_text(y, b));
}

/* x, y: one may be NULL. nd, shape: what both broadcast to */
static ij_status binary(const char *name, int f, ij_dtype dt, ij_tensor *x, ij_tensor *y, double s, int nd,
                        const int64_t *shape, ij_tensor **out) {
  ij_op op = ij_begin(name, dt == IJ_F32 && f < IJ_EQ ? binary_backward : NULL, out);
  bool linear = f <= IJ_SUB || (f == IJ_MUL && !(x && y)) || (f == IJ_DIV && !y); /* its slope is the number's */
  op.node.reads = linear ? 0 : IJ_READS_INPUTS;
  if (x) IJ_TRY(ij_in_any(&op, "x", x));
  if (y) IJ_TRY(ij_in_any(&op, "y", y));
  ij_attr(&op, &(struct binary){f, x && y ? 0 : x ? 1 : 2, s}, sizeof(struct binary));
  pair p = pair_of(x, y, nd, shape);
  void *z = ij_out(&op, f >= IJ_EQ ? IJ_U8 : dt, nd, shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.binary_fwd(&op.dev->queue, f, dt, p.nd, p.shape, s, data_or_null(x), p.stride[0],
                                       data_or_null(y), p.stride[1], z);
  return ij_end(&op);
}

ij_status ij_binary(const char *f, ij_tensor *x, ij_tensor *y, ij_tensor **out) {
  int i = binary_called(f), nd = 0;
  int64_t shape[IJ_MAX_DIMS] = {0};
  *out = NULL;
  if (i == IJ_BINARY_FNS) return ij_unknown_name("binary", f, binary_names, IJ_BINARY_FNS);
  IJ_TRY(check_type(binary_names[i], "x", x));
  IJ_TRY(check_type(binary_names[i], "y", y));
  IJ_TRY(same_type(binary_names[i], x, y));
  if (!ij_broadcast(x, &nd, shape) || !ij_broadcast(y, &nd, shape)) return do_not_fit(binary_names[i], x, y);
  return binary(binary_names[i], i, x->dtype, x, y, 0, nd, shape, out);
}

ij_status ij_scalar(const char *f, ij_tensor *x, double s, int reversed, ij_tensor **out) {
  int i = binary_called(f);
  *out = NULL;
  if (i == IJ_BINARY_FNS) return ij_unknown_name("scalar", f, binary_names, IJ_BINARY_FNS);
  IJ_TRY(check_type(binary_names[i], "x", x));
  return binary(binary_names[i], i, x->dtype, reversed ? NULL : x, reversed ? x : NULL, s, x->ndim, x->shape, out);
}

/* ---- the choice between two */
typedef struct triple {
  int nd;
  int64_t shape[IJ_MAX_DIMS], stride[3][IJ_MAX_DIMS];
} triple;
static triple triple_of(const ij_tensor *c, const ij_tensor *x, const ij_tensor *y, int nd, const int64_t *shape) {
  triple t = {.nd = nd};
  memcpy(t.shape, shape, sizeof t.shape);
  ij_strides_for(c, nd, t.stride[0]);
  ij_strides_for(x, nd, t.stride[1]);
  ij_strides_for(y, nd, t.stride[2]);
  t.nd = ij_collapse(nd, t.shape, t.stride, 3);
  return t;
}

static ij_status where_backward(ij_node *n) { /* in: cond, x, y */
  ij_tensor *c = n->in[0], *g = n->out->grad;
  ij_device *dev = ij_device_of(c);
  triple t = triple_of(c, g, g, g->ndim, g->shape);
  ij_status st = IJ_OK;
  for (int i = 1; i <= 2 && st == IJ_OK; i++) {
    ij_tensor *wide;
    float *to;
    if (!n->dx[i]) continue;
    IJ_TRY(wide_for(n, n->in[i], n->dx[i], &wide, &to));
    st = dev->ops.choose(&dev->queue, t.nd, t.shape, sizeof(float), ij_data_of(c), t.stride[0],
                         i == 1 ? out_grad(n) : NULL, t.stride[1], i == 2 ? out_grad(n) : NULL, t.stride[2], to);
    st = narrow_to(st, n, n->in[i], n->dx[i], wide);
  }
  return st;
}
ij_status ij_where(ij_tensor *cond, ij_tensor *x, ij_tensor *y, ij_tensor **out) {
  ij_op op = ij_begin("where", x->dtype == IJ_F32 ? where_backward : NULL, out);
  op.node.reads = 1 << 0; /* cond */
  int nd = 0;
  int64_t shape[IJ_MAX_DIMS] = {0};
  if (cond->dtype != IJ_U8) return ij_fail(IJ_ESHAPE, "where: 'cond' is %s, expected u8", ij_dtype_name(cond->dtype));
  IJ_TRY(check_type("where", "x", x));
  IJ_TRY(same_type("where", x, y));
  if (!ij_broadcast(x, &nd, shape) || !ij_broadcast(y, &nd, shape)) return do_not_fit("where", x, y);
  char a[160], b[160];
  if (!ij_broadcast(cond, &nd, shape))
    return ij_fail(IJ_ESHAPE, "where: 'cond' is %s, which does not broadcast with %s", ij_shape_text(cond, a),
                   ij_sizes_text(nd, shape, b));
  IJ_TRY(ij_in_any(&op, "cond", cond));
  IJ_TRY(ij_in_any(&op, "x", x));
  IJ_TRY(ij_in_any(&op, "y", y));
  triple t = triple_of(cond, x, y, nd, shape);
  void *z = ij_out(&op, x->dtype, nd, shape);
  if (ij_ready(&op))
    op.status = op.dev->ops.choose(&op.dev->queue, t.nd, t.shape, (ij_dim)ij_dtype_size(x->dtype), ij_data_of(cond),
                                   t.stride[0], ij_data_of(x), t.stride[1], ij_data_of(y), t.stride[2], z);
  return ij_end(&op);
}
