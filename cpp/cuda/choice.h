// Which engine computes what, how it walks through time and over how many blocks, where the caller does not say.
#pragma once
#include <algorithm>

#include "network.h"

namespace recurra {
namespace cuda {

// The table. It is arithmetic, of NO MEASUREMENT yet: `python bench/gpu.py --tune` prints its lines anew from a GPU.
constexpr int64_t kExactSources = 128;         // engine "exact" up to so many numbers that a product of every step sums up
constexpr double kCyclesOfMicrosecond = 1700;  // the clock
constexpr double kLaunchMicroseconds = 1.5;    // a kernel of a step, at least
constexpr double kSliceMicroseconds = 0.5;     // 16 numbers of an ordered product: latencies of memory and of two barriers
constexpr double kCublasMicroseconds = 4;      // a product by cuBLAS, as long as it is small
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
  // Weights come from L2, some 32 bytes a cycle.
  const double first = launch + double(resident.weights) / resident.cluster * double(net.weight_size) / 32 / cycles;
  return plan.steps >= kResidentSteps &&
         resident.waves * (first + double(plan.steps) * resident.cycles / cycles) < double(plan.steps) * steps;
}

}  // namespace cuda
}  // namespace recurra
