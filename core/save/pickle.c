/* An interpreter for the pickles of state dicts. It makes plain values, makes tensors as descriptions, and calls
 * nothing: a name that is not on the list below is refused before it is used. The pickle's size bounds memory and time:
 * an instruction makes at most one value, and takes its items from the stack, where each was put by an instruction. */
#include "save.h"
#include <string.h>

enum { MAX_VALUES = 1 << 22, MAX_PICKLE = 1 << 26, NOTHING = -1 };

/* What a name stands for when it is called. */
typedef enum meaning {
  A_WORD,      /* never called: the type of a storage or an element, a constant */
  A_DICT,      /* makes an empty dict */
  A_TUPLE,     /* its one argument, a sequence */
  A_TENSOR,    /* (storage, offset, sizes, strides, ...) */
  A_PARAMETER, /* (tensor, ...) */
  A_DEVICE,    /* its first argument */
  A_DTYPE,     /* numpy.dtype("f8", ...): its first argument */
  A_SCALAR,    /* numpy's scalar(dtype, bytes): a number */
  A_ENCODED    /* _codecs.encode(text, "latin1"): bytes */
} meaning;
static const struct allowed {
  const char *module, *name, *type; /* type: of a storage's elements; "" for other names */
  meaning means;
} allowed[] = {
    {"collections", "OrderedDict", "", A_DICT},
    {"collections", "defaultdict", "", A_DICT},
    {"__builtin__", "dict", "", A_DICT},
    {"builtins", "dict", "", A_DICT},
    {"torch", "Size", "", A_TUPLE},
    {"torch", "device", "", A_DEVICE},
    {"torch._utils", "_rebuild_tensor", "", A_TENSOR},
    {"torch._utils", "_rebuild_tensor_v2", "", A_TENSOR},
    {"torch._utils", "_rebuild_parameter", "", A_PARAMETER},
    {"torch._utils", "_rebuild_parameter_with_state", "", A_PARAMETER},
    {"torch", "FloatStorage", "F32", A_WORD},
    {"torch", "HalfStorage", "F16", A_WORD},
    {"torch", "BFloat16Storage", "BF16", A_WORD},
    {"torch", "DoubleStorage", "F64", A_WORD},
    {"torch", "LongStorage", "I64", A_WORD},
    {"torch", "IntStorage", "I32", A_WORD},
    {"torch", "ShortStorage", "I16", A_WORD},
    {"torch", "CharStorage", "I8", A_WORD},
    {"torch", "ByteStorage", "U8", A_WORD},
    {"torch", "BoolStorage", "BOOL", A_WORD},
    {"torch", "float32", "", A_WORD},
    {"torch", "float16", "", A_WORD},
    {"torch", "bfloat16", "", A_WORD},
    {"torch", "float64", "", A_WORD},
    {"torch", "int64", "", A_WORD},
    {"numpy", "dtype", "", A_DTYPE},
    {"numpy.core.multiarray", "scalar", "", A_SCALAR},
    {"numpy._core.multiarray", "scalar", "", A_SCALAR},
    {"_codecs", "encode", "", A_ENCODED},
};
enum { ALLOWED = sizeof allowed / sizeof allowed[0] };

typedef struct machine {
  const char *path;
  const unsigned char *next, *end;
  ij_pickle *p;
  uint32_t *stack, *memo; /* numbers of values; memo: 0 is empty, else number + 1 */
  uint32_t depth, stack_cap, memo_cap, memo_count;
  uint32_t *marks;
  uint32_t mark_count, mark_cap;
} machine;

static ij_status bad(const machine *m, const char *what) {
  return ij_fail(IJ_EFORMAT, "file '%s' is not a checkpoint that can be read: its pickle %s", m->path, what);
}

/* ---- values, stack, memo */

