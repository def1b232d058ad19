/* Bytes through sockets that never block longer than a tick, so that a lost process or the end of patience is noticed.
 */
#include "dist.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TICK = 100 }; /* milliseconds */

static void tune(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  fcntl(fd, F_SETFL, O_NONBLOCK);
}

int ij_net_listen(int port, uint16_t *got) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_ANY)}};
  socklen_t n = sizeof a;
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (struct sockaddr *)&a, n) || listen(fd, 1024) || getsockname(fd, (struct sockaddr *)&a, &n)) {
    close(fd);
    return -1;
  }
  *got = ntohs(a.sin_port);
  return fd;
}

int ij_net_accept(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (fd >= 0) tune(fd);
  return fd;
}

int ij_net_connect(uint32_t address, uint16_t port, double seconds) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {address}};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
  socklen_t n = sizeof error;
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
    struct pollfd p = {fd, POLLOUT, 0};
    if (errno != EINPROGRESS || poll(&p, 1, (int)(1000 * seconds)) != 1 ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) || error) {
      close(fd);
      return -1;
    }
  }
  tune(fd);
  return fd;
}

/* What a call of send or recv gave: bytes moved (0: none now) or -1: the connection has ended. */
static ssize_t moved(ssize_t n, bool in) {
  if (n > 0) return n;
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  return n < 0 || in ? -1 : 0;
}

ij_status ij_net_exchange(ij_dist *d, int out, const void *p, size_t n, int in, void *q, size_t m, double until) {
  const char *from = p;
  char *to = q;
  while (n || m) {
    struct pollfd f[2] = {{n ? out : -1, POLLOUT, 0}, {m ? in : -1, POLLIN, 0}};
    if (ij_watch_lost(d)) return ij_watch_fail(d);
    if (poll(f, 2, TICK) <= 0) {
      if (ij_time() > until) return ij_watch_late(d);
      continue;
    }
    ssize_t k = n && f[0].revents ? moved(send(out, from, n, MSG_NOSIGNAL), false) : 0;
    ssize_t l = m && f[1].revents ? moved(recv(in, to, m, 0), true) : 0;
    if (k < 0 || l < 0) return ij_watch_fail(d);
    from += k;
    n -= (size_t)k;
    to += l;
    m -= (size_t)l;
  }
  return IJ_OK;
}
ij_status ij_net_send(ij_dist *d, int fd, const void *p, size_t n, double until) {
  return ij_net_exchange(d, fd, p, n, -1, NULL, 0, until);
}
ij_status ij_net_receive(ij_dist *d, int fd, void *p, size_t n, double until) {
  return ij_net_exchange(d, -1, NULL, 0, fd, p, n, until);
}
