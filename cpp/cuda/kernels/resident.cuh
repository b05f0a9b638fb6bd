// All steps of a layer in one launch. A block has up to kRows rows and every unit, so blocks wait for nobody. The recurrent
// weights stay on the chip: a thread has those of some columns (a column is a block of the recurrent product and a unit), the
// first kHeldOf in registers, the others in shared memory. It sums its columns up in the CPU's order, for all rows; then, when
// the sums have met in shared memory, units are shared out and the cell runs on them. Of one cell and one size, rounded up:
// RECURRA_ROWS, RECURRA_THREADS, and for each phase RECURRA_COLUMNS and RECURRA_PASSES of a thread and RECURRA_HELD.
#pragma once
#include "cuda/kernels/cell.cuh"

namespace recurra {
namespace cuda {

constexpr int kRows = RECURRA_ROWS;
constexpr int kColumnsOf[] = {RECURRA_COLUMNS}, kPassesOf[] = {RECURRA_PASSES}, kHeldOf[] = {RECURRA_HELD};

// What one load brings.
struct alignas(16) Four {
  Number v[4];
};

inline Number* shared_numbers(int at) { return reinterpret_cast<Number*>(shared_memory()) + at; }

inline int padded(int n) { return (n + 3) / 4 * 4; }

// A step, and what comes after it: where its rows begin among those of all steps, and how many of them the block has.
struct Span {
  int step, at, next_at, count, next_count;
};

inline int at_step(const WalkArguments& a, int step) {
  step = step < a.to ? step : int(a.to);
  return a.steps.starts ? int(a.steps.starts[step]) : step * int(a.steps.rows);
}

inline Here here(int unit, int row) { return {unit, row, int(blockIdx.y)}; }
inline int first_row() { return int(blockIdx.x) * kRows; }

// One unit of one row: its states and kept values are in shared memory, where what a launch before left them.
template <int p>
struct ResidentUnit : ForwardUnit {
  const WalkArguments& walk;
  Number* held;   // [i]
  int64_t place;  // of the row among those of all steps

  Number& held_at(int i) const { return held[i * kRows * walk.held_row]; }
  V h() const { return V::load(&held_at(0)); }
  V state(int i) const { return V::load(&held_at(1 + i)); }
  V kept(int i) const { return V::load(&held_at(1 + kStates + i)); }
  void keep(int i, V v) const { held_at(1 + kStates + i) = v.v; }
  void put(const Rows& rows, int64_t row, int i, Number v) const {
    row_of<Number>(rows, row, at.direction)[int64_t(i) * a.units + at.unit] = v;
  }
  void save(int i, V v) const {
    if (a.saved.data) put(a.saved, place, i, v.v);
  }

  void put_state(int i, Number v) const {
    held_at(1 + i) = v;
    put(a.states_after, walk.moves_states ? walk.steps.rows + place : at.row, i, v);
  }
  // What the next product reads, here and for backward.
  void put_source(V v) const {
    shared_numbers(walk.source_at[0])[(at.row - first_row()) * padded(walk.sources[0]) + at.unit] = v.v;
    if (a.source.data)
      row_of<Weight>(a.source, walk.moves_source ? walk.steps.rows + place : at.row, at.direction)[at.unit] = narrowed(v.v);
  }
  void put_result(V v) const {
    shared_numbers(walk.source_at[kLast])[(at.row - first_row()) * padded(walk.sources[kLast]) + at.unit] = v.v;
    row_of<Weight>(a.result, walk.moves_result ? place : at.row, at.direction)[at.unit] = narrowed(v.v);
  }
  void put_h(Number v) const {
    held[0] = v;
    put(a.h_after, walk.steps.rows + place, 0, v);
  }

  void run(const V* chain, int64_t step) {
    const V result = PhaseOf<p>::forward(chain, *this);
    if constexpr (PhaseOf<p>::phase.sets_states) {
      RECURRA_UNROLL
      for (int i = 0; i < kStates; ++i) put_state(i, zoned(a, at, 1 + i, new_states[i], [&] { return state(i); }, step).v);
    }
    if constexpr (p < kLast) return put_result(result);
    const V after = zoned(a, at, 0, result, [&] { return h(); }, step);
    put_h(after.v);
    put_source(a.mask.data ? value(a.mask, 0) * after : after);
  }
  // As carry_over, of a row that has ended.
  void rest() const {
    if constexpr (PhaseOf<p>::phase.sets_states) {
      RECURRA_UNROLL
      for (int i = 0; i < kStates; ++i) put_state(i, held_at(1 + i));
    }
    if constexpr (p < kLast) return put_result(V(0));
    put_h(held[0]);
    put_source(V(0));
  }
};

// What a thread has of phase p for the whole sequence.
template <int p>
struct Part {
  static constexpr Phase kPhase = PhaseOf<p>::phase;
  static constexpr int kBlocks = kPhase.recurrent.count, kFirst = recurrent_slot(kPhase), kHeld = kBlocks ? kHeldOf[p] : 0;
  static constexpr int kColumns = kBlocks ? kColumnsOf[p] : 0, kPasses = kFirst ? kPassesOf[p] : 0;

