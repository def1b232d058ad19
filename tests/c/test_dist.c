/* Processes: what the environment says, sums and broadcasts over the ring, buckets of an optimizer, and the ways to
 * end. */
#include "../../core/dist/dist.h"
#include "suite.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const variables[] = {
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMI_SIZE",         "PMI_RANK",
    "SLURM_STEP_NUM_TASKS", "SLURM_PROCID",         "SLURM_STEP_NODELIST",        "SLURM_NODELIST",   "SLURM_JOB_ID",
    "SLURM_STEP_ID",        "IJEPA_DIST",           "IJEPA_MASTER_ADDR",          "IJEPA_MASTER_PORT"};
static void clear(void) {
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) unsetenv(variables[i]);
}

START_TEST(first_hosts_of_node_lists)
{
  static const char *const right[][2] = {{"n1", "n1"},
                                         {"n1,n2", "n1"},
                                         {"node[03-07]", "node03"},
                                         {"a[1,5-9],b", "a1"},
                                         {"gpu[012]-ib,x", "gpu012-ib"},
                                         {"h.example.org", "h.example.org"}};
  char host[64];
  for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
    ck_assert_msg(ij_first_host(right[i][0], host, sizeof host), "%s", right[i][0]);
    ck_assert_str_eq(host, right[i][1]);
  }
  ck_assert(!ij_first_host("", host, sizeof host));
  ck_assert(!ij_first_host("a[1", host, sizeof host));
  ck_assert(!ij_first_host("a[1]b[2]", host, sizeof host));
  ck_assert(!ij_first_host("a-name-that-has-no-room", host, 8));
}
END_TEST

START_TEST(the_environment_says_who_we_are)
{
  ij_launch p, q;
  clear();
  ck_assert_int_eq(ij_launch_find(NULL, &p), IJ_OK);
  ck_assert_str_eq(p.transport, "none");
  ck_assert_int_eq(p.size, 1);
  setenv("SLURM_PROCID", "0", 1); /* a batch script, not a step of srun */
  setenv("SLURM_NTASKS", "4", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &p), IJ_OK);
  ck_assert_int_eq(p.size, 1);
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("SLURM_PROCID", "2", 1);
  setenv("SLURM_STEP_NODELIST", "n[07-08]", 1);
  setenv("SLURM_JOB_ID", "77", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &p), IJ_OK);
  ck_assert_str_eq(p.transport, "tcp");
  ck_assert_str_eq(p.host, "n07");
  ck_assert_int_eq(p.rank, 2);
  ck_assert_int_eq(p.size, 4);
  ck_assert_int_ge(p.port, 1024);
  setenv("SLURM_PROCID", "3", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_OK);
  ck_assert(q.port == p.port && q.token == p.token);
  setenv("SLURM_JOB_ID", "78", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_OK);
  ck_assert(q.token != p.token);
  setenv("IJEPA_MASTER_ADDR", "10.0.0.1", 1);
  setenv("IJEPA_MASTER_PORT", "12345", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_OK);
  ck_assert_str_eq(q.host, "10.0.0.1");
  ck_assert_int_eq(q.port, 12345);
  setenv("OMPI_COMM_WORLD_SIZE", "3", 1); /* mpirun inside of a job */
  setenv("OMPI_COMM_WORLD_RANK", "1", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_OK);
  ck_assert_str_eq(q.transport, "mpi");
  ck_assert_int_eq(q.size, 3);
  ck_assert_int_eq(ij_launch_find("tcp", &q), IJ_OK);
  ck_assert_str_eq(q.transport, "tcp");
  setenv("SLURM_STEP_ID", "0", 1); /* a process on another machine, below the daemon that mpirun starts there by srun */
  ck_assert_int_eq(ij_launch_find("tcp", &p), IJ_OK);
  ck_assert(q.token == p.token);
  ck_assert_int_eq(ij_launch_find("smoke", &q), IJ_EINVAL);
  setenv("OMPI_COMM_WORLD_RANK", "3", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_EINVAL);
  clear();
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("SLURM_PROCID", "4", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_EINVAL);
  clear();
  setenv("IJEPA_DIST", "tcp", 1);
  ck_assert_int_eq(ij_launch_find(NULL, &q), IJ_EINVAL); /* nobody started several */
  clear();
}
END_TEST

