/* Whole training steps of a small model, on the plug-in's device (IJEPA_CUDA) and on the reference: losses and all
 * parameters must agree. Through the public interface alone, so that every sanitizer's build can run it. */
#include "../../core/ijepa.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { B = 3, SIDE = 24, P = 6, GRID = SIDE / P, N = GRID * GRID, K = 7, M = 2, T = 3, STEPS = 2 };

static void must(ij_status st, const char *what) {
  if (st == IJ_OK) return;
  fprintf(stderr, "FAILED: %s: %s\n", what, ij_errmsg());
  exit(1);
}

typedef struct model {
  ij_device *dev;
  ij_encoder *context, *target;
  ij_predictor *predictor;
  ij_optim *opt;
  ij_tensor *gate;
} model;

static void add_all(ij_optim *o, ij_params *p, ij_params *average) {
  for (int i = 0; i < ij_params_count(p); i++)
    if (ij_params_trained(p, i))
      must(ij_optim_add(o, ij_params_tensor(p, i), ij_params_decayed(p, i),
                        average ? ij_params_tensor(average, i) : NULL),
           "add");
}

static model model_new(const char *device, ij_dtype dt, int recompute) {
  model m = {0};
  ij_vit_config c = {.width = 48,
                     .depth = 2,
                     .heads = 2,
                     .mlp_ratio = 48. / 11,
                     .patch = P,
                     .channels = 3,
                     .grid_h = GRID,
                     .grid_w = GRID,
                     .dtype = dt,
                     .recompute = recompute,
                     .seed = 5,
                     .init_gain = 1,
                     .patch_gain = 1};
  ij_predictor_config pc = {.vit = c, .encoder_width = c.width};
  pc.vit.width = 32;
  pc.vit.depth = 1;
  must(ij_device_open(device, &m.dev), device);
  must(ij_encoder_new(m.dev, &c, &m.context), "encoder");
  must(ij_encoder_new(m.dev, &c, &m.target), "target");
  must(ij_predictor_new(m.dev, &pc, &m.predictor), "predictor");
  must(ij_encoder_copy(m.target, m.context), "copy");
  for (int i = 0; i < ij_params_count(ij_encoder_params(m.target)); i++)
    ij_tensor_require_grad(ij_params_tensor(ij_encoder_params(m.target), i), 0);
  must(ij_adamw_new(NULL, &m.opt), "optimizer");
  add_all(m.opt, ij_encoder_params(m.context), ij_encoder_params(m.target));
  add_all(m.opt, ij_predictor_params(m.predictor), NULL);
  must(ij_tensor_new_kept(m.dev, IJ_F32, 1, (int64_t[]){1}, &m.gate), "gate");
  must(ij_fill(m.gate, 0), "gate");
  must(ij_optim_gate(m.opt, m.gate), "gate");
  return m;
}
static void model_free(model *m) {
  ij_optim_free(m->opt);
  ij_tensor_free(m->gate);
  ij_predictor_free(m->predictor);
  ij_encoder_free(m->target);
  ij_encoder_free(m->context);
  ij_device_close(m->dev);
}

static ij_tensor *upload(model *m, ij_dtype t, int nd, const int64_t *shape, const void *v, size_t bytes) {
  ij_tensor *x;
  must(ij_tensor_new(m->dev, t, nd, shape, &x), "tensor");
  must(ij_tensor_write(x, v, bytes), "write");
  return x;
}

/* Images and masks of a step, the same on every device. */
static void draw(int step, uint8_t *pixels, int32_t *context, int32_t *target) {
  ij_rng r;
  ij_rng_init(&r, 1, IJ_RNG_USER, (uint32_t)step, 0);
  for (int i = 0; i < B * SIDE * SIDE * 3; i++) pixels[i] = (uint8_t)ij_rng_below(&r, 256);
  for (int row = 0; row < B * (1 + M); row++) {
    uint32_t order[N];
    for (uint32_t i = 0; i < N; i++) order[i] = i;
    ij_rng_shuffle(&r, order, N);
    for (int i = 0; i < (row < B ? K : T); i++) *(row < B ? context++ : target++) = (int32_t)order[i];
  }
}

