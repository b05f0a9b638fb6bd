// What this machine can do at best: arithmetic from registers, and reading from each level of cache, on one thread, which takes
// about half a second; and what further threads add to it. For benchmarks, which show how much of it a network uses.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "../engine/model.h"
#include "team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace recurra {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr int kChains = 12;  // more than latency times throughput of any of these instructions
constexpr int64_t kRounds = 200000;
volatile float sink;  // results go here, so that no work is optimised away

// The shortest of several runs: what the machine can do, not what it did on average.
template <class Work>
double shortest(Work work) {
  double best = 1e9;
  for (int run = 0; run < 15; ++run) {
    const double start = seconds();
    work();
    best = std::min(best, seconds() - start);
  }
  return best;
}

float first_lane(const void* vector) {
  float lane;
  std::memcpy(&lane, vector, sizeof lane);
  return lane;
}

struct Arithmetic {
  void (*work)(int64_t rounds);
  double operations;  // of a round, a multiply-add being two
};

struct Machine {
  Arithmetic f32, bf16, int8;  // work is null where the instruction set has no such instruction
  void (*read)(const float* data, size_t count);
};

#if defined(__x86_64__)

// The empty asm makes `w` new in every round, so that the compiler cannot work the sums out beforehand.
#define RECURRA_BURST(name, target_isa, type, make, factor, step)               \
  __attribute__((target(target_isa))) void name(int64_t rounds) {               \
    type acc[kChains], w = factor;                                              \
    for (int i = 0; i < kChains; ++i) acc[i] = make;                            \
    for (int64_t round = 0; round < rounds; ++round) {                          \
      asm volatile("" : "+v"(w));                                               \
      _Pragma("GCC unroll 16") for (int i = 0; i < kChains; ++i) acc[i] = step; \
    }                                                                           \
    float sum = 0;                                                              \
    for (int i = 0; i < kChains; ++i) sum += first_lane(acc + i);               \
    sink = sum;                                                                 \
  }

RECURRA_BURST(f32_512, "avx512f", __m512, _mm512_set1_ps(1.0f + i), _mm512_set1_ps(0.999f), _mm512_fmadd_ps(acc[i], w, w))
RECURRA_BURST(f32_256, "avx2,fma", __m256, _mm256_set1_ps(1.0f + i), _mm256_set1_ps(0.999f), _mm256_fmadd_ps(acc[i], w, w))
RECURRA_BURST(f32_128, "sse2", __m128, _mm_set1_ps(1.0f + i), _mm_set1_ps(0.999f), _mm_add_ps(_mm_mul_ps(acc[i], w), w))
RECURRA_BURST(int8_512, "avx512f,avx512vnni", __m512i, _mm512_set1_epi32(i), _mm512_set1_epi32(0x01020304),
              _mm512_dpbusd_epi32(acc[i], acc[i], w))
RECURRA_BURST(bf16_512, "avx512f,avx512bf16", __m512, _mm512_set1_ps(1.0f + i), _mm512_set1_ps(0.01f),
              _mm512_dpbf16_ps(acc[i], (__m512bh)w, (__m512bh)w))
#undef RECURRA_BURST

#define RECURRA_READ(name, target_isa, type, zero, add, load)                                               \
  __attribute__((target(target_isa))) void name(const float* data, size_t count) {                          \
    constexpr size_t lanes = sizeof(type) / sizeof(float);                                                  \
    type acc[4] = {zero, zero, zero, zero};                                                                 \
    for (size_t i = 0; i + 4 * lanes <= count; i += 4 * lanes) {                                            \
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; ++j) acc[j] = add(acc[j], load(data + i + j * lanes)); \
    }                                                                                                       \
    float sum = 0;                                                                                          \
    for (int j = 0; j < 4; ++j) sum += first_lane(acc + j);                                                 \
    sink = sum;                                                                                             \
  }

RECURRA_READ(read_512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_add_ps, _mm512_loadu_ps)
RECURRA_READ(read_256, "avx2", __m256, _mm256_setzero_ps(), _mm256_add_ps, _mm256_loadu_ps)
RECURRA_READ(read_128, "sse2", __m128, _mm_setzero_ps(), _mm_add_ps, _mm_loadu_ps)
#undef RECURRA_READ

Machine machine() {
  const std::string level = isa();
  if (level == "avx512bf16") return {{f32_512, kChains * 32}, {bf16_512, kChains * 64}, {int8_512, kChains * 128}, read_512};
  if (level == "avx512") return {{f32_512, kChains * 32}, {}, {int8_512, kChains * 128}, read_512};
  if (level == "avx2") return {{f32_256, kChains * 16}, {}, {}, read_256};
  return {{f32_128, kChains * 8}, {}, {}, read_128};
}

