#include "device.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { ZONE = 256, CANARY = 0xc3, SMALL = 300000, QUICK_BYTES = 60000 };
static const double QUICK_FLOPS = 2e6;

/* ---- the plug-in ------------------------------------------------------------------------------------------------ */
ij_status ij_check_device_open(ij_check_device *d, const ij_backend *backend) {
  ij_device_info info;
  if (!backend) return IJ_EUNSUPPORTED; /* it has said why */
  if (backend->abi != IJ_BACKEND_ABI)
    return ij_fail(IJ_EUNSUPPORTED, "the plug-in is of another version: %d, this is %d", backend->abi, IJ_BACKEND_ABI);
  d->backend = backend;
  d->queue = (ij_queue){0};
  IJ_TRY(backend->open(0, &d->queue));
  memset(&info, 0, sizeof info);
  backend->info(&d->queue, &info);
  d->emulated = strstr(info.name, "emulated") != NULL;
  return IJ_OK;
}

ij_status ij_check_device_load(ij_check_device *d) {
  static const ij_host host = {ij_fail, ij_alloc, ij_free};
  const char *path = getenv("IJEPA_CUDA");
  if (!path || !*path)
    return ij_fail(IJ_EUNSUPPORTED, "no plug-in: set IJEPA_CUDA to libijepa_cuda.so or its emulator");
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* stays: kernels' names in messages are its strings */
  if (!library) return ij_fail(IJ_EIO, "plug-in '%s' could not be loaded: %s", path, dlerror());
  ij_backend_open_fn entry;
  *(void **)&entry = dlsym(library, "ij_backend_cuda");
  if (!entry) return ij_fail(IJ_EIO, "plug-in '%s' has no ij_backend_cuda", path);
  return ij_check_device_open(d, entry(&host));
}

void ij_check_device_close(ij_check_device *d) {
  if (d->backend) d->backend->close(&d->queue);
  d->backend = NULL;
}

