/* data.h: what the files of core/data share. The way of an image: list (names, where they lie) -> decode (bytes to
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
/* Which pixels of an image are wanted: box (top, left, h, w) is resized to (full_h, full_w), and of that the part
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
/* Rows are given top to bottom and resized across as they come, so that the whole image is never held. */
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
typedef struct ij_decoder ij_decoder; /* of one thread; keeps its memory between images */
ij_status ij_decoder_new(int64_t max_pixels, ij_decoder **out);
void ij_decoder_free(ij_decoder *d);
/* Reads the header; bytes must stay until the next open. IJ_EFORMAT: broken or too big. */
ij_status ij_decoder_open(ij_decoder *d, const uint8_t *bytes, size_t n, int *height, int *width);
/* Decodes what win needs, once for each open. out: (win->height, win->width, 3). */
ij_status ij_decoder_read(ij_decoder *d, const ij_window *win, uint8_t *out);
ij_status ij_vips_ready(void);        /* starts libvips once */
void ij_vips_untrusted(bool allowed); /* of the process: loaders that libvips calls unsafe for strangers' files */
void ij_vips_thread_end(void);        /* at the end of a thread that may have used it */

/* ---- names.c ---- */
typedef struct ij_names { /* to begin: zeroes, and meta */
  size_t meta;            /* bytes kept with each name */
  char **block;
  size_t blocks, cap_blocks, used; /* used: of the last block */
  uint32_t *index;                 /* (n) */
  size_t n, cap;
} ij_names;
ij_status ij_names_add(ij_names *v, const char *name, const void *meta);
ij_status ij_names_sort(ij_names *v); /* once, after the last one is added */
const char *ij_names_at(const ij_names *v, uint32_t i);
const char *ij_names_meta(const ij_names *v, uint32_t i);
void ij_names_free(ij_names *v);

/* ---- list.c: the images of one folder, tar or list of tars ---- */
typedef struct ij_list ij_list;
/* Notes on what was left out and why go to note(arg, text). */
typedef void ij_note_fn(void *arg, const char *text);
/* cache: the folder of tars' indexes, or NULL */
ij_status ij_list_open(const char *root, const char *subset, const char *cache, ij_note_fn *note, void *arg,
                       ij_list **out);
void ij_list_free(ij_list *l);
uint32_t ij_list_count(const ij_list *l);
const char *ij_list_name(const ij_list *l, uint32_t i);
uint64_t ij_list_stamp(const ij_list *l);        /* see ij_data_stamp */
int ij_list_label(const ij_list *l, uint32_t i); /* -1 without one */
int ij_list_classes(const ij_list *l);
const char *ij_list_class(const ij_list *l, int i);
/* The bytes of image i, read into room; at most max bytes. */
ij_status ij_list_read(const ij_list *l, uint32_t i, size_t max, ij_room *room, size_t *n);
/* The files that hold them: images of a folder, or tars. Strings are the caller's to ij_free; NULL: out of memory. */
const char *ij_list_root(const ij_list *l);
bool ij_list_is_part(const ij_list *l); /* a subset */
bool ij_list_is_tar(const ij_list *l);
size_t ij_list_files(const ij_list *l);
char *ij_list_file(const ij_list *l, size_t i);      /* its path */
char *ij_list_file_name(const ij_list *l, size_t i); /* its name in a manifest: from the root's folder on */
/* Its place in a copy: its real path under folder. */
ij_status ij_list_home(const ij_list *l, size_t i, const char *folder, char **path);
ij_status ij_list_move(ij_list *l, const char *folder); /* from now on the copy is read */

