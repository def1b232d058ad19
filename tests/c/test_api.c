/* core/ijepa.h as a C program uses it: what no Lua module calls. */
#include "ijepa.h"
#include "suite.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

START_TEST(mt19937_known_answer)
{ /* Matsumoto and Nishimura's default seed and its first output */
  ij_mt g;
  ij_mt_init(&g, 5489);
  ck_assert_uint_eq(ij_mt_u32(&g), 3499211612u);
  ij_mt_init(&g, 5489);
  ck_assert_int_eq(ij_mt_randint(&g, 5, 15), 5 + 3499211612u % 10);
}
END_TEST

START_TEST(views_keep_their_strides)
{
  ij_device *dev;
  ij_tensor *t, *column, *turned;
  ck_assert_int_eq(ij_device_open("cpu", &dev), IJ_OK);
  ck_assert_int_eq(ij_tensor_new(dev, IJ_F32, 2, (int64_t[]){3, 5}, &t), IJ_OK);
  ck_assert_int_eq(ij_tensor_stride(t, 0), 5);
  ck_assert_int_eq(ij_tensor_select(t, 1, 2, &column), IJ_OK);
  ck_assert_int_eq(ij_tensor_stride(column, 0), 5);
  ck_assert_int_eq(ij_tensor_transpose(t, 0, 1, &turned), IJ_OK);
  ck_assert_int_eq(ij_tensor_stride(turned, 0), 1);
  ck_assert_int_eq(ij_tensor_contiguous(turned), 0);
  ij_tensor_free(turned);
  ij_tensor_free(column);
  ij_tensor_free(t);
  ij_device_close(dev);
}
END_TEST

START_TEST(a_model_and_its_optimizer)
{
  const ij_vit_config c = {.width = 32,
                           .depth = 1,
                           .heads = 2,
                           .mlp_ratio = 4,
                           .patch = 8,
                           .channels = 3,
                           .grid_h = 2,
                           .grid_w = 3,
                           .dtype = IJ_F32};
  size_t before = ij_mem_live();
  ij_device *dev;
  ij_encoder *e;
  ij_optim *o;
  ij_mem_peak_reset();
  ck_assert_int_eq(ij_device_open("cpu", &dev), IJ_OK);
  ck_assert_int_eq(ij_encoder_new(dev, &c, &e), IJ_OK);
  ck_assert_int_eq(ij_encoder_config(e)->width, 32);
  ck_assert_int_eq(ij_encoder_config(e)->grid_w, 3);
  ck_assert_int_eq(ij_adamw_new(&(ij_optim_config){0}, &o), IJ_OK);
  ij_params *p = ij_encoder_params(e);
  int trained = 0;
  for (int i = 0; i < ij_params_count(p); i++) {
    if (!ij_params_trained(p, i)) continue;
    ck_assert_int_eq(ij_optim_add(o, ij_params_tensor(p, i), ij_params_decayed(p, i), NULL), IJ_OK);
    trained++;
  }
  ck_assert_int_gt(trained, 10);
  ck_assert_int_eq(ij_optim_count(o), trained);
  ck_assert_uint_ge(ij_mem_peak(), ij_mem_live());
  ck_assert_uint_gt(ij_mem_live(), before);
  ij_optim_free(o);
  ij_encoder_free(e);
  ij_device_close(dev);
  ck_assert_uint_eq(ij_mem_live(), before);
}
END_TEST

static atomic_int computed;
static pthread_t computing;
static void *press(void *arg) {
  (void)arg;
  while (!computed) {
    pthread_kill(computing, SIGUSR1);
    nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
  }
  return NULL;
}

START_TEST(signals_do_not_disturb_a_product) /* K is past what oneDNN's kernels hold on the stack */
{
  enum { R = 300, K = 1500, N = 300 };
  ij_device *dev;
  ij_tensor *x, *w, *y;
  pthread_t presser;
  float *v = malloc(sizeof *v * R * K), *alone = malloc(sizeof *v * R * N), *pressed = malloc(sizeof *v * R * N);
  for (int i = 0; i < R * K; i++) v[i] = (float)(i % 17) - 8;
  ck_assert_int_eq(ij_device_open("cpu", &dev), IJ_OK);
  ck_assert_int_eq(ij_tensor_new(dev, IJ_F32, 2, (int64_t[]){R, K}, &x), IJ_OK);
  ck_assert_int_eq(ij_tensor_new(dev, IJ_F32, 2, (int64_t[]){N, K}, &w), IJ_OK);
  ck_assert_int_eq(ij_tensor_write(x, v, sizeof *v * R * K), IJ_OK);
  ck_assert_int_eq(ij_tensor_write(w, v, sizeof *v * N * K), IJ_OK);
  ij_interrupt_install();
  computing = pthread_self();
  for (int i = 0; i < 40; i++) {
    ck_assert_int_eq(ij_linear(x, w, NULL, &y), IJ_OK);
    ck_assert_int_eq(ij_tensor_read(y, i ? pressed : alone, sizeof *v * R * N), IJ_OK);
    if (i) ck_assert_mem_eq(pressed, alone, sizeof *v * R * N);
    ij_tensor_free(y);
    if (i == 0) ck_assert_int_eq(pthread_create(&presser, NULL, press, NULL), 0);
  }
  computed = 1;
  pthread_join(presser, NULL);
  ck_assert_int_eq(ij_save_asked(), 1);
  ij_tensor_free(x);
  ij_tensor_free(w);
  ij_device_close(dev);
  free(v);
  free(alone);
  free(pressed);
}
END_TEST

int main(void) {
  Suite *s = suite_create("api");
  TCase *t = tcase_create("api");
  tcase_set_timeout(t, 100); /* a busy machine */
  tcase_add_test(t, mt19937_known_answer);
  tcase_add_test(t, views_keep_their_strides);
  tcase_add_test(t, a_model_and_its_optimizer);
  tcase_add_test(t, signals_do_not_disturb_a_product);
  suite_add_tcase(s, t);
  return run_suite(s);
}
