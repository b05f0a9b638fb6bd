// GPUs' memory, kernels and products, on the stand-in of tests/cuda/standin.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "../../cpp/cuda/blas.h"
#include "../../cpp/cuda/cache.h"
#include "../../cpp/cuda/compile.h"

using namespace recurra::cuda;

namespace {

int failures = 0;

void check(bool right, const std::string& what) {
  if (right) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

// The text of what is thrown, "" when nothing is.
template <class Thrown, class Work>
std::string thrown(Work&& work) {
  try {
    work();
  } catch (const Thrown& error) {
    return error.what();
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

struct OwnStream {
  CUstream stream = nullptr;
  OwnStream() { check_driver(driver().cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate"); }
  ~OwnStream() { driver().cuStreamDestroy(stream); }
  void synchronize() const { check_driver(driver().cuStreamSynchronize(stream), "cuStreamSynchronize"); }
};

// cuMemcpyHtoD may come back before the copy is in the GPU's memory.
template <class T>
Memory to_device(const Device& device, const std::vector<T>& values) {
  Memory memory(device, values.size() * sizeof(T));
  if (values.empty()) return memory;
  check_driver(driver().cuMemcpyHtoD(CUdeviceptr(memory.data()), values.data(), memory.size()), "cuMemcpyHtoD");
  check_driver(driver().cuStreamSynchronize(nullptr), "cuStreamSynchronize");
  return memory;
}

template <class T>
std::vector<T> to_host(const Memory& memory) {
  std::vector<T> values(memory.size() / sizeof(T));
  if (!values.empty())
    check_driver(driver().cuMemcpyDtoH(values.data(), CUdeviceptr(memory.data()), memory.size()), "cuMemcpyDtoH");
  return values;
}

// ---- products

// Small whole numbers, which all types hold exactly and whose sums are exact too.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
void set(float& to, int value) { to = float(value); }
void set(double& to, int value) { to = value; }
void set(Bfloat& to, int value) {
  const float number = float(value);
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  to.bits = uint16_t(bits >> 16);
}
void set(Half& to, int value) {
  constexpr uint16_t sizes[] = {0, 0x3c00, 0x4000, 0x4200, 0x4400};  // 0 to 4
  to.bits = uint16_t(sizes[std::abs(value)] | (value < 0 ? 0x8000 : 0));
}

struct Values {  // [batches, rows, columns], with gaps between rows and matrices
  int64_t rows, columns, row, batch;
  std::vector<int> number;
  Values(int64_t rows, int64_t columns, int batches, int gap, std::mt19937& random)
      : rows(rows), columns(columns), row(columns + gap), batch(rows * row + 2 * gap), number(size_t(batches * batch)) {
    for (int& n : number) n = int(random() % 9) - 4;
  }
  int at(int64_t b, int64_t i, int64_t j) const { return number[size_t(b * batch + i * row + j)]; }
  template <class T>
  std::vector<T> as() const {
    std::vector<T> values(number.size());
    for (size_t i = 0; i < values.size(); ++i) set(values[i], number[i]);
    return values;
  }
};

template <class T, class Sum>
void product(const Device& device, const OwnStream& stream, const Memory& workspace, Number number, std::mt19937& random) {
  const int64_t sizes[] = {0, 1, 2, 3, 7, 16};
  Gemm gemm;
  gemm.m = sizes[random() % 6], gemm.n = sizes[random() % 6], gemm.k = sizes[random() % 6];
  gemm.a_transposed = random() % 2, gemm.b_transposed = random() % 2;
  gemm.batches = int(random() % 4), gemm.beta = float(random() % 3) / 2;
  const auto values = [&](bool transposed, int64_t rows, int64_t columns) {
    const int gap = int(random() % 2) * 3;
    return Values(transposed ? columns : rows, transposed ? rows : columns, gemm.batches, gap, random);
  };
  const Values a = values(gemm.a_transposed, gemm.m, gemm.k), b = values(gemm.b_transposed, gemm.k, gemm.n),
               c = values(false, gemm.m, gemm.n);
  std::vector<Sum> before = c.as<Sum>();
  if (gemm.beta == 0)  // what is in c does not count then, not even as NaN
    for (int64_t i = 0; i < gemm.batches * gemm.m * gemm.n; ++i)
      before[size_t(i / (gemm.m * gemm.n) * c.batch + i / gemm.n % gemm.m * c.row + i % gemm.n)] = NAN;
  const Memory a_data = to_device(device, a.as<T>()), b_data = to_device(device, b.as<T>()), c_data = to_device(device, before);
  gemm.a = {a_data.data(), a.rows > 1 ? a.row : 0, a.batch};  // of a single row the distance does not count
  gemm.b = {b_data.data(), b.rows > 1 ? b.row : 0, b.batch};
  gemm.c = {c_data.data(), c.rows > 1 ? c.row : 0, c.batch};
  Blas(device, stream.stream, workspace.data(), random() % 2).gemm(gemm, number);
  stream.synchronize();
  const std::vector<Sum> after = to_host<Sum>(c_data);
  std::vector<Sum> expected = c.as<Sum>();
  for (int64_t batch = 0; batch < gemm.batches; ++batch)
    for (int64_t i = 0; i < gemm.m; ++i)
      for (int64_t j = 0; j < gemm.n; ++j) {
        Sum sum = Sum(gemm.beta) * Sum(c.at(batch, i, j));
        for (int64_t k = 0; k < gemm.k; ++k)
          sum += Sum((gemm.a_transposed ? a.at(batch, k, i) : a.at(batch, i, k)) *
                     (gemm.b_transposed ? b.at(batch, j, k) : b.at(batch, k, j)));
        expected[size_t(batch * c.batch + i * c.row + j)] = sum;
      }
  char what[128];
  std::snprintf(what, sizeof what, "product of type %d: m %d n %d k %d transposed %d %d batches %d beta %g", int(number),
                int(gemm.m), int(gemm.n), int(gemm.k), gemm.a_transposed, gemm.b_transposed, gemm.batches, gemm.beta);
  check(after == expected, what);
}

void products(const Device& device) {
  const Current current(device);
  const OwnStream stream;
  const Memory workspace(device, Blas::workspace_bytes);
  std::mt19937 random(0);
  for (int i = 0; i < 300; ++i) {
    product<float, float>(device, stream, workspace, Number::f32, random);
    product<double, double>(device, stream, workspace, Number::f64, random);
    product<Half, float>(device, stream, workspace, Number::f16, random);
    product<Bfloat, float>(device, stream, workspace, Number::bf16, random);
  }
  Gemm large;
  large.m = int64_t(1) << 31, large.n = large.k = 1;
  const Blas blas(device, stream.stream, workspace.data(), false);
  check(has(thrown<std::invalid_argument>([&] { blas.gemm(large, Number::f32); }), "got 2147483648"), "a matrix too large");
}

// While a stream is captured no handle can be made: the one that prepare has left is there.
void capture(const Device& device) {
  Blas::prepare(device);
  const Current current(device);
  const OwnStream stream, other;
  const Memory workspace(device, Blas::workspace_bytes), more(device, Blas::workspace_bytes);
  check_driver(driver().cuStreamBeginCapture(stream.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  check(is_capturing(stream.stream) && !is_capturing(other.stream), "is_capturing");
  {
    const Blas first(device, stream.stream, workspace.data(), false);
    check(has(thrown<Error>([&] { const Blas second(device, stream.stream, more.data(), false); }), "no handle is free"),
          "a second handle while capturing");
  }
  {
    const Blas again(device, stream.stream, workspace.data(), false);
  }
  CUgraph graph = nullptr;
  check_driver(driver().cuStreamEndCapture(stream.stream, &graph), "cuStreamEndCapture");
  driver().cuGraphDestroy(graph);
}

// ---- memory

void memory(const Device& device) {
  Memory first(device, 64);
  char* const data = first.data();
  check(data && first.size() == 64 && device_of(data) == device.ordinal, "memory of the device");
  Memory second = std::move(first);
  check(!first.data() && !first.size() && second.data() == data, "a move");
  second = Memory();
  check(device_of(data) == -1, "memory is freed");
  int on_host = 0;
  check(device_of(&on_host) == -1 && device_of(nullptr) == -1, "host memory");
  check(!Memory(device, 0).data(), "no bytes");
  bool refused = false;
  try {
    const Memory too_large(device, size_t(1) << 60);
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  check(refused, "more memory than there is");
}

// ---- kernels

struct Scaling {
  const float* from;
  float* to;
  int64_t count;
};

const char* const kScale = R"(
#include "cuda/kernels/device.cuh"
#include "cells/cells.def"
#include <cstdint>
struct Scaling { const float* from; float* to; int64_t count; };
RECURRA_KERNEL(scale, Scaling) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.count) a.to[i] = FACTOR * a.from[i];
})";

std::vector<float> scaled(const Device& device, const Module& module) {
  const Current current(device);
  const OwnStream stream;
  const Memory from = to_device<float>(device, {1, 2, 3, 4, 5}), to = to_device<float>(device, {0, 0, 0, 0, 0});
  launch(module.function("scale"), {2}, {4}, stream.stream,
         Scaling{reinterpret_cast<const float*>(from.data()), reinterpret_cast<float*>(to.data()), 5});
  stream.synchronize();
  return to_host<float>(to);
}

void kernels(const Device& device, const Device& next) {
  const std::vector<std::string> twice = {"-fmad=false", "-DFACTOR=2"}, thrice = {"-fmad=false", "-DFACTOR=3"};
  const std::vector<float> doubled = {2, 4, 6, 8, 10};
  const Module& module = compiled(device, kScale, twice);
  check(scaled(device, module) == doubled, "a kernel");
  check(&compiled(device, kScale, twice) == &module, "the same module again");
  check(scaled(device, compiled(device, kScale, thrice)) == std::vector<float>{3, 6, 9, 12, 15}, "a module of other options");
  check(scaled(next, compiled(next, kScale, twice)) == doubled, "a module of another GPU");
  check(has(thrown<Error>([&] { module.function("nothing"); }), "cuModuleGetFunction nothing"), "a kernel that is not there");
  const std::string log = thrown<Error>([&] { compiled(device, "RECURRA", {}); });
  check(has(log, device.name) && has(log, "NVRTC") && has(log, "RECURRA"), "the compiler's log: " + log);
  std::vector<const Module*> found(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < found.size(); ++i)
    threads.emplace_back([&, i] {
      found[i] = &compiled(device, kScale + std::string(i % 2, ' '), twice);
      if (scaled(device, *found[i]) != doubled) found[i] = nullptr;
    });
  for (std::thread& thread : threads) thread.join();
  check(!std::set<const Module*>(found.begin(), found.end()).count(nullptr), "kernels from several threads");
}

// What the driver does not load is made anew, and kept in its place.
void another_image(const Device& device) {
  const std::string source = kScale, folder = cache_folder();
  const std::vector<std::string> options = {"-DFACTOR=7"};  // nobody else's, so that no other image is the same
  const auto architecture =
      "sm_" + std::to_string(device.major) + std::to_string(device.minor) + (device.major == 9 ? "a" : "");
  const std::string image = cached(source, options, architecture);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string key = entry.path().stem();
    if (load(folder, key) != image) continue;
    const std::string other(4096, '?');  // a driver is not told how long an image is
    store(folder, key, other);
    check(scaled(device, compiled(device, source, options)) == std::vector<float>{7, 14, 21, 28, 35},
          "a kernel kept by another build");
    check(load(folder, key) != other, "the kept image is replaced");
    return;
  }
  check(false, "the kept image");
}

// ---- processes

// A child's memory of the GPU's is freed by its parent alone, and using it is an error.
void fork_(const Device& device) {
  auto* const owned = new Memory(device, 64);
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    delete owned;
    const bool refused = has(thrown<Error>([] { Device::of(0); }), "spawn") &&
                         has(thrown<Error>([&] { compiled(device, kScale, {"-DFACTOR=5"}); }), "spawn") &&
                         has(thrown<Error>([&] { Blas::prepare(device); }), "spawn") &&
                         has(thrown<Error>([&] { Memory(device, 1); }), "spawn") && has(thrown<Error>(Device::count), "spawn");
    _exit(refused ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child");
  check(device_of(owned->data()) == 0, "the parent's memory");
  delete owned;
}

}  // namespace

int main() {
  const Device &device = Device::of(0), &next = Device::of(1);
  check(&Device::of(0) == &device && Device::count() == 2 && device.multiprocessors > 0, "the devices");
  check(has(thrown<std::invalid_argument>([] { Device::of(2); }), "counted from 0; got cuda:2"), "no such device");
  capture(device);
  for (const Device* each : {&device, &next}) {
    products(*each);
    memory(*each);
  }
  kernels(device, next);
  another_image(device);
  fork_(device);
  std::printf("%d failures\n", failures);
  return failures != 0;
}
