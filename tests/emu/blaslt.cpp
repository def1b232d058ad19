/* cublasLt's products, in stream order: f32 or bf16 in and out, sums in f32, bias and bias gradient. Operands are
 * checked for their ranges and announced to the sanitizers. IJ_EMU_LT=none: no algorithm for any product, as the
 * library may have none for odd ones, so that what a caller does then is tried as well; late: an algorithm is found,
 * but the product says that it is not supported; off: results
 * are off by a fiftieth. The heuristic offers up to CANDIDATES, all of which do the same. */
#include "gemm.h"
#include "internal.h"
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

namespace emu {
enum { CANDIDATES = 3, WORKSPACE = 4096, MAGIC = 0x1a60, HANDLE = 0xb1a5 };
struct Product {
  cublasComputeType_t compute;
  cudaDataType_t scale, bias_type;
  int32_t pointer_mode, transposed[2], epilogue, has_bias_type;
  void *bias;
  int64_t bias_stride;
};
struct Layout {
  uint32_t type;
  int32_t order;
  uint64_t rows, columns;
  int64_t ld;
  int32_t batch;
  int64_t stride;
};
struct Preference {
  uint64_t workspace;
  uint32_t alignment[4];
};
struct Algorithm {
  uint64_t magic, workspace;
  uint32_t alignment[4];
};
static_assert(sizeof(Product) <= sizeof(cublasLtMatmulDescOpaque_t), "opaque");
static_assert(sizeof(Layout) <= sizeof(cublasLtMatrixLayoutOpaque_t), "opaque");
static_assert(sizeof(Preference) <= sizeof(cublasLtMatmulPreferenceOpaque_t), "opaque");
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t), "opaque");

static size_t size_of(uint32_t type) { return type == CUDA_R_32F ? 4 : 2; }
static bool is_known(uint32_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF; }

static cublasStatus_t refused(cublasStatus_t status, const char *why) {
  fprintf(stderr, "emulator: cublasLt refuses: %s\n", why);
  return status;
}

/* op(X) as a matrix; side 0: A, 1: B */
static Matrix matrix(const Layout &l, const void *p, bool transposed) {
  bool by_column = l.order == CUBLASLT_ORDER_COL;
  Matrix x = {(const char *)p,    l.type == CUDA_R_16BF, (int64_t)l.rows,
              (int64_t)l.columns, by_column ? 1 : l.ld,  by_column ? l.ld : 1};
  if (!transposed) return x;
  return {x.p, x.bf16, x.columns, x.rows, x.across, x.down};
}

/* ---- what the library refuses ---- */
static bool told(const char *mode) {
  const char *wish = getenv("IJ_EMU_LT");
  return wish && !strcmp(wish, mode);
}
static const char *layout_fault(const Layout &l) {
  uint64_t least = l.order == CUBLASLT_ORDER_COL ? l.rows : l.columns;
  if (!is_known(l.type)) return "a type other than f32 and bf16";
  if (l.order != CUBLASLT_ORDER_COL && l.order != CUBLASLT_ORDER_ROW) return "an order other than by column or row";
  if (!l.rows || !l.columns) return "a matrix without elements";
  if (l.ld < (int64_t)least) return "a leading dimension below the matrix's own";
  if (l.batch < 1) return "a batch of less than 1";
  return nullptr;
}

