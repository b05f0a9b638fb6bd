// What this machine can do at best: arithmetic from registers, and reading from each level of cache and from memory; and what
// further threads add to it. For benchmarks, which show how much of it a network uses.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "../engine/model.h"
#include "../threads/team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace recurra {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

constexpr int kChains = 12;  // more than latency times throughput of any of these instructions
constexpr int64_t kRounds = 200000;
constexpr int kRuns = 15;
constexpr int kMostKib = 128 << 10;  // of blocks to read
constexpr size_t kPiece = 2048;      // floats read in order
thread_local volatile float sink;    // results go here, so that no work is optimised away

// The shortest of several runs: what the machine can do, not what it did on average.
template <class Work>
double shortest(Work work) {
  double best = 1e9;
  for (int run = 0; run < kRuns; ++run) {
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

// From its beginning, or to and fro in pieces, which finds in the cache the end of a block that is too large for it.
void read_twice(Read read, const float* data, size_t count, bool to_and_fro) {
  if (!to_and_fro) return read(data, count), read(data, count);
  for (size_t at = 0; at < count; at += kPiece) read(data + at, kPiece);
  for (size_t at = count; at > 0; at -= kPiece) read(data + at - kPiece, kPiece);
}

// GB/s of reading a block again and again, each thread its part of it, in the better of the two orders.
double read_rate(Read read, const float* data, size_t count, TeamLease& team) {
  Barrier barrier(team.size());
  const size_t part = count / size_t(team.size()) / kPiece * kPiece;
  const int repeats = std::max(1, int((size_t(2) << 20) / count)), runs = repeats > 1 ? 2 * kRuns : kRuns / 2;
  double best = 1e9;  // written by rank 0 alone
  auto job = [&](int rank) {
    for (int run = 0; run < runs; ++run) {
      const double start = seconds();  // before the others can have begun
      barrier.wait(rank);
      for (int i = 0; i < repeats; ++i) read_twice(read, data + size_t(rank) * part, part, run % 2);
      barrier.wait(rank);
      if (rank == 0) best = std::min(best, seconds() - start);
    }
  };
  team.run(job);
  return 2.0 * repeats * double(part) * team.size() * sizeof(float) / best / 1e9;
}

// For blocks that grow by less and less, since a little more than a cache holds is much slower. Twice, because there are
// moments in which two virtual cores are one.
std::vector<std::pair<int, double>> read_rates(Read read, const detail::Buffer<float>& data, TeamLease& team) {
  std::vector<std::pair<int, double>> rates;
  for (int kib = 16 * team.size(); kib <= kMostKib; kib += kib < 1024 ? kib : 1 << (int(std::log2(kib)) - 3))
    rates.emplace_back(kib, 0);
  for (int pass = 0; pass < 2; ++pass)
    for (auto& [kib, rate] : rates) rate = std::max(rate, read_rate(read, data.data(), size_t(kib) * 256, team));
  return rates;
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

Limits measure_limits(int threads) {
  const Machine m = machine();
  Limits limits;
  limits.f32_gflops = giga_operations(m.f32);
  limits.bf16_gflops = giga_operations(m.bf16);
  limits.int8_gops = giga_operations(m.int8);
  const detail::Buffer<float> data(size_t(kMostKib) * 256);  // as weights are kept
  std::fill_n(data.data(), data.size(), 0.5f);
  TeamLease alone(1), team(std::min(threads, num_threads()));
  limits.threads = team.size();
  limits.read_gbs = read_rates(m.read, data, alone);
  if (team.size() > 1) limits.read_together_gbs = read_rates(m.read, data, team);
  limits.unrest = unrest(m.read, data.data(), size_t(128) * 256);
  return limits;
}

Together measure_together(int threads) {
  constexpr int64_t kShortRounds = kRounds / 20;
  constexpr int kRoundTrips = 200;
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
      const double start = seconds();
      barrier.wait(rank);
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
