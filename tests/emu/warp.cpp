/* What the lanes of a warp do together, and each lane's asynchronous copies. Fragments of mma and ldmatrix by lane as
 * the PTX manual lays them out. */
#include "internal.h"
#include "threads.h"

namespace emu {
static const char *const op_names[] = {"__syncwarp",   "a shuffle",    "a vote",       "__reduce_add",
                                       "__reduce_min", "__reduce_max", "__reduce_and", "__reduce_or",
                                       "__reduce_xor", "mma",          "ldmatrix"};

void reset_warps() {
  for (int i = 0; i * 32 < thread_count; i++) {
    int lanes = thread_count - i * 32;
    warps[i].pending = 0;
    warps[i].ended = lanes < 32 ? ~0u << lanes : 0;
    for (Group &g : warps[i].group) g.used = false;
  }
}

/* ---- combining: once, when the last lane has come ---- */
static void shuffle(Group &g) {
  uint32_t value[32][4];
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++) value[l][i] = g.arrived >> l & 1 ? g.io[l].word[i] : 0;
  for (int l = 0; l < 32; l++) {
    if (!(g.arrived >> l & 1)) continue;
    Payload &io = g.io[l];
    int w = io.width, first = l & ~(w - 1), end = first + w, from = l;
    if (w < 1 || w > 32 || (w & (w - 1))) fail("a shuffle of width %d at %s:%d", w, g.at.file, g.at.line);
    if (io.mode == FROM) from = first | (io.lane & (w - 1));
    if (io.mode == UP && l - io.lane >= first) from = l - io.lane;
    if (io.mode == DOWN && l + io.lane < end) from = l + io.lane;
    if (io.mode == ACROSS && (l ^ io.lane) < end) from = l ^ io.lane;
    if (!(g.arrived >> from & 1))
      fail("shuffle at %s:%d: lane %d reads lane %d, which takes no part (lanes %08x do)", g.at.file, g.at.line, l,
           from, g.arrived);
    for (int i = 0; i < 4; i++) io.word[i] = value[from][i];
  }
}

static uint32_t reduced(Op op, uint32_t a, uint32_t b, bool is_signed) {
  bool less = is_signed ? (int32_t)a < (int32_t)b : a < b;
  switch (op) {
  case ADD:
    return a + b;
  case MIN:
    return less ? a : b;
  case MAX:
    return less ? b : a;
  case AND:
    return a & b;
  case XOR:
    return a ^ b;
  default:
    return a | b;
  }
}

static void reduce(Group &g) {
  int first = __builtin_ctz(g.arrived);
  uint32_t all = g.io[first].word[0];
  for (int l = first + 1; l < 32; l++)
    if (g.arrived >> l & 1) all = reduced(g.op, all, g.io[l].word[0], g.io[l].mode);
  for (int l = 0; l < 32; l++)
    if (g.arrived >> l & 1) g.io[l].word[0] = all;
}

static void vote(Group &g) {
  uint32_t all = 0;
  for (int l = 0; l < 32; l++)
    if (g.arrived >> l & 1) all |= g.io[l].word[0] << l;
  for (int l = 0; l < 32; l++)
    if (g.arrived >> l & 1) g.io[l].word[0] = all;
}

/* Matrix m has its row i from lane 8m + i; lane l gets elements 2t, 2t + 1 of row g (transposed: of column g). */
static void load_matrices(Group &group) {
  uint16_t row[32][8];
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 8; i++) row[l][i] = (uint16_t)(group.io[l].word[i / 2] >> 16 * (i & 1));
  for (int l = 0; l < 32; l++) {
    int g = l >> 2, t2 = 2 * (l & 3);
    bool transposed = group.io[l].mode;
    for (int m = 0; m < 4; m++) {
      uint32_t low = transposed ? row[8 * m + t2][g] : row[8 * m + g][t2];
      uint32_t high = transposed ? row[8 * m + t2 + 1][g] : row[8 * m + g][t2 + 1];
      group.io[l].word[m] = low | high << 16;
    }
  }
}

static float half_of(uint32_t pair, int high) { return bits<float>(high ? pair & 0xffff0000u : pair << 16); }

/* mma.m16n8k16: a's word i holds row g + 8 (i & 1), columns 2t + 8 (i / 2) and the next; b's word i holds rows 2t + 8i
 * and the next of column g; d's word i holds row g + 8 (i / 2), column 2t + (i & 1). */
static void multiply(Group &group) {
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < 32; l++) {
    const uint32_t *w = group.io[l].word;
    int g = l >> 2, t2 = 2 * (l & 3);
    for (int h = 0; h < 2; h++) {
      for (int i = 0; i < 4; i++) a[g + 8 * (i & 1)][t2 + 8 * (i >> 1) + h] = half_of(w[i], h);
      for (int i = 0; i < 2; i++) b[t2 + 8 * i + h][g] = half_of(w[4 + i], h);
      for (int i = 0; i < 2; i++) d[g + 8 * i][t2 + h] = bits<float>(w[6 + 2 * i + h]);
    }
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
  for (int l = 0; l < 32; l++)
    for (int i = 0; i < 4; i++)
      group.io[l].word[6 + i] = bits<uint32_t>(d[(l >> 2) + 8 * (i >> 1)][2 * (l & 3) + (i & 1)]);
}