/* ---- several processes: each runs f and says by its exit code whether all was right */
typedef int (*body)(ij_dist *d);
static int job;

static pid_t begin(int rank, int size, double timeout, body f) {
  pid_t child = fork();
  if (child) return child;
  char text[3][32];
  snprintf(text[0], 32, "%d", rank);
  snprintf(text[1], 32, "%d", size);
  snprintf(text[2], 32, "%d.%d", (int)getppid(), job);
  clear();
  setenv("SLURM_PROCID", text[0], 1);
  setenv("SLURM_STEP_NUM_TASKS", text[1], 1);
  setenv("SLURM_JOB_ID", text[2], 1);
  setenv("SLURM_STEP_NODELIST", "localhost", 1);
  ij_threads_set(1);
  ij_dist *d;
  int code = ij_dist_open(NULL, timeout, &d) == IJ_OK ? 0 : 1;
  if (code) fprintf(stderr, "%s\n", ij_errmsg());
  else {
    code = f(d);
    ij_dist_close(d);
  }
  if (!code && ij_mem_live()) code = 99;
  _exit(code);
}
static void together(int size, double timeout, body f, int *code) {
  pid_t child[8];
  job++;
  for (int r = 0; r < size; r++) child[r] = begin(r, size, timeout, f);
  for (int r = 0; r < size; r++) {
    int status;
    waitpid(child[r], &status, 0);
    code[r] = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
}
#define WANT(what)                                                                                                     \
  do {                                                                                                                 \
    if (!(what)) {                                                                                                     \
      fprintf(stderr, "line %d: %s: %s\n", __LINE__, #what, ij_errmsg());                                              \
      return 2;                                                                                                        \
    }                                                                                                                  \
  } while (0)

static int small_things(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  double x[3] = {1, at.rank, at.rank * .1};
  char text[16];
  WANT(at.size == 4 && at.local_rank == at.rank && at.local_size == 4 && at.threads >= 1);
  WANT(ij_dist_sum(d, x, 3) == IJ_OK && x[0] == 4 && x[1] == 6 && x[2] == 0 + .1 + .2 + 3 * .1);
  snprintf(text, sizeof text, "from %d", at.rank);
  WANT(ij_dist_broadcast(d, text, sizeof text) == IJ_OK && !strcmp(text, "from 0"));
  for (int i = 0; i < 50; i++) WANT(ij_dist_barrier(d, 0) == IJ_OK);
  return 0;
}

static int tensors(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  static const int64_t sizes[] = {1, 2, 3, 7, 1000, 300001};
  for (int guard = 0; guard < 2; guard++)
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
      int64_t n = sizes[k], ticket[2];
      ij_device *dev;
      ij_tensor *t;
      float *v = malloc((size_t)n * sizeof *v);
      WANT(ij_device_open(guard ? "guard" : "cpu", &dev) == IJ_OK);
      WANT(ij_tensor_new_kept(dev, IJ_F32, 1, &n, &t) == IJ_OK);
      for (int64_t i = 0; i < n; i++) v[i] = (float)(i % 1000) * (float)(at.rank + 1);
      WANT(ij_tensor_write(t, v, (size_t)n * sizeof *v) == IJ_OK);
      WANT(ij_dist_sum_begin(d, t, n, -1, &ticket[0]) == IJ_OK);
      WANT(ij_dist_finish(d, ticket[0]) == IJ_OK);
      WANT(ij_tensor_read(t, v, (size_t)n * sizeof *v) == IJ_OK);
      for (int64_t i = 0; i < n; i++) WANT(v[i] == (float)(i % 1000 * at.size * (at.size + 1) / 2));
      for (int64_t i = 0; i < n; i++) v[i] = (float)(i + at.rank);
      WANT(ij_tensor_write(t, v, (size_t)n * sizeof *v) == IJ_OK);
      WANT(ij_dist_tensor(d, t, at.size - 1) == IJ_OK);
      WANT(ij_tensor_read(t, v, (size_t)n * sizeof *v) == IJ_OK);
      for (int64_t i = 0; i < n; i++) WANT(v[i] == (float)(i + at.size - 1));
      ij_tensor_free(t);
      ij_device_close(dev);
      free(v);
    }
  return 0;
}

START_TEST(small_things_and_tensors)
{
  int code[4];
  together(4, 20, small_things, code);
  for (int r = 0; r < 4; r++) ck_assert_int_eq(code[r], 0);
  for (int size = 2; size <= 4; size++) {
    together(size, 20, tensors, code);
    for (int r = 0; r < size; r++) ck_assert_int_eq(code[r], 0);
  }
}
END_TEST

/* ---- an optimizer: three updates of parameters whose gradients are those of sum(w * p), w by process */
enum { TENSORS = 9, UPDATES = 3 };
typedef struct outcome {
  float p[TENSORS][200], average[TENSORS][200];
  double norm;
} outcome;

static int optimise(ij_dist *d, int shard, int clip, int procs, int rank, outcome *out) {
  ij_device *dev;
  ij_tensor *p[TENSORS], *average[TENSORS];
  ij_optim *o;
  ij_optim_config c = {.dist = d, .shard = shard, .bucket = 1200};
  WANT(ij_device_open("cpu", &dev) == IJ_OK && ij_adamw_new(&c, &o) == IJ_OK);
  for (int i = 0; i < TENSORS; i++) {
    int64_t n = 1 + i * i * 3;
    WANT(ij_tensor_new_kept(dev, IJ_F32, 1, &n, &p[i]) == IJ_OK && ij_fill(p[i], 1 + .1 * i) == IJ_OK);
    WANT(ij_tensor_clone(p[i], IJ_F32, 1, &average[i]) == IJ_OK);
    ij_tensor_require_grad(p[i], 1);
    WANT(ij_optim_add(o, p[i], i % 2, i % 3 ? average[i] : NULL) == IJ_OK);
  }
  ij_optim_watch(o, 3, 1);
  for (int u = 0; u < UPDATES; u++) {
    for (int r = 0; r < 3; r++) { /* one process does the work of all three */
      if (procs > 1 && r != rank) continue;
      ij_step_begin(dev);
      for (int i = 0; i < TENSORS - 1; i++) { /* the last is never used */
        ij_tensor *y, *mean;
        WANT(ij_scalar("mul", p[i], .25 * (r + 1) * (i + 1), 0, &y) == IJ_OK && ij_mean(y, -1, &mean) == IJ_OK);
        WANT(ij_backward(mean, 0) == IJ_OK);
        ij_tensor_free(y);
        ij_tensor_free(mean);
      }
      ij_step_end(dev);
    }
    double scale = 1. / 3, norm;
    int finite;
    if (clip) {
      WANT(ij_optim_norm(o, &norm, &finite) == IJ_OK && finite);
      out->norm = norm;
    }
    WANT(ij_optim_step(o, 1e-2, .1, .9, scale) == IJ_OK);
  }
  for (int i = 0; i < TENSORS; i++) {
    size_t n = (size_t)ij_tensor_count(p[i]) * sizeof(float);
    int owner = ij_optim_owner(o, i);
    WANT(ij_tensor_read(p[i], out->p[i], n) == IJ_OK && ij_tensor_read(average[i], out->average[i], n) == IJ_OK);
    WANT((owner >= 0) == (shard && procs > 1));
    WANT((ij_optim_state(o, i, 0) != NULL) == (owner < 0 || owner == rank));
    ij_tensor_free(p[i]);
    ij_tensor_free(average[i]);
  }
  WANT(ij_optim_grad_norm(o, 3) > 0);
  ij_optim_free(o);
  ij_device_close(dev);
  return 0;
}

static int optimisers(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  static outcome one, plain, sharded;
  for (int clip = 0; clip < 2; clip++) {
    memset(&one, 0, sizeof one);
    memset(&plain, 0, sizeof plain);
    memset(&sharded, 0, sizeof sharded);
    WANT(optimise(NULL, 0, clip, 1, 0, &one) == 0);
    WANT(optimise(d, 0, clip, 3, at.rank, &plain) == 0);
    WANT(optimise(d, 1, clip, 3, at.rank, &sharded) == 0);
    WANT(!memcmp(plain.p, sharded.p, sizeof plain.p));
    WANT(!memcmp(plain.average, sharded.average, sizeof plain.average));
    WANT(fabs(plain.norm - one.norm) <= 1e-6 * one.norm && fabs(sharded.norm - plain.norm) <= 1e-6 * plain.norm);
    for (int i = 0; i < TENSORS; i++)
      for (int k = 0; k < 200; k++) { /* sums in another order: a few roundings */
        WANT(fabsf(one.p[i][k] - plain.p[i][k]) <= 1e-6f);
        WANT(fabsf(one.average[i][k] - plain.average[i][k]) <= 1e-6f);
      }
  }
  return 0;
}

START_TEST(buckets_and_shards_give_what_one_process_gets)
{
  int code[3];
  together(3, 20, optimisers, code);
  for (int r = 0; r < 3; r++) ck_assert_int_eq(code[r], 0);
}
END_TEST

/* ---- ends */
/* The others may still be on their way out of a barrier, which a death would end. */
static void die(void) {
  usleep(500000);
  kill(getpid(), SIGKILL);
}
static int one_dies(ij_dist *d) {
  ij_dist_info at;
  double x = 1;
  ij_dist_look(d, &at);
  WANT(ij_dist_barrier(d, 0) == IJ_OK);
  if (at.rank == 1) die();
  double began = ij_time();
  WANT(ij_dist_sum(d, &x, 1) == IJ_EIO);
  WANT(ij_time() - began < 5 && ij_dist_lost(d));
  WANT(strstr(ij_errmsg(), "process 1 (") && strstr(ij_errmsg(), " is gone"));
  return 7;
}
static int first_dies_in_a_sum(ij_dist *d) {
  ij_dist_info at;
  ij_device *dev;
  ij_tensor *t;
  int64_t n = 100000, ticket;
  ij_dist_look(d, &at);
  WANT(ij_device_open("cpu", &dev) == IJ_OK && ij_tensor_new_kept(dev, IJ_F32, 1, &n, &t) == IJ_OK &&
       ij_fill(t, 1) == IJ_OK);
  WANT(ij_dist_barrier(d, 0) == IJ_OK);
  if (at.rank == 0) die();
  WANT(ij_dist_sum_begin(d, t, n, -1, &ticket) == IJ_EIO || ij_dist_finish(d, ticket) == IJ_EIO);
  WANT(strstr(ij_errmsg(), "process 0 (") && strstr(ij_errmsg(), " is gone"));
  return 7;
}
static int one_gives_up(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  WANT(ij_dist_barrier(d, 0) == IJ_OK); /* all have met */
  if (at.rank == 2) ij_dist_fail(d, "no more images");
  else {
    WANT(ij_dist_barrier(d, 0) == IJ_EIO);
    WANT(strstr(ij_errmsg(), "process 2 stopped: no more images"));
  }
  return 7;
}
static int one_is_late(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  WANT(ij_dist_barrier(d, 0) == IJ_OK);
  if (at.rank == 2) sleep(6);
  else {
    WANT(ij_dist_barrier(d, 0) == IJ_EIO);
    WANT(strstr(ij_errmsg(), "process 2 (") && strstr(ij_errmsg(), "did not join the others within 2 seconds"));
  }
  return 7;
}
static int one_is_stopped(ij_dist *d) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  WANT(ij_dist_barrier(d, 0) == IJ_OK);
  if (at.rank == 1) {
    pid_t me = getpid();
    if (fork() == 0) {
      sleep(9);
      kill(me, SIGKILL);
      _exit(0);
    }
    raise(SIGSTOP);
  }
  WANT(ij_dist_barrier(d, 0) == IJ_EIO);
  WANT(strstr(ij_errmsg(), "process 1 (") && strstr(ij_errmsg(), "no longer answers"));
  return 7;
}

