// All steps of a layer in one launch, backward through time. The recurrent weights are transposed: a thread has those of some
// numbers that a product reads, forward (a column), and sums up the gradients of chains that meet them, blocks and units in the
// order of `ordered_product`. Units of rows are shared out besides: for each phase from the last to the first, the cell makes
// the gradients of a unit's chains, for the sums and for the products after the loop, then columns are summed up to the
// gradient of h before the step, or of what the phase before has returned. What the cell reads of the tape is on its way during
// the sums of the step after. As columns.cuh, and for each phase RECURRA_ITEMS: units of rows of a thread. Of 16-bit weights
// the tensor cores make the sums (fragments.cuh). A block of a cluster has, with all sources, the columns of its own units: of
// those whose gradient it needs.
#pragma once
#include "cuda/kernels/resident_rows.cuh"

namespace recurra {
namespace cuda {

constexpr int kItemsOf[] = {RECURRA_ITEMS};

// A step: where its rows begin among those of all steps, and those before it among rows that are kept before every step; how
// many of its rows the block has.
struct StepRows {
  int step, at, before, count;
};

inline int at_step(const WalkBackArguments& a, int step) {
  if (step <= 0) return 0;
  return a.steps.starts ? int(a.steps.starts[step]) : step * int(a.steps.rows);
}

// What the tape and the layer above have of one unit of one row; what the phase does not read costs nothing.
struct Given {
  V saved[kSpec.saved + 1], states[kStates + 1], h, dy, d_cells;
};

template <int p>
struct ResidentBackwardUnit : BackwardUnit {
  const WalkBackArguments& walk;
  const Given& given;
  int unit, row;  // of the block, of the tile
  int step;
  int64_t place;  // of the row among those of `da`

  Number& held_at(int i) const { return shared_numbers(walk.held_at)[(i * kRows + row) * walk.held_row + unit]; }
  V h() const { return given.h; }
  V state(int i) const { return given.states[i]; }
  V saved(int i) const { return given.saved[i]; }
  V d_kept(int i) const { return V::load(&held_at(1 + kStates + i)); }
  void set_d_kept(int i, V v) const { held_at(1 + kStates + i) = v.v; }

  void set_da(int i, V v) const {
    constexpr Phase phase = PhaseOf<p>::phase;
    const int block = i - recurrent_slot(phase);
    row_of<Weight>(a.da, place, at.direction)[int64_t(i) * a.units + at.unit] = narrowed(v.v);
    if (block >= 0 && block < phase.recurrent.count)
      give(walk, p, step, row * source_row(walk.sources[p], kHeldOf[p]) + block * a.units + at.unit, v);
  }
  void set_d_vector(int i, V v) const { set_da(chains + i, v); }

  int64_t now() const { return step; }
  V d_h() const { return V::load(&held_at(0)); }
  V d_result() const { return V::load(shared_numbers(walk.sums_at) + row * walk.sums_row + unit); }
  V dy() const { return given.dy; }
  V d_cells() const { return given.d_cells; }
  V d_state_after(int i) const { return V::load(&held_at(1 + i)); }
  // Clipped as a step ends: that of h is not whole before a product.
  void leave_d_h(V v) const {
    constexpr bool whole = p == 0 && PhaseOf<0>::phase.recurrent.count == 0;
    held_at(0) = whole ? clipped(v.v, Number(walk.clip)) : v.v;
  }
  void leave_d_state(int i, V v) const { held_at(1 + i) = clipped(v.v, Number(walk.clip)); }
};

// What a thread has of phase p for the whole sequence.
template <int p>
struct PartBack {
  static constexpr Phase kPhase = PhaseOf<p>::phase;
  static constexpr int kBlocks = kPhase.recurrent.count, kItems = kItemsOf[p];
  static constexpr int kColumns = kBlocks ? kColumnsOf[p] : 0, kHeld = kBlocks ? kHeldOf[p] : 0;
  static_assert(p || kBlocks || kReachesH<p>, "who clips the gradient of h?");
  static_assert(kBlocks || !kLast, "of two phases each has all meet");

  using Matrix = MatrixOf<kNarrow>::type<kColumns, kHeld, kWarpsOf[p]>;
  static constexpr int kOwnRows = Matrix::kOwnRows;

  const WalkBackArguments& walk;
  const BackwardArguments& a;
  const Share own, read;  // units, and of the numbers that the forward product reads
  Matrix matrix;
  const int saved_begin;  // where rows of `saved` begin among those of all steps
  int unit[kItems], row[kItems];
  Given given[kItems];  // of the next step