  const WalkArguments& walk;
  const PhaseArguments& a;
  const int columns, sources;   // of the block; numbers of a column, with zeros
  const int first, first_unit;  // row and unit that the thread finishes first
  const int begin;              // where rows of `input` begin among those of all steps
  V weights[kColumns + 1][kHeld + 1];
  V start[kColumns + 1][kRows], pass[kPasses + 1][kRows];  // of the next step: chains so far, and those without weights

  __forceinline__ Part(const WalkArguments& all, int begin)
      : walk(all),
        a(all.phase[p]),
        columns(kBlocks * a.units),
        sources(padded(all.sources[p])),
        first(int(threadIdx.x) / a.units),
        first_unit(int(threadIdx.x) % a.units),
        begin(begin) {}

  __forceinline__ int column(int c) const { return int(threadIdx.x) + c * int(blockDim.x); }
  Number* rest() const { return shared_numbers(walk.weights_at[p]); }

  // The zeros change no sum: +0 times -0 is -0, and whatever that is added to stays as it is.
  __forceinline__ void load() {
    RECURRA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const int n = column(c);
      const auto weight = [&](int k) {
        return n < columns && k < walk.sources[p] ? flushed(widened(row_of<Weight>(a.recurrent, n, int(blockIdx.y))[k]))
                                                  : -Number(0);
      };
      RECURRA_UNROLL
      for (int k = 0; k < kHeld; ++k) weights[c][k] = V(weight(k));
      for (int k = kHeld; k < sources && n < columns; ++k) rest()[(k - kHeld) * columns + n] = weight(k);
    }
  }

  // Chains as the input product has left them, or their bias, of a step's rows.
  __forceinline__ void fetch(int place, int count) {
    constexpr int shared = shared_slots(kPhase);
    const Number* const bias = static_cast<const Number*>(a.bias) + blockIdx.y * a.sums_direction + kFirst * a.units;
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (r >= count) continue;
      const Number* const input = row_of<Number>(a.input, place - begin + first_row() + r, int(blockIdx.y));
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c)
        if (column(c) < columns)
          start[c][r] = V::load(shared == kBlocks || column(c) < shared * a.units ? input + kFirst * a.units + column(c)
                                                                                  : bias + column(c));
      RECURRA_UNROLL
      for (int e = 0; e < kPasses; ++e)
        if (column(e) < kFirst * a.units) pass[e][r] = V::load(input + column(e));
    }
  }

  template <class Weights>
  __forceinline__ void multiply(V (&sum)[kColumns + 1][kRows], const Number* source, const Weights& weight) const {
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Four four = *reinterpret_cast<const Four*>(source + r * sources);
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) {
        RECURRA_UNROLL
        for (int c = 0; c < kColumns; ++c) sum[c][r] = fma(V(four.v[i]), weight(c, i), sum[c][r]);
      }
    }
  }

  // The step's sums, to shared memory; meanwhile the next step's begin to arrive.
  __forceinline__ void sum(const Span& span) {
    Number* const sums = shared_numbers(walk.sums_at);
    V now[kColumns + 1][kRows];
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) now[c][r] = start[c][r];
      RECURRA_UNROLL
      for (int e = 0; e < kPasses; ++e)
        if (column(e) < kFirst * a.units) sums[r * walk.sums_row + column(e)] = pass[e][r].v;
    }
    fetch(span.next_at, span.next_count);
    if (!kBlocks || column(0) >= columns) return;
    const Number* const source = shared_numbers(walk.source_at[p]);
    RECURRA_UNROLL
    for (int k = 0; k < kHeld; k += 4)
      if (k < sources) multiply(now, source + k, [&](int c, int i) { return weights[c][k + i]; });
    for (int k = kHeld; k < sources; k += 4) {
      V more[kColumns + 1][4];
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const Number* const from = rest() + (k - kHeld) * columns + (column(c) < columns ? column(c) : 0);
        RECURRA_UNROLL
        for (int i = 0; i < 4; ++i) more[c][i] = V(from[i * columns]);
      }
      multiply(now, source + k, [&](int c, int i) { return more[c][i]; });
    }
    RECURRA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      RECURRA_UNROLL
      for (int r = 0; r < kRows; ++r)
        if (column(c) < columns) sums[r * walk.sums_row + kFirst * a.units + column(c)] = now[c][r].v;
    }
  }

  // use(unit, row) for the units and rows that this thread finishes.
  template <class Use>
  __forceinline__ void each(int count, const Use& use) const {
    for (int row = first, unit = first_unit; row < count;) {
      use(unit, row);
      for (unit += int(blockDim.x); unit >= a.units; unit -= a.units) ++row;
    }
  }

  __forceinline__ void finish(const Span& span) const {
    constexpr Places places = places_of(kPhase);
    each(span.count, [&](int unit, int row) {
      const int all = first_row() + row;
      ResidentUnit<p> mine{
          {a, here(unit, all), {}}, walk, shared_numbers(walk.held_at) + row * walk.held_row + unit, int64_t(span.at) + all};
      if (a.lengths && span.step >= a.lengths[all]) return mine.rest();
      V chain[kPhase.chains];
      RECURRA_UNROLL
      for (int c = 0; c < kPhase.chains; ++c)
        chain[c] = V(shared_numbers(walk.sums_at)[row * walk.sums_row + places.slot[c] * a.units + unit]);
      mine.run(chain, span.step);
    });
  }
};

