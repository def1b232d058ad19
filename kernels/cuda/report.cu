/* What the plug-in says of itself: core/ijepa.h, ij_device_report. */
#include "library.h"
#include "pool.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct ij_cuda_text {
  char *p;
  size_t n, space;
} ij_cuda_text;

bool ij_cuda_say(ij_cuda_text *out, const char *fmt, ...) {
  enum { LINE = 2400 };
  va_list ap;
  if (out->space - out->n < LINE) {
    size_t space = 2 * out->space + LINE;
    char *more = (char *)ij_cuda_host->alloc(space);
    if (!more) return false;
    if (out->n) memcpy(more, out->p, out->n);
    ij_cuda_host->free(out->p);
    out->p = more;
    out->space = space;
  }
  va_start(ap, fmt);
  int written = vsnprintf(out->p + out->n, LINE, fmt, ap);
  va_end(ap);
  out->n += written < LINE ? (size_t)written : (size_t)LINE - 1;
  return true;
}

static bool say_libraries(ij_cuda *c, ij_cuda_text *out) {
  size_t v = c->blas->cublasLtGetVersion();
  if (!ij_cuda_say(out, "library\tcuBLASLt\t%zu.%zu.%zu\t%s\n", v / 10000, v / 100 % 100, v % 100, c->blas->path))
    return false;
#ifdef IJ_NCCL
  char why[1000];
  int n = 0;
  if (!ij_cuda_nccl_try(c, why, sizeof why)) return ij_cuda_say(out, "library\tNCCL\t\t%s\n", why);
  c->nccl->ncclGetVersion(&n);
  return ij_cuda_say(out, "library\tNCCL\t%d.%d.%d\t%s\n", n / 10000, n / 100 % 100, n % 100, c->nccl->path);
#else
  return ij_cuda_say(out, "library\tNCCL\t\tthis build has none: nccl.h was not found\n");
#endif
}

ij_status ij_cuda_report(ij_queue *q, char **out) {
  ij_cuda *c = ij_cuda_enter(q);
  ij_cuda_text text = {};
  bool said = say_libraries(c, &text) && ij_cuda_say(&text, "allocator\t%s\n", ij_cuda_pool_name(c)) &&
              ij_cuda_plans_report(c, &text);
  if (!said) ij_cuda_host->free(text.p);
  *out = said ? text.p : NULL;
  return said ? IJ_OK : IJ_ENOMEM;
}
