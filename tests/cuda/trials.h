// What trials of random networks on a GPU have in common: numbers drawn the same every time, and what is counted.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <random>

inline int failures = 0;                         // calls that were wrong
inline int clusters = 0, backward_clusters = 0;  // that went by a cluster of blocks
inline const bool little_memory = std::getenv("RECURRA_STANDIN_SHARED_BYTES");
inline std::mt19937_64 generator(7);

inline int64_t draw(int64_t least, int64_t most) { return least + int64_t(generator() % uint64_t(most - least + 1)); }
