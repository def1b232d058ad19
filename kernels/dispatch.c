/* The reference table, the choice of the CPU's instruction set, and the scratch memory of a queue. */
#include "ops.h"
#include <stdlib.h>
#include <string.h>

const ij_op_table ij_ref_table = {
#define IJ_OP(name, params, args) .name = ij_ref_##name,
    IJ_OPS(IJ_OP)
#undef IJ_OP
};

void ij_cpu_base_table(ij_op_table *t);
#if defined(__x86_64__)
void ij_cpu_avx2_table(ij_op_table *t);
void ij_cpu_avx512_table(ij_op_table *t);
#endif
#if defined(IJ_CPU_BF16) /* attention/cpu_bf16.c */
#define IJ_OP(name, params, args) ij_status ij_cpu_bf16_##name params;
IJ_OPS(IJ_OP)
#undef IJ_OP
#endif

/* 0 base, 1 avx2, 2 avx512; the same throughout the process. */
static int isa_level(void) {
  int level = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) level = 1;
  if (level == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    level = 2;
#endif
  const char *limit = getenv("IJEPA_ISA");
  if (limit && !strcmp(limit, "base")) level = 0;
  if (limit && !strcmp(limit, "avx2") && level > 1) level = 1;
  return level;
}

const char *ij_cpu_isa(void) {
  static const char *const names[] = {"base", "avx2", "avx512"};
  return names[isa_level()];
}

void ij_cpu_fill(ij_op_table *t) {
  *t = ij_ref_table;
#if defined(__x86_64__)
  int level = isa_level();
  if (level == 2) ij_cpu_avx512_table(t);
  else if (level == 1) ij_cpu_avx2_table(t);
  else
#endif
    ij_cpu_base_table(t);
#if defined(IJ_CPU_BF16)
  if (level == 2 && __builtin_cpu_supports("avx512bf16") && !getenv("IJEPA_ISA")) {
    t->attention_fwd = ij_cpu_bf16_attention_fwd;
    t->attention_bwd = ij_cpu_bf16_attention_bwd;
  }
#endif
}

void *ij_queue_scratch(ij_queue *q, int slot, size_t bytes) {
  if (q->slot_bytes[slot] < bytes) {
    bytes += bytes / 8; /* lengths vary from step to step: an eighth more avoids growing again */
    void *p = ij_alloc(bytes);
    if (!p) return NULL;
    ij_free(q->slot[slot]);
    q->slot[slot] = p;
    q->slot_bytes[slot] = bytes;
  }
  return q->slot[slot];
}

void ij_queue_release(ij_queue *q) {
  for (int i = 0; i < 8; i++) ij_free(q->slot[i]);
  *q = (ij_queue){0};
}