  __forceinline__ explicit PartBack(const WalkBackArguments& all)
      : walk(all),
        a(all.phase[p]),
        own(share_of(a.units)),
        read(share_of(int(all.recurrent[p].row))),
        matrix{read.count, kNarrow ? all.sources[p] : padded(all.sources[p]), shared_numbers(all.weights_at[p]), {}},
        saved_begin(at_step(all, int(all.saved_from))) {
    RECURRA_UNROLL
    for (int e = 0; e < kItems; ++e) {
      const int item = int(threadIdx.x) + e * int(blockDim.x);
      row[e] = own.count ? item / own.count : kRows;
      unit[e] = own.count ? item % own.count : 0;
      if (!kPhase.by_rows) continue;
      unit[e] = place_in_row() + e * threads_of_row();
      row[e] = unit[e] < own.count ? row_of_thread() : kRows;
    }
  }

  // use(e) for each unit of a row that runs.
  template <class Use>
  __forceinline__ void each(int count, const Use& use) const {
    RECURRA_UNROLL
    for (int e = 0; e < kItems; ++e)
      if (row[e] < count) use(e);
  }

  __forceinline__ Number& held_at(int i, int e) const {
    return shared_numbers(walk.held_at)[(i * kRows + row[e]) * walk.held_row + unit[e]];
  }
  __forceinline__ Number& global_at(const Rows& rows, int64_t of_row, int i, int e) const {
    return row_of<Number>(rows, of_row, int(blockIdx.y))[int64_t(i) * a.units + own.first + unit[e]];
  }

  // Weights, zeros behind the gradients that they meet, and what the step after has left.
  __forceinline__ void begin(int count) {
    if (kBlocks) {
      matrix.load(walk.sources[p], [&](int c, int k) {
        return row_of<Weight>(walk.recurrent[p], k, int(blockIdx.y))[read.first + matrix.column(c)];
      });
      for (int turn = 0; turn < (kCluster && !kLast ? 2 : 1); ++turn)
        take<Weight>(a.da, 0, 0, 0, 0, source_of(walk, p, walk.from + turn), source_row(walk.sources[p], kHeldOf[p]));
    }
    each(kRows, [&](int e) {
      const int64_t all = first_row(walk) + row[e];
      if (all >= count) return;
      if (p == kLast) held_at(0, e) = global_at(a.d_h, all, 0, e);
      if (kPhase.sets_states) {
        RECURRA_UNROLL
        for (int i = 0; i < kStates; ++i) held_at(1 + i, e) = global_at(a.d_states, all, i, e);
      }
    });
  }
  // The same for the step before.
  __forceinline__ void end(int count) const {
    each(count, [&](int e) {
      const int64_t all = first_row(walk) + row[e];
      if (p == kLast) global_at(a.d_h, all, 0, e) = held_at(0, e);
      if (kPhase.sets_states) {
        RECURRA_UNROLL
        for (int i = 0; i < kStates; ++i) global_at(a.d_states, all, i, e) = held_at(1 + i, e);
      }
    });
  }

  __forceinline__ void fetch(const StepRows& next) {
    each(next.count, [&](int e) {
      const int64_t at = int64_t(next.at) + first_row(walk) + row[e], before = int64_t(next.before) + first_row(walk) + row[e];
      const auto number = [&](const Rows& rows, int64_t of_row, int i) { return V::load(&global_at(rows, of_row, i, e)); };
      if (kPhase.units == Dim::hidden) {
        RECURRA_UNROLL
        for (int i = 0; i < kSpec.saved; ++i) given[e].saved[i] = number(a.saved, at - saved_begin, i);
      }
      if (kReachesH<p>) given[e].h = number(a.h_before, before, 0);
      if (kPhase.sets_states) {
        RECURRA_UNROLL
        for (int i = 0; i < kStates; ++i) given[e].states[i] = number(a.states_before, before, i);
        if (a.d_cells.data) given[e].d_cells = number(a.d_cells, at, 0);
      }
      if (p == kLast && a.dy.data) given[e].dy = number(a.dy, at, 0);
    });
  }

  // All rows of the tile at the same time: nobody leaves before the others.
  __forceinline__ void finish_row(const StepRows& now, int begin, unsigned& met) const {
    const int all = first_row(walk) + row_of_thread();
    const bool ended = row_of_thread() < now.count && a.lengths && now.step >= a.lengths[all];
    const auto each_unit = [&](const auto& use) {
      each(now.count, [&](int e) {
        BackwardRowUnit<ResidentBackwardUnit<p>> mine{{{a, here(own.first + unit[e], all), kPhase.chains, {}, V(0)},
                                                       walk,
                                                       given[e],
                                                       unit[e],
                                                       row[e],
                                                       now.step,
                                                       int64_t(now.at) - begin + all}};
        use(mine);
      });
    };
    const auto each_that_runs = [&](const auto& use) {
      if (!ended) each_unit(use);
    };
    ResidentRow<WalkBackArguments, decltype(each_that_runs)> row{walk, a.units, row_of_thread(), met, each_that_runs};
    PhaseOf<p>::backward(row);
    if (ended) each_unit([](const auto& mine) { mine.rest(); });
  }