/* One update; the loss is read after it was asked for. */
static float step_of(model *m, int step) {
  static uint8_t pixels[B * SIDE * SIDE * 3];
  int32_t ctx[B * K], tgt[M * B * T];
  ij_tensor *x, *c, *t, *h, *n, *g, *y, *z, *loss;
  ij_reading *late;
  float value;
  draw(step, pixels, ctx, tgt);
  ij_step_begin(m->dev);
  x = upload(m, IJ_U8, 4, (int64_t[]){B, SIDE, SIDE, 3}, pixels, sizeof pixels);
  c = upload(m, IJ_I32, 3, (int64_t[]){1, B, K}, ctx, sizeof ctx);
  t = upload(m, IJ_I32, 3, (int64_t[]){M, B, T}, tgt, sizeof tgt);
  int was = ij_grad_enable(m->dev, 0);
  must(ij_encoder_forward(m->target, x, NULL, &h), "target");
  must(ij_layer_norm(h, NULL, NULL, 1e-5, &n), "norm");
  must(ij_gather(n, t, &g), "gather");
  ij_grad_enable(m->dev, was);
  must(ij_encoder_forward(m->context, x, c, &y), "context");
  must(ij_predictor_forward(m->predictor, y, c, t, 0, 0, &z), "predictor");
  must(ij_smooth_l1(z, g, 1, M, &loss), "loss");
  must(ij_add_scaled(m->gate, loss, 1), "gate");
  must(ij_reading_begin(loss, &late), "reading");
  must(ij_optim_eager(m->opt, 1e-3, .05, .99, 1), "eager");
  must(ij_backward(loss, 0), "backward");
  must(ij_optim_step(m->opt, 1e-3, .05, .99, 1), "step");
  ij_tensor *all[] = {x, c, t, h, n, g, y, z, loss};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) ij_tensor_free(all[i]);
  ij_step_end(m->dev);
  must(ij_reading_end(late, &value, sizeof value), "reading");
  return value;
}

/* The largest difference of any parameter. */
static double apart(ij_params *a, ij_params *b) {
  double worst = 0;
  for (int i = 0; i < ij_params_count(a); i++) {
    size_t n = (size_t)ij_tensor_count(ij_params_tensor(a, i)), bytes = n * sizeof(float);
    float *x = malloc(bytes), *y = malloc(bytes);
    must(ij_tensor_read(ij_params_tensor(a, i), x, bytes), "read");
    must(ij_tensor_read(ij_params_tensor(b, i), y, bytes), "read");
    for (size_t k = 0; k < n; k++) {
      double d = fabs((double)x[k] - y[k]);
      if (!(d <= worst)) worst = d; /* NaN too */
    }
    free(x);
    free(y);
  }
  return worst;
}

/* tol: of the losses; AdamW moves a parameter by at most the rate a step, whichever way a tiny gradient points, so two
 * steps part by 4e-3 at most and, but for such, by rounding: `most` counts all of them. */
static int compare(const char *name, ij_dtype dt, int recompute, double tol, double most) {
  model gpu = model_new("cuda", dt, recompute), plain = model_new("ref", dt, 0);
  int failed = 0;
  for (int s = 0; s < STEPS; s++) {
    double a = step_of(&gpu, s), b = step_of(&plain, s);
    if (fabs(a - b) <= tol * fabs(b)) continue;
    fprintf(stderr, "FAILED: %s: loss of step %d is %.8g, expected %.8g\n", name, s, a, b);
    failed = 1;
  }
  double encoder = apart(ij_encoder_params(gpu.context), ij_encoder_params(plain.context));
  double target = apart(ij_encoder_params(gpu.target), ij_encoder_params(plain.target));
  double predictor = apart(ij_predictor_params(gpu.predictor), ij_predictor_params(plain.predictor));
  printf("%s: %d steps; parameters apart by %.2g, %.2g, %.2g of %.2g\n", name, STEPS, encoder, target, predictor, most);
  if (!(encoder <= most && target <= most && predictor <= most)) {
    fprintf(stderr, "FAILED: %s: parameters part\n", name);
    failed = 1;
  }
  model_free(&gpu);
  model_free(&plain);
  return failed;
}

int main(void) {
  int failed = compare("f32", IJ_F32, 0, 1e-5, 2e-4);
  failed |= compare("bf16, recomputed", IJ_BF16, 1, 2e-2, 4.1e-3);
  return failed;
}
