/* formats.h: between decode.c (which decoder reads a file), plain.c (BMP, PNM), other.c (libvips), levels.c (values to
 * RGB) and container.c (what a file's structure tells without decoding). */
#ifndef IJ_FORMATS_H
#define IJ_FORMATS_H
#include "data.h"

/* ---- container.c ---- */
typedef enum ij_filetype {
  IJ_FILE_OTHER,
  IJ_FILE_JPEG,
  IJ_FILE_PNG,
  IJ_FILE_WEBP,
  IJ_FILE_GIF,
  IJ_FILE_TIFF,
  IJ_FILE_BMP,
  IJ_FILE_PNM,
  IJ_FILE_HEIF, /* AVIF too */
} ij_filetype;
ij_filetype ij_filetype_of(const uint8_t *bytes, size_t n);
const char *ij_filetype_name(ij_filetype f);
/* The EXIF orientation, 1 to 8; 1 where there is none. Not of HEIF, whose decoder applies it. */
int ij_orientation(ij_filetype f, const uint8_t *bytes, size_t n);
typedef enum ij_cut {
  IJ_CUT_NO,
  IJ_CUT_PERHAPS, /* its end is missing, but that may lie behind the pixels */
  IJ_CUT_YES,     /* pixels are missing */
} ij_cut;
ij_cut ij_is_cut(ij_filetype f, const uint8_t *bytes, size_t n);
/* What libvips 8.14 would read as wrong pixels without an error; NULL: nothing of that. */
const char *ij_tiff_problem(const uint8_t *bytes, size_t n);
/* Where the first frame of a GIF has its flags; 0: nowhere. */
size_t ij_gif_flags(const uint8_t *bytes, size_t n);

/* ---- levels.c ---- */
/* Values of more than 8 bits to levels: linear from [low, high] to 0..255, rounded. */
typedef struct ij_levels {
  double low, high;
  bool deep;        /* the image's values are not of 8 bits */
  uint64_t seen[4]; /* one bit per level that came out */
} ij_levels;
static inline uint8_t ij_level(ij_levels *l, double v) {
  double t = (v - l->low) / (l->high - l->low) * 255;
  uint8_t level = t >= 255 ? 255 : t > 0 ? (uint8_t)(t + .5) : 0; /* NaN: 0 */
  l->seen[level / 64] |= (uint64_t)1 << level % 64;
  return level;
}
/* Begins with the range of the options, or the given one of the type. */
void ij_levels_begin(ij_levels *l, const ij_decode_options *o, double low, double high);
/* n pixels of 4 inks to RGB as Pillow does it; inverted: 255 is no ink. */
void ij_cmyk_to_rgb(uint8_t *p, int n, bool inverted);

/* ---- plain.c ---- */
typedef struct ij_plain { /* the header of a BMP or PNM */
  int height, width;
  int kind, bits, bands; /* PNM: the digit of its magic; BMP: 0 */
  double most;           /* PNM: its maximum */
  size_t data;           /* where the pixels begin */
  size_t stride;         /* BMP */
  int compression;
  bool upward;
  uint32_t mask[3];
  uint8_t palette[256][3];
  ij_buffer values; /* of ASCII and of run lengths, unpacked */
} ij_plain;
ij_status ij_plain_open(ij_filetype f, const uint8_t *bytes, size_t n, ij_plain *p);
void ij_plain_close(ij_plain *p);
/* Rows [top, bottom), columns [left, right) to the windows. */
ij_status ij_plain_rows(ij_plain *p, const uint8_t *bytes, size_t n, const ij_decode_options *o, ij_levels *l,
                        const ij_window *box, ij_windows *to);

/* ---- other.c ---- */
typedef struct ij_other ij_other; /* an image that libvips reads */
/* untrusted: also by loaders that libvips calls unsafe for files of strangers, which are refused (IJ_EFORMAT)
 * otherwise */
ij_status ij_other_open(ij_filetype f, const uint8_t *bytes, size_t n, bool untrusted, ij_other **out, int *height,
                        int *width);
void ij_other_close(ij_other *o);
ij_status ij_other_rows(ij_other *o, const ij_decode_options *options, ij_levels *l, const ij_window *box,
                        ij_windows *to);
#endif
