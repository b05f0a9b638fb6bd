// Which engine computes what, and how it walks through time, where the caller does not say. All of it is from arithmetic, not
// yet from measurements.
#pragma once
#include <algorithm>
#include <cmath>

#include "network.h"

namespace recurra {
namespace cuda {

// A slice of 16 numbers of an ordered product takes about half a microsecond, latencies of memory and of two barriers, and a
// product by cuBLAS about 4 in all as long as it is small.
constexpr int64_t kExactSources = 128;

// `widest`: the most numbers that a product of every step sums up.
inline Engine engine_of(const Options& options, int64_t widest) {
  if (options.engine != Engine::automatic) return options.engine;
  return weight_bytes(options.number) > 2 && widest <= kExactSources ? Engine::exact : Engine::cublas;
}

// Rows of a block where there are more rows than multiprocessors: what is read of shared memory serves all.
constexpr int kTileRows = 4;
// A resident kernel is compiled for a size, which takes a second once: not for less than so many steps.
constexpr int64_t kResidentSteps = 8;

constexpr double kCyclesOfMicrosecond = 1700;

// Whether one launch should take less time than the steps' own, whose kernels take at least 1.5 microseconds each. Plans only
// tell: a resident walk is taken on request, until a GPU has shown this.
inline bool should_be_resident(const Network::Data& net, const Plan::Data& plan, const Resident& resident) {
  constexpr double cycles = kCyclesOfMicrosecond, launch = 1.5, slice = 0.5, by_cublas = 4;  // microseconds
  const double rows = double(plan.rows * net.directions()), multiprocessors = net.device.multiprocessors;
  double steps = 0;
  for (int p = 0; p < net.phases(); ++p) {
    const PhaseShape shape = net.shape(0, p);
    const int64_t chains = net.spec.phases[p].recurrent.count * int64_t(shape.units),
                  summed = resident.way == Way::backward ? chains : shape.sources;
    const double sums = rows * double(chains) * double(shape.sources);
    // Half of a multiprocessor's 128 multiply-adds a cycle, or of 1024 of 16-bit numbers.
    const double product = net.weight_size == 2
                               ? std::max(by_cublas, sums / (multiprocessors * 512 * cycles))
                               : launch + std::max(slice * double((summed + 15) / 16), sums / (multiprocessors * 64 * cycles));
    steps += launch + (chains ? product : 0);
  }
  const double tiles = double((plan.rows + resident.rows - 1) / resident.rows * net.directions());
  const double waves = std::ceil(tiles / std::max(std::floor(multiprocessors / resident.cluster), 1.0));
  // Weights come from L2, some 32 bytes a cycle.
  const double first = launch + double(resident.weights) / resident.cluster * double(net.weight_size) / 32 / cycles;
  return plan.steps >= kResidentSteps &&
         waves * (first + double(plan.steps) * resident.cycles / cycles) < double(plan.steps) * steps;
}

}  // namespace cuda
}  // namespace recurra