/* ---- sources.c: one list or several as one ---- */
typedef struct ij_sources ij_sources;
ij_status ij_sources_open(const ij_data_config *c, ij_note_fn *note, void *arg, ij_sources **out);
void ij_sources_free(ij_sources *s);
int ij_sources_number(const ij_sources *s);
ij_list *ij_sources_list(ij_sources *s, int i);
uint32_t ij_sources_count(const ij_sources *s); /* images; those of the first source come first */
int ij_sources_of(const ij_sources *s, uint32_t sample, uint32_t *within); /* its source; its number in there */
const char *ij_sources_title(const ij_sources *s);                         /* for messages */
int ij_sources_label(const ij_sources *s, uint32_t sample);
int ij_sources_classes(const ij_sources *s);
const char *ij_sources_class(const ij_sources *s, int i);
uint64_t ij_sources_stamp(const ij_sources *s);
/* What stands at a position of an epoch: which image, and how many times it has come before (turn). */
void ij_sources_at(const ij_sources *s, uint64_t seed, bool shuffle, uint32_t epoch, uint32_t position,
                   uint32_t *sample, uint32_t *turn);
/* i's place in a shuffled order of [0, n); another one for each key. */
enum { IJ_PERMUTE_ROUNDS = 8 };
uint32_t ij_permute(const uint32_t key[IJ_PERMUTE_ROUNDS], uint32_t n, uint32_t i);

ij_sources *ij_data_lists(ij_data *d);

/* ---- jobs.c: things that threads do to many files ---- */
typedef struct ij_jobs ij_jobs;
typedef ij_status ij_job_fn(void *arg, size_t i, ij_room *room); /* in any thread; room: the thread's */
ij_status ij_jobs_start(size_t n, int threads, ij_job_fn *f, void *arg, ij_jobs **out);
/* Waits at most so long. over: all are done; the first failure, or Ctrl-C, ends them and is returned. */
ij_status ij_jobs_wait(ij_jobs *j, double seconds, bool *over);
size_t ij_jobs_done(const ij_jobs *j);
void ij_jobs_free(ij_jobs *j); /* ends them */

/* ---- copy.c ---- */
typedef struct ij_copy ij_copy;
ij_status ij_copy_start(ij_sources *s, const char *folder, ij_copy **out);
ij_status ij_copy_wait(ij_copy *c, double seconds, ij_progress *p); /* at p->over the lists have moved */
void ij_copy_free(ij_copy *c);

/* ---- sha256.c ---- */
typedef struct ij_sha256 {
  uint32_t h[8];
  uint64_t n; /* bytes */
  uint8_t rest[64];
} ij_sha256;
void ij_sha256_begin(ij_sha256 *s);
void ij_sha256_add(ij_sha256 *s, const void *bytes, size_t n);
void ij_sha256_end(ij_sha256 *s, uint8_t digest[32]);

/* ---- tar.c, index.c ---- */
enum { IJ_TAR_NAME_MOST = 4096 }; /* bytes of a member's name, with the 0 */
/* Members of the tar open at fd go to add(arg, name, offset, size). */
typedef ij_status ij_member_fn(void *arg, const char *name, uint64_t offset, uint64_t size);
/* 1: a tar; 0: not one; 2: compressed */
int ij_tar_kind(const uint8_t *head, size_t n);
ij_status ij_tar_scan(int fd, const char *path, ij_member_fn *add, void *arg, ij_note_fn *note, void *note_arg);
/* The same, of a large tar by its index in the folder cache, which is made the first time. cache may be NULL. */
ij_status ij_tar_members(int fd, const char *path, const char *cache, ij_member_fn *add, void *arg, ij_note_fn *note,
                         void *note_arg);
ij_status ij_text_read(const char *path, const char *what, char **text); /* a text file, ended by 0; ij_free it */
int ij_is_image_name(const char *name);                                /* by its ending; hidden files are not */
ij_status ij_read_at(int fd, void *to, size_t n, uint64_t offset,
                     size_t *got); /* less than n at the file's end alone */

/* ---- augment.c: random choices of one image ---- */
void ij_crop_draw(ij_rng *r, int height, int width, const double scale[2], const double ratio[2], int box[4]);
void ij_crop_centre(int height, int width, int resize, int out_h, int out_w, ij_window *win);
typedef struct ij_colours {
  double flip, jitter, jitter_p, grey_p, blur_p;
} ij_colours;
ij_status ij_augment(ij_rng *r, const ij_colours *c, int height, int width, uint8_t *pixels, ij_room *room);
#endif
