/* baseline.h: between decode.c and baseline.c. */
#ifndef IJ_BASELINE_H
#define IJ_BASELINE_H
#include "data.h"
#include <stdio.h>
#include <jpeglib.h>

typedef struct ij_baseline ij_baseline;
ij_baseline *ij_baseline_new(void); /* NULL and a message: out of memory */
void ij_baseline_free(ij_baseline *b);
/* After jpeg_read_header: gives rows [top, bottom), columns [left, right) to the windows, the same bytes as libjpeg's.
 * False: this image (or machine) is not for us, or something is odd with it; libjpeg shall see to it. */
bool ij_baseline_rows(ij_baseline *b, struct jpeg_decompress_struct *info, int top, int bottom, int left, int right,
                      ij_windows *w);
#endif
