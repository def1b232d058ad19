/* What every source of the core may use: failing with a message, counted memory, cleanup of half-made things. */
#ifndef IJ_BASE_H
#define IJ_BASE_H
#include "../ijepa.h"
#include <stdarg.h>
#include <stdbool.h>

/* Sets this thread's message and returns code. The message: lower case, what failed first, the subject quoted. */
ij_status ij_fail(ij_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "what: " in front of the message that is already set and returns code. */
ij_status ij_fail_in(ij_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For our own broken invariants only: nothing that a script or a file contains may reach it. */
void ij_bug(const char *file, int line, const char *what) __attribute__((noreturn));
#define IJ_BUG(what) ij_bug(__FILE__, __LINE__, what)

/* Counted memory, 64-byte aligned. NULL and a message on failure. */
void *ij_alloc(size_t bytes);
void *ij_calloc(size_t count, size_t size);
void *ij_realloc(void *p, size_t bytes);
void ij_free(void *p);
char *ij_strdup(const char *s);
char *ij_format(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* ij_free the result */

/* The path of a temporary file beside `target`: with the ending (".tmp"), or of a short name where that would be too
 * long. It is always the same, so that what a killed process left is overwritten by the next one. ij_free it. */
char *ij_path_beside(const char *target, const char *ending);
/* A file that is written completely or not at all: a temporary file beside it, fsync, rename, fsync of the folder.
 * A symbolic link stays a link, and what it leads to is replaced. A device, a pipe and the like is written into. */
typedef struct ij_replacement {
  const char *path;   /* the caller's, for messages; it must last */
  char *target, *tmp; /* tmp: NULL where the target is written into */
  int fd;
} ij_replacement;
ij_status ij_replace_begin(ij_replacement *r, const char *path); /* IJ_EIO, IJ_ENOMEM: there is nothing to end */
ij_status ij_replace_put(ij_replacement *r, const void *bytes, size_t n);
/* st: what the writing came to. Returns it, or why the file could not be completed; then no temporary file is left. */
ij_status ij_replace_end(ij_replacement *r, ij_status st);

/* The ending of a plural: "%lld image%s". */
static inline const char *ij_s(double n) { return n == 1 ? "" : "s"; }

/* s with control characters (also those of UTF-8's C1) as \n, \t or \x1b: a name may hold what commands a terminal. At
 * most n bytes with the 0; returns out. */
char *ij_shown(char *out, size_t n, const char *s);

/* A function of a library that is loaded now, from the path in the environment's `variable`, from beside this program,
 * or from where the system looks. IJ_EUNSUPPORTED: it is not there. */
ij_status ij_plugin_load(const char *file, const char *variable, const char *symbol, void **fn);

/* Return (or go to the function's exit label) with a failing status. */
#define IJ_TRY(call)                                                                                                   \
  do {                                                                                                                 \
    ij_status ij_try_ = (call);                                                                                        \
    if (ij_try_ != IJ_OK) return ij_try_;                                                                              \
  } while (0)
#define IJ_TRY_TO(label, st, call)                                                                                     \
  do {                                                                                                                 \
    (st) = (call);                                                                                                     \
    if ((st) != IJ_OK) goto label;                                                                                     \
  } while (0)

#endif