  __forceinline__ void finish(const StepRows& now, int begin) const {
    constexpr int chains = kPhase.chains, vectors = kPhase.vector_count;
    each(now.count, [&](int e) {
      const int all = first_row(walk) + row[e];
      ResidentBackwardUnit<p> mine{{a, here(own.first + unit[e], all), chains, {}, V(0)},
                                   walk,
                                   given[e],
                                   unit[e],
                                   row[e],
                                   now.step,
                                   int64_t(now.at) - begin + all};
      if (!a.lengths || now.step < a.lengths[all]) return run_backward<p>(mine, a, mine.at, now.step);
      RECURRA_UNROLL
      for (int i = 0; i < chains + vectors; ++i) mine.set_da(i, V(0));
    });
  }

  // A step's sums: to the gradient of h, which has what came past the chains, or of the phase before.
  __forceinline__ void sum(const StepRows& now) const {
    if (matrix.has_none()) return;
    Number* const to = shared_numbers(p ? walk.sums_at : walk.held_at);
    const int to_row = p ? walk.sums_row : walk.held_row;
    const bool apart = p || walk.mask.data;
    V total[kColumns + 1][kOwnRows];
    const auto each_sum = [&](const auto& use) {
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        RECURRA_UNROLL
        for (int r = 0; r < kOwnRows; ++r) {
          const int row = Matrix::row(r), n = Matrix::column(c);
          if (row < now.count && matrix.finishes(c)) use(c, r, to[row * to_row + n]);
        }
      }
    };
    RECURRA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      RECURRA_UNROLL
      for (int r = 0; r < kOwnRows; ++r) total[c][r] = V(0);
    }
    if (!apart) each_sum([&](int c, int r, const Number& start) { total[c][r] = V::load(&start); });
    matrix.add(total, source_of(walk, p, now.step));
    each_sum([&](int c, int r, Number& out) {
      if (p) {
        out = total[c][r].v;
        return;
      }
      const int all = first_row(walk) + Matrix::row(r);
      if (apart) {
        const Number* const mask = row_of<Number>(walk.mask, all, int(blockIdx.y)) + read.first + Matrix::column(c);
        total[c][r] = V(out) + V::load(mask) * total[c][r];
      }
      const bool ended = a.lengths && now.step >= a.lengths[all];
      out = ended ? total[c][r].v : clipped(total[c][r].v, Number(walk.clip));
    });
  }
};

template <int p>
__forceinline__ void run_phase(PartBack<p>& part, const StepRows& now, const StepRows& next, int begin, unsigned& met) {
  if constexpr (PartBack<p>::kPhase.by_rows)
    part.finish_row(now, begin, met);
  else
    part.finish(now, begin);
  part.fetch(next);
  if constexpr (PartBack<p>::kBlocks > 0) {
    meet(part.walk, met++);  // until all gradients of chains are there
    receive(part.walk, p, now.step, now.count * source_row(part.walk.sources[p], kHeldOf[p]));
    part.sum(now);
    __syncthreads();  // until they have been read, and their sums are there
  }
}

RECURRA_BOUNDED_KERNEL(walk_back, WalkBackArguments, RECURRA_THREADS) {
  const int from = int(a.from), begin = at_step(a, from), rows = int(a.steps.rows);
  // Rows are sorted where their number changes: the block's first one is its longest.
  int step = int(a.to) - 1;
  if (a.steps.starts && a.steps.lengths[first_row(a)] <= step) step = a.steps.lengths[first_row(a)] - 1;
  if (step < from) return;
  const auto rows_of = [&](int step, int below, int at, int end) {
    return StepRows{step, at, step > 0 ? rows + below : 0, step < from ? 0 : rows_of_block(a, at, end)};
  };
  // Where rows of steps begin is known two steps ahead, for nobody to wait for it.
  int at = at_step(a, step), below = at_step(a, step - 1), then = at_step(a, step - 2);
  StepRows now = rows_of(step, below, at, at_step(a, step + 1));
  PartBack<kLast> part(a);
  part.begin(rows);
  part.fetch(now);
#if RECURRA_PHASES > 1
  PartBack<0> first(a);
  first.begin(rows);
  first.fetch(now);
#endif
  clear_exchanged(a);
  unsigned met = 0;
  meet(a, met++);  // until zeros are there, and every block
  for (;;) {
    const int coming = at_step(a, now.step - 3);
    const StepRows next = rows_of(now.step - 1, then, below, at);
    run_phase(part, now, next, begin, met);
#if RECURRA_PHASES > 1
    run_phase(first, now, next, begin, met);
#endif
    if (!next.count) break;
    now = next;
    at = below, below = then, then = coming;
  }
  part.end(now.count);
#if RECURRA_PHASES > 1
  first.end(now.count);
#endif
}

}  // namespace cuda
}  // namespace recurra
