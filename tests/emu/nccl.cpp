/* NCCL between processes of one machine: a communicator is a file in shared memory with a slot a rank. Sums are taken
 * in the order of the ranks. A collective waits in its stream until all have come, however long; while some do, a
 * thread keeps this process' streams going, as a GPU would. IJ_EMU_NCCL_HANG=RANK[:N]: from its Nth collective on (1)
 * this rank takes part in none. A collective of a communicator that does not block is "in progress" for some looks, and
 * another one before that has settled ends the program. */
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

namespace emu {
enum { LOOKS = 3, SLOT = 1 << 20, RANKS = 64, NAME = 64 };
enum Kind { ALL_REDUCE, REDUCE, BROADCAST };
struct Call { /* what all ranks must agree on */
  int kind, type, op, root;
  uint64_t count;
};
struct Seat {
  int present, device;
  uint64_t posted, taken; /* rounds whose data lie in the slot; that this rank has read all of */
  Call call;
};
struct Shared {
  Seat seat[RANKS];
};
} // namespace emu

struct ncclComm {
  int rank, size, users, unsettled; /* looks for which a call is still "in progress" */
  bool blocking;
  bool ready, aborted;
  emu::Shared *shared;
  char *slots;
  size_t bytes;
  char name[emu::NAME];
  uint64_t round, calls;
};

namespace emu {
static const char *const kinds[] = {"ncclAllReduce", "ncclReduce", "ncclBroadcast"};
static int comms, group_depth;
static long waiting; /* collectives that are queued */
static bool stop;
static pthread_t keeper;

template <class T> static T load(const T &x) { return __atomic_load_n(&x, __ATOMIC_ACQUIRE); }
template <class T> static void store(T &x, T v) { __atomic_store_n(&x, v, __ATOMIC_RELEASE); }

static void nap() {
  timespec t = {0, 200000};
  nanosleep(&t, nullptr);
}
static void *keep_going(void *) {
  while (!load(stop)) {
    nap();
    if (!try_lock()) continue;
    if (waiting && !state()) {
      Access open;
      for (int i = 0; i < 100 && waiting && progress(); i++) {}
    }
    unlock();
  }
  return nullptr;
}

static size_t size_of(ncclDataType_t t) {
  switch (t) {
  case ncclFloat32:
  case ncclInt32:
  case ncclUint32:
    return 4;
  case ncclBfloat16:
  case ncclFloat16:
    return 2;
  case ncclFloat64:
  case ncclInt64:
  case ncclUint64:
    return 8;
  default:
    return 1;
  }
}
static bool can_sum(ncclDataType_t t) {
  return t == ncclFloat32 || t == ncclBfloat16 || t == ncclFloat64 || t == ncclInt32 || t == ncclInt64;
}

static bool hangs(const ncclComm *c) {
  const char *text = getenv("IJ_EMU_NCCL_HANG");
  int rank = -1;
  unsigned long from = 1;
  return text && sscanf(text, "%d:%lu", &rank, &from) >= 1 && rank == c->rank && c->calls >= from;
}

/* ---- one collective, a slot full at a time ---- */
template <class T, class Sum> static void reduce(const ncclComm *c, int op, T *out, size_t n) {
  for (size_t i = 0; i < n; i++) {
    Sum sum = 0;
    for (int r = 0; r < c->size; r++) {
      Sum x = (Sum)((const T *)(c->slots + (size_t)r * SLOT))[i];
      if (!r) sum = x;
      else if (op == ncclMax) sum = x > sum ? x : sum;
      else if (op == ncclMin) sum = x < sum ? x : sum;
      else sum = sum + x;
    }
    out[i] = (T)(op == ncclAvg ? sum / (Sum)c->size : sum);
  }
}

struct Collective : Work {
  ncclComm *comm;
  Call call;
  const char *from;
  char *to;
  size_t done = 0;
  bool posted = false, begun = false;

  ~Collective() override {
    waiting--;
    if (!--comm->users) delete comm;
  }
  size_t size() const { return size_of((ncclDataType_t)call.type); }
  bool receives() const { return call.kind != REDUCE || comm->rank == call.root; }
  bool sends() const { return call.kind != BROADCAST || comm->rank == call.root; }

