// All steps of a layer in one launch, by a block for each tile of rows: the exact engine's other walk (kernels/resident.cuh).
#pragma once
#include <optional>

#include "kernel_set.h"
#include "kernels/arguments.h"

namespace recurra {
namespace cuda {

struct Resident {
  int rows = 0;  // of a tile
  // Of a thread, in each phase: columns of weights, chains without any, and how many weights of a column are in registers.
  int columns[kMaxPhases] = {}, passes[kMaxPhases] = {}, held[kMaxPhases] = {};
  int most_threads = 0;  // of all sizes that the same kernel serves
  int threads = 0;
  int64_t weights = 0;  // all of them, in numbers
  size_t shared_bytes = 0;
  WalkArguments places{};  // in shared memory, and sources
  double cycles = 0;       // of a step, by arithmetic
  CUfunction kernel = nullptr;
};

// Of a cell and its sizes; nothing if a block has too few registers for it, or has no way to: phases by rows.
std::optional<Resident> resident_of(const Spec& spec, Number number, int64_t hidden, int64_t output, int rows);
Unit resident_unit(int cell, Number number, const Resident& resident);

}  // namespace cuda
}  // namespace recurra