static cublasStatus_t check(const Product &p, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
  const Layout *all[] = {&a, &b, &c, &d};
  for (const Layout *l : all)
    if (const char *fault = layout_fault(*l)) return refused(CUBLAS_STATUS_INVALID_VALUE, fault);
  Matrix x = matrix(a, nullptr, p.transposed[0]), y = matrix(b, nullptr, p.transposed[1]);
  if (x.columns != y.rows || x.rows != (int64_t)d.rows || y.columns != (int64_t)d.columns || c.rows != d.rows ||
      c.columns != d.columns)
    return refused(CUBLAS_STATUS_INVALID_VALUE, "shapes that don't fit");
  if (a.batch != b.batch || a.batch != d.batch || c.batch != d.batch)
    return refused(CUBLAS_STATUS_INVALID_VALUE, "batches that differ");
  if (p.compute != CUBLAS_COMPUTE_32F && p.compute != CUBLAS_COMPUTE_32F_FAST_TF32)
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "a compute type that is not emulated");
  if (p.scale != CUDA_R_32F) return refused(CUBLAS_STATUS_NOT_SUPPORTED, "a scale type other than f32");
  if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F))
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "a combination of types");
  if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.epilogue != CUBLASLT_EPILOGUE_BIAS &&
      p.epilogue != CUBLASLT_EPILOGUE_BGRADA && p.epilogue != CUBLASLT_EPILOGUE_BGRADB)
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an epilogue that is not emulated");
  if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && d.order != CUBLASLT_ORDER_COL)
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an epilogue where D is ordered by row");
  if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.has_bias_type && p.bias_type != (cudaDataType_t)d.type)
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "a bias of another type than D");
  if (told("none")) return CUBLAS_STATUS_NOT_SUPPORTED; /* asked for: no word about it */
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- the work ---- */
static void announce(const Layout &l, const char *p, bool written, const char *name) {
  bool by_column = l.order == CUBLASLT_ORDER_COL;
  uint64_t lines = by_column ? l.columns : l.rows, length = by_column ? l.rows : l.columns;
  size_t size = size_of(l.type);
  check_range(p, (size_t)((lines - 1) * (uint64_t)l.ld + length) * size, name);
  for (uint64_t i = 0; i < lines; i++) {
    const char *line = p + i * (uint64_t)l.ld * size;
    if (written) will_write((void *)line, length * size);
    else will_read(line, length * size);
  }
}

static float get(const void *p, uint32_t type, int64_t i) {
  if (type == CUDA_R_32F) return ((const float *)p)[i];
  return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}
static void put(void *p, uint32_t type, int64_t i, float x) {
  if (type == CUDA_R_32F) ((float *)p)[i] = x;
  else ((__nv_bfloat16 *)p)[i] = __float2bfloat16(x);
}

struct MatmulWork : Work {
  Product product;
  Layout a, b, c, d;
  const char *pa, *pb, *pc;
  char *pd, *workspace;
  float alpha, beta;
  size_t workspace_used;

  void store(const float *sums, const float *bias, const char *from, char *to) const {
    Matrix in = matrix(c, from, false), out = matrix(d, to, false);
    bool off = told("off");
    for (int64_t j = 0; j < out.columns; j++)
      for (int64_t i = 0; i < out.rows; i++) {
        float x = (off ? 1.02f : 1) * alpha * sums[j * out.rows + i];
        if (beta != 0) x += beta * get(from, c.type, i * in.down + j * in.across);
        if (bias) x += bias[i];
        put(to, d.type, i * out.down + j * out.across, x);
      }
  }

