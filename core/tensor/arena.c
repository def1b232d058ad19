#include "tensor.h"
#include <string.h>

/* Blocks of a chunk follow each other without gaps; each begins with this header, of one cache line. */
typedef struct block {
  size_t bytes; /* of the block, header included */
  struct block *before;
  bool used, last;
} block;
typedef struct chunk {
  struct chunk *next;
  char *memory;
  size_t bytes;
} chunk;
struct ij_arena {
  chunk *chunks;
  int out; /* blocks taken and not given back */
};
enum { LINE = 64, GROW = 32 << 20 };

ij_arena *ij_arena_new(void) { return ij_calloc(1, sizeof(ij_arena)); }

static void free_chunks(ij_arena *a) {
  while (a->chunks) {
    chunk *c = a->chunks;
    a->chunks = c->next;
    ij_free(c->memory);
    ij_free(c);
  }
}

void ij_arena_free(ij_arena *a) {
  if (!a) return;
  free_chunks(a);
  ij_free(a);
}

static chunk *grow(ij_arena *a, size_t bytes) {
  bytes = (bytes + GROW - 1) / GROW * GROW;
  chunk *c = ij_calloc(1, sizeof *c);
  if (!c || !(c->memory = ij_alloc(bytes))) {
    ij_free(c);
    return NULL;
  }
  c->bytes = bytes;
  *(block *)(void *)c->memory = (block){.bytes = bytes, .last = true};
  c->next = a->chunks;
  a->chunks = c;
  return c;
}

static block *after(block *b) { return b->last ? NULL : (block *)(void *)((char *)b + b->bytes); }

static void *take_from(chunk *c, size_t bytes) {
  for (block *b = (block *)(void *)c->memory; b; b = after(b)) {
    if (b->used || b->bytes < bytes) continue;
    if (b->bytes - bytes >= 4 * LINE) {
      block *rest = (block *)(void *)((char *)b + bytes);
      *rest = (block){.bytes = b->bytes - bytes, .before = b, .last = b->last};
      if (!rest->last) after(rest)->before = rest;
      b->bytes = bytes;
      b->last = false;
    }
    b->used = true;
    return (char *)b + LINE;
  }
  return NULL;
}

void *ij_arena_take(ij_arena *a, size_t bytes) {
  if (bytes > SIZE_MAX / 2) bytes = SIZE_MAX / 2;
  bytes = (bytes + 2 * LINE - 1) / LINE * LINE;
  void *p = NULL;
  for (chunk *c = a->chunks; c && !p; c = c->next) p = take_from(c, bytes);
  if (!p) {
    chunk *c = grow(a, bytes);
    if (!c) return NULL;
    p = take_from(c, bytes);
  }
  a->out++;
  return p;
}

void ij_arena_give(ij_arena *a, void *p) {
  block *b = (block *)(void *)((char *)p - LINE), *n = after(b);
  b->used = false;
  a->out--;
  if (n && !n->used) {
    b->bytes += n->bytes;
    b->last = n->last;
    if ((n = after(b))) n->before = b;
  }
  if (b->before && !b->before->used) {
    block *p0 = b->before;
    p0->bytes += b->bytes;
    p0->last = b->last;
    if ((n = after(p0))) n->before = p0;
  }
}

void ij_arena_settle(ij_arena *a) {
  if (a->out || !a->chunks || !a->chunks->next) return;
  size_t total = 0;
  for (chunk *c = a->chunks; c; c = c->next) total += c->bytes;
  free_chunks(a);
  grow(a, total); /* if this fails, the next step grows again and says so */
}
