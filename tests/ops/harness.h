/* What the driver of the cases and the benchmark share: a described case, memory for its arguments, one call. */
#ifndef IJ_HARNESS_H
#define IJ_HARNESS_H
#include "../../kernels/case.h"

/* A case on one shape, with contents; a backward op's statistics come from its forward. NULL: out of memory. */
ij_case *ij_case_new(const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt);
/* The same without contents from the forward */
ij_case *ij_case_new_alone(const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt);
void ij_case_free(ij_case *c);

size_t ij_case_size(int type); /* bytes of an element */
double ij_case_get(int type, const void *p, ij_dim i);
int ij_case_find(const ij_case *c, const char *name); /* index of an argument, -1: none */
double ij_case_random(uint64_t seed, ij_dim i);       /* near to normal, a function of both */
double ij_case_bytes(const ij_case *c);               /* moved by a call: what is read and what is written */
const ij_case_op *ij_case_list(int i);                /* all ops' cases in order; NULL after the last */

/* Memory of the arguments, each in pages of its own between canaries and a page that can't be touched. */
typedef struct ij_case_memory {
  struct {
    char *map, *data;
    size_t map_bytes, bytes;
  } arg[IJ_CASE_ARGS];
} ij_case_memory;
typedef enum ij_case_place {
  IJ_CASE_ALIGNED, /* as tensors are: 64-byte aligned, canaries on both sides */
  IJ_CASE_AT_END   /* ends at the forbidden page, aligned to elements alone, as a view may be */
} ij_case_place;
/* Sets c->p; form: NULL or one of c->form. False: out of memory, or a form that does not fit. */
bool ij_case_place_all(ij_case *c, ij_case_memory *m, ij_case_place place, const char *form);
void ij_case_fill_all(ij_case *c);            /* contents before a call */
int ij_case_spoiled(const ij_case_memory *m); /* an argument whose canaries are overwritten, or -1 */
void ij_case_unplace(ij_case_memory *m);
/* The call. False: it touched forbidden memory (then status is not set). */
bool ij_case_call(const ij_case *c, const ij_op_table *t, ij_queue *q, ij_status *status);
#endif