// Rows that a step or a launch before has left, to shared memory: to[row * to_row + i], with zeros up to i = to_row. Products
// read subnormal numbers as zero.
template <class T, bool for_product = false>
inline void take(const Rows& rows, int64_t first, int count, int column, int size, Number* to, int to_row) {
  for (int row = 0; row < kRows; ++row)
    for (int i = int(threadIdx.x); i < to_row; i += int(blockDim.x)) {
      const bool there = row < count && i < size;
      const Number v = there ? widened(row_of<T>(rows, first + row, int(blockIdx.y))[column + i]) : Number(0);
      to[row * to_row + i] = for_product ? flushed(v) : v;
    }
}

inline void take_states(const WalkArguments& a, int count) {
  const int64_t before = (a.from ? a.steps.rows + at_step(a, int(a.from) - 1) : 0) + first_row();
  const Rows &h = a.phase[kLast].h_after, &states = a.phase[kLast].states_after, &source = a.phase[kLast].source;
  Number *const held = shared_numbers(a.held_at), *const sources = shared_numbers(a.source_at[0]);
  const int row = padded(a.sources[0]);
  take<Number>(h, before, count, 0, int(h.row), held, a.held_row);
  for (int i = 0; i < kStates; ++i) {
    const int width = int(states.row) / (kStates + !kStates);
    take<Number>(states, a.moves_states ? before : first_row(), count, i * width, width, held + (1 + i) * kRows * a.held_row,
                 a.held_row);
  }
  if (source.data)
    take<Weight, true>(source, a.moves_source ? before : first_row(), count, 0, int(source.row), sources, row);
  else
    take<Number, true>(h, before, count, 0, int(h.row), sources, row);
  if (kLast) take<Weight>(a.phase[0].result, 0, 0, 0, 0, shared_numbers(a.source_at[kLast]), padded(a.sources[kLast]));
}

template <int p>
__forceinline__ void run_phase(Part<p>& part, const Span& span) {
  part.sum(span);
  __syncthreads();  // until all sums are there
  part.finish(span);
  __syncthreads();  // until they have been read, and what the next product reads is there
}

RECURRA_BOUNDED_KERNEL(walk, WalkArguments, RECURRA_THREADS) {
  const int from = int(a.from), begin = at_step(a, from);
  const auto count = [](int at, int end) { return end - at - first_row() < kRows ? end - at - first_row() : kRows; };
  // Where rows of steps begin is known three steps ahead, for nobody to wait for it.
  Span span{from, begin, at_step(a, from + 1), 0, 0};
  int then = at_step(a, from + 2);
  span.count = count(span.at, span.next_at);
  if (span.count <= 0) return;
  Part<0> part(a, begin);
  part.load();
  part.fetch(begin, span.count);
#if RECURRA_PHASES > 1
  Part<1> second(a, begin);
  second.load();
  second.fetch(begin, span.count);
#endif
  take_states(a, span.count);
  __syncthreads();  // until states and weights are there
  while (span.count > 0) {
    const int coming = at_step(a, span.step + 3);
    span.next_count = count(span.next_at, then);
    run_phase(part, span);
#if RECURRA_PHASES > 1
    run_phase(second, span);
#endif
    span = {span.step + 1, span.next_at, then, span.next_count, 0};
    then = coming;
  }
}

}  // namespace cuda
}  // namespace recurra