#else

typedef float Four __attribute__((vector_size(16)));

void f32_portable(int64_t rounds) {
  Four acc[kChains] = {};
  for (int64_t round = 0; round < rounds; ++round)
    for (Four& a : acc) a = a * 0.999f + 0.001f;
  float sum = 0;
  for (Four a : acc) sum += a[0];
  sink = sum;
}

void read_portable(const float* data, size_t count) {
  Four acc[4] = {};
  for (size_t i = 0; i + 16 <= count; i += 16)
    for (int j = 0; j < 4; ++j) acc[j] += *reinterpret_cast<const Four*>(data + i + 4 * j);
  sink = acc[0][0] + acc[1][0] + acc[2][0] + acc[3][0];
}

Machine machine() { return {{f32_portable, kChains * 8}, {}, {}, read_portable}; }

#endif

double giga_operations(const Arithmetic& arithmetic) {
  return arithmetic.work ? kRounds * arithmetic.operations / shortest([&] { arithmetic.work(kRounds); }) / 1e9 : 0;
}

using Read = void (*)(const float* data, size_t count);

// GB/s of reading a block again and again: from its beginning, or to and fro in pieces, which finds in the cache the end of a
// block that is too large for it. The better of the two.
double read_rate(Read read, const float* data, size_t count) {
  constexpr size_t kPiece = 2048;
  const int repeats = std::max(1, int((size_t(2) << 20) / count)) * 2;
  const double in_order = shortest([&] {
    for (int i = 0; i < repeats; ++i) read(data, count);
  });
  const double to_and_fro = shortest([&] {
    for (int i = 0; i < repeats; i += 2) {
      for (size_t at = 0; at < count; at += kPiece) read(data + at, kPiece);
      for (size_t at = count; at > 0; at -= kPiece) read(data + at - kPiece, kPiece);
    }
  });
  return double(repeats) * double(count) * sizeof(float) / std::min(in_order, to_and_fro) / 1e9;
}

// p99 / median of a microsecond's reading, the time of a small step: what the machine adds on its own.
double unrest(Read read, const float* data, size_t count) {
  std::vector<double> times(20000);
  for (double& time : times) {
    const double start = seconds();
    read(data, count);
    time = seconds() - start;
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 100 * 99] / times[times.size() / 2];
}

}  // namespace

Limits measure_limits() {
  const Machine m = machine();
  Limits limits;
  limits.f32_gflops = giga_operations(m.f32);
  limits.bf16_gflops = giga_operations(m.bf16);
  limits.int8_gops = giga_operations(m.int8);
  const detail::Buffer<float> data(size_t(32768) * 256);  // as weights are kept
  std::fill_n(data.data(), data.size(), 0.5f);
  for (int kib = 16; kib <= 32768; kib *= 2)
    limits.read_gbs.emplace_back(kib, read_rate(m.read, data.data(), size_t(kib) * 256));
  limits.unrest = unrest(m.read, data.data(), size_t(128) * 256);
  return limits;
}

Together measure_together(int threads) {
  constexpr int64_t kShortRounds = kRounds / 20;
  constexpr int kRuns = 15, kRoundTrips = 200;
  const auto burst = [work = machine().f32.work] { work(kShortRounds); };
  TeamLease team(std::min(threads, num_threads()));
  if (team.size() == 1) return {};
  const double alone = shortest(burst);  // when the others have gone to sleep, at the latest
  Barrier barrier(team.size());
  struct alignas(64) Line {
    std::atomic<int> trips{0};
  } ping, pong;
  double at_once = 1e9, round_trips = 0;  // written by rank 0 alone
  const auto wait = [](const Line& line, int trip) {
    for (int i = 1; line.trips.load(std::memory_order_acquire) != trip; ++i)
      if (i % 1024 == 0) std::this_thread::yield();
  };
  auto job = [&](int rank) {
    for (int run = 0; run < kRuns; ++run) {
      barrier.wait(rank);
      const double start = seconds();
      burst();
      barrier.wait(rank);
      if (rank == 0) at_once = std::min(at_once, seconds() - start);
    }
    const double start = seconds();
    for (int trip = 1; trip <= kRoundTrips && rank < 2; ++trip) {
      if (rank == 0) ping.trips.store(trip, std::memory_order_release);
      wait(rank == 0 ? pong : ping, trip);
      if (rank == 1) pong.trips.store(trip, std::memory_order_release);
    }
    if (rank == 0) round_trips = seconds() - start;
  };
  team.run(job);
  return {team.size() * alone / at_once, round_trips / kRoundTrips / 2 * 1e9};
}

}  // namespace recurra