  void one(int64_t z) const {
    const char *az = pa + z * a.stride * (int64_t)size_of(a.type), *bz = pb + z * b.stride * (int64_t)size_of(b.type);
    const char *cz = pc + z * c.stride * (int64_t)size_of(c.type);
    char *dz = pd + z * d.stride * (int64_t)size_of(d.type);
    announce(a, az, false, "cublasLtMatmul's A");
    announce(b, bz, false, "cublasLtMatmul's B");
    if (beta != 0) announce(c, cz, false, "cublasLtMatmul's C");
    announce(d, dz, true, "cublasLtMatmul's D");
    Matrix x = matrix(a, az, product.transposed[0]), y = matrix(b, bz, product.transposed[1]);
    size_t bytes = (size_t)x.rows * (size_t)y.columns * sizeof(float);
    float *sums = (float *)malloc(bytes), *bias = nullptr;
    multiply(x, y, product.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? TF32 : EXACT, sums);
    if (!TSAN) will_write(sums, bytes);
    if (product.epilogue == CUBLASLT_EPILOGUE_BIAS) bias = read_bias(z, x.rows);
    else if (product.epilogue != CUBLASLT_EPILOGUE_DEFAULT) write_bias_gradient(z, x, y);
    store(sums, bias, cz, dz);
    free(sums);
    free(bias);
  }
  char *bias_at(int64_t z) const { return (char *)product.bias + z * product.bias_stride * (int64_t)size_of(d.type); }
  float *read_bias(int64_t z, int64_t n) const {
    float *bias = (float *)malloc((size_t)n * sizeof *bias);
    check_range(bias_at(z), (size_t)n * size_of(d.type), "cublasLtMatmul's bias");
    will_read(bias_at(z), (size_t)n * size_of(d.type));
    for (int64_t i = 0; i < n; i++) bias[i] = get(bias_at(z), d.type, i);
    return bias;
  }
  void write_bias_gradient(int64_t z, const Matrix &x, const Matrix &y) const {
    bool of_b = product.epilogue == CUBLASLT_EPILOGUE_BGRADB;
    int64_t n = of_b ? y.columns : x.rows;
    float *sums = (float *)malloc((size_t)n * sizeof *sums);
    check_range(bias_at(z), (size_t)n * size_of(d.type), "cublasLtMatmul's bias gradient");
    will_write(bias_at(z), (size_t)n * size_of(d.type));
    sum_of(of_b ? y : x, of_b, sums);
    if (!TSAN) will_write(sums, (size_t)n * sizeof *sums);
    for (int64_t i = 0; i < n; i++) put(bias_at(z), d.type, i, sums[i]);
    free(sums);
  }

  bool run() override {
    if (workspace_used) { /* whoever else uses it now shows */
      check_range(workspace, workspace_used, "cublasLtMatmul's workspace");
      will_write(workspace, workspace_used);
      make_garbage(workspace, garbage(), workspace_used);
    }
    for (int64_t z = 0; z < d.batch; z++) one(z);
    return true;
  }
};

static size_t extent(const Layout &l) { /* bytes from the first element to behind the last */
  bool by_column = l.order == CUBLASLT_ORDER_COL;
  uint64_t lines = by_column ? l.columns : l.rows, length = by_column ? l.rows : l.columns;
  int64_t last = (int64_t)(l.batch - 1) * l.stride + (int64_t)((lines - 1) * (uint64_t)l.ld + length);
  return (size_t)last * size_of(l.type);
}
static void refuse_overlap(const char *d, size_t nd, const char *x, size_t nx, const char *name) {
  if (d < x + nx && x < d + nd) fail("cublasLtMatmul: D overlaps %s", name);
}

static bool aligned(const void *p, uint32_t to) { return !to || (uintptr_t)p % to == 0; }
template <class T> static cublasStatus_t set(T &to, const void *from, size_t n) {
  if (n != sizeof to) return refused(CUBLAS_STATUS_INVALID_VALUE, "an attribute of another size");
  memcpy(&to, from, n);
  return CUBLAS_STATUS_SUCCESS;
}
template <class To, class From> static To *as(From *p) { return reinterpret_cast<To *>(p); }
} // namespace emu

