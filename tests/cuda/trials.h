// What trials of random networks on a GPU have in common: numbers drawn the same every time, and what is counted.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>

#include "cuda/device.h"
#include "cuda/resident.h"
#include "engine/model.h"

inline int failures = 0, shared = 0;  // calls that were wrong, and whose tiles several blocks shared
inline const bool little_memory = std::getenv("RECURRA_STANDIN_SHARED_BYTES");
inline std::mt19937_64 generator(7);

inline int64_t draw(int64_t least, int64_t most) { return least + int64_t(generator() % uint64_t(most - least + 1)); }

// Whether a block, a cluster or blocks of a grid walk that way through a layer with a row, as choose_walk.cpp tries them.
inline bool fits(const recurra::NetworkConfig& config, recurra::cuda::Number number, recurra::cuda::Way way) {
  namespace cuda = recurra::cuda;
  const recurra::Spec& spec = recurra::spec_of(recurra::cell_number(config.cell));
  const cuda::Device& device = cuda::Device::of(0);
  for (int blocks = 1; blocks <= device.multiprocessors; blocks += std::min(blocks, 8))
    for (const bool grid : {false, true}) {
      if (grid ? blocks < 2 || blocks * config.directions > device.multiprocessors
               : blocks > (device.major < 9 ? 1 : cuda::kMostCluster))
        continue;
      for (const int rows : {cuda::kFragmentRows, cuda::kFragmentRows / 2}) {
        const auto found = cuda::resident_of(spec, number, config.hidden_size, config.output_size, 1, way, blocks, grid, rows);
        if (found && found->shared_bytes <= size_t(device.shared_bytes)) return true;
      }
    }
  return false;
}
