/* Between the emulator's own sources. One lock: calls may come from any thread, one at a time is worked on. */
#ifndef IJ_EMU_INTERNAL_H
#define IJ_EMU_INTERNAL_H
#include "emu.h"
#include "san.h"

namespace emu {
/* ---- block.cpp ---- */
enum { SHARED_STATIC = 48 << 10, SHARED_MOST = 99 << 10, STREAM_SLOTS = 4 }; /* bytes a block: those of sm_86, sm_120 */
void run_grid(const char *name, dim3 grid, dim3 block, size_t dynamic, Body *body, int slot);
const char *kernel_name(); /* of the one that runs, or "(host)" */
int garbage();             /* the byte that fills memory that nobody has written */
long seed();               /* IJ_EMU_SEED */
unsigned random_below(unsigned n);

/* ---- memory.cpp ---- */
bool is_device(const void *p); /* in a live block of the device */
bool is_pinned(const void *p);
bool in_device_space(const void *p);
/* All n bytes lie in one live block of the device, or pinned memory; else ends the process with `what`. */
void check_range(const void *p, size_t n, const char *what);
void check_canaries();
void memory_synced(); /* pools give back what they need not keep */
/* While one lives, device memory can be touched (in a build without sanitizers the host can't otherwise). */
struct Access {
  Access();
  ~Access();
};

/* ---- stream.cpp ---- */
/* What a stream does in its turn. run: false when it has to be tried again later (it waits for other processes). */
struct Work {
  virtual bool run() = 0;
  virtual ~Work() {}
};
void enqueue(cudaStream_t stream, Work *work, const char *what);
template <class F> struct Task : Work {
  F f;
  explicit Task(F g) : f(g) {}
  bool run() override { return f(), true; }
};
template <class F> void enqueue_call(cudaStream_t stream, const char *what, F f) {
  enqueue(stream, new Task<F>(f), what);
}
void drop_all(); /* the device is lost: queued work with it */
bool progress(); /* one operation of any stream; false: nothing could be done */
bool anything_queued();

/* ---- device.cpp ---- */
/* Every call begins with one: takes the lock, and says whether the device is there (IJ_EMU_FAULT). */
struct Enter {
  cudaError_t error;
  Enter(bool needs_device = true);
  ~Enter();
};
bool try_lock(); /* for a thread of the emulator's own */
void unlock();
cudaError_t failed(cudaError_t e); /* remembers it for cudaGetLastError and returns it */
cudaError_t state();               /* cudaSuccess, or that the device is lost */
void count_launch();
size_t gpu_bytes();
int device_count();
bool has_pools();
int device_number();     /* the current one */
extern bool in_callback; /* of cudaLaunchHostFunc: no call is allowed there */
} // namespace emu
#endif
