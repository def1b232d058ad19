/* cublasLt's shim against plain loops: transposed or not, by column or row, batches, types, epilogues, refusals. */
#include "check.h"
#include <cublasLt.h>

static float noise(size_t i) { return (float)((i * 2246822519u >> 9) % 1999) / 1000 - 1; }

template <class T> static float at(const std::vector<T> &x, size_t i);
template <> float at(const std::vector<float> &x, size_t i) { return x[i]; }
template <> float at(const std::vector<__nv_bfloat16> &x, size_t i) { return __bfloat162float(x[i]); }
template <class T> static cudaDataType_t type_of() { return sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_16BF; }
template <class T> static std::vector<T> noises(size_t n, size_t from) {
  std::vector<T> x(n);
  for (size_t i = 0; i < n; i++) x[i] = (T)noise(from + i);
  return x;
}

struct Lt {
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t product;
  cublasLtMatmulPreference_t preference;
  void *workspace;
  Lt() {
    size_t bytes = 1 << 16;
    uint32_t aligned = 4;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    for (int i = 0; i < 4; i++)
      cublasLtMatmulPreferenceSetAttribute(
          preference, (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), &aligned,
          sizeof aligned);
    cudaMalloc(&workspace, bytes);
  }
  ~Lt() {
    cudaFree(workspace);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(handle);
  }
  template <class V> void set(cublasLtMatmulDescAttributes_t a, V v) {
    cublasLtMatmulDescSetAttribute(product, a, &v, sizeof v);
  }
  cublasStatus_t run(const void *a, cublasLtMatrixLayout_t la, const void *b, cublasLtMatrixLayout_t lb, float beta,
                     void *d, cublasLtMatrixLayout_t ld) {
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    float alpha = 0.5f;
    cublasStatus_t st = cublasLtMatmulAlgoGetHeuristic(handle, product, la, lb, ld, ld, preference, 1, &found, &n);
    if (st) return st;
    return cublasLtMatmul(handle, product, &alpha, a, la, b, lb, &beta, d, ld, d, ld, &found.algo, workspace, 1 << 16,
                          0);
  }
};

static cublasLtMatrixLayout_t layout(cudaDataType_t type, int rows, int columns, bool by_row, int batch) {
  cublasLtMatrixLayout_t l;
  int32_t order = by_row ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
  int64_t stride = (int64_t)rows * columns;
  cublasLtMatrixLayoutCreate(&l, type, (uint64_t)rows, (uint64_t)columns, by_row ? columns : rows);
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order);
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
  return l;
}
static size_t index_of(int i, int j, int rows, int columns, bool by_row) {
  return by_row ? (size_t)i * columns + j : (size_t)j * rows + i;
}

