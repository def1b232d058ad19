/* ij_dist: how processes find each other, small sums, and their end. */
#include "dist.h"
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct meeting { /* the addresses of process 0, which MPI hands to the others */
  uint32_t address[IJ_ADDRESSES];
  int32_t n, port;
  uint64_t token;
} meeting;

static ij_status resolve(const char *host, meeting *m) {
  struct addrinfo hint = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *all = NULL;
  int e = getaddrinfo(host, NULL, &hint, &all);
  if (e) return ij_fail(IJ_EIO, "processes: the host '%s' of process 0 is not known: %s", host, gai_strerror(e));
  for (struct addrinfo *i = all; i && m->n < IJ_ADDRESSES; i = i->ai_next)
    m->address[m->n++] = ((struct sockaddr_in *)(void *)i->ai_addr)->sin_addr.s_addr;
  freeaddrinfo(all);
  return IJ_OK;
}

static ij_status load_mpi(const ij_transport **out) {
  void *fn;
  ij_transport_fn get;
  IJ_TRY(ij_plugin_load("libijepa_mpi.so", "IJEPA_MPI", "ij_transport_mpi", &fn));
  memcpy(&get, &fn, sizeof get);
  if (get()->abi != IJ_TRANSPORT_ABI)
    return ij_fail(IJ_EUNSUPPORTED, "libijepa_mpi.so has another version: build it again");
  *out = get();
  return IJ_OK;
}
ij_status ij_dist_mpi(void) {
  const ij_transport *t;
  return load_mpi(&t);
}

static ij_status start_mpi(ij_dist *d, const ij_launch *p) {
  IJ_TRY(ij_mover_start(d));
  if (d->size != p->size || d->rank != p->rank)
    return ij_fail(
        IJ_EINVAL,
        "processes: MPI reports process %d of %d, the environment %d of %d: this MPI is not the one that started "
        "them; IJEPA_DIST=tcp works without MPI",
        d->rank, d->size, p->rank, p->size);
  return IJ_OK;
}

/* Where all meet: process 0 listens, and the others know where. */
static ij_status meet(ij_dist *d, const ij_launch *p) {
  meeting m = {.port = p->port, .token = p->token};
  bool mpi = !strcmp(d->transport, "mpi");
  uint16_t port = 0;
  if (d->rank == 0) IJ_TRY(ij_star_listen(d, mpi ? 0 : p->port, &port));
  if (mpi) {
    int64_t ticket;
    if (d->rank == 0) m.n = ij_star_addresses(m.address), m.port = port;
    if (d->rank == 0) m.token ^= ij_hash(port, &(double){ij_time()}, sizeof(double));
    IJ_TRY(ij_mover_ask(d, (ij_transfer){IJ_TRANSFER_BROADCAST, &m, sizeof m, 0}, &ticket));
    IJ_TRY(ij_mover_wait(d, ticket));
  } else if (d->rank) IJ_TRY(resolve(p->host, &m));
  d->token = m.token;
  return ij_star_open(d, m.address, m.n, (uint16_t)m.port);
}

/* Which processes run on this machine, and how many CPUs each has: those that it may run on, divided by the processes
 * that may run on the same ones. */
static ij_status find_local(ij_dist *d) {
  typedef struct self {
    uint64_t host, set;
    int32_t cpus;
  } self;
  self own = {.cpus = ij_cpu_count()}, *all = ij_calloc((size_t)d->size, sizeof *all);
  char host[256] = "";
  cpu_set_t set;
  double until = ij_time() + d->timeout;
  if (!all) return IJ_ENOMEM;
  gethostname(host, sizeof host - 1);
  own.host = ij_hash(1, host, strlen(host));
  if (sched_getaffinity(0, sizeof set, &set) == 0) own.set = ij_hash(2, &set, sizeof set);
  ij_status st = ij_star_gather(d, &own, sizeof own, all, until);
  if (st == IJ_OK) st = ij_star_spread(d, all, (size_t)d->size * sizeof *all, until);
  int same = 0;
  d->local = d->local_size = 0;
  for (int r = 0; st == IJ_OK && r < d->size; r++) {
    if (all[r].host != own.host) continue;
    d->local += r < d->rank;
    d->local_size++;
    same += all[r].set == own.set;
  }
  d->threads = same && own.cpus > same ? own.cpus / same : 1;
  ij_free(all);
  return st;
}

static ij_status start(ij_dist *d, const ij_launch *p) {
  d->rank = p->rank;
  d->size = p->size;
  d->by = p->by;
  memcpy(d->transport, p->transport, sizeof d->transport);
  d->token = p->token;
  if (p->size == 1) return IJ_OK;
  if (!strcmp(p->transport, "mpi")) {
    ij_status st = load_mpi(&d->way);
    if (st == IJ_OK) IJ_TRY(start_mpi(d, p));
    else if (p->asked || !p->host[0]) return st;
    else snprintf(d->transport, sizeof d->transport, "tcp"); /* all on this machine: TCP will do */
  }
  IJ_TRY(meet(d, p));
  IJ_TRY(find_local(d));
  IJ_TRY(ij_watch_start(d));
  if (d->way) return IJ_OK;
  d->way = &ij_ring;
  return ij_mover_start(d);
}

