// All steps of a layer in one launch, by a block, a cluster or blocks of a grid for each tile of rows: the other walk
// (kernels/resident.cuh, and backward kernels/resident_backward.cuh).
#pragma once
#include <optional>

#include "kernel_set.h"
#include "kernels/arguments.h"

namespace recurra {
namespace cuda {

enum class Way { forward, backward };

struct Resident {
  Way way = Way::forward;
  int rows = 0;       // of a tile
  int cluster = 1;    // blocks that share it
  bool grid = false;  // these are not a cluster, but of a grid that runs together, and exchange through memory
  // Of a thread, in each phase: columns of weights, and how many weights of each are in registers; chains without any, or
  // backward units of rows that it fetches.
  int columns[kMaxPhases] = {}, held[kMaxPhases] = {}, others[kMaxPhases] = {};
  int warps[kMaxPhases] = {1, 1};  // that share a tile of 16-bit weights, in each phase
  int most_threads = 0;            // of all sizes that the same kernel serves
  int threads = 0;
  int64_t weights = 0;      // all of them, in numbers
  size_t shared_bytes = 0;  // of a block
  WalkPlaces places{};      // in shared memory
  int place = 0;            // of a grid: numbers that are exchanged
  int tiles = 0;            // of a grid, at most, of all directions
  double cycles = 0;        // of a step, by arithmetic
  double waves = 1;         // of tiles
  int ways = 1;             // of which this is the fastest, by arithmetic
  CUfunction kernel = nullptr;
};

constexpr int kMostCluster = 8;   // that every GPU with clusters has room for
constexpr int kFragmentRows = 8;  // that the tensor cores multiply at once: of a tile of 16-bit numbers, or half of them

// Of a cell and its sizes; nothing if a block has too few registers for it.
// A tile has as many rows as there are, `rows`; one of 16-bit numbers up to `fragment_rows`.
std::optional<Resident> resident_of(const Spec& spec, Number number, int64_t hidden, int64_t output, int rows, Way way,
                                    int cluster = 1, bool grid = false, int fragment_rows = kFragmentRows);
Unit resident_unit(int cell, Number number, const Resident& resident);

}  // namespace cuda
}  // namespace recurra
