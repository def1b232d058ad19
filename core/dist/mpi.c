/* libijepa_mpi.so: sums by MPI. Only the mover's thread calls it, from MPI_Init to MPI_Finalize. Not linked with the
 * core. */
#include "transport.h"
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct mpi {
  int (*stop)(void *);
  void *arg;
  char text[MPI_MAX_ERROR_STRING + 64];
} mpi;
enum { EAGER_CHECKS = 200, MOST = 1 << 28 };

static const char *wrong(mpi *m, int code, const char *what) {
  char why[MPI_MAX_ERROR_STRING];
  int n;
  if (code == MPI_SUCCESS) return NULL;
  if (MPI_Error_string(code, why, &n) != MPI_SUCCESS) why[0] = 0;
  snprintf(m->text, sizeof m->text, "%s: %s", what, why);
  return m->text;
}

/* Tests the request until it is done: MPI makes progress only inside of a call. The pauses leave the CPU to others. */
static const char *finish(mpi *m, MPI_Request *r, const char *what) {
  struct timespec pause = {0, 50000};
  for (int checks = 0;; checks++) {
    int done;
    const char *e = wrong(m, MPI_Test(r, &done, MPI_STATUS_IGNORE), what);
    if (e || done) return e;
    if (checks < EAGER_CHECKS) sched_yield();
    else nanosleep(&pause, NULL);
    if (checks % 64 == 63 && m->stop(m->arg)) return "interrupted: another process is gone";
  }
}

static const char *mpi_open(int (*stop)(void *), void *arg, int *rank, int *size, void **state) {
  static const char *const none = "MPI could not start";
  int level, on = 0;
  if (MPI_Initialized(&on) != MPI_SUCCESS || on) return "MPI runs already in this process";
  mpi *m = calloc(1, sizeof *m);
  if (!m) return "out of memory";
  m->stop = stop;
  m->arg = arg;
  *state = m;
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS) return none;
  if (level < MPI_THREAD_FUNNELED) return "this MPI does not support threads";
  const char *e = wrong(m, MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), none);
  if (!e) e = wrong(m, MPI_Comm_rank(MPI_COMM_WORLD, rank), none);
  if (!e) e = wrong(m, MPI_Comm_size(MPI_COMM_WORLD, size), none);
  return e;
}

/* All get the sum, also where one is enough: MPI_Ireduce of large arrays goes by many small parts, each of which waits
 * for our next check, and takes ten times as long. */
static const char *mpi_sum(void *state, float *x, size_t n, int root) {
  mpi *m = state;
  const char *e = NULL;
  (void)root;
  for (size_t offset = 0; offset < n && !e; offset += MOST) {
    int count = (int)(n - offset < MOST ? n - offset : MOST);
    MPI_Request r;
    e = wrong(m, MPI_Iallreduce(MPI_IN_PLACE, x + offset, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD, &r), "a sum");
    if (!e) e = finish(m, &r, "a sum");
  }
  return e;
}

static const char *mpi_broadcast(void *state, void *x, size_t bytes, int root) {
  mpi *m = state;
  const char *e = NULL;
  for (size_t offset = 0; offset < bytes && !e; offset += MOST) {
    MPI_Request r;
    int count = (int)(bytes - offset < MOST ? bytes - offset : MOST);
    e = wrong(m, MPI_Ibcast((char *)x + offset, count, MPI_BYTE, root, MPI_COMM_WORLD, &r), "handing out");
    if (!e) e = finish(m, &r, "handing out");
  }
  return e;
}

static void mpi_close(void *state, int in_order) {
  if (in_order) MPI_Finalize(); /* else a process is gone, and it would wait forever */
  free(state);
}

/* The plug-in's one symbol. */
__attribute__((visibility("default"))) const ij_transport *ij_transport_mpi(void);
const ij_transport *ij_transport_mpi(void) {
  static const ij_transport t = {IJ_TRANSPORT_ABI, mpi_open, mpi_sum, mpi_broadcast, mpi_close};
  return &t;
}