static ij_dist *dist_new(double timeout) {
  ij_dist *d = ij_calloc(1, sizeof *d);
  if (!d) return NULL;
  d->refs = 1;
  d->timeout = timeout > 0 ? timeout : 600;
  d->listener = -1;
  d->size = d->local_size = 1;
  d->threads = ij_cpu_count();
  pthread_mutex_init(&d->lock, NULL);
  pthread_cond_init(&d->changed, NULL);
  return d;
}

ij_status ij_dist_open(const char *transport, double timeout, ij_dist **out) {
  ij_launch p;
  *out = NULL;
  IJ_TRY(ij_launch_find(transport, &p));
  ij_dist *d = dist_new(timeout);
  if (!d) return IJ_ENOMEM;
  ij_status st = start(d, &p);
  if (st != IJ_OK) {
    ij_dist_fail(d, ij_errmsg());
    ij_dist_close(d);
    return st;
  }
  *out = d;
  return IJ_OK;
}

ij_status ij_dist_imagine(int rank, int size, ij_dist **out) {
  *out = NULL;
  if (size < 1 || rank < 0 || rank >= size) return ij_fail(IJ_EINVAL, "processes: no process %d of %d", rank, size);
  if (!(*out = dist_new(0))) return IJ_ENOMEM;
  (*out)->rank = rank;
  (*out)->size = size;
  (*out)->imagined = true;
  snprintf((*out)->transport, sizeof(*out)->transport, "none");
  return IJ_OK;
}

void ij_dist_ref(ij_dist *d) { d->refs++; }

/* Frees everything but the struct, which lives until the last optimizer is freed. */
static void shut(ij_dist *d) {
  bool in_order = d->watching && !ij_watch_lost(d);
  if (d->watching && !in_order) ij_watch_linger(d);
  ij_mover_stop(d, in_order);
  ij_watch_stop(d, in_order);
  ij_star_close(d);
  d->size = 1;
}

void ij_dist_drop(ij_dist *d) {
  if (!d || --d->refs) return;
  pthread_mutex_destroy(&d->lock);
  pthread_cond_destroy(&d->changed);
  ij_free(d);
}

void ij_dist_close(ij_dist *d) {
  if (!d) return;
  if (d->size > 1) ij_dist_settle(d);
  shut(d);
  ij_dist_drop(d);
}

void ij_dist_look(const ij_dist *d, ij_dist_info *out) {
  *out = (ij_dist_info){
      .rank = d->rank, .size = d->size, .local_rank = d->local, .local_size = d->local_size, .threads = d->threads};
  snprintf(out->transport, sizeof out->transport, "%s", d->transport);
}

/* Nothing is exchanged: there is no other process, or the others do not exist. */
static bool alone(const ij_dist *d) { return d->size == 1 || d->imagined; }

static double limit(const ij_dist *d, double seconds) {
  return ij_time() + (seconds == 0 ? d->timeout : seconds < 0 ? 1e18 : seconds);
}

/* A collective call begins; its watcher says so where it lasts. */
static void begin(ij_dist *d, int wait) {
  atomic_fetch_add(&d->begun, 1);
  d->waiting = wait;
}
static ij_status end(ij_dist *d, ij_status st) {
  d->waiting = IJ_WAIT_NOT;
  return st;
}

ij_status ij_dist_sum(ij_dist *d, double *x, int n) {
  if (alone(d)) return IJ_OK;
  size_t bytes = (size_t)n * sizeof *x;
  double until = limit(d, 0), *all = d->rank ? NULL : ij_alloc((size_t)d->size * bytes);
  if (!d->rank && !all) return IJ_ENOMEM;
  begin(d, IJ_WAIT_LIMITED);
  ij_status st = ij_star_gather(d, x, bytes, all, until);
  for (int r = 1; all && st == IJ_OK && r < d->size; r++)
    for (int i = 0; i < n; i++) x[i] += all[(size_t)r * (size_t)n + (size_t)i];
  ij_free(all);
  return end(d, st == IJ_OK ? ij_star_spread(d, x, bytes, until) : st);
}

ij_status ij_dist_broadcast(ij_dist *d, void *bytes, size_t n) {
  if (alone(d)) return IJ_OK;
  begin(d, IJ_WAIT_LIMITED);
  return end(d, ij_star_spread(d, bytes, n, limit(d, 0)));
}

ij_status ij_dist_barrier(ij_dist *d, double seconds) {
  if (alone(d)) return IJ_OK;
  char *all = d->rank ? NULL : ij_alloc((size_t)d->size), own = 0;
  double until = limit(d, seconds);
  if (!d->rank && !all) return IJ_ENOMEM;
  begin(d, seconds < 0 ? IJ_WAIT_PATIENT : IJ_WAIT_LIMITED);
  ij_status st = ij_star_gather(d, &own, 1, all, until);
  ij_free(all);
  return end(d, st == IJ_OK ? ij_star_spread(d, &own, 1, until) : st);
}

void ij_dist_fail(ij_dist *d, const char *why) {
  char text[400];
  if (alone(d)) return;
  snprintf(text, sizeof text, "process %d stopped: %s", d->rank, why);
  ij_watch_lose(d, text);
}
int ij_dist_lost(ij_dist *d) { return !alone(d) && ij_watch_lost(d); }
