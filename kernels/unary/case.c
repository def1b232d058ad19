#include "../case.h"

enum { F, N, TYPE };                       /* dims: an ij_unary_fn, elements, type */
enum { ANY_BITS = 1, WIDE = 2, AWAY = 4 }; /* WIDE: values up to 30; AWAY: around 30, where f is flatter */
static const double A = -0.05, B = 2;

static double constant(int f) { return f == IJ_POWER ? 2.5 : A; }

static ij_case_fill contents(const ij_case *c) {
  if (c->flags & ANY_BITS) return IJ_CASE_BITS;
  if (c->flags & AWAY) return IJ_CASE_FAR;
  if (c->dim[TYPE] != IJ_F32) return c->dim[TYPE] == IJ_U8 ? IJ_CASE_INDEX : IJ_CASE_NORMAL;
  switch ((ij_unary_fn)c->dim[F]) {
  case IJ_LOG:
  case IJ_SQRT:
  case IJ_RSQRT:
  case IJ_LOG1P:
  case IJ_POWER:
    return IJ_CASE_POSITIVE;
  case IJ_ABS:
  case IJ_CLAMP:
  case IJ_RECIPROCAL:
    return IJ_CASE_APART;
  default:
    return IJ_CASE_NORMAL;
  }
}
static void arguments(ij_case *c) {
  int type = (int)c->dim[TYPE];
  double scale = type == IJ_F32 ? c->flags & WIDE ? 30 : 1 : type == IJ_U8 ? 256 : 1000;
  ij_case_tol(c, 1e-6, 1e-6, "a few roundings to f32");
  if (!(c->flags & ANY_BITS)) ij_case_unit(c, 0.1);
  ij_case_in_as(c, "x", type, c->dim[N], contents(c), scale);
}

static void fwd(ij_case *c) {
  arguments(c);
  if (c->dim[TYPE] != IJ_F32) ij_case_tol(c, 0, 0, "whole numbers");
  ij_case_out(c, "y", (int)c->dim[TYPE], c->dim[N]);
  ij_case_form(c, "y=x");
  c->flops = 20.0 * (double)c->dim[N];
}
static ij_status call_fwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->unary_fwd(q, (int)d[F], (ij_dtype)d[TYPE], d[N], constant((int)d[F]), B, c->p[0], c->p[1]);
}

static void bwd(ij_case *c) {
  arguments(c);
  ij_case_in(c, "y", IJ_F32, c->dim[N], 1);
  ij_case_in(c, "dy", IJ_F32, c->dim[N], 1);
  ij_case_tol(c, 4e-6, 4e-6, "a few roundings to f32, and those of y");
  ij_case_out(c, "dx", IJ_F32, c->dim[N]);
  ij_case_form(c, "dx=dy");
  c->flops = 20.0 * (double)c->dim[N];
}
static ij_status call_bwd(const ij_op_table *t, ij_queue *q, const ij_case *c) {
  const ij_dim *d = c->dim;
  return t->unary_bwd(q, (int)d[F], d[N], constant((int)d[F]), B, c->p[0], c->p[1], c->p[2], c->p[3]);
}

