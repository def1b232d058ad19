#include "harness.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- contents --------------------------------------------------------------------------------------------------- */
static uint64_t mix(uint64_t z) { /* splitmix64's finisher */
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static uint64_t bits_at(uint64_t seed, ij_dim i) { return mix(seed + (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u); }
static double uniform_at(uint64_t seed, ij_dim i) { return (double)(bits_at(seed, i) >> 11) * 0x1p-53; }

double ij_case_random(uint64_t seed, ij_dim i) { /* four uniform numbers, centred; their variance is 4 / 12 */
  uint64_t b = bits_at(seed, i);
  double sum = (double)(b & 0xffff) + (double)(b >> 16 & 0xffff) + (double)(b >> 32 & 0xffff) + (double)(b >> 48);
  return (sum / 65536 - 2) * 1.7320508075688772;
}

static uint64_t seed_of(const char *name) {
  uint64_t h = 14695981039346656037u;
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 1099511628211u;
  return h;
}

size_t ij_case_size(int type) {
  return type == IJ_CASE_F64 || type == IJ_I64 ? 8 : type == IJ_BF16 ? 2 : type == IJ_U8 ? 1 : 4;
}

double ij_case_get(int type, const void *p, ij_dim i) {
  switch (type) {
  case IJ_CASE_F64:
    return ((const double *)p)[i];
  case IJ_F32:
    return ((const float *)p)[i];
  case IJ_BF16:
    return ij_bf16_to_f32(((const uint16_t *)p)[i]);
  case IJ_I32:
    return ((const int32_t *)p)[i];
  case IJ_I64:
    return (double)((const int64_t *)p)[i];
  default:
    return ((const uint8_t *)p)[i];
  }
}

static void set(int type, void *p, ij_dim i, double v) {
  switch (type) {
  case IJ_CASE_F64:
    ((double *)p)[i] = v;
    break;
  case IJ_F32:
    ((float *)p)[i] = (float)v;
    break;
  case IJ_BF16:
    ((uint16_t *)p)[i] = ij_f32_to_bf16((float)v);
    break;
  case IJ_I32:
    ((int32_t *)p)[i] = (int32_t)v;
    break;
  case IJ_I64:
    ((int64_t *)p)[i] = (int64_t)v;
    break;
  default:
    ((uint8_t *)p)[i] = (uint8_t)v;
  }
}

static double value(ij_case_fill fill, double scale, uint64_t seed, ij_dim i) {
  double u = uniform_at(seed, i);
  switch (fill) {
  case IJ_CASE_FAR:
    return scale * (30 + ij_case_random(seed, i));
  case IJ_CASE_POSITIVE:
    return scale * (0.1 + u);
  case IJ_CASE_APART:
    return scale * (u < 0.5 ? -0.1 - 2 * u : 2 * u - 0.9);
  case IJ_CASE_INDEX:
    return floor(u * scale);
  case IJ_CASE_LABEL:
    return floor(u * (scale + 1)) - 1;
  case IJ_CASE_HOLES:
    if (i % 97 == 5) return i % 2 ? INFINITY : i % 4 ? -INFINITY : (double)NAN;
    break;
  default:
    break;
  }
  return scale * ij_case_random(seed, i);
}

/* ---- describing ------------------------------------------------------------------------------------------------- */
static ij_case_arg *argument(ij_case *c, const char *name, ij_case_role role, int type, ij_dim n) {
  if (c->args == IJ_CASE_ARGS) IJ_BUG("a case has too many arguments");
  ij_case_arg *a = &c->arg[c->args++];
  *a = (ij_case_arg){name, role, type, n, NULL, c->tol, c->unit, c->why};
  a->first = ij_alloc((size_t)n * ij_case_size(type));
  if (!a->first) c->failed = true;
  return a->first ? a : NULL;
}

static void contents(const ij_case *c, ij_case_arg *a, ij_case_fill fill, double scale) {
  uint64_t seed = seed_of(a->name) ^ mix(seed_of(c->shape->name));
  unsigned char *bytes = a->first;
  ij_dim n_bytes = a->n * (ij_dim)ij_case_size(a->type);
  if (fill == IJ_CASE_BITS)
    for (ij_dim i = 0; i < n_bytes; i++) bytes[i] = (unsigned char)(bits_at(seed, i / 8) >> i % 8 * 8);
  else
    for (ij_dim i = 0; i < a->n; i++) set(a->type, a->first, i, value(fill, scale, seed, i));
}

void ij_case_in_as(ij_case *c, const char *name, int type, ij_dim n, ij_case_fill fill, double scale) {
  ij_case_arg *a = argument(c, name, IJ_CASE_IN, type, n);
  if (a) contents(c, a, fill, scale);
}

void ij_case_in(ij_case *c, const char *name, int type, ij_dim n, double scale) {
  ij_case_in_as(c, name, type, n, IJ_CASE_NORMAL, scale);
}

void ij_case_add(ij_case *c, const char *name, int type, ij_dim n, ij_case_fill fill, double scale) {
  ij_case_arg *a = argument(c, name, IJ_CASE_ADD, type, n);
  if (a) contents(c, a, fill, scale);
}

void ij_case_out(ij_case *c, const char *name, int type, ij_dim n) {
  ij_case_arg *a = argument(c, name, IJ_CASE_OUT, type, n);
  if (a) memset(a->first, 0xff, (size_t)n * ij_case_size(type));
}

void ij_case_null(ij_case *c) {
  if (c->args == IJ_CASE_ARGS) IJ_BUG("a case has too many arguments");
  c->arg[c->args++] = (ij_case_arg){0};
}

void ij_case_unread(ij_case *c, ij_dim at, ij_dim n) {
  ij_case_arg *a = &c->arg[c->args - 1];
  for (ij_dim i = at; a->first && i < at + n; i++) set(a->type, a->first, i, (double)NAN);
}

void ij_case_form(ij_case *c, const char *aliases) {
  if (c->forms == IJ_CASE_FORMS) IJ_BUG("a case has too many forms");
  c->form[c->forms++] = aliases;
}

void ij_case_tol(ij_case *c, double f32, double bf16, const char *why) {
  c->tol = c->dt == IJ_BF16 ? bf16 : f32;
  c->why = why;
}

void ij_case_unit(ij_case *c, double unit) { c->unit = unit; }

int ij_case_find(const ij_case *c, const char *name) {
  for (int i = 0; i < c->args; i++)
    if (c->arg[i].name && !strcmp(c->arg[i].name, name)) return i;
  return -1;
}

double ij_case_bytes(const ij_case *c) {
  double sum = c->bytes;
  for (int i = 0; c->bytes == 0 && i < c->args; i++) {
    const ij_case_arg *a = &c->arg[i];
    if (a->name) sum += (double)a->n * (double)ij_case_size(a->type) * (a->role == IJ_CASE_ADD ? 2 : 1);
  }
  return sum;
}

ij_case *ij_case_new_alone(const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt) {
  static uint64_t contents_made;
  ij_case *c = ij_calloc(1, sizeof *c);
  if (!c) return NULL;
  *c = (ij_case){.op = op, .shape = shape, .dim = shape->dim, .flags = shape->flags, .dt = dt};
  c->content = ++contents_made;
  op->describe(c);
  if (!c->failed) return c;
  ij_case_free(c);
  return NULL;
}

/* Inputs of c that are outputs of its forward, on the same other inputs: log of sums, means, and so on */
static bool from_forward(ij_case *c) {
  bool wanted = false, ok = false;
  ij_case_memory m = {0};
  ij_queue q = {0};
  ij_status st;
  ij_case *f = ij_case_new_alone(c->op->forward, c->shape, c->dt);
  if (!f) return false;
  for (int i = 0; i < f->args; i++) {
    int at = f->arg[i].name ? ij_case_find(c, f->arg[i].name) : -1;
    if (at < 0 || c->arg[at].role != IJ_CASE_IN) continue;
    if (c->arg[at].n != f->arg[i].n || c->arg[at].type != f->arg[i].type) IJ_BUG("forward and backward don't fit");
    if (f->arg[i].role == IJ_CASE_OUT) wanted = true;
    else memcpy(f->arg[i].first, c->arg[at].first, (size_t)f->arg[i].n * ij_case_size(f->arg[i].type));
  }
  if (wanted) {
    if (!ij_case_place_all(f, &m, IJ_CASE_ALIGNED, NULL)) goto out;
    ij_case_fill_all(f);
    if (!ij_case_call(f, &ij_ref_table, &q, &st) || st != IJ_OK) goto out;
  }
  for (int i = 0; i < f->args; i++) {
    int at = f->arg[i].name ? ij_case_find(c, f->arg[i].name) : -1;
    if (at >= 0 && c->arg[at].role == IJ_CASE_IN && f->arg[i].role == IJ_CASE_OUT)
      memcpy(c->arg[at].first, f->p[i], (size_t)f->arg[i].n * ij_case_size(f->arg[i].type));
  }
  ok = true;
out:
  ij_queue_release(&q);
  ij_case_unplace(&m);
  ij_case_free(f);
  return ok;
}

ij_case *ij_case_new(const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt) {
  ij_case *c = ij_case_new_alone(op, shape, dt);
  if (!c || !op->forward || from_forward(c)) return c;
  ij_case_free(c);
  return NULL;
}

void ij_case_free(ij_case *c) {
  for (int i = 0; c && i < c->args; i++) ij_free(c->arg[i].first);
  ij_free(c);
}

const ij_case_op *ij_case_list(int i) {
  static const ij_case_op *const lists[] = {
#define IJ_CASE_LIST(folder) ij_cases_##folder,
      IJ_CASES(IJ_CASE_LIST)
#undef IJ_CASE_LIST
  };
  for (size_t k = 0; k < sizeof lists / sizeof *lists; k++)
    for (const ij_case_op *op = lists[k]; op->name; op++)
      if (i-- == 0) return op;
  return NULL;
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */
enum { CANARY = 0xc3, MARGIN = 64 };

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

bool ij_case_place_all(ij_case *c, ij_case_memory *m, ij_case_place place, const char *form) {
  *m = (ij_case_memory){0};
  for (int i = 0; i < c->args; i++) {
    c->p[i] = NULL;
    if (!c->arg[i].name) continue;
    size_t bytes = (size_t)c->arg[i].n * ij_case_size(c->arg[i].type), p = page();
    size_t space = (bytes + MARGIN + p - 1) / p * p; /* one page in front, this, one forbidden page */
    char *map = mmap(NULL, p + space + p, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || mprotect(map + p + space, p, PROT_NONE) != 0) return false;
    m->arg[i].map = map;
    m->arg[i].map_bytes = p + space + p;
    m->arg[i].data = map + p + (place == IJ_CASE_AT_END ? space - bytes : 0);
    m->arg[i].bytes = bytes;
    c->p[i] = m->arg[i].data;
    memset(map, CANARY, (size_t)(m->arg[i].data - map));
    memset(m->arg[i].data + bytes, CANARY, (size_t)(map + p + space - m->arg[i].data) - bytes);
  }
  while (form && *form) { /* "out=in out=in" */
    char out[32], in[32];
    int used = 0;
    if (sscanf(form, " %31[^=]=%31s%n", out, in, &used) != 2) return false;
    int o = ij_case_find(c, out), i = ij_case_find(c, in);
    if (o < 0 || i < 0 || c->arg[o].n != c->arg[i].n || c->arg[o].type != c->arg[i].type) return false;
    c->p[o] = c->p[i];
    form += used;
  }
  return true;
}

void ij_case_fill_all(ij_case *c) { /* inputs last: they count where an output has their memory */
  for (int inputs = 0; inputs < 2; inputs++)
    for (int i = 0; i < c->args; i++)
      if (c->arg[i].name && (c->arg[i].role != IJ_CASE_OUT) == inputs)
        memcpy(c->p[i], c->arg[i].first, (size_t)c->arg[i].n * ij_case_size(c->arg[i].type));
}

static bool all_canary(const char *from, const char *to) {
  for (; from < to; from++)
    if ((unsigned char)*from != CANARY) return false;
  return true;
}

int ij_case_spoiled(const ij_case_memory *m) {
  for (int i = 0; i < IJ_CASE_ARGS; i++) {
    if (!m->arg[i].map) continue;
    const char *data = m->arg[i].data, *end = m->arg[i].map + m->arg[i].map_bytes - page();
    if (!all_canary(m->arg[i].map, data) || !all_canary(data + m->arg[i].bytes, end)) return i;
  }
  return -1;
}

void ij_case_unplace(ij_case_memory *m) {
  for (int i = 0; i < IJ_CASE_ARGS; i++)
    if (m->arg[i].map) munmap(m->arg[i].map, m->arg[i].map_bytes);
  *m = (ij_case_memory){0};
}

/* ---- calling ---------------------------------------------------------------------------------------------------- */
static sigjmp_buf back;
static volatile sig_atomic_t calling;
static pthread_t caller;
static char where[256];

static void on_fault(int sig) {
  if (calling && pthread_equal(pthread_self(), caller)) siglongjmp(back, sig);
  if (calling) { /* in another thread there is no way back */
    ssize_t n = write(2, where, strlen(where));
    (void)n;
  }
  signal(sig, SIG_DFL);
  raise(sig);
}

bool ij_case_call(const ij_case *c, const ij_op_table *t, ij_queue *q, ij_status *status) {
  struct sigaction a = {.sa_handler = on_fault, .sa_flags = (int)SA_NODEFER}, segv, bus;
  snprintf(where, sizeof where, "FAIL %s '%s': touches memory outside of its arguments, in a worker thread\n",
           c->op->name, c->shape->name);
  caller = pthread_self();
  sigaction(SIGSEGV, &a, &segv);
  sigaction(SIGBUS, &a, &bus);
  bool fine = sigsetjmp(back, 1) == 0;
  if (fine) {
    calling = 1;
    *status = c->op->call(t, q, c);
  }
  calling = 0;
  sigaction(SIGSEGV, &segv, NULL);
  sigaction(SIGBUS, &bus, NULL);
  return fine;
}
