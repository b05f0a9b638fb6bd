// What trials of random networks on a GPU have in common: numbers drawn the same every time, and what is counted.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <random>

#include "cuda/device.h"
#include "cuda/resident.h"
#include "engine/model.h"

inline int failures = 0, clusters = 0;  // calls that were wrong, and that went by a cluster of blocks
inline const bool little_memory = std::getenv("RECURRA_STANDIN_SHARED_BYTES");
inline std::mt19937_64 generator(7);

inline int64_t draw(int64_t least, int64_t most) { return least + int64_t(generator() % uint64_t(most - least + 1)); }

// Whether a block, or where memory is little a cluster, walks that way through a layer with a row.
inline bool fits(const recurra::NetworkConfig& config, recurra::cuda::Number number, recurra::cuda::Way way) {
  namespace cuda = recurra::cuda;
  const recurra::Spec& spec = recurra::spec_of(recurra::cell_number(config.cell));
  for (int cluster = 1; cluster <= (little_memory ? cuda::kMostCluster : 1); cluster *= 2) {
    const auto found = cuda::resident_of(spec, number, config.hidden_size, config.output_size, 1, way, cluster);
    if (found && found->shared_bytes <= size_t(cuda::Device::of(0).shared_bytes)) return true;
  }
  return false;
}
