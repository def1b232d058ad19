/* terminal.c: what a terminal is asked. */
#include "base.h"
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

int ij_isatty(int fd) { return isatty(fd); }

int ij_terminal_size(int fd, int size[4]) {
  struct winsize w;
  if (ioctl(fd, TIOCGWINSZ, &w) != 0 || !w.ws_col || !w.ws_row) return 0;
  size[0] = w.ws_col;
  size[1] = w.ws_row;
  size[2] = w.ws_xpixel;
  size[3] = w.ws_ypixel;
  return 1;
}

int ij_terminal_width(void) {
  int size[4];
  return ij_terminal_size(STDERR_FILENO, size) ? size[0] : 80;
}

/* Collects up to n bytes, to one that is `last`. */
static int collect(int fd, char last, double until, char *answer, int n) {
  int got = 0;
  while (got < n) {
    double left = until - ij_time();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (left <= 0 || poll(&p, 1, (int)(1000 * left) + 1) <= 0 || read(fd, answer + got, 1) != 1) break;
    if (answer[got++] == last) break;
  }
  return got;
}

int ij_terminal_ask(const char *question, char last, double seconds, char *answer, int n) {
  struct termios was, raw;
  int got = 0, fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (n > 0) answer[0] = 0;
  if (fd < 0) return 0;
  /* in the background, changing the terminal would stop the program */
  if (n > 1 && tcgetpgrp(fd) == getpgrp() && tcgetattr(fd, &was) == 0) {
    raw = was;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(fd, TCSANOW, &raw) == 0) {
      size_t length = strlen(question);
      if (write(fd, question, length) == (ssize_t)length) got = collect(fd, last, ij_time() + seconds, answer, n - 1);
      answer[got] = 0;
      tcsetattr(fd, TCSANOW, &was);
    }
  }
  close(fd);
  return got;
}
