#include "base.h"
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

double ij_time(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int ij_cpu_count(void) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* The flags of signals belong to the process, as signals do. */
static volatile sig_atomic_t interrupted, save_asked;
static void on_interrupt(int sig) { interrupted = sig; }
static void on_save(int sig) {
  (void)sig;
  save_asked = 1;
}
/* While oneDNN's kernels run, the stack pointer may point into their buffers, and a handler on that stack would write
 * over what lies below: handlers get a stack of their own, a thread's for good. */
void ij_signal_stack(void) {
  static _Thread_local unsigned char stack[1 << 16];
  stack_t own = {.ss_sp = stack, .ss_size = sizeof stack}, has;
  if (sigaltstack(NULL, &has) == 0 && has.ss_flags & SS_DISABLE) sigaltstack(&own, NULL);
}

/* A handler that does nothing: unlike SIG_IGN, programs that we start don't inherit it. */
static void on_pipe(int sig) { (void)sig; }
void ij_pipe_ignore(void) {
  struct sigaction a = {.sa_handler = on_pipe, .sa_flags = SA_RESTART | SA_ONSTACK}, before;
  if (sigaction(SIGPIPE, NULL, &before) == 0 && before.sa_handler == SIG_DFL) sigaction(SIGPIPE, &a, NULL);
}

void ij_interrupt_install(void) {
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
  struct sigaction a = {.sa_handler = on_interrupt};
  struct sigaction save = {.sa_handler = on_save, .sa_flags = SA_RESTART | SA_ONSTACK}, before;
  ij_signal_stack();
  ij_pipe_ignore();
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) { /* what nohup ignores stays so */
    /* a second Ctrl-C ends it the hard way; job systems repeat SIGTERM while a run saves, and send SIGKILL last; a
     * terminal that closes sends SIGHUP twice, by the shell and by the kernel */
    a.sa_flags = SA_RESTART | SA_ONSTACK | (signals[i] == SIGINT ? (int)SA_RESETHAND : 0);
    if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(signals[i], &a, NULL);
  }
  sigaction(SIGUSR1, &save, NULL);
}
int ij_interrupted(void) { return interrupted; }
void ij_interrupt_set(int on) { interrupted = on ? SIGINT : 0; }
int ij_save_asked(void) {
  int asked = save_asked;
  if (asked) save_asked = 0;
  return asked;
}

int ij_path_kind(const char *path) {
  struct stat s;
  if (stat(path, &s) != 0) return 0;
  return S_ISREG(s.st_mode) ? 1 : S_ISDIR(s.st_mode) ? 2 : 3;
}

int ij_path_link(const char *path, char *to, int n) {
  ssize_t length = n > 0 ? readlink(path, to, (size_t)n) : 0;
  return length > 0 ? (int)length : 0;
}

double ij_path_time(const char *path) {
  struct stat s;
  return stat(path, &s) == 0 ? (double)s.st_mtim.tv_sec + (double)s.st_mtim.tv_nsec * 1e-9 : 0;
}

double ij_clock(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

ij_status ij_mkdirs(const char *path) {
  char *p = ij_strdup(path);
  if (!p) return IJ_ENOMEM;
  ij_status st = IJ_OK;
  for (char *slash = p + (*p == '/');; slash++) {
    slash = strchr(slash, '/');
    if (slash) *slash = 0;
    if (*p && mkdir(p, 0777) != 0 && (errno != EEXIST || ij_path_kind(p) != 2)) {
      st = ij_fail(IJ_EIO, "folder '%s' could not be made: %s", p, strerror(errno == EEXIST ? ENOTDIR : errno));
      break;
    }
    if (!slash) break;
    *slash = '/';
  }
  ij_free(p);
  return st;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

ij_status ij_dir_list(const char *path, char **names) {
  ij_status st = IJ_OK;
  size_t n = 0, cap = 0, bytes = 1;
  char **list = NULL;
  *names = NULL;
  DIR *dir = opendir(path);
  if (!dir) return ij_fail(IJ_EIO, "folder '%s' could not be read: %s", path, strerror(errno));
  for (struct dirent *e; (e = readdir(dir));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    if (n == cap) {
      cap = cap ? 2 * cap : 64;
      char **more = ij_realloc(list, cap * sizeof *list);
      if (!more) {
        st = IJ_ENOMEM;
        goto out;
      }
      list = more;
    }
    if (!(list[n] = ij_strdup(e->d_name))) {
      st = IJ_ENOMEM;
      goto out;
    }
    bytes += strlen(list[n++]) + 1;
  }
  if (n) qsort(list, n, sizeof *list, by_name);
  char *text = ij_alloc(bytes), *end = text;
  if (!text) {
    st = IJ_ENOMEM;
    goto out;
  }
  for (size_t i = 0; i < n; i++) end += sprintf(end, "%s\n", list[i]);
  *end = 0;
  *names = text;
out:
  for (size_t i = 0; i < n; i++) ij_free(list[i]);
  ij_free(list);
  closedir(dir);
  return st;
}

void ij_bytes_free(void *p) { ij_free(p); }
