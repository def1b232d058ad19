/* Libraries that are loaded when they are asked for: CUDA's and MPI's parts, which most machines lack. */
#include "base.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The folder of the program or library that this function is in, with a slash; "" where that is not known. */
static void own_folder(char *buf, size_t n) {
  Dl_info library;
  char *real = NULL;
  buf[0] = 0;
  if (dladdr((void *)(uintptr_t)own_folder, &library) && library.dli_fname) real = realpath(library.dli_fname, NULL);
  if (!real) real = realpath("/proc/self/exe", NULL);
  char *slash = real ? strrchr(real, '/') : NULL;
  if (slash && (size_t)(slash + 1 - real) < n) {
    memcpy(buf, real, (size_t)(slash + 1 - real));
    buf[slash + 1 - real] = 0;
  }
  free(real);
}

/* Beside us, or, where we are bin/ijepa, in the library folders beside bin/ */
static void *load_near(const char *file) {
  static const char *const places[] = {"", "../lib/", "../lib/" IJEPA_LIBRARY_ARCH "/", "../lib64/"};
  char folder[3072], path[4096];
  own_folder(folder, sizeof folder);
  for (size_t i = 0; folder[0] && i < sizeof places / sizeof *places; i++) {
    snprintf(path, sizeof path, "%s%s%s", folder, places[i], file);
    if (ij_path_kind(path) == 1) return dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }
  return dlopen(file, RTLD_NOW | RTLD_LOCAL);
}

ij_status ij_plugin_load(const char *file, const char *variable, const char *symbol, void **fn) {
  const char *path = getenv(variable);
  void *library = path && *path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : load_near(file);
  *fn = NULL;
  if (!library) {
    const char *why = dlerror();
    return ij_fail(IJ_EUNSUPPORTED, "library '%s' could not be loaded: %s", path && *path ? path : file,
                   why ? why : "it is not there");
  }
  *fn = dlsym(library, symbol); /* never closed: threads and caches of its own libraries stay */
  if (!*fn)
    return ij_fail(IJ_EUNSUPPORTED, "library '%s' is of another version: it has no '%s'", path ? path : file, symbol);
  return IJ_OK;
}
