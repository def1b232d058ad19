/* lock.c: one run per folder. The kernel's lock where the file system has it; else a file that names the host and the
 * process, PATH.held. */
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct ij_lock {
  int fd;
  char *path;
  char *file; /* PATH.held, or NULL with the kernel's lock */
  char note[400];
};

static ij_status not_made(const char *path) {
  return ij_fail(IJ_EIO, "lock '%s' could not be made: %s", path, strerror(errno));
}

/* ---- who holds a lock by a file */

typedef struct owner {
  long process;               /* 0: the file names none */
  unsigned long long started; /* in ticks since the machine started; tells a process from a later one of its number */
  char host[256], since[32];
} owner;

static const char *own_host(char *buffer, size_t n) {
  if (gethostname(buffer, n - 1) != 0 || !*buffer) snprintf(buffer, n, "localhost");
  buffer[n - 1] = 0;
  return buffer;
}

/* When a process of this machine started; 0: unknown. */
static unsigned long long start_of(long process) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%ld/stat", process);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  char *p = strrchr(text, ')'); /* field 2, the name, may hold anything; the time is field 22 */
  for (int field = 2; p && field < 22; field++) p = strchr(p + 1, ' ');
  return p ? strtoull(p, NULL, 10) : 0;
}

/* Reads who holds it. False where there is no such file; one that was made this moment may still be empty. */
static bool read_owner(const char *file, owner *o) {
  for (int tries = 0; tries < 20; tries++) {
    char text[512];
    *o = (owner){0};
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno != ENOENT;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    if (sscanf(text, "process %ld on host %255s since %31[^(](%llu)", &o->process, o->host, o->since, &o->started) >= 2)
      break;
    o->process = 0;
    usleep(50000);
  }
  size_t n = strlen(o->since);
  while (n && (o->since[n - 1] == ' ' || o->since[n - 1] == '\n')) o->since[--n] = 0;
  return true;
}

/* Its process was of this host and is gone. */
static bool is_stale(const owner *o) {
  char host[256];
  if (o->process <= 0 || strcmp(o->host, own_host(host, sizeof host)) != 0) return false;
  if (kill((pid_t)o->process, 0) != 0 && errno == ESRCH) return true;
  unsigned long long started = start_of(o->process);
  return started && o->started && started != o->started;
}

static ij_status held_by(const char *file, const owner *o) {
  if (!o->process)
    return ij_fail(IJ_EINVAL, "file '%s' marks a run that it does not name; if no run works here, remove this file",
                   file);
  return ij_fail(IJ_EINVAL,
                 "file '%s' is held by process %ld on host '%s' since %s; if that process no longer runs, remove this "
                 "file",
                 file, o->process, o->host, *o->since ? o->since : "an unknown time");
}

/* ---- the file */

static ij_status make_file(const char *file, bool *exists) {
  char text[400], host[256], since[32];
  time_t now = time(NULL);
  struct tm t;
  *exists = false;
  strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", localtime_r(&now, &t));
  int n = snprintf(text, sizeof text, "process %ld on host %s since %s (%llu)\n", (long)getpid(),
                   own_host(host, sizeof host), since, start_of((long)getpid()));
  int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) {
    *exists = errno == EEXIST;
    return not_made(file);
  }
  ssize_t written = write(fd, text, (size_t)n);
  if (written >= 0 && written < n) errno = ENOSPC;
  ij_status st = written == n ? IJ_OK : not_made(file);
  if (close(fd) != 0 && st == IJ_OK) st = not_made(file);
  if (st != IJ_OK) unlink(file);
  return st;
}

/* Removes a stale file. Of several processes that find it, the one that makes FILE.over does so; it checks once more,
 * for the file may be another's by now. */
static ij_status remove_stale(const char *file) {
  enum { OLD = 60 }; /* seconds after which the file of one that was killed here counts no more */
  owner o;
  struct stat s;
  ij_status st = IJ_OK;
  char *over = ij_format("%s.over", file);
  if (!over) return IJ_ENOMEM;
  if (stat(over, &s) == 0 && time(NULL) - s.st_mtime > OLD) unlink(over);
  int fd = open(over, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0 && errno != EEXIST) st = not_made(file);
  else if (fd < 0) usleep(50000);
  else {
    close(fd);
    if (read_owner(file, &o) && is_stale(&o) && unlink(file) != 0 && errno != ENOENT) st = not_made(file);
    unlink(over);
  }
  ij_free(over);
  return st;
}

