/* notes.c: messages that wait for a reader. */
#include "data.h"
#include <string.h>

/* text with the control characters that names may hold escaped; the text itself where memory is short */
static char *shown(char *text) {
  size_t n = text ? 4 * strlen(text) + 1 : 0;
  char *out = n ? ij_alloc(n) : NULL;
  if (!out) return text;
  ij_shown(out, n, text);
  ij_free(text);
  return out;
}

void ij_notes_add(ij_notes *v, char *text) {
  text = shown(text);
  if (text && v->n == v->cap) {
    size_t cap = v->cap ? 2 * v->cap : 16;
    char **more = ij_realloc(v->text, cap * sizeof *more);
    if (more) {
      v->text = more;
      v->cap = cap;
    }
  }
  if (text && v->n < v->cap) v->text[v->n++] = text;
  else ij_free(text);
}

const char *ij_notes_next(ij_notes *v) {
  ij_free(v->last);
  v->last = NULL;
  if (v->next < v->n) v->last = v->text[v->next++];
  if (v->next == v->n) v->next = v->n = 0;
  return v->last;
}

void ij_notes_free(ij_notes *v) {
  while (ij_notes_next(v)) {}
  ij_free(v->text);
  *v = (ij_notes){0};
}
