// A step of a stream: a phase's products and its pointwise function in one kernel, the sums in the CPU's order. A block has
// kUnits units; a warp computes one chain of each, for kRows rows at a time, so that a weight is read once for all of them.
#pragma once
#include "cuda/kernels/cell.cuh"

namespace recurra {
namespace cuda {

constexpr int kUnits = 32, kRows = 4;

inline Number operand(const StepArguments& a, int64_t row, int64_t i) {
  const int64_t at = row * a.x.row + i * a.x.column;
  if (a.x_is_weight) return flushed(widened(static_cast<const Weight*>(a.x.data)[at]));
  return flushed(widened(narrowed(static_cast<const Number*>(a.x.data)[at])));
}

// The recurrent product's vector: h as a product reads it, or what the phase before returned.
template <int p>
inline Number source_operand(const StepArguments& a, int64_t row, int64_t i) {
  if (p > 0) return flushed(widened(row_of<Weight>(a.source, row, 0)[i]));
  return flushed(widened(narrowed(row_of<Number>(a.phase.h_before, row, 0)[i])));
}

// sum[r] += the product of a unit's weights with rows first .. first + count - 1.
template <class Operand>
inline void add_row_products(V (&sum)[kRows], const Weight* weights, int64_t length, int64_t first, int count,
                             const Operand& of) {
  RECURRA_UNROLL_8  // so that weights are on their way while others are used
  for (int64_t k = 0; k < length; ++k) {
    const V w(flushed(widened(weights[k])));
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r)
      if (r < count) sum[r] = fma(V(of(first + r, k)), w, sum[r]);
  }
}

// What a thread has: a chain of a unit, of rows first .. first + count - 1.
struct StepPart {
  const int lane = int(threadIdx.x) % kUnits, chain = int(threadIdx.x) / kUnits;
  const int unit = int(blockIdx.x) * kUnits + lane;
  const int64_t first = int64_t(blockIdx.y) * kRows;
  int count;

  explicit StepPart(const StepArguments& a) : count(a.phase.rows - first < kRows ? int(a.phase.rows - first) : kRows) {}
};

template <int p>
inline void sum_chain(const StepArguments& a, const StepPart& part, int slot, int block, V (&sum)[kRows]) {
  RECURRA_UNROLL
  for (int r = 0; r < kRows; ++r)
    sum[r] = V::load(static_cast<const Number*>(a.phase.bias) + int64_t(slot) * a.phase.units + part.unit);
  const auto weights = [&](const void* all, int64_t g, int64_t length) {
    return static_cast<const Weight*>(all) + (g * a.phase.units + part.unit) * length;
  };
  if (part.chain < PhaseOf<p>::phase.input.count)
    add_row_products(sum, weights(a.input, slot, a.inputs), a.inputs, part.first, part.count,
                     [&](int64_t row, int64_t i) { return operand(a, row, i); });
  if (block >= 0)
    add_row_products(sum, weights(a.recurrent, block, a.sources), a.sources, part.first, part.count,
                     [&](int64_t row, int64_t i) { return source_operand<p>(a, row, i); });
}

// What the last phase makes goes to the caller too.
inline void give(const StepArguments& a, int64_t row, int unit, V h) {
  if (a.y.data) static_cast<Weight*>(a.y.data)[row * a.y.row + unit * a.y.column] = narrowed(h.v);
}

template <int p>
inline void step_phase(const StepArguments& a) {
  constexpr int chains = PhaseOf<p>::phase.chains;
  constexpr Places places = places_of(PhaseOf<p>::phase);
  Number* const sums = reinterpret_cast<Number*>(shared_memory());  // [chain][row][unit]
  const StepPart part(a);
  if (part.unit < a.phase.units) {
    V sum[kRows];
    sum_chain<p>(a, part, places.slot[part.chain], places.block[part.chain], sum);
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r) sums[(part.chain * kRows + r) * kUnits + part.lane] = sum[r].v;
  }
  __syncthreads();
  for (int r = part.chain; r < part.count && part.unit < a.phase.units; r += chains) {
    V all[chains];
    RECURRA_UNROLL
    for (int c = 0; c < chains; ++c) all[c] = V(sums[(c * kRows + r) * kUnits + part.lane]);
    const V h = finish_unit<p>(a.phase, Here{part.unit, int(part.first) + r, 0}, all);
    if (p == kLast) give(a, part.first + r, part.unit, h);
  }
}

#if !RECURRA_BY_ROWS
RECURRA_BLOCK_KERNEL(step_0, StepArguments) { step_phase<0>(a); }
#if RECURRA_PHASES > 1
RECURRA_BLOCK_KERNEL(step_1, StepArguments) { step_phase<1>(a); }
#endif
#endif

}  // namespace cuda
}  // namespace recurra
