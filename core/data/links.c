/* links.c: which images a tar holds, beyond the files that stand in it: links are followed within the tar, and a tar in
 * a tar is a folder of its name (ILSVRC's tars of classes). What leads nowhere is noted. */
#include "data.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

typedef struct link {
  char *name, *target; /* normal; target: by its text, then as it was resolved */
  char *text;          /* as it stands in the tar */
  bool image, out, found;
  size_t order; /* in the tar */
  uint64_t offset, size;
} link_;

typedef struct scan {
  int fd;
  const char *path, *prefix; /* prefix: of the names of a tar in the tar, or "" */
  uint64_t from, end;
  ij_member_fn *add;
  void *arg;
  ij_note_fn *note;
  void *note_arg;
  link_ *link;
  size_t n, cap;
} scan;

enum { HOPS_MOST = 40, FOLDERS_MOST = 256 };

/* The folder and the name in it, without "." and "..": allocated; *out: they lead out of the tar. */
static char *normal(const char *folder, size_t folder_length, const char *name, bool *out) {
  char *to = ij_alloc(folder_length + strlen(name) + 2);
  if (!to) return NULL;
  size_t n = folder_length;
  memcpy(to, folder, n);
  *out = false;
  for (const char *p = name, *next; *p; p = next) {
    size_t len = strcspn(p, "/");
    next = p + len + (p[len] == '/');
    if (len == 0 || (len == 1 && *p == '.')) continue;
    if (len == 2 && p[0] == '.' && p[1] == '.') {
      if (n == 0) *out = true;
      while (n && to[n - 1] != '/') n--;
      if (n) n--;
      continue;
    }
    if (n) to[n++] = '/';
    memcpy(to + n, p, len);
    n += len;
  }
  to[n] = 0;
  return to;
}

static size_t folder_of(const char *name) {
  const char *slash = strrchr(name, '/');
  return slash ? (size_t)(slash - name) : 0;
}

static bool is_hidden(const char *name) { return *name == '.' || strstr(name, "/."); }

static ij_status say(const scan *s, char *text) { /* takes the text */
  if (!text) return IJ_ENOMEM;
  s->note(s->note_arg, text);
  ij_free(text);
  return IJ_OK;
}

static ij_status scan_tar(scan *s);

static ij_status add(const scan *s, const char *name, uint64_t offset, uint64_t size) {
  if (is_hidden(name)) return IJ_OK;
  size_t n = strlen(name);
  uint8_t head[512];
  size_t got;
  bool tar = n > 4 && !strcasecmp(name + n - 4, ".tar") && !*s->prefix;
  tar = tar && ij_read_at(s->fd, head, sizeof head, offset, &got) == IJ_OK && ij_tar_kind(head, got) == 1;
  if (!tar && ij_is_archive_name(name))
    return say(s, ij_format("%s: %s%s%s: an archive in the tar, which is not read: %s", s->path, s->prefix,
                            *s->prefix ? "/" : "", name, *s->prefix ? "it lies too deep" : "it is no plain tar"));
  if (tar) {
    char *prefix = ij_format("%.*s", (int)(n - 4), name);
    uint64_t end = size < s->end - offset ? offset + size : s->end;
    scan inner = {s->fd, s->path, prefix, offset, end, s->add, s->arg, s->note, s->note_arg, NULL, 0, 0};
    ij_status st = prefix ? scan_tar(&inner) : IJ_ENOMEM;
    ij_free(prefix);
    return st;
  }
  if (!*s->prefix) return s->add(s->arg, name, offset, size);
  char *full = ij_format("%s/%s", s->prefix, name);
  ij_status st = full ? s->add(s->arg, full, offset, size) : IJ_ENOMEM;
  ij_free(full);
  return st;
}

