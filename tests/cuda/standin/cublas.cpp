// cuBLAS: the product, summed in double. Column-major.
#include <cmath>
#include <cstring>

#include "standin.h"

namespace standin {
namespace {

constexpr cublasStatus CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_NOT_INITIALIZED = 1, CUBLAS_STATUS_ALLOC_FAILED = 3,
                       CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_EXECUTION_FAILED = 13, CUBLAS_STATUS_NOT_SUPPORTED = 15;

struct Blas {
  int ordinal;
  CUstream stream = nullptr;
  const void* workspace = nullptr;
  size_t workspace_bytes = 0;
};
Handles<Blas, cublasHandle>& handles() {
  static auto& all = *new Handles<Blas, cublasHandle>;
  return all;
}

size_t bytes_of(int type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }

double load(const char* data, int type, long long i) {
  switch (type) {
    case CUDA_R_64F: return reinterpret_cast<const double*>(data)[i];
    case CUDA_R_32F: return reinterpret_cast<const float*>(data)[i];
    case CUDA_R_16F: return reinterpret_cast<const _Float16*>(data)[i];
  }
  const uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(data)[i]) << 16;  // bfloat16
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// To the nearest with the lowest `dropped` bits of a float gone, ties to even.
float rounded(float value, int dropped) {
  if (!std::isfinite(value)) return value;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits += (1u << (dropped - 1)) - 1 + (bits >> dropped & 1);
  bits &= ~((1u << dropped) - 1);
  std::memcpy(&value, &bits, 4);
  return value;
}

void store(char* data, int type, long long i, double value) {
  if (type == CUDA_R_64F) {
    reinterpret_cast<double*>(data)[i] = value;
  } else if (type == CUDA_R_32F) {
    reinterpret_cast<float*>(data)[i] = float(value);
  } else if (type == CUDA_R_16F) {
    reinterpret_cast<_Float16*>(data)[i] = _Float16(float(value));
  } else {
    const float near = rounded(float(value), 16);
    uint32_t bits;
    std::memcpy(&bits, &near, 4);
    reinterpret_cast<uint16_t*>(data)[i] = uint16_t(bits >> 16);
  }
}

struct Operand {
  char* data;
  int type;
  bool transposed;
  long long rows, columns, ld, stride;  // as stored

  double at(int batch, long long row, long long column, bool tf32) const {
    const long long i = batch * stride + (transposed ? column + row * ld : row + column * ld);
    const double value = load(data, type, i);
    return tf32 ? rounded(float(value), 13) : value;
  }
  size_t bytes(int count) const {
    if (!rows || !columns) return 0;
    return size_t((count - 1) * std::max(stride, 0ll) + (columns - 1) * ld + rows) * bytes_of(type);
  }
};

struct Product {
  Operand a, b, c;
  long long m, n, k;
  int count;
  double alpha, beta;
  bool tf32;

  void run() const {
    std::vector<double> left(size_t(m * k)), sums(static_cast<size_t>(m));
    for (int batch = 0; batch < count; ++batch) {
      if (alpha != 0)
        for (long long p = 0; p < k; ++p)
          for (long long i = 0; i < m; ++i) left[size_t(p * m + i)] = a.at(batch, i, p, tf32);
      for (long long j = 0; j < n; ++j) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (long long p = 0; p < k && alpha != 0; ++p) {
          const double right = b.at(batch, p, j, tf32);
          for (long long i = 0; i < m; ++i) sums[size_t(i)] += left[size_t(p * m + i)] * right;
        }
        for (long long i = 0; i < m; ++i) {
          const long long at = batch * c.stride + j * c.ld + i;
          store(c.data, c.type, at, alpha * sums[size_t(i)] + (beta != 0 ? beta * load(c.data, c.type, at) : 0));
        }
      }
    }
  }
};

bool supported(int a, int b, int c, int compute) {
  if (compute == CUBLAS_COMPUTE_64F) return a == CUDA_R_64F && b == a && c == a;
  if (compute == CUBLAS_COMPUTE_32F_FAST_TF32) return a == CUDA_R_32F && b == a && c == a;
  if (compute != CUBLAS_COMPUTE_32F || a != b) return false;
  return (a == CUDA_R_32F || a == CUDA_R_16F || a == CUDA_R_16BF) && (c == a || c == CUDA_R_32F);
}

cublasStatus find(cublasHandle handle, Blas*& blas) {
  blas = handles().find(handle);
  return blas ? CUBLAS_STATUS_SUCCESS : fail(CUBLAS_STATUS_NOT_INITIALIZED, "cuBLAS: no handle");
}

}  // namespace

STANDIN_EXPORT int cublasCreate_v2(cublasHandle* handle) {
  const Lock lock;
  int ordinal;
  if (current_device(ordinal)) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (refuse_while_capturing("cublasCreate")) return CUBLAS_STATUS_ALLOC_FAILED;
  *handle = handles().add(std::make_unique<Blas>(Blas{ordinal}));
  return CUBLAS_STATUS_SUCCESS;
}

