/* list.c: which images a data set holds, sorted by the bytes of their names, and in which files they lie. */
#include "data.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MOST = 64, FDS_KEPT = 256, SHARD_BITS = 24 };

typedef struct strings { /* owned strings, or lines of one text */
  char **s;
  size_t n, cap;
} strings;

struct ij_list {
  char *root;
  bool tar;
  ij_names names;          /* in a tar with u64 shard << 40 | offset, u32 size */
  strings shard, class;    /* shard: where to read them */
  strings moved;           /* the shards' paths before ij_list_move */
  pthread_rwlock_t moving; /* shard, base and fd: written by ij_list_move alone, while other threads read */
  char *base;              /* the folder that images are read from: root, or where they were copied to */
  const char *cache;       /* while it is opened */
  bool part;               /* a subset */
  int *fd;                 /* of the first FDS_KEPT shards */
  int others;              /* files that aren't images */
  bool untrusted;
  int blocked; /* images of formats that are not trusted */
  char *blocked_first;
  ij_names labels; /* .cls members by the image's name up to its first dot; while it is opened */
  int32_t *label;  /* (count): of labels; NULL: the folders are the classes */
  char *subset_text;
  strings subset; /* sorted */
  uint8_t *met;   /* for each line of the subset */
  ij_note_fn *note;
  void *arg;
};
enum { META = 12 };