/* Takes name. */
static ij_status add_link(scan *s, char *name, const ij_tar_entry *e) {
  if (s->n == s->cap) {
    size_t cap = s->cap ? 2 * s->cap : 64;
    link_ *more = ij_realloc(s->link, cap * sizeof *more);
    if (!more) {
      ij_free(name);
      return IJ_ENOMEM;
    }
    s->link = more;
    s->cap = cap;
  }
  link_ *l = &s->link[s->n];
  *l = (link_){.name = name, .text = ij_strdup(e->target), .image = ij_is_image_name(name, true), .order = s->n};
  bool symbolic = e->kind == IJ_TAR_SYMBOLIC;
  l->target = normal(name, symbolic ? folder_of(name) : 0, e->target, &l->out);
  if (symbolic && *e->target == '/') l->out = true;
  s->n++;
  return l->text && l->target ? IJ_OK : IJ_ENOMEM;
}

static ij_status on_entry(void *arg, const ij_tar_entry *e) {
  scan *s = arg;
  bool out;
  size_t n = strlen(e->name);
  char *name = normal("", 0, e->name, &out);
  if (!name) return IJ_ENOMEM;
  ij_status st = IJ_OK;
  if (e->kind == IJ_TAR_HARD || e->kind == IJ_TAR_SYMBOLIC) return add_link(s, name, e);
  if (e->kind == IJ_TAR_SPARSE) {
    if (ij_is_image_name(name, true) && !is_hidden(name))
      st = say(s, ij_format("%s: %s: a sparse member, whose bytes do not lie in one piece", s->path, name));
  } else if (out) st = say(s, ij_format("%s: %s: its name leads out of the tar", s->path, e->name));
  else if (n && e->name[n - 1] != '/') st = add(s, name, e->offset, e->size);
  ij_free(name);
  return st;
}

static int by_name(const void *a,
                   const void *b) { /* of the same name the last comes first: it is what unpacking leaves */
  const link_ *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order ? order : x->order < y->order ? 1 : -1;
}

/* The link of this name, n bytes long. */
static const link_ *find(const scan *s, const char *name, size_t n) {
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    int order = strncmp(s->link[mid].name, name, n);
    if (order == 0) order = s->link[mid].name[n] != 0;
    if (order < 0) lo = mid + 1;
    else hi = mid;
  }
  return lo < s->n && !strncmp(s->link[lo].name, name, n) && !s->link[lo].name[n] ? &s->link[lo] : NULL;
}

/* Where links on the way lead: l->target becomes the name of something that is no link, or l->out. */
static ij_status resolve(const scan *s, link_ *l, char **to) {
  *to = ij_strdup(l->target);
  for (int hops = 0; *to && !l->out; hops++) {
    const link_ *on = NULL;
    size_t n = 0;
    for (const char *p = *to; !on && *p; p += *p == '/') {
      p += strcspn(p, "/");
      n = (size_t)(p - *to);
      on = find(s, *to, n);
    }
    if (!on) return IJ_OK;
    if (on->out || hops == HOPS_MOST) l->out = true; /* a circle leads nowhere */
    else {
      char *next = normal(on->target, strlen(on->target), *to + n, &l->out);
      ij_free(*to);
      *to = next;
    }
  }
  return *to ? IJ_OK : IJ_ENOMEM;
}

static int by_target(const void *a, const void *b, void *arg) {
  const scan *s = arg;
  return strcmp(s->link[*(const size_t *)a].target, s->link[*(const size_t *)b].target);
}

typedef struct second { /* the pass that finds what links lead to */
  scan *s;
  size_t *order; /* the links by target */
  size_t *folder;
  size_t folders; /* links that may lead to folders: those without an image's name */
} second;

/* A file of this name, under the names that links to folders above it give it. */
static ij_status add_seen(const second *p, const char *name, uint64_t offset, uint64_t size) {
  ij_status st = IJ_OK;
  for (size_t i = 0; i < p->folders && st == IJ_OK; i++) {
    link_ *l = &p->s->link[p->folder[i]];
    size_t n = strlen(l->target);
    if (n == 0 || strncmp(name, l->target, n) != 0 || name[n] != '/') continue;
    if (!strncmp(l->name, l->target, n) && l->name[n] == '/') continue; /* it leads back to a folder above it */
    l->found = true;
    char *seen = ij_format("%s%s", l->name, name + n);
    st = seen ? add(p->s, seen, offset, size) : IJ_ENOMEM;
    ij_free(seen);
  }
  return st;
}