START_TEST(all_end_when_one_does)
{
  int code[3];
  together(3, 20, one_dies, code);
  ck_assert(code[0] == 7 && code[1] == -SIGKILL && code[2] == 7);
  together(3, 20, first_dies_in_a_sum, code);
  ck_assert(code[0] == -SIGKILL && code[1] == 7 && code[2] == 7);
  together(3, 20, one_gives_up, code);
  ck_assert(code[0] == 7 && code[1] == 7 && code[2] == 7);
  together(3, 2, one_is_late, code);
  ck_assert(code[0] == 7 && code[1] == 7 && code[2] == 7);
  together(3, 5, one_is_stopped, code);
  ck_assert(code[0] == 7 && code[1] == -SIGKILL && code[2] == 7);
}
END_TEST

/* Process `late` comes 12 s after the others; what they write on stderr goes into a file. */
static char waits[80];
static int one_takes_its_time(ij_dist *d, int late, double limit) {
  ij_dist_info at;
  ij_dist_look(d, &at);
  WANT(freopen(waits, "a", stderr) && !setvbuf(stderr, NULL, _IONBF, 0));
  WANT(ij_dist_barrier(d, 0) == IJ_OK);
  if (at.rank == late) sleep(12);
  WANT(ij_dist_barrier(d, limit) == IJ_OK);
  return 0;
}
static int last_takes_its_time(ij_dist *d) { return one_takes_its_time(d, 2, 0); }
static int first_takes_its_time(ij_dist *d) { return one_takes_its_time(d, 0, -1); }
static void said(body f, char text[600]) {
  int code[3];
  snprintf(waits, sizeof waits, "/tmp/ijepa_waits_%d", (int)getpid());
  remove(waits);
  together(3, 60, f, code);
  ck_assert(code[0] == 0 && code[1] == 0 && code[2] == 0);
  FILE *file = fopen(waits, "r");
  ck_assert_ptr_nonnull(file);
  text[fread(text, 1, 599, file)] = 0;
  fclose(file);
  remove(waits);
}

