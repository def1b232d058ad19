/* The GPU as the runtime describes it, and what goes wrong with it on demand:
 * IJ_EMU_MEMORY=BYTES   its memory (8 GiB)
 * IJ_EMU_DEVICES=N      how many a process sees (1)
 * IJ_EMU_POOLS=0        a device without memory pools
 * IJ_EMU_FAULT=         none, no_driver, old_driver, no_device, or lost:N: gone after N launches */
#include "internal.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

namespace emu {
enum Fault { NONE, NO_DRIVER, OLD_DRIVER, NO_DEVICE, LOST };
enum { DRIVER = CUDART_VERSION, OLD = 12020 };
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static cudaError_t last;
static bool lost;
static long launches;
static int current_device;
bool in_callback;

static long launches_until_lost;
static Fault fault() {
  static const Fault value = [] {
    const char *text = getenv("IJ_EMU_FAULT");
    if (!text || !*text || !strcmp(text, "none")) return NONE;
    if (!strcmp(text, "no_driver")) return NO_DRIVER;
    if (!strcmp(text, "old_driver")) return OLD_DRIVER;
    if (!strcmp(text, "no_device")) return NO_DEVICE;
    if (strncmp(text, "lost:", 5)) fail("IJ_EMU_FAULT=%s is not known", text);
    launches_until_lost = atol(text + 5);
    return LOST;
  }();
  return value;
}
static cudaError_t missing() {
  Fault f = fault();
  if (f == NO_DRIVER || f == OLD_DRIVER) return cudaErrorInsufficientDriver;
  return f == NO_DEVICE ? cudaErrorNoDevice : cudaSuccess;
}

size_t gpu_bytes() {
  static const size_t value = [] {
    const char *text = getenv("IJ_EMU_MEMORY");
    return text && *text ? (size_t)strtoull(text, nullptr, 10) : (size_t)8 << 30;
  }();
  return value;
}
int device_count() {
  static const int value = [] {
    const char *text = getenv("IJ_EMU_DEVICES");
    return text && *text ? atoi(text) : 1;
  }();
  return value;
}

bool has_pools() {
  static const bool value = [] {
    const char *text = getenv("IJ_EMU_POOLS");
    return !text || strcmp(text, "0");
  }();
  return value;
}

cudaError_t failed(cudaError_t e) { return last = e; }
cudaError_t state() { return lost ? failed(cudaErrorDevicesUnavailable) : cudaSuccess; }
void count_launch() {
  if (fault() != LOST || ++launches < launches_until_lost || lost) return;
  lost = true;
  drop_all();
}

Enter::Enter(bool needs_device) : error(cudaSuccess) {
  pthread_mutex_lock(&lock);
  if (in_callback) error = failed(cudaErrorNotPermitted);
  else if (needs_device && missing()) error = failed(missing());
  else if (needs_device) error = state();
}
Enter::~Enter() { unlock(); }
bool try_lock() { return !pthread_mutex_trylock(&lock); }
void unlock() { pthread_mutex_unlock(&lock); }
int device_number() { return current_device; }

struct Named {
  cudaError_t error;
  const char *name, *text;
};
static const Named names[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};
static const Named &named(cudaError_t e) {
  for (const Named &n : names)
    if (n.error == e) return n;
  return names[sizeof names / sizeof *names - 1];
}

static int attribute(cudaDeviceAttr a) {
  switch (a) {
  case cudaDevAttrMaxThreadsPerBlock:
    return 1024;
  case cudaDevAttrWarpSize:
    return 32;
  case cudaDevAttrMultiProcessorCount:
    return 4;
  case cudaDevAttrComputeCapabilityMajor:
    return 8;
  case cudaDevAttrComputeCapabilityMinor:
    return 6;
  case cudaDevAttrMaxSharedMemoryPerBlock:
    return SHARED_STATIC;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    return SHARED_MOST;
  case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
    return SHARED_MOST + 1024;
  case cudaDevAttrMaxThreadsPerMultiProcessor:
    return 1536;
  case cudaDevAttrMaxGridDimX:
    return 2147483647;
  case cudaDevAttrMaxGridDimY:
  case cudaDevAttrMaxGridDimZ:
    return 65535;
  case cudaDevAttrL2CacheSize:
    return 6 << 20;
  case cudaDevAttrClockRate:
    return 1000000;
  case cudaDevAttrMemoryPoolsSupported:
    return has_pools();
  case cudaDevAttrUnifiedAddressing:
  case cudaDevAttrConcurrentKernels:
    return 1;
  default:
    return 0;
  }
}
} // namespace emu

using namespace emu;
extern "C" {
cudaError_t cudaDriverGetVersion(int *out) {
  Enter call(false);
  *out = fault() == NO_DRIVER ? 0 : fault() == OLD_DRIVER ? (int)OLD : (int)DRIVER;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *out) {
  *out = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *out) {
  Enter call(false);
  *out = missing() ? 0 : device_count();
  return missing() ? failed(missing()) : cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  Enter call;
  if (call.error) return call.error;
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int *out) {
  Enter call;
  *out = current_device;
  return call.error;
}
cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr a, int device) {
  Enter call;
  if (call.error) return call.error;
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  *out = attribute(a);
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
  Enter call;
  if (call.error) return call.error;
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "emulated GPU %d", device);
  p->major = attribute(cudaDevAttrComputeCapabilityMajor);
  p->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  p->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = 1536;
  p->sharedMemPerBlock = SHARED_STATIC;
  p->sharedMemPerBlockOptin = SHARED_MOST;
  p->sharedMemPerMultiprocessor = SHARED_MOST + 1024;
  p->totalGlobalMem = gpu_bytes();
  p->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
  p->memoryPoolsSupported = has_pools();
  p->unifiedAddressing = p->concurrentKernels = 1;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *out, int n, int device) {
  snprintf(out, (size_t)n, "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) { return cudaDeviceSynchronize(); }
cudaError_t cudaGetLastError(void) {
  Enter call(false);
  cudaError_t e = lost ? cudaErrorDevicesUnavailable : last;
  last = cudaSuccess;
  return e;
}
cudaError_t cudaPeekAtLastError(void) {
  Enter call(false);
  return lost ? cudaErrorDevicesUnavailable : last;
}
const char *cudaGetErrorName(cudaError_t e) { return named(e).name; }
const char *cudaGetErrorString(cudaError_t e) { return named(e).text; }
}
