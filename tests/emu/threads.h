/* Between block.cpp and warp.cpp: the threads of the block that runs. */
#ifndef IJ_EMU_THREADS_H
#define IJ_EMU_THREADS_H
#include "emu.h"

namespace emu {
enum { THREADS = 1024, PENDING = 4, COPIES = 128 };
enum State { NEW, READY, IN_WARP, AT_BARRIER, ENDED };
struct Fiber;
struct Copy { /* one of cp.async's */
  void *to;
  const void *from;
  unsigned n, zeros;
  int group;
};
struct Thread {
  uint3 index;
  int number;
  State state;
  Fiber *fiber;
  Site at; /* where it waits */
  Copy copy[COPIES];
  int copies, groups;
};
/* Lanes of a warp that wait for each other */
struct Group {
  bool used;
  Op op;
  unsigned mask, arrived;
  Site at;
  Payload io[32];
};
struct Warp {
  unsigned ended;
  int pending, phase;
  Group group[PENDING];
  char sync[2];
};
extern Thread threads[THREADS];
extern Warp warps[THREADS / 32];
extern int thread_count;
extern Thread *current;

inline bool same(const Site &a, const Site &b) {
  return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}
void make_ready(Thread *t);
void wait_here(State state, Site at); /* lets other threads run until this one is made ready */

void reset_warps();
void leave_warp(Thread *t);         /* t ended: who waits for it alone continues */
void refuse_if_warp_waits(Site at); /* at a barrier: a lane of a mask that others wait for can't come any more */
void finish_copies();               /* the current thread's cp.async, as at its end */
} // namespace emu
#endif
