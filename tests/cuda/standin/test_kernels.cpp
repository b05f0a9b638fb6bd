// The emulator and the compiler.
#include <cmath>
#include <cstring>

#include "test.h"

namespace {

struct Sum {
  const float* x;
  float* y;
  int n;
};

// A block's sum, as one would write it: through shared memory, and the last warp by shuffles.
const std::string block_sum = R"(
struct Sum { const float* x; float* y; int n; };
RECURRA_BLOCK_KERNEL(run, Sum) {
  float* const shared = reinterpret_cast<float*>(shared_memory());
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  shared[threadIdx.x] = i < a.n ? a.x[i] : 0.0f;
  BARRIER
  for (unsigned half = blockDim.x / 2; half >= 32; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x >= 32) return;
  float sum = shared[threadIdx.x];
  for (unsigned step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x == 0) a.y[blockIdx.x] = sum;
}
)";
const std::string barrier = "-DBARRIER=__syncthreads();", no_barrier = "-DBARRIER=";

std::vector<float> sums(const std::string& option, const char* seed) {
  setenv("RECURRA_STANDIN_SEED", seed, 1);
  std::vector<float> x(500);
  for (size_t i = 0; i < x.size(); ++i) x[i] = float(i % 7);
  const Array<float> in(x), out(4);
  const CUfunction function = kernel(block_sum, "run", {option});
  CHECK_IS(launch(function, {4, 128, 128 * 4}, nullptr, Sum{in.data(), out.data(), 500}), 0);
  unsetenv("RECURRA_STANDIN_SEED");
  return out.values();
}

std::vector<float> expected_sums() {
  std::vector<float> all(4, 0.0f);
  for (size_t i = 0; i < 500; ++i) all[i / 128] += float(i % 7);
  return all;
}

void test_barriers() {
  for (const char* seed : {"0", "1", "2", "3"}) CHECK(sums(barrier, seed) == expected_sums());
#ifndef STANDIN_THREAD_SANITIZER  // which reports it: run_fault
  int wrong = 0;
  for (const char* seed : {"1", "2", "3"}) wrong += sums(no_barrier, seed) != expected_sums();
  CHECK(wrong > 0);
#endif
}

struct Words {
  const unsigned* x;
  unsigned* y;
};

void test_warps() {
  const CUfunction function = kernel(R"(
    struct Words { const unsigned* x; unsigned* y; };
    RECURRA_BLOCK_KERNEL(run, Words) {
      const unsigned i = threadIdx.x, v = a.x[i];
      unsigned* const y = a.y + i * 8;
      if (i >= 40) return;                                   // threads that have ended are not waited for
      const unsigned mask = i < 32 ? ~0u : 0xffu;
      y[0] = __shfl_xor_sync(mask, v, 1);
      y[1] = __shfl_up_sync(mask, v, 3);
      y[2] = __ballot_sync(mask, v % 3 == 0);
      y[3] = __any_sync(mask, v == 39) + 2 * __all_sync(mask, v >= 32);
      if (i < 16) y[4] = __shfl_sync(0xffffu, v, 5);         // half a warp
      else if (i < 32) y[4] = __shfl_sync(0xffff0000u, v, 20);
      const double d = __shfl_down_sync(mask, double(v) + 0.5, 2);
      y[5] = unsigned(2 * d);
      __syncwarp(mask);
      __syncthreads();
      y[6] = a.y[(i + 1) % 40 * 8];                          // what a thread of perhaps another warp wrote
    }
  )");
  std::vector<unsigned> x(64);
  for (unsigned i = 0; i < 64; ++i) x[i] = i;
  const Array<unsigned> in(x), out(64 * 8);
  CHECK_IS(launch(function, {1, 64}, nullptr, Words{in.data(), out.data()}), 0);
  const std::vector<unsigned> y = out.values();
  for (unsigned i = 0; i < 40; ++i) {
    const unsigned* const row = y.data() + i * 8;
    const unsigned lane = i % 32, lanes = i < 32 ? 32 : 8;
    CHECK_IS(row[0], i ^ 1);
    CHECK_IS(row[1], lane >= 3 ? i - 3 : i);
    unsigned votes = 0;
    for (unsigned other = 0; other < lanes; ++other) votes |= unsigned((i - lane + other) % 3 == 0) << other;
    CHECK_IS(row[2], votes);
    CHECK_IS(row[3], i < 32 ? 0 : 3);
    if (i < 32) CHECK_IS(row[4], i < 16 ? 5 : 20);
    if (lane + 2 < lanes) CHECK_IS(row[5], 2 * i + 5);
    CHECK_IS(row[6], (i + 1) % 40 ^ 1);
  }
}