/* Space for one item more than count; the array doubles. */
static ij_status grow(const machine *m, void *array, uint32_t count, uint32_t *cap, size_t size) {
  if (count < *cap) return IJ_OK;
  if (count >= MAX_VALUES) return bad(m, "has more than four million values");
  uint32_t want = *cap ? 2 * *cap : 256;
  void **items = array, *more = ij_realloc(*items, want * size);
  if (!more) return IJ_ENOMEM;
  *items = more;
  *cap = want;
  return IJ_OK;
}

static ij_status push(machine *m, uint32_t value) {
  IJ_TRY(grow(m, &m->stack, m->depth, &m->stack_cap, sizeof *m->stack));
  m->stack[m->depth++] = value;
  return IJ_OK;
}

static ij_status push_new(machine *m, ij_pvalue v) {
  IJ_TRY(grow(m, &m->p->values, m->p->count, &m->p->cap, sizeof *m->p->values));
  m->p->values[m->p->count] = v;
  return push(m, m->p->count++);
}

static ij_status append(machine *m, uint32_t container, uint32_t item) {
  ij_pickle *p = m->p;
  IJ_TRY(grow(m, &p->cells, p->cell_count, &p->cell_cap, sizeof *p->cells));
  uint32_t cell = p->cell_count++;
  p->cells[cell] = (ij_pcell){.value = item};
  ij_pvalue *c = &p->values[container];
  if (c->count++) p->cells[c->last].next = cell;
  else c->first = cell;
  c->last = cell;
  return IJ_OK;
}

/* The lowest depth to which values may be taken now: no instruction reaches below the last mark. */
static uint32_t bottom(const machine *m) { return m->mark_count ? m->marks[m->mark_count - 1] : 0; }

static ij_status pop(machine *m, uint32_t *value) {
  if (m->depth <= bottom(m)) return bad(m, "takes a value from an empty stack");
  *value = m->stack[--m->depth];
  return IJ_OK;
}

static ij_status top(const machine *m, uint32_t *value) {
  if (m->depth <= bottom(m)) return bad(m, "takes a value from an empty stack");
  *value = m->stack[m->depth - 1];
  return IJ_OK;
}

/* Takes the last mark; items from *from on are above it. */
static ij_status pop_mark(machine *m, uint32_t *from) {
  if (!m->mark_count) return bad(m, "takes a mark that is not there");
  *from = m->marks[--m->mark_count];
  return IJ_OK;
}

static ij_status memo_put(machine *m, uint64_t i) {
  uint32_t value = 0;
  if (i >= MAX_VALUES) return bad(m, "has a memo of more than four million values");
  IJ_TRY(top(m, &value));
  if (i >= m->memo_cap) {
    uint32_t cap = m->memo_cap ? m->memo_cap : 256;
    while (cap <= i) cap *= 2;
    uint32_t *more = ij_realloc(m->memo, cap * sizeof *more);
    if (!more) return IJ_ENOMEM;
    memset(more + m->memo_cap, 0, (cap - m->memo_cap) * sizeof *more);
    m->memo = more;
    m->memo_cap = cap;
  }
  m->memo_count += !m->memo[i];
  m->memo[i] = value + 1;
  return IJ_OK;
}

static ij_status memo_get(machine *m, uint64_t i) {
  if (i >= m->memo_cap || !m->memo[i]) return bad(m, "reads an empty entry of its memo");
  return push(m, m->memo[i] - 1);
}

/* Item i of a container, or NOTHING. */
static int64_t item(const ij_pickle *p, uint32_t container, uint32_t i) {
  const ij_pvalue *c = &p->values[container];
  if (i >= c->count) return NOTHING;
  uint32_t cell = c->first;
  while (i--) cell = p->cells[cell].next;
  return p->cells[cell].value;
}

static bool is(const machine *m, int64_t value, ij_pkind kind) {
  return value != NOTHING && m->p->values[value].kind == kind;
}

/* ---- reading the instructions' arguments */