template <class In, class Out>
static void check_product(int m, int n, int k, bool ta, bool tb, bool by_row, int batch, float beta,
                          cublasLtEpilogue_t epilogue) {
  Lt lt;
  int ar = ta ? k : m, ac = ta ? m : k, br = tb ? n : k, bc = tb ? k : n,
      nb = epilogue == CUBLASLT_EPILOGUE_BGRADB ? n : m;
  auto a = noises<In>((size_t)batch * m * k, 0), b = noises<In>((size_t)batch * k * n, 5000);
  auto d = noises<Out>((size_t)batch * m * n, 9000), bias = noises<Out>((size_t)nb, 77);
  Device<In> da(a), db(b);
  Device<Out> dd(d), dbias(bias);
  auto la = layout(type_of<In>(), ar, ac, by_row, batch), lb = layout(type_of<In>(), br, bc, by_row, batch);
  auto ld = layout(type_of<Out>(), m, n, by_row, batch);
  lt.set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)(ta ? CUBLAS_OP_T : CUBLAS_OP_N));
  lt.set(CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)(tb ? CUBLAS_OP_T : CUBLAS_OP_N));
  lt.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)epilogue);
  lt.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, (void *)dbias.p);
  expect(lt.run(da.p, la, db.p, lb, beta, dd.p, ld) == CUBLAS_STATUS_SUCCESS, "a product is accepted");
  auto got = dd.read(), gradient = dbias.read();
  double tolerance = sizeof(Out) == 4 ? 1e-5 : 8e-3;
  for (int z = 0; z < batch; z++)
    for (int i = 0; i < m; i++)
      for (int j = 0; j < n; j++) {
        size_t to = (size_t)z * m * n + index_of(i, j, m, n, by_row);
        double sum = 0;
        for (int l = 0; l < k; l++)
          sum += (double)at(a, (size_t)z * m * k +
                                   (ta ? index_of(l, i, ar, ac, by_row) : index_of(i, l, ar, ac, by_row))) *
                 at(b, (size_t)z * k * n + (tb ? index_of(j, l, br, bc, by_row) : index_of(l, j, br, bc, by_row)));
        double want = 0.5 * sum + beta * at(d, to) + (epilogue == CUBLASLT_EPILOGUE_BIAS ? at(bias, (size_t)i) : 0);
        expect(fabs(at(got, to) - want) <= tolerance * (1 + fabs(want)), "a product");
      }
  for (int i = 0; i < nb && (epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB); i++) {
    double sum = 0;
    bool of_b = epilogue == CUBLASLT_EPILOGUE_BGRADB;
    for (int l = 0; l < k; l++)
      sum += of_b ? at(b, tb ? index_of(i, l, br, bc, by_row) : index_of(l, i, br, bc, by_row))
                  : at(a, ta ? index_of(l, i, ar, ac, by_row) : index_of(i, l, ar, ac, by_row));
    expect(fabs(at(gradient, (size_t)i) - sum) <= tolerance * (1 + fabs(sum)), "a bias gradient");
  }
  for (auto l : {la, lb, ld}) cublasLtMatrixLayoutDestroy(l);
}

static void check_refusals() {
  Lt lt;
  Device<float> a(std::vector<float>(256)), d(std::vector<float>(256));
  auto l = layout(CUDA_R_32F, 16, 16, false, 1), other = layout(CUDA_R_32F, 8, 16, false, 1);
  expect(lt.run(a.p, l, a.p, other, 0, d.p, l) == CUBLAS_STATUS_INVALID_VALUE, "shapes that don't fit are refused");
  expect(lt.run((char *)a.p + 2, l, a.p, l, 0, d.p, l) == CUBLAS_STATUS_INVALID_VALUE,
         "a pointer that is not aligned is refused");
  expect(lt.run(a.p, l, a.p, l, 0, nullptr, l) == CUBLAS_STATUS_INVALID_VALUE, "a null pointer is refused");
  int64_t small = 8;
  cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_LD, &small, sizeof small);
  expect(lt.run(a.p, l, a.p, l, 0, d.p, l) == CUBLAS_STATUS_INVALID_VALUE, "a small leading dimension is refused");
  cublasLtMatrixLayoutDestroy(l);
  cublasLtMatrixLayoutDestroy(other);
}

void check_products() {
  for (int t = 0; t < 8; t++) {
    check_product<float, float>(19, 23, 37, t & 1, t & 2, t & 4, 1, 0, CUBLASLT_EPILOGUE_DEFAULT);
    check_product<__nv_bfloat16, __nv_bfloat16>(20, 22, 36, t & 1, t & 2, t & 4, 2, 0, CUBLASLT_EPILOGUE_DEFAULT);
    check_product<__nv_bfloat16, float>(20, 22, 600, t & 1, t & 2, t & 4, 2, 1, CUBLASLT_EPILOGUE_DEFAULT);
  }
  for (cublasLtEpilogue_t e : {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB}) {
    check_product<float, float>(33, 14, 10, false, true, false, 1, 0.25f, e);
    check_product<__nv_bfloat16, float>(33, 14, 10, true, false, false, 1, 1, e);
  }
  check_refusals();
}
