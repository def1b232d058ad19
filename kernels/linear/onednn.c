/* Matrix products by oneDNN, versions 2 and 3. f32 goes through its sgemm, which builds nothing. bf16 goes through
 * matmul primitives: they cost a millisecond to build for each number of rows, and rows differ every step, so rows are
 * worked off in blocks of a few fixed sizes and a tail padded with zeros. Weights are converted and put into the
 * library's preferred layout once a version. The caches are the process's, behind one lock. */
#include "onednn.h"
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- the two versions of the library ---------------------------------------------------------------------------- */
#if DNNL_VERSION_MAJOR >= 3
typedef const_dnnl_memory_desc_t md_ref;
static md_ref md_of(const dnnl_memory_desc_t *d) { return *d; }
static dnnl_status_t md_strided(dnnl_memory_desc_t *d, const dnnl_dims_t dims, dnnl_data_type_t t,
                                const dnnl_dims_t strides) {
  return dnnl_memory_desc_create_with_strides(d, 2, dims, t, strides);
}
static dnnl_status_t md_any(dnnl_memory_desc_t *d, const dnnl_dims_t dims, dnnl_data_type_t t) {
  return dnnl_memory_desc_create_with_tag(d, 2, dims, t, dnnl_format_tag_any);
}
static dnnl_status_t md_copy(dnnl_memory_desc_t *d, md_ref from) { return dnnl_memory_desc_clone(d, from); }
static void md_free(dnnl_memory_desc_t *d) {
  if (*d) dnnl_memory_desc_destroy(*d);
}
static dnnl_status_t matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t e, md_ref src, md_ref weights, md_ref dst,
                               const_dnnl_primitive_attr_t attr) {
  return dnnl_matmul_primitive_desc_create(pd, e, src, weights, NULL, dst, attr);
}
#else
typedef const dnnl_memory_desc_t *md_ref;
static md_ref md_of(const dnnl_memory_desc_t *d) { return d; }
static dnnl_status_t md_strided(dnnl_memory_desc_t *d, const dnnl_dims_t dims, dnnl_data_type_t t,
                                const dnnl_dims_t strides) {
  return dnnl_memory_desc_init_by_strides(d, 2, dims, t, strides);
}
static dnnl_status_t md_any(dnnl_memory_desc_t *d, const dnnl_dims_t dims, dnnl_data_type_t t) {
  return dnnl_memory_desc_init_by_tag(d, 2, dims, t, dnnl_format_tag_any);
}
static dnnl_status_t md_copy(dnnl_memory_desc_t *d, md_ref from) { return *d = *from, dnnl_success; }
static void md_free(dnnl_memory_desc_t *d) { (void)d; }
static dnnl_status_t matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t e, md_ref src, md_ref weights, md_ref dst,
                               const_dnnl_primitive_attr_t attr) {
  dnnl_matmul_desc_t d;
  dnnl_status_t st = dnnl_matmul_desc_init(&d, src, weights, NULL, dst);
  return st != dnnl_success ? st : dnnl_primitive_desc_create(pd, &d, attr, e, NULL);
}
#endif

static ij_status status_of(dnnl_status_t st) {
  if (st == dnnl_success) return IJ_OK;
  if (st == dnnl_out_of_memory) return ij_fail(IJ_ENOMEM, "out of memory in a matrix product");
  return ij_fail(IJ_EUNSUPPORTED, "onednn refuses a matrix product (status %d)", (int)st);
}

/* ---- what the machine does -------------------------------------------------------------------------------------- */
enum { MODE_F32, MODE_BF16, MODE_AMX, MODE_BLOCKS }; /* BLOCKS: f32 through the blocks below, to test them anywhere */

static int matmul_mode(void) {
  const char *wanted = getenv("IJEPA_MATMUL");
  if (wanted && !strcmp(wanted, "f32")) return MODE_F32;
  if (wanted && !strcmp(wanted, "f32-blocks")) return MODE_BLOCKS;
#if defined(__x86_64__)
  int isa = (int)dnnl_get_effective_cpu_isa();
  int amx = dnnl_cpu_isa_avx512_core_amx, bf16 = dnnl_cpu_isa_avx512_core_bf16;
  if ((isa & amx) == amx && !(wanted && !strcmp(wanted, "bf16-avx512"))) return MODE_AMX;
  if ((isa & bf16) == bf16) return MODE_BF16;
#endif
  return MODE_F32;
}