static ij_status take(machine *m, uint64_t n, const unsigned char **bytes) {
  if (n > (uint64_t)(m->end - m->next)) return bad(m, "ends too early");
  *bytes = m->next;
  m->next += n;
  return IJ_OK;
}

static ij_status take_number(machine *m, int bytes, uint64_t *value) {
  const unsigned char *p = NULL;
  IJ_TRY(take(m, (uint64_t)bytes, &p));
  *value = 0;
  for (int i = 0; i < bytes; i++) *value |= (uint64_t)p[i] << (8 * i);
  return IJ_OK;
}

static ij_status push_string(machine *m, int length_bytes) {
  uint64_t n = 0;
  const unsigned char *s = NULL;
  IJ_TRY(take_number(m, length_bytes, &n));
  IJ_TRY(take(m, n, &s));
  return push_new(m, (ij_pvalue){.kind = IJ_P_STRING, .s = (const char *)s, .n = (uint32_t)n});
}

static ij_status push_int(machine *m, int64_t i) { return push_new(m, (ij_pvalue){.kind = IJ_P_INT, .i = i}); }

/* An integer of `bytes` bytes, the last one with the sign. */
static ij_status push_long(machine *m, uint64_t bytes) {
  if (bytes > 8) return bad(m, "has an integer of more than 64 bits");
  uint64_t v = 0;
  IJ_TRY(take_number(m, (int)bytes, &v));
  if (bytes && bytes < 8 && v >> (8 * bytes - 1)) v |= ~UINT64_C(0) << (8 * bytes);
  return push_int(m, (int64_t)v);
}

static ij_status push_float(machine *m) {
  const unsigned char *p = NULL;
  uint64_t v = 0;
  double d;
  IJ_TRY(take(m, 8, &p));
  for (int i = 0; i < 8; i++) v = v << 8 | p[i];
  memcpy(&d, &v, sizeof d);
  return push_new(m, (ij_pvalue){.kind = IJ_P_FLOAT, .f = d});
}

static ij_status take_line(machine *m, const char **s, size_t *n) {
  const unsigned char *stop = memchr(m->next, '\n', (size_t)(m->end - m->next));
  if (!stop) return bad(m, "ends too early");
  *s = (const char *)m->next;
  *n = (size_t)(stop - m->next);
  m->next = stop + 1;
  return IJ_OK;
}

/* ---- names and calls */

static bool same(const char *word, const char *s, size_t n) { return strlen(word) == n && !memcmp(word, s, n); }

static void printable(char *out, size_t size, const char *s, size_t n) {
  size_t k = 0;
  for (size_t i = 0; i < n && k + 1 < size; i++) out[k++] = s[i] > ' ' && s[i] < 127 ? s[i] : '?';
  out[k] = 0;
}

static ij_status push_global(machine *m, const char *module, size_t nm, const char *name, size_t nn) {
  for (int i = 0; i < ALLOWED; i++)
    if (same(allowed[i].module, module, nm) && same(allowed[i].name, name, nn))
      return push_new(m, (ij_pvalue){.kind = IJ_P_GLOBAL, .i = i});
  char a[80], b[80];
  printable(a, sizeof a, module, nm);
  printable(b, sizeof b, name, nn);
  return ij_fail(IJ_EFORMAT,
                 "file '%s' refused: its pickle asks for '%s.%s', which no state dict needs; nothing of it was run",
                 m->path, a, b);
}

static ij_status global_from_stack(machine *m) {
  uint32_t name = 0, module = 0;
  IJ_TRY(pop(m, &name));
  IJ_TRY(pop(m, &module));
  if (!is(m, name, IJ_P_STRING) || !is(m, module, IJ_P_STRING)) return bad(m, "has a name that is not a string");
  const ij_pvalue *v = m->p->values;
  return push_global(m, v[module].s, v[module].n, v[name].s, v[name].n);
}

