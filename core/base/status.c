#include "base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[1024];

const char *ij_version(void) { return IJEPA_VERSION; }
const char *ij_errmsg(void) { return message; }

ij_status ij_fail(ij_status code, const char *fmt, ...) {
  char text[sizeof message]; /* an argument may be the old message itself */
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  memcpy(message, text, sizeof text);
  return code;
}

ij_status ij_fail_in(ij_status code, const char *fmt, ...) {
  char where[256], text[sizeof message];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(where, sizeof where, fmt, ap);
  va_end(ap);
  snprintf(text, sizeof text, "%s: %.*s", where, (int)(sizeof text - sizeof where - 3), message);
  memcpy(message, text, sizeof text);
  return code;
}

void ij_bug(const char *file, int line, const char *what) {
  fprintf(stderr, "ijepa: bug at %s:%d: %s (please report this)\n", file, line, what);
  abort();
}
