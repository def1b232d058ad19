/* copy.c: the files of all sources to a folder on a local disk, each to its real path under it. First all files
 * are checked: a copy with the size and modification time of its original is kept, and there must be space for the
 * rest. A file gets its name only when it is complete.
 *
 * folder/.ijepa-copy holds the boot id of the machine from the start of a copy until all of it is on the disk. If it is
 * found there after another boot, power may have been lost, and a file of the right size may be empty: then all files
 * are copied again. A lock on that file makes a second process wait; it ends with its process. */
#include "data.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, CHUNK = 1 << 20 };

struct ij_copy {
  ij_list *const *lists; /* (n) */
  int n;
  char *folder;
  int fd; /* of .ijepa-copy; `locked`: we hold its lock */
  bool locked, trusted, copying;
  size_t files;
  uint8_t *missing; /* (files): to be copied */
  ij_jobs *jobs;
  atomic_int_least64_t bytes, copied, blocks, count; /* of the missing: bytes, of those copied, disk space, files */
  uint64_t block;
};

/* Which list file i of all belongs to; *within: its number there. */
static ij_list *list_of(ij_copy *c, size_t i, size_t *within) {
  int k = 0;
  for (; i >= ij_list_files(c->lists[k]); k++) i -= ij_list_files(c->lists[k]);
  *within = i;
  return c->lists[k];
}

static ij_status paths(ij_copy *c, size_t i, char **from, char **to) {
  size_t within;
  ij_list *l = list_of(c, i, &within);
  *to = NULL;
  if (!(*from = ij_list_file(l, within))) return IJ_ENOMEM;
  ij_status st = ij_list_home(l, within, c->folder, to);
  if (st != IJ_OK) ij_free(*from);
  return st;
}

static bool same_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

/* Marks file i if it must be copied. One that can't be read is left to the loader, which will report it. */
static ij_status check(void *arg, size_t i, ij_buffer *buffer) {
  (void)buffer;
  ij_copy *c = arg;
  char *from, *to;
  struct stat s, t;
  IJ_TRY(paths(c, i, &from, &to));
  if (stat(from, &s) == 0 && S_ISREG(s.st_mode) &&
      !(c->trusted && stat(to, &t) == 0 && t.st_size == s.st_size && same_time(s.st_mtim, t.st_mtim))) {
    c->missing[i] = 1;
    atomic_fetch_add(&c->bytes, s.st_size);
    atomic_fetch_add(&c->blocks, (int64_t)((uint64_t)s.st_size / c->block + 1));
    atomic_fetch_add(&c->count, 1);
  }
  ij_free(from);
  ij_free(to);
  return IJ_OK;
}

static ij_status file_make(const char *path, int *fd) {
  for (int again = 0;; again++) {
    *fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (*fd >= 0) return IJ_OK;
    if (errno != ENOENT || again) return ij_fail(IJ_EIO, "copy '%s' could not be written: %s", path, strerror(errno));
    char *folder = ij_strdup(path);
    if (!folder) return IJ_ENOMEM;
    *strrchr(folder, '/') = 0;
    ij_status st = ij_mkdirs(folder);
    ij_free(folder);
    IJ_TRY(st);
  }
}

static ij_status write_all(int fd, const char *p, size_t n, const char *path) {
  while (n) {
    ssize_t k = write(fd, p, n);
    if (k < 0 && errno == EINTR) continue;
    if (k < 0) return ij_fail(IJ_EIO, "copy '%s' could not be written: %s", path, strerror(errno));
    p += k;
    n -= (size_t)k;
  }
  return IJ_OK;
}