/* _codecs.encode(text, "latin1"): bytes, in UTF-8 in the pickle; up to 8 of them. */
static ij_status push_raw(machine *m, const ij_pvalue *text) {
  uint64_t raw = 0;
  uint32_t n = 0;
  for (uint32_t i = 0; i < text->n; i++, n++) {
    unsigned char c = (unsigned char)text->s[i];
    if (c >= 0x80 && i + 1 < text->n) c = (unsigned char)(c << 6 | ((unsigned char)text->s[++i] & 63));
    if (n == 8) return bad(m, "has a numpy scalar of more than 8 bytes");
    raw |= (uint64_t)c << (8 * n);
  }
  return push_new(m, (ij_pvalue){.kind = IJ_P_RAW, .i = (int64_t)raw, .count = n});
}

/* numpy's scalar(dtype, bytes), little-endian. */
static ij_status push_scalar(machine *m, int64_t dtype, int64_t bytes) {
  unsigned char raw[8] = {0};
  uint32_t n = 0;
  if (is(m, bytes, IJ_P_RAW)) memcpy(raw, &m->p->values[bytes].i, n = m->p->values[bytes].count);
  else if (is(m, bytes, IJ_P_STRING) && m->p->values[bytes].n <= 8)
    memcpy(raw, m->p->values[bytes].s, n = m->p->values[bytes].n);
  if (!is(m, dtype, IJ_P_STRING) || !n) return bad(m, "has a malformed numpy scalar");
  ij_pvalue t = m->p->values[dtype];
  float f;
  double d;
  int32_t i;
  int64_t l;
  memcpy(&f, raw, sizeof f);
  memcpy(&d, raw, sizeof d);
  memcpy(&i, raw, sizeof i);
  memcpy(&l, raw, sizeof l);
  if (same("f4", t.s, t.n) && n == 4) return push_new(m, (ij_pvalue){.kind = IJ_P_FLOAT, .f = f});
  if (same("f8", t.s, t.n) && n == 8) return push_new(m, (ij_pvalue){.kind = IJ_P_FLOAT, .f = d});
  if (same("i4", t.s, t.n) && n == 4) return push_int(m, i);
  if (same("i8", t.s, t.n) && n == 8) return push_int(m, l);
  return bad(m, "has a numpy scalar of an unsupported type");
}

static ij_status make_tensor(machine *m, uint32_t args) {
  int64_t part[4];
  for (uint32_t i = 0; i < 4; i++) part[i] = item(m->p, args, i);
  if (!is(m, part[0], IJ_P_STORAGE) || !is(m, part[1], IJ_P_INT) || !is(m, part[2], IJ_P_TUPLE) ||
      !is(m, part[3], IJ_P_TUPLE))
    return bad(m, "has a malformed tensor");
  IJ_TRY(push_new(m, (ij_pvalue){.kind = IJ_P_TENSOR}));
  uint32_t t = m->p->count - 1;
  for (int i = 0; i < 4; i++) IJ_TRY(append(m, t, (uint32_t)part[i]));
  return IJ_OK;
}

static ij_status call(machine *m) {
  uint32_t args = 0, function = 0;
  IJ_TRY(pop(m, &args));
  IJ_TRY(pop(m, &function));
  if (!is(m, function, IJ_P_GLOBAL) || !is(m, args, IJ_P_TUPLE)) return bad(m, "calls a value that is not a function");
  const struct allowed *g = &allowed[m->p->values[function].i];
  int64_t first = item(m->p, args, 0);
  switch (g->means) {
  case A_DICT:
    if (m->p->values[args].count && !is(m, first, IJ_P_GLOBAL)) break;
    return push_new(m, (ij_pvalue){.kind = IJ_P_DICT});
  case A_TUPLE:
    if (!is(m, first, IJ_P_TUPLE)) break;
    return push(m, (uint32_t)first);
  case A_TENSOR:
    return make_tensor(m, args);
  case A_PARAMETER:
    if (!is(m, first, IJ_P_TENSOR)) break;
    return push(m, (uint32_t)first);
  case A_DEVICE:
  case A_DTYPE:
    if (!is(m, first, IJ_P_STRING)) break;
    return push(m, (uint32_t)first);
  case A_ENCODED:
    if (!is(m, first, IJ_P_STRING)) break;
    return push_raw(m, &(ij_pvalue){.s = m->p->values[first].s, .n = m->p->values[first].n});
  case A_SCALAR:
    return push_scalar(m, first, item(m->p, args, 1));
  case A_WORD:
    break;
  }
  return ij_fail(IJ_EFORMAT, "file '%s' refused: its pickle calls '%s.%s' in a way that no state dict does", m->path,
                 g->module, g->name);
}

