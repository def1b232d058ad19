/* Where NVIDIA's libraries are found. The order: what the user names, what was packed with the plug-in, what an active
 * Python environment has from its package index, the system's library path, the toolkit. */
#include "library.h"
#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef IJ_EMU /* the emulator's functions are linked in; empty files take the libraries' places (tests/emu) */
#define FUNCTION(library, name) ((void)(library), (void *)&::name)
static const char blas_file[] = "libcublasLt_emu.so", nccl_file[] = "libnccl_emu.so";
#else
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define FUNCTION(library, name) dlsym(library, #name)
static const char blas_file[] = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR);
#ifdef IJ_NCCL
static const char nccl_file[] = "libnccl.so." TEXT(NCCL_MAJOR);
#endif
#endif

typedef struct search {
  const char *file;
  void *library;
  char path[IJ_LIBRARY_PATH]; /* the file that was loaded */
  char looked[560];           /* folders, for the message */
  char why[240];              /* of a file that is there and does not load */
} search;

/* snprintf; false: it did not fit, and out holds its beginning. */
__attribute__((format(printf, 3, 4))) static bool put(char *out, size_t n, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int written = vsnprintf(out, n, fmt, ap);
  va_end(ap);
  return written >= 0 && (size_t)written < n;
}

static void note(search *s, const char *what, const char *more) {
  size_t at = strlen(s->looked);
  put(s->looked + at, sizeof s->looked - at, "%s%s%s", at ? ", " : "", what, more);
}

static bool load(search *s, const char *path) {
  struct link_map *map = NULL;
  s->library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never closed: its threads and caches stay */
  if (!s->library) {
    const char *why = dlerror();
    if (strchr(path, '/')) put(s->why, sizeof s->why, "; %s", why ? why : path);
    return false;
  }
  if (!strchr(path, '/') && !dlinfo(s->library, RTLD_DI_LINKMAP, &map) && map && *map->l_name) path = map->l_name;
  char real[PATH_MAX];
  return put(s->path, sizeof s->path, "%s", realpath(path, real) ? real : path);
}
static bool in_folder(search *s, const char *folder) {
  char path[PATH_MAX];
  return put(path, sizeof path, "%s/%s", folder, s->file) && !access(path, F_OK) && load(s, path);
}

static bool in_named(search *s) {
  const char *list = getenv("IJEPA_CUDA_LIBS");
  note(s, "IJEPA_CUDA_LIBS=", list ? list : "");
  while (list && *list) {
    char folder[PATH_MAX];
    size_t n = strcspn(list, ":");
    put(folder, sizeof folder, "%.*s", (int)n, list);
    if (n && in_folder(s, folder)) return true;
    list += n + (list[n] == ':');
  }
  return false;
}

static bool beside_us(search *s) {
  Dl_info us;
  char folder[PATH_MAX];
  if (!dladdr((void *)beside_us, &us) || !us.dli_fname || !realpath(us.dli_fname, folder)) return false;
  char *slash = strrchr(folder, '/');
  if (!slash) return false;
  *slash = 0;
  note(s, folder, "");
  return in_folder(s, folder);
}

