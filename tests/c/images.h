/* images.h: what the tests of core/data share: a scratch folder, and images in it. */
#ifndef IMAGES_H
#define IMAGES_H
#include "data/data.h"
#include "suite.h"
#include <limits.h>

/* Any image: smooth, with some texture, another one for each seed. */
static inline uint8_t *draw(int height, int width, int seed) {
  uint8_t *p = ij_alloc((size_t)height * (size_t)width * 3), *to = p;
  for (int y = 0; y < height; y++)
    for (int x = 0; x < width; x++)
      for (int c = 0; c < 3; c++)
        *to++ = (uint8_t)(x * (2 + seed % 5) + y * (3 + c) + c * 40 + seed * 17 + (x * y) % 11);
  return p;
}
static inline void put_image(const char *name, int height, int width, int seed) {
  char *path = in_scratch(name), *folder = ij_strdup(path);
  *strrchr(folder, '/') = 0;
  uint8_t *p = draw(height, width, seed);
  ck_assert_int_eq(ij_mkdirs(folder), IJ_OK);
  ck_assert_msg(ij_image_save(path, p, height, width) == IJ_OK, "%s", ij_errmsg());
  ij_free(p);
  ij_free(path);
  ij_free(folder);
}
static inline void put_bytes(const char *name, const void *bytes, size_t n) {
  char *path = in_scratch(name);
  ck_assert_int_eq(ij_file_replace(path, bytes, n), IJ_OK);
  ij_free(path);
}
#define put_text(name, text) put_bytes(name, text, strlen(text))

/* A catalogue and a loader of it. */
typedef struct data_config {
  ij_catalogue_config catalogue;
  ij_loader_config loader;
} data_config;
typedef struct data {
  ij_catalogue *catalogue;
  ij_loader *loader;
} data;
static inline ij_status data_open(const data_config *c, data *d) {
  *d = (data){0};
  ij_status st = ij_catalogue_open(&c->catalogue, &d->catalogue);
  if (st == IJ_OK && (st = ij_loader_open(d->catalogue, &c->loader, &d->loader)) != IJ_OK) {
    ij_catalogue_close(d->catalogue);
    d->catalogue = NULL;
  }
  return st;
}
static inline void data_close(data d) {
  ij_catalogue_close(d.catalogue); /* the loader keeps it alive */
  ij_loader_close(d.loader);
}
#endif