static void combine(Group &g) {
  if ((g.op == MMA || g.op == LDMATRIX) && g.arrived != ~0u)
    fail("%s at %s:%d needs all 32 lanes, lanes %08x are there", op_names[g.op], g.at.file, g.at.line, g.arrived);
  if (g.op == SHFL) shuffle(g);
  else if (g.op == VOTE) vote(g);
  else if (g.op == MMA) multiply(g);
  else if (g.op == LDMATRIX) load_matrices(g);
  else if (g.op != SYNCWARP) reduce(g);
}

/* ---- meeting ---- */
static void finish(Warp &w, Group &g) {
  combine(g);
  if (g.op == SYNCWARP) w.phase++;
  g.used = false;
  w.pending--;
  int first = (int)(&w - warps) * 32;
  for (int l = 31; l >= 0; l--)
    if (g.arrived >> l & 1) make_ready(&threads[first + l]);
}

static void finish_if_complete(Warp &w, Group &g) {
  if (g.used && !(g.mask & ~(g.arrived | w.ended))) finish(w, g);
}

void leave_warp(Thread *t) {
  Warp &w = warps[t->number >> 5];
  w.ended |= 1u << (t->number & 31);
  for (Group &g : w.group)
    if (w.pending) finish_if_complete(w, g);
}

void refuse_if_warp_waits(Site at) {
  for (const Group &g : warps[current->number >> 5].group)
    if (g.used && g.mask >> lane() & 1)
      fail("lane %d is at the barrier %s:%d while its warp waits for it in %s (mask %08x) at %s:%d", lane(), at.file,
           at.line, op_names[g.op], g.mask, g.at.file, g.at.line);
}

static void refuse_if_at_barrier(Op op, unsigned mask, Site at) {
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    const Thread *o = &threads[(current->number & ~31) + __builtin_ctz(rest)];
    if (o->number < thread_count && o != current && o->state == AT_BARRIER)
      fail("lane %d is in %s (mask %08x) at %s:%d while lane %d waits at the barrier %s:%d", lane(), op_names[op], mask,
           at.file, at.line, o->number & 31, o->at.file, o->at.line);
  }
}

static Group *group_for(Warp &w, Op op, unsigned mask, Site at) {
  Group *unused = nullptr;
  for (Group &g : w.group) {
    if (!g.used) unused = &g;
    else if (g.mask == mask && g.op == op && same(g.at, at)) return &g;
    else if (g.mask & mask)
      fail("divergent collective: lane %d is in %s (mask %08x) at %s:%d while lanes %08x wait in %s (mask %08x) at "
           "%s:%d",
           lane(), op_names[op], mask, at.file, at.line, g.arrived, op_names[g.op], g.mask, g.at.file, g.at.line);
  }
  refuse_if_at_barrier(op, mask, at);
  if (!unused) fail("more than %d collectives of a warp at a time", (int)PENDING);
  unused->used = true;
  unused->op = op;
  unused->mask = mask;
  unused->arrived = 0;
  unused->at = at;
  w.pending++;
  return unused;
}

/* The payload moves by plain assignment, which the compiler turns into moves of registers: memcpy() would count as an
 * access of the thread, and the lanes' hand-over as a race. */
void collective(Op op, unsigned mask, Payload *io, Site at) {
  if (!current) fail("%s at %s:%d outside of a kernel", op_names[op], at.file, at.line);
  int l = lane();
  Warp &w = warps[current->number >> 5];
  if (!(mask >> l & 1))
    fail("%s at %s:%d: mask %08x leaves out the calling lane %d", op_names[op], at.file, at.line, mask, l);
  Group *g = group_for(w, op, mask, at);
  g->arrived |= 1u << l;
  g->io[l] = *io;
  int round = w.phase & 1;
  if (op == SYNCWARP) release(&w.sync[round]);
  current->state = IN_WARP;
  finish_if_complete(w, *g);
  wait_here(current->state, at);
  if (op == SYNCWARP) acquire(&w.sync[round]);
  *io = g->io[l];
}

/* ---- asynchronous copies ---- */
static void carry_out(const Copy &c) {
  memcpy(c.to, c.from, c.n - c.zeros);
  memset((char *)c.to + (c.n - c.zeros), 0, c.zeros);
}

/* Late as the wait or, in some random orders, at once: both may happen. */
void copy_async(void *to, const void *from, size_t n, size_t zeros) {
  if (!current) fail("an asynchronous copy outside of a kernel");
  if ((n != 4 && n != 8 && n != 16) || zeros > n)
    fail("an asynchronous copy of %zu bytes, %zu of them zeros", n, zeros);
  if (((uintptr_t)to | (uintptr_t)from) & (n - 1))
    fail("an asynchronous copy of %zu bytes is misaligned: from %p to %p", n, from, to);
  if (TSAN) { /* until the wait both belong to the copy */
    will_write(to, n);
    will_read(from, n - zeros);
  }
  Thread *t = current;
  Copy c = {to, from, (unsigned)n, (unsigned)zeros, t->groups};
  if (seed() > 0 && random_below(2)) return carry_out(c);
  if (t->copies == COPIES) fail("more than %d asynchronous copies of a thread without a wait", (int)COPIES);
  t->copy[t->copies++] = c;
}
void copy_commit() { current->groups++; }
void copy_wait(int allowed) {
  Thread *t = current;
  int kept = 0;
  for (int i = 0; i < t->copies; i++) {
    if (t->copy[i].group < t->groups - allowed) carry_out(t->copy[i]);
    else t->copy[kept++] = t->copy[i];
  }
  t->copies = kept;
}
void finish_copies() {
  if (current->copies) copy_wait(-1);
}
} // namespace emu
