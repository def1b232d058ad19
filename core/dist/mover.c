/* The mover: a thread that runs all sums of gradients in order while the caller computes. Only this thread opens, uses
 * and closes MPI. */
#include "dist.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int told_to_stop(void *arg) {
  ij_dist *d = arg;
  pthread_mutex_lock(&d->lock);
  int stop = d->lost;
  pthread_mutex_unlock(&d->lock);
  return stop;
}

static const char *make(ij_dist *d, const ij_transfer *m) {
  return m->kind == IJ_TRANSFER_SUM ? d->way->sum(d->way_state, m->x, m->n, m->root)
                                    : d->way->broadcast(d->way_state, m->x, m->n, m->root);
}

static void *work(void *arg) {
  ij_dist *d = arg;
  const char *wrong = d->way->open(told_to_stop, d, &d->rank, &d->size, &d->way_state);
  pthread_mutex_lock(&d->lock);
  d->ready = true;
  while (!wrong) {
    pthread_cond_broadcast(&d->changed);
    while (d->done == d->asked && !d->closing) pthread_cond_wait(&d->changed, &d->lock);
    if (d->closing || d->lost) break;
    ij_transfer m = d->transfer[d->done % IJ_TRANSFERS];
    d->busy = true;
    pthread_mutex_unlock(&d->lock);
    wrong = make(d, &m);
    pthread_mutex_lock(&d->lock);
    d->busy = false;
    if (!wrong) d->done++;
  }
  if (wrong) snprintf(d->wrong, sizeof d->wrong, "%s", wrong);
  d->stuck = wrong != NULL;
  pthread_cond_broadcast(&d->changed);
  while (!d->closing) pthread_cond_wait(&d->changed, &d->lock); /* the state lives until the caller ends it */
  bool in_order = d->orderly && !d->lost && !wrong;
  pthread_mutex_unlock(&d->lock);
  if (d->way_state) d->way->close(d->way_state, in_order);
  return NULL;
}

/* Sleeps on `changed` for at most a tick; under the lock. */
static void doze(ij_dist *d) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  t.tv_nsec += 100000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  pthread_cond_timedwait(&d->changed, &d->lock, &t);
}

ij_status ij_mover_start(ij_dist *d) {
  sigset_t all, before;
  sigfillset(&all); /* signals are for the thread that called us */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  d->moving = pthread_create(&d->mover, NULL, work, d) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!d->moving) return ij_fail(IJ_ENOMEM, "processes: a thread could not be started");
  double began = ij_time();
  bool said = false;
  pthread_mutex_lock(&d->lock);
  while (!d->ready) {
    doze(d);
    ij_star_waits(d, began, false, &said, "the others to start the transport");
  }
  bool stuck = d->stuck;
  pthread_mutex_unlock(&d->lock);
  return stuck ? ij_fail(IJ_EIO, "processes: %s: %s", d->transport, d->wrong) : IJ_OK;
}

void ij_mover_stop(ij_dist *d, bool in_order) {
  if (!d->moving) return;
  pthread_mutex_lock(&d->lock);
  d->closing = true;
  d->orderly = in_order;
  pthread_cond_broadcast(&d->changed);
  pthread_mutex_unlock(&d->lock);
  pthread_join(d->mover, NULL);
  d->moving = false;
}

ij_status ij_mover_ask(ij_dist *d, ij_transfer m, int64_t *ticket) {
  pthread_mutex_lock(&d->lock);
  bool full = d->asked - d->done == IJ_TRANSFERS;
  if (!full) {
    d->transfer[d->asked++ % IJ_TRANSFERS] = m;
    pthread_cond_broadcast(&d->changed);
  }
  *ticket = d->asked;
  pthread_mutex_unlock(&d->lock);
  return full ? ij_fail(IJ_EINVAL, "processes: more than %d sums are queued", IJ_TRANSFERS) : IJ_OK;
}

ij_status ij_mover_wait(ij_dist *d, int64_t ticket) {
  double until = ij_time() + d->timeout;
  pthread_mutex_lock(&d->lock);
  d->waiting = IJ_WAIT_LIMITED;
  while (d->done < ticket && !d->lost && !d->stuck && ij_time() < until) doze(d);
  d->waiting = IJ_WAIT_NOT;
  bool done = d->done >= ticket, lost = d->lost, stuck = d->stuck;
  pthread_mutex_unlock(&d->lock);
  if (done) return IJ_OK;
  if (lost) return ij_watch_fail(d);
  if (!stuck) return ij_watch_late(d);
  for (double wait = ij_time() + 2; ij_time() < wait && !ij_watch_lost(d);) usleep(10000);
  if (!ij_watch_lost(d)) ij_watch_lose(d, d->wrong); /* mostly a process is gone, and the watcher reports it first */
  return ij_watch_fail(d);
}

void ij_mover_settle(ij_dist *d) {
  if (!d->moving) return;
  pthread_mutex_lock(&d->lock);
  if (d->done < d->asked && !d->lost) { /* the others would wait for this process forever */
    pthread_mutex_unlock(&d->lock);
    ij_watch_lose(d, "a process gave up in the middle of an update");
    pthread_mutex_lock(&d->lock);
  }
  while (d->busy) doze(d);
  pthread_mutex_unlock(&d->lock);
}
