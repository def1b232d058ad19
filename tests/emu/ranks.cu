/* NCCL between processes: sums, broadcasts, a rank that hangs, two ranks on one device. ranks [N] */
#include "check.h"
#include <nccl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;
void expect(bool ok, const char *what) {
  if (!ok && failures++ < 5) printf("FAIL %s\n", what);
}

__global__ void add_one(float *x, int n) {
  int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) x[i] += 1;
}

/* A communicator that does not block is asked until its last call is through. */
static void settle(ncclComm_t comm) {
  ncclResult_t st = ncclInProgress;
  while (st == ncclInProgress) ncclCommGetAsyncError(comm, &st);
  expect(st == ncclSuccess, "a collective");
}

static void sums(ncclComm_t comm, int rank, int size) {
  enum { N = 700001 }; /* several slots full */
  std::vector<float> x(N);
  for (int i = 0; i < N; i++) x[i] = (float)(i % 1000 + rank);
  Device<float> d(x), r(x);
  cudaStream_t s;
  cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
  LAUNCH(add_one, N / 256 + 1, 256, 0, s, d.p, (int)N);
  ncclGroupStart();
  ncclAllReduce(d.p, d.p, N, ncclFloat32, ncclSum, comm, s);
  ncclReduce(r.p, r.p, N, ncclFloat32, ncclAvg, size - 1, comm, s);
  ncclGroupEnd();
  settle(comm);
  expect(cudaStreamSynchronize(s) == cudaSuccess, "waiting for a sum");
  x = d.read();
  for (int i = 0; i < N; i += 999)
    expect(x[i] == (float)(size * (i % 1000 + 1) + size * (size - 1) / 2), "ncclAllReduce");
  x = r.read();
  float mean = (float)(size - 1) / 2;
  for (int i = 0; i < N; i += 999)
    expect(x[i] == (float)(i % 1000) + (rank == size - 1 ? mean : (float)rank), "ncclReduce");
  ncclBroadcast(d.p, d.p, 1, ncclFloat32, 0, comm, s);
  settle(comm);
  if (rank == 0) LAUNCH(add_one, 1, 1, 0, s, d.p, 1);
  ncclBroadcast(d.p, d.p, 4, ncclUint8, 0, comm, s);
  settle(comm);
  cudaStreamSynchronize(s);
  expect(d.read()[0] == (float)(size + size * (size - 1) / 2 + 1), "ncclBroadcast");
  cudaStreamDestroy(s);
}

/* Rank 1 takes part in none: rank 0 looks at the clock, gives up and continues. */
static void hang(ncclComm_t comm, int rank) {
  Device<float> d(std::vector<float>(4, 1));
  cudaStream_t s;
  cudaEvent_t e;
  cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
  cudaEventCreate(&e);
  ncclAllReduce(d.p, d.p, 4, ncclFloat32, ncclSum, comm, s);
  settle(comm);
  cudaEventRecord(e, s);
  time_t until = time(nullptr) + 2;
  while (time(nullptr) < until && cudaEventQuery(e) == cudaErrorNotReady) usleep(1000);
  expect(cudaEventQuery(e) == cudaErrorNotReady, rank ? "a rank that hangs" : "a rank that waits for one that hangs");
  ncclCommAbort(comm);
  expect(cudaStreamSynchronize(s) == cudaSuccess, "a stream after its communicator was given up");
}

static int child(const char *what, ncclUniqueId id, int rank, int size) {
  ncclComm_t comm;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclResult_t st = ncclSuccess;
  config.blocking = 0;
  bool same = !strcmp(what, "same");
  cudaSetDevice(same ? 0 : rank);
  ncclResult_t begun = ncclCommInitRankConfig(&comm, size, id, rank, &config);
  if (begun == ncclInProgress) do
      ncclCommGetAsyncError(comm, &st);
    while (st == ncclInProgress);
  else st = begun;
  if (same) {
    expect(st == ncclInvalidUsage, "two ranks on one device are refused");
    ncclCommAbort(comm);
    return failures;
  }
  expect(st == ncclSuccess, "a communicator");
  if (!strcmp(what, "hang")) {
    hang(comm, rank);
  } else {
    sums(comm, rank, size);
    ncclCommDestroy(comm);
  }
  fflush(stdout);
  return failures;
}

static void run(const char *what, int size) {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  std::vector<pid_t> children;
  setenv("IJ_EMU_DEVICES", "8", 1);
  for (int r = 0; r < size; r++) {
    pid_t pid = fork();
    if (pid == 0) {
      failures = 0;
      _exit(child(what, id, r, size) ? 1 : 0);
    }
    children.push_back(pid);
  }
  for (pid_t pid : children) {
    int status = -1;
    waitpid(pid, &status, 0);
    expect(status == 0, what);
  }
}

int main() {
  run("sum", 2);
  run("sum", 4);
  run("same", 2);
  setenv("IJ_EMU_NCCL_HANG", "1", 1);
  run("hang", 2);
  return failures ? 1 : 0;
}
