/* What the emulator's own tests share. */
#ifndef IJ_EMU_CHECK_H
#define IJ_EMU_CHECK_H
#include "dev.h"
#include <stdio.h>
#include <stdlib.h>
#include <vector>

void expect(bool ok, const char *what);
void check_products();
template <class T> struct Device { /* n elements on the device, with contents */
  T *p;
  size_t n;
  explicit Device(const std::vector<T> &x) : n(x.size()) {
    cudaMalloc(&p, n * sizeof(T));
    cudaMemcpy(p, x.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    cudaDeviceSynchronize(); /* the copy may be under way still, and other streams don't wait for it */
  }
  ~Device() { cudaFree(p); }
  std::vector<T> read() const {
    std::vector<T> x(n);
    cudaMemcpy(x.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
    return x;
  }
};
#endif
