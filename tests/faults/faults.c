/* Preloaded into the program by test_faults.lua: fails, or ends the process, at the n-th call that changes a file, and
 * lists these calls. IJ_FAULT="ACTION CALL N PATH": ACTION is kill, ENOSPC, EIO, EPERM or ENOLCK; CALL write, fsync,
 * rename, open, pread, link, flock; PATH a part of the file's name. IJ_FAULT_LOG=FILE: a line a call. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int calls;

static const char *name_of(int fd, char *path, size_t n) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t k = readlink(link, path, n - 1);
  path[k > 0 ? k : 0] = 0;
  return path;
}

/* 0: go on; else errno is set. */
static int fault(const char *call, const char *path) {
  const char *text = getenv("IJ_FAULT"), *log = getenv("IJ_FAULT_LOG");
  if (log) {
    ssize_t (*plain)(int, const void *, size_t) = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int (*plain_open)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    char line[4200];
    int fd = plain_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    int n = snprintf(line, sizeof line, "%s %s\n", call, path);
    if (fd >= 0 && plain(fd, line, (size_t)n) < 0) abort();
    if (fd >= 0) close(fd);
  }
  char action[16], which[16], part[256];
  int at;
  if (!text || sscanf(text, "%15s %15s %d %255s", action, which, &at, part) != 4) return 0;
  if (strcmp(call, which) || !strstr(path, part) || atomic_fetch_add(&calls, 1) + 1 < at) return 0;
  if (!strcmp(action, "kill")) { raise(SIGKILL); }
  errno = !strcmp(action, "EIO") ? EIO : !strcmp(action, "EPERM") ? EPERM : !strcmp(action, "ENOLCK") ? ENOLCK : ENOSPC;
  return -1;
}

ssize_t write(int fd, const void *bytes, size_t n) {
  static ssize_t (*plain)(int, const void *, size_t);
  if (!plain) plain = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  char path[4096];
  name_of(fd, path, sizeof path);
  if (path[0] == '/' && strncmp(path, "/dev/", 5) && fault("write", path)) {
    int why = errno;
    if (n > 1 && plain(fd, bytes, n / 2) < 0) errno = why; /* half of it got there */
    errno = why;
    return -1;
  }
  return plain(fd, bytes, n);
}

int fsync(int fd) {
  static int (*plain)(int);
  if (!plain) plain = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  char path[4096];
  return fault("fsync", name_of(fd, path, sizeof path)) ? -1 : plain(fd);
}

int rename(const char *from, const char *to) {
  static int (*plain)(const char *, const char *);
  if (!plain) plain = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
  return fault("rename", to) ? -1 : plain(from, to);
}

int link(const char *from, const char *to) {
  static int (*plain)(const char *, const char *);
  if (!plain) plain = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link");
  return fault("link", to) ? -1 : plain(from, to);
}

int flock(int fd, int how) {
  static int (*plain)(int, int);
  if (!plain) plain = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  char path[4096];
  return fault("flock", name_of(fd, path, sizeof path)) ? -1 : plain(fd, how);
}

int open(const char *path, int flags, ...) {
  static int (*plain)(const char *, int, ...);
  if (!plain) plain = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
  va_list list;
  va_start(list, flags);
  int mode = flags & O_CREAT ? va_arg(list, int) : 0;
  va_end(list);
  if (fault("open", path)) return -1;
  return plain(path, flags, mode);
}

ssize_t pread(int fd, void *bytes, size_t n, off_t at) { /* changes no file: looked at only where it is to fail */
  static ssize_t (*plain)(int, void *, size_t, off_t);
  if (!plain) plain = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
  const char *text = getenv("IJ_FAULT");
  char path[4096];
  if (text && strstr(text, " pread ") && fault("pread", name_of(fd, path, sizeof path))) return -1;
  return plain(fd, bytes, n, at);
}

int clock_gettime(clockid_t which,
                  struct timespec *t) { /* IJ_CLOCK=SECONDS: the wall clock jumps by so much each time */
  static int (*plain)(clockid_t, struct timespec *);
  static atomic_long jumps;
  if (!plain) plain = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int st = plain(which, t);
  const char *jump = getenv("IJ_CLOCK");
  if (st == 0 && jump && which == CLOCK_REALTIME) t->tv_sec += atol(jump) * (atomic_fetch_add(&jumps, 1) % 7 - 3);
  return st;
}
