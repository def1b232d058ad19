/* The star: each process has two connections to process 0, one for small values of the callers (talk), one for the
 * watchers (watch). A training step needs one such exchange. */
#include "dist.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct hello {
  char magic[8];
  uint64_t token;
  int32_t rank, size, watch, pid;
  char host[64], version[16];
} hello;
static const char magic[8] = "ijepa 1";
enum { PATIENCE = 5 }; /* seconds to wait for the other's hello */

static hello greet(const ij_dist *d, int watch) {
  hello h = {.token = d->token, .rank = d->rank, .size = d->size, .watch = watch, .pid = (int32_t)getpid()};
  memcpy(h.magic, magic, sizeof magic);
  gethostname(h.host, sizeof h.host - 1);
  snprintf(h.version, sizeof h.version, "%s", ij_version());
  return h;
}
static bool is_ours(const ij_dist *d, const hello *h) {
  return !memcmp(h->magic, magic, sizeof magic) && h->token == d->token && h->size == d->size;
}

int ij_star_addresses(uint32_t address[IJ_ADDRESSES]) {
  struct ifaddrs *all;
  int n = 0;
  if (getifaddrs(&all) != 0) return 0;
  for (int loop = 0; loop < 2; loop++) /* the machine's own last */
    for (struct ifaddrs *i = all; i && n < IJ_ADDRESSES; i = i->ifa_next)
      if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && i->ifa_flags & IFF_UP &&
          !(i->ifa_flags & IFF_LOOPBACK) == !loop)
        address[n++] = ((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr;
  freeifaddrs(all);
  return n;
}

/* The numbers of the processes that have not connected, as "1, 2, ..."; returns how many. */
static int missing_processes(const ij_dist *d, char *list, size_t n) {
  enum { SHOWN = 12 };
  int missing = 0;
  *list = 0;
  for (int r = 1; r < d->size; r++) {
    if (d->peer[r].talk >= 0 && d->peer[r].watch >= 0) continue;
    size_t length = strlen(list);
    if (missing++ < SHOWN) snprintf(list + length, n - length, "%s%d", length ? ", " : "", r);
  }
  size_t length = strlen(list);
  if (missing > SHOWN) snprintf(list + length, n - length, ", ...");
  return missing;
}

void ij_star_waits(const ij_dist *d, double began, bool patient, bool *said, const char *who) {
  enum { PATIENCE_QUIET = 10 };
  char limit[60] = "", alone[120] = "";
  if (*said || ij_time() - began < PATIENCE_QUIET) return;
  *said = true;
  if (!patient) snprintf(limit, sizeof limit, ", up to %g second%s (dist.timeout)", d->timeout, ij_s(d->timeout));
  if (d->by)
    snprintf(alone, sizeof alone, "; %s=%d made it one of several: IJEPA_DIST=none runs it alone", d->by, d->size);
  fprintf(stderr, "ijepa: process %d of %d waits for %s%s%s\n", d->rank, d->size, who, limit, alone);
}

static void take(ij_dist *d, int fd) {
  hello h, own = greet(d, 0);
  if (ij_net_receive(d, fd, &h, sizeof h, ij_time() + PATIENCE) != IJ_OK || !is_ours(d, &h) || h.rank < 1 ||
      h.rank >= d->size || ij_net_send(d, fd, &own, sizeof own, ij_time() + PATIENCE) != IJ_OK) {
    close(fd); /* not of this job */
    return;
  }
  ij_peer *p = &d->peer[h.rank];
  int *connection = h.watch ? &p->watch : &p->talk;
  if (*connection >= 0) close(*connection); /* it gave up waiting for our answer, and tries again */
  *connection = fd;
  p->pid = h.pid;
  h.host[sizeof h.host - 1] = 0;
  snprintf(p->host, sizeof p->host, "%s", h.host);
}

static bool all_connected(const ij_dist *d) {
  for (int r = 1; r < d->size; r++)
    if (d->peer[r].talk < 0 || d->peer[r].watch < 0) return false;
  return true;
}

static ij_status receive_all(ij_dist *d, double until) {
  double began = ij_time();
  char list[120], who[300], host[64] = "";
  bool said = false;
  gethostname(host, sizeof host - 1);
  while (!all_connected(d)) {
    int missing = missing_processes(d, list, sizeof list);
    snprintf(who, sizeof who, "%s %s, which %s not reached host '%s'", missing > 1 ? "processes" : "process", list,
             missing > 1 ? "have" : "has", host);
    ij_star_waits(d, began, false, &said, who);
    struct pollfd f = {d->listener, POLLIN, 0};
    if (poll(&f, 1, 100) == 1) {
      int fd = ij_net_accept(d->listener);
      if (fd >= 0) take(d, fd);
    }
    if (ij_time() > until)
      return ij_fail(IJ_EIO, "processes: of %d, %d did not come within %g second%s (dist.timeout): %s", d->size,
                     missing, d->timeout, ij_s(d->timeout), list);
    if (ij_interrupted()) return ij_fail(IJ_EINTERRUPT, "processes: interrupted while waiting for them");
  }
  close(d->listener);
  d->listener = -1;
  return IJ_OK;
}

/* One connection to process 0, or -1. */
static int try_one(ij_dist *d, uint32_t address, uint16_t port, int watch, hello *its) {
  hello own = greet(d, watch);
  int fd = ij_net_connect(address, port, 1);
  if (fd < 0) return -1;
  if (ij_net_send(d, fd, &own, sizeof own, ij_time() + PATIENCE) == IJ_OK &&
      ij_net_receive(d, fd, its, sizeof *its, ij_time() + PATIENCE) == IJ_OK && is_ours(d, its) && its->rank == 0)
    return fd;
  close(fd);
  return -1;
}

static ij_status reach(ij_dist *d, const uint32_t *address, int n, uint16_t port, double until) {
  ij_peer *p = &d->peer[0];
  hello its = {.rank = -1};
  double began = ij_time();
  char who[120];
  bool said = false;
  const uint8_t *ip = (const uint8_t *)address; /* network byte order */
  snprintf(who, sizeof who, "process 0 at %u.%u.%u.%u port %d", ip[0], ip[1], ip[2], ip[3], port);
  for (int watch = 0; watch < 2;) {
    ij_star_waits(d, began, false, &said, who);
    int fd = -1;
    for (int i = 0; i < n * IJ_PORTS && fd < 0; i++) /* the port may be another's; then process 0 took the next one */
      fd = try_one(d, address[i / IJ_PORTS], (uint16_t)(port + i % IJ_PORTS), watch, &its);
    if (fd >= 0) {
      *(watch ? &p->watch : &p->talk) = fd;
      watch++;
      continue;
    }
    if (ij_time() > until)
      return ij_fail(IJ_EIO,
                     "processes: number %d could not reach number 0 at port %d within %g second%s (dist.timeout)",
                     d->rank, port, d->timeout, ij_s(d->timeout));
    if (ij_interrupted()) return ij_fail(IJ_EINTERRUPT, "processes: interrupted while waiting for them");
    usleep(200000);
  }
  p->pid = its.pid;
  its.host[sizeof its.host - 1] = its.version[sizeof its.version - 1] = 0;
  snprintf(p->host, sizeof p->host, "%s", its.host);
  if (strcmp(its.version, ij_version()) != 0)
    return ij_fail(IJ_EINVAL, "processes: number %d is version %s, number 0 is %s", d->rank, ij_version(), its.version);
  return IJ_OK;
}

ij_status ij_star_listen(ij_dist *d, int port, uint16_t *got) {
  for (int i = 0; i < (port ? IJ_PORTS : 1); i++)
    if ((d->listener = ij_net_listen(port ? port + i : 0, got)) >= 0) return IJ_OK;
  return ij_fail(IJ_EIO, "processes: port %d and those after it are taken: IJEPA_MASTER_PORT=N gives another one",
                 port);
}

ij_status ij_star_open(ij_dist *d, const uint32_t *address, int n, uint16_t port) {
  double until = ij_time() + d->timeout;
  int peers = d->rank == 0 ? d->size : 1;
  if (!(d->peer = ij_calloc((size_t)peers, sizeof *d->peer))) return IJ_ENOMEM;
  for (int i = 0; i < peers; i++) d->peer[i].talk = d->peer[i].watch = -1;
  return d->rank == 0 ? receive_all(d, until) : reach(d, address, n, port, until);
}

void ij_star_close(ij_dist *d) {
  for (int i = 0; d->peer && i < (d->rank == 0 ? d->size : 1); i++) {
    if (d->peer[i].talk >= 0) close(d->peer[i].talk);
    if (d->peer[i].watch >= 0) close(d->peer[i].watch);
  }
  if (d->listener >= 0) close(d->listener);
  d->listener = -1;
  ij_free(d->peer);
  d->peer = NULL;
}

ij_status ij_star_gather(ij_dist *d, const void *own, size_t n, void *all, double until) {
  if (d->rank) return ij_net_send(d, d->peer[0].talk, own, n, until);
  memcpy(all, own, n);
  for (int r = 1; r < d->size; r++) IJ_TRY(ij_net_receive(d, d->peer[r].talk, (char *)all + (size_t)r * n, n, until));
  return IJ_OK;
}
ij_status ij_star_spread(ij_dist *d, void *bytes, size_t n, double until) {
  if (d->rank) return ij_net_receive(d, d->peer[0].talk, bytes, n, until);
  for (int r = 1; r < d->size; r++) IJ_TRY(ij_net_send(d, d->peer[r].talk, bytes, n, until));
  return IJ_OK;
}
