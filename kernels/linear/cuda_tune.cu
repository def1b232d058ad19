/* The fastest of cuBLASLt's candidates. Its heuristic ranks them by a model; the first is right most of the time. To
 * time them breaks "the same bits in every run", since two runs may choose differently: so it happens only where
 * IJEPA_CUDA_TUNE asks for it, and a file keeps the choices.
 *
 * A choice counts for a class of shapes: dimensions of ROUNDED and more are rounded up to a multiple of it, since the
 * number of rows changes with every step's masks.
 *
 * The file: a first line that names format, library and GPU, then a line a class: the numbers of its key, the algorithm
 * as the library's opaque bytes in hexadecimal, and a check sum of the line before it. */
#include "cuda_plans.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDED = 1024, LEAST_ROUNDED = 4096, RUNS = 3, LINE = 512 };
static const float BETTER = 0.98f; /* a later candidate must be faster by so much: clocks are not exact */

typedef struct choice {
  struct choice *next;
  ij_plan_key key; /* of the class */
  cublasLtMatmulAlgo_t algorithm;
} choice;
struct ij_cuda_tune {
  char path[IJ_LIBRARY_PATH]; /* "": no file */
  char head[160];
  choice *first;
};

static uint64_t sum_of(const char *s, size_t n) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
  return h;
}
static ij_plan_key class_of(const ij_plan_key *k) {
  ij_plan_key out = *k;
  for (ij_dim *d : {&out.M, &out.N, &out.K})
    if (*d >= LEAST_ROUNDED) *d = (*d + ROUNDED - 1) / ROUNDED * ROUNDED;
  return out;
}
static const choice *choice_of(const ij_cuda_tune *t, const ij_plan_key *key) {
  const choice *x = t->first;
  while (x && memcmp(&x->key, key, sizeof *key)) x = x->next;
  return x;
}
static bool remember(ij_cuda_tune *t, const ij_plan_key *key, const cublasLtMatmulAlgo_t *a) {
  choice *x = (choice *)ij_cuda_host->alloc(sizeof *x);
  if (!x) return false;
  x->key = *key;
  x->algorithm = *a;
  x->next = t->first;
  t->first = x;
  return true;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */
static void write_line(char *line, const choice *x) {
  const ij_plan_key *k = &x->key;
  const unsigned char *bytes = (const unsigned char *)&x->algorithm;
  int at = snprintf(line, LINE, "%lld %lld %lld %lld %d %d %d %d %d %d %d %d %d ", (long long)k->P, (long long)k->M,
                    (long long)k->N, (long long)k->K, k->ta, k->tb, k->add, k->in, k->out, k->sums, k->align[0],
                    k->align[1], k->align[2]);
  for (size_t i = 0; i < sizeof x->algorithm; i++) at += snprintf(line + at, (size_t)(LINE - at), "%02x", bytes[i]);
  snprintf(line + at, (size_t)(LINE - at), " %016llx\n", (unsigned long long)sum_of(line, (size_t)at));
}
static bool read_line(const char *line, ij_plan_key *k, cublasLtMatmulAlgo_t *a) {
  long long dim[4];
  int small[9], at = 0;
  unsigned char *bytes = (unsigned char *)a;
  unsigned long long sum = 0;
  memset(k, 0, sizeof *k);
  if (sscanf(line, "%lld %lld %lld %lld %d %d %d %d %d %d %d %d %d %n", &dim[0], &dim[1], &dim[2], &dim[3], &small[0],
             &small[1], &small[2], &small[3], &small[4], &small[5], &small[6], &small[7], &small[8], &at) != 13)
    return false;
  for (size_t i = 0; i < sizeof *a; i++, at += 2)
    if (sscanf(line + at, "%2hhx", &bytes[i]) != 1) return false;
  if (sscanf(line + at, " %llx", &sum) != 1 || sum != sum_of(line, (size_t)at)) return false;
  k->P = dim[0], k->M = dim[1], k->N = dim[2], k->K = dim[3];
  uint8_t *to[] = {&k->ta, &k->tb, &k->add, &k->in, &k->out, &k->sums, &k->align[0], &k->align[1], &k->align[2]};
  for (int i = 0; i < 9; i++) *to[i] = (uint8_t)small[i];
  return true;
}
static ij_status read_file(ij_cuda_tune *t, FILE *f) {
  char line[LINE];
  ij_status st = IJ_OK;
  for (int n = 1; st == IJ_OK && fgets(line, sizeof line, f); n++) {
    ij_plan_key k;
    cublasLtMatmulAlgo_t a;
    if (n == 1 && strcmp(line, t->head))
      st = ij_cuda_host->fail(IJ_EINVAL,
                              "IJEPA_CUDA_TUNE: '%s' has the choices of another cuBLASLt or GPU, or is no such file: "
                              "name another file",
                              t->path);
    else if (n > 1 && !read_line(line, &k, &a))
      st = ij_cuda_host->fail(IJ_EFORMAT, "IJEPA_CUDA_TUNE: line %d of '%s' is damaged: delete the line or the file", n,
                              t->path);
    else if (n > 1 && !choice_of(t, &k) && !remember(t, &k, &a)) st = IJ_ENOMEM;
  }
  return st;
}
/* Lines are appended whole: processes may share the file; of two choices for a class the first counts. */
static ij_status append(const ij_cuda_tune *t, const char *line) {
  int fd = open(t->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  size_t n = strlen(line);
  bool written = fd >= 0 && write(fd, line, n) == (ssize_t)n;
  int why = errno;
  if (fd >= 0) close(fd);
  return written ? IJ_OK
                 : ij_cuda_host->fail(IJ_EIO, "IJEPA_CUDA_TUNE: '%s' can't be written: %s", t->path, strerror(why));
}

ij_status ij_cuda_tune_open(ij_cuda *c, ij_cuda_tune **out) {
  const char *wish = getenv("IJEPA_CUDA_TUNE");
  *out = NULL;
  if (!wish || !*wish || !strcmp(wish, "0")) return IJ_OK;
  if (strlen(wish) >= IJ_LIBRARY_PATH) return ij_cuda_host->fail(IJ_EINVAL, "IJEPA_CUDA_TUNE: the path is too long");
  ij_cuda_tune *t = (ij_cuda_tune *)ij_cuda_host->alloc(sizeof *t);
  if (!t) return IJ_ENOMEM;
  memset(t, 0, sizeof *t);
  snprintf(t->head, sizeof t->head, "ijepa matmul choices 1, cuBLASLt %zu, sm_%d, %s\n", c->blas->cublasLtGetVersion(),
           c->arch, c->name);
  ij_status st = IJ_OK;
  if (strcmp(wish, "1")) {
    snprintf(t->path, sizeof t->path, "%s", wish);
    FILE *f = fopen(t->path, "re");
    if (f) {
      st = read_file(t, f);
      if (st == IJ_OK && ftell(f) == 0) st = append(t, t->head); /* empty */
      fclose(f);
    } else {
      st = errno == ENOENT
               ? append(t, t->head)
               : ij_cuda_host->fail(IJ_EIO, "IJEPA_CUDA_TUNE: '%s' can't be read: %s", t->path, strerror(errno));
    }
  }
  if (st == IJ_OK) *out = t;
  else ij_cuda_tune_close(t);
  return st;
}
void ij_cuda_tune_close(ij_cuda_tune *t) {
  if (!t) return;
  for (choice *x = t->first, *next; x; x = next) {
    next = x->next;
    ij_cuda_host->free(x);
  }
  ij_cuda_host->free(t);
}

/* ---- timing ------------------------------------------------------------------------------------------------------ */
/* Milliseconds of one matmul into `to`, the least of RUNS; negative: it does not run. */
static float time_of(ij_cuda *c, const ij_plan *p, const cublasLtMatmulAlgo_t *a, const void *x, const void *y,
                     void *to, cudaEvent_t from, cudaEvent_t until) {
  float least = -1;
  for (int i = -1; i < RUNS; i++) { /* the first one loads the kernel */
    float ms = 0;
    cudaEventRecord(from, c->stream);
    if (ij_cuda_plan_run(c, p, a, x, y, to)) return -1;
    cudaEventRecord(until, c->stream);
    if (cudaEventSynchronize(until) != cudaSuccess || cudaEventElapsedTime(&ms, from, until) != cudaSuccess) return -1;
    if (i >= 0 && (least < 0 || ms < least)) least = ms;
  }
  return least;
}
static int fastest(ij_cuda *c, const ij_plan *p, const cublasLtMatmulHeuristicResult_t *all, int n, const void *x,
                   const void *y, void *to) {
  cudaEvent_t from = NULL, until = NULL;
  int best = 0;
  float least = -1;
  if (cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&until) == cudaSuccess)
    for (int i = 0; i < n; i++) {
      if (all[i].state != CUBLAS_STATUS_SUCCESS) continue;
      float ms = time_of(c, p, &all[i].algo, x, y, to, from, until);
      if (ms < 0 || (least >= 0 && ms > BETTER * least)) continue;
      least = ms;
      best = i;
    }
  if (from) cudaEventDestroy(from);
  if (until) cudaEventDestroy(until);
  cudaGetLastError(); /* of candidates that do not run */
  return best;
}

ij_status ij_cuda_tune_choose(ij_queue *q, ij_cuda_tune *t, ij_plan *p, const cublasLtMatmulHeuristicResult_t *all,
                              int n, const void *x, const void *y) {
  ij_cuda *c = ij_cuda_of(q);
  ij_plan_key key = class_of(&p->key);
  const choice *kept = choice_of(t, &key);
  void *to = NULL;
  if (kept) { /* of another shape of the class: where it does not fit this one, the heuristic's first stays */
    cublasLtMatmulHeuristicResult_t fits = {};
    if (!c->blas->cublasLtMatmulAlgoCheck(c->blas->handle, p->product, p->b, p->a, p->c, p->c, &kept->algorithm,
                                          &fits) &&
        fits.workspaceSize <= c->workspace_bytes)
      p->algorithm = kept->algorithm;
    return IJ_OK;
  }
  size_t bytes = (size_t)(p->key.P * p->key.M * p->key.N) * (p->key.out == IJ_BF16 ? 2 : 4);
  ij_status st = ij_cuda_alloc(q, bytes, &to); /* the result of a trial: what the caller has stays */
  if (st != IJ_OK) return st;
  cudaMemsetAsync(to, 0, bytes, c->stream); /* a sum reads it */
  p->algorithm = all[fastest(c, p, all, n, x, y, to)].algo;
  ij_cuda_free(q, to);
  if (!remember(t, &key, &p->algorithm)) return IJ_ENOMEM;
  char line[LINE];
  write_line(line, t->first);
  return t->path[0] ? append(t, line) : IJ_OK;
}
