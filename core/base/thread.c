/* The count of threads that compute kernels use: OpenMP's count for the calling thread. */
#include "base.h"
#include <omp.h>

void ij_threads_set(int n) { omp_set_num_threads(n < 1 ? ij_cpu_count() : n); }
int ij_threads_get(void) { return omp_get_max_threads(); }
