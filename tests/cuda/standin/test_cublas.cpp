// The product.
#include <cmath>
#include <cstring>

#include "test.h"

namespace {

uint16_t bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
uint16_t half(float value) {
  const _Float16 narrow = _Float16(value);
  uint16_t bits;
  std::memcpy(&bits, &narrow, 2);
  return bits;
}

template <class T>
T number(float value, int type) {
  if (type == CUDA_R_16F) return T(half(value));
  if (type == CUDA_R_16BF) return T(bf16(value));
  return T(value);
}

// c = a b + beta c in every orientation, two of a batch, sizes that are no multiples, strides that leave gaps; small integers
// are exact in every type.
template <class In, class Out>
void test_product(cublasHandle handle, int type_in, int type_out, int compute) {
  const int m = 3, n = 5, k = 4, ld = 7, count = 2, stride = 50;
  const double one = 1, three = 3;
  const float one_float = 1, three_float = 3;
  const bool wide = compute == CUBLAS_COMPUTE_64F;
  const void* const alpha = wide ? static_cast<const void*>(&one) : &one_float;
  for (int transposed = 0; transposed < 4; ++transposed) {
    const int op_a = transposed & 1, op_b = transposed >> 1;
    std::vector<In> a(100), b(100);
    std::vector<Out> c(100);
    const auto value = [](int i) { return float(i * 7 % 11 - 5); };
    for (int i = 0; i < 100; ++i)
      a[size_t(i)] = number<In>(value(i), type_in), b[size_t(i)] = number<In>(value(i + 3), type_in),
      c[size_t(i)] = number<Out>(value(i + 5), type_out);
    const Array<In> a_gpu(a), b_gpu(b);
    const Array<Out> c_gpu(c);
    const void* const beta = wide ? static_cast<const void*>(&three) : &three_float;
    CHECK_IS(
        cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a_gpu.data(), type_in, ld, stride, b_gpu.data(), type_in,
                                   ld, stride, beta, c_gpu.data(), type_out, ld, stride, count, compute, CUBLAS_GEMM_DEFAULT),
        0);
    const std::vector<Out> result = c_gpu.values();
    std::vector<Out> expected = c;
    for (int batch = 0; batch < count; ++batch)
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          float sum = 3 * value(batch * stride + j * ld + i + 5);
          for (int p = 0; p < k; ++p)
            sum += value(batch * stride + (op_a ? p + i * ld : i + p * ld)) *
                   value(batch * stride + (op_b ? j + p * ld : p + j * ld) + 3);
          expected[size_t(batch * stride + j * ld + i)] = number<Out>(sum, type_out);
        }
    CHECK(result == expected);
  }
}

int small_product(cublasHandle handle, const Array<float>& a, const Array<float>& b, float beta, const Array<float>& c,
                  int k = 1, int compute = CUBLAS_COMPUTE_32F) {
  const float one = 1;
  return cublasGemmStridedBatchedEx(handle, 0, 0, 1, 1, k, &one, a.data(), CUDA_R_32F, 1, 0, b.data(), CUDA_R_32F, k ? k : 1, 0,
                                    &beta, c.data(), CUDA_R_32F, 1, 0, 1, compute, CUBLAS_GEMM_DEFAULT);
}

}  // namespace

void test_cublas() {
  cublasHandle handle;
  CHECK_IS(cublasCreate(&handle), 0);
  const Array<float> workspace(1024), a(std::vector<float>{1 + 0x1p-12f}), b(std::vector<float>{3}), c(1);
  CHECK_IS(small_product(handle, a, b, 0, c), 13);  // no workspace
  CHECK_IS(cublasSetWorkspace(handle, workspace.data(), 4096), 0);
  CHECK_IS(cublasSetWorkspace(handle, workspace.data() + 1, 4092), 7);
  CHECK_IS(cublasSetWorkspace(handle, workspace.data(), 8192), 7);

  CHECK_IS(small_product(handle, a, b, 0, c), 0);  // c was NaN
  CHECK(c.values()[0] == (1 + 0x1p-12f) * 3);
  CHECK_IS(small_product(handle, a, b, 0, c, 1, CUBLAS_COMPUTE_32F_FAST_TF32), 0);
  CHECK(c.values()[0] == 3);
  CHECK_IS(small_product(handle, a, b, 2, c, 0), 0);  // k = 0
  CHECK(c.values()[0] == 6);
  CHECK_IS(small_product(handle, a, b, 0, c, 2), 13);  // past the end of b

  test_product<float, float>(handle, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F);
  test_product<double, double>(handle, CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F);
  for (const int type : {CUDA_R_16F, CUDA_R_16BF}) {
    test_product<uint16_t, float>(handle, type, CUDA_R_32F, CUBLAS_COMPUTE_32F);
    test_product<uint16_t, uint16_t>(handle, type, type, CUBLAS_COMPUTE_32F);
  }

  // Its stream: the workspace goes, order is checked, capture holds.
  const CUstream stream = new_stream(), other = new_stream();
  CHECK_IS(cublasSetStream(handle, stream), 0);
  CHECK_IS(small_product(handle, a, b, 0, c), 13);
  CHECK_IS(cublasSetWorkspace(handle, workspace.data(), 4096), 0);
  CHECK_IS(cuStreamSynchronize(nullptr), 0);
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(small_product(handle, a, b, 1, c), 0);
  CUgraph graph;
  CUgraphExec exec;
  CHECK_IS(cuStreamEndCapture(stream, &graph), 0);
  CHECK_IS(cuGraphInstantiate(&exec, graph, 0), 0);
  const std::vector<float> before = c.values();
  CHECK_IS(cuGraphLaunch(exec, stream), 0);
  CHECK_IS(cuMemsetD8Async(c.pointer, 0, 4, other), 719);
  CHECK_IS(cuStreamSynchronize(stream), 0);
  CHECK(c.values()[0] == before[0] + (1 + 0x1p-12f) * 3);
  CHECK_IS(cuGraphExecDestroy(exec), 0);
  CHECK_IS(cuGraphDestroy(graph), 0);
  CHECK_IS(cuStreamDestroy(stream), 0);
  CHECK_IS(cuStreamDestroy(other), 0);
}
