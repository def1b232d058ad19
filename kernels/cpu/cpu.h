/* For kernels/<op>/cpu.c: these files are compiled once for each instruction set (IJ_ISA), so every name that they
 * export goes through IJ_CPU, and plain loops with "#pragma omp simd" become AVX2 or AVX-512 code. */
#ifndef IJ_CPU_H
#define IJ_CPU_H
#include "../ops.h"
#include <omp.h>

#define IJ_CPU_JOIN_(isa, name) ij_cpu_##isa##_##name
#define IJ_CPU_JOIN(isa, name) IJ_CPU_JOIN_(isa, name)
#define IJ_CPU(name) IJ_CPU_JOIN(IJ_ISA, name)

#define IJ_OP(name, params, args) ij_status IJ_CPU(name) params;
IJ_OPS(IJ_OP)
#undef IJ_OP
void IJ_CPU(table)(ij_op_table *t); /* puts this variant's functions over those of t */
#endif
