/* Times of a profile: events of the queue's stream. */
#include "marks.h"
#include "memory.h"

ij_status ij_cuda_mark(ij_queue *q, void **m) {
  ij_cuda *c = ij_cuda_enter(q);
  cudaEvent_t e = (cudaEvent_t)*m;
  if (!e) {
    IJ_TRY(ij_cuda_status(cudaEventCreate(&e), "making an event"));
    *m = e;
  }
  return ij_cuda_status(cudaEventRecord(e, c->stream), "recording an event");
}

ij_status ij_cuda_between(ij_queue *q, void *from, void *to, double *seconds) {
  float ms = 0;
  ij_cuda_enter(q);
  *seconds = 0;
  if (from == to) return IJ_OK;
  IJ_TRY(ij_cuda_status(cudaEventSynchronize((cudaEvent_t)to), "waiting for an event"));
  IJ_TRY(ij_cuda_status(cudaEventElapsedTime(&ms, (cudaEvent_t)from, (cudaEvent_t)to), "timing an event"));
  *seconds = ms / 1e3;
  return IJ_OK;
}

void ij_cuda_unmark(ij_queue *q, void *m) {
  ij_cuda_enter(q);
  cudaEventDestroy((cudaEvent_t)m);
}