static pthread_once_t mode_once = PTHREAD_ONCE_INIT;
static int mode;
static void mode_find(void) { mode = matmul_mode(); }
static int mode_get(void) {
  pthread_once(&mode_once, mode_find);
  return mode;
}

const char *ij_cpu_matmul(void) {
  static const char *const names[] = {"f32", "bf16-avx512", "bf16-amx", "f32"};
  return names[mode_get()];
}

int ij_onednn_takes(ij_dtype dt) {
  int m = mode_get();
  return dt == IJ_BF16 ? m == MODE_BF16 || m == MODE_AMX : m == MODE_BLOCKS;
}

/* ---- f32 -------------------------------------------------------------------------------------------------------- */
ij_status ij_onednn_sgemm(bool ta, bool tb, ij_dim m, ij_dim n, ij_dim k, const float *a, const float *b, float beta,
                          float *c) {
  if (m == 0 || n == 0) return IJ_OK;
  return status_of(dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, 1, a, ta ? m : k, b, tb ? k : n, beta, c, n));
}

/* ---- bf16 ------------------------------------------------------------------------------------------------------- */
enum { FWD, BWD_X, BWD_W }; /* which matmul */
enum { SIZES = 4, TAIL = 64, WEIGHTS_KEPT = 1024 };
static const ij_dim block_rows[SIZES] = {4096, 1024, 256, TAIL};

/* A primitive for one number of rows and its three memories, whose pointers are set before each run. */
typedef struct block {
  dnnl_primitive_t run;
  dnnl_memory_t src, weights, dst;
} block;

/* One kind of matmul of one (N, K): what is kept for it. */
typedef struct product {
  int kind;
  ij_dtype dt;
  ij_dim N, K;
  bool refused;
  block blocks[SIZES];       /* built when first met */
  dnnl_memory_desc_t packed; /* layout of the weights, chosen by the largest block; FWD and BWD_X */
  bool packed_known;
  block pack; /* the reorder from (N, K) f32 to it: src, dst */
  struct product *next;
} product;

/* Weights in the packed layout of a matmul. */
typedef struct weights {
  const product *p;
  const float *w;
  uint64_t version, used;
  void *data;
} weights;

static struct {
  pthread_mutex_t lock;
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  product *products;
  weights *kept; /* (WEIGHTS_KEPT), the first `count` in use */
  int count;
  uint64_t clock;
} lib = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void block_release(block *b) {
  if (b->run) dnnl_primitive_destroy(b->run);
  if (b->src) dnnl_memory_destroy(b->src);
  if (b->weights) dnnl_memory_destroy(b->weights);
  if (b->dst) dnnl_memory_destroy(b->dst);
  *b = (block){0};
}

void ij_onednn_release(void) {
  pthread_mutex_lock(&lib.lock);
  for (int i = 0; i < lib.count; i++) ij_free(lib.kept[i].data);
  ij_free(lib.kept);
  lib.kept = NULL;
  lib.count = 0;
  while (lib.products) {
    product *p = lib.products;
    lib.products = p->next;
    for (int i = 0; i < SIZES; i++) block_release(&p->blocks[i]);
    block_release(&p->pack);
    if (p->packed_known) md_free(&p->packed);
    ij_free(p);
  }
  if (lib.stream) dnnl_stream_destroy(lib.stream);
  if (lib.engine) dnnl_engine_destroy(lib.engine);
  lib.stream = NULL;
  lib.engine = NULL;
  pthread_mutex_unlock(&lib.lock);
}

static ij_status product_find(int kind, ij_dtype dt, ij_dim N, ij_dim K, product **out) {
  if (!lib.engine) IJ_TRY(status_of(dnnl_engine_create(&lib.engine, dnnl_cpu, 0)));
  if (!lib.stream) IJ_TRY(status_of(dnnl_stream_create(&lib.stream, lib.engine, dnnl_stream_default_flags)));
  product *p = lib.products;
  while (p && !(p->kind == kind && p->dt == dt && p->N == N && p->K == K)) p = p->next;
  if (!p) {
    p = ij_calloc(1, sizeof *p);
    if (!p) return IJ_ENOMEM;
    *p = (product){.kind = kind, .dt = dt, .N = N, .K = K, .next = lib.products};
    lib.products = p;
  }
  if (p->refused) return ij_fail(IJ_EUNSUPPORTED, "onednn has no such matrix product");
  *out = p;
  return IJ_OK;
}