START_TEST(a_long_wait_says_for_whom)
{
  char text[600];
  int pid, end = -1;
  said(last_takes_its_time, text);
  sscanf(text,
         "ijepa: process 0 of 3 waits for process 2 (%d on %*[^)]), which is at work, up to 60 seconds "
         "(dist.timeout); SLURM_STEP_NUM_TASKS=3 made it one of several: IJEPA_DIST=none runs it alone%n",
         &pid, &end);
  ck_assert_msg(end > 0 && !strcmp(text + end, "\n"), "%s", text);
  said(first_takes_its_time, text);
  end = -1;
  sscanf(text,
         "ijepa: process 1 of 3 waits for process 0 (%d on %*[^)]), which is at work; "
         "SLURM_STEP_NUM_TASKS=3 made it one of several: IJEPA_DIST=none runs it alone%n",
         &pid, &end);
  ck_assert_msg(end > 0 && !strcmp(text + end, "\n"), "%s", text);
}
END_TEST

START_TEST(who_does_not_come_is_named)
{
  clear();
  char own[16]; /* its hash is the port: not that of another run of this test */
  snprintf(own, sizeof own, "%d", (int)getpid());
  setenv("SLURM_JOB_ID", own, 1);
  setenv("SLURM_PROCID", "0", 1);
  setenv("SLURM_STEP_NUM_TASKS", "3", 1);
  setenv("SLURM_STEP_NODELIST", "localhost", 1);
  ij_dist *d;
  ck_assert_int_eq(ij_dist_open(NULL, 1, &d), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "of 3, 2 did not come within 1 second ("));
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), ": 1, 2"));
  setenv("SLURM_PROCID", "1", 1);
  ck_assert_int_eq(ij_dist_open(NULL, 1, &d), IJ_EIO);
  ck_assert_ptr_nonnull(strstr(ij_errmsg(), "number 1 could not reach number 0"));
  ck_assert_uint_eq(ij_mem_live(), 0);
  clear();
}
END_TEST

int main(void) {
  Suite *s = suite_create("dist");
  TCase *t = tcase_create("dist");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, first_hosts_of_node_lists);
  tcase_add_test(t, the_environment_says_who_we_are);
  tcase_add_test(t, small_things_and_tensors);
  tcase_add_test(t, buckets_and_shards_give_what_one_process_gets);
  tcase_add_test(t, all_end_when_one_does);
  tcase_add_test(t, a_long_wait_says_for_whom);
  tcase_add_test(t, who_does_not_come_is_named);
  suite_add_tcase(s, t);
  return run_suite(s);
}
