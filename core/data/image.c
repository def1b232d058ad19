/* image.c: single images of files and of memory, without a catalogue. */
#include "data.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static ij_status file_bytes(const char *path, uint8_t **bytes, size_t *n) {
  struct stat s;
  ij_status st = IJ_OK;
  *bytes = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &s) != 0) {
    st = ij_fail(IJ_EIO, "image '%s' could not be read: %s", path, strerror(errno));
    goto out;
  }
  if (!S_ISREG(s.st_mode) || s.st_size > INT_MAX) {
    st = ij_fail(IJ_EFORMAT, "image '%s' is not a file, or is larger than 2 GB", path);
    goto out;
  }
  if (!(*bytes = ij_alloc((size_t)s.st_size + 1))) {
    st = IJ_ENOMEM;
    goto out;
  }
  if (ij_read_at(fd, *bytes, (size_t)s.st_size, 0, n) != IJ_OK) st = ij_fail_in(IJ_EIO, "image '%s'", path);
out:
  if (fd >= 0) close(fd);
  return st;
}

ij_status ij_image_load(const char *path, uint8_t **pixels, int *height, int *width) {
  uint8_t *bytes = NULL, *out = NULL;
  size_t n = 0;
  int h, w;
  ij_decoder *d = NULL;
  ij_status st;
  IJ_TRY_TO(done, st, file_bytes(path, &bytes, &n));
  IJ_TRY_TO(done, st, ij_decoder_new(&(ij_decode_options){0}, &d));
  IJ_TRY_TO(failed, st, ij_decoder_open(d, bytes, n, &h, &w));
  if (!(out = ij_alloc((size_t)h * (size_t)w * 3))) {
    st = IJ_ENOMEM;
    goto done;
  }
  ij_window all = {.h = h, .w = w, .full_h = h, .full_w = w, .height = h, .width = w};
  IJ_TRY_TO(failed, st, ij_decoder_read(d, &all, out));
  *pixels = out;
  *height = h;
  *width = w;
  out = NULL;
  goto done;
failed:
  if (st != IJ_ENOMEM) ij_fail_in(st, "image '%s'", path);
done:
  ij_decoder_free(d);
  ij_free(out);
  ij_free(bytes);
  return st;
}

/* What a window keeps of pixels (height, width), at its size. */
static ij_status resize(const uint8_t *pixels, int width, const ij_window *win, uint8_t *out) {
  ij_windows w = {0};
  ij_status st = ij_windows_begin(&w, 1, win);
  if (st == IJ_OK) {
    uint8_t *row = w.row.p;
    for (int y = w.box.top; y < w.box.top + w.box.h; y++) {
      const uint8_t *from = pixels + 3 * ((size_t)y * (size_t)width + (size_t)w.box.left);
      for (int x = 0; x < w.box.w; x++) memcpy(row + 4 * x, from + 3 * x, 3);
      ij_windows_row(&w, row);
    }
    ij_windows_end(&w, &out);
  }
  ij_windows_free(&w);
  return st;
}

ij_status ij_image_crop(const uint8_t *pixels, int height, int width, int top, int left, int h, int w, int out_h,
                        int out_w, uint8_t *out) {
  if (top < 0 || left < 0 || h < 1 || w < 1 || h > height - top || w > width - left)
    return ij_fail(IJ_EINVAL, "box of %d x %d at (%d, %d) is not inside the image of %d x %d", h, w, top, left, height,
                   width);
  if (out_h < 1 || out_w < 1) return ij_fail(IJ_EINVAL, "output of %d x %d pixels", out_h, out_w);
  ij_window win = {top, left, h, w, out_h, out_w, 0, 0, out_h, out_w};
  return resize(pixels, width, &win, out);
}

ij_status ij_image_centre(const uint8_t *pixels, int height, int width, int short_side, int out_h, int out_w,
                          uint8_t *out) {
  if (height < 1 || width < 1 || short_side < 1 || short_side > 1 << 16 || out_h < 1 || out_w < 1 || out_h > 1 << 14 ||
      out_w > 1 << 14)
    return ij_fail(IJ_EINVAL, "%d x %d pixels, short side to %d, cut to %d x %d: a size is out of range", height, width,
                   short_side, out_h, out_w);
  ij_window win;
  ij_crop_centre(height, width, short_side, out_h, out_w, &win);
  return resize(pixels, width, &win, out);
}
