// The order of a call's rows: longest first, so that a step's rows are the first ones.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "arguments.h"

namespace recurra {
namespace detail {

struct RowOrder {
  std::vector<int64_t> order, lengths;  // row r is the caller's row order[r]; lengths: none when all rows run all steps
  int64_t steps;                        // of the longest

  RowOrder(int64_t rows, int64_t all_steps, const int64_t* given)
      : order(size_t(checked_rows(rows))), steps(rows ? all_steps : 0) {
    std::iota(order.begin(), order.end(), 0);
    if (!given) return;
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return given[a] > given[b]; });
    for (const int64_t row : order) lengths.push_back(given[row]);
    expect(!rows || (lengths.front() <= all_steps && lengths.back() >= 0), "lengths: expected 0 to the number of steps");
    steps = rows ? lengths[0] : 0;
  }
};

// Where each step's rows begin when those of all steps lie one after another: starts[step], step = 0 .. steps.
inline std::vector<int64_t> starts_of(const std::vector<int64_t>& lengths, int64_t steps) {
  std::vector<int64_t> starts(size_t(steps) + 1, 0);
  size_t running = lengths.size();
  for (int64_t step = 0; step < steps; ++step) {
    while (running > 0 && lengths[running - 1] <= step) --running;
    starts[size_t(step) + 1] = starts[size_t(step)] + int64_t(running);
  }
  return starts;
}

}  // namespace detail
}  // namespace recurra
