/* Images per second of one core: read, decode, random crop. CPU seconds, so that other work on the machine weighs
 * little. usage: bench_loader DATA [SIDE [PASSES [WORKERS]]]    bench/loader.sh compares it with torchvision and Pillow
 */
#include "ijepa.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  if (argc < 2) {
    fprintf(stderr, "usage: bench_loader DATA [SIDE [PASSES [WORKERS]]]\n");
    return 2;
  }
  int side = argc > 2 ? atoi(argv[2]) : 224, passes = argc > 3 ? atoi(argv[3]) : 3,
      workers = argc > 4 ? atoi(argv[4]) : 0;
  ij_data_config c = {.root = argv[1],
                      .height = side,
                      .width = side,
                      .train = 1,
                      .shuffle = 1,
                      .batch = 32,
                      .scale = {.3, 1},
                      .ratio = {3. / 4, 4. / 3},
                      .workers = workers,
                      .seed = 1,
                      .world = 1,
                      .max_bad = -1};
  ij_data *d = NULL;
  ij_batch b;
  double start = ij_time();
  ij_status st = ij_data_open(&c, &d);
  if (st == IJ_OK) printf("listed: %lld images in %.3f s\n", (long long)ij_data_count(d), ij_time() - start);
  double cpu = 0, wall = 0;
  long long count = 0;
  for (int pass = -1; pass < passes && st == IJ_OK; pass++) { /* the first pass warms up */
    double at = cpu_seconds(), clock = ij_time();
    for (int64_t i = 0; i < ij_data_steps(d) && (st = ij_data_next(d, &b)) == IJ_OK; i++)
      count += pass >= 0 ? b.count : 0;
    if (pass < 0) continue;
    cpu += cpu_seconds() - at;
    wall += ij_time() - clock;
  }
  if (st == IJ_OK)
    printf("decode and crop: %.1f a CPU second, %.1f a second with %d workers\n", (double)count / cpu,
           (double)count / wall, workers);
  else fprintf(stderr, "bench_loader: %s\n", ij_errmsg());
  ij_data_close(d);
  return st != IJ_OK;
}