void ij_check_device_slots(ij_check *k, const ij_check_device *d) {
  const ij_op_table *t = &d->backend->ops;
#define IJ_OP(name, params, args)                                                                                      \
  if (!t->name) ij_check_fail(k, NULL, "op '%s' is missing in the device's table", #name);
  IJ_OPS(IJ_OP)
#undef IJ_OP
}

/* ---- memory of the arguments: each in a block of its own, between red zones ---------------------------------------
 */
typedef struct memory {
  struct {
    char *block, *image; /* on the device; the same bytes on the host */
    size_t bytes, at, n; /* of the block; where the argument begins; its length */
  } arg[IJ_CASE_ARGS];
} memory;

static void unplace(ij_check_device *d, memory *m) {
  for (int i = 0; i < IJ_CASE_ARGS; i++) {
    if (m->arg[i].block) d->backend->free(&d->queue, m->arg[i].block);
    ij_free(m->arg[i].image);
  }
  *m = (memory){0};
}

static bool alias(ij_case *c, const char *form) {
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

/* A view: one element behind an aligned place, and the block ends where the zone behind it does. */
static bool place(ij_check_device *d, ij_case *c, memory *m, bool view, const char *form) {
  *m = (memory){0};
  for (int i = 0; i < c->args; i++) {
    const ij_case_arg *a = &c->arg[i];
    size_t size = ij_case_size(a->type);
    void *block = NULL;
    c->p[i] = NULL;
    if (!a->name) continue;
    m->arg[i].n = (size_t)a->n * size;
    m->arg[i].at = ZONE + (view ? size : 0);
    m->arg[i].bytes = m->arg[i].at + m->arg[i].n + ZONE;
    if (!(m->arg[i].image = ij_alloc(m->arg[i].bytes))) return false;
    if (d->backend->alloc(&d->queue, m->arg[i].bytes, &block) != IJ_OK) return false;
    m->arg[i].block = block;
    c->p[i] = m->arg[i].block + m->arg[i].at;
    memset(m->arg[i].image, CANARY, m->arg[i].bytes);
    memcpy(m->arg[i].image + m->arg[i].at, a->first, m->arg[i].n);
  }
  return alias(c, form);
}

static ij_status fill(ij_check_device *d, const ij_case *c, memory *m) { /* inputs last: they count where aliased */
  for (int inputs = 0; inputs < 2; inputs++)
    for (int i = 0; i < c->args; i++)
      if (c->arg[i].name && (c->arg[i].role != IJ_CASE_OUT) == inputs) {
        IJ_TRY(d->backend->write(&d->queue, m->arg[i].block, m->arg[i].image, m->arg[i].bytes));
        if (c->p[i] != m->arg[i].block + m->arg[i].at && m->arg[i].n)
          IJ_TRY(d->backend->write(&d->queue, c->p[i], m->arg[i].image + m->arg[i].at, m->arg[i].n));
      }
  return IJ_OK;
}

static ij_status fetch(ij_check_device *d, const ij_case *c, memory *m) {
  for (int i = 0; i < c->args; i++)
    if (c->arg[i].name) IJ_TRY(d->backend->read(&d->queue, m->arg[i].block, m->arg[i].image, m->arg[i].bytes));
  return IJ_OK;
}

static bool spoiled(const memory *m, int i) {
  size_t end = m->arg[i].at + m->arg[i].n;
  for (size_t b = 0; b < m->arg[i].bytes; b++)
    if ((b < m->arg[i].at || b >= end) && (unsigned char)m->arg[i].image[b] != CANARY) return true;
  return false;
}

static const char *result_of(const ij_case *c, const memory *m, int i) { /* where the argument was in this call */
  for (int j = 0; j < c->args; j++)
    if (m->arg[j].block && c->p[i] == (void *)(m->arg[j].block + m->arg[j].at)) return m->arg[j].image + m->arg[j].at;
  return NULL;
}

/* ---- one call --------------------------------------------------------------------------------------------------- */
/* Outputs are compared with want[]; got, when not NULL, receives them. */
static bool compare(ij_check *k, const ij_case *c, const memory *m, double tol, const char *how, void **want,
                    void **got) {
  for (int i = 0; i < c->args; i++) {
    const ij_case_arg *a = &c->arg[i];
    bool shared = false;
    if (!a->name) continue;
    if (spoiled(m, i)) {
      ij_check_fail(k, c, "%s: writes outside of %s", how, a->name);
      return false;
    }
    const char *result = result_of(c, m, i);
    for (int j = 0; j < c->args; j++) shared |= j != i && c->arg[j].name && c->p[j] == c->p[i];
    if (a->role == IJ_CASE_IN) {
      if (shared || !memcmp(result, a->first, m->arg[i].n)) continue;
      ij_check_fail(k, c, "%s: changes its input %s", how, a->name);
      return false;
    }
    if (want && want[i] && !ij_check_near(k, c, i, want[i], result, tol, how)) return false;
    if (got && !got[i] && (got[i] = ij_alloc(m->arg[i].n))) memcpy(got[i], result, m->arg[i].n);
  }
  return true;
}

static bool call(ij_check *k, ij_check_device *d, ij_case *c, bool view, const char *form, double tol, const char *how,
                 void **want, void **got) {
  memory m;
  char label[96];
  ij_status st = IJ_OK;
  bool ok = false;
  snprintf(label, sizeof label, "%s%s%s%s", how, view ? ", unaligned" : "", form ? ", " : "", form ? form : "");
  if (!place(d, c, &m, view, form) || fill(d, c, &m) != IJ_OK) {
    ij_check_fail(k, c, "%s: no memory, or a form of other arguments: %s", label, ij_errmsg());
    goto out;
  }
  k->calls++;
  if ((st = c->op->call(&d->backend->ops, &d->queue, c)) != IJ_OK || (st = fetch(d, c, &m)) != IJ_OK) {
    ij_check_fail(k, c, "%s: returns %d: %s", label, (int)st, ij_errmsg());
    goto out;
  }
  ok = compare(k, c, &m, tol, label, want, got);
out:
  unplace(d, &m);
  return ok;
}

bool ij_check_device_call(ij_check *k, ij_check_device *d, ij_case *c, double tol, const char *how, void **want,
                          void **got) {
  return call(k, d, c, false, NULL, tol, how, want, got);
}

/* On a queue that has no scratch yet each allocation fails in turn: the op must say so, and work the next time. */
static void try_out_of_memory(ij_check *k, const ij_check_device *like, ij_case *c, void **want) {
  for (int n = 1; n < 20; n++) {
    ij_check_device d = {0};
    memory m = {0};
    char count[12];
    ij_status st = ij_check_device_open(&d, like->backend), again = IJ_OK;
    if (st != IJ_OK || !place(&d, c, &m, false, NULL) || fill(&d, c, &m) != IJ_OK) {
      ij_check_fail(k, c, "device out of memory: no second queue: %s", ij_errmsg());
      return;
    }
    k->calls++;
    snprintf(count, sizeof count, "%d", n);
    setenv("IJ_EMU_FAIL_ALLOCATION", count, 1);
    st = c->op->call(&d.backend->ops, &d.queue, c);
    unsetenv("IJ_EMU_FAIL_ALLOCATION");
    if (st != IJ_OK && st != IJ_ENOMEM)
      ij_check_fail(k, c, "device out of memory at allocation %d: returns %d", n, (int)st);
    if (st != IJ_OK && (again = fill(&d, c, &m)) == IJ_OK) again = c->op->call(&d.backend->ops, &d.queue, c);
    if (again == IJ_OK) again = fetch(&d, c, &m);
    if (again != IJ_OK) ij_check_fail(k, c, "after allocation %d failed: returns %d: %s", n, (int)again, ij_errmsg());
    else compare(k, c, &m, -1, "after a failed allocation", want, NULL);
    unplace(&d, &m);
    ij_check_device_close(&d);
    if (st != IJ_ENOMEM || again != IJ_OK) return;
  }
}

void ij_check_device_results(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt,
                             ij_check_device *d) {
  void *want[IJ_CASE_ARGS] = {0}, *got[IJ_CASE_ARGS] = {0};
  ij_case *c = ij_case_new(op, shape, dt);
  if (!c) {
    ij_check_fail(k, NULL, "%s '%s': no memory, or its forward fails", op->name, shape->name);
    return;
  }
  bool small = ij_case_bytes(c) < SMALL;
  if (d->quick && (ij_case_bytes(c) > QUICK_BYTES || c->flops > QUICK_FLOPS)) goto out;
  if (!ij_check_reference(k, c, want)) goto out;
  if (!call(k, d, c, false, NULL, -1, "device", want, got)) goto out;
  if (!d->quick && small && !call(k, d, c, false, NULL, 0, "device, again", got, NULL)) goto out;
  for (int i = 0; i < c->forms; i++)
    if (!call(k, d, c, false, c->form[i], -1, "device", want, NULL)) goto out;
  if (!small || !call(k, d, c, true, NULL, -1, "device", want, NULL)) goto out;
  if (d->emulated && !d->quick) try_out_of_memory(k, d, c, want);
out:
  for (int i = 0; i < IJ_CASE_ARGS; i++) {
    ij_free(want[i]);
    ij_free(got[i]);
  }
  ij_case_free(c);
}
