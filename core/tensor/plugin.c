/* The CUDA backend, from its plug-in. */
#include "tensor.h"

static const ij_host host = {ij_fail, ij_alloc, ij_free};

ij_status ij_backend_plugin(ij_backend *out) {
  void *fn;
  ij_status st = ij_plugin_load("libijepa_cuda.so", "IJEPA_CUDA", "ij_backend_cuda", &fn);
  if (st != IJ_OK) return ij_fail_in(st, "device 'cuda' (its plug-in is built where nvcc is found)");
  ij_backend_open_fn open;
  *(void **)&open = fn; /* ISO C has no cast from an object's pointer to a function's */
  const ij_backend *b = open(&host);
  if (!b || b->abi != IJ_BACKEND_ABI)
    return ij_fail(IJ_EUNSUPPORTED,
                   "device 'cuda': the plug-in belongs to another build (interface %d, expected %d): build it again",
                   b ? b->abi : 0, IJ_BACKEND_ABI);
  *out = *b;
  return IJ_OK;
}
