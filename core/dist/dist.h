/* Internals of processes that train together. They are connected in two ways:
 *   - a star of TCP connections around process 0, for small values, for checks of who is alive, and for the reason why
 * all must exit;
 *   - a transport for the sums of gradients: MPI (libijepa_mpi.so), a ring of TCP connections, or the device's own
 * (NCCL). Three threads: the caller's; the watcher, which notices a process that dies or no longer answers; the mover,
 * which alone works the transport, so that sums go on while the caller computes. */
#ifndef IJ_DIST_H
#define IJ_DIST_H
#include "../tensor/tensor.h"
#include "transport.h"
#include <pthread.h>
#include <stdatomic.h>

/* ---- launch.c: how these processes were started, from the environment */
enum { IJ_ADDRESSES = 16 };
typedef struct ij_launch {
  char transport[8]; /* "none", "mpi", "tcp" */
  int rank, size;
  char host[256]; /* of process 0; empty: the transport finds it */
  int port;
  uint64_t token; /* the same in all processes of this job and hardly in others */
  bool asked;     /* somebody has chosen this transport */
  const char *by; /* the environment's variable that makes this process one of several, or NULL */
} ij_launch;
/* transport: NULL or one to use whatever the environment prefers. IJ_EINVAL: what is there makes no sense. */
ij_status ij_launch_find(const char *transport, ij_launch *out);
/* The first name of a SLURM node list, as "a[03-05,9],b" -> "a03"; false: there is none. */
bool ij_first_host(const char *list, char *out, size_t n);

/* ---- the star */
typedef struct ij_peer { /* as process 0 knows each, and the others know process 0 */
  int talk, watch;       /* connections; -1: none */
  int pid;
  char host[64];
  double heard;  /* when, by the watcher */
  int64_t begun; /* collectives that it had begun then */
  bool gone;     /* left in order */
} ij_peer;

typedef struct ij_transfer {
  enum { IJ_TRANSFER_SUM, IJ_TRANSFER_BROADCAST } kind;
  void *x;
  size_t n;
  int root;
} ij_transfer;
enum { IJ_WAIT_NOT, IJ_WAIT_LIMITED, IJ_WAIT_PATIENT }; /* for at most the time-out; as long as it takes */
enum { IJ_TRANSFERS = 4096 };                           /* that may be queued */

struct ij_dist {
  int refs;
  int rank, size, local, local_size, threads;
  bool imagined; /* the other processes do not exist, and nothing is exchanged */
  double timeout;
  char transport[8];
  const char *by; /* as in ij_launch */
  uint64_t token;
  ij_peer *peer; /* (size) of process 0, else (1): process 0 */
  int listener;
  /* the watcher's and the caller's, under the lock */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool lost, watching, heeded; /* all must end; the watcher runs; the caller knows */
  char why[400];
  double lost_at;
  atomic_int_least64_t begun; /* collectives of the caller */
  atomic_int waiting;         /* IJ_WAIT_: whether it is in one now */
  int wake[2];
  pthread_t watcher;
  /* the mover's */
  const ij_transport *way;
  void *way_state;
  pthread_t mover;
  bool moving, ready, busy, stuck, closing, orderly; /* stuck: the transport failed; `wrong` is its message */
  char wrong[300];
  ij_transfer transfer[IJ_TRANSFERS];
  int64_t asked, done; /* transfers */
  ij_device *device;   /* whose own sums are used, or NULL */
};

/* net.c: sockets. Waits are cut short where d is lost; until: ij_time() at which to give up. */
int ij_net_listen(int port, uint16_t *got); /* -1 and errno */
int ij_net_accept(int listener);            /* -1: nobody is there */
int ij_net_connect(uint32_t address, uint16_t port, double seconds);
ij_status ij_net_send(ij_dist *d, int fd, const void *p, size_t n, double until);
ij_status ij_net_receive(ij_dist *d, int fd, void *p, size_t n, double until);
/* Both at the same time, to two connections */
ij_status ij_net_exchange(ij_dist *d, int out, const void *p, size_t n, int in, void *q, size_t m, double until);

/* star.c */
/* Once a wait has lasted 10 s since `began`, writes a line on stderr: for whom it waits, and how to run alone. *said:
 * whether it has. who: such as "number 0 at a:20000"; patient: without a limit. */
void ij_star_waits(const ij_dist *d, double began, bool patient, bool *said, const char *who);
enum { IJ_PORTS = 8 };                                         /* process 0 takes the first free one of so many */
ij_status ij_star_listen(ij_dist *d, int port, uint16_t *got); /* of process 0; port 0: any */
/* Meets all; n addresses at which process 0 may be. */
ij_status ij_star_open(ij_dist *d, const uint32_t *address, int n, uint16_t port);
void ij_star_close(ij_dist *d);
int ij_star_addresses(uint32_t address[IJ_ADDRESSES]); /* of this machine, network byte order; returns their number */
/* Of each process n bytes -> all (size * n) in process 0; process 0's n bytes -> all. */
ij_status ij_star_gather(ij_dist *d, const void *mine, size_t n, void *all, double until);
ij_status ij_star_spread(ij_dist *d, void *bytes, size_t n, double until);

/* watch.c */
ij_status ij_watch_start(ij_dist *d);
void ij_watch_stop(ij_dist *d, bool in_order);
/* Before the connections of a failed run are closed: what was said is heard, and process 0 may still be at work. */
void ij_watch_linger(ij_dist *d);
void ij_watch_lose(ij_dist *d, const char *why); /* all processes must exit; notifies the others */
bool ij_watch_lost(ij_dist *d);
ij_status ij_watch_fail(ij_dist *d); /* IJ_EIO with the reason; waits a little for one */
ij_status ij_watch_late(ij_dist *d); /* the time is over: who is missing; IJ_EIO */

/* mover.c: a queue of sums and broadcasts, done in order by a thread. */
ij_status ij_mover_start(ij_dist *d);
void ij_mover_stop(ij_dist *d, bool in_order);
ij_status ij_mover_ask(ij_dist *d, ij_transfer m, int64_t *ticket);
ij_status ij_mover_wait(ij_dist *d, int64_t ticket);
void ij_mover_settle(ij_dist *d); /* forgets what waits, until nothing is under way */

extern const ij_transport ij_ring; /* ring.c; its open needs the star, and an ij_dist as arg */

/* tensors.c: the first n elements of a kept f32 tensor, which must not be touched until the ticket is waited for. */
ij_status ij_dist_sum_begin(ij_dist *d, ij_tensor *x, int64_t n, int root, int64_t *ticket);  /* as a transport's sum */
ij_status ij_dist_send_begin(ij_dist *d, ij_tensor *x, int64_t n, int root, int64_t *ticket); /* root's values -> all */
ij_status ij_dist_finish(ij_dist *d, int64_t ticket);
void ij_dist_settle(ij_dist *d); /* before memory that a sum may still use is freed */
void ij_dist_ref(ij_dist *d);
void ij_dist_drop(ij_dist *d);
#endif
