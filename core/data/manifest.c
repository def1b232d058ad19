/* manifest.c: the SHA-256 of each file of a source, and what differs from a list of them. The list has sha256sum's
 * form: digest, two characters, name; before a name with a line break or backslash in it stands a backslash. */
#include "data.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 18, PROBLEMS_KEPT = 1000, DIGEST = 64 };

struct ij_manifest {
  ij_catalogue *catalogue;
  ij_list *list; /* the catalogue's */
  size_t n;
  uint8_t (*digest)[32]; /* (n) */
  uint8_t *read;         /* (n): its digest is there */
  char *text;            /* of what is expected */
  char **expected;       /* its lines, digest and name, by name; NULL: nothing is expected */
  uint8_t *met;          /* (expected_count) */
  size_t expected_count;
  ij_jobs *jobs;
  atomic_int_least64_t bytes;
  pthread_mutex_t lock; /* of what follows */
  char **problem;
  int problems_kept;
  int64_t problems;
  bool over;
  char *line;
};

static void problem(ij_manifest *m, char *text) { /* takes the text */
  pthread_mutex_lock(&m->lock);
  m->problems++;
  if (text && m->problems_kept < PROBLEMS_KEPT) m->problem[m->problems_kept++] = text;
  else ij_free(text);
  pthread_mutex_unlock(&m->lock);
}

static const char *name_in(const char *line) { return line + DIGEST + 2; }
static int by_name(const void *a, const void *b) {
  return strcmp(name_in(*(char *const *)a), name_in(*(char *const *)b));
}

/* ---- one file ---- */
static ij_status digest_of(ij_manifest *m, const char *path, ij_buffer *buffer, uint8_t out[32]) {
  ij_sha256 h;
  size_t got = CHUNK;
  struct stat s;
  IJ_TRY(ij_buffer_reserve(buffer, CHUNK));
  int fd;
  ij_status opened = ij_file_open(path, &fd);
  if (opened == IJ_EUNSUPPORTED || opened == IJ_ENOMEM) return ij_fail_in(opened, "'%s'", path);
  IJ_TRY(opened);
  if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode)) {
    close(fd);
    return ij_fail(IJ_EIO, "not a file");
  }
  ij_status st = IJ_OK;
  ij_sha256_begin(&h);
  for (uint64_t offset = 0; st == IJ_OK && got == CHUNK; offset += got) {
    st = ij_read_at(fd, buffer->p, CHUNK, offset, &got);
    if (st == IJ_OK) ij_sha256_add(&h, buffer->p, got);
    atomic_fetch_add(&m->bytes, (int64_t)got);
    if (ij_interrupted()) st = ij_fail(IJ_EINTERRUPT, "interrupted");
  }
  close(fd);
  ij_sha256_end(&h, out);
  return st;
}

static void to_hex(const uint8_t digest[32], char hex[static DIGEST + 1]) {
  for (int i = 0; i < 32; i++) {
    hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
    hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
  }
  hex[DIGEST] = 0;
}

static ij_status check_one(void *arg, size_t i, ij_buffer *buffer) {
  ij_manifest *m = arg;
  char hex[DIGEST + 1], **hit = NULL;
  char *path = ij_list_file(m->list, i), *name = ij_list_file_name(m->list, i);
  ij_status st = path && name ? IJ_OK : IJ_ENOMEM;
  if (st == IJ_OK && m->expected) {
    char *key = ij_format("%*s%s", DIGEST + 2, "", name);
    if (key) hit = bsearch(&key, m->expected, m->expected_count, sizeof *m->expected, by_name);
    else st = IJ_ENOMEM;
    ij_free(key);
    if (st == IJ_OK && !hit) {
      problem(m, ij_format("%s: not in the manifest", name));
      goto out; /* no need to read it */
    }
  }
  if (st == IJ_OK && (st = digest_of(m, path, buffer, m->digest[i])) == IJ_OK) {
    m->read[i] = 1;
    to_hex(m->digest[i], hex);
    if (hit && strncasecmp(*hit, hex, DIGEST) != 0) problem(m, ij_format("%s: differs from the manifest", name));
  } else if (st == IJ_EIO) {
    problem(m, ij_format("%s: %s", name, ij_errmsg()));
    st = IJ_OK;
  }
  if (st == IJ_OK && hit) m->met[hit - m->expected] = 1;
out:
  ij_free(path);
  ij_free(name);
  return st;
}

/* ---- the list that is expected ---- */
static bool unescape(char *s) { /* in place */
  char *to = s;
  for (; *s; s++) {
    if (*s != '\\') *to++ = *s;
    else if (*++s == 'n') *to++ = '\n';
    else if (*s == 'r') *to++ = '\r';
    else if (*s == '\\') *to++ = '\\';
    else return false;
  }
  *to = 0;
  return true;
}

