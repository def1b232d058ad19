/* Devices: opening and closing, and their steps. */
#include "tensor.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "cuda", "cuda:N": index N or -1. False for another name. */
static bool cuda_index(const char *name, int *index) {
  if (strncmp(name, "cuda", 4) != 0) return false;
  *index = -1;
  if (!name[4]) return true;
  char *end;
  long n = strtol(name + 5, &end, 10);
  if (name[4] != ':' || end == name + 5 || *end || n < 0 || n > 1023) return false;
  *index = (int)n;
  return true;
}

ij_status ij_device_open(const char *name, ij_device **out) {
  *out = NULL;
  int index = -1;
  ij_device *dev = ij_calloc(1, sizeof *dev);
  if (!dev) return IJ_ENOMEM;
  ij_status st = IJ_OK;
  if (cuda_index(name, &index)) st = ij_backend_plugin(&dev->backend);
  else if (!ij_backend_host(name, &dev->backend))
    st = ij_fail(IJ_EINVAL, "unknown device '%s': cpu, cuda, cuda:N or, for tests, ref, guard, dry", name);
  if (st == IJ_OK && dev->backend.addressable && !(dev->arena = ij_arena_new())) st = IJ_ENOMEM;
  if (st == IJ_OK) st = dev->backend.open(index, &dev->queue);
  if (st != IJ_OK) {
    ij_arena_free(dev->arena);
    ij_free(dev);
    return st;
  }
  snprintf(dev->name, sizeof dev->name, "%s", name);
  dev->refs = 1;
  dev->grad_on = true;
  dev->ops = dev->backend.ops;
  *out = dev;
  return IJ_OK;
}

void ij_device_close(ij_device *dev) {
  if (!dev) return;
  ij_profile_end(dev);
  ij_tape_clear(dev);
  ij_device_drop(dev);
}

const char *ij_device_name(const ij_device *dev) { return dev->name; }
void ij_device_look(ij_device *dev, ij_device_info *out) {
  *out = (ij_device_info){0};
  dev->backend.info(&dev->queue, out);
}
ij_status ij_device_report(ij_device *dev, char **out) {
  *out = NULL;
  if (dev->backend.report) return dev->backend.report(&dev->queue, out);
  return (*out = ij_calloc(1, 1)) ? IJ_OK : IJ_ENOMEM;
}
int ij_device_bf16(const ij_device *dev) {
  ij_device_info info = {0};
  ij_queue q = dev->queue;
  dev->backend.info(&q, &info);
  return info.bf16;
}
ij_status ij_device_wait(ij_device *dev) { return dev->backend.wait(&dev->queue); }

int ij_grad_enable(ij_device *dev, int on) {
  int was = dev->grad_on;
  dev->grad_on = on != 0;
  return was;
}

void ij_step_begin(ij_device *dev) {
  if (dev->step) ij_step_end(dev);
  dev->step = ++dev->steps;
}

void ij_step_end(ij_device *dev) {
  if (!dev->step) return;
  ij_tape_clear(dev);
  for (ij_storage *s = dev->all; s; s = s->next)
    if (s->step) ij_storage_empty(s);
  dev->step = 0;
  if (dev->arena) ij_arena_settle(dev->arena);
}
