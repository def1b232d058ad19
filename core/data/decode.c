/* decode.c: which decoder reads a file. JPEG by libjpeg-turbo, which computes only the rows and columns that are
 * needed; BMP and PNM by plain.c; all other formats by libvips (other.c). They give rows of 4-byte pixels to the
 * windows. */
#include "formats.h"
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
  bool made, strict; /* strict: what is only a warning to libjpeg ends it too */
} jpeg;

struct ij_decoder {
  ij_decode_options o;
  const uint8_t *bytes;
  size_t n;
  ij_filetype format;
  int orientation;   /* to be undone: 2 to 8; 1: none */
  int height, width; /* as stored */
  jpeg j;
  ij_baseline *baseline;
  ij_plain plain;
  ij_other *other;
  ij_levels levels;
  ij_windows windows, copier; /* copier: of turned images, at their own size */
  ij_buffer rows;             /* libjpeg's output */
  ij_buffer turned;           /* (h, w, 3) of a turned image, as stored */
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
  int code = info->err->msg_code;
  if (code == JWRN_JPEG_EOF) ij_fail(IJ_EFORMAT, "truncated JPEG");
  else if (!j->strict) return; /* damaged or odd, but the pixels are there */
  else if (code == JWRN_HIT_MARKER) ij_fail(IJ_EFORMAT, "damaged JPEG: its data ends too early");
  else if (code == JWRN_MUST_RESYNC || code == JWRN_EXTRANEOUS_DATA) ij_fail(IJ_EFORMAT, "damaged JPEG: stray markers");
  else if (code == JWRN_HUFF_BAD_CODE || code == JWRN_ARITH_BAD_CODE)
    ij_fail(IJ_EFORMAT, "damaged JPEG: its data makes no sense");
  else return;
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

ij_status ij_decoder_new(const ij_decode_options *o, ij_decoder **out) {
  ij_decoder *d = ij_calloc(1, sizeof *d);
  if (!d) return IJ_ENOMEM;
  d->o = *o;
  if (d->o.max_pixels <= 0) d->o.max_pixels = (int64_t)1 << 28;
  ij_status st = (d->baseline = ij_baseline_new()) ? jpeg_make(&d->j) : IJ_ENOMEM;
  d->j.strict = o->skip_damaged;
  if (st != IJ_OK) ij_decoder_free(d);
  else *out = d;
  return st;
}

void ij_decoder_free(ij_decoder *d) {
  if (!d) return;
  if (d->j.made) jpeg_destroy_decompress(&d->j.info);
  ij_baseline_free(d->baseline);
  ij_other_close(d->other);
  ij_plain_close(&d->plain);
  ij_windows_free(&d->windows);
  ij_windows_free(&d->copier);
  ij_buffer_free(&d->rows);
  ij_buffer_free(&d->turned);
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

static bool is_plain(const ij_decoder *d) { return d->format == IJ_FILE_BMP || d->format == IJ_FILE_PNM; }

/* Pillow turns TIFFs alone; HEIF and AVIF are always turned, by their decoder. */
static int orientation_of(const ij_decoder *d) {
  bool wanted = d->o.orient == IJ_ORIENT_EXIF || (d->o.orient == IJ_ORIENT_TORCHVISION && d->format == IJ_FILE_TIFF);
  return wanted ? ij_orientation(d->format, d->bytes, d->n) : 1;
}

ij_status ij_decoder_open(ij_decoder *d, const uint8_t *bytes, size_t n, int *height, int *width) {
  d->bytes = bytes;
  d->n = n;
  ij_other_close(d->other);
  d->other = NULL;
  d->levels = (ij_levels){0};
  if (n == 0) return ij_fail(IJ_EFORMAT, "empty file");
  d->format = ij_filetype_of(bytes, n);
  if (d->format == IJ_FILE_JPEG) IJ_TRY(jpeg_open(d));
  else if (is_plain(d)) IJ_TRY(ij_plain_open(d->format, bytes, n, &d->plain));
  else IJ_TRY(ij_other_open(d->format, bytes, n, d->o.untrusted, &d->other, &d->height, &d->width));
  if (is_plain(d)) d->height = d->plain.height, d->width = d->plain.width;
  if ((int64_t)d->height * d->width > d->o.max_pixels)
    return ij_fail(IJ_EFORMAT, "%d x %d pixels are more than data.max_pixels = %lld", d->width, d->height,
                   (long long)d->o.max_pixels);
  d->orientation = orientation_of(d);
  *height = d->orientation > 4 ? d->width : d->height;
  *width = d->orientation > 4 ? d->height : d->width;
  return IJ_OK;
}

bool ij_decoder_is_flat(const ij_decoder *d) {
  int low = 256, high = -1;
  if (!d->levels.deep) return false;
  for (int i = 0; i < 256; i++)
    if (d->levels.seen[i / 64] >> i % 64 & 1) {
      if (low > i) low = i;
      high = i;
    }
  return high - low < IJ_CONTRAST_LEAST;
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
static ij_status jpeg_rows(ij_decoder *d, int top, int bottom, int left, int right, ij_windows *w) {
  jpeg *j = &d->j;
  struct jpeg_decompress_struct *info = &j->info;
  if (setjmp(j->exit)) return IJ_EFORMAT; /* nothing below lives in locals that are used after a jump */
  if (ij_baseline_rows(d->baseline, info, top, bottom, left, right, w)) return IJ_OK;
  jpeg_start_decompress(info);
  /* Smooth upsampling of colours looks one sample to each side, two pixels; none is next to the cut. */
  JDIMENSION x = left > 2 ? (JDIMENSION)left - 2 : 0, end = (JDIMENSION)right + 2;
  if (end > info->output_width) end = info->output_width;
  JDIMENSION wide = end - x;
  if (x > 0 || end < info->output_width) jpeg_crop_scanline(info, &x, &wide);
  size_t stride = (size_t)wide * 4 + (size_t)w->taps * 4 + IJ_ROW_SLACK;
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
      if (info->out_color_space == JCS_CMYK) ij_cmyk_to_rgb(p, right - left, true); /* as Adobe's; so does Pillow */
      ij_windows_row(w, p);
    }
  }
  bool complete = bottom >= d->height || jpeg_ends(info);
  if (bottom >= d->height) jpeg_finish_decompress(info);
  else jpeg_abort_decompress(info);
  return complete ? IJ_OK : ij_fail(IJ_EFORMAT, "truncated JPEG");
}

/* box: of the image as stored */
static ij_status rows(ij_decoder *d, const ij_window *box, ij_windows *w) {
  if (d->format == IJ_FILE_JPEG) return jpeg_rows(d, box->top, box->top + box->h, box->left, box->left + box->w, w);
  if (is_plain(d)) return ij_plain_rows(&d->plain, d->bytes, d->n, &d->o, &d->levels, box, w);
  return ij_other_rows(d->other, &d->o, &d->levels, box, w);
}

/* Turned: the pixels of the box as stored, by a resizer that changes no size, and from these the rows as seen. */
static ij_status rows_turned(ij_decoder *d, const ij_window *seen, ij_windows *to) {
  int o = d->orientation, top = seen->top, left = seen->left, h = seen->h, w = seen->w;
  bool swap = o > 4, flip_x = o == 2 || o == 3 || o == 7 || o == 8, flip_y = o == 3 || o == 4 || o == 6 || o == 7;
  /* as seen: (y, x); as stored: (a, b) = swap ? (x, y) : (y, x), counted from the end where it is flipped */
  ij_window box = {.top = swap ? left : top, .left = swap ? top : left, .h = swap ? w : h, .w = swap ? h : w};
  if (flip_y) box.top = d->height - box.top - box.h;
  if (flip_x) box.left = d->width - box.left - box.w;
  box.full_h = box.height = box.h;
  box.full_w = box.width = box.w;
  IJ_TRY(ij_buffer_reserve(&d->turned, (size_t)box.h * (size_t)box.w * 3 + 4));
  IJ_TRY(ij_windows_begin(&d->copier, 1, &box));
  IJ_TRY(rows(d, &box, &d->copier));
  ij_windows_end(&d->copier, (uint8_t *[]){d->turned.p});
  uint8_t *row = to->row.p;
  for (int y = 0; y < h; y++) {
    for (int x = 0; x < w; x++) {
      int a = swap ? x : y, b = swap ? y : x;
      if (flip_y) a = box.h - 1 - a;
      if (flip_x) b = box.w - 1 - b;
      memcpy(row + 4 * (size_t)x, (uint8_t *)d->turned.p + 3 * ((size_t)a * (size_t)box.w + (size_t)b), 3);
    }
    ij_windows_row(to, row);
  }
  return IJ_OK;
}

ij_status ij_decoder_read_all(ij_decoder *d, int count, const ij_window *win, uint8_t *const *out) {
  ij_windows *w = &d->windows;
  IJ_TRY(ij_windows_begin(w, count, win));
  IJ_TRY(d->orientation > 1 ? rows_turned(d, &w->box, w) : rows(d, &w->box, w));
  ij_windows_end(w, out);
  return IJ_OK;
}

ij_status ij_decoder_read(ij_decoder *d, const ij_window *win, uint8_t *out) {
  return ij_decoder_read_all(d, 1, win, &out);
}
