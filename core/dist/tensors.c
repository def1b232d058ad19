/* Sums of tensors: by the device itself where it can (NCCL), else by the mover on the host's memory. */
#include "dist.h"

/* Opens the device's own sums when they are first needed: process 0 makes NCCL's unique id. */
static ij_status open_device_sums(ij_dist *d, ij_device *dev) {
  char id[128] = {0};
  const ij_backend *b = &dev->backend;
  if (d->device == dev || !b->comm_open) return IJ_OK;
  if (d->device) return ij_fail(IJ_EINVAL, "processes: sums on two devices of one process");
  if (d->rank == 0) IJ_TRY(b->comm_id(&dev->queue, id));
  IJ_TRY(ij_dist_broadcast(d, id, sizeof id));
  IJ_TRY(b->comm_open(&dev->queue, id, d->rank, d->size, d->timeout));
  d->device = dev;
  return IJ_OK;
}

/* A device whose memory others can't read and that has no sums of its own: copied to the host and back, without delay.
 */
static ij_status by_copy(ij_dist *d, ij_tensor *x, ij_transfer m) {
  ij_device *dev = x->storage->dev;
  size_t bytes = m.kind == IJ_TRANSFER_SUM ? m.n * sizeof(float) : m.n;
  int64_t ticket;
  if (!(m.x = ij_alloc(bytes))) return IJ_ENOMEM;
  ij_status st = dev->backend.read(&dev->queue, ij_data_of(x), m.x, bytes);
  if (st == IJ_OK) st = ij_mover_ask(d, m, &ticket);
  if (st == IJ_OK) st = ij_mover_wait(d, ticket);
  if (st == IJ_OK) st = dev->backend.write(&dev->queue, ij_data_of(x), m.x, bytes);
  if (st != IJ_OK) ij_mover_settle(d);
  ij_free(m.x);
  return st;
}

static ij_status begin(ij_dist *d, ij_tensor *x, ij_transfer m, int64_t *ticket) {
  ij_device *dev = x->storage->dev;
  const ij_backend *b = &dev->backend;
  *ticket = 0; /* nothing to wait for */
  if (d->size == 1 || d->imagined) return IJ_OK;
  if (ij_watch_lost(d)) return ij_watch_fail(d);
  IJ_TRY(open_device_sums(d, dev));
  atomic_fetch_add(&d->begun, 1);
  m.x = ij_data_of(x);
  if (d->device) { /* its tickets are negative here */
    int64_t its = 0;
    ij_status st = m.kind == IJ_TRANSFER_SUM ? b->comm_sum(&dev->queue, m.x, m.n, m.root, &its)
                                             : b->comm_broadcast(&dev->queue, m.x, m.n, m.root, &its);
    *ticket = -its;
    return st;
  }
  return b->addressable ? ij_mover_ask(d, m, ticket) : by_copy(d, x, m);
}

ij_status ij_dist_sum_begin(ij_dist *d, ij_tensor *x, int64_t n, int root, int64_t *ticket) {
  return begin(d, x, (ij_transfer){IJ_TRANSFER_SUM, NULL, (size_t)n, root}, ticket);
}
ij_status ij_dist_send_begin(ij_dist *d, ij_tensor *x, int64_t n, int root, int64_t *ticket) {
  return begin(d, x, (ij_transfer){IJ_TRANSFER_BROADCAST, NULL, (size_t)n * sizeof(float), root}, ticket);
}

ij_status ij_dist_finish(ij_dist *d, int64_t ticket) {
  if (ticket > 0) return ij_mover_wait(d, ticket);
  if (ticket == 0) return IJ_OK;
  /* the device's later work waits, not we: who is missing shows where something is read, or in the next round */
  return d->device->backend.comm_join(&d->device->queue, -ticket);
}

void ij_dist_settle(ij_dist *d) {
  ij_mover_settle(d);
  if (!d->device) return;
  const ij_backend *b = &d->device->backend;
  if (!ij_watch_lost(d))
    b->wait(&d->device->queue); /* the others' last sums need our part; no longer than the time-out */
  b->comm_close(&d->device->queue);
  d->device = NULL;
}

ij_status ij_dist_tensor(ij_dist *d, ij_tensor *t, int root) {
  int64_t ticket;
  if (d->size == 1) return IJ_OK;
  IJ_TRY(ij_want("processes", "tensor", t, IJ_F32));
  IJ_TRY(ij_dist_send_begin(d, t, ij_tensor_count(t), root, &ticket));
  IJ_TRY(ij_dist_finish(d, ticket));
  ij_tensor_touched(t);
  return IJ_OK;
}