/* PREFIX/lib/python3.x/site-packages/nvidia/<package>/lib; Debian says dist-packages. */
static bool in_prefix(search *s, const char *prefix, const char *beneath) {
  char pattern[PATH_MAX];
  glob_t found;
  bool loaded = false;
  if (!prefix || !*prefix) return false;
  if (!put(pattern, sizeof pattern, "%s%s/lib/python3*/{site,dist}-packages/nvidia/*/lib/%s", prefix, beneath, s->file))
    return false;
  if (glob(pattern, GLOB_BRACE, NULL, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc && !loaded; i++) loaded = load(s, found.gl_pathv[i]);
  globfree(&found);
  return loaded;
}
/* The prefix of the python3 that a shell would run; "": there is none. */
static void python_prefix(char *prefix, size_t n) {
  const char *list = getenv("PATH");
  *prefix = 0;
  while (list && *list) {
    char program[PATH_MAX];
    size_t length = strcspn(list, ":");
    put(program, sizeof program, "%.*s/python3", (int)length, list);
    if (length && !access(program, X_OK)) {
      put(prefix, n, "%.*s/..", (int)length, list);
      return;
    }
    list += length + (list[length] == ':');
  }
}
static bool in_python(search *s) {
  char prefix[PATH_MAX];
  python_prefix(prefix, sizeof prefix);
  note(s, "nvidia/*/lib of Python's packages", " (VIRTUAL_ENV, CONDA_PREFIX, python3 on PATH)");
  return in_prefix(s, getenv("VIRTUAL_ENV"), "") || in_prefix(s, getenv("CONDA_PREFIX"), "") ||
         in_prefix(s, prefix, "") || in_prefix(s, getenv("HOME"), "/.local") || in_prefix(s, "/usr/local", "");
}

static bool in_toolkit(search *s) {
  const char *home = getenv("CUDA_HOME");
  char folder[PATH_MAX];
  put(folder, sizeof folder, "%s/lib64", home && *home ? home : "/usr/local/cuda");
  note(s, folder, "");
  if (in_folder(s, folder)) return true;
#ifdef IJ_CUDA_TOOLKIT
  note(s, IJ_CUDA_TOOLKIT, "");
  if (in_folder(s, IJ_CUDA_TOOLKIT)) return true;
#endif
  return false;
}

static bool find(search *s) {
  if (in_named(s) || beside_us(s) || in_python(s)) return true;
  note(s, "the library path", "");
  return load(s, s->file) || in_toolkit(s);
}
static void explain(const search *s, const char *missing, char *why, size_t n) {
  if (missing) put(why, n, "%s is of another version: it has no '%s'", s->path, missing);
  else
    put(why, n, "%s was not found in %s: install it, or set IJEPA_CUDA_LIBS to its folder%s", s->file, s->looked,
        s->why);
}

ij_status ij_cuda_blas_open(ij_cuda *c) {
  search s = {};
  char why[1000];
  const char *missing = NULL;
  s.file = blas_file;
  c->blas = (ij_cuda_blas *)ij_cuda_host->alloc(sizeof *c->blas);
  if (!c->blas) return IJ_ENOMEM;
  memset(c->blas, 0, sizeof *c->blas);
  if (find(&s)) {
#define LOAD(name)                                                                                                     \
  *(void **)&c->blas->name = FUNCTION(s.library, name);                                                                \
  if (!c->blas->name) missing = #name;
    IJ_BLAS_FUNCTIONS(LOAD)
#undef LOAD
    memcpy(c->blas->path, s.path, sizeof s.path);
    cublasStatus_t st = missing ? CUBLAS_STATUS_SUCCESS : c->blas->cublasLtCreate(&c->blas->handle);
    if (!missing && !st) return IJ_OK;
    if (!missing)
      return ij_cuda_host->fail(IJ_EUNSUPPORTED, "device 'cuda:%d': cuBLASLt (%s) does not start on this GPU: %s",
                                c->device, s.path, c->blas->cublasLtGetStatusString(st));
  }
  explain(&s, missing, why, sizeof why);
  return ij_cuda_host->fail(IJ_EUNSUPPORTED, "device 'cuda:%d': %s", c->device, why);
}
void ij_cuda_blas_close(ij_cuda *c) {
  if (!c->blas) return;
  if (c->blas->handle) c->blas->cublasLtDestroy(c->blas->handle);
  ij_cuda_host->free(c->blas);
  c->blas = NULL;
}

#ifdef IJ_NCCL
bool ij_cuda_nccl_try(ij_cuda *c, char *why, size_t n) {
  search s = {};
  const char *missing = NULL;
  if (c->nccl) return true;
  s.file = nccl_file;
  ij_cuda_nccl *all = find(&s) ? (ij_cuda_nccl *)ij_cuda_host->alloc(sizeof *all) : NULL;
  if (!all) {
    explain(&s, NULL, why, n);
    return false;
  }
#define LOAD(name)                                                                                                     \
  *(void **)&all->name = FUNCTION(s.library, name);                                                                    \
  if (!all->name) missing = #name;
  IJ_NCCL_FUNCTIONS(LOAD)
#undef LOAD
  memcpy(all->path, s.path, sizeof s.path);
  if (!missing) {
    c->nccl = all;
    return true;
  }
  explain(&s, missing, why, n);
  ij_cuda_host->free(all);
  return false;
}
ij_status ij_cuda_nccl_open(ij_cuda *c) {
  char why[1000];
  if (ij_cuda_nccl_try(c, why, sizeof why)) return IJ_OK;
  return ij_cuda_host->fail(IJ_EUNSUPPORTED, "processes on GPUs: %s", why);
}
#endif
