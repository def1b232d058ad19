/* data.h: what the files of core/data share. The way of a picture: list (names, where they lie) -> decode (bytes to
 * rows of pixels) -> resize (rows to the output) -> augment (colours) -> loader (threads, batches). */
#ifndef IJ_DATA_H
#define IJ_DATA_H
#include "../base/base.h"

/* ---- memory that grows and is used again ---- */
typedef struct ij_room { /* contents are lost when it grows */
  void *p;
  size_t size;
} ij_room;
ij_status ij_room_get(ij_room *r, size_t bytes); /* at least so many bytes at r->p */
void ij_room_free(ij_room *r);

/* ---- resize.c: PIL's bilinear resampling ---- */
/* Which pixels of a picture are wanted: box (top, left, h, w) is resized to (full_h, full_w), and of that the part
 * (height, width) at (y, x) is the output. */
typedef struct ij_window {
  int top, left, h, w;
  int full_h, full_w;
  int y, x, height, width;
} ij_window;
/* One axis: output i is the sum of weight[i * taps + k] * input[first[i] + k], in 22-bit fixed point. */
typedef struct ij_axis {
  int n, taps;
  int lo, hi; /* inputs [lo, hi) of the box are needed; first[] counts from lo */
  int *first;
  int32_t *weight;
  int32_t *pair; /* across alone: the weights as the inner loop wants them */
  ij_room room, pair_room;
} ij_axis;
/* Rows are given top to bottom and resized across as they come, so that the whole picture is never held. */
typedef struct ij_resizer {
  ij_axis across, down;
  int rows; /* rows taken so far, of down.hi - down.lo */
  size_t stride;
  ij_room row; /* one row of input, (w, 4) and some */
  ij_room mid; /* rows resized across: (rows, width, 3), stride bytes apart */
} ij_resizer;
ij_status ij_resizer_begin(ij_resizer *r, const ij_window *win);
/* row: pixels [lo, hi) of the box, 4 bytes each; readable for IJ_ROW_SLACK bytes beyond */
void ij_resizer_row(ij_resizer *r, const uint8_t *row);
void ij_resizer_end(ij_resizer *r, uint8_t *out); /* out: (height, width, 3) */
void ij_resizer_free(ij_resizer *r);
enum { IJ_ROW_SLACK = 64 };

/* ---- decode.c, other.c: encoded bytes to pixels ---- */
typedef struct ij_decoder ij_decoder; /* of one thread; keeps its memory between pictures */
ij_status ij_decoder_new(int64_t max_pixels, ij_decoder **out);
void ij_decoder_free(ij_decoder *d);
/* Reads the header; bytes must stay until the next open. IJ_EFORMAT: broken or too big. */
ij_status ij_decoder_open(ij_decoder *d, const uint8_t *bytes, size_t n, int *height, int *width);
/* Decodes what win needs, once for each open. out: (win->height, win->width, 3). */
ij_status ij_decoder_read(ij_decoder *d, const ij_window *win, uint8_t *out);
ij_status ij_vips_ready(void); /* starts libvips once */
void ij_vips_thread_end(void); /* at the end of a thread that may have used it */

/* ---- list.c, tar.c: the pictures of a data set ---- */
typedef struct ij_list ij_list;
/* Notes on what was left out and why go to note(arg, text). */
typedef void ij_note_fn(void *arg, const char *text);
ij_status ij_list_open(const char *root, const char *subset, ij_note_fn *note, void *arg, ij_list **out);
void ij_list_free(ij_list *l);
uint32_t ij_list_count(const ij_list *l);
const char *ij_list_name(const ij_list *l, uint32_t i);
uint64_t ij_list_stamp(const ij_list *l);        /* see ij_data_stamp */
int ij_list_label(const ij_list *l, uint32_t i); /* -1 without one */
int ij_list_classes(const ij_list *l);
const char *ij_list_class(const ij_list *l, int i);
/* The bytes of picture i, read into room; at most max bytes. */
ij_status ij_list_read(const ij_list *l, uint32_t i, size_t max, ij_room *room, size_t *n);

/* For tar.c: members of the tar open at fd go to add(arg, name, offset, size). */
typedef ij_status ij_member_fn(void *arg, const char *name, uint64_t offset, uint64_t size);
/* 1: a tar; 0: not one; 2: compressed */
int ij_tar_kind(const uint8_t *head, size_t n);
ij_status ij_tar_scan(int fd, const char *path, ij_member_fn *add, void *arg, ij_note_fn *note, void *note_arg);
int ij_is_picture_name(const char *name); /* by its ending; hidden files are not */
ij_status ij_read_at(int fd, void *to, size_t n, uint64_t offset,
                     size_t *got); /* less than n at the file's end alone */

/* ---- augment.c: random choices of one picture ---- */
void ij_crop_draw(ij_rng *r, int height, int width, const double scale[2], const double ratio[2], int box[4]);
void ij_crop_centre(int height, int width, int resize, int out_h, int out_w, ij_window *win);
typedef struct ij_colours {
  double flip, jitter, jitter_p, grey_p, blur_p;
} ij_colours;
ij_status ij_augment(ij_rng *r, const ij_colours *c, int height, int width, uint8_t *pixels, ij_room *room);
#endif
