// All steps of a layer in one launch, forward. A thread has some columns of the recurrent weights (a column is a block of the
// recurrent product and a unit) and sums them up; then, when the sums have met in shared memory, units are shared out and the
// cell runs on them. As columns.cuh, and for each phase RECURRA_PASSES: chains of a thread that have no recurrent weights.
// Of 16-bit weights the tensor cores make the sums (fragments.cuh), to which the bias is added: the input product has none.
// Blocks that share a tile exchange what products read (exchange.cuh).
#pragma once
#include "cuda/kernels/resident_rows.cuh"

namespace recurra {
namespace cuda {

constexpr int kPassesOf[] = {RECURRA_PASSES};

// A step, and what comes after it: where its rows begin among those of all steps, and how many of them the block has.
struct Span {
  int step, at, next_at, count, next_count;
};

inline int at_step(const WalkArguments& a, int step) {
  step = step < a.to ? step : int(a.to);
  return a.steps.starts ? int(a.steps.starts[step]) : step * int(a.steps.rows);
}

// One unit of one row: its states and kept values are in shared memory, where what a launch before left them.
template <int p>
struct ResidentUnit : ForwardUnit {
  const WalkArguments& walk;
  Number* held;   // [i]
  int64_t place;  // of the row among those of all steps
  int step;

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
  void finish_state(int i, V v) const {
    put_state(i, zoned(a, at, 1 + i, v, [&] { return state(i); }, step).v);
  }
  // For a product of phase q.
  void give(int q, int64_t step, V v) const {
    cuda::give(walk, q, step, (at.row - first_row(walk)) * source_row(walk.sources[q]) + at.unit, v);
  }
  // What the next product reads, here and for backward.
  void put_source(V v) const {
    give(0, step + 1, v);
    if (a.source.data)
      row_of<Weight>(a.source, walk.moves_source ? walk.steps.rows + place : at.row, at.direction)[at.unit] = narrowed(v.v);
  }
  void put_result(V v) const {
    give(kLast, step, v);
    row_of<Weight>(a.result, walk.moves_result ? place : at.row, at.direction)[at.unit] = narrowed(v.v);
  }
  void put_h(Number v) const {
    held[0] = v;
    put(a.h_after, walk.steps.rows + place, 0, v);
  }

