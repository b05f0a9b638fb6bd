// Which engine computes what, where the caller does not say.
#pragma once
#include "kernel_set.h"

namespace recurra {
namespace cuda {

// From arithmetic, not yet from measurements: a slice of 16 numbers of an ordered product takes about half a microsecond,
// latencies of memory and of two barriers, and a product by cuBLAS about 4 in all as long as it is small.
constexpr int64_t kExactSources = 128;

// `widest`: the most numbers that a product of every step sums up.
inline Engine engine_of(const Options& options, int64_t widest) {
  if (options.engine != Engine::automatic) return options.engine;
  return weight_bytes(options.number) > 2 && widest <= kExactSources ? Engine::exact : Engine::cublas;
}

}  // namespace cuda
}  // namespace recurra
