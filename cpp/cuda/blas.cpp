#include "blas.h"

#include <algorithm>
#include <climits>
#include <mutex>
#include <vector>

namespace recurra {
namespace cuda {
namespace {

// Handles of a device that nobody uses, kept for the process. No forked child takes the lock: driver() throws there first.
struct Pool {
  std::mutex mutex;
  std::vector<cublasHandle> free;
};
Pool* const pools = new Pool[Device::most];  // never destroyed: at exit other threads may still be here

Pool& pool_of(const Device& device) { return pools[device.ordinal]; }

void put_back(const Device& device, cublasHandle handle) {
  Pool& pool = pool_of(device);
  const std::lock_guard<std::mutex> lock(pool.mutex);
  pool.free.push_back(handle);
}

cublasHandle free_handle(const Device& device) {
  driver();
  Pool& pool = pool_of(device);
  const std::lock_guard<std::mutex> lock(pool.mutex);
  if (pool.free.empty()) return nullptr;
  const cublasHandle handle = pool.free.back();
  pool.free.pop_back();
  return handle;
}

cublasHandle new_handle() {
  const Relaxed relaxed;  // another thread may be capturing
  cublasHandle handle = nullptr;
  check_cublas(cublas().cublasCreate(&handle), "cublasCreate");
  return handle;
}

cublasHandle taken(const Device& device, CUstream stream) {
  if (const cublasHandle handle = free_handle(device)) return handle;
  if (is_capturing(stream))
    throw Error(
        "cuBLAS: no handle is free, and none can be made while the stream is being captured: call the layer once "
        "before the capture, or capture in one thread at a time");
  return new_handle();
}

int int_of(int64_t size) {
  if (size > INT_MAX)
    throw std::invalid_argument("cuBLAS takes at most 2147483647 rows and columns, got " + std::to_string(size));
  return int(size);
}

int type_of(Number number) {
  switch (number) {
    case Number::f64: return CUDA_R_64F;
    case Number::f16: return CUDA_R_16F;
    case Number::bf16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}

// Elements from row to row; of a matrix of one row it means nothing to us, but cuBLAS checks it.
int pitch(const Matrix& matrix, int64_t rows, int64_t columns) {
  return int_of(std::max<int64_t>(1, rows > 1 ? matrix.row : columns));
}

void set_zero(const Gemm& gemm, size_t number_bytes, CUstream stream) {
  const bool contiguous = gemm.c.row == gemm.n;
  const int64_t pieces = contiguous ? 1 : gemm.m, size = contiguous ? gemm.m * gemm.n : gemm.n;
  for (int batch = 0; batch < gemm.batches; ++batch)
    for (int64_t i = 0; i < pieces; ++i) {
      const auto* to = static_cast<const char*>(gemm.c.data) + size_t(batch * gemm.c.batch + i * gemm.c.row) * number_bytes;
      check_driver(driver().cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(to), 0, size_t(size) * number_bytes, stream),
                   "cuMemsetD8Async");
    }
}

}  // namespace

void Blas::prepare(const Device& device) {
  if (const cublasHandle handle = free_handle(device)) return put_back(device, handle);
  const Current current(device);
  put_back(device, new_handle());
}

Blas::Blas(const Device& device, CUstream stream, void* workspace, bool allow_tf32)
    : device_(device), current_(device), stream_(stream), handle_(taken(device, stream)), allow_tf32_(allow_tf32) {
  try {
    // The stream first: setting it takes the workspace away.
    check_cublas(cublas().cublasSetStream(handle_, stream), "cublasSetStream");
    check_cublas(cublas().cublasSetWorkspace(handle_, workspace, workspace_bytes), "cublasSetWorkspace");
  } catch (...) {
    put_back(device_, handle_);
    throw;
  }
}

Blas::~Blas() { put_back(device_, handle_); }

// To cuBLAS, whose matrices are column-major, ours are their transposes: c^T = b^T a^T.
void Blas::gemm(const Gemm& gemm, Number number) const {
  if (gemm.m == 0 || gemm.n == 0 || gemm.batches == 0) return;
  const bool is_double = number == Number::f64;
  if (gemm.k == 0) {
    if (gemm.beta == 0) set_zero(gemm, is_double ? sizeof(double) : sizeof(float), stream_);
    if (gemm.beta == 0 || gemm.beta == 1) return;
  }
  const float alpha = 1;
  const double double_alpha = 1, double_beta = gemm.beta;
  const int type = type_of(number), type_c = is_double ? CUDA_R_64F : CUDA_R_32F;
  const int compute = is_double                              ? CUBLAS_COMPUTE_64F
                      : number == Number::f32 && allow_tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                             : CUBLAS_COMPUTE_32F;
  const int lda = gemm.a_transposed ? pitch(gemm.a, gemm.k, gemm.m) : pitch(gemm.a, gemm.m, gemm.k);
  const int ldb = gemm.b_transposed ? pitch(gemm.b, gemm.n, gemm.k) : pitch(gemm.b, gemm.k, gemm.n);
  check_cublas(cublas().cublasGemmStridedBatchedEx(
                   handle_, gemm.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, gemm.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N,
                   int_of(gemm.n), int_of(gemm.m), int_of(gemm.k), is_double ? static_cast<const void*>(&double_alpha) : &alpha,
                   gemm.b.data, type, ldb, gemm.b.batch, gemm.a.data, type, lda, gemm.a.batch,
                   is_double ? static_cast<const void*>(&double_beta) : &gemm.beta, const_cast<void*>(gemm.c.data), type_c,
                   pitch(gemm.c, gemm.m, gemm.n), gemm.c.batch, gemm.batches, compute, CUBLAS_GEMM_DEFAULT),
               "cublasGemmStridedBatchedEx");
}

}  // namespace cuda
}  // namespace recurra