static ij_status strings_add(strings *v, char *s) {
  if (!s) return IJ_ENOMEM;
  if (v->n == v->cap) {
    size_t cap = v->cap ? 2 * v->cap : 64;
    char **more = ij_realloc(v->s, cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    v->s = more;
    v->cap = cap;
  }
  v->s[v->n++] = s;
  return IJ_OK;
}
static ij_status strings_add_owned(strings *v, char *s) {
  ij_status st = strings_add(v, s);
  if (st != IJ_OK) ij_free(s);
  return st;
}
static void strings_free(strings *v) {
  for (size_t i = 0; i < v->n; i++) ij_free(v->s[i]);
  ij_free(v->s);
  *v = (strings){0};
}
static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void note(ij_list *l, char *text) { /* takes the text */
  if (text) l->note(l->arg, text);
  ij_free(text);
}

const char *ij_list_name(const ij_list *l, uint32_t i) { return ij_names_at(&l->names, i); }
uint32_t ij_list_count(const ij_list *l) { return (uint32_t)l->names.n; }
int ij_list_classes(const ij_list *l) { return (int)l->class.n; }
const char *ij_list_class(const ij_list *l, int i) { return l->class.s[i]; }

/* ---- subset ---- */
/* Cuts text into lines without blanks around them; empty ones are left out. */
static ij_status split_lines(char *text, strings *out) {
  for (char *line = text, *next; line; line = next) {
    next = strchr(line, '\n');
    if (next) *next++ = 0;
    while (isspace((unsigned char)*line)) line++;
    char *end = line + strlen(line);
    while (end > line && isspace((unsigned char)end[-1])) *--end = 0;
    if (*line) IJ_TRY(strings_add(out, line));
  }
  return IJ_OK;
}

static ij_status subset_load(ij_list *l, const char *path) {
  IJ_TRY(ij_text_read(path, "subset", &l->subset_text));
  IJ_TRY(split_lines(l->subset_text, &l->subset));
  if (l->subset.n == 0) return ij_fail(IJ_EFORMAT, "subset '%s' has no names in it", path);
  qsort(l->subset.s, l->subset.n, sizeof *l->subset.s, by_bytes);
  return (l->met = ij_calloc(l->subset.n, 1)) ? IJ_OK : IJ_ENOMEM;
}

static bool subset_has(ij_list *l, const char *name) {
  const char *slash = strrchr(name, '/'), *keys[2] = {name, slash ? slash + 1 : name};
  for (int i = 0; i < 2; i++) {
    char **hit = bsearch(&keys[i], l->subset.s, l->subset.n, sizeof *l->subset.s, by_bytes);
    if (!hit) continue;
    l->met[hit - l->subset.s] = 1;
    return true;
  }
  return false;
}

static void subset_report(ij_list *l, const char *path) {
  size_t missing = 0, first = 0;
  for (size_t i = l->subset.n; i-- > 0;) /* a name that stands there twice is met once */
    if (!l->met[i] && (i == 0 || strcmp(l->subset.s[i], l->subset.s[i - 1]) != 0) &&
        (i + 1 == l->subset.n || strcmp(l->subset.s[i], l->subset.s[i + 1]) != 0))
      missing++, first = i;
  if (missing)
    note(l, ij_format("subset '%s': %zu of %zu names are not in the data set, the first is '%s'", path, missing,
                      l->subset.n, l->subset.s[first]));
}

/* ---- adding ---- */
static ij_status add_name(ij_list *l, const char *name, const void *meta) {
  if (!ij_is_image_name(name, l->untrusted)) {
    l->others++;
    if (!ij_is_image_name(name, true)) return IJ_OK;
    l->blocked++;
    if (!l->blocked_first && !(l->blocked_first = ij_strdup(name))) return IJ_ENOMEM;
    return IJ_OK;
  }
  if (l->subset.n && !subset_has(l, name)) return IJ_OK;
  return ij_names_add(&l->names, name, meta);
}

/* ---- folders ---- */
typedef struct level { /* the folders above, to see loops */
  dev_t dev;
  ino_t ino;
  const struct level *up;
  int depth;
} level;

/* path holds root + '/' + the name so far, at + its length; name starts at `base`. */
static ij_status walk(ij_list *l, char path[static PATH_MAX], size_t base, size_t at, const level *up) {
  struct stat s;
  level here = {.up = up, .depth = up ? up->depth + 1 : 0};
  const char *shown = at > base ? path + base : ".";
  DIR *dir = opendir(path);
  if (!dir || fstat(dirfd(dir), &s) != 0) {
    int why = errno;
    if (dir) closedir(dir);
    if (!up) return ij_fail(IJ_EIO, "folder '%s' could not be read: %s", l->root, strerror(why));
    note(l, ij_format("%s: folder left out: %s", shown, strerror(why)));
    return IJ_OK;
  }
  here.dev = s.st_dev;
  here.ino = s.st_ino;
  bool loop = here.depth > DEPTH_MOST;
  for (const level *u = up; u; u = u->up) loop |= u->dev == here.dev && u->ino == here.ino;
  if (loop) {
    note(l, ij_format("%s: folder left out: %s", shown,
                      here.depth > DEPTH_MOST ? "too deep" : "a link leads back to a folder above it"));
    closedir(dir);
    return IJ_OK;
  }
  ij_status st = IJ_OK;
  for (struct dirent *e; st == IJ_OK && (e = readdir(dir));) {
    size_t len = strlen(e->d_name);
    if (e->d_name[0] == '.') continue;
    if (ij_interrupted()) {
      st = ij_fail(IJ_EINTERRUPT, "listing of '%s' interrupted", l->root);
      break;
    }
    if (at + len + 2 > PATH_MAX) {
      note(l, ij_format("%s/%s: left out: the path is too long", shown, e->d_name));
      continue;
    }
    memcpy(path + at, e->d_name, len + 1);
    int type = e->d_type;
    if ((type == DT_LNK || type == DT_UNKNOWN) && stat(path, &s) == 0) type = S_ISDIR(s.st_mode) ? DT_DIR : DT_REG;
    if (type == DT_DIR) {
      memcpy(path + at + len, "/", 2);
      st = walk(l, path, base, at + len + 1, &here);
    } else st = add_name(l, path + base, NULL);
    path[at] = 0;
  }
  closedir(dir);
  return st;
}

static ij_status list_folder(ij_list *l) {
  char path[PATH_MAX];
  size_t n = strlen(l->root);
  while (n > 1 && l->root[n - 1] == '/') n--;
  if (n + 2 > PATH_MAX) return ij_fail(IJ_EINVAL, "the path of the folder is too long");
  memcpy(path, l->root, n);
  if (path[n - 1] != '/') path[n++] = '/';
  path[n] = 0;
  return walk(l, path, n, n, NULL);
}

/* ---- tars ---- */
/* What a WebDataset calls the key: up to the first dot of the file's name. */
static size_t key_length(const char *name) {
  const char *slash = strrchr(name, '/'), *base = slash ? slash + 1 : name;
  return (size_t)(base - name) + strcspn(base, ".");
}

/* Whether a tar's name is the class of an image in no folder, as of ILSVRC's n01440764.tar, which holds
 * n01440764_10026.JPEG; *stem: the length of that name. */
static bool names_class(const char *tar, const char *name, int *stem) {
  const char *slash = strrchr(tar, '/'), *base = slash ? slash + 1 : tar;
  size_t n = strlen(base);
  if (strchr(name, '/') || n < 5 || strcasecmp(base + n - 4, ".tar") != 0) return false;
  n -= 4;
  *stem = (int)n;
  bool wordnet = n == 9 && *base == 'n' && strspn(base + 1, "0123456789") == 8;
  return wordnet || (!strncmp(name, base, n) && name[n] == '_');
}

static ij_status on_member(void *arg, const char *name, uint64_t offset, uint64_t size) {
  ij_list *l = arg;
  if (offset >> 40) return ij_fail(IJ_EUNSUPPORTED, "tar '%s' is longer than 1 TiB", l->shard.s[l->shard.n - 1]);
  uint8_t meta[META];
  uint64_t where = (uint64_t)(l->shard.n - 1) << 40 | offset;
  uint32_t bytes = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
  memcpy(meta, &where, 8);
  memcpy(meta + 8, &bytes, 4);
  if (ij_is_label_name(name)) {
    char *key = ij_strdup(name);
    if (!key) return IJ_ENOMEM;
    key[key_length(key)] = 0;
    ij_status st = ij_names_add(&l->labels, key, meta);
    ij_free(key);
    return st;
  }
  int stem;
  const char *shard = l->shard.s[l->shard.n - 1];
  if (!names_class(shard, name, &stem)) return add_name(l, name, meta);
  const char *slash = strrchr(shard, '/');
  char *full = ij_format("%.*s/%s", stem, slash ? slash + 1 : shard, name);
  ij_status st = full ? add_name(l, full, meta) : IJ_ENOMEM;
  ij_free(full);
  return st;
}

/* Half of the open files that the system allows (ulimit -n) are for other things; numbers are given from 0. */
static bool may_stay_open(int fd) {
  struct rlimit most;
  return getrlimit(RLIMIT_NOFILE, &most) != 0 || (rlim_t)fd < most.rlim_cur / 2;
}

static ij_status add_shard(ij_list *l, char *path) { /* takes the path */
  uint8_t head[512];
  size_t n;
  IJ_TRY(strings_add_owned(&l->shard, path));
  if (l->shard.n > 1 << SHARD_BITS) return ij_fail(IJ_EUNSUPPORTED, "more than %d tars", 1 << SHARD_BITS);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ij_fail(IJ_EIO, "tar '%s' could not be opened: %s", path, strerror(errno));
  ij_status st = ij_read_at(fd, head, sizeof head, 0, &n);
  int kind = st == IJ_OK ? ij_tar_kind(head, n) : 0;
  if (st != IJ_OK) ij_fail_in(st, "tar '%s'", path);
  else if (kind == 2)
    st = ij_fail(IJ_EUNSUPPORTED, "tar '%s' is compressed: decompress it, since images are read in place", path);
  else if (kind == 0) st = ij_fail(IJ_EFORMAT, "'%s' is not a tar", path);
  else st = ij_tar_members(fd, path, l->cache, on_member, l, l->note, l->arg);
  if (st == IJ_OK && l->shard.n <= FDS_KEPT && may_stay_open(fd)) l->fd[l->shard.n - 1] = fd;
  else close(fd);
  return st;
}

static ij_status fds_new(int **fd) {
  if (!(*fd = ij_alloc(FDS_KEPT * sizeof **fd))) return IJ_ENOMEM;
  for (int i = 0; i < FDS_KEPT; i++) (*fd)[i] = -1;
  return IJ_OK;
}

static ij_status shards_begin(ij_list *l) {
  l->tar = true;
  l->names.meta = l->labels.meta = META;
  return fds_new(&l->fd);
}

static ij_status list_file(ij_list *l) {
  uint8_t head[512];
  size_t n = 0;
  int fd = open(l->root, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ij_fail(IJ_EIO, "data '%s' could not be read: %s", l->root, strerror(errno));
  ij_status st = ij_read_at(fd, head, sizeof head, 0, &n);
  close(fd);
  if (st != IJ_OK) return ij_fail_in(st, "data '%s'", l->root);
  IJ_TRY(shards_begin(l));
  size_t len = strlen(l->root);
  if (ij_tar_kind(head, n) || (len > 4 && !strcasecmp(l->root + len - 4, ".tar")))
    return add_shard(l, ij_strdup(l->root));
  if (ij_is_utf16(head, n)) return ij_fail(IJ_EFORMAT, "list '%s' is UTF-16; save it as UTF-8", l->root);
  if (memchr(head, 0, n))
    return ij_fail(IJ_EFORMAT, "data '%s' is neither a folder, nor a tar, nor a text that lists tars", l->root);
  char *text = NULL;
  strings line = {0};
  const char *slash = strrchr(l->root, '/');
  int folder = slash ? (int)(slash - l->root) + 1 : 0;
  IJ_TRY_TO(out, st, ij_text_read(l->root, "list of tars", &text));
  IJ_TRY_TO(out, st, split_lines(text, &line));
  for (size_t i = 0; i < line.n; i++) {
    const char *s = line.s[i];
    if (*s == '#') continue;
    char *path = *s == '/' ? ij_strdup(s) : ij_format("%.*s%s", folder, l->root, s);
    st = path ? add_shard(l, path) : IJ_ENOMEM;
    if (st != IJ_OK) {
      if (st != IJ_ENOMEM) ij_fail_in(st, "list '%s'", l->root);
      goto out;
    }
  }
  if (l->shard.n == 0) st = ij_fail(IJ_EFORMAT, "list '%s' names no tars", l->root);
out:
  ij_free(line.s);
  ij_free(text);
  return st;
}

/* A folder without images, but with tars: these are its shards. */
static ij_status list_folder_of_tars(ij_list *l) {
  char *names;
  ij_status st = ij_dir_list(l->root, &names);
  for (char *s = names, *end; st == IJ_OK && (end = strchr(s, '\n')); s = end + 1) {
    *end = 0;
    if (end - s < 5 || strcasecmp(end - 4, ".tar") != 0) continue;
    if (!l->tar && (st = shards_begin(l)) != IJ_OK) break;
    char *path = ij_format("%s/%s", l->root, s);
    st = path ? add_shard(l, path) : IJ_ENOMEM;
  }
  ij_bytes_free(names);
  return st;
}

/* ---- classes ---- */
static void classes_sort(ij_list *l, int (*order)(const void *, const void *)) { /* each once */
  strings *v = &l->class;
  size_t kept = 0;
  if (v->n) qsort(v->s, v->n, sizeof *v->s, order);
  for (size_t i = 0; i < v->n; i++) {
    if (kept && !strcmp(v->s[i], v->s[kept - 1])) ij_free(v->s[i]);
    else v->s[kept++] = v->s[i];
  }
  v->n = kept;
}

/* The part of name that says its class, or NULL: the first folder, in a tar the last one. */
static const char *class_of(const ij_list *l, const char *name, size_t *len) {
  const char *end = l->tar ? strrchr(name, '/') : strchr(name, '/'), *start = name;
  if (!end) return NULL;
  if (l->tar)
    for (start = end; start > name && start[-1] != '/';) start--;
  *len = (size_t)(end - start);
  return start;
}

static uint64_t shard_of(const ij_names *v, uint32_t i) {
  uint64_t where;
  memcpy(&where, ij_names_meta(v, i), 8);
  return where >> 40;
}

/* The .cls member of image i in its tar, or -1. */
static int64_t label_of(const ij_list *l, uint32_t i, char key[static IJ_TAR_NAME_MOST]) {
  const char *name = ij_list_name(l, i);
  size_t n = key_length(name);
  uint64_t shard = shard_of(&l->names, i);
  if (n >= IJ_TAR_NAME_MOST) return -1;
  memcpy(key, name, n);
  key[n] = 0;
  size_t lo = 0, hi = l->labels.n;
  while (lo < hi) { /* by name, then by tar */
    size_t mid = (lo + hi) / 2;
    int order = strcmp(ij_names_at(&l->labels, (uint32_t)mid), key);
    if (order < 0 || (order == 0 && shard_of(&l->labels, (uint32_t)mid) < shard)) lo = mid + 1;
    else hi = mid;
  }
  bool hit = lo < l->labels.n && !strcmp(ij_names_at(&l->labels, (uint32_t)lo), key) &&
             shard_of(&l->labels, (uint32_t)lo) == shard;
  return hit ? (int64_t)lo : -1;
}

enum { LABEL_MOST = 64 };
/* The text of a .cls member without blanks around it; "": it can't be read. */
static ij_status label_text(const ij_list *l, uint32_t k, char text[static LABEL_MOST + 1]) {
  uint64_t where;
  uint32_t size;
  size_t n = 0;
  memcpy(&where, ij_names_meta(&l->labels, k), 8);
  memcpy(&size, (const char *)ij_names_meta(&l->labels, k) + 8, 4);
  size_t shard = (size_t)(where >> 40);
  bool kept = shard < FDS_KEPT && l->fd[shard] >= 0;
  int fd = kept ? l->fd[shard] : -1;
  if (!kept && ij_file_open(l->shard.s[shard], &fd) == IJ_EUNSUPPORTED)
    return ij_fail_in(IJ_EUNSUPPORTED, "tar '%s'", l->shard.s[shard]);
  if (fd < 0 ||
      ij_read_at(fd, text, size < LABEL_MOST ? size : LABEL_MOST, where & (((uint64_t)1 << 40) - 1), &n) != IJ_OK)
    n = 0;
  if (fd >= 0 && !kept) close(fd);
  while (n && isspace((unsigned char)text[n - 1])) n--;
  text[n] = 0;
  size_t blanks = 0;
  while (isspace((unsigned char)text[blanks])) blanks++;
  memmove(text, text + blanks, n - blanks + 1);
  return IJ_OK;
}

/* Classes by the .cls members: their texts, numbers in the order of numbers. */
static int by_number(const void *a, const void *b) {
  const char *x = *(char *const *)a, *y = *(char *const *)b;
  bool numbers = x[strspn(x, "0123456789")] == 0 && y[strspn(y, "0123456789")] == 0;
  size_t n = strlen(x), m = strlen(y);
  return numbers && n != m ? (n < m ? -1 : 1) : strcmp(x, y);
}
static ij_status find_labels(ij_list *l) {
  char key[IJ_TAR_NAME_MOST], text[LABEL_MOST + 1];
  strings each = {0};
  ij_status st = ij_names_sort(&l->labels);
  for (uint32_t k = 0; k < l->labels.n && st == IJ_OK; k++) {
    st = label_text(l, k, text);
    if (st == IJ_OK) st = strings_add_owned(&each, ij_strdup(text));
    if (st == IJ_OK && *text) st = strings_add_owned(&l->class, ij_strdup(text));
    if (st == IJ_OK && ij_interrupted()) st = ij_fail(IJ_EINTERRUPT, "listing of '%s' interrupted", l->root);
  }
  if (st == IJ_OK && !(l->label = ij_alloc(l->names.n * sizeof *l->label))) st = IJ_ENOMEM;
  if (st == IJ_OK) classes_sort(l, by_number);
  for (uint32_t i = 0; i < l->names.n && st == IJ_OK; i++) {
    int64_t k = label_of(l, i, key);
    char **hit = k < 0 ? NULL : bsearch(&each.s[k], l->class.s, l->class.n, sizeof *l->class.s, by_number);
    l->label[i] = hit ? (int32_t)(hit - l->class.s) : -1;
  }
  strings_free(&each);
  return st;
}

static ij_status find_classes(ij_list *l) {
  const char *last = NULL;
  size_t last_len = 0, len;
  for (size_t i = 0; i < l->names.n; i++) {
    const char *c = class_of(l, ij_list_name(l, (uint32_t)i), &len);
    if (!c || (last && len == last_len && !memcmp(c, last, len))) continue;
    last = c;
    last_len = len;
    char *copy = ij_alloc(len + 1);
    if (!copy) return IJ_ENOMEM;
    memcpy(copy, c, len);
    copy[len] = 0;
    IJ_TRY(strings_add_owned(&l->class, copy));
  }
  classes_sort(l, by_bytes);
  strings *v = &l->class;
  if (l->tar && v->n == 1) ij_free(v->s[--v->n]); /* the one folder that a tar was made from */
  return IJ_OK;
}

int ij_list_label(const ij_list *l, uint32_t i) {
  size_t len;
  if (l->label) return l->label[i];
  const char *c = class_of(l, ij_list_name(l, i), &len);
  if (!c) return -1;
  for (size_t lo = 0, hi = l->class.n; lo < hi;) {
    size_t mid = (lo + hi) / 2;
    int order = strncmp(c, l->class.s[mid], len);
    if (order == 0 && l->class.s[mid][len]) order = -1;
    if (order == 0) return (int)mid;
    if (order < 0) hi = mid;
    else lo = mid + 1;
  }
  return -1;
}

/* ---- stamp ---- */
static uint64_t stamp_file(uint64_t h, const char *path) {
  struct stat s;
  int64_t seen[3] = {-1, 0, 0}; /* not there: a link to nowhere, say */
  if (path && stat(path, &s) == 0) {
    seen[0] = (int64_t)s.st_size;
    seen[1] = (int64_t)s.st_mtim.tv_sec;
    seen[2] = (int64_t)s.st_mtim.tv_nsec;
  }
  return ij_hash(h, seen, sizeof seen);
}

uint64_t ij_list_stamp(ij_list *l) {
  uint64_t h = ij_hash(l->names.n, l->tar ? "tar" : "dir", 3);
  pthread_rwlock_rdlock(&l->moving);
  for (size_t i = 0; l->tar && i < l->shard.n; i++) h = stamp_file(h, l->shard.s[i]);
  for (size_t i = 0; i < l->names.n; i++) {
    const char *r = ij_names_meta(&l->names, (uint32_t)i), *name = ij_list_name(l, (uint32_t)i);
    h = ij_hash(h, r, (size_t)(name - r) + strlen(name)); /* in a tar with the place */
    if (l->tar) continue;
    char *path = ij_format("%s/%s", l->base, name);
    h = stamp_file(h, path);
    ij_free(path);
  }
  pthread_rwlock_unlock(&l->moving);
  return h;
}

/* ---- opening ---- */
/* A move must not wait for ever behind threads that read one image after the other. */
static void moving_init(pthread_rwlock_t *lock) {
  pthread_rwlockattr_t a;
  pthread_rwlockattr_init(&a);
  pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init(lock, &a);
  pthread_rwlockattr_destroy(&a);
}

static ij_status no_images(const ij_list *l, const char *subset) {
  if (l->subset.n) return ij_fail(IJ_EFORMAT, "data '%s' has none of the images of subset '%s'", l->root, subset);
  if (l->blocked)
    return ij_fail(IJ_EFORMAT,
                   "data '%s' has no images but %d of formats that libvips calls unsafe (the first is '%s'); "
                   "data.untrusted_loaders=true reads them",
                   l->root, l->blocked, l->blocked_first);
  return ij_fail(IJ_EFORMAT, "data '%s' has no images (%d other file%s; .jpg, .png, .webp and the like count)", l->root,
                 l->others, ij_s(l->others));
}

ij_status ij_list_open(const char *root, const char *subset, const char *cache, bool untrusted, ij_note_fn *note_fn,
                       void *arg, ij_list **out) {
  if (!root || !*root) return ij_fail(IJ_EINVAL, "data.root is not set");
  ij_list *l = ij_calloc(1, sizeof *l);
  if (!l) return IJ_ENOMEM;
  ij_status st;
  moving_init(&l->moving);
  l->note = note_fn;
  l->arg = arg;
  l->cache = cache;
  l->untrusted = untrusted;
  l->part = subset && *subset;
  if (!(l->root = ij_strdup(root)) || !(l->base = ij_strdup(root))) {
    st = IJ_ENOMEM;
    goto failed;
  }
  if (subset && *subset) IJ_TRY_TO(failed, st, subset_load(l, subset));
  int kind = ij_path_kind(root);
  if (kind == 0) {
    st = ij_fail(IJ_EIO, "data '%s' is not there", root);
    goto failed;
  }
  if (kind == 2) IJ_TRY_TO(failed, st, list_folder(l));
  else IJ_TRY_TO(failed, st, list_file(l));
  if (kind == 2 && l->names.n == 0 && !l->subset.n) IJ_TRY_TO(failed, st, list_folder_of_tars(l));
  if (l->names.n == 0) {
    st = no_images(l, subset);
    goto failed;
  }
  IJ_TRY_TO(failed, st, ij_names_sort(&l->names));
  IJ_TRY_TO(failed, st, l->labels.n ? find_labels(l) : find_classes(l));
  ij_names_free(&l->labels);
  if (l->blocked == 1)
    note(l,
         ij_format("%s: a format that libvips calls unsafe; data.untrusted_loaders=true reads it", l->blocked_first));
  else if (l->blocked)
    note(l, ij_format("%s and %d more: formats that libvips calls unsafe; data.untrusted_loaders=true reads them",
                      l->blocked_first, l->blocked - 1));
  if (l->subset.n) subset_report(l, subset);
  ij_free(l->subset.s);
  ij_free(l->subset_text);
  ij_free(l->met);
  l->subset = (strings){0};
  l->subset_text = NULL;
  l->met = NULL;
  l->cache = NULL;
  *out = l;
  return IJ_OK;
failed:
  ij_list_free(l);
  return st;
}

static void fds_close(int *fd) {
  for (int i = 0; fd && i < FDS_KEPT; i++)
    if (fd[i] >= 0) close(fd[i]);
  ij_free(fd);
}

void ij_list_free(ij_list *l) {
  if (!l) return;
  ij_names_free(&l->names);
  ij_names_free(&l->labels);
  ij_free(l->label);
  ij_free(l->blocked_first);
  strings_free(&l->shard);
  strings_free(&l->moved);
  strings_free(&l->class);
  fds_close(l->fd);
  pthread_rwlock_destroy(&l->moving);
  ij_free(l->subset.s);
  ij_free(l->subset_text);
  ij_free(l->met);
  ij_free(l->base);
  ij_free(l->root);
  ij_free(l);
}

/* ---- the files that hold it all ---- */
const char *ij_list_root(const ij_list *l) { return l->root; }
bool ij_list_is_part(const ij_list *l) { return l->part; }
bool ij_list_is_tar(const ij_list *l) { return l->tar; }
size_t ij_list_files(const ij_list *l) { return l->tar ? l->shard.n : l->names.n; }
char *ij_list_file(ij_list *l, size_t i) {
  pthread_rwlock_rdlock(&l->moving);
  char *path = l->tar ? ij_strdup(l->shard.s[i]) : ij_format("%s/%s", l->base, ij_list_name(l, (uint32_t)i));
  pthread_rwlock_unlock(&l->moving);
  return path;
}
char *ij_list_file_name(ij_list *l, size_t i) {
  if (!l->tar) return ij_strdup(ij_list_name(l, (uint32_t)i));
  pthread_rwlock_rdlock(&l->moving);
  const char *path = l->moved.n ? l->moved.s[i] : l->shard.s[i], *slash = strrchr(l->root, '/');
  size_t folder = ij_path_kind(l->root) == 2 ? strlen(l->root) : slash ? (size_t)(slash - l->root) : 0;
  while (folder && l->root[folder - 1] == '/') folder--;
  char *name = ij_strdup(folder && !strncmp(path, l->root, folder) && path[folder] == '/' ? path + folder + 1 : path);
  pthread_rwlock_unlock(&l->moving);
  return name;
}

ij_status ij_list_home(ij_list *l, size_t i, const char *folder, char **path) {
  char real[PATH_MAX];
  char *file = l->tar ? ij_list_file(l, i) : ij_strdup(l->base); /* base: only moved by the caller */
  if (!file) return IJ_ENOMEM;
  ij_status st = realpath(file, real) ? IJ_OK : ij_fail(IJ_EIO, "'%s' could not be found: %s", file, strerror(errno));
  ij_free(file);
  IJ_TRY(st);
  *path = l->tar ? ij_format("%s%s", folder, real) : ij_format("%s%s/%s", folder, real, ij_list_name(l, (uint32_t)i));
  return *path ? IJ_OK : IJ_ENOMEM;
}

ij_status ij_list_move(ij_list *l, const char *folder) {
  strings to = {0};
  char real[PATH_MAX], *path = NULL;
  int *fd = NULL;
  ij_status st;
  if (l->tar) {
    IJ_TRY(fds_new(&fd));
    for (size_t i = 0; i < l->shard.n; i++) {
      IJ_TRY_TO(failed, st, ij_list_home(l, i, folder, &path));
      IJ_TRY_TO(failed, st, strings_add_owned(&to, path));
      if (i < FDS_KEPT) fd[i] = open(path, O_RDONLY | O_CLOEXEC);
      if (i < FDS_KEPT && fd[i] >= 0 && !may_stay_open(fd[i])) {
        close(fd[i]);
        fd[i] = -1;
      }
    }
  } else {
    if (!realpath(l->base, real)) return ij_fail(IJ_EIO, "'%s' could not be found: %s", l->base, strerror(errno));
    if (!(path = ij_format("%s%s", folder, real))) return IJ_ENOMEM;
  }
  pthread_rwlock_wrlock(&l->moving);
  if (l->tar) {
    fds_close(l->fd);
    l->fd = fd;
    strings_free(&l->moved);
    l->moved = l->shard;
    l->shard = to;
  } else {
    ij_free(l->base);
    l->base = path;
  }
  pthread_rwlock_unlock(&l->moving);
  return IJ_OK;
failed:
  fds_close(fd);
  strings_free(&to);
  return st;
}

/* ---- reading ---- */
/* Opens the file of image i, and says where in it the image lies; *kept: the descriptor stays open. */
static ij_status image_open(const ij_list *l, uint32_t i, int *fd, bool *kept, uint64_t *offset, uint64_t *size) {
  char path[2 * PATH_MAX];
  struct stat s;
  *kept = false;
  if (l->tar) {
    const char *p = ij_names_meta(&l->names, i);
    uint64_t where;
    uint32_t bytes;
    memcpy(&where, p, 8);
    memcpy(&bytes, p + 8, 4);
    size_t shard = (size_t)(where >> 40);
    *offset = where & (((uint64_t)1 << 40) - 1);
    *size = bytes;
    *kept = shard < FDS_KEPT && l->fd[shard] >= 0;
    if (*kept) *fd = l->fd[shard];
    return *kept ? IJ_OK : ij_file_open(l->shard.s[shard], fd);
  } else {
    size_t root = strlen(l->base), name = strlen(ij_list_name(l, i));
    if (root + name + 2 > sizeof path) return ij_fail(IJ_EIO, "the path is too long");
    memcpy(path, l->base, root);
    path[root] = '/';
    memcpy(path + root + 1, ij_list_name(l, i), name + 1);
    IJ_TRY(ij_file_open(path, fd)); /* does not wait for a pipe */
    *offset = 0;
  }
  if (fstat(*fd, &s) == 0 && S_ISREG(s.st_mode)) {
    *size = (uint64_t)s.st_size;
    return IJ_OK;
  }
  close(*fd);
  return ij_fail(IJ_EFORMAT, "not a file");
}

static ij_status read_locked(const ij_list *l, uint32_t i, size_t max, ij_buffer *buffer, size_t *n) {
  uint64_t offset, size;
  bool kept;
  int fd;
  IJ_TRY(image_open(l, i, &fd, &kept, &offset, &size));
  ij_status st = IJ_OK;
  if (size > max)
    st = ij_fail(IJ_EFORMAT, "file of %llu bytes is too big: data.max_bytes = %zu", (unsigned long long)size, max);
  if (st == IJ_OK && (st = ij_buffer_reserve(buffer, (size_t)size + 64)) == IJ_OK &&
      (st = ij_read_at(fd, buffer->p, (size_t)size, offset, n)) == IJ_OK && *n < size)
    st = ij_fail(IJ_EFORMAT, "truncated: %zu of %llu bytes are there", *n, (unsigned long long)size);
  if (!kept) close(fd);
  return st;
}

ij_status ij_list_read(ij_list *l, uint32_t i, size_t max, ij_buffer *buffer, size_t *n) {
  pthread_rwlock_rdlock(&l->moving);
  ij_status st = read_locked(l, i, max, buffer, n);
  pthread_rwlock_unlock(&l->moving);
  return st;
}
