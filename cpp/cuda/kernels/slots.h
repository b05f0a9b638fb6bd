// Where a phase's chains lie in memory: those of the input product only, then those of both, then those of the recurrent one
// only. So the chains of each product lie side by side, and a step is one product for every cell.
#pragma once
#include "cells/cell.h"

namespace recurra {
namespace cuda {

// The gate block of a product that adds to chain c, or -1; counted from the product's first one.
constexpr int block_of(const Product& product, int c) {
  for (int g = 0; g < product.count; ++g)
    if (product.chain[g] == c) return g;
  return -1;
}

constexpr int slot_of(const Phase& phase, int c) {
  const auto group = [&](int chain) {
    const bool input = block_of(phase.input, chain) >= 0, recurrent = block_of(phase.recurrent, chain) >= 0;
    return input && !recurrent ? 0 : input ? 1 : 2;
  };
  int slot = 0;
  for (int other = 0; other < phase.chains; ++other)
    if (group(other) < group(c) || (group(other) == group(c) && other < c)) ++slot;
  return slot;
}

// Both, of all chains of a phase.
struct Places {
  int slot[2 * kMaxChains] = {}, block[2 * kMaxChains] = {};
};
constexpr Places places_of(const Phase& phase) {
  Places places;
  for (int c = 0; c < phase.chains; ++c) places.slot[c] = slot_of(phase, c), places.block[c] = block_of(phase.recurrent, c);
  return places;
}

// The first slot of the recurrent product; that of the input product is 0.
constexpr int recurrent_slot(const Phase& phase) { return phase.chains - phase.recurrent.count; }

// The slots that both products add to begin there.
constexpr int shared_slots(const Phase& phase) { return phase.input.count + phase.recurrent.count - phase.chains; }

}  // namespace cuda
}  // namespace recurra
