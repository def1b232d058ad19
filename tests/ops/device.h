/* The cases on a device: a plug-in's table with all arguments in the device's memory. */
#ifndef IJ_CHECK_DEVICE_H
#define IJ_CHECK_DEVICE_H
#include "../../kernels/backend.h"
#include "check.h"

typedef struct ij_check_device {
  const ij_backend *backend;
  ij_queue queue;
  bool emulated; /* tests/emu: allocations can be made to fail there */
  bool quick;    /* small shapes alone, one call each: for the slow sanitizers */
} ij_check_device;

/* The plug-in of the environment variable IJEPA_CUDA, device 0. Not IJ_OK: why, in ij_errmsg(). */
ij_status ij_check_device_load(ij_check_device *d);
/* The same with a backend that is here already */
ij_status ij_check_device_open(ij_check_device *d, const ij_backend *backend);
void ij_check_device_close(ij_check_device *d);
/* No slot of the table is empty. */
void ij_check_device_slots(ij_check *k, const ij_check_device *d);
/* The device's op against the reference: aligned, as a view that is aligned to its elements alone, in all aliased
 * forms, twice (the same bits), between red zones, and with each allocation of the device failing in turn. */
void ij_check_device_results(ij_check *k, const ij_case_op *op, const ij_case_shape *shape, ij_dtype dt,
                             ij_check_device *d);
/* One call of a case whose arguments have their content. want[i], where it is there, is what argument i must be;
 * got[i], where it is NULL, receives it (ij_free). tol as in ij_check_near; how: of the call, for messages. */
bool ij_check_device_call(ij_check *k, ij_check_device *d, ij_case *c, double tol, const char *how, void **want,
                          void **got);
/* production.c: the ops that have two ways of computing on a GPU, at real sizes, one way against the other; op names
 * that hold `filter` (NULL: all). On the emulator a few rows of each, and *skipped counts them. What cuBLASLt refuses
 * at these sizes is a failure. */
void ij_check_production(ij_check *k, ij_check_device *d, const char *filter, int *skipped);
/* What the device keeps of weights between calls */
void ij_check_device_weights(ij_check *k, ij_check_device *d);
#endif
