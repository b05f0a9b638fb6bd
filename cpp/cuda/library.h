// The CUDA driver, NVRTC and cuBLAS, opened with dlopen at first use and never closed. Importing this package loads none.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

#include "api.h"
#include "recurra/cuda.h"

namespace recurra {
namespace cuda {

#define RECURRA_POINTER(symbol, name, ...) int (*name)(__VA_ARGS__) = nullptr;
struct Driver {
  RECURRA_DRIVER_CALLS(RECURRA_POINTER)
};
struct Nvrtc {
  RECURRA_NVRTC_CALLS(RECURRA_POINTER)
  int major = 0, minor = 0;
};
struct Cublas {
  RECURRA_CUBLAS_CALLS(RECURRA_POINTER)
};
#undef RECURRA_POINTER

// Each opens its library at the first call, whatever the thread, and throws Unavailable every time as long as it is missing.
// driver() also initialises it, and throws in a child forked after that: CUDA does not survive a fork.
const Driver& driver();
const Nvrtc& nvrtc();
const Cublas& cublas();

// Where to look before the usual names: "nvrtc" or "cublas", and the path of the file. Without effect once it is open.
void set_library_path(const std::string& library, const std::string& path);

// Of `python -m recurra cuda`: what was found.
struct Found {
  std::string name;     // "driver", "nvrtc", "cublas"
  std::string path;     // empty when it is missing
  std::string version;  // empty when it is missing
  std::string problem;  // empty when it works
};
std::vector<Found> found();

// Throw Error unless `status` is 0; `call` is what was called.
void check_driver(CUresult status, const char* call);
void check_cublas(cublasStatus status, const char* call);

}  // namespace cuda
}  // namespace recurra
