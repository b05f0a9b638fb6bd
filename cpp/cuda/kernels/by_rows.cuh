// A phase by rows: kParts threads have all units of a row, so that thread p's sum over units is part p, as on the CPU. A step
// of a stream is two kernels, its products and the rows.
#pragma once
#include "cuda/kernels/row_units.cuh"
#include "cuda/kernels/step.cuh"

namespace recurra {
namespace cuda {

template <class Unit>
struct Row {
  using Value = V;
  template <int count>
  struct Sums {
    V part[count] = {};
    void add(const Unit&, int s, V v) { part[s] = part[s] + v; }
  };
  Unit& unit;

  template <class Use>
  void each(const Use& use) const {
    for (unit.at.unit = int(threadIdx.x); unit.at.unit < unit.a.units; unit.at.unit += kParts) use(unit);
  }

  template <int count>
  Sums<count> sums() const {
    return {};
  }
  template <int count>
  void means(const Sums<count>& sums, int n, V (&mean)[count]) const {
    constexpr unsigned lanes = (1u << kParts) - 1;
    RECURRA_UNROLL
    for (int s = 0; s < count; ++s) mean[s] = mean_of(sum_of_parts(sums.part[s], lanes), n, unit.a.units);
  }
};

struct ForwardRowUnit : ForwardUnit {
  const StepArguments* stream;  // of a stream's step, or null

  V side(int s, int g) const { return value(s ? a.recurrent : a.input, g); }
  void set_state(int i, V v) const {
    set(a.states_after, i, zoned(a, at, 1 + i, v, [&] { return state(i); }));
  }
  void set_result(V v) const {
    const V h = finish_h(*this, v);
    if (stream) give(*stream, at.row, at.unit, h);
  }
};

template <class Arguments, class Use>
inline void each_row(const Arguments& a, const Use& use) {
  for (int row = int(blockIdx.y); row < a.rows; row += int(gridDim.y)) use(Here{0, row, int(blockIdx.z)});
}

template <class Use>
inline void each_unit_of_row(Here at, int units, const Use& use) {
  for (at.unit = int(threadIdx.x); at.unit < units; at.unit += kParts) use(at);
}

inline void forward_rows(const PhaseArguments& a, const StepArguments* stream) {
  each_row(a, [&](const Here& at) {
    if (a.lengths && a.step >= a.lengths[at.row])
      return each_unit_of_row(at, a.units, [&](const Here& unit) { carry_over<0>(a, unit); });
    ForwardRowUnit unit{{a, at, {}}, stream};
    Row<ForwardRowUnit> row{unit};
    RowPhase::forward(row);
  });
}

RECURRA_BLOCK_KERNEL(forward_0, PhaseArguments) { forward_rows(a, nullptr); }

RECURRA_BLOCK_KERNEL(backward_0, BackwardArguments) {
  using Unit = BackwardRowUnit<BackwardUnit>;
  each_row(a, [&](const Here& at) {
    Unit unit{{a, at, RowPhase::phase.chains, {}, V(0)}};
    Row<Unit> row{unit};
    if (!a.lengths || a.step < a.lengths[at.row]) return RowPhase::backward(row);
    row.each([](const Unit& ended) { ended.rest(); });
  });
}

RECURRA_BLOCK_KERNEL(step_0, StepArguments) {
  each_sum<0>(a, [&](int unit, int row, const auto& sum) {
    RECURRA_UNROLL
    for (int c = 0; c < RowPhase::phase.chains; ++c) {
      const Rows& to = c < kGates ? a.phase.input : a.phase.recurrent;
      row_of<Number>(to, row, 0)[int64_t(c % kGates) * a.phase.units + unit] = sum(c).v;
    }
  });
}
RECURRA_BLOCK_KERNEL(step_1, StepArguments) { forward_rows(a.phase, &a); }

}  // namespace cuda
}  // namespace recurra