  void run(const V* chain) {
    const V result = PhaseOf<p>::forward(chain, *this);
    if constexpr (PhaseOf<p>::phase.sets_states) {
      RECURRA_UNROLL
      for (int i = 0; i < kStates; ++i) finish_state(i, new_states[i]);
    }
    if constexpr (p < kLast) return put_result(result);
    finish(result);
  }
  void finish(V result) const {
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

struct ResidentRowUnit : ResidentUnit<0> {
  const Number* chain;  // [chain of the input product, then of the other]
  int units;            // from one to the next

  V side(int s, int g) const { return V(chain[(s * kGates + g) * units]); }
  void set_state(int i, V v) const { finish_state(i, v); }
  void set_result(V v) const { finish(v); }
};

// What a thread has of phase p for the whole sequence.
template <int p>
struct Part {
  static constexpr Phase kPhase = PhaseOf<p>::phase;
  static constexpr int kBlocks = kPhase.recurrent.count, kFirst = recurrent_slot(kPhase), kHeld = kBlocks ? kHeldOf[p] : 0;
  static constexpr int kColumns = kBlocks ? kColumnsOf[p] : 0, kPasses = kFirst ? kPassesOf[p] : 0;

  using Matrix = MatrixOf<kNarrow>::type<kColumns, kHeld>;
  static constexpr int kOwnRows = Matrix::kOwnRows;

  const WalkArguments& walk;
  const PhaseArguments& a;
  Matrix matrix;
  const Share own;
  const int first, first_unit;         // row and unit of the block that the thread finishes first
  const int begin;                     // where rows of `input` begin among those of all steps
  int global[kColumns + kPasses + 1];  // where its columns, or chains without weights, are among all units'
  V start[kColumns + 1][kOwnRows], pass[kPasses + 1][kOwnRows];  // of the next step: chains so far, and those without weights
  V bias[kColumns + 1], pass_bias[kPasses + 1];                  // narrow: what is yet to be added to both

  __forceinline__ Part(const WalkArguments& all, int begin)
      : walk(all),
        a(all.phase[p]),
        matrix{kBlocks * share_of(a.units).count,
               kNarrow ? all.sources[p] : padded(all.sources[p]),
               shared_numbers(all.weights_at[p]),
               {}},
        own(share_of(a.units)),
        first(kPhase.by_rows ? row_of_thread()
              : own.count    ? int(threadIdx.x) / own.count
                             : kRows),
        first_unit(kPhase.by_rows ? place_in_row()
                   : own.count    ? int(threadIdx.x) % own.count
                                  : 0),
        begin(begin) {
    RECURRA_UNROLL
    for (int c = 0; c < kColumns || c < kPasses; ++c) {
      const int n = column(c);
      global[c] = kSharers == 1 || !own.count ? n : n / own.count * (a.units - own.count) + own.first + n;
    }
  }

  static __forceinline__ int column(int c) { return Matrix::column(c); }
  const Number* biases() const { return static_cast<const Number*>(a.bias) + blockIdx.y * a.sums_direction; }

  __forceinline__ void load() {
    matrix.load(walk.sources[p], [&](int c, int k) { return row_of<Weight>(a.recurrent, global[c], int(blockIdx.y))[k]; });
    if constexpr (kNarrow) {
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c)
        if (column(c) < matrix.columns) bias[c] = V::load(biases() + kFirst * a.units + global[c]);
      RECURRA_UNROLL
      for (int e = 0; e < kPasses; ++e)
        if (column(e) < kFirst * own.count) pass_bias[e] = V::load(biases() + global[e]);
    }
  }

  // Chains as the input product has left them, or their bias, of a step's rows.
  __forceinline__ void fetch(int place, int count) {
    constexpr int shared = shared_slots(kPhase);
    RECURRA_UNROLL
    for (int r = 0; r < kOwnRows; ++r) {
      const int row = Matrix::row(r);
      if (row >= count) continue;
      const Number* const input = row_of<Number>(a.input, place - begin + first_row(walk) + row, int(blockIdx.y));
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        if (column(c) >= matrix.columns) continue;
        if (shared == kBlocks || column(c) < shared * own.count)
          start[c][r] = V::load(input + kFirst * a.units + global[c]);
        else
          start[c][r] = kNarrow ? V(0) : V::load(biases() + kFirst * a.units + global[c]);
      }
      RECURRA_UNROLL
      for (int e = 0; e < kPasses; ++e)
        if (column(e) < kFirst * own.count) pass[e][r] = V::load(input + global[e]);
    }
  }

  // The step's sums, to shared memory; meanwhile the next step's begin to arrive.
  __forceinline__ void sum(const Span& span) {
    Number* const sums = shared_numbers(walk.sums_at);
    V now[kColumns + 1][kOwnRows];
    RECURRA_UNROLL
    for (int r = 0; r < kOwnRows; ++r) {
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) now[c][r] = kNarrow ? bias[c] + start[c][r] : start[c][r];
      RECURRA_UNROLL
      for (int e = 0; e < kPasses; ++e)
        if (column(e) < kFirst * own.count)
          sums[Matrix::row(r) * walk.sums_row + column(e)] = (kNarrow ? pass_bias[e] + pass[e][r] : pass[e][r]).v;
    }
    fetch(span.next_at, span.next_count);
    if (matrix.has_none()) return;
    matrix.add(now, source_of(walk, p, span.step));
    RECURRA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      RECURRA_UNROLL
      for (int r = 0; r < kOwnRows; ++r)
        if (column(c) < matrix.columns) sums[Matrix::row(r) * walk.sums_row + kFirst * own.count + column(c)] = now[c][r].v;
    }
  }

  // use(unit of the block, row) for those that this thread finishes.
  template <class Use>
  __forceinline__ void each(int count, const Use& use) const {
    for (int row = first, unit = first_unit; row < count;) {
      use(unit, row);
      for (unit += int(blockDim.x); unit >= own.count; unit -= own.count) ++row;
    }
  }