/* from -> part, with its modification time. *there is false: it can't be read. */
static ij_status copy_bytes(ij_copy *c, const char *from, const char *part, ij_buffer *buffer, bool *there) {
  struct stat s;
  int out = -1, in = -1;
  ij_status st = ij_file_open(from, &in);
  if (st == IJ_EUNSUPPORTED || st == IJ_ENOMEM) return ij_fail_in(st, "'%s'", from);
  st = IJ_OK;
  *there = in >= 0 && fstat(in, &s) == 0;
  if (!*there) goto out;
  IJ_TRY_TO(out, st, ij_buffer_reserve(buffer, CHUNK));
  IJ_TRY_TO(out, st, file_make(part, &out));
  size_t got = CHUNK;
  uint64_t offset = 0;
  for (; got == CHUNK; offset += got) {
    if (ij_interrupted()) IJ_TRY_TO(out, st, ij_fail(IJ_EINTERRUPT, "interrupted"));
    if (ij_read_at(in, buffer->p, CHUNK, offset, &got) != IJ_OK) {
      *there = false;
      goto out;
    }
    IJ_TRY_TO(out, st, write_all(out, buffer->p, got, part));
    atomic_fetch_add(&c->copied, (int64_t)got);
  }
  if (offset != (uint64_t)s.st_size) st = ij_fail(IJ_EIO, "'%s' changed while it was copied", from);
  else if (futimens(out, (struct timespec[2]){s.st_atim, s.st_mtim}) != 0)
    st = ij_fail(IJ_EIO, "copy '%s': its time could not be set: %s", part, strerror(errno));
out:
  if (in >= 0) close(in);
  if (out >= 0 && close(out) != 0 && st == IJ_OK)
    st = ij_fail(IJ_EIO, "copy '%s' could not be written: %s", part, strerror(errno));
  if (out >= 0 && (st != IJ_OK || !*there)) unlink(part);
  return st;
}

static ij_status copy_one(void *arg, size_t i, ij_buffer *buffer) {
  ij_copy *c = arg;
  char *from, *to, *part;
  bool there = false;
  if (!c->missing[i]) return IJ_OK;
  IJ_TRY(paths(c, i, &from, &to));
  ij_status st = IJ_ENOMEM;
  if ((part = ij_path_beside(to, ".part"))) st = copy_bytes(c, from, part, buffer, &there);
  if (st == IJ_OK && there && rename(part, to) != 0)
    st = ij_fail(IJ_EIO, "copy '%s' could not be written: %s", to, strerror(errno));
  ij_free(from);
  ij_free(to);
  ij_free(part);
  return st;
}

static ij_status check_space(ij_copy *c) {
  struct statvfs v;
  if (fstatvfs(c->fd, &v) != 0) return IJ_OK; /* then a write will fail */
  uint64_t want = (uint64_t)c->blocks * c->block, have = (uint64_t)v.f_bavail * v.f_frsize;
  if (want > have)
    return ij_fail(
        IJ_EIO, "data.copy '%s': %.2f GB are to be copied, %.2f GB are free there; free space or leave out data.copy",
        c->folder, 1e-9 * (double)want, 1e-9 * (double)have);
  if (v.f_files && (uint64_t)c->count > v.f_favail)
    return ij_fail(IJ_EIO, "data.copy '%s': %lld file%s to be copied, the file system can hold %llu more; use tars",
                   c->folder, (long long)c->count, c->count == 1 ? " is" : "s are", (unsigned long long)v.f_favail);
  return IJ_OK;
}

static void boot_id(char id[40]) {
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, id, 36);
  id[n > 0 ? n : 0] = 0;
  if (n <= 0) strcpy(id, "unknown");
  if (fd >= 0) close(fd);
}

/* Takes the lock, when it is free, and starts the check. */
static ij_status begin(ij_copy *c) {
  char id[40], old[40] = {0};
  if (flock(c->fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK || errno == EINTR) return IJ_OK;
    return ij_fail(IJ_EIO, "data.copy '%s' could not be locked: %s", c->folder, strerror(errno));
  }
  c->locked = true;
  boot_id(id);
  ssize_t n = pread(c->fd, old, sizeof old - 1, 0);
  c->trusted = n == 0 || (n > 0 && !strcmp(old, id));
  struct statvfs v;
  c->block = fstatvfs(c->fd, &v) == 0 && v.f_frsize ? v.f_frsize : 4096;
  return ij_jobs_start(c->files, THREADS, check, c, &c->jobs);
}

