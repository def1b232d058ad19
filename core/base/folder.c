/* folder.c: what the file system of a folder can do. */
#include "base.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static bool syncs_folder(const char *folder) {
  int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool works = fd >= 0 && fsync(fd) == 0;
  if (fd >= 0) close(fd);
  return works;
}

/* On the open file fd, of this name; other: a second name. */
static int probe(int fd, const char *name, const char *other, const char *folder) {
  int can = 0;
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) can |= IJ_FOLDER_LOCKS;
  if (fsync(fd) == 0 && syncs_folder(folder)) can |= IJ_FOLDER_SYNC;
  if (link(name, other) == 0 && unlink(other) == 0) can |= IJ_FOLDER_LINKS;
  if (rename(name, other) == 0) can |= IJ_FOLDER_RENAME;
  return can;
}

ij_status ij_folder_can(const char *folder, int *can) {
  *can = 0;
  char *name = ij_format("%s/.ijepa-check-%ld", folder, (long)getpid());
  char *other = name ? ij_format("%s-2", name) : NULL;
  ij_status st = other ? IJ_OK : IJ_ENOMEM;
  if (other) {
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, "ijepa", 5) != 5)
      st = ij_fail(IJ_EIO, "folder '%s' can't be written: %s", folder, strerror(errno));
    else *can = probe(fd, name, other, folder);
    if (fd >= 0) close(fd);
    unlink(name);
    unlink(other);
  }
  ij_free(name);
  ij_free(other);
  return st;
}
