#include "base.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[1024];

const char *ij_version(void) { return IJEPA_VERSION; }
const char *ij_errmsg(void) { return message; }

char *ij_shown(char *out, size_t n, const char *s) {
  size_t used = 0;
  for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
    char part[8];
    if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) snprintf(part, sizeof part, "\\x%02x", *++p);
    else if (*p == '\n' || *p == '\t') snprintf(part, sizeof part, "\\%c", *p == '\n' ? 'n' : 't');
    else if (*p < 0x20 || *p == 0x7f) snprintf(part, sizeof part, "\\x%02x", *p);
    else snprintf(part, sizeof part, "%c", *p);
    size_t length = strlen(part);
    if (used + length + 1 > n) break;
    memcpy(out + used, part, length);
    used += length;
  }
  if (n) out[used] = 0;
  return out;
}

ij_status ij_fail(ij_status code, const char *fmt, ...) {
  char text[sizeof message]; /* an argument may be the old message itself */
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  ij_shown(message, sizeof message, text);
  return code;
}

ij_status ij_fail_in(ij_status code, const char *fmt, ...) {
  char where[256], text[sizeof message];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(where, sizeof where, fmt, ap);
  va_end(ap);
  snprintf(text, sizeof text, "%s: %.*s", where, (int)(sizeof text - sizeof where - 3), message);
  ij_shown(message, sizeof message, text);
  return code;
}

void ij_bug(const char *file, int line, const char *what) {
  fprintf(stderr, "ijepa: bug at %s:%d: %s (please report this)\n", file, line, what);
  abort();
}
