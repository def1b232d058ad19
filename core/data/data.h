/* data.h: what the files of core/data share. Two public objects: a catalogue (which images there are: catalogue.c, over
 * the list of each source) and a loader (batches by threads: loader.c, in the order of order.c). The path of an image:
 * list (name, file) -> decode (bytes to rows of pixels) -> resize (rows to the output) -> augment (colours); view.c
 * puts these together. A file uses only files that stand above it here. */
#ifndef IJ_DATA_H
#define IJ_DATA_H
#include "../base/base.h"

/* ---- file.c ---- */
typedef struct ij_buffer { /* memory that grows and is used again; its contents are lost when it grows */
  void *p;
  size_t size;
} ij_buffer;
ij_status ij_buffer_reserve(ij_buffer *b, size_t bytes); /* at least `bytes` at b->p */
void ij_buffer_free(ij_buffer *b);
/* n bytes from offset on; *got is less only at the file's end. */
/* Opens a file to be read. IJ_EIO where that fails; IJ_EUNSUPPORTED where too many files are open, after waiting a
 * second: a fault of the machine, not of the file. The message has no name. */
ij_status ij_file_open(const char *path, int *fd);
ij_status ij_read_at(int fd, void *to, size_t n, uint64_t offset, size_t *got);
bool ij_is_utf16(const void *bytes, size_t n); /* by its byte order mark */
/* A text file, ended by 0, without UTF-8's byte order mark; ij_free it. IJ_EFORMAT where it is no text, or UTF-16. */
ij_status ij_text_read(const char *path, const char *what, char **text);
/* By its ending; hidden files are not. untrusted: also formats that libvips calls unsafe. */
bool ij_is_image_name(const char *name, bool untrusted);
bool ij_is_label_name(const char *name); /* .cls: the class of the image beside it, in WebDataset's tars */

/* ---- notes.c: messages that wait for a reader ---- */
typedef struct ij_notes { /* to begin: zeroes */
  char **text;
  size_t n, cap, next;
  char *last; /* the one last read */
} ij_notes;
void ij_notes_add(ij_notes *v, char *text); /* takes the text; without memory (NULL) the message is lost */
const char *ij_notes_next(ij_notes *v);     /* valid until the next call; NULL: all are read */
void ij_notes_free(ij_notes *v);

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
  ij_buffer buffer, pair_buffer;
} ij_axis;
/* Rows are given top to bottom and resized across as they come, so that the whole image is never held. */
typedef struct ij_resizer {
  ij_axis across, down;
  int rows; /* rows taken so far, of down.hi - down.lo */
  size_t stride;
  ij_buffer row; /* one row of input, (w, 4) and some */
  ij_buffer mid; /* rows resized across: (rows, width, 3), stride bytes apart */
} ij_resizer;
ij_status ij_resizer_begin(ij_resizer *r, const ij_window *win);
/* row: pixels [lo, hi) of the box, 4 bytes each; readable for IJ_ROW_SLACK bytes beyond */
void ij_resizer_row(ij_resizer *r, const uint8_t *row);
void ij_resizer_end(ij_resizer *r, uint8_t *out); /* out: (height, width, 3) */
void ij_resizer_free(ij_resizer *r);
enum { IJ_ROW_SLACK = 64 };

/* ---- decode.c, plain.c, other.c: encoded bytes to pixels ---- */
typedef struct ij_decode_options { /* zeroes: the defaults */
  int64_t max_pixels;              /* 0: 2^28 */
  bool untrusted;                  /* also formats that libvips calls unsafe for files of strangers */
  bool skip_damaged;               /* a JPEG that libjpeg only warns of is corrupt */
  int orient;                      /* IJ_ORIENT_... */
  double low, high;                /* the values that become 0 and 255 where they aren't of 8 bits; equal: the type's */
} ij_decode_options;
typedef struct ij_decoder ij_decoder; /* of one thread; keeps its memory between images */
ij_status ij_decoder_new(const ij_decode_options *o, ij_decoder **out);
void ij_decoder_free(ij_decoder *d);
/* Reads the header; bytes must stay until the next open. IJ_EFORMAT: corrupt, too big, or not allowed. */
ij_status ij_decoder_open(ij_decoder *d, const uint8_t *bytes, size_t n, int *height, int *width);
/* Decodes what win needs, once for each open. out: (win->height, win->width, 3). */
ij_status ij_decoder_read(ij_decoder *d, const ij_window *win, uint8_t *out);
/* Whether the last image read has values of more than 8 bits, of which next to no contrast is left: its darkest and its
 * brightest level are less than IJ_CONTRAST_LEAST of 255 apart. 12 bits in 16 give 15. */