// A product of two warps: a [16][16] and b [8][16], in words of two numbers, as the PTX manual lays fragments out.
void test_fragments() {
  const std::string source = R"(
    struct Words { const unsigned* x; unsigned* y; };
    RECURRA_BLOCK_KERNEL(run, Words) {
      const unsigned lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
      const unsigned* const a_words = a.x + threadIdx.x / 32 * 192, *const b = a_words + 128;
      const unsigned mine[4] = {a_words[group * 8 + pair], a_words[(group + 8) * 8 + pair],
                                a_words[group * 8 + pair + 4], a_words[(group + 8) * 8 + pair + 4]};
      float sum[4] = {100, 200, 300, 400};
      for (int again = 0; again < 2; ++again)
        multiply_fragments<HALF>(sum, mine, b[group * 8 + pair], b[group * 8 + pair + 4]);
      for (int i = 0; i < 4; ++i)
        a.y[threadIdx.x / 32 * 128 + (group + i / 2 * 8) * 8 + pair * 2 + i % 2] = __float_as_uint(sum[i]);
    })";
  for (const bool half : {true, false}) {
    std::vector<unsigned> words(2 * 192);
    std::vector<int> numbers(2 * words.size());
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = int(i * 7919 % 23) - 11;
      const _Float16 near = _Float16(numbers[i]);
      const float wide = float(numbers[i]);
      uint16_t bits;
      uint32_t wide_bits;
      std::memcpy(&bits, &near, 2), std::memcpy(&wide_bits, &wide, 4);
      words[i / 2] |= (half ? bits : wide_bits >> 16) << 16 * (i % 2);
    }
    const Array<unsigned> in(words), out(2 * 128);
    CHECK_IS(
        launch(kernel(source, "run", {half ? "-DHALF=true" : "-DHALF=false"}), {1, 64}, nullptr, Words{in.data(), out.data()}),
        0);
    const std::vector<unsigned> y = out.values();
    for (unsigned i = 0; i < y.size(); ++i) {
      const unsigned row = i / 8 % 16, column = i % 8;
      const int* const a = numbers.data() + i / 128 * 384 + row * 16;
      const int* const b = numbers.data() + i / 128 * 384 + 256 + column * 16;
      int sum = (1 + column % 2 + row / 8 * 2) * 100;
      for (int k = 0; k < 16; ++k) sum += 2 * a[k] * b[k];
      float got;
      std::memcpy(&got, &y[i], 4);
      CHECK(got == float(sum));
    }
  }
}

// Each block of a cluster writes to the next one's shared memory.
const std::string passed_around = R"(
struct Words { const unsigned* x; unsigned* y; };
RECURRA_BLOCK_KERNEL(run, Words) {
  unsigned* const place = reinterpret_cast<unsigned*>(shared_memory()) + threadIdx.x;
  const unsigned at = (blockIdx.x * gridDim.z + blockIdx.z) * blockDim.x + threadIdx.x;
  BEGIN
  *in_block(place, (blockIdx.z + 1) % gridDim.z) = a.x[at];
  END
  a.y[at] = *place;
}
)";
const std::vector<std::string> meet_twice = {"-DBEGIN=cluster_sync();", "-DEND=cluster_sync();"};

// Two clusters of as many blocks, with 40 threads each.
std::pair<int, std::vector<unsigned>> passed(const std::vector<std::string>& options, unsigned blocks) {
  std::vector<unsigned> x(2 * blocks * 40);
  for (unsigned i = 0; i < x.size(); ++i) x[i] = i;
  const Array<unsigned> in(x), out(x.size());
  const Words words{in.data(), out.data()};
  void* parameters[] = {const_cast<Words*>(&words)};
  CUlaunchAttribute cluster{CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, 0, {}};
  cluster.value.clusterDim = {1, 1, blocks};
  const CUlaunchConfig config = {2, 1, blocks, 40, 1, 1, 160, nullptr, &cluster, 1};
  const CUfunction function = kernel(passed_around, "run", options);
  int clusters = 0;
  CHECK_IS(cuOccupancyMaxActiveClusters(&clusters, function, &config), 0);
  CHECK_IS(clusters, int(132 / blocks));
  const int status = cuLaunchKernelEx(&config, function, parameters, nullptr);
  return {status, out.values()};
}