/* Nobody else holds `file`; make: it is ours then. */
static ij_status take_file(const char *file, bool make) {
  ij_status st = IJ_OK;
  for (int tries = 0; tries < 100; tries++) {
    owner o;
    bool exists = false;
    if (make && ((st = make_file(file, &exists)) == IJ_OK || !exists)) return st;
    if (!read_owner(file, &o)) {
      if (!make) return IJ_OK;
      continue;
    }
    if (!is_stale(&o)) return held_by(file, &o);
    IJ_TRY(remove_stale(file));
  }
  return ij_fail(IJ_EIO, "lock '%s' could not be taken: other processes take it over", file);
}

/* ---- the lock */

static bool has_no_locks(int error) { /* of flock, on this file system */
  return error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL || error == EPERM;
}

/* The process that an open lock names; 0: none. */
static long process_in(int fd) {
  char text[32] = "";
  ssize_t n = pread(fd, text, sizeof text - 1, 0);
  text[n > 0 ? n : 0] = 0;
  return strtol(text, NULL, 10);
}

static ij_status held_by_kernel(const char *path, int fd) {
  long process = process_in(fd);
  if (process <= 0) return ij_fail(IJ_EINVAL, "lock '%s' is held by another process", path);
  return ij_fail(IJ_EINVAL, "lock '%s' is held by process %ld", path, process);
}

/* With l->fd open on path. l->file: PATH.held, which stays only where it is ours to remove. */
static ij_status take(const char *path, ij_lock *l) {
  int failed;
  do failed = flock(l->fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno; /* the kernel drops it when this process ends */
  while (failed == EINTR);
  if (failed == EWOULDBLOCK) return held_by_kernel(path, l->fd);
  if (failed && !has_no_locks(failed))
    return ij_fail(IJ_EIO, "lock '%s' could not be taken: %s", path, strerror(failed));
  char *file = ij_format("%s.held", path);
  if (!file) return IJ_ENOMEM;
  ij_status st = take_file(file, failed != 0); /* with the kernel's lock too: another host may have none */
  if (st != IJ_OK || !failed) {
    ij_free(file);
    return st;
  }
  l->file = file;
  snprintf(l->note, sizeof l->note,
           "this file system has no locks (flock: %s): file '%s' marks this run instead, and is removed at its end",
           strerror(failed), file);
  return IJ_OK;
}

ij_status ij_lock_take(const char *path, ij_lock **out) {
  char text[32];
  *out = NULL;
  ij_lock *l = ij_calloc(1, sizeof *l);
  if (!l) return IJ_ENOMEM;
  l->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  ij_status st = l->fd < 0 ? not_made(path) : (l->path = ij_strdup(path)) ? take(path, l) : IJ_ENOMEM;
  if (st != IJ_OK) {
    if (l->fd >= 0) close(l->fd);
    ij_free(l->path);
    ij_free(l);
    return st;
  }
  int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
  if (ftruncate(l->fd, 0) != 0 || write(l->fd, text, (size_t)n) != n) { /* only for messages: who holds the lock */
  }
  *out = l;
  return IJ_OK;
}

ij_status ij_lock_check(const ij_lock *lock) {
  int fd = open(lock->path, O_RDONLY | O_CLOEXEC);
  long process = fd < 0 ? 0 : process_in(fd);
  if (fd >= 0) close(fd);
  if (process <= 0 || process == getpid()) return IJ_OK; /* also where it was removed, but nobody else came */
  return ij_fail(IJ_EINVAL, "lock '%s' was taken by process %ld: its folder was moved, or the lock removed", lock->path,
                 process);
}

const char *ij_lock_note(const ij_lock *lock) { return lock->note; }

void ij_lock_drop(ij_lock *lock) {
  if (!lock) return;
  if (lock->file) unlink(lock->file);
  ij_free(lock->file);
  ij_free(lock->path);
  close(lock->fd);
  ij_free(lock);
}
