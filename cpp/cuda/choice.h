// Which engine computes what, how it walks through time and over how many blocks, where the caller does not say.
#pragma once
#include <algorithm>
#include <cmath>

#include "network.h"

namespace recurra {
namespace cuda {

// The table. It is arithmetic, of NO MEASUREMENT yet: `python bench/gpu.py --tune` prints its lines anew from a GPU.
constexpr int64_t kExactSources = 128;         // engine "exact" up to so many numbers that a product of every step sums up
constexpr double kCyclesOfMicrosecond = 1700;  // the clock
constexpr double kLaunchMicroseconds = 1.5;    // a kernel of a step, at least
constexpr double kSliceMicroseconds = 0.5;     // 16 numbers of an ordered product: latencies of memory and of two barriers
constexpr double kCublasMicroseconds = 4;      // a product by cuBLAS, as long as it is small
constexpr double kChunkMicroseconds = 8;       // of a wavefront, beside its steps: products of its input, another lane's wait
constexpr double kStepCycles = 400;            // two barriers and the cell's functions in float
constexpr double kWideStepCycles = 1000;       // in double
constexpr double kUnitCycles = 150;            // each unit that a thread finishes
constexpr double kMeanCycles = 300;            // of a row, or two: a barrier, four shuffles, a division and a square root
constexpr double kWideMeanCycles = 750;        // in double
constexpr double kExchangeCycles = 425;        // numbers to every block of a cluster, and its barrier
constexpr double kGridCycles = 1600;           // a count in memory that all blocks of a grid add to and wait for
constexpr double kMemoryCycles = 500;          // until the first number comes that another block has written there
constexpr double kMemoryBytes = 64;            // that come in each cycle after it
constexpr double kTensorCycles = 8;            // a product of 16 x 8 x 16 in each quarter of a multiprocessor, as sm_80 has it
constexpr double kShareCycles = 80;            // a barrier, and sums of warps that share a tile of weights
constexpr double kTensorLatencyCycles = 33;    // from one to the next that adds to the same sums
// Rows of a block, or one: what is read of shared memory serves all.
constexpr int kTileRows = 4;
// A resident kernel is compiled for a size, which takes a second once: not for less than so many steps.
constexpr int64_t kResidentSteps = 8;

// `widest`: the most numbers that a product of every step sums up.
inline Engine engine_of(const Options& options, int64_t widest) {
  if (options.engine != Engine::automatic) return options.engine;
  return weight_bytes(options.number) > 2 && widest <= kExactSources ? Engine::exact : Engine::cublas;
}

// How often a GPU with so many multiprocessors begins to run tiles of rows, until all have been.
inline double waves_of(const Resident& resident, int64_t rows, int directions, int multiprocessors) {
  const auto up = [](int64_t n, int64_t of) { return (n + of - 1) / of; };
  return double(up(up(rows, resident.rows) * directions, std::max(multiprocessors / resident.cluster, 1)));
}

// One launch for so many steps: the weights come from L2, some 32 bytes a cycle, then the steps.
inline double resident_microseconds(const Network::Data& net, const Resident& resident, int64_t steps) {
  constexpr double cycles = kCyclesOfMicrosecond;
  const double first = double(resident.weights) / resident.cluster * double(net.weight_size) / 32 / cycles;
  return resident.waves * (kLaunchMicroseconds + first + double(steps) * resident.cycles / cycles);
}

// Whether one launch should take less time than the steps' own, by arithmetic. Plans only tell: a resident walk is taken on
// request, until a GPU has shown this.
inline bool should_be_resident(const Network::Data& net, const Plan::Data& plan, const Resident& resident) {
  constexpr double cycles = kCyclesOfMicrosecond, launch = kLaunchMicroseconds;
  const double rows = double(plan.rows * net.directions()), multiprocessors = net.device.multiprocessors;
  double steps = 0;
  for (int p = 0; p < net.phases(); ++p) {
    const PhaseShape shape = net.shape(0, p);
    const int64_t chains = net.spec.phases[p].recurrent.count * int64_t(shape.units),
                  summed = resident.way == Way::backward ? chains : shape.sources;
    const double sums = rows * double(chains) * double(shape.sources);
    // Half of a multiprocessor's 128 multiply-adds a cycle, or of 1024 of 16-bit numbers.
    const double product = net.weight_size == 2 ? std::max(kCublasMicroseconds, sums / (multiprocessors * 512 * cycles))
                                                : launch + std::max(kSliceMicroseconds * double((summed + 15) / 16),
                                                                    sums / (multiprocessors * 64 * cycles));
    steps += launch + (chains ? product : 0);
  }
  return plan.steps >= kResidentSteps && resident_microseconds(net, resident, plan.steps) < double(plan.steps) * steps;
}

// Whether a GPU has room for all layers of a stack at once, of which each needs the steps so far of the one below.
inline bool may_overlap(const Network::Data& net, const Resident& resident, int64_t rows) {
  const int64_t tiles = (rows + resident.rows - 1) / resident.rows, layers = net.config.layers;
  return layers > 1 && !net.runs_back() && layers * tiles * resident.cluster <= net.device.multiprocessors;
}

// Of a layer's so many steps, those of a chunk, a multiple, with which a wavefront over layers should take least time, or all
// of them, where it should gain nothing, or where a GPU has no room for all layers at once. Of n layers, T steps of t and w for
// each chunk: with k chunks it takes (k + n - 1) (T t / k + w), so k^2 = (n - 1) T t / w.
inline int64_t wavefront_steps(const Network::Data& net, const Resident& resident, int64_t steps, int64_t rows,
                               int64_t multiple) {
  const int64_t layers = net.config.layers;
  if (!may_overlap(net, resident, rows)) return steps;
  const auto time_of = [&](int64_t count) { return kChunkMicroseconds + resident_microseconds(net, resident, count); };
  const double others = double(layers - 1), all = time_of(steps);
  const double chunks = std::max(std::round(std::sqrt(others * (all - time_of(0)) / time_of(0))), 1.0);
  const int64_t least = std::max(int64_t(std::ceil(double(steps) / chunks)), kResidentSteps),
                each = (least + multiple - 1) / multiple * multiple;
  const double made = std::ceil(double(steps) / double(each));
  return (made + others) * time_of(each) < double(layers) * all ? std::min(each, steps) : steps;
}

}  // namespace cuda
}  // namespace recurra