static ij_status expect(ij_manifest *m, const char *path) {
  size_t lines = 1;
  IJ_TRY(ij_text_read(path, "manifest", &m->text));
  for (const char *p = m->text; (p = strchr(p, '\n')); p++) lines++;
  if (!(m->expected = ij_alloc(lines * sizeof *m->expected))) return IJ_ENOMEM;
  int number = 0;
  for (char *line = m->text, *next; line; line = next) {
    next = strchr(line, '\n');
    number++;
    if (next) *next++ = 0;
    if (!*line || *line == '#') continue;
    bool escaped = *line == '\\', good;
    line += escaped;
    good = strlen(line) > DIGEST + 2 && strspn(line, "0123456789abcdefABCDEF") == DIGEST && line[DIGEST] == ' ' &&
           (line[DIGEST + 1] == ' ' || line[DIGEST + 1] == '*');
    if (good && !strncmp(name_in(line), "./", 2)) /* as find and sha256sum write them */
      memmove(line + DIGEST + 2, line + DIGEST + 4, strlen(line + DIGEST + 4) + 1);
    if (!good || (escaped && !unescape(line + DIGEST + 2)))
      return ij_fail(IJ_EFORMAT, "manifest '%s', line %d: not a SHA-256 digest, two blanks and a name", path, number);
    m->expected[m->expected_count++] = line;
  }
  if (!m->expected_count) return ij_fail(IJ_EFORMAT, "manifest '%s' names no files", path);
  qsort(m->expected, m->expected_count, sizeof *m->expected, by_name);
  return (m->met = ij_calloc(m->expected_count, 1)) ? IJ_OK : IJ_ENOMEM;
}

/* What the manifest names and the source lacks; its other files (of a folder: those that are no images) don't count.
 */
static void find_missing(ij_manifest *m) {
  for (size_t i = 0; i < m->expected_count && !ij_list_is_part(m->list); i++) {
    const char *name = name_in(m->expected[i]);
    if (m->met[i] || (!ij_list_is_tar(m->list) && !ij_is_image_name(name, false))) continue;
    if (ij_list_is_tar(m->list) && (strlen(name) < 4 || strcasecmp(name + strlen(name) - 4, ".tar") != 0)) continue;
    bool again = i && !by_name(&m->expected[i - 1], &m->expected[i]); /* named twice: one of them is met */
    again |= i + 1 < m->expected_count && !by_name(&m->expected[i], &m->expected[i + 1]);
    if (!again) problem(m, ij_format("%s: in the manifest, but not there", name));
  }
}

/* ---- from outside ---- */
ij_status ij_manifest_open(ij_catalogue *c, int source, const char *expected, ij_manifest **out) {
  int sources = ij_catalogue_source_count(c);
  if (source < 0 || source >= sources)
    return ij_fail(IJ_EINVAL, "manifest: source %d of %d; they count from 0", source, sources);
  ij_manifest *m = ij_calloc(1, sizeof *m);
  if (!m) return IJ_ENOMEM;
  pthread_mutex_init(&m->lock, NULL);
  m->catalogue = ij_catalogue_keep(c);
  m->list = ij_catalogue_list(c, source);
  m->n = ij_list_files(m->list);
  ij_status st = IJ_ENOMEM;
  if (!(m->digest = ij_alloc(m->n * sizeof *m->digest)) || !(m->read = ij_calloc(m->n, 1)) ||
      !(m->problem = ij_alloc(PROBLEMS_KEPT * sizeof *m->problem)))
    goto failed;
  if (expected) IJ_TRY_TO(failed, st, expect(m, expected));
  int threads = ij_cpu_count() < 4 ? 4 : ij_cpu_count();
  IJ_TRY_TO(failed, st, ij_jobs_start(m->n, threads, check_one, m, &m->jobs));
  *out = m;
  return IJ_OK;
failed:
  ij_manifest_close(m);
  return st;
}

ij_status ij_manifest_wait(ij_manifest *m, double seconds, ij_progress *p) {
  bool over;
  *p = (ij_progress){.files = (int64_t)m->n};
  IJ_TRY(ij_jobs_wait(m->jobs, seconds, &over));
  p->files_done = (int64_t)ij_jobs_done(m->jobs);
  p->bytes_done = p->bytes = m->bytes;
  p->over = over;
  if (over && !m->over) find_missing(m);
  m->over |= over;
  return IJ_OK;
}

const char *ij_manifest_line(ij_manifest *m, int64_t i) {
  char hex[DIGEST + 1];
  if (i < 0 || (size_t)i >= m->n || !m->over || !m->read[i]) return NULL;
  char *name = ij_list_file_name(m->list, (size_t)i), *to, *line = NULL;
  bool escaped = name && strpbrk(name, "\\\n\r");
  to_hex(m->digest[i], hex);
  if (name) line = ij_alloc(1 + DIGEST + 2 + 2 * strlen(name) + 1);
  if (line) {
    to = line;
    if (escaped) *to++ = '\\';
    memcpy(to, hex, DIGEST);
    memcpy(to + DIGEST, "  ", 2);
    to += DIGEST + 2;
    for (const char *p = name; *p; p++) {
      bool odd = *p == '\\' || *p == '\n' || *p == '\r';
      if (odd) *to++ = '\\';
      *to++ = (char)(*p == '\n' ? 'n' : *p == '\r' ? 'r' : *p);
    }
    *to = 0;
  }
  ij_free(name);
  ij_free(m->line);
  return m->line = line;
}

int64_t ij_manifest_problems(const ij_manifest *m) { return m->over ? m->problems : 0; }
const char *ij_manifest_problem(const ij_manifest *m, int64_t i) {
  return !m->over || i < 0 || i >= m->problems_kept ? NULL : m->problem[i];
}

void ij_manifest_close(ij_manifest *m) {
  if (!m) return;
  ij_jobs_free(m->jobs);
  pthread_mutex_destroy(&m->lock);
  for (int i = 0; i < m->problems_kept; i++) ij_free(m->problem[i]);
  ij_free(m->problem);
  ij_free(m->digest);
  ij_free(m->read);
  ij_free(m->expected);
  ij_free(m->met);
  ij_free(m->text);
  ij_free(m->line);
  ij_catalogue_close(m->catalogue);
  ij_free(m);
}
