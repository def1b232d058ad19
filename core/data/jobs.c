/* jobs.c: threads that do one thing to each of many files; who started them looks in now and then. */
#include "data.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

struct ij_jobs {
  ij_job_fn *f;
  void *arg;
  size_t n;
  atomic_size_t next, done;
  atomic_bool stop;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  pthread_t *thread;
  int threads, running; /* running: under the lock, and what follows */
  ij_status status;
  char *error;
};

static void *work(void *arg) {
  ij_jobs *j = arg;
  ij_buffer buffer = {0};
  ij_status st = IJ_OK;
  for (size_t i; st == IJ_OK && !j->stop && (i = atomic_fetch_add(&j->next, 1)) < j->n;)
    if ((st = j->f(j->arg, i, &buffer)) == IJ_OK) atomic_fetch_add(&j->done, 1);
  ij_buffer_free(&buffer);
  pthread_mutex_lock(&j->lock);
  if (st != IJ_OK && j->status == IJ_OK) {
    j->status = st;
    j->error = ij_strdup(ij_errmsg());
    j->stop = true;
  }
  j->running--;
  pthread_cond_broadcast(&j->ended);
  pthread_mutex_unlock(&j->lock);
  return NULL;
}

ij_status ij_jobs_start(size_t n, int threads, ij_job_fn *f, void *arg, ij_jobs **out) {
  sigset_t all, before;
  ij_jobs *j = ij_calloc(1, sizeof *j);
  if (!j) return IJ_ENOMEM;
  j->f = f;
  j->arg = arg;
  j->n = n;
  pthread_mutex_init(&j->lock, NULL);
  pthread_cond_init(&j->ended, NULL);
  if ((size_t)threads > n) threads = n ? (int)n : 1;
  if (!(j->thread = ij_alloc((size_t)threads * sizeof *j->thread))) {
    ij_jobs_free(j);
    return IJ_ENOMEM;
  }
  sigfillset(&all); /* signals are for the thread that called us */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_mutex_lock(&j->lock);
  for (; j->threads < threads; j->threads++, j->running++)
    if (pthread_create(&j->thread[j->threads], NULL, work, j) != 0) break;
  pthread_mutex_unlock(&j->lock);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!j->threads) { /* fewer than wanted will do */
    ij_jobs_free(j);
    return ij_fail(IJ_ENOMEM, "no thread could be started");
  }
  *out = j;
  return IJ_OK;
}

ij_status ij_jobs_wait(ij_jobs *j, double seconds, bool *over) {
  ij_status st = IJ_OK;
  double end = ij_time() + seconds;
  pthread_mutex_lock(&j->lock);
  while (j->running && !ij_interrupted() && ij_time() < end) { /* in short waits, for Ctrl-C */
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 100000000;
    if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&j->ended, &j->lock, &t);
  }
  *over = !j->running;
  if (j->status != IJ_OK && *over) st = ij_fail(j->status, "%s", j->error ? j->error : "out of memory");
  else if (!*over && ij_interrupted()) st = ij_fail(IJ_EINTERRUPT, "interrupted");
  pthread_mutex_unlock(&j->lock);
  return st;
}

size_t ij_jobs_done(const ij_jobs *j) { return j->done; }

void ij_jobs_free(ij_jobs *j) {
  if (!j) return;
  j->stop = true;
  for (int i = 0; i < j->threads; i++) pthread_join(j->thread[i], NULL);
  pthread_mutex_destroy(&j->lock);
  pthread_cond_destroy(&j->ended);
  ij_free(j->thread);
  ij_free(j->error);
  ij_free(j);
}