  // All rows of the tile at the same time: nobody leaves before the others.
  __forceinline__ void finish_row(const Span& span, unsigned& met) const {
    const int all = first_row(walk) + first;
    const bool there = first < span.count, runs = there && (!a.lengths || span.step < a.lengths[all]);
    const auto each = [&](const auto& use) {
      RECURRA_ROLLED  // a thread has few
          for (int unit = first_unit; unit < own.count; unit += threads_of_row()) {
        ResidentRowUnit mine{{{a, here(own.first + unit, all), {}},
                              walk,
                              shared_numbers(walk.held_at) + first * walk.held_row + unit,
                              int64_t(span.at) + all,
                              span.step},
                             shared_numbers(walk.sums_at) + first * walk.sums_row + unit,
                             own.count};
        use(mine);
      }
    };
    const auto each_that_runs = [&](const auto& use) {
      if (runs) each(use);
    };
    ResidentRow<WalkArguments, decltype(each_that_runs)> row{walk, a.units, first, met, each_that_runs};
    PhaseOf<p>::forward(row);
    if (there && !runs) each([](const auto& mine) { mine.rest(); });
  }

  __forceinline__ void finish(const Span& span) const {
    constexpr Places places = places_of(kPhase);
    each(span.count, [&](int unit, int row) {
      const int all = first_row(walk) + row;
      ResidentUnit<p> mine{{a, here(own.first + unit, all), {}},
                           walk,
                           shared_numbers(walk.held_at) + row * walk.held_row + unit,
                           int64_t(span.at) + all,
                           span.step};
      if (a.lengths && span.step >= a.lengths[all]) return mine.rest();
      V chain[kPhase.chains];
      RECURRA_UNROLL
      for (int c = 0; c < kPhase.chains; ++c)
        chain[c] = V(shared_numbers(walk.sums_at)[row * walk.sums_row + places.slot[c] * own.count + unit]);
      mine.run(chain);
    });
  }
};

inline void take_states(const WalkArguments& a, int count) {
  const int64_t rows = first_row(a), before = (a.from ? a.steps.rows + at_step(a, int(a.from) - 1) : 0) + rows;
  const Rows &h = a.phase[kLast].h_after, &states = a.phase[kLast].states_after, &source = a.phase[kLast].source;
  Number* const held = shared_numbers(a.held_at);
  Weight* const sources = shared_weights(a.source_at[0]);
  const int row = source_row(a.sources[0]);
  const Share own = share_of(int(h.row));
  take<Number>(h, before, count, own.first, own.count, held, a.held_row);
  for (int i = 0; i < kStates; ++i) {
    const int width = int(states.row) / (kStates + !kStates);
    const Share part = share_of(width);
    take<Number>(states, a.moves_states ? before : rows, count, i * width + part.first, part.count,
                 held + (1 + i) * kRows * a.held_row, a.held_row);
  }
  if (source.data)
    take<Weight, true>(source, a.moves_source ? before : rows, count, 0, int(source.row), sources, row);
  else
    take<Number, true>(h, before, count, 0, int(h.row), sources, row);
  if (kLast || kCluster)
    take<Weight>(a.phase[0].result, 0, 0, 0, 0, shared_weights(a.source_at[1]), source_row(a.sources[kLast]));
}

template <int p>
__forceinline__ void run_phase(Part<p>& part, const Span& span, unsigned& met) {
  constexpr int next = p < kLast ? p + 1 : 0;
  part.sum(span);
  __syncthreads();  // until all sums are there
  if constexpr (Part<p>::kPhase.by_rows)
    part.finish_row(span, met);
  else
    part.finish(span);
  meet(part.walk, met++);  // until they have been read, and what the next product reads is there
  receive(part.walk, next, span.step + (p == kLast), span.count * source_row(part.walk.sources[next]));
}

RECURRA_BOUNDED_KERNEL(walk, WalkArguments, RECURRA_THREADS) {
  const int from = int(a.from), begin = at_step(a, from);
  // Where rows of steps begin is known three steps ahead, for nobody to wait for it.
  Span span{from, begin, at_step(a, from + 1), 0, 0};
  int then = at_step(a, from + 2);
  span.count = rows_of_block(a, span.at, span.next_at);
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
  clear_exchanged(a);
  unsigned met = 0;
  meet(a, met++);  // until states and weights are there
  while (span.count > 0) {
    const int coming = at_step(a, span.step + 3);
    span.next_count = rows_of_block(a, span.next_at, then);
    run_phase(part, span, met);
#if RECURRA_PHASES > 1
    run_phase(second, span, met);
#endif
    span = {span.step + 1, span.next_at, then, span.next_count, 0};
    then = coming;
  }
}

}  // namespace cuda
}  // namespace recurra