/* ("storage", type, key, device, number of elements) */
static ij_status persistent(machine *m) {
  uint32_t id = 0;
  IJ_TRY(pop(m, &id));
  if (!is(m, id, IJ_P_TUPLE)) return bad(m, "has a malformed storage");
  int64_t word = item(m->p, id, 0), type = item(m->p, id, 1), key = item(m->p, id, 2), n = item(m->p, id, 4);
  const ij_pvalue *v = m->p->values;
  if (!is(m, word, IJ_P_STRING) || !same("storage", v[word].s, v[word].n) || !is(m, type, IJ_P_GLOBAL) ||
      !is(m, key, IJ_P_STRING) || !is(m, n, IJ_P_INT) || !*allowed[v[type].i].type)
    return bad(m, "has a malformed storage");
  const char *element = allowed[v[type].i].type;
  IJ_TRY(push_new(m, (ij_pvalue){.kind = IJ_P_STRING, .s = element, .n = (uint32_t)strlen(element)}));
  uint32_t name = 0;
  IJ_TRY(pop(m, &name));
  IJ_TRY(push_new(m, (ij_pvalue){.kind = IJ_P_STORAGE}));
  uint32_t s = m->p->count - 1;
  IJ_TRY(append(m, s, name));
  IJ_TRY(append(m, s, (uint32_t)key));
  return append(m, s, (uint32_t)n);
}

/* ---- containers */

static ij_status gather(machine *m, ij_pkind kind, uint32_t from) {
  if (from > m->depth) return bad(m, "takes a mark that is not there");
  IJ_TRY(push_new(m, (ij_pvalue){.kind = kind}));
  uint32_t container = m->stack[--m->depth];
  for (uint32_t i = from; i < m->depth; i++) IJ_TRY(append(m, container, m->stack[i]));
  m->depth = from;
  return push(m, container);
}

static ij_status gather_last(machine *m, uint32_t n) {
  if (m->depth - bottom(m) < n) return bad(m, "takes a value from an empty stack");
  return gather(m, IJ_P_TUPLE, m->depth - n);
}

/* Puts what is on the stack from `from` on into the list or dict below it. */
static ij_status put_into(machine *m, ij_pkind kind, uint32_t from) {
  if (from <= bottom(m) || from > m->depth) return bad(m, "takes a value from an empty stack");
  uint32_t container = m->stack[from - 1];
  if (m->p->values[container].kind != kind || (kind == IJ_P_DICT && (m->depth - from) % 2))
    return bad(m, "adds items to a value that is not a list or dict");
  for (uint32_t i = from; i < m->depth; i++) IJ_TRY(append(m, container, m->stack[i]));
  m->depth = from;
  return IJ_OK;
}

/* State of an object: only that of dicts (a module's version numbers) and of numpy's types, and it is not needed. */
static ij_status build(machine *m) {
  uint32_t state = 0, object = 0;
  IJ_TRY(pop(m, &state));
  IJ_TRY(top(m, &object));
  if (!is(m, object, IJ_P_DICT) && !is(m, object, IJ_P_STRING)) return bad(m, "sets the state of an unknown object");
  return IJ_OK;
}

