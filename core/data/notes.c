/* notes.c: messages that wait for a reader. */
#include "data.h"

void ij_notes_add(ij_notes *v, char *text) {
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
