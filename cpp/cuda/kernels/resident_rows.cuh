// A phase by rows in a kernel of all steps. The block's threads are divided evenly among the rows of its tile, kParts or a
// multiple for each, and all rows take their means at the same time. What a sum adds is given to every block that shares the
// tile, unit by unit: then each kParts threads side by side have all units of their row, as on the CPU.
#pragma once
#include "cuda/kernels/exchange.cuh"
#include "cuda/kernels/row_units.cuh"

namespace recurra {
namespace cuda {

constexpr int kSums = 2;  // at most, of which means are taken together

inline int threads_of_row() { return int(blockDim.x) / kRows; }
inline int row_of_thread() { return int(threadIdx.x) / threads_of_row(); }
inline int place_in_row() { return int(threadIdx.x) % threads_of_row(); }

// each(use): use(unit) of those that this thread has of its row.
template <class Arguments, class Each>
struct ResidentRow {
  using Value = V;
  template <int count>
  struct Sums {
    static_assert(count <= kSums, "there is room for so many");
    Number* const to;  // of the row
    const int size;    // from sum to sum
    template <class Unit>
    void add(const Unit& u, int s, V v) const {
      give(to + s * size + u.at.unit, v.v);
    }
  };

  const Arguments& walk;
  const int units, row;
  unsigned& met;
  const Each& each;

  int size() const { return kRows * walk.values_row; }  // of a sum
  // [sum][row][unit]. Who gives for a meeting has met the time before, when nobody reads any more what was given for the one
  // before that: there are two places by turns.
  Number* given() const {
    if (kGrid) return reinterpret_cast<Number*>(place_of(walk, int(met % 2)) + walk.place) - kSums * size();
    return shared_numbers(walk.values_at) + int(met % 2) * kSums * size();
  }
  template <int count>
  Sums<count> sums() const {
    return {given() + row * walk.values_row, size()};
  }
  template <int count>
  void means(const Sums<count>&, int n, V (&mean)[count]) const {
    Number* values = given();
    meet(walk, met++);  // until all units' are there
    if (kGrid) {
      receive(values, shared_numbers(walk.values_at), count * size());
      values = shared_numbers(walk.values_at);
    }
    V part[count] = {};
    for (int u = int(threadIdx.x) % kParts; u < units; u += kParts) {
      RECURRA_UNROLL
      for (int s = 0; s < count; ++s) part[s] = part[s] + V(values[s * size() + row * walk.values_row + u]);
    }
    RECURRA_UNROLL
    for (int s = 0; s < count; ++s) mean[s] = mean_of(sum_of_parts(part[s], ~0u), n, units);
  }
};

}  // namespace cuda
}  // namespace recurra