/* ---- instructions: an opcode is a function and its argument */

/* Passes over bytes that mean nothing here: the protocol's number, the length of a frame. */
static ij_status run_skip(machine *m, int bytes) {
  const unsigned char *skipped;
  return take(m, (uint64_t)bytes, &skipped);
}
static ij_status run_new(machine *m, int kind) { return push_new(m, (ij_pvalue){.kind = (ij_pkind)kind}); }
static ij_status run_bool(machine *m, int value) { return push_new(m, (ij_pvalue){.kind = IJ_P_BOOL, .i = value}); }
/* An integer of 4 bytes has a sign, shorter ones have none. */
static ij_status run_int(machine *m, int bytes) {
  uint64_t n = 0;
  IJ_TRY(take_number(m, bytes, &n));
  return push_int(m, bytes == 4 ? (int32_t)(uint32_t)n : (int64_t)n);
}
static ij_status run_long(machine *m, int length_bytes) {
  uint64_t n = 0;
  IJ_TRY(take_number(m, length_bytes, &n));
  return push_long(m, n);
}
static ij_status run_float(machine *m, int none) {
  (void)none;
  return push_float(m);
}
static ij_status run_string(machine *m, int length_bytes) { return push_string(m, length_bytes); }

/* A name, in two lines. Of an instance (INST) the class is refused by its name, or, where the name is allowed, itself.
 */
static ij_status run_global(machine *m, int instance) {
  const char *module = NULL, *name = NULL;
  size_t module_length = 0, name_length = 0;
  IJ_TRY(take_line(m, &module, &module_length));
  IJ_TRY(take_line(m, &name, &name_length));
  IJ_TRY(push_global(m, module, module_length, name, name_length));
  return instance ? bad(m, "makes an object") : IJ_OK;
}
static ij_status run_stack_global(machine *m, int none) {
  (void)none;
  return global_from_stack(m);
}
static ij_status run_reduce(machine *m, int none) {
  (void)none;
  return call(m);
}
static ij_status run_persistent(machine *m, int none) {
  (void)none;
  return persistent(m);
}
static ij_status run_build(machine *m, int none) {
  (void)none;
  return build(m);
}

static ij_status run_mark(machine *m, int none) {
  (void)none;
  IJ_TRY(grow(m, &m->marks, m->mark_count, &m->mark_cap, sizeof *m->marks));
  m->marks[m->mark_count++] = m->depth;
  return IJ_OK;
}
static ij_status run_pop(machine *m, int none) {
  (void)none;
  uint32_t value = 0;
  return pop(m, &value);
}
static ij_status run_pop_mark(machine *m, int none) {
  (void)none;
  return pop_mark(m, &m->depth);
}
static ij_status run_duplicate(machine *m, int none) {
  (void)none;
  uint32_t value = 0;
  IJ_TRY(top(m, &value));
  return push(m, value);
}

static ij_status run_gather(machine *m, int kind) {
  uint32_t from = 0;
  IJ_TRY(pop_mark(m, &from));
  return gather(m, (ij_pkind)kind, from);
}
static ij_status run_tuple(machine *m, int count) { return gather_last(m, (uint32_t)count); }
/* The last item into a list, or the last key and value into a dict */
static ij_status run_append(machine *m, int kind) {
  uint32_t n = kind == IJ_P_DICT ? 2 : 1;
  return put_into(m, (ij_pkind)kind, m->depth >= n ? m->depth - n : 0);
}
static ij_status run_extend(machine *m, int kind) {
  uint32_t from = 0;
  IJ_TRY(pop_mark(m, &from));
  return put_into(m, (ij_pkind)kind, from);
}

static ij_status run_put(machine *m, int index_bytes) {
  uint64_t i = 0;
  IJ_TRY(take_number(m, index_bytes, &i));
  return memo_put(m, i);
}
static ij_status run_memoize(machine *m, int none) {
  (void)none;
  return memo_put(m, m->memo_count);
}
static ij_status run_get(machine *m, int index_bytes) {
  uint64_t i = 0;
  IJ_TRY(take_number(m, index_bytes, &i));
  return memo_get(m, i);
}