/* Builds the primitive for block_rows[size] rows:
 * FWD y (R, N) = x (R, K) wT (K, N); BWD_X dx (R, K) = dy (R, N) w (N, K); BWD_W dw (N, K) += dyT (N, R) x (R, K). */
static dnnl_status_t block_build(product *p, int size) {
  block *b = &p->blocks[size];
  ij_dim R = block_rows[size], N = p->N, K = p->K;
  dnnl_data_type_t t = p->dt == IJ_BF16 ? dnnl_bf16 : dnnl_f32;
  ij_dim m = p->kind == BWD_W ? N : R, k = p->kind == FWD ? K : p->kind == BWD_X ? N : R, n = p->kind == FWD ? N : K;
  dnnl_dims_t src_dims = {m, k}, weights_dims = {k, n}, dst_dims = {m, n};
  dnnl_dims_t src_strides = {p->kind == BWD_W ? 1 : k, p->kind == BWD_W ? m : 1}, plain = {n, 1};
  dnnl_memory_desc_t src = {0}, w = {0}, dst = {0};
  dnnl_primitive_desc_t pd = NULL;
  dnnl_primitive_attr_t attr = NULL;
  dnnl_post_ops_t post = NULL;
  dnnl_status_t st = md_strided(&src, src_dims, t, src_strides);
  if (st == dnnl_success) st = md_strided(&dst, dst_dims, p->kind == BWD_W ? dnnl_f32 : t, plain);
  if (st == dnnl_success)
    st = p->kind == BWD_W  ? md_strided(&w, weights_dims, t, plain)
         : p->packed_known ? md_copy(&w, md_of(&p->packed))
                           : md_any(&w, weights_dims, t);
  if (st == dnnl_success && p->kind == BWD_W) {
    st = dnnl_primitive_attr_create(&attr);
    if (st == dnnl_success) st = dnnl_post_ops_create(&post);
    if (st == dnnl_success)
      st = dnnl_post_ops_append_sum(post, 1
#if DNNL_VERSION_MAJOR >= 3
                                    ,
                                    0, dnnl_data_type_undef
#endif
      );
    if (st == dnnl_success) st = dnnl_primitive_attr_set_post_ops(attr, post);
  }
  if (st == dnnl_success) st = matmul_pd(&pd, lib.engine, md_of(&src), md_of(&w), md_of(&dst), attr);
  if (st == dnnl_success && p->kind != BWD_W && !p->packed_known) {
    st = md_copy(&p->packed, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0));
    p->packed_known = st == dnnl_success;
  }
  if (st == dnnl_success) st = dnnl_memory_create(&b->src, md_of(&src), lib.engine, DNNL_MEMORY_NONE);
  if (st == dnnl_success)
    st =
        dnnl_memory_create(&b->weights, p->kind == BWD_W ? md_of(&w) : md_of(&p->packed), lib.engine, DNNL_MEMORY_NONE);
  if (st == dnnl_success) st = dnnl_memory_create(&b->dst, md_of(&dst), lib.engine, DNNL_MEMORY_NONE);
  if (st == dnnl_success) st = dnnl_primitive_create(&b->run, pd);
  if (st != dnnl_success) block_release(b);
  if (pd) dnnl_primitive_desc_destroy(pd);
  if (post) dnnl_post_ops_destroy(post);
  if (attr) dnnl_primitive_attr_destroy(attr);
  md_free(&src);
  md_free(&w);
  md_free(&dst);
  return st;
}

static ij_status block_get(product *p, int size) {
  if (p->blocks[size].run) return IJ_OK;
  dnnl_status_t st = dnnl_success;
  if (p->kind != BWD_W && !p->packed_known) st = block_build(p, 0); /* the largest chooses the layout */
  if (st == dnnl_success && !p->blocks[size].run) st = block_build(p, size);
  p->refused = st != dnnl_success && st != dnnl_out_of_memory;
  return status_of(st);
}

