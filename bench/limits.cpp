// What this machine can do at best, one thread: fused multiply-adds from registers, and reading from each cache.
//
//   g++ -std=gnu++17 -O3 -march=native bench/limits.cpp -o /tmp/limits && /tmp/limits
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vec __attribute__((vector_size(kBytes)));
constexpr int kLanes = kBytes / sizeof(float);

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// The shortest of some runs, divided by how often each repeats the work.
template <class Work>
double shortest(int repeats, Work work) {
  double best = 1e9;
  for (int run = 0; run < 20; ++run) {
    const double start = seconds();
    for (int i = 0; i < repeats; ++i) work();
    best = std::min(best, (seconds() - start) / repeats);
  }
  return best;
}

float used = 0;  // printed, so that no work is optimised away

double peak_gflops() {
  Vec acc[12] = {};  // more than latency times throughput
  const Vec factor = Vec{} + 0.999f, term = Vec{} + 0.001f;
  constexpr int steps = 100000;
  const double time = shortest(10, [&] {
    for (int i = 0; i < steps; ++i)
      for (Vec& a : acc) a = a * factor + term;
  });
  for (Vec a : acc) used += sum(a);
  return 12.0 * steps * 2 * kLanes / time / 1e9;
}

double read_gbytes(size_t kib) {
  std::vector<Vec> data(kib * 1024 / kBytes, Vec{} + 0.5f);
  Vec acc[4] = {};
  const double time = shortest(int(1 + (32 << 10) / kib), [&] {
    for (size_t i = 0; i + 4 <= data.size(); i += 4)
      for (int j = 0; j < 4; ++j) acc[j] += data[i + j];
  });
  for (Vec a : acc) used += sum(a);
  return double(kib) * 1024 / time / 1e9;
}

}  // namespace

int main() {
  std::printf("fused multiply-add, float32: %.0f GFLOP/s\n", peak_gflops());
  for (const size_t kib : {16, 128, 512, 4096, 16384}) std::printf("reading %5zu KiB: %.0f GB/s\n", kib, read_gbytes(kib));
  std::printf("(%g)\n", double(used));
}