static const ij_case_shape fwd_shapes[] = {
    {"exp", {IJ_EXP, 37}, 0, 0},
    {"exp wide", {IJ_EXP, 203}, WIDE, 0},
    {"exp any", {IJ_EXP, 4001}, ANY_BITS, 0},
    {"log", {IJ_LOG, 37}, 0, 0},
    {"log any", {IJ_LOG, 4001}, ANY_BITS, 0},
    {"sqrt", {IJ_SQRT, 37}, 0, 0},
    {"sqrt any", {IJ_SQRT, 4001}, ANY_BITS, 0},
    {"rsqrt", {IJ_RSQRT, 37}, 0, 0},
    {"abs", {IJ_ABS, 37}, 0, 0},
    {"abs any", {IJ_ABS, 4001}, ANY_BITS, 0},
    {"sign", {IJ_SIGN, 37}, 0, 0},
    {"sign any", {IJ_SIGN, 4001}, ANY_BITS, 0},
    {"floor", {IJ_FLOOR, 67}, WIDE, 0},
    {"floor any", {IJ_FLOOR, 4001}, ANY_BITS, 0},
    {"ceil", {IJ_CEIL, 67}, WIDE, 0},
    {"ceil any", {IJ_CEIL, 4001}, ANY_BITS, 0},
    {"round", {IJ_ROUND, 67}, WIDE, 0},
    {"round any", {IJ_ROUND, 4001}, ANY_BITS, 0},
    {"sin", {IJ_SIN, 37}, 0, 0},
    {"sin wide", {IJ_SIN, 203}, WIDE, 0},
    {"sin any", {IJ_SIN, 4001}, ANY_BITS, 0},
    {"cos", {IJ_COS, 37}, 0, 0},
    {"cos wide", {IJ_COS, 203}, WIDE, 0},
    {"cos any", {IJ_COS, 4001}, ANY_BITS, 0},
    {"tanh", {IJ_TANH, 37}, 0, 0},
    {"tanh wide", {IJ_TANH, 203}, WIDE, 0},
    {"tanh any", {IJ_TANH, 4001}, ANY_BITS, 0},
    {"sigmoid", {IJ_SIGMOID, 37}, 0, 0},
    {"sigmoid wide", {IJ_SIGMOID, 203}, WIDE, 0},
    {"silu", {IJ_SILU, 37}, 0, 0},
    {"silu wide", {IJ_SILU, 203}, WIDE, 0},
    {"erf", {IJ_ERF, 37}, 0, 0},
    {"erf wide", {IJ_ERF, 203}, WIDE, 0},
    {"erf any", {IJ_ERF, 4001}, ANY_BITS, 0},
    {"neg", {IJ_NEG, 37}, 0, 0},
    {"reciprocal", {IJ_RECIPROCAL, 37}, 0, 0},
    {"reciprocal away", {IJ_RECIPROCAL, 37}, AWAY, IJ_CASE_GRAD},
    {"log1p", {IJ_LOG1P, 37}, 0, 0},
    {"log1p any", {IJ_LOG1P, 4001}, ANY_BITS, 0},
    {"expm1", {IJ_EXPM1, 37}, 0, 0},
    {"expm1 wide", {IJ_EXPM1, 203}, WIDE, 0},
    {"expm1 any", {IJ_EXPM1, 4001}, ANY_BITS, 0},
    {"square", {IJ_SQUARE, 37}, 0, 0},
    {"pow", {IJ_POWER, 37}, 0, 0},
    {"clamp", {IJ_CLAMP, 37}, 0, 0},
    {"clamp any", {IJ_CLAMP, 4001}, ANY_BITS, 0},
    {"i32 abs", {IJ_ABS, 37, IJ_I32}, 0, 0},
    {"i32 sign", {IJ_SIGN, 37, IJ_I32}, 0, 0},
    {"i32 neg", {IJ_NEG, 37, IJ_I32}, ANY_BITS, 0},
    {"i32 square", {IJ_SQUARE, 37, IJ_I32}, ANY_BITS, 0},
    {"i32 clamp", {IJ_CLAMP, 37, IJ_I32}, 0, 0},
    {"i64 abs", {IJ_ABS, 37, IJ_I64}, ANY_BITS, 0},
    {"i64 square", {IJ_SQUARE, 37, IJ_I64}, ANY_BITS, 0},
    {"u8 neg", {IJ_NEG, 37, IJ_U8}, 0, 0},
    {"u8 clamp", {IJ_CLAMP, 37, IJ_U8}, 0, 0},
    {"nothing", {IJ_EXP, 0}, 0, 0},
    {"large", {IJ_EXP, 300001}, 0, 0},
    {"1e7 exp", {IJ_EXP, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 log", {IJ_LOG, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 sin", {IJ_SIN, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 tanh", {IJ_TANH, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 erf", {IJ_ERF, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 pow", {IJ_POWER, 10000000}, 0, IJ_CASE_BENCH},
    {"1e7 abs", {IJ_ABS, 10000000}, 0, IJ_CASE_BENCH},
    {0},
};
static const ij_case_shape bwd_shapes[] = {
    {"exp", {IJ_EXP, 37}, 0, IJ_CASE_GRAD},
    {"log", {IJ_LOG, 37}, 0, 0},
    {"log away", {IJ_LOG, 37}, AWAY, IJ_CASE_GRAD},
    {"sqrt", {IJ_SQRT, 37}, 0, IJ_CASE_GRAD},
    {"rsqrt", {IJ_RSQRT, 37}, 0, 0},
    {"rsqrt away", {IJ_RSQRT, 37}, AWAY, IJ_CASE_GRAD},
    {"abs", {IJ_ABS, 37}, 0, IJ_CASE_GRAD},
    {"sign", {IJ_SIGN, 37}, 0, 0},
    {"floor", {IJ_FLOOR, 37}, 0, 0},
    {"ceil", {IJ_CEIL, 37}, 0, 0},
    {"round", {IJ_ROUND, 37}, 0, 0},
    {"sin", {IJ_SIN, 37}, 0, IJ_CASE_GRAD},
    {"cos", {IJ_COS, 37}, 0, IJ_CASE_GRAD},
    {"tanh", {IJ_TANH, 37}, 0, IJ_CASE_GRAD},
    {"sigmoid", {IJ_SIGMOID, 37}, 0, IJ_CASE_GRAD},
    {"silu", {IJ_SILU, 37}, 0, IJ_CASE_GRAD},
    {"silu wide", {IJ_SILU, 203}, WIDE, 0},
    {"erf", {IJ_ERF, 37}, 0, IJ_CASE_GRAD},
    {"erf wide", {IJ_ERF, 203}, WIDE, 0},
    {"neg", {IJ_NEG, 37}, 0, IJ_CASE_GRAD},
    {"reciprocal", {IJ_RECIPROCAL, 37}, 0, 0},
    {"reciprocal away", {IJ_RECIPROCAL, 37}, AWAY, IJ_CASE_GRAD},
    {"log1p", {IJ_LOG1P, 37}, 0, IJ_CASE_GRAD},
    {"expm1", {IJ_EXPM1, 37}, 0, IJ_CASE_GRAD},
    {"square", {IJ_SQUARE, 37}, 0, IJ_CASE_GRAD},
    {"pow", {IJ_POWER, 37}, 0, IJ_CASE_GRAD},
    {"clamp", {IJ_CLAMP, 37}, 0, IJ_CASE_GRAD},
    {"nothing", {IJ_EXP, 0}, 0, 0},
    {"large", {IJ_TANH, 300001}, 0, 0},
    {"1e7 silu", {IJ_SILU, 10000000}, 0, IJ_CASE_BENCH},
    {0},
};

const ij_case_op ij_cases_unary[] = {
    {"unary_fwd", fwd, call_fwd, fwd_shapes, false, NULL},
    {"unary_bwd", bwd, call_bwd, bwd_shapes, false, &ij_cases_unary[0]},
    {0},
};
