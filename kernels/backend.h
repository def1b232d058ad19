/* What a device is made of: memory, copies, the op table, and, where it has its own, sums between processes. The CPU's
 * are in core/tensor/host.c; a plug-in (libijepa_cuda.so) hands its own over through one function, ij_backend_open_fn.
 * A device works through its queue in order and may be far behind the caller: a function waits only where its comment
 * says so. */
#ifndef IJ_BACKEND_H
#define IJ_BACKEND_H
#include "ops.h"

enum { IJ_BACKEND_ABI = 4 }; /* of this file and ops.h; a plug-in of another one is refused */

/* What the core lends to a plug-in, which is not linked with it. */
typedef struct ij_host {
  ij_status (*fail)(ij_status code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
  void *(*alloc)(size_t bytes); /* counted host memory; NULL and a message */
  void (*free)(void *p);
} ij_host;

typedef struct ij_backend {
  int abi;
  int addressable; /* 1: memory that ij_alloc gives will do: the core then keeps a step's tensors in an arena of its own
                    */
  ij_op_table ops;
  /* Opens device `index` (from 0; -1: the one this process should take): makes q->stream. IJ_EUNSUPPORTED: none here,
   * with what is missing (no driver, a driver older than the toolkit) and what to do. */
  ij_status (*open)(int index, ij_queue *q);
  void (*close)(ij_queue *q);
  /* 256-byte aligned, not filled, usable by what the queue gets from now on; the message of IJ_ENOMEM has what is free.
   * Freed memory may be used by what the queue has already. */
  ij_status (*alloc)(ij_queue *q, size_t bytes, void **out);
  void (*free)(ij_queue *q, void *p);
  /* Bytes in and out. write: host may change as soon as it returns. read: waits for all that the queue has. */
  ij_status (*write)(ij_queue *q, void *to, const void *host, size_t n);
  ij_status (*read)(ij_queue *q, const void *from, void *host, size_t n);
  /* A read that does not hold up the caller: begin takes note of n <= IJ_LATE_BYTES bytes as they are at this point of
   * the queue, end waits until they are there (not for later work), hands them out and frees the ticket. */
  ij_status (*read_begin)(ij_queue *q, const void *from, size_t n, void **ticket);
  ij_status (*read_end)(ij_queue *q, void *ticket, void *host, size_t n);
  ij_status (*wait)(ij_queue *q); /* until the queue is empty; a fault of the device shows here, or at any later call */
  void (*info)(ij_queue *q, ij_device_info *out);
  /* Sums between processes on the device (NULL: this build has none). id: 128 bytes that rank 0 makes and all get. They
   * run beside the queue, behind what it has when they are begun, in the order of their beginning, which is the same in
   * all processes. Each gets a ticket > 0; join makes later work of the queue wait for that one, not for those begun
   * after it; the caller does not wait. From open on, whatever waits for the device gives up after open's `seconds`:
   * IJ_EIO, since a process that is gone never answers. */
  ij_status (*comm_id)(ij_queue *q, void *id);
  ij_status (*comm_open)(ij_queue *q, const void *id, int rank, int size, double seconds);
  void (*comm_close)(ij_queue *q);
  /* in place; root -1: all get the sum, else that one */
  ij_status (*comm_sum)(ij_queue *q, float *x, size_t n, int root, int64_t *ticket);
  ij_status (*comm_broadcast)(ij_queue *q, void *x, size_t bytes, int root, int64_t *ticket);
  ij_status (*comm_join)(ij_queue *q, int64_t ticket);
  /* Lines of ij_device_report, NULL: none. *out: of ij_host's alloc. May load libraries that were not needed so far. */
  ij_status (*report)(ij_queue *q, char **out);
  /* Times of a profile. NULL: an op is done when it returns. mark: a point of the queue, into *m (NULL: a new one,
   * which unmark frees); between: the seconds from one to a later one, waits for that. */
  ij_status (*mark)(ij_queue *q, void **m);
  ij_status (*between)(ij_queue *q, void *from, void *to, double *seconds);
  void (*unmark)(ij_queue *q, void *m);
} ij_backend;
enum { IJ_LATE_BYTES = 256 };

ij_backend ij_backend_dry(void); /* cuda/dry.c: records what the CUDA plug-in would take of memory; computes nothing */

/* The plug-in's one symbol, "ij_backend_cuda". */
typedef const ij_backend *(*ij_backend_open_fn)(const ij_host *host);
#endif
