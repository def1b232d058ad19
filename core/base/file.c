/* file.c: a file that is written completely or not at all, and a second name for a file. */
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINKS = 40, NAME = 255 }; /* links in a row, as the kernel has it; bytes of a name where nothing else is known */

static ij_status not_written(const char *path) {
  return ij_fail(IJ_EIO, "file '%s' could not be written: %s", path, strerror(errno));
}

/* The number of this process's own open file that a path such as /dev/fd/1 stands for, or -1. */
static int own_fd(const char *path) {
  static const char *const folders[] = {"/proc/self/fd/", "/dev/fd/"};
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    size_t n = strlen(folders[i]);
    char *end;
    if (strncmp(path, folders[i], n) != 0 || !path[n]) continue;
    long fd = strtol(path + n, &end, 10);
    if (!*end && fd >= 0 && fd < 1 << 20) return (int)fd;
  }
  return -1;
}

/* The path that a symbolic link leads to in the end, which need not exist: path itself where it is no link. */
static ij_status follow(const char *path, char **out) {
  char *p = ij_strdup(path), to[4096];
  struct stat s;
  for (int i = 0; p && own_fd(p) < 0 && lstat(p, &s) == 0 && S_ISLNK(s.st_mode); i++) {
    ssize_t n = readlink(p, to, sizeof to - 1);
    if (i == LINKS) errno = ELOOP;
    if (n < 0 || i == LINKS) {
      ij_free(p);
      return not_written(path);
    }
    to[n] = 0;
    const char *slash = *to == '/' ? NULL : strrchr(p, '/');
    char *next = slash ? ij_format("%.*s%s", (int)(slash + 1 - p), p, to) : ij_strdup(to);
    ij_free(p);
    p = next;
  }
  *out = p;
  return p ? IJ_OK : IJ_ENOMEM;
}

/* The folder of a path: ij_free it. */
static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? ij_format("%.*s", (int)(slash == path ? 1 : slash - path), path) : ij_strdup(".");
}

char *ij_path_beside(const char *target, const char *ending) {
  const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
  char *folder = folder_of(target);
  long longest = folder ? pathconf(folder, _PC_NAME_MAX) : 0;
  ij_free(folder);
  if (!folder) return NULL;
  if (strlen(name) + strlen(ending) <= (size_t)(longest > 0 ? longest : NAME)) return ij_format("%s%s", target, ending);
  return ij_format("%.*s%016llx%s", (int)(name - target), target, (unsigned long long)ij_hash(0, name, strlen(name)),
                   ending);
}

static bool never_syncs(int error) { /* this file system, or this kind of file */
  return error == EINVAL || error == ENOSYS || error == EOPNOTSUPP || error == EROFS;
}

static void sync_folder_of(const char *path) {
  char *folder = folder_of(path);
  int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  ij_free(folder);
  if (fd < 0) return; /* some file systems refuse this; the rename has happened all the same */
  fsync(fd);
  close(fd);
}

static ij_status open_output(ij_replacement *r) {
  struct stat s;
  int own = own_fd(r->target);
  if (own == STDOUT_FILENO) fflush(stdout);
  if (own >= 0) r->fd = fcntl(own, F_DUPFD_CLOEXEC, 3);
  else if (stat(r->target, &s) == 0 && !S_ISREG(s.st_mode)) r->fd = open(r->target, O_WRONLY | O_NOCTTY | O_CLOEXEC);
  else {
    if (!(r->tmp = ij_path_beside(r->target, ".tmp"))) return IJ_ENOMEM;
    r->fd = open(r->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  }
  return r->fd < 0 ? not_written(r->path) : IJ_OK;
}

static void forget(ij_replacement *r) {
  ij_free(r->target);
  ij_free(r->tmp);
  *r = (ij_replacement){.fd = -1};
}

ij_status ij_replace_begin(ij_replacement *r, const char *path) {
  *r = (ij_replacement){.path = path, .fd = -1};
  IJ_TRY(follow(path, &r->target));
  ij_status st = open_output(r);
  if (st != IJ_OK) forget(r);
  return st;
}

ij_status ij_replace_put(ij_replacement *r, const void *bytes, size_t n) {
  for (const char *p = bytes; n;) {
    ssize_t k = write(r->fd, p, n);
    if (k < 0 && errno == EAGAIN) poll(&(struct pollfd){r->fd, POLLOUT, 0}, 1, -1); /* a pipe that others set so */
    if (k < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (k < 0) return not_written(r->path);
    p += k;
    n -= (size_t)k;
  }
  return IJ_OK;
}

ij_status ij_replace_end(ij_replacement *r, ij_status st) {
  if (st == IJ_OK && r->tmp && fsync(r->fd) != 0 && !never_syncs(errno)) st = not_written(r->path);
  if (close(r->fd) != 0 && st == IJ_OK) st = not_written(r->path);
  if (st == IJ_OK && r->tmp && rename(r->tmp, r->target) != 0) st = not_written(r->path);
  if (r->tmp && st != IJ_OK) unlink(r->tmp);
  if (r->tmp && st == IJ_OK) sync_folder_of(r->target);
  forget(r);
  return st;
}

ij_status ij_file_replace(const char *path, const void *bytes, size_t n) {
  ij_replacement r;
  IJ_TRY(ij_replace_begin(&r, path));
  return ij_replace_end(&r, ij_replace_put(&r, bytes, n));
}

static ij_status not_named(const char *path, const char *name) {
  return ij_fail(IJ_EIO, "file '%s' could not be named '%s' too: %s", path, name, strerror(errno));
}

/* Where the file system has no hard links, or the name is elsewhere. */
static ij_status copy(const char *path, const char *name) {
  enum { BYTES = 1 << 20 };
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return not_named(path, name);
  char *buffer = ij_alloc(BYTES);
  ij_replacement r;
  ij_status st = buffer ? ij_replace_begin(&r, name) : IJ_ENOMEM;
  if (st == IJ_OK) {
    ssize_t n = 0;
    while (st == IJ_OK && ((n = read(fd, buffer, BYTES)) > 0 || (n < 0 && errno == EINTR)))
      if (n > 0) st = ij_replace_put(&r, buffer, (size_t)n);
    if (st == IJ_OK && n < 0) st = not_named(path, name);
    st = ij_replace_end(&r, st);
  }
  ij_free(buffer);
  close(fd);
  return st;
}

ij_status ij_file_link(const char *path, const char *name) {
  struct stat s;
  char *target, *tmp;
  IJ_TRY(follow(name, &target));
  ij_status st = IJ_OK;
  if (own_fd(target) >= 0 || (stat(target, &s) == 0 && !S_ISREG(s.st_mode))) {
    st = copy(path, name);
  } else if (!(tmp = ij_path_beside(target, ".tmp"))) {
    st = IJ_ENOMEM;
  } else {
    unlink(tmp);
    if (linkat(AT_FDCWD, path, AT_FDCWD, tmp, AT_SYMLINK_FOLLOW) != 0) st = copy(path, name);
    else if (rename(tmp, target) != 0) st = not_named(path, name);
    else sync_folder_of(target);
    unlink(tmp); /* a rename leaves it where both names were the same file already */
    ij_free(tmp);
  }
  ij_free(target);
  return st;
}
