/* Preloaded into the program by tests: makes calls of the system fail, ends the process at one, and lists those that
 * change files. Its interface, all by the environment:
 *   IJ_FAULT="ACTION CALL N PATH"  from the N-th CALL (1: the first) on a file whose name contains PATH on: ACTION is
 *                     kill (the process ends there), ENOSPC, EIO, EPERM, ENOLCK, EMFILE, ENFILE or ENOMEM; CALL is
 * write, fsync, rename, open, pread, link or flock IJ_FAULT_LOG=FILE one line "CALL PATH" per call IJ_NO_LINK=ERRNO
 * link, linkat: fail with this number (1 EPERM, 18 EXDEV, 95 EOPNOTSUPP) IJ_NO_LOCK=ERRNO  flock and locks by fcntl
 * fail with it (37 ENOLCK, 38 ENOSYS, 95 EOPNOTSUPP) IJ_NO_SYNC=ERRNO  fsync fails with it (5 EIO, 22 EINVAL)
 *   IJ_NO_RENAME=ERRNO  rename fails with it (1 EPERM, 18 EXDEV)
 *   IJ_HOST=NAME      the name that gethostname gives
 *   IJ_NO_LIBRARY=PART  dlopen of a file whose name contains PART fails
 *   IJ_FILES=N        at most N open files: setrlimit at the start
 *   IJ_CLOCK=SECONDS  the wall clock jumps by so much each time it is read */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static atomic_int calls;

/* Whether calls of this kind fail always: errno is set then. */
static int refused(const char *variable) {
  const char *number = getenv(variable);
  if (!number || !*number) return 0;
  errno = atoi(number);
  return 1;
}

__attribute__((constructor)) static void limit_files(void) {
  const char *n = getenv("IJ_FILES");
  if (n && *n) setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)atol(n), (rlim_t)atol(n)});
}

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
  static const struct {
    const char *name;
    int number;
  } errors[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EPERM", EPERM},  {"ENOLCK", ENOLCK},
                {"EMFILE", EMFILE}, {"ENFILE", ENFILE}, {"ENOMEM", ENOMEM}};
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (!strcmp(action, errors[i].name)) errno = errors[i].number;
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
  return refused("IJ_NO_SYNC") || fault("fsync", name_of(fd, path, sizeof path)) ? -1 : plain(fd);
}

int rename(const char *from, const char *to) {
  static int (*plain)(const char *, const char *);
  if (!plain) plain = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
  return refused("IJ_NO_RENAME") || fault("rename", to) ? -1 : plain(from, to);
}

int link(const char *from, const char *to) {
  static int (*plain)(const char *, const char *);
  if (!plain) plain = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link");
  return refused("IJ_NO_LINK") || fault("link", to) ? -1 : plain(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
  static int (*plain)(int, const char *, int, const char *, int);
  if (!plain) plain = (int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat");
  return refused("IJ_NO_LINK") ? -1 : plain(a, from, b, to, flags);
}

int flock(int fd, int what) {
  static int (*plain)(int, int);
  if (!plain) plain = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  char path[4096];
  return refused("IJ_NO_LOCK") || fault("flock", name_of(fd, path, sizeof path)) ? -1 : plain(fd, what);
}

static int control(const char *symbol, int fd, int what, void *arg) {
  int (*plain)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, symbol);
  int locks = what == F_SETLK || what == F_SETLKW || what == F_OFD_SETLK || what == F_OFD_SETLKW;
  return locks && refused("IJ_NO_LOCK") ? -1 : plain(fd, what, arg);
}

int fcntl(int fd, int what, ...) {
  va_list list;
  va_start(list, what);
  void *arg = va_arg(list, void *);
  va_end(list);
  return control("fcntl", fd, what, arg);
}

int fcntl64(int fd, int what, ...) {
  va_list list;
  va_start(list, what);
  void *arg = va_arg(list, void *);
  va_end(list);
  return control("fcntl64", fd, what, arg);
}

void *dlopen(const char *file, int flags) {
  static void *(*plain)(const char *, int);
  if (!plain) plain = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
  const char *part = getenv("IJ_NO_LIBRARY");
  return plain(file && part && *part && strstr(file, part) ? "/nowhere/library.so" : file, flags);
}

int gethostname(char *name, size_t n) {
  static int (*plain)(char *, size_t);
  if (!plain) plain = (int (*)(char *, size_t))dlsym(RTLD_NEXT, "gethostname");
  const char *own = getenv("IJ_HOST");
  if (!own || !*own) return plain(name, n);
  snprintf(name, n, "%s", own);
  return 0;
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

int clock_gettime(clockid_t which, struct timespec *t) {
  static int (*plain)(clockid_t, struct timespec *);
  static atomic_long jumps;
  if (!plain) plain = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int st = plain(which, t);
  const char *jump = getenv("IJ_CLOCK");
  if (st == 0 && jump && which == CLOCK_REALTIME) t->tv_sec += atol(jump) * (atomic_fetch_add(&jumps, 1) % 7 - 3);
  return st;
}
