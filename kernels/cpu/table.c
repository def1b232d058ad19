/* Which ops have a fast version on the CPU; the others keep the reference. */
#include "cpu.h"

void IJ_CPU(fill)(ij_op_table *t) { (void)t; }
