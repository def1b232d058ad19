/* Which ops have a fast version on the CPU; the others keep the reference. */
#include "cpu.h"

void IJ_CPU(table)(ij_op_table *t) {
  t->linear_fwd = IJ_CPU(linear_fwd);
  t->linear_bwd_x = IJ_CPU(linear_bwd_x);
  t->linear_bwd_w = IJ_CPU(linear_bwd_w);
}