STANDIN_EXPORT int cublasGetVersion_v2(cublasHandle, int* version) { return *version = 130000, CUBLAS_STATUS_SUCCESS; }

// Takes the workspace away, as cuBLAS does.
STANDIN_EXPORT int cublasSetStream_v2(cublasHandle handle, CUstream stream) {
  const Lock lock;
  Blas* blas;
  if (const cublasStatus error = find(handle, blas)) return error;
  blas->stream = stream;
  blas->workspace = nullptr, blas->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}

STANDIN_EXPORT int cublasSetWorkspace_v2(cublasHandle handle, void* workspace, size_t bytes) {
  const Lock lock;
  Blas* blas;
  if (const cublasStatus error = find(handle, blas)) return error;
  if (!inside(workspace, bytes, blas->ordinal) || reinterpret_cast<uintptr_t>(workspace) % 256)
    return fail(CUBLAS_STATUS_INVALID_VALUE, "cublasSetWorkspace: no memory of this GPU, or not aligned to 256 bytes");
  blas->workspace = workspace, blas->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

STANDIN_EXPORT int cublasGemmStridedBatchedEx(cublasHandle handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                                              const void* a, int type_a, int lda, long long stride_a, const void* b, int type_b,
                                              int ldb, long long stride_b, const void* beta, void* c, int type_c, int ldc,
                                              long long stride_c, int count, int compute, int algorithm) {
  const Lock lock;
  Blas* blas;
  if (const cublasStatus error = find(handle, blas)) return error;
  const bool transpose_a = op_a == CUBLAS_OP_T, transpose_b = op_b == CUBLAS_OP_T;
  if (m < 0 || n < 0 || k < 0 || count < 0 || (op_a | op_b) > 1 || (op_a | op_b) < 0 ||
      lda < std::max(1, transpose_a ? k : m) || ldb < std::max(1, transpose_b ? n : k) || ldc < std::max(1, m) || !alpha ||
      !beta || algorithm != CUBLAS_GEMM_DEFAULT)
    return fail(CUBLAS_STATUS_INVALID_VALUE, "cublasGemmStridedBatchedEx: sizes, leading dimensions or operations");
  if (!supported(type_a, type_b, type_c, compute))
    return fail(CUBLAS_STATUS_NOT_SUPPORTED, "cublasGemmStridedBatchedEx: this combination of types");
  if (!m || !n || !count) return CUBLAS_STATUS_SUCCESS;

  Stream* stream;
  if (find_stream_for_work(blas->stream, stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (stream->ordinal != blas->ordinal)
    return fail(CUBLAS_STATUS_EXECUTION_FAILED, "cublasGemmStridedBatchedEx: the handle is of another context");
  if (!blas->workspace_bytes)
    return fail(CUBLAS_STATUS_EXECUTION_FAILED, "cublasGemmStridedBatchedEx: no workspace since the stream was set");

  const auto scalar = [&](const void* value) {
    return compute == CUBLAS_COMPUTE_64F ? *static_cast<const double*>(value) : *static_cast<const float*>(value);
  };
  const auto operand = [](const void* data, int type, bool transposed, int rows, int columns, int ld, long long stride) {
    return Operand{static_cast<char*>(const_cast<void*>(data)),
                   type,
                   transposed,
                   transposed ? columns : rows,
                   transposed ? rows : columns,
                   ld,
                   stride};
  };
  const Product product{operand(a, type_a, transpose_a, m, k, lda, stride_a),
                        operand(b, type_b, transpose_b, k, n, ldb, stride_b),
                        operand(c, type_c, false, m, n, ldc, stride_c),
                        m,
                        n,
                        k,
                        count,
                        scalar(alpha),
                        scalar(beta),
                        compute == CUBLAS_COMPUTE_32F_FAST_TF32};
  std::vector<Touch> touches = {{c, product.c.bytes(count), Access::write},
                                {blas->workspace, blas->workspace_bytes, Access::write}};
  if (product.alpha != 0) {
    touches.push_back({a, product.a.bytes(count), Access::read});
    touches.push_back({b, product.b.bytes(count), Access::read});
  }
  for (const Touch& touch : touches)
    if (!inside(touch.pointer, touch.bytes, blas->ordinal))
      return fail(CUBLAS_STATUS_EXECUTION_FAILED, "cublasGemmStridedBatchedEx: a matrix that is not all in this GPU's memory");
  ++state().products;
  const auto run = [product] { return product.run(), CUDA_SUCCESS; };
  const std::string what = "a product [" + std::to_string(m) + ", " + std::to_string(k) + ", " + std::to_string(n) + "]";
  return submit(*stream, {what, blas->ordinal, std::move(touches), run}) ? CUBLAS_STATUS_EXECUTION_FAILED
                                                                         : CUBLAS_STATUS_SUCCESS;
}

}  // namespace standin
