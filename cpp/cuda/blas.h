// Products by cuBLAS.
#pragma once
#include "device.h"
#include "recurra/cuda.h"

namespace recurra {
namespace cuda {

// A matrix in device memory, row-major, and how far the next one of a batch lies.
struct Matrix {
  const void* data = nullptr;
  int64_t row = 0;    // elements from row to row
  int64_t batch = 0;  // elements from matrix to matrix
};

// c = a b + beta c, [m, n] = [m, k] [k, n], `batches` of them; a and b may be given transposed (then a is [k, m], b [n, k]).
// a and b are of one number type; c is too, but float for 16-bit ones. Sums are float, or double for f64.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  Matrix a, b;
  bool a_transposed = false, b_transposed = false;
  Matrix c;
  float beta = 0;
  int batches = 1;
};

// A cuBLAS handle with a stream and a workspace set, taken from a pool of the device and put back at the end: handles are not
// for two threads at once, and making one takes milliseconds. As long as it lives the device's context is this thread's
// current one.
//
// No handle can be made while a stream is being captured, since that allocates. `prepare`, called when a layer is put on a
// device, leaves one in the pool, so one thread can capture at any time; Error for another one that does at the same moment,
// unless a second handle was needed before.
class Blas {
 public:
  static constexpr size_t workspace_bytes = 32 << 20;  // as cuBLAS wants on Hopper; aligned to 256 bytes

  static void prepare(const Device& device);
  Blas(const Device& device, CUstream stream, void* workspace, bool allow_tf32);
  ~Blas();
  Blas(const Blas&) = delete;
  void gemm(const Gemm& gemm, Number number) const;  // nothing is done if m, n or batches is 0; k = 0 scales c

 private:
  const Device& device_;
  const Current current_;
  CUstream stream_;
  cublasHandle handle_;
  bool allow_tf32_;
};

}  // namespace cuda
}  // namespace recurra
