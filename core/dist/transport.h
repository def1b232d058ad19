/* Ways for large sums between processes. A plug-in, libijepa_mpi.so, is one and is not linked with the core. */
#ifndef IJ_TRANSPORT_H
#define IJ_TRANSPORT_H
#include <stddef.h>

/* Each call is the mover's, and all processes make the same ones in the same order. A call returns NULL or
 * what went wrong, valid until the next one. */
typedef struct ij_transport {
  int abi;
  /* stop: asked often while a call waits; 1: give up. rank, size: known before or filled in. */
  const char *(*open)(int (*stop)(void *), void *arg, int *rank, int *size, void **state);
  const char *(*sum)(void *state, float *x, size_t n,
                     int root); /* in place; root -1: all get it, else at least that one */
  const char *(*broadcast)(void *state, void *x, size_t bytes, int root);
  void (*close)(void *state, int in_order); /* in order: waits for the others */
} ij_transport;
enum { IJ_TRANSPORT_ABI = 1 };
typedef const ij_transport *(*ij_transport_fn)(void); /* the plug-in's symbol "ij_transport_mpi" */

#endif
