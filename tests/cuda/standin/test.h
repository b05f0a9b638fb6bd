// What the tests of the stand-in share: the library, opened as a program would, and a few words for it.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/api.h"

using namespace recurra::cuda;

#define STANDIN_POINTER(symbol, name, ...) extern int (*name)(__VA_ARGS__);
RECURRA_DRIVER_CALLS(STANDIN_POINTER)
RECURRA_NVRTC_CALLS(STANDIN_POINTER)
RECURRA_CUBLAS_CALLS(STANDIN_POINTER)
#undef STANDIN_POINTER

uint64_t count(const char* name);  // standin_NAME()
void reset_counts();
extern int (*standin_register)(void* pointer, size_t bytes, int ordinal);
extern int (*standin_unregister)(void* pointer);

#define CHECK(condition)                                                         \
  do {                                                                           \
    if (condition) break;                                                        \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  } while (false)
#define CHECK_IS(expression, expected)                                                                  \
  do {                                                                                                  \
    const long long is = (expression), should = (expected);                                             \
    if (is == should) break;                                                                            \
    std::fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", __FILE__, __LINE__, #expression, is, should); \
    std::exit(1);                                                                                       \
  } while (false)

CUcontext context_of(int ordinal);
CUstream new_stream(unsigned flags = CU_STREAM_NON_BLOCKING);
CUevent new_event();

// A program's status, log, and what was made of it.
struct Compiled {
  int status;
  std::string log, cubin;
};
using Headers = std::vector<std::pair<std::string, std::string>>;
Compiled compile(const std::string& source, std::vector<std::string> options = {}, const Headers& headers = {});
CUfunction kernel(const std::string& source, const char* name = "run", const std::vector<std::string>& options = {});

// Device memory.
template <class T>
struct Array {
  explicit Array(size_t count) : size(count) { CHECK_IS(cuMemAlloc(&pointer, count * sizeof(T)), 0); }
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    CHECK_IS(cuMemcpyHtoD(pointer, values.data(), size * sizeof(T)), 0);
    CHECK_IS(cuStreamSynchronize(nullptr), 0);
  }
  ~Array() {
    if (pointer) cuMemFree(pointer);
  }
  Array(const Array&) = delete;
  std::vector<T> values() const {
    std::vector<T> all(size);
    CHECK_IS(cuMemcpyDtoH(all.data(), pointer, size * sizeof(T)), 0);
    return all;
  }
  T* data() const { return reinterpret_cast<T*>(pointer); }

  CUdeviceptr pointer = 0;
  size_t size;
};

struct Shape {
  unsigned blocks = 1, threads = 1, shared_bytes = 0;
};
template <class Arguments>
int launch(CUfunction function, Shape shape, CUstream stream, const Arguments& arguments) {
  void* parameters[] = {const_cast<Arguments*>(&arguments)};
  return cuLaunchKernel(function, shape.blocks, 1, 1, shape.threads, 1, 1, shape.shared_bytes, stream, parameters, nullptr);
}
template <class Arguments>
CUDA_KERNEL_NODE_PARAMS node(CUfunction function, Shape shape, void** parameters, const Arguments& arguments) {
  parameters[0] = const_cast<Arguments*>(&arguments);
  return {function, shape.blocks, 1, 1, shape.threads, 1, 1, shape.shared_bytes, parameters, nullptr, nullptr, nullptr};
}

void test_kernels();
void test_compiler();
void test_memory();
void test_order();
void test_capture();
void test_graphs();
void test_cublas();
// A fault that a sanitizer must report, or a kernel without that fault.
void run_fault(const std::string& name);