void test_clusters() {
  for (const unsigned blocks : {1u, 2u, 8u}) {
    const auto [status, y] = passed(meet_twice, blocks);
    CHECK_IS(status, 0);
    for (unsigned i = 0; i < y.size(); ++i) {
      const unsigned cluster = i / (40 * blocks), rank = i / 40 % blocks;
      CHECK_IS(y[i], (cluster * blocks + (rank + blocks - 1) % blocks) * 40 + i % 40);
    }
  }
#ifndef STANDIN_THREAD_SANITIZER  // which reports it: run_fault
  CHECK_IS(passed({"-DBEGIN=", "-DEND=cluster_sync();"}, 2).first, 719);
#endif
  CHECK_IS(passed(meet_twice, 16).first, 912);  // more than every GPU has room for
}

struct Out {
  float* y;
};

void test_shared_memory() {
  const CUfunction read = kernel(R"(
    struct Out { float* y; };
    RECURRA_KERNEL(run, Out) { a.y[blockIdx.x] = reinterpret_cast<float*>(shared_memory())[0]; })");
  const Array<float> out(std::vector<float>(3, 1.0f));
  CHECK_IS(launch(read, {3, 1, 16}, nullptr, Out{out.data()}), 0);
  for (float value : out.values()) CHECK(std::isnan(value));
#ifndef STANDIN_ADDRESS_SANITIZER  // which reports it: run_fault
  const CUfunction write = kernel(R"(
    struct Out { float* y; };
    RECURRA_KERNEL(run, Out) { reinterpret_cast<float*>(shared_memory())[4] = 1; })");
  CHECK_IS(launch(write, {1, 1, 20}, nullptr, Out{out.data()}), 0);
  CHECK_IS(launch(write, {1, 1, 16}, nullptr, Out{out.data()}), 719);
#endif
}

void test_deadlock() {
  const CUfunction function = kernel(R"(
    struct Out { float* y; };
    RECURRA_BLOCK_KERNEL(run, Out) {
      if (threadIdx.x % 2) __syncthreads();
      else __shfl_sync(~0u, 1.0f, 0);
    })");
  const Array<float> out(1);
  CHECK_IS(launch(function, {2, 64}, nullptr, Out{out.data()}), 719);
}

// Threads of a plain kernel, subnormals flushed or not, sums contracted or not.
struct Numbers {
  const float* x;
  float* y;
};
void test_arithmetic() {
  const std::string source = R"(
    struct Numbers { const float* x; float* y; };
    RECURRA_KERNEL(run, Numbers) {
      const float* x = a.x;
      a.y[0] = x[0] * 0.5f;
      a.y[1] = x[1] * x[1] + x[2];
      a.y[2] = __fmaf_rn(x[1], x[1], x[2]);
    })";
  const float small = 0x1p-126f, almost = 1 + 0x1p-12f;
  const Array<float> in(std::vector<float>{small, almost, -1.0f}), out(3);
  const float fused = std::fma(almost, almost, -1.0f), rounded = float(double(almost) * almost) - 1;
  CHECK(fused != rounded);
  const auto run = [&](const std::vector<std::string>& options) {
    CHECK_IS(launch(kernel(source, "run", options), {}, nullptr, Numbers{in.data(), out.data()}), 0);
    return out.values();
  };
  CHECK(run({"-fmad=false"}) == (std::vector<float>{small / 2, rounded, fused}));
  CHECK(run({"-fmad=false", "-ftz=true"}) == (std::vector<float>{0, rounded, fused}));
  CHECK(run({}) == (std::vector<float>{small / 2, fused, fused}));  // NVRTC contracts unless it is told not to
  volatile float here = small;
  CHECK(here * 0.5f != 0);  // only in the kernel
}

}  // namespace

void test_kernels() {
  test_barriers();
  test_warps();
  test_fragments();
  test_clusters();
  test_shared_memory();
  test_deadlock();
  test_arithmetic();
}

