/* In place of the CPU's own kernels and OpenMP, which the sanitizers' builds of the op cases do without. */
#include "../../kernels/ops.h"
#include "../../kernels/linear/onednn.h"

void ij_cpu_base_table(ij_op_table *t);
void ij_cpu_avx2_table(ij_op_table *t);
void ij_cpu_avx512_table(ij_op_table *t);
void ij_cpu_base_table(ij_op_table *t) { *t = ij_ref_table; }
void ij_cpu_avx2_table(ij_op_table *t) { *t = ij_ref_table; }
void ij_cpu_avx512_table(ij_op_table *t) { *t = ij_ref_table; }
const char *ij_cpu_matmul(void) { return "f32"; }
int ij_threads_get(void) { return 1; }
void ij_threads_set(int n) { (void)n; }
void ij_onednn_release(void) {}