static ij_status on_target(void *arg, const ij_tar_entry *e) {
  second *p = arg;
  scan *s = p->s;
  bool out;
  if (e->kind != IJ_TAR_FILE) return IJ_OK;
  char *name = normal("", 0, e->name, &out);
  if (!name) return IJ_ENOMEM;
  size_t lo = 0, hi = s->n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    if (strcmp(s->link[p->order[mid]].target, name) < 0) lo = mid + 1;
    else hi = mid;
  }
  ij_status st = IJ_OK;
  for (; lo < s->n && !strcmp(s->link[p->order[lo]].target, name); lo++) {
    link_ *l = &s->link[p->order[lo]];
    l->found = true;
    l->offset = e->offset;
    l->size = e->size;
  }
  if (st == IJ_OK) st = add_seen(p, name, e->offset, e->size);
  ij_free(name);
  return st;
}

static void no_note(void *arg, const char *text) { (void)arg, (void)text; } /* the first pass had them */

static ij_status follow(scan *s) {
  second p = {s, NULL, NULL, 0};
  ij_status st = IJ_OK;
  char **to = ij_calloc(s->n, sizeof *to);
  p.order = ij_alloc(s->n * sizeof *p.order);
  p.folder = ij_alloc(FOLDERS_MOST * sizeof *p.folder);
  if (!to || !p.order || !p.folder) st = IJ_ENOMEM;
  if (st == IJ_OK) qsort(s->link, s->n, sizeof *s->link, by_name);
  for (size_t i = 0; i < s->n && st == IJ_OK; i++) st = resolve(s, &s->link[i], &to[i]);
  for (size_t i = 0; i < s->n && st == IJ_OK; i++) { /* only now, since resolving reads the targets of others */
    link_ *l = &s->link[i];
    ij_free(l->target);
    l->target = to[i];
    to[i] = NULL;
    p.order[i] = i;
    if (!l->image && !l->out && p.folders < FOLDERS_MOST) p.folder[p.folders++] = i;
  }
  if (st == IJ_OK) {
    qsort_r(p.order, s->n, sizeof *p.order, by_target, s);
    st = ij_tar_walk(s->fd, s->path, s->from, s->end, on_target, &p, no_note, NULL);
  }
  for (size_t i = 0; i < s->n && st == IJ_OK; i++) { /* links in such folders */
    const link_ *l = &s->link[i];
    if (l->image && l->found && !l->out) st = add_seen(&p, l->name, l->offset, l->size);
  }
  for (size_t i = 0; i < s->n && st == IJ_OK; i++) {
    link_ *l = &s->link[i];
    if (is_hidden(l->name) || (i && !strcmp(l->name, s->link[i - 1].name))) continue;
    if (l->found && !l->out && l->image) st = add(s, l->name, l->offset, l->size);
    else if (!l->found || l->out)
      st = say(s, ij_format("%s: %s: a link to '%s', which is %s", s->path, l->name, l->text,
                            l->out ? "outside the tar, or a circle" : "not in the tar"));
  }
  for (size_t i = 0; to && i < s->n; i++) ij_free(to[i]);
  ij_free(to);
  ij_free(p.order);
  ij_free(p.folder);
  return st;
}

static ij_status scan_tar(scan *s) {
  ij_status st = ij_tar_walk(s->fd, s->path, s->from, s->end, on_entry, s, s->note, s->note_arg);
  if (st == IJ_OK && s->n) st = follow(s);
  for (size_t i = 0; i < s->n; i++) {
    ij_free(s->link[i].name);
    ij_free(s->link[i].target);
    ij_free(s->link[i].text);
  }
  ij_free(s->link);
  return st;
}

ij_status ij_tar_scan(int fd, const char *path, ij_member_fn *add_fn, void *arg, ij_note_fn *note, void *note_arg) {
  off_t end = lseek(fd, 0, SEEK_END);
  scan s = {fd, path, "", 0, end > 0 ? (uint64_t)end : 0, add_fn, arg, note, note_arg, NULL, 0, 0};
  return scan_tar(&s);
}
