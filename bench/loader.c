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
  ij_catalogue_config what = {.root = argv[1]};
  ij_loader_config how = {.view = {.height = side, .width = side, .train = 1, .seed = 1},
                          .shuffle = 1,
                          .batch = 32,
                          .workers = workers,
                          .max_bad = -1};
  ij_catalogue *catalogue = NULL;
  ij_loader *loader = NULL;
  ij_batch b;
  double start = ij_time();
  ij_status st = ij_catalogue_open(&what, &catalogue);
  if (st == IJ_OK)
    printf("listed: %lld images in %.3f s\n", (long long)ij_catalogue_count(catalogue), ij_time() - start);
  if (st == IJ_OK) st = ij_loader_open(catalogue, &how, &loader);
  double cpu = 0, wall = 0;
  long long count = 0;
  for (int pass = -1; pass < passes && st == IJ_OK; pass++) { /* the first pass warms up */
    double at = cpu_seconds(), clock = ij_time();
    for (int64_t i = 0; i < ij_loader_steps(loader) && (st = ij_loader_next(loader, &b)) == IJ_OK; i++)
      count += pass >= 0 ? b.count : 0;
    if (pass < 0) continue;
    cpu += cpu_seconds() - at;
    wall += ij_time() - clock;
  }
  if (st == IJ_OK)
    printf("decode and crop: %.1f images per CPU second, %.1f images/s with %d workers\n", (double)count / cpu,
           (double)count / wall, workers);
  else fprintf(stderr, "bench_loader: %s\n", ij_errmsg());
  ij_loader_close(loader);
  ij_catalogue_close(catalogue);
  return st != IJ_OK;
}
