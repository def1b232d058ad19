#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

struct ij_lock {
  int fd;
};

ij_status ij_lock_take(const char *path, ij_lock **out) {
  char text[32] = "";
  *out = NULL;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) return ij_fail(IJ_EIO, "lock '%s' could not be made: %s", path, strerror(errno));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) { /* of this open file: the kernel drops it when its process ends */
    ij_status st;
    if (errno == EWOULDBLOCK) {
      ssize_t n = read(fd, text, sizeof text - 1);
      text[n > 0 ? n : 0] = 0;
      st = ij_fail(IJ_EINVAL, "lock '%s' is held by process %ld", path, strtol(text, NULL, 10));
    } else {
      st = ij_fail(IJ_EIO, "lock '%s' could not be taken: %s", path, strerror(errno));
    }
    close(fd);
    return st;
  }
  ij_lock *l = ij_calloc(1, sizeof *l);
  if (!l) {
    close(fd);
    return IJ_ENOMEM;
  }
  l->fd = fd;
  int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
  if (ftruncate(fd, 0) != 0 || write(fd, text, (size_t)n) != n) { /* only for messages: who holds the lock */
  }
  *out = l;
  return IJ_OK;
}

void ij_lock_drop(ij_lock *lock) {
  if (!lock) return;
  close(lock->fd);
  ij_free(lock);
}

ij_status ij_file_link(const char *path, const char *name) {
  char *tmp = ij_format("%s.tmp", name);
  if (!tmp) return IJ_ENOMEM;
  unlink(tmp);
  ij_status st = IJ_OK;
  if (link(path, tmp) != 0 || rename(tmp, name) != 0) {
    st = ij_fail(IJ_EIO, "file '%s' could not be named '%s' too: %s", path, name, strerror(errno));
    unlink(tmp);
  }
  ij_free(tmp);
  return st;
}