static ij_status block_run(const block *b, const void *src, const void *w, void *dst) {
  dnnl_exec_arg_t args[3] = {{DNNL_ARG_SRC, b->src}, {DNNL_ARG_WEIGHTS, b->weights}, {DNNL_ARG_DST, b->dst}};
  dnnl_status_t st = dnnl_memory_set_data_handle(b->src, (void *)src); /* the library's pointers are never const */
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(b->weights, (void *)w);
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(b->dst, dst);
  if (st == dnnl_success) st = dnnl_primitive_execute(b->run, lib.stream, 3, args);
  if (st == dnnl_success) st = dnnl_stream_wait(lib.stream);
  return status_of(st);
}

/* The reorder from w (N, K) f32, seen as (K, N) transposed for FWD, into the packed layout. */
static dnnl_status_t pack_build(product *p) {
  dnnl_dims_t dims = {p->kind == FWD ? p->K : p->N, p->kind == FWD ? p->N : p->K};
  dnnl_dims_t strides = {p->kind == FWD ? 1 : p->K, p->kind == FWD ? p->K : 1};
  dnnl_memory_desc_t src = {0};
  dnnl_primitive_desc_t pd = NULL;
  block *b = &p->pack;
  dnnl_status_t st = md_strided(&src, dims, dnnl_f32, strides);
  if (st == dnnl_success)
    st = dnnl_reorder_primitive_desc_create(&pd, md_of(&src), lib.engine, md_of(&p->packed), lib.engine, NULL);
  if (st == dnnl_success) st = dnnl_memory_create(&b->src, md_of(&src), lib.engine, DNNL_MEMORY_NONE);
  if (st == dnnl_success) st = dnnl_memory_create(&b->dst, md_of(&p->packed), lib.engine, DNNL_MEMORY_NONE);
  if (st == dnnl_success) st = dnnl_primitive_create(&b->run, pd);
  if (st != dnnl_success) block_release(b);
  if (pd) dnnl_primitive_desc_destroy(pd);
  md_free(&src);
  return st;
}

/* An entry for (p, w): the one there is, a free one, or the one not used for longest. */
static weights *weights_slot(const product *p, const float *w) {
  if (!lib.kept) lib.kept = ij_calloc(WEIGHTS_KEPT, sizeof *lib.kept);
  if (!lib.kept) return NULL;
  weights *oldest = &lib.kept[0];
  for (int i = 0; i < lib.count; i++) {
    weights *k = &lib.kept[i];
    if (k->p == p && k->w == w) return k;
    if (k->used < oldest->used) oldest = k;
  }
  weights *k = lib.count < WEIGHTS_KEPT ? &lib.kept[lib.count] : oldest;
  void *data = ij_alloc(dnnl_memory_desc_get_size(md_of(&p->packed)));
  if (!data) return NULL;
  ij_free(k->data);
  *k = (weights){.p = p, .w = w, .data = data};
  lib.count += lib.count < WEIGHTS_KEPT;
  return k;
}

static ij_status weights_get(product *p, const float *w, uint64_t version, const void **out) {
  weights *k = weights_slot(p, w);
  if (!k) return IJ_ENOMEM;
  k->used = ++lib.clock;
  *out = k->data;
  if (version && k->version == version) return IJ_OK;
  if (!p->pack.run) {
    dnnl_status_t st = pack_build(p);
    p->refused = st != dnnl_success && st != dnnl_out_of_memory;
    IJ_TRY(status_of(st));
  }
  dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, p->pack.src}, {DNNL_ARG_TO, p->pack.dst}};
  dnnl_status_t st = dnnl_memory_set_data_handle(p->pack.src, (void *)w);
  if (st == dnnl_success) st = dnnl_memory_set_data_handle(p->pack.dst, k->data);
  if (st == dnnl_success) st = dnnl_primitive_execute(p->pack.run, lib.stream, 2, args);
  if (st == dnnl_success) st = dnnl_stream_wait(lib.stream);
  k->version = st == dnnl_success ? version : 0;
  return status_of(st);
}