bool ij_decoder_is_flat(const ij_decoder *d);
enum { IJ_CONTRAST_LEAST = 32 };
ij_status ij_vips_ready(void); /* starts libvips once */
void ij_vips_thread_end(void); /* at the end of a thread that may have used it */

/* ---- augment.c: random choices of one image ---- */
void ij_crop_draw(ij_rng *r, int height, int width, const double scale[2], const double ratio[2], int box[4]);
void ij_crop_centre(int height, int width, int resize, int out_h, int out_w, ij_window *win);
typedef struct ij_colours {
  double flip, jitter, jitter_p, grey_p, blur_p;
} ij_colours;
ij_status ij_augment(ij_rng *r, const ij_colours *c, int height, int width, uint8_t *pixels, ij_buffer *buffer);

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

/* ---- tar.c, links.c, index.c ---- */
typedef void ij_note_fn(void *arg, const char *text); /* gets notes on what was left out and why */
enum { IJ_TAR_NAME_MOST = 4096 };                     /* bytes of a member's name, with the 0 */
/* 1: a tar; 0: not one; 2: compressed */
int ij_tar_kind(const uint8_t *head, size_t n);
typedef struct ij_tar_entry {
  const char *name, *target; /* target: of links */
  enum { IJ_TAR_FILE, IJ_TAR_HARD, IJ_TAR_SYMBOLIC, IJ_TAR_SPARSE } kind;
  uint64_t offset, size;
} ij_tar_entry;
typedef ij_status ij_tar_entry_fn(void *arg, const ij_tar_entry *e);
/* The files and links of the tar in the bytes [from, end) of fd, as they stand in it. */
ij_status ij_tar_walk(int fd, const char *path, uint64_t from, uint64_t end, ij_tar_entry_fn *f, void *arg,
                      ij_note_fn *note, void *note_arg);
/* Members of the tar open at fd go to add(arg, name, offset, size): files, what links within the tar lead to, and those
 * of tars in it, which stand in a folder of that tar's name. Hidden ones are left out. */
typedef ij_status ij_member_fn(void *arg, const char *name, uint64_t offset, uint64_t size);
ij_status ij_tar_scan(int fd, const char *path, ij_member_fn *add, void *arg, ij_note_fn *note, void *note_arg);
/* The same, of a large tar by its index in the folder cache, which is made the first time. cache may be NULL. */
ij_status ij_tar_members(int fd, const char *path, const char *cache, ij_member_fn *add, void *arg, ij_note_fn *note,
                         void *note_arg);

/* ---- list.c: the images of one folder, tar or list of tars ---- */
typedef struct ij_list ij_list;
/* cache: the folder of tars' indexes, or NULL; untrusted: see ij_is_image_name */
ij_status ij_list_open(const char *root, const char *subset, const char *cache, bool untrusted, ij_note_fn *note,
                       void *arg, ij_list **out);
void ij_list_free(ij_list *l);
uint32_t ij_list_count(const ij_list *l);
const char *ij_list_name(const ij_list *l, uint32_t i);
uint64_t ij_list_stamp(ij_list *l);              /* see ij_catalogue_stamp */
int ij_list_label(const ij_list *l, uint32_t i); /* -1 without one */
int ij_list_classes(const ij_list *l);
const char *ij_list_class(const ij_list *l, int i);
/* The bytes of image i, read into buffer; at most max bytes. */
ij_status ij_list_read(ij_list *l, uint32_t i, size_t max, ij_buffer *buffer, size_t *n);
/* The files that hold them: images of a folder, or tars. Strings are the caller's to ij_free; NULL: out of memory. */
const char *ij_list_root(const ij_list *l);
bool ij_list_is_part(const ij_list *l); /* a subset */
bool ij_list_is_tar(const ij_list *l);
size_t ij_list_files(const ij_list *l);
char *ij_list_file(ij_list *l, size_t i);      /* its path */
char *ij_list_file_name(ij_list *l, size_t i); /* its name in a manifest: from the root's folder on */
/* Its path in a copy: its real path under folder. */
ij_status ij_list_home(ij_list *l, size_t i, const char *folder, char **path);
/* From now on the copy is read; waits for reads in other threads. */
ij_status ij_list_move(ij_list *l, const char *folder);

