// Which engine computes what, where the caller does not say.
#pragma once
#include "network.h"

namespace recurra {
namespace cuda {

// From arithmetic, not yet from measurements: a slice of 16 numbers of an ordered product takes about half a microsecond,
// latencies of memory and of two barriers, and a product by cuBLAS about 4 in all as long as it is small.
constexpr int64_t kExactSources = 128;

inline Engine engine_of(const Network::Data& net) {
  if (net.options.engine != Engine::automatic) return net.options.engine;
  if (net.weight_size == 2) return Engine::cublas;
  return std::max(net.config.output_size, net.config.hidden_size) <= kExactSources ? Engine::exact : Engine::cublas;
}

}  // namespace cuda
}  // namespace recurra
