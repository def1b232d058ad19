/* Inside of the plug-in's runtime: backend.cu, memory.cu (memory and copies), comm.cu (processes). What each function
 * does stands at ij_backend's field of its name (kernels/backend.h). */
#ifndef IJ_CUDA_MEMORY_H
#define IJ_CUDA_MEMORY_H
#include "cuda.h"

ij_status ij_cuda_status(cudaError_t e, const char *what); /* IJ_OK, or "cuda: what: the runtime's words" */

ij_status ij_cuda_memory_open(ij_queue *q);
void ij_cuda_memory_close(ij_queue *q);
void ij_cuda_memory_info(ij_queue *q, ij_device_info *out);
ij_status ij_cuda_alloc(ij_queue *q, size_t bytes, void **out);
void ij_cuda_free(ij_queue *q, void *p);
ij_status ij_cuda_write(ij_queue *q, void *to, const void *host, size_t n);
ij_status ij_cuda_read(ij_queue *q, const void *from, void *host, size_t n);
ij_status ij_cuda_read_begin(ij_queue *q, const void *from, size_t n, void **ticket);
ij_status ij_cuda_read_end(ij_queue *q, void *ticket, void *host, size_t n);
ij_status ij_cuda_wait(ij_queue *q);
/* Waits for what happens at the event; with other processes no longer than their time limit (0: none). */
ij_status ij_cuda_wait_event(ij_queue *q, cudaEvent_t e, double seconds);

double ij_cuda_now(void); /* seconds of a clock that never goes back */

/* kernels/linear/cuda_plans.cu: its plans, and their lines of a report */
void ij_cuda_plans_release(ij_queue *q);
struct ij_cuda_text;
bool ij_cuda_plans_report(ij_cuda *c, struct ij_cuda_text *out);

/* report.cu: ij_backend's report, by lines. False: out of memory. */
ij_status ij_cuda_report(ij_queue *q, char **out);
bool ij_cuda_say(struct ij_cuda_text *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

double ij_cuda_comm_seconds(ij_queue *q); /* the time limit of waiting while there are other processes, else 0 */
ij_status ij_cuda_comm_id(ij_queue *q, void *id);
ij_status ij_cuda_comm_open(ij_queue *q, const void *id, int rank, int size, double seconds);
void ij_cuda_comm_close(ij_queue *q);
ij_status ij_cuda_comm_sum(ij_queue *q, float *x, size_t n, int root, int64_t *ticket);
ij_status ij_cuda_comm_broadcast(ij_queue *q, void *x, size_t bytes, int root, int64_t *ticket);
ij_status ij_cuda_comm_join(ij_queue *q, int64_t ticket);
#endif