using namespace emu;
extern "C" {
cublasStatus_t cublasLtCreate(cublasLtHandle_t *out) {
  Enter call;
  if (call.error) return CUBLAS_STATUS_NOT_INITIALIZED;
  int *handle = new int(HANDLE);
  *out = (cublasLtHandle_t)handle;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete (int *)handle;
  return CUBLAS_STATUS_SUCCESS;
}
size_t cublasLtGetVersion(void) { return CUBLAS_VERSION; }
const char *cublasLtGetStatusName(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS           ? "CUBLAS_STATUS_SUCCESS"
         : s == CUBLAS_STATUS_NOT_SUPPORTED   ? "CUBLAS_STATUS_NOT_SUPPORTED"
         : s == CUBLAS_STATUS_INVALID_VALUE   ? "CUBLAS_STATUS_INVALID_VALUE"
         : s == CUBLAS_STATUS_NOT_INITIALIZED ? "CUBLAS_STATUS_NOT_INITIALIZED"
                                              : "CUBLAS_STATUS_EXECUTION_FAILED";
}
const char *cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t out, size_t, cublasComputeType_t compute,
                                               cudaDataType_t scale) {
  Product p = {};
  p.compute = compute;
  p.scale = scale;
  p.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  *as<Product>(out) = p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
  *out = new cublasLtMatmulDescOpaque_t();
  return cublasLtMatmulDescInit_internal(*out, sizeof **out, compute, scale);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t n) {
  Product *p = as<Product>(desc);
  switch (attribute) {
  case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
    return set(p->compute, value, n);
  case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
    return set(p->scale, value, n);
  case CUBLASLT_MATMUL_DESC_POINTER_MODE:
    return set(p->pointer_mode, value, n);
  case CUBLASLT_MATMUL_DESC_TRANSA:
    return set(p->transposed[0], value, n);
  case CUBLASLT_MATMUL_DESC_TRANSB:
    return set(p->transposed[1], value, n);
  case CUBLASLT_MATMUL_DESC_EPILOGUE:
    return set(p->epilogue, value, n);
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
    return set(p->bias, value, n);
  case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
    return set(p->bias_stride, value, n);
  case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
    p->has_bias_type = 1;
    return set(p->bias_type, value, n);
  default:
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an attribute of the product that is not emulated");
  }
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t out, size_t, cudaDataType type, uint64_t rows,
                                                 uint64_t columns, int64_t ld) {
  *as<Layout>(out) = {(uint32_t)type, CUBLASLT_ORDER_COL, rows, columns, ld, 1, 0};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *out = new cublasLtMatrixLayoutOpaque_t();
  return cublasLtMatrixLayoutInit_internal(*out, sizeof **out, type, rows, columns, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t n) {
  Layout *l = as<Layout>(layout);
  switch (attribute) {
  case CUBLASLT_MATRIX_LAYOUT_TYPE:
    return set(l->type, value, n);
  case CUBLASLT_MATRIX_LAYOUT_ORDER:
    return set(l->order, value, n);
  case CUBLASLT_MATRIX_LAYOUT_ROWS:
    return set(l->rows, value, n);
  case CUBLASLT_MATRIX_LAYOUT_COLS:
    return set(l->columns, value, n);
  case CUBLASLT_MATRIX_LAYOUT_LD:
    return set(l->ld, value, n);
  case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
    return set(l->batch, value, n);
  case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
    return set(l->stride, value, n);
  default:
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "an attribute of a layout that is not emulated");
  }
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t out, size_t) {
  *as<Preference>(out) = {0, {256, 256, 256, 256}}; /* the library's defaults */
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
  *out = new cublasLtMatmulPreferenceOpaque_t();
  return cublasLtMatmulPreferenceInit_internal(*out, sizeof **out);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
  delete p;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t n) {
  Preference *p = as<Preference>(preference);
  switch (attribute) {
  case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
    return set(p->workspace, value, n);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    return set(p->alignment[0], value, n);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    return set(p->alignment[1], value, n);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    return set(p->alignment[2], value, n);
  case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
    return set(p->alignment[3], value, n);
  default: /* how it searches makes no difference here */
    return CUBLAS_STATUS_SUCCESS;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
  *found = 0;
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted < 1) return refused(CUBLAS_STATUS_INVALID_VALUE, "no result is asked for");
  cublasStatus_t st = check(*as<Product>(desc), *as<Layout>(a), *as<Layout>(b), *as<Layout>(c), *as<Layout>(d));
  if (st) return st;
  const Preference *p = as<Preference>(preference);
  Algorithm algorithm = {MAGIC, p->workspace >= WORKSPACE ? (uint64_t)WORKSPACE : 0, {}};
  memcpy(algorithm.alignment, p->alignment, sizeof algorithm.alignment);
  *found = wanted < CANDIDATES ? wanted : (int)CANDIDATES;
  for (int i = 0; i < *found; i++) {
    if (i) algorithm.workspace = 0; /* told apart by it */
    memset(&results[i], 0, sizeof results[i]);
    memcpy(&results[i].algo, &algorithm, sizeof algorithm);
    results[i].workspaceSize = algorithm.workspace;
    results[i].state = CUBLAS_STATUS_SUCCESS;
    results[i].wavesCount = 1;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  cublasStatus_t st = check(*as<Product>(desc), *as<Layout>(a), *as<Layout>(b), *as<Layout>(c), *as<Layout>(d));
  if (st) return st;
  Algorithm algorithm;
  memcpy(&algorithm, algo, sizeof algorithm);
  if (algorithm.magic != MAGIC) return refused(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that no heuristic gave");
  memset(result, 0, sizeof *result);
  memcpy(&result->algo, algo, sizeof *algo);
  result->workspaceSize = algorithm.workspace;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  Enter call;
  if (call.error) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!handle || *(int *)handle != HANDLE) return CUBLAS_STATUS_NOT_INITIALIZED;
  const Product &product = *as<Product>(desc);
  Algorithm algorithm = {MAGIC, 0, {16, 16, 16, 16}};
  if (algo) memcpy(&algorithm, algo, sizeof algorithm);
  cublasStatus_t st = check(product, *as<Layout>(a), *as<Layout>(b), *as<Layout>(c), *as<Layout>(d));
  if (st) return st;
  if (told("late")) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (algorithm.magic != MAGIC) return refused(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that no heuristic gave");
  const void *operands[] = {A, B, C, D};
  for (int i = 0; i < 4; i++) {
    if (!operands[i]) return refused(CUBLAS_STATUS_INVALID_VALUE, "a null pointer");
    if (!aligned(operands[i], algorithm.alignment[i]))
      return refused(CUBLAS_STATUS_INVALID_VALUE, "a pointer that is less aligned than the preference promised");
    check_pointer(operands[i], "cublasLtMatmul", false);
  }
  if (product.epilogue != CUBLASLT_EPILOGUE_DEFAULT) check_pointer(product.bias, "cublasLtMatmul's bias", false);
  if (product.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !product.bias)
    return refused(CUBLAS_STATUS_INVALID_VALUE, "an epilogue without a bias pointer");
  if (algorithm.workspace > workspace_bytes || (algorithm.workspace && !aligned(workspace, 256)))
    return refused(CUBLAS_STATUS_INVALID_VALUE, "a workspace that is too small or not 256-byte aligned");
  if (workspace && !is_device(workspace)) fail("cublasLtMatmul: the workspace %p is not device memory", workspace);
  if (product.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
    return refused(CUBLAS_STATUS_NOT_SUPPORTED, "alpha and beta on the device");
  MatmulWork *work = new MatmulWork();
  work->product = product;
  work->a = *as<Layout>(a), work->b = *as<Layout>(b), work->c = *as<Layout>(c), work->d = *as<Layout>(d);
  work->pa = (const char *)A, work->pb = (const char *)B, work->pc = (const char *)C, work->pd = (char *)D;
  work->alpha = *(const float *)alpha, work->beta = *(const float *)beta;
  work->workspace = (char *)workspace, work->workspace_used = algorithm.workspace;
  refuse_overlap(work->pd, extent(work->d), work->pa, extent(work->a), "A");
  refuse_overlap(work->pd, extent(work->d), work->pb, extent(work->b), "B");
  enqueue(stream, work, "cublasLtMatmul");
  return CUBLAS_STATUS_SUCCESS;
}
}
