// What this machine can do at best: arithmetic from registers, and reading from each level of cache and from memory; and what
// further threads add to it. For benchmarks, which show how much of it a network uses.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
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
// Of bursts of multiply-adds, and how often they and readings are repeated.
struct Effort {
  int64_t rounds;
  int runs;
  int passes;  // over all sizes of blocks
};
constexpr Effort kThorough{200000, 16, 2};
constexpr Effort kBrief{10000, 16, 1};
constexpr int kMostKib = 128 << 10;  // of blocks to read
constexpr size_t kPiece = 2048;      // floats read in order
thread_local volatile float sink;    // results go here, so that no work is optimised away

// The shortest of several runs: what the machine can do, not what it did on average.
template <class Work>
double shortest(int runs, Work work) {
  double best = 1e9;
  for (int run = 0; run < runs; ++run) {
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

using Read = void (*)(const float* data, size_t count);

struct Machine {
  Arithmetic f32, bf16, int8;  // work is null where the instruction set has no such instruction
  Read reads[2];               // the hardware prefetches; software does too
};

void leave_to_hardware(const float*, size_t) {}

// What is read 4 KiB later, into the first-level cache.
inline __attribute__((always_inline)) void prefetch(const float* data, size_t count) {
  for (size_t i = 0; i < count; i += 16) __builtin_prefetch(data + i + 1024);
}

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

#define RECURRA_READ(name, target_isa, type, zero, add, load, prefetch)                                     \
  __attribute__((target(target_isa))) void name(const float* data, size_t count) {                          \
    constexpr size_t lanes = sizeof(type) / sizeof(float);                                                  \
    type acc[4] = {zero, zero, zero, zero};                                                                 \
    for (size_t i = 0; i + 4 * lanes <= count; i += 4 * lanes) {                                            \
      prefetch(data + i, 4 * lanes);                                                                        \
      _Pragma("GCC unroll 4") for (int j = 0; j < 4; ++j) acc[j] = add(acc[j], load(data + i + j * lanes)); \
    }                                                                                                       \
    float sum = 0;                                                                                          \
    for (int j = 0; j < 4; ++j) sum += first_lane(acc + j);                                                 \
    sink = sum;                                                                                             \
  }
#define RECURRA_READS(name, ...)                     \
  RECURRA_READ(name, __VA_ARGS__, leave_to_hardware) \
  RECURRA_READ(name##_ahead, __VA_ARGS__, prefetch)

RECURRA_READS(read_512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_add_ps, _mm512_loadu_ps)
RECURRA_READS(read_256, "avx2", __m256, _mm256_setzero_ps(), _mm256_add_ps, _mm256_loadu_ps)
RECURRA_READS(read_128, "sse2", __m128, _mm_setzero_ps(), _mm_add_ps, _mm_loadu_ps)
#undef RECURRA_READS
#undef RECURRA_READ

Machine machine() {
  const std::string level = isa();
  if (level == "avx512bf16")
    return {{f32_512, kChains * 32}, {bf16_512, kChains * 64}, {int8_512, kChains * 128}, {read_512, read_512_ahead}};
  if (level == "avx512") return {{f32_512, kChains * 32}, {}, {int8_512, kChains * 128}, {read_512, read_512_ahead}};
  if (level == "avx2") return {{f32_256, kChains * 16}, {}, {}, {read_256, read_256_ahead}};
  return {{f32_128, kChains * 8}, {}, {}, {read_128, read_128_ahead}};
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

template <void (*kPrefetch)(const float*, size_t)>
void read_portable(const float* data, size_t count) {
  Four acc[4] = {};
  for (size_t i = 0; i + 16 <= count; i += 16) {
    kPrefetch(data + i, 16);
    for (int j = 0; j < 4; ++j) acc[j] += *reinterpret_cast<const Four*>(data + i + 4 * j);
  }
  sink = acc[0][0] + acc[1][0] + acc[2][0] + acc[3][0];
}

Machine machine() { return {{f32_portable, kChains * 8}, {}, {}, {read_portable<leave_to_hardware>, read_portable<prefetch>}}; }

#endif

double giga_operations(const Arithmetic& arithmetic, const Effort& effort) {
  if (!arithmetic.work) return 0;
  const double best = shortest(effort.runs, [&] { arithmetic.work(effort.rounds); });
  return double(effort.rounds) * arithmetic.operations / best / 1e9;
}

// In order, or in pieces whose order alternates, which finds in the cache the end of a block that is too large for it.
void read_twice(Read read, const float* data, size_t count, bool to_and_fro) {
  if (!to_and_fro) return read(data, count), read(data, count);
  for (size_t at = 0; at < count; at += kPiece) read(data + at, kPiece);
  for (size_t at = count; at > 0; at -= kPiece) read(data + at - kPiece, kPiece);
}

// GB/s of reading a block again and again, each thread its own part, by the better of two orders, with and without software
// prefetch.
double read_rate(const Read (&reads)[2], const float* data, size_t count, int base_runs, TeamLease& team) {
  Barrier barrier(team.size());
  const size_t part = count / size_t(team.size()) / kPiece * kPiece;
  const int repeats = std::max(1, int((size_t(2) << 20) / count)), runs = repeats > 1 ? 2 * base_runs : base_runs / 2;
  double best = 1e9;  // written by rank 0 alone
  auto job = [&](int rank) {
    for (int run = 0; run < runs; ++run) {
      const double start = seconds();  // before the others can have begun
      barrier.wait(rank);
      for (int i = 0; i < repeats; ++i) read_twice(reads[run / 2 % 2], data + size_t(rank) * part, part, run % 2);
      barrier.wait(rank);
      if (rank == 0) best = std::min(best, seconds() - start);
    }
  };
  team.run(job);
  return 2.0 * repeats * double(part) * team.size() * sizeof(float) / best / 1e9;
}

// Blocks of sizes that lie close together, since a little more than a cache holds is much slower.
std::vector<int> every_size(int threads) {
  std::vector<int> sizes;
  for (int kib = 16 * threads; kib <= kMostKib; kib += kib < 1024 ? kib : 1 << (int(std::log2(kib)) - 3)) sizes.push_back(kib);
  return sizes;
}

// More than one pass, because there are moments in which two virtual cores are one.
std::vector<std::pair<int, double>> read_rates(const Read (&reads)[2], const detail::Buffer<float>& data,
                                               const std::vector<int>& sizes, const Effort& effort, TeamLease& team) {
  std::vector<std::pair<int, double>> rates;
  for (int kib : sizes) rates.emplace_back(kib, 0);
  for (int pass = 0; pass < effort.passes; ++pass)
    for (auto& [kib, rate] : rates) rate = std::max(rate, read_rate(reads, data.data(), size_t(kib) * 256, effort.runs, team));
  return rates;
}

}  // namespace

Limits measure_limits(int threads, const std::vector<int>& sizes_kib) {
  const bool whole = sizes_kib.empty();
  const int least = int(kPiece * sizeof(float) >> 10) * threads;
  for (int kib : sizes_kib)
    if (kib < least || kib > kMostKib)
      throw std::invalid_argument("sizes_kib: expected " + std::to_string(least) + " to " + std::to_string(kMostKib) +
                                  ", got " + std::to_string(kib));
  const Effort effort = whole ? kThorough : kBrief;
  const Machine m = machine();
  Limits limits;
  limits.f32_gflops = giga_operations(m.f32, effort);
  limits.bf16_gflops = giga_operations(m.bf16, effort);
  limits.int8_gops = giga_operations(m.int8, effort);
  const int most = whole ? kMostKib : *std::max_element(sizes_kib.begin(), sizes_kib.end());
  const detail::Buffer<float> data(size_t(most) * 256);  // as weights are kept
  std::fill_n(data.data(), data.size(), 0.5f);
  TeamLease alone(1), team(std::min(threads, num_threads()));
  limits.threads = team.size();
  limits.read_gbs = read_rates(m.reads, data, whole ? every_size(1) : sizes_kib, effort, alone);
  if (team.size() > 1)
    limits.read_together_gbs = read_rates(m.reads, data, whole ? every_size(team.size()) : sizes_kib, effort, team);
  return limits;
}

Together measure_together(int threads) {
  constexpr int kRuns = 15, kRoundTrips = 200;
  const auto burst = [work = machine().f32.work] { work(kBrief.rounds); };
  TeamLease team(std::min(threads, num_threads()));
  if (team.size() == 1) return {};
  const double alone = shortest(kRuns, burst);  // when the others have gone to sleep, at the latest
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
