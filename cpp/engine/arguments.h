// What callers hand in, checked where it enters the engine.
#pragma once
#include <climits>
#include <stdexcept>
#include <string>

#include "recurra/recurra.h"

namespace recurra {
namespace detail {

inline void expect(bool good, const char* what) {
  if (!good) throw std::invalid_argument(what);
}

// The engine counts rows of a step in an int.
inline int checked_rows(int64_t rows) {
  if (rows < 0 || rows > INT_MAX) throw std::invalid_argument("rows: expected 0 to 2^31 - 1, got " + std::to_string(rows));
  return int(rows);
}

// More than any memory holds, and sums with sizes of windows stay far from overflow.
inline int64_t checked_steps(int64_t steps) {
  if (steps < 0 || steps > int64_t(1) << 40)
    throw std::invalid_argument("steps: expected 0 to 2^40, got " + std::to_string(steps));
  return steps;
}

template <class T>
void check_alike(const Sequence<const T>& x, const Sequence<T>& y) {
  expect(x.steps >= 0 && x.steps == y.steps && x.rows == y.rows, "y: expected the steps and rows of x");
}

template <class T>
void check_marks(const Sequence<const T>& x, const Marks<T>& marks) {
  const auto fit = [&](const Sequence<const uint8_t>& flags) {
    return !flags.data || (flags.steps == x.steps && flags.rows == x.rows);
  };
  expect(fit(marks.resets), "resets: expected the steps and rows of x");
  expect(fit(marks.mask), "mask: expected the steps and rows of x");
}

}  // namespace detail
}  // namespace recurra
