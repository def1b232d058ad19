/* The watcher: every second each process reports to process 0 that it is alive and how many collective calls its caller
 * has begun, and process 0 answers. A connection that closes without a BYE means a dead process; process 0 notifies all
 * others, whose waits then fail. Where the caller does not reach such a wait (it may be in a driver or in a long
 * computation), the watcher ends the process. */
#include "dist.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct note {
  enum { BEAT, BYE, LATE, END } kind; /* LATE: its caller has waited for the time-out; END: all must exit, and why */
  int64_t begun;
  char why[400];
} note;
enum {
  SILENCE = 3,
  GRACE = 20,
  ANSWER = 5
}; /* seconds: without a beat; until a caller must have exited; until process 0 has found who is missing */
enum { SAVING = 60, LAST_WORDS = 1 }; /* seconds: process 0 may save before the first exit makes mpirun stop it */

static int peers(const ij_dist *d) { return d->rank == 0 ? d->size : 1; }
static bool is_peer(const ij_dist *d, int i) { return d->rank != 0 || i > 0; }

static bool give(int fd, const note *n) { /* a note is far smaller than what a connection holds */
  return fd < 0 || send(fd, n, sizeof *n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof *n || errno == EAGAIN;
}
static void give_all(ij_dist *d, const note *n) {
  for (int i = 0; i < peers(d); i++)
    if (is_peer(d, i)) give(d->peer[i].watch, n);
}

static void lose(ij_dist *d, const char *why) { /* under the lock */
  if (d->lost) return;
  d->lost = true;
  d->lost_at = ij_time();
  snprintf(d->why, sizeof d->why, "%s", why);
  note n = {.kind = END};
  snprintf(n.why, sizeof n.why, "%s", why);
  if (d->peer) give_all(d, &n);
  pthread_cond_broadcast(&d->changed);
}
void ij_watch_lose(ij_dist *d, const char *why) {
  pthread_mutex_lock(&d->lock);
  lose(d, why);
  pthread_mutex_unlock(&d->lock);
}
bool ij_watch_lost(ij_dist *d) {
  pthread_mutex_lock(&d->lock);
  bool lost = d->lost;
  if (lost) d->heeded = true;
  pthread_mutex_unlock(&d->lock);
  return lost;
}

/* Process r with its id and host, for a message */
static const char *name_of(const ij_dist *d, int r, char *buf, size_t n) {
  snprintf(buf, n, "process %d (%d on %s)", r, d->peer[r].pid, d->peer[r].host);
  return buf;
}

/* Reports which process has begun fewer collectives than the others, or is silent; under the lock. */
static void tell_missing(ij_dist *d) {
  char why[400], who[120];
  int64_t most = atomic_load(&d->begun);
  int first = -1, others = 0;
  double now = ij_time();
  for (int r = 1; r < d->size; r++)
    if (d->peer[r].begun > most) most = d->peer[r].begun;
  bool own_late = atomic_load(&d->begun) < most;
  for (int r = 1; r < d->size; r++)
    if (now - d->peer[r].heard > SILENCE) { /* a stopped process explains why the others are late */
      first = r;
      break;
    }
  for (int r = 1; r < d->size && first < 0 && !own_late; r++)
    if (d->peer[r].begun < most) first = r;
  for (int r = first + 1; first >= 0 && r < d->size; r++) others += d->peer[r].begun < most;
  if (first >= 0)
    snprintf(why, sizeof why, "%s%s did not join the others within %g seconds (dist.timeout)%s",
             name_of(d, first, who, sizeof who), others ? " and others" : "", d->timeout,
             now - d->peer[first].heard > SILENCE ? ": it no longer answers: it is stopped or its connection is lost"
                                                  : ": it is alive, but hangs or is slow");
  else if (own_late)
    snprintf(why, sizeof why, "process 0 did not join the others within %g seconds (dist.timeout)", d->timeout);
  else
    snprintf(why, sizeof why,
             "all %d processes are alive, but a sum between them did not finish within %g seconds (dist.timeout)",
             d->size, d->timeout);
  lose(d, why);
}

typedef struct quiet { /* a wait of the caller, as the watcher sees it */
  int64_t begun;
  double since;
  bool said;
} quiet;

/* Which peers have not begun what the caller waits in, for a message; "": none. Under the lock. */
static const char *late_ones(const ij_dist *d, int64_t own, char *text, size_t n) {
  char who[120];
  int first = -1, others = 0;
  for (int r = 0; r < peers(d); r++) {
    if (!is_peer(d, r) || d->peer[r].begun >= own) continue;
    others += first >= 0;
    if (first < 0) first = r;
  }
  *text = 0;
  if (first < 0) return text;
  bool silent = ij_time() - d->peer[first].heard > SILENCE;
  size_t used = (size_t)snprintf(text, n, "%s", name_of(d, first, who, sizeof who));
  if (others) used += (size_t)snprintf(text + used, n - used, " and %d more", others);
  snprintf(text + used, n - used, "%s",
           others   ? ", which have not come this far"
           : silent ? ", which no longer answers"
                    : ", which is at work");
  return text;
}

/* A wait of 10 s is reported by process 0, or, where process 0 is the late one, by process 1; under the lock. */
static void report_wait(const ij_dist *d, quiet *q) {
  char who[300];
  int wait = d->waiting;
  int64_t begun = atomic_load(&d->begun);
  if (!wait || begun != q->begun || d->lost || d->rank > 1) {
    *q = (quiet){begun, ij_time(), false};
    return;
  }
  if (!q->said && *late_ones(d, begun, who, sizeof who))
    ij_star_waits(d, q->since, wait == IJ_WAIT_PATIENT, &q->said, who);
}

static void hear(ij_dist *d, int i, const note *n) { /* under the lock */
  ij_peer *p = &d->peer[i];
  p->heard = ij_time();
  p->begun = n->begun;
  if (n->kind == BYE) p->gone = true;
  if (n->kind == LATE && !d->lost) tell_missing(d);
  if (n->kind == END) {
    char why[400];
    snprintf(why, sizeof why, "%.*s", (int)sizeof why - 1, n->why);
    lose(d, why); /* process 0 passes it on */
  }
}

static void gone(ij_dist *d, int i) { /* under the lock */
  ij_peer *p = &d->peer[i];
  char why[400], who[120];
  close(p->watch);
  p->watch = -1;
  if (p->gone) return;
  p->gone = true;
  snprintf(why, sizeof why, "%s is gone", name_of(d, i, who, sizeof who));
  lose(d, why);
}

static void listen_to(ij_dist *d, int i) {
  note n;
  for (;;) { /* a note may arrive in parts where socket buffers are short */
    ssize_t k = recv(d->peer[i].watch, &n, sizeof n, MSG_DONTWAIT | MSG_PEEK);
    if (k < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (k > 0 && k < (ssize_t)sizeof n) return;
    if (k > 0) k = recv(d->peer[i].watch, &n, sizeof n, MSG_DONTWAIT);
    pthread_mutex_lock(&d->lock);
    if (k == (ssize_t)sizeof n) hear(d, i, &n);
    else gone(d, i);
    pthread_mutex_unlock(&d->lock);
    if (k <= 0) return;
  }
}

/* The caller has not reached a call that would fail. */
static void end_by_force(const ij_dist *d) {
  char text[600];
  int n = snprintf(text, sizeof text,
                   "ijepa: process %d is stopped by its watcher, since its computation did not return: %s\n", d->rank,
                   d->why);
  if (write(2, text, (size_t)n) >= 0) _exit(1);
  _exit(1);
}

static void *watch(void *arg) {
  ij_dist *d = arg;
  int n = peers(d);
  struct pollfd *f = ij_calloc((size_t)n + 1, sizeof *f);
  double beat = 0, last = ij_time();
  quiet q = {0};
  while (f) {
    double now = ij_time();
    pthread_mutex_lock(&d->lock);
    for (int i = 0; now - last > SILENCE && i < n; i++) d->peer[i].heard = now; /* this process itself was stopped */
    last = now;
    report_wait(d, &q);
    bool on = d->watching, force = d->lost && !d->heeded && now - d->lost_at > GRACE;
    note b = {.kind = BEAT, .begun = atomic_load(&d->begun)};
    if (now - beat >= 1) {
      give_all(d, &b);
      beat = now;
    }
    for (int i = 0; i < n; i++) f[i] = (struct pollfd){is_peer(d, i) ? d->peer[i].watch : -1, POLLIN, 0};
    pthread_mutex_unlock(&d->lock);
    if (!on) break;
    if (force) end_by_force(d);
    f[n] = (struct pollfd){d->wake[0], POLLIN, 0};
    if (poll(f, (nfds_t)n + 1, 500) > 0)
      for (int i = 0; i < n; i++)
        if (f[i].revents) listen_to(d, i);
  }
  ij_free(f);
  return NULL;
}

ij_status ij_watch_start(ij_dist *d) {
  sigset_t all, before;
  for (int i = 0; i < peers(d); i++) d->peer[i].heard = ij_time();
  if (pipe(d->wake) != 0) return ij_fail(IJ_EIO, "processes: no pipe: %s", strerror(errno));
  sigfillset(&all); /* signals are for the thread that called us */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  d->watching = true;
  if (pthread_create(&d->watcher, NULL, watch, d) != 0) d->watching = false;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return d->watching ? IJ_OK : ij_fail(IJ_ENOMEM, "processes: a thread could not be started");
}

void ij_watch_stop(ij_dist *d, bool in_order) {
  if (!d->watching) return;
  pthread_mutex_lock(&d->lock);
  d->watching = false;
  note n = {.kind = BYE, .begun = atomic_load(&d->begun)};
  if (in_order) give_all(d, &n);
  pthread_mutex_unlock(&d->lock);
  if (write(d->wake[1], "", 1) != 1) {} /* else it wakes by itself, later */
  pthread_join(d->watcher, NULL);
  close(d->wake[0]);
  close(d->wake[1]);
}

ij_status ij_watch_fail(ij_dist *d) {
  for (double until = ij_time() + 2; d->watching && ij_time() < until && !ij_watch_lost(d);) usleep(10000);
  if (!ij_watch_lost(d)) ij_watch_lose(d, "a connection between processes has ended");
  return ij_fail(IJ_EIO, "processes: %s", d->why);
}

ij_status ij_watch_late(ij_dist *d) {
  char why[400], who[120];
  if (!d->watching) return ij_fail(IJ_EIO, "processes: no answer");
  usleep(300000); /* the watcher may know more */
  pthread_mutex_lock(&d->lock);
  note n = {.kind = LATE, .begun = atomic_load(&d->begun)};
  if (!d->lost && d->rank == 0) tell_missing(d);
  else if (!d->lost) give(d->peer[0].watch, &n);
  pthread_mutex_unlock(&d->lock);
  for (double until = ij_time() + ANSWER; ij_time() < until && !ij_watch_lost(d);) usleep(10000);
  snprintf(why, sizeof why, "%s did not answer within %g seconds (dist.timeout)",
           d->rank ? name_of(d, 0, who, sizeof who) : "nobody", d->timeout);
  ij_watch_lose(d, why);
  return ij_watch_fail(d);
}

void ij_watch_linger(ij_dist *d) {
  double until = ij_time() + (d->rank ? SAVING : LAST_WORDS);
  for (bool wait = true; wait && ij_time() < until;) {
    usleep(100000);
    pthread_mutex_lock(&d->lock);
    if (d->rank) wait = d->peer[0].watch >= 0 && ij_time() - d->peer[0].heard < SILENCE;
    pthread_mutex_unlock(&d->lock);
  }
}