static const struct instruction {
  ij_status (*run)(machine *m, int argument); /* NULL: refused */
  int argument;
} instructions[256] = {
    [0x80] = {run_skip, 1}, /* PROTO */
    [0x95] = {run_skip, 8}, /* FRAME */
    ['N'] = {run_new, IJ_P_NONE},
    [')'] = {run_new, IJ_P_TUPLE},
    [']'] = {run_new, IJ_P_LIST},
    ['}'] = {run_new, IJ_P_DICT},
    [0x88] = {run_bool, 1},
    [0x89] = {run_bool, 0},
    ['K'] = {run_int, 1}, /* BININT1 */
    ['M'] = {run_int, 2},
    ['J'] = {run_int, 4},
    [0x8a] = {run_long, 1},
    [0x8b] = {run_long, 4},
    ['G'] = {run_float, 0},
    ['U'] = {run_string, 1},
    ['C'] = {run_string, 1},
    [0x8c] = {run_string, 1},
    ['T'] = {run_string, 4},
    ['X'] = {run_string, 4},
    ['B'] = {run_string, 4},
    [0x8d] = {run_string, 8},
    [0x8e] = {run_string, 8},
    ['c'] = {run_global, 0},
    ['i'] = {run_global, 1}, /* INST */
    [0x93] = {run_stack_global, 0},
    ['R'] = {run_reduce, 0},
    ['Q'] = {run_persistent, 0},
    ['b'] = {run_build, 0},
    ['('] = {run_mark, 0},
    ['0'] = {run_pop, 0},
    ['1'] = {run_pop_mark, 0},
    ['2'] = {run_duplicate, 0},
    ['t'] = {run_gather, IJ_P_TUPLE},
    ['l'] = {run_gather, IJ_P_LIST},
    [0x85] = {run_tuple, 1},
    [0x86] = {run_tuple, 2},
    [0x87] = {run_tuple, 3},
    ['a'] = {run_append, IJ_P_LIST},
    ['s'] = {run_append, IJ_P_DICT},
    ['e'] = {run_extend, IJ_P_LIST},
    ['u'] = {run_extend, IJ_P_DICT},
    ['q'] = {run_put, 1},
    ['r'] = {run_put, 4},
    [0x94] = {run_memoize, 0},
    ['h'] = {run_get, 1},
    ['j'] = {run_get, 4},
};

static ij_status step(machine *m, unsigned char op) {
  const struct instruction *i = &instructions[op];
  if (i->run) return i->run(m, i->argument);
  return ij_fail(IJ_EFORMAT, "file '%s' refused: its pickle has the instruction 0x%02x, which no state dict needs",
                 m->path, op);
}

ij_status ij_pickle_load(const char *path, const unsigned char *bytes, size_t n, ij_pickle *out) {
  *out = (ij_pickle){0};
  machine m = {.path = path, .next = bytes, .end = bytes + n, .p = out};
  ij_status st = n > MAX_PICKLE ? bad(&m, "is longer than 64 MB") : IJ_OK;
  bool stopped = false;
  while (st == IJ_OK && !stopped) {
    if (m.next == m.end) st = bad(&m, "ends too early");
    else if (*m.next == '.') stopped = true;
    else {
      unsigned char op = *m.next++;
      st = step(&m, op);
    }
  }
  if (st == IJ_OK) {
    m.mark_count = 0;
    st = pop(&m, &out->root);
  }
  ij_free(m.stack);
  ij_free(m.memo);
  ij_free(m.marks);
  return st;
}

void ij_pickle_free(ij_pickle *p) {
  ij_free(p->values);
  ij_free(p->cells);
  *p = (ij_pickle){0};
}