/* ---- jobs.c: things that threads do to many files ---- */
typedef struct ij_jobs ij_jobs;
typedef ij_status ij_job_fn(void *arg, size_t i, ij_buffer *buffer); /* in any thread; buffer: the thread's */
ij_status ij_jobs_start(size_t n, int threads, ij_job_fn *f, void *arg, ij_jobs **out);
/* Waits at most so long. over: all are done; the first failure, or Ctrl-C, ends them and is returned. */
ij_status ij_jobs_wait(ij_jobs *j, double seconds, bool *over);
size_t ij_jobs_done(const ij_jobs *j);
void ij_jobs_free(ij_jobs *j); /* ends them */

/* ---- sha256.c ---- */
typedef struct ij_sha256 {
  uint32_t h[8];
  uint64_t n; /* bytes */
  uint8_t rest[64];
} ij_sha256;
void ij_sha256_begin(ij_sha256 *s);
void ij_sha256_add(ij_sha256 *s, const void *bytes, size_t n);
void ij_sha256_end(ij_sha256 *s, uint8_t digest[32]);

/* ---- catalogue.c ---- */
int ij_catalogue_of(const ij_catalogue *c, uint32_t sample, uint32_t *within); /* its source; its number in there */
ij_list *ij_catalogue_list(const ij_catalogue *c, int source);
uint32_t ij_catalogue_first(const ij_catalogue *c, int source);        /* its first image's number */
const char *ij_catalogue_title(const ij_catalogue *c);                 /* for messages */
const ij_catalogue_config *ij_catalogue_limits(const ij_catalogue *c); /* without the strings */
ij_catalogue *ij_catalogue_keep(ij_catalogue *c);                      /* one more ij_catalogue_close is due */

/* ---- copy.c: the work of ij_catalogue_copy ---- */
typedef struct ij_copy ij_copy;
ij_status ij_copy_start(ij_list *const *lists, int n, const char *folder, ij_copy **out); /* lists: (n), must stay */
ij_status ij_copy_wait(ij_copy *c, double seconds, ij_progress *p); /* at p->over the lists have moved */
void ij_copy_free(ij_copy *c);

/* ---- view.c: one image of a catalogue as pixels ---- */
ij_status ij_view_check(ij_view *v); /* and fills in what 0 stands for */
typedef struct ij_reader {           /* memory of one thread */
  ij_decoder *decoder;
  ij_buffer file, blur;
} ij_reader;
ij_status ij_reader_init(ij_reader *r, const ij_catalogue *c);
void ij_reader_free(ij_reader *r);
/* The image `sample` with the random choices of image `drawn` in a round -> out (H, W, 3). v: checked. */
ij_status ij_reader_read(ij_reader *r, const ij_catalogue *c, const ij_view *v, uint32_t sample, uint32_t drawn,
                         uint32_t round, uint8_t *out);

/* ---- order.c: which image comes when ---- */
typedef struct ij_order ij_order;
/* weights: (source_count), or NULL: each image of the catalogue once per epoch */
ij_status ij_order_new(const ij_catalogue *c, const double *weights, ij_order **out);
void ij_order_free(ij_order *o);
/* The image at a position of an epoch, and its round: how many times its source was complete before. */
void ij_order_at(const ij_order *o, uint64_t seed, bool shuffle, uint32_t epoch, uint32_t position, uint32_t *sample,
                 uint32_t *round);
/* i's position in a shuffled order of [0, n); another one for each key. */
enum { IJ_PERMUTE_ROUNDS = 8 };
uint32_t ij_permute(const uint32_t key[IJ_PERMUTE_ROUNDS], uint32_t n, uint32_t i);
#endif