static ij_status begin_copying(ij_copy *c) {
  char id[40];
  IJ_TRY(check_space(c));
  if (c->count && c->trusted) { /* otherwise the old id stays until all is complete */
    boot_id(id);
    if (pwrite(c->fd, id, strlen(id), 0) < 0 || fsync(c->fd) != 0)
      return ij_fail(IJ_EIO, "data.copy '%s' could not be written: %s", c->folder, strerror(errno));
  }
  ij_jobs_free(c->jobs);
  c->jobs = NULL;
  c->copying = true;
  return ij_jobs_start(c->files, THREADS, copy_one, c, &c->jobs);
}

static ij_status finish(ij_copy *c) {
  if (c->count && (syncfs(c->fd) != 0 || ftruncate(c->fd, 0) != 0))
    return ij_fail(IJ_EIO, "data.copy '%s' could not be written: %s", c->folder, strerror(errno));
  for (int k = 0; k < c->n; k++) IJ_TRY(ij_list_move(c->lists[k], c->folder));
  return IJ_OK;
}

ij_status ij_copy_start(ij_list *const *lists, int n, const char *folder, ij_copy **out) {
  char real[PATH_MAX];
  char *mark = NULL;
  ij_copy *c = ij_calloc(1, sizeof *c);
  if (!c) return IJ_ENOMEM;
  ij_status st;
  c->fd = -1;
  c->lists = lists;
  c->n = n;
  IJ_TRY_TO(failed, st, ij_mkdirs(folder));
  if (!realpath(folder, real))
    IJ_TRY_TO(failed, st, ij_fail(IJ_EIO, "data.copy '%s' could not be found: %s", folder, strerror(errno)));
  for (int k = 0; k < n; k++) {
    char *root = realpath(ij_list_root(lists[k]), NULL);
    size_t length = root ? strlen(root) : 0;
    bool inside = length && !strncmp(real, root, length) && (real[length] == '/' || !real[length]);
    (free)(root);
    if (inside)
      IJ_TRY_TO(failed, st,
                ij_fail(IJ_EINVAL, "data.copy '%s' lies in the data itself, '%s'", folder, ij_list_root(lists[k])));
    c->files += ij_list_files(lists[k]);
  }
  st = IJ_ENOMEM;
  if (!(c->folder = ij_strdup(strcmp(real, "/") ? real : "")) || !(c->missing = ij_calloc(c->files, 1)) ||
      !(mark = ij_format("%s/.ijepa-copy", c->folder)))
    goto failed;
  if ((c->fd = open(mark, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) < 0)
    IJ_TRY_TO(failed, st, ij_fail(IJ_EIO, "data.copy '%s' could not be written: %s", folder, strerror(errno)));
  ij_free(mark);
  *out = c;
  return IJ_OK;
failed:
  ij_free(mark);
  ij_copy_free(c);
  return st;
}

ij_status ij_copy_wait(ij_copy *c, double seconds, ij_progress *p) {
  double end = ij_time() + seconds;
  bool over = false;
  *p = (ij_progress){.files = (int64_t)c->files};
  while (!c->locked) {
    IJ_TRY(begin(c));
    if (c->locked) break;
    if (ij_interrupted()) return ij_fail(IJ_EINTERRUPT, "interrupted");
    if (ij_time() > end) return IJ_OK;
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
  }
  if (!c->copying) {
    IJ_TRY(ij_jobs_wait(c->jobs, end - ij_time(), &over));
    if (over) IJ_TRY(begin_copying(c));
  }
  if (c->copying) {
    IJ_TRY(ij_jobs_wait(c->jobs, end - ij_time(), &over));
    if (over) IJ_TRY(finish(c));
    p->over = over;
    p->files_done = (int64_t)ij_jobs_done(c->jobs);
  }
  p->bytes = c->bytes;
  p->bytes_done = c->copied;
  return IJ_OK;
}

void ij_copy_free(ij_copy *c) {
  if (!c) return;
  ij_jobs_free(c->jobs);
  if (c->fd >= 0) close(c->fd);
  ij_free(c->missing);
  ij_free(c->folder);
  ij_free(c);
}
