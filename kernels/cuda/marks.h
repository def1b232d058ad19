/* marks.cu: the backend's mark, between and unmark. */
#ifndef IJ_CUDA_MARKS_H
#define IJ_CUDA_MARKS_H
#include "cuda.h"

ij_status ij_cuda_mark(ij_queue *q, void **m);
ij_status ij_cuda_between(ij_queue *q, void *from, void *to, double *seconds);
void ij_cuda_unmark(ij_queue *q, void *m);
#endif