/* The last rows < TAIL of a matrix, zeros behind them. Scratch (TAIL, width). */
static void *tail_in(ij_queue *q, int slot, const char *rows, ij_dim count, size_t row_bytes) {
  char *pad = ij_queue_scratch(q, slot, TAIL * row_bytes);
  if (!pad) return NULL;
  memcpy(pad, rows, (size_t)count * row_bytes);
  memset(pad + (size_t)count * row_bytes, 0, (size_t)(TAIL - count) * row_bytes);
  return pad;
}

/* y (R, n) = x (R, k) times w, n and k by the kind. */
static ij_status rows_run(ij_queue *q, int kind, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const char *x,
                          const float *w, uint64_t version, char *y) {
  product *p;
  const void *packed;
  size_t es = dt == IJ_BF16 ? 2 : 4;
  size_t x_row = es * (size_t)(kind == FWD ? K : N), y_row = es * (size_t)(kind == FWD ? N : K);
  IJ_TRY(product_find(kind, dt, N, K, &p));
  IJ_TRY(block_get(p, SIZES - 1));
  IJ_TRY(weights_get(p, w, version, &packed));
  for (int s = 0; s < SIZES; s++)
    for (; R >= block_rows[s]; R -= block_rows[s]) {
      IJ_TRY(block_get(p, s));
      IJ_TRY(block_run(&p->blocks[s], x, packed, y));
      x += (size_t)block_rows[s] * x_row;
      y += (size_t)block_rows[s] * y_row;
    }
  if (R == 0) return IJ_OK;
  void *x_pad = tail_in(q, 0, x, R, x_row), *y_pad = ij_queue_scratch(q, 1, TAIL * y_row);
  if (!x_pad || !y_pad) return IJ_ENOMEM;
  IJ_TRY(block_run(&p->blocks[SIZES - 1], x_pad, packed, y_pad));
  memcpy(y, y_pad, (size_t)R * y_row);
  return IJ_OK;
}

static ij_status grad_run(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const char *dy, const char *x,
                          float *dw) {
  product *p;
  size_t es = dt == IJ_BF16 ? 2 : 4, dy_row = es * (size_t)N, x_row = es * (size_t)K;
  IJ_TRY(product_find(BWD_W, dt, N, K, &p));
  for (int s = 0; s < SIZES; s++) IJ_TRY(block_get(p, s)); /* all now: once one has added to dw, none may fail */
  for (int s = 0; s < SIZES; s++)
    for (; R >= block_rows[s]; R -= block_rows[s]) {
      IJ_TRY(block_run(&p->blocks[s], dy, x, dw));
      dy += (size_t)block_rows[s] * dy_row;
      x += (size_t)block_rows[s] * x_row;
    }
  if (R == 0) return IJ_OK;
  void *dy_pad = tail_in(q, 0, dy, R, dy_row), *x_pad = tail_in(q, 1, x, R, x_row);
  if (!dy_pad || !x_pad) return IJ_ENOMEM;
  return block_run(&p->blocks[SIZES - 1], dy_pad, x_pad, dw);
}

ij_status ij_onednn_linear_fwd(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *x, const float *w,
                               uint64_t version, void *y) {
  if (R == 0) return IJ_OK;
  pthread_mutex_lock(&lib.lock);
  ij_status st = rows_run(q, FWD, dt, R, N, K, x, w, version, y);
  pthread_mutex_unlock(&lib.lock);
  return st;
}

ij_status ij_onednn_linear_bwd_x(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const float *w,
                                 uint64_t version, void *dx) {
  if (R == 0) return IJ_OK;
  pthread_mutex_lock(&lib.lock);
  ij_status st = rows_run(q, BWD_X, dt, R, N, K, dy, w, version, dx);
  pthread_mutex_unlock(&lib.lock);
  return st;
}

ij_status ij_onednn_linear_bwd_w(ij_queue *q, ij_dtype dt, ij_dim R, ij_dim N, ij_dim K, const void *dy, const void *x,
                                 float *dw) {
  if (R == 0) return IJ_OK;
  pthread_mutex_lock(&lib.lock);
  ij_status st = grad_run(q, dt, R, N, K, dy, x, dw);
  pthread_mutex_unlock(&lib.lock);
  return st;
}