  bool all(uint64_t Seat::*what, uint64_t least) const {
    for (int r = 0; r < comm->size; r++)
      if (load(comm->shared->seat[r].*what) < least) return false;
    return true;
  }
  void agree() const {
    for (int r = 0; r < comm->size; r++) {
      const Call &other = comm->shared->seat[r].call;
      if (memcmp(&other, &call, sizeof call))
        fail("%s of %llu elements of type %d, root %d, while rank %d is in %s of %llu of type %d, root %d",
             kinds[call.kind], (unsigned long long)call.count, call.type, call.root, r, kinds[other.kind],
             (unsigned long long)other.count, other.type, other.root);
    }
  }
  void begin() {
    begun = true;
    comm->calls++;
    size_t n = call.count * size();
    if (sends()) check_range(from, n, kinds[call.kind]), will_read(from, n);
    if (receives()) check_range(to, n, kinds[call.kind]), will_write(to, n);
  }
  void post(size_t bytes) {
    Seat &me = comm->shared->seat[comm->rank];
    if (sends()) memcpy(comm->slots + (size_t)comm->rank * SLOT, from + done, bytes);
    me.call = call;
    store(me.posted, comm->round + 1);
    posted = true;
  }
  void take(size_t bytes) {
    size_t n = bytes / size();
    char *out = to + done;
    if (call.kind == BROADCAST) memcpy(out, comm->slots + (size_t)call.root * SLOT, bytes);
    else if (call.type == ncclFloat32) reduce<float, float>(comm, call.op, (float *)out, n);
    else if (call.type == ncclFloat64) reduce<double, double>(comm, call.op, (double *)out, n);
    else if (call.type == ncclInt32) reduce<int32_t, int32_t>(comm, call.op, (int32_t *)out, n);
    else if (call.type == ncclInt64) reduce<int64_t, int64_t>(comm, call.op, (int64_t *)out, n);
    else reduce<__nv_bfloat16, float>(comm, call.op, (__nv_bfloat16 *)out, n);
  }
  bool run() override {
    if (comm->aborted) return true;
    if (!begun) begin();
    if (hangs(comm)) return false;
    size_t left = call.count * size() - done, bytes = left < SLOT ? left : (size_t)SLOT;
    if (!posted) {
      if (!all(&Seat::taken, comm->round)) return false; /* a slot is still being read */
      post(bytes);
    }
    if (!all(&Seat::posted, comm->round + 1)) return false;
    agree();
    if (receives()) take(bytes);
    comm->round++;
    store(comm->shared->seat[comm->rank].taken, comm->round);
    posted = false;
    done += bytes;
    return done == call.count * size();
  }
};

static ncclResult_t queue(Kind kind, const void *from, void *to, size_t count, ncclDataType_t type, int op, int root,
                          ncclComm *comm, cudaStream_t stream) {
  Enter entered;
  if (entered.error) return ncclUnhandledCudaError;
  if (!comm || comm->aborted || !comm->ready || root >= comm->size || root < 0) return ncclInvalidArgument;
  if (kind != BROADCAST && (!can_sum(type) || op == ncclProd || op > ncclAvg)) return ncclInvalidArgument;
  if (comm->unsettled && !group_depth) fail("%s while the call before it is in progress", kinds[kind]);
  if (!comm->blocking) comm->unsettled = LOOKS;
  Collective *work = new Collective();
  work->comm = comm;
  work->call = {kind, (int)type, op, root, count};
  work->from = (const char *)from;
  work->to = (char *)to;
  comm->users++;
  waiting++;
  enqueue(stream, work, kinds[kind]);
  return comm->blocking ? ncclSuccess : ncclInProgress;
}

/* ---- coming and going ---- */
static ncclResult_t open_shared(ncclComm *c) {
  c->bytes = sizeof(Shared) + (size_t)c->size * SLOT;
  int fd = shm_open(c->name, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, (off_t)c->bytes)) return ncclSystemError;
  void *p = mmap(nullptr, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (p == MAP_FAILED) return ncclSystemError;
  c->shared = (Shared *)p;
  c->slots = (char *)(c->shared + 1);
  Seat &me = c->shared->seat[c->rank];
  me.device = device_number();
  store(me.present, 1);
  return ncclSuccess;
}

static ncclResult_t arrive(ncclComm *c) { /* ncclInProgress until all are there */
  if (c->ready) return ncclSuccess;
  for (int r = 0; r < c->size; r++)
    if (!load(c->shared->seat[r].present)) return ncclInProgress;
  for (int r = 0; r < c->size; r++)
    if (r != c->rank && c->shared->seat[r].device == c->shared->seat[c->rank].device) {
      fprintf(stderr, "emulator: NCCL: ranks %d and %d are on the same device %d\n", c->rank, r, device_number());
      return ncclInvalidUsage;
    }
  c->ready = true;
  if (!c->rank) shm_unlink(c->name);
  if (c->size > 1 && !comms++) {
    store(stop, false);
    pthread_create(&keeper, nullptr, keep_going, nullptr);
  }
  return ncclSuccess;
}

static ncclResult_t join(ncclComm_t *out, int size, ncclUniqueId id, int rank, bool blocking) {
  Enter entered;
  if (entered.error) return ncclUnhandledCudaError;
  if (size < 1 || size > RANKS || rank < 0 || rank >= size) return ncclInvalidArgument;
  if (group_depth) fail("a communicator made inside of a group is not emulated");
  ncclComm *c = new ncclComm();
  c->rank = rank;
  c->size = size;
  c->users = 1;
  c->blocking = blocking;
  memcpy(c->name, id.internal, NAME - 1);
  ncclResult_t st = open_shared(c);
  *out = c;
  if (st) return st;
  while ((st = arrive(c)) == ncclInProgress && blocking) nap();
  return st;
}

static void leave(ncclComm *c) {
  if (c->ready && c->size > 1 && !--comms) { /* it never waits for the lock that we hold */
    store(stop, true);
    pthread_join(keeper, nullptr);
  }
  if (!c->ready && !c->rank) shm_unlink(c->name);
  munmap(c->shared, c->bytes);
  c->aborted = true; /* what is still queued does nothing */
  if (!--c->users) delete c;
}
} // namespace emu

