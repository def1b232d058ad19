/* features CHECKPOINT IMAGE: prints the pooled features of an image, one number a line. A C program without Lua:
 *   cc features.c -o features $(pkg-config --cflags --libs ijepa) */
#include <ijepa.h>
#include <stdio.h>
#include <stdlib.h>

static void must(ij_status status) {
  if (status == IJ_OK) return;
  fprintf(stderr, "%s\n", ij_errmsg());
  exit(1);
}

int main(int argc, char **argv) {
  ij_device *dev;
  ij_encoder *encoder;
  ij_tensor *images, *patches, *pooled;
  uint8_t *pixels;
  int h, w;
  if (argc != 3) return fprintf(stderr, "usage: features CHECKPOINT IMAGE\n"), 2;
  must(ij_device_open("cpu", &dev));
  must(ij_encoder_load(dev, argv[1], NULL, &encoder)); /* its target encoder */
  must(ij_image_load(argv[2], &pixels, &h, &w));
  const ij_vit_config *c = ij_encoder_config(encoder);
  int height = c->grid_h * c->patch, width = c->grid_w * c->patch;
  uint8_t *crop = malloc((size_t)height * (size_t)width * 3);
  if (!crop) return 1;
  must(ij_image_crop(pixels, h, w, 0, 0, h, w, height, width, crop));
  must(ij_tensor_new(dev, IJ_U8, 4, (int64_t[]){1, height, width, 3}, &images));
  must(ij_tensor_write(images, crop, (size_t)height * (size_t)width * 3));
  must(ij_encoder_forward(encoder, images, NULL, &patches)); /* (1, N, D) */
  must(ij_mean(patches, 1, &pooled));                        /* (1, D) */
  size_t bytes = (size_t)c->width * sizeof(float);
  float *features = malloc(bytes);
  if (!features) return 1;
  must(ij_tensor_read(pooled, features, bytes));
  for (int i = 0; i < c->width; i++) printf("%.9g\n", features[i]);
  free(features);
  free(crop);
  ij_bytes_free(pixels);
  ij_tensor_free(pooled);
  ij_tensor_free(patches);
  ij_tensor_free(images);
  ij_encoder_free(encoder);
  ij_device_close(dev);
  return ij_mem_live() != 0; /* all that was made is freed */
}