void test_compiler() {
  int major, minor;
  CHECK_IS(nvrtcVersion(&major, &minor), 0);
  CHECK_IS(major * 10 + minor, 130);

  const Compiled wrong = compile("RECURRA_KERNEL(run, int) { undeclared = a; }");
  CHECK_IS(wrong.status, 6);
  CHECK(wrong.log.find("undeclared") != std::string::npos && wrong.log.find("test.cu") != std::string::npos);
  CHECK_IS(compile("", {"-O3"}).status, 5);
  CHECK_IS(compile("#include <vector>\n").status, 6);  // NVRTC has no standard library

  const std::string source = R"(
    #include <cstdint>
    #include "cells/lstm.h"
    struct Out { float* y; };
    RECURRA_KERNEL(run, Out) { a.y[0] = value(uint32_t(1)); })";
  const Headers headers = {{"cstdint", "typedef unsigned uint32_t; typedef unsigned long long uint64_t;"},
                           {"cells/lstm.h", "#pragma once\n#include \"cell.h\"\n#include \"../cpu/math.h\"\n"},
                           {"cells/cell.h", "#pragma once\ninline float one() { return 1; }"},
                           {"cell.h", "#pragma once\ninline float one() { return 1; }"},
                           {"cpu/math.h", "inline float value(uint32_t v) { return one() + v; }"}};
  const Compiled right = compile(source, {"-ftz=true", "-std=c++17", "-default-device"}, headers);
  CHECK_IS(right.status, 0);

  CUmodule module;
  CUfunction function;
  CHECK_IS(cuModuleLoadData(&module,
                            "neither of a cubin nor of an image, but long enough to look at, and that is all of it, "
                            "a hundred and some more bytes"),
           200);
  CHECK_IS(cuModuleLoadData(&module, compile(source, {"--gpu-architecture=sm_80"}, headers).cubin.data()), 209);
  CHECK_IS(cuModuleLoadData(&module, right.cubin.data()), 0);
  CHECK_IS(cuModuleGetFunction(&function, module, "walk"), 500);
  CHECK_IS(cuModuleGetFunction(&function, module, "run"), 0);
  const Array<float> out(1);
  CHECK_IS(launch(function, {}, nullptr, Out{out.data()}), 0);
  CHECK(out.values()[0] == 2);

  // What a GPU cannot launch, and where it cannot.
  CHECK_IS(launch(function, {0, 1}, nullptr, Out{out.data()}), 1);
  CHECK_IS(launch(function, {1, 2048}, nullptr, Out{out.data()}), 1);
  CHECK_IS(launch(function, {1, 1, 49 << 10}, nullptr, Out{out.data()}), 1);
  CHECK_IS(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 228 << 10), 1);
  CHECK_IS(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 50 << 10), 0);
  CHECK_IS(launch(function, {1, 1, 49 << 10}, nullptr, Out{out.data()}), 0);
  CHECK_IS(launch(function, {1, 1, 51 << 10}, nullptr, Out{out.data()}), 1);
  CHECK_IS(launch(function, {}, reinterpret_cast<CUstream>(1), Out{out.data()}), 0);
  CHECK_IS(launch(function, {}, reinterpret_cast<CUstream>(2), Out{out.data()}), 0);
  CHECK_IS(launch(function, {}, reinterpret_cast<CUstream>(&module), Out{out.data()}), 400);
  const CUstream stream = new_stream();
  CHECK_IS(cuCtxPushCurrent(context_of(1)), 0);
  CHECK_IS(launch(function, {}, nullptr, Out{out.data()}), 201);
  CHECK_IS(launch(function, {}, stream, Out{out.data()}), 400);
  CUcontext popped;
  CHECK_IS(cuCtxPopCurrent(&popped), 0);
  CHECK(popped == context_of(1));
  CHECK_IS(launch(function, {}, stream, Out{out.data()}), 0);
  CHECK_IS(cuStreamDestroy(stream), 0);
}

// For sanitizers, each with a run beside it that has no fault.
void run_fault(const std::string& name) {
  const Array<float> out(4);
  if (name == "barrier" || name == "no_barrier") {
    sums(name == "barrier" ? barrier : no_barrier, "0");
  } else if (name == "cluster" || name == "no_cluster") {
    CHECK_IS(passed({meet_twice[0], name == "cluster" ? meet_twice[1] : "-DEND=__syncthreads();"}, 4).first, 0);
  } else if (name == "blocks" || name == "no_blocks") {  // two blocks write to one place, or to two
    const CUfunction function = kernel(R"(
      struct Out { float* y; };
      RECURRA_KERNEL(run, Out) { a.y[blockIdx.x / DIVISOR] = 1; })",
                                       "run", {name == "blocks" ? "-DDIVISOR=2" : "-DDIVISOR=1"});
    CHECK_IS(launch(function, {2}, nullptr, Out{out.data()}), 0);
    CHECK_IS(launch(function, {2}, nullptr, Out{out.data()}), 0);  // launches are ordered
  } else if (name == "past_end" || name == "shared_past_end") {
    const CUfunction function = kernel(R"(
      struct Out { float* y; };
      RECURRA_KERNEL(run, Out) { (SHARED ? reinterpret_cast<float*>(shared_memory()) : a.y)[4] = 1; })",
                                       "run", {name == "past_end" ? "-DSHARED=0" : "-DSHARED=1"});
    CHECK_IS(launch(function, {1, 1, 16}, nullptr, Out{out.data()}), 0);
  } else {
    CHECK(!"a fault of this name");
  }
}
