/* decode.c: JPEG by libjpeg-turbo, which computes only the rows and columns that are needed; all other formats by
 * libvips (other.c). Both give rows of 4-byte pixels to the resizer. */
#include "decode.h"
#include "baseline.h"
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <jpeglib.h>
#include <jerror.h>

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed (it is Debian's libjpeg)"
#endif

typedef struct jpeg {
  struct jpeg_decompress_struct info; /* libjpeg's */
  struct jpeg_error_mgr error;
  struct jpeg_progress_mgr progress;
  jmp_buf exit;
  bool made;
} jpeg;

struct ij_decoder {
  int64_t max_pixels;
  bool untrusted; /* formats that are unsafe for files of strangers are allowed */
  const uint8_t *bytes;
  size_t n;
  bool is_jpeg;
  int height, width;
  jpeg j;
  ij_baseline *baseline;
  ij_other *other;
  ij_resizer resizer;
  ij_buffer rows; /* libjpeg's output */
};

/* libjpeg reports errors and warnings through these; neither prints. */
static void on_error(j_common_ptr info) {
  jpeg *j = info->client_data;
  char text[JMSG_LENGTH_MAX];
  info->err->format_message(info, text);
  if (text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a' && text[1] <= 'z') text[0] += 'a' - 'A';
  ij_fail(info->err->msg_code == JERR_OUT_OF_MEMORY ? IJ_ENOMEM : IJ_EFORMAT, "%s", text);
  longjmp(j->exit, 1);
}
static void on_message(j_common_ptr info, int level) {
  jpeg *j = info->client_data;
  if (level >= 0) return;
  if (info->err->msg_code == JWRN_JPEG_EOF) ij_fail(IJ_EFORMAT, "truncated JPEG");
  else if (info->err->msg_code == JWRN_HIT_MARKER) ij_fail(IJ_EFORMAT, "damaged JPEG: its data ends too early");
  else return; /* odd, but the pixels are there */
  longjmp(j->exit, 1);
}

/* A few bytes make a scan that goes over all pixels: a small file of thousands would hold a thread for hours. */
enum { SCANS_MOST = 200 };
static void on_progress(j_common_ptr info) {
  jpeg *j = info->client_data;
  if (j->info.input_scan_number <= SCANS_MOST) return;
  ij_fail(IJ_EFORMAT, "JPEG of more than %d scans", SCANS_MOST);
  longjmp(j->exit, 1);
}

static ij_status jpeg_make(jpeg *j) {
  j->info.err = jpeg_std_error(&j->error);
  j->error.error_exit = on_error;
  j->error.emit_message = on_message;
  j->info.client_data = j;
  if (setjmp(j->exit)) return IJ_ENOMEM;
  jpeg_create_decompress(&j->info);
  j->progress.progress_monitor = on_progress;
  j->info.progress = &j->progress;
  j->made = true;
  return IJ_OK;
}

ij_status ij_decoder_new(int64_t max_pixels, bool untrusted, ij_decoder **out) {
  ij_decoder *d = ij_calloc(1, sizeof *d);
  if (!d) return IJ_ENOMEM;
  d->max_pixels = max_pixels;
  d->untrusted = untrusted;
  ij_status st = (d->baseline = ij_baseline_new()) ? jpeg_make(&d->j) : IJ_ENOMEM;
  if (st != IJ_OK) ij_decoder_free(d);
  else *out = d;
  return st;
}

void ij_decoder_free(ij_decoder *d) {
  if (!d) return;
  if (d->j.made) jpeg_destroy_decompress(&d->j.info);
  ij_baseline_free(d->baseline);
  ij_other_close(d->other);
  ij_resizer_free(&d->resizer);
  ij_buffer_free(&d->rows);
  ij_free(d);
}

static ij_status jpeg_open(ij_decoder *d) {
  jpeg *j = &d->j;
  if (setjmp(j->exit)) return IJ_EFORMAT;
  jpeg_abort_decompress(&j->info);
  jpeg_mem_src(&j->info, d->bytes, d->n);
  jpeg_read_header(&j->info, TRUE);
  d->height = (int)j->info.image_height;
  d->width = (int)j->info.image_width;
  bool four = j->info.num_components == 4;
  j->info.out_color_space = four ? JCS_CMYK : JCS_EXT_RGBX;
  j->info.dct_method = JDCT_ISLOW;
  return IJ_OK;
}

ij_status ij_decoder_open(ij_decoder *d, const uint8_t *bytes, size_t n, int *height, int *width) {
  d->bytes = bytes;
  d->n = n;
  ij_other_close(d->other);
  d->other = NULL;
  if (n == 0) return ij_fail(IJ_EFORMAT, "empty file");
  d->is_jpeg = n > 2 && bytes[0] == 0xff && bytes[1] == 0xd8;
  if (d->is_jpeg) IJ_TRY(jpeg_open(d));
  else IJ_TRY(ij_other_open(bytes, n, d->untrusted, &d->other, &d->height, &d->width));
  if ((int64_t)d->height * d->width > d->max_pixels)
    return ij_fail(IJ_EFORMAT, "%d x %d pixels are more than data.max_pixels = %lld", d->width, d->height,
                   (long long)d->max_pixels);
  *height = d->height;
  *width = d->width;
  return IJ_OK;
}

/* As PIL turns CMYK into RGB; Adobe's files hold the inks inverted. */
static void cmyk_to_rgb(uint8_t *p, int n, bool inverted) {
  for (; n > 0; n--, p += 4) {
    int paper = inverted ? p[3] : 255 - p[3];
    for (int c = 0; c < 3; c++) {
      int t = (inverted ? 255 - p[c] : p[c]) * paper + 128, v = paper - ((t + (t >> 8)) >> 8);
      p[c] = (uint8_t)(v < 0 ? 0 : v);
    }
  }
}

/* Whether the image's last marker is there: rows below the window aren't decoded, so it is searched for. */
static bool jpeg_ends(struct jpeg_decompress_struct *info) {
  if (jpeg_input_complete(info) || info->unread_marker == 0xd9) return true;
  const uint8_t *p = info->src->next_input_byte, *end = p + info->src->bytes_in_buffer;
  while (p && p + 1 < end) {
    p = memchr(p, 0xff, (size_t)(end - p) - 1);
    if (p && *++p == 0xd9) return true;
  }
  return false;
}

enum { ROWS = 4 }; /* per call of libjpeg */
static ij_status jpeg_rows(ij_decoder *d, int top, int bottom, int left, int right) {
  jpeg *j = &d->j;
  struct jpeg_decompress_struct *info = &j->info;
  if (setjmp(j->exit)) return IJ_EFORMAT; /* nothing below lives in locals that are used after a jump */
  if (ij_baseline_rows(d->baseline, info, top, bottom, left, right, &d->resizer)) return IJ_OK;
  jpeg_start_decompress(info);
  /* Smooth upsampling of colours looks one sample to each side, two pixels; none is next to the cut. */
  JDIMENSION x = left > 2 ? (JDIMENSION)left - 2 : 0, end = (JDIMENSION)right + 2;
  if (end > info->output_width) end = info->output_width;
  JDIMENSION wide = end - x;
  if (x > 0 || end < info->output_width) jpeg_crop_scanline(info, &x, &wide);
  size_t stride = (size_t)wide * 4 + (size_t)d->resizer.across.taps * 4 + IJ_ROW_SLACK;
  stride = (stride + 63) / 64 * 64;
  if (ij_buffer_reserve(&d->rows, stride * ROWS + 64) != IJ_OK) return IJ_ENOMEM;
  JSAMPROW row[ROWS];
  /* libjpeg-turbo writes aligned rows past the caches, but they are read again immediately: so 4 bytes off. */
  for (int i = 0; i < ROWS; i++) row[i] = (uint8_t *)d->rows.p + (size_t)i * stride + 4;
  if (top > 0) jpeg_skip_scanlines(info, (JDIMENSION)top);
  while ((int)info->output_scanline < bottom) {
    int left_over = bottom - (int)info->output_scanline, n = left_over < ROWS ? left_over : ROWS;
    n = (int)jpeg_read_scanlines(info, row, (JDIMENSION)n);
    for (int i = 0; i < n; i++) {
      uint8_t *p = row[i] + 4 * ((size_t)left - x);
      if (info->out_color_space == JCS_CMYK) cmyk_to_rgb(p, right - left, info->saw_Adobe_marker);
      ij_resizer_row(&d->resizer, p);
    }
  }
  bool complete = bottom >= d->height || jpeg_ends(info);
  if (bottom >= d->height) jpeg_finish_decompress(info);
  else jpeg_abort_decompress(info);
  return complete ? IJ_OK : ij_fail(IJ_EFORMAT, "truncated JPEG");
}

ij_status ij_decoder_read(ij_decoder *d, const ij_window *win, uint8_t *out) {
  ij_resizer *r = &d->resizer;
  IJ_TRY(ij_resizer_begin(r, win));
  int top = win->top + r->down.lo, bottom = win->top + r->down.hi;
  int left = win->left + r->across.lo, right = win->left + r->across.hi;
  if (d->is_jpeg) IJ_TRY(jpeg_rows(d, top, bottom, left, right));
  else IJ_TRY(ij_other_rows(d->other, top, bottom, left, right, r));
  ij_resizer_end(r, out);
  return IJ_OK;
}