using namespace emu;
extern "C" {
ncclResult_t ncclGetVersion(int *out) {
  *out = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made;
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  memset(id, 0, sizeof *id);
  snprintf(id->internal, NAME, "/ij-emu-%d-%d-%lx", (int)getpid(), made++, (unsigned long)t.tv_nsec);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRank(ncclComm_t *out, int size, ncclUniqueId id, int rank) {
  return join(out, size, id, rank, true);
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int size, ncclUniqueId id, int rank, ncclConfig_t *config) {
  return join(out, size, id, rank, !config || config->blocking != 0);
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *out) {
  Enter entered(false);
  *out = arrive(c);
  if (*out == ncclSuccess && c->unsettled) {
    c->unsettled--;
    *out = ncclInProgress;
  }
  return ncclSuccess;
}
ncclResult_t ncclCommCount(const ncclComm_t c, int *out) {
  *out = c->size;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t c, int *out) {
  *out = c->rank;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t c) {
  Enter entered(false);
  Access open;
  while (c->users > 1 && !state())
    if (!progress()) nap();
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
  if (!c) return ncclSuccess;
  ncclCommFinalize(c);
  Enter entered(false);
  leave(c);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
  Enter entered(false);
  if (c) leave(c);
  return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op, ncclComm_t c,
                           cudaStream_t s) {
  return queue(ALL_REDUCE, from, to, n, type, op, 0, c, s);
}
ncclResult_t ncclReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t c, cudaStream_t s) {
  return queue(REDUCE, from, to, n, type, op, root, c, s);
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t s) {
  return queue(BROADCAST, from, to, n, type, ncclSum, root, c, s);
}
ncclResult_t ncclBcast(void *p, size_t n, ncclDataType_t type, int root, ncclComm_t c, cudaStream_t s) {
  return ncclBroadcast(p, p, n, type, root, c, s);
}
ncclResult_t ncclGroupStart(void) {
  group_depth++;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
  if (group_depth < 1) return ncclInvalidUsage;
  group_depth--;
  return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t e) {
  static const char *const text[] = {"no error",
                                     "unhandled cuda error",
                                     "unhandled system error",
                                     "internal error",
                                     "invalid argument",
                                     "invalid usage",
                                     "remote process exited or there was a network error",
                                     "NCCL operation in progress"};
  return e >= 0 && e < ncclNumResults ? text[e] : "unknown result";
}
const char *ncclGetLastError(ncclComm_t) { return ""; }
}
