/* decode.h: between decode.c and other.c. */
#ifndef IJ_DECODE_H
#define IJ_DECODE_H
#include "data.h"

typedef struct ij_other ij_other; /* an image that libvips reads */
/* untrusted: also by loaders that libvips calls unsafe for files of strangers, which are refused (IJ_EFORMAT) otherwise
 */
ij_status ij_other_open(const uint8_t *bytes, size_t n, bool untrusted, ij_other **out, int *height, int *width);
void ij_other_close(ij_other *o);
/* Rows [top, bottom), columns [left, right) to the resizer. */
ij_status ij_other_rows(ij_other *o, int top, int bottom, int left, int right, ij_resizer *r);
#endif
