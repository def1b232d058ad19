/* Bytes an image and seconds of a data set's list, with generated names like ImageNet's; and the time to open tar
 * shards with and without an index. usage: bench_list names [MILLIONS [tar]]     names alone, through core/data/names.c
 *        bench_list shards FOLDER SHARDS IMAGES [BYTES]   makes sparse tars there, then opens them three times */
#include "data/data.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int names(int argc, char **argv) {
  double millions = argc > 2 ? atof(argv[2]) : 14;
  bool tar = argc > 3;
  ij_names v = {.meta = tar ? 12 : 0};
  uint8_t meta[12] = {0};
  size_t n = (size_t)(millions * 1e6), chars = 0;
  ij_rng r;
  ij_status st = IJ_OK;
  double start = ij_time();
  ij_rng_init(&r, 1, IJ_RNG_USER, 0, 0);
  for (size_t i = 0; i < n && st == IJ_OK;
       i++) { /* classes one after the other, in each no order, as folders are read */
    char name[64];
    size_t class = i / 640;
    chars += (size_t)snprintf(name, sizeof name, "n%08zu/n%08zu_%u.JPEG", class, class, ij_rng_u32(&r) % 100000);
    st = ij_names_add(&v, name, meta);
  }
  double added = ij_time();
  size_t live = ij_mem_live();
  if (st == IJ_OK) st = ij_names_sort(&v);
  if (st != IJ_OK) fprintf(stderr, "bench_list: %s\n", ij_errmsg());
  else
    printf("%zu names of %.1f characters: %.1f bytes each while added, %.1f kept, %.1f at the peak; of the process at "
           "most "
           "%.0f MiB; added in %.1f s, sorted in %.1f s\n",
           n, (double)chars / (double)n, (double)live / (double)n, (double)ij_mem_live() / (double)n,
           (double)ij_mem_peak() / (double)n, (double)ij_rss_peak() / 1048576, added - start, ij_time() - added);
  ij_names_free(&v);
  return st != IJ_OK;
}

static void header(uint8_t h[512], const char *name, uint64_t size) {
  unsigned sum = 0;
  memset(h, 0, 512);
  snprintf((char *)h, 100, "%s", name);
  memcpy(h + 100, "0000644", 8);
  snprintf((char *)h + 124, 12, "%011llo", (unsigned long long)size);
  memcpy(h + 257,
         "ustar\0"
         "00",
         8);
  h[156] = '0';
  memset(h + 148, ' ', 8);
  for (int i = 0; i < 512; i++) sum += h[i];
  snprintf((char *)h + 148, 8, "%06o", sum);
}

static ij_status make_shard(const char *folder, int number, int images, uint64_t bytes) {
  char path[1024], name[64];
  uint8_t h[512];
  uint64_t at = 0, step = 512 + (bytes + 511) / 512 * 512;
  snprintf(path, sizeof path, "%s/%06d.tar", folder, number);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  for (int i = 0; fd >= 0 && i < images; i++, at += step) {
    snprintf(name, sizeof name, "n%08d/n%08d_%d.JPEG", number, number, i);
    header(h, name, bytes);
    if (pwrite(fd, h, sizeof h, (off_t)at) != sizeof h) break;
  }
  bool good = fd >= 0 && at == step * (uint64_t)images && ftruncate(fd, (off_t)at + 1024) == 0;
  if (fd >= 0) close(fd);
  return good ? IJ_OK : ij_fail(IJ_EIO, "'%s' could not be written", path);
}

static void on_note(void *arg, const char *text) { (void)arg, fprintf(stderr, "%s\n", text); }
static int shards(char **argv, uint64_t bytes) {
  int n = atoi(argv[3]), images = atoi(argv[4]);
  char cache[1024];
  snprintf(cache, sizeof cache, "%s/cache", argv[2]);
  ij_status st = ij_mkdirs(argv[2]);
  for (int i = 0; i < n && st == IJ_OK; i++) st = make_shard(argv[2], i, images, bytes);
  static const char *const what[] = {"by their headers", "the same, making indexes", "by their indexes"};
  for (int k = 0; k < 3 && st == IJ_OK; k++) {
    ij_list *l;
    double start = ij_time();
    if ((st = ij_list_open(argv[2], NULL, k ? cache : NULL, false, on_note, NULL, &l)) != IJ_OK) break;
    printf("%d tars, %u images of %llu bytes, %s: %.2f s, %.1f bytes an image\n", n, ij_list_count(l),
           (unsigned long long)bytes, what[k], ij_time() - start, (double)ij_mem_live() / ij_list_count(l));
    ij_list_free(l);
  }
  if (st != IJ_OK) fprintf(stderr, "bench_list: %s\n", ij_errmsg());
  return st != IJ_OK;
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "names")) return names(argc, argv);
  if (argc > 4 && !strcmp(argv[1], "shards")) return shards(argv, argc > 5 ? strtoull(argv[5], NULL, 10) : 110000);
  fprintf(stderr, "usage: bench_list names [MILLIONS [tar]] | bench_list shards FOLDER SHARDS IMAGES [BYTES]\n");
  return 2;
}
