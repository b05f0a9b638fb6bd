// A phase by rows: kParts threads have all units of a row, so that thread p's sum over units is part p, as on the CPU. A step
// of a stream is two kernels, its products and the rows.
#pragma once
#include "cuda/kernels/step.cuh"

namespace recurra {
namespace cuda {

using RowPhase = PhaseOf<0>;
constexpr int kGates = RowPhase::phase.input.count;

template <class Unit>
struct Row {
  using Value = V;
  struct Sum {
    V part = V(0);
    void add(const Unit&, V v) { part = part + v; }
  };
  Unit& unit;

  template <class Use>
  void each(const Use& use) const {
    for (unit.at.unit = int(threadIdx.x); unit.at.unit < unit.a.units; unit.at.unit += kParts) use(unit);
  }

  V mean(const Sum& sum, int n) const {
    Number* const parts = reinterpret_cast<Number*>(shared_memory());
    const int part = int(threadIdx.x);
    __syncthreads();  // until the sum before this has been read
    parts[part] = sum.part.v;
    for (int half = kParts / 2; half; half /= 2) {
      __syncthreads();
      if (part < half) parts[part] = (V(parts[part]) + V(parts[part + half])).v;
    }
    __syncthreads();
    return V(parts[0]) / V(Number(int64_t(n) * unit.a.units));
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

struct BackwardRowUnit : BackwardUnit {
  V side(int s, int g) const { return saved(s * kGates + g); }
  // The part of a state's gradient that bypasses the step, and what reaches the cell, or of nothing zoned out.
  template <class Use>
  V shared(int state, V whole, const Use& use) const {
    const recurra::detail::Noise noise = noise_of(a.noise);
    if (!noise.zones_out(state)) return use(whole, V(0), false);
    const V share = noise.kept<V>(zoneout(noise, a, at, state), state, at.unit);
    return use((V(1) - share) * whole, share * whole, true);
  }
  static V reaching(V d, V, bool) { return d; }

  V whole_d_h() const {
    const V d = value(a.d_h, 0);
    return a.dy.data ? d + value(a.dy, 0) : d;
  }
  V d_result() const { return shared(0, whole_d_h(), reaching); }
  void set_d_h(V v) const {
    set(a.d_h, 0, shared(0, whole_d_h(), [&](V, V past, bool zones) { return zones ? v + past : v; }));
  }
  V whole_d_state(int i) const {
    const V d = value(a.d_states, i);
    return i == 0 && a.d_cells.data ? d + value(a.d_cells, 0) : d;
  }
  V d_state(int i) const { return shared(1 + i, whole_d_state(i), reaching); }
  void set_d_state(int i, V v) const {
    set(a.d_states, i, shared(1 + i, whole_d_state(i), [&](V, V past, bool zones) { return zones ? v + past : v; }));
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
  constexpr int chains = RowPhase::phase.chains, vectors = RowPhase::phase.vector_count;
  each_row(a, [&](const Here& at) {
    BackwardRowUnit unit{{a, at, chains, {}, V(0)}};
    Row<BackwardRowUnit> row{unit};
    if (!a.lengths || a.step < a.lengths[at.row]) return RowPhase::backward(row);
    row.each([&](const BackwardRowUnit& ended) {
      for (int i = 0; i < chains + vectors; ++i) ended.set_da(i, V(0));
    });
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
