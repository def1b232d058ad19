/* Sums over a ring of TCP connections, for processes that srun started without MPI: each sends to the next one only. A
 * sum takes two passes around the ring: each process adds up its part of the values, then the parts go to all
 * processes, so that all have the same bits. */
#include "dist.h"
#include <poll.h>
#include <string.h>
#include <unistd.h>

typedef struct ring {
  ij_dist *d;
  int listener, next, previous; /* connections */
  float *part;                  /* (capacity) what the previous one sends */
  size_t capacity;
} ring;
typedef struct endpoint { /* where a process listens */
  uint32_t address[IJ_ADDRESSES];
  int32_t n, port;
} endpoint;
typedef struct handshake {
  uint64_t token;
  int64_t rank;
} handshake;
enum { PATIENCE = 5, CHUNK = 1 << 18 };

static double limit(const ring *r) { return ij_time() + r->d->timeout; }

static ij_status accept_previous(ring *r, double until) {
  ij_dist *d = r->d;
  handshake h, own = {d->token, d->rank};
  while (ij_time() < until) {
    struct pollfd f = {r->listener, POLLIN, 0};
    int fd = poll(&f, 1, 100) == 1 ? ij_net_accept(r->listener) : -1;
    if (fd < 0) continue;
    if (ij_net_receive(d, fd, &h, sizeof h, ij_time() + PATIENCE) == IJ_OK && h.token == d->token &&
        h.rank == (d->rank + d->size - 1) % d->size &&
        ij_net_send(d, fd, &own, sizeof own, ij_time() + PATIENCE) == IJ_OK) {
      r->previous = fd;
      return IJ_OK;
    }
    close(fd);
  }
  return ij_fail(IJ_EIO, "number %d did not connect", (d->rank + d->size - 1) % d->size);
}

static ij_status connect_next(ring *r, const endpoint *s, double until) {
  ij_dist *d = r->d;
  handshake h, own = {d->token, d->rank};
  while (ij_time() < until) {
    for (int i = 0; i < s->n; i++) {
      int fd = ij_net_connect(s->address[i], (uint16_t)s->port, 1);
      if (fd < 0) continue;
      if (ij_net_send(d, fd, &own, sizeof own, ij_time() + PATIENCE) == IJ_OK &&
          ij_net_receive(d, fd, &h, sizeof h, ij_time() + PATIENCE) == IJ_OK && h.token == d->token &&
          h.rank == (d->rank + 1) % d->size) {
        r->next = fd;
        return IJ_OK;
      }
      close(fd);
    }
    usleep(100000);
  }
  return ij_fail(IJ_EIO, "number %d cannot be reached", (d->rank + 1) % d->size);
}

static ij_status meet(ring *r) {
  ij_dist *d = r->d;
  uint16_t port = 0;
  endpoint own = {0}, *all = ij_calloc((size_t)d->size, sizeof *all);
  ij_status st = all ? IJ_OK : IJ_ENOMEM;
  double until = limit(r);
  if (st == IJ_OK && (r->listener = ij_net_listen(0, &port)) < 0) st = ij_fail(IJ_EIO, "no port is free");
  own.n = ij_star_addresses(own.address);
  own.port = port;
  if (st == IJ_OK) st = ij_star_gather(d, &own, sizeof own, all, until);
  if (st == IJ_OK) st = ij_star_spread(d, all, (size_t)d->size * sizeof *all, until);
  for (int round = 0; round < 2 && st == IJ_OK;
       round++) /* neighbours do the opposite first, so that none waits for itself */
    st = round == d->rank % 2 ? connect_next(r, &all[(d->rank + 1) % d->size], until) : accept_previous(r, until);
  ij_free(all);
  return st;
}

static void ring_close(void *state, int in_order) {
  ring *r = state;
  (void)in_order; /* what was sent arrives all the same */
  if (r->listener >= 0) close(r->listener);
  if (r->next >= 0) close(r->next);
  if (r->previous >= 0) close(r->previous);
  ij_free(r->part);
  ij_free(r);
}

static const char *ring_open(int (*stop)(void *), void *arg, int *rank, int *size, void **state) {
  (void)stop, (void)rank, (void)size; /* the star knows */
  ring *r = ij_calloc(1, sizeof *r);
  if (!r) return "out of memory";
  *r = (ring){arg, -1, -1, -1, NULL, 0};
  *state = r;
  return meet(r) == IJ_OK ? NULL : ij_errmsg();
}

/* The first of part k of n values */
static size_t start_of(const ring *r, size_t n, int k) { return n * (size_t)k / (size_t)r->d->size; }

static ij_status pass(ring *r, float *x, size_t n, int send, int get, bool add) {
  size_t s = start_of(r, n, send), s_end = start_of(r, n, send + 1), g = start_of(r, n, get),
         g_end = start_of(r, n, get + 1);
  float *to = add ? r->part : x + g;
  IJ_TRY(ij_net_exchange(r->d, r->next, x + s, (s_end - s) * sizeof *x, r->previous, to, (g_end - g) * sizeof *x,
                         limit(r)));
  for (size_t i = 0; add && i < g_end - g; i++) x[g + i] += to[i];
  return IJ_OK;
}

static const char *ring_sum(void *state, float *x, size_t n, int root) {
  ring *r = state;
  int W = r->d->size, me = r->d->rank;
  size_t most = n / (size_t)W + 1;
  (void)root; /* all get it */
  if (r->capacity < most) {
    ij_free(r->part);
    r->capacity = 0;
    if (!(r->part = ij_alloc(most * sizeof *r->part))) return "out of memory";
    r->capacity = most;
  }
  for (int i = 0; i < W - 1; i++) /* after which part me + 1 is complete here */
    if (pass(r, x, n, (me - i + W) % W, (me - i - 1 + 2 * W) % W, true) != IJ_OK) return ij_errmsg();
  for (int i = 0; i < W - 1; i++)
    if (pass(r, x, n, (me + 1 - i + W) % W, (me - i + W) % W, false) != IJ_OK) return ij_errmsg();
  return NULL;
}

static const char *ring_broadcast(void *state, void *x, size_t bytes, int root) {
  ring *r = state;
  int W = r->d->size, position = (r->d->rank - root + W) % W; /* in the chain that begins at root */
  for (size_t offset = 0; offset < bytes; offset += CHUNK) {
    size_t n = bytes - offset < CHUNK ? bytes - offset : CHUNK;
    char *p = (char *)x + offset;
    if (position > 0 && ij_net_receive(r->d, r->previous, p, n, limit(r)) != IJ_OK) return ij_errmsg();
    if (position < W - 1 && ij_net_send(r->d, r->next, p, n, limit(r)) != IJ_OK) return ij_errmsg();
  }
  return NULL;
}

const ij_transport ij_ring = {IJ_TRANSPORT_ABI, ring_open, ring_sum, ring_broadcast, ring_close};
