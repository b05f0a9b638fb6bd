// The pointwise functions of a cell's phases, forward and backward: a thread has one unit of one row. Of one cell,
// RECURRA_CELL_TYPE, with RECURRA_PHASES phases; those of RECURRA_BY_ROWS are in by_rows.cuh.
#pragma once
#include "cuda/kernels/numbers.cuh"
// What cells call is declared above them.
#include "cells/cells.def"
#include "cuda/kernels/arguments.h"
#include "cuda/kernels/slots.h"

namespace recurra {
namespace cuda {

template <int i, class P>
struct PhaseAt;
template <int i, class First, class... Rest>
struct PhaseAt<i, Pointwise<First, Rest...>> {
  using type = typename PhaseAt<i - 1, Pointwise<Rest...>>::type;
};
template <class First, class... Rest>
struct PhaseAt<0, Pointwise<First, Rest...>> {
  using type = First;
};

using Cell = RECURRA_CELL_TYPE;
constexpr Spec kSpec = Cell::spec();
constexpr int kLast = RECURRA_PHASES - 1, kStates = kSpec.states.size - 1;
template <int p>
using PhaseOf = typename PhaseAt<p, typename Cell::Phases>::type;

template <class T>
inline T* row_of(const Rows& rows, int64_t row, int direction) {
  return static_cast<T*>(rows.data) + direction * rows.direction + row * rows.row;
}

inline recurra::detail::Noise noise_of(const Seeded& n) {
  return recurra::detail::Noise(n.rates, n.seed != nullptr, n.seed ? *n.seed : 0);
}

// The unit and the row of a thread.
struct Here {
  int unit, row, direction;
};

// A cell's view of one unit of one row.
struct ForwardUnit {
  const PhaseArguments& a;
  Here at;

  V value(const Rows& rows, int i) const {
    return V::load(row_of<Number>(rows, at.row, at.direction) + int64_t(i) * a.units + at.unit);
  }
  void set(const Rows& rows, int i, V v) const {
    row_of<Number>(rows, at.row, at.direction)[int64_t(i) * a.units + at.unit] = v.v;
  }

  V h() const { return value(a.h_before, 0); }
  V state(int i) const { return value(a.states_before, i); }
  V kept(int i) const { return value(a.kept, i); }
  void keep(int i, V v) const { set(a.kept, i, v); }
  void save(int i, V v) const {
    if (a.saved.data) set(a.saved, i, v);
  }
  V constant(int i) const { return V(Number(a.constants[at.direction][i])); }
  int choice(int i) const { return int(a.constants[at.direction][i]); }

  V new_states[kStates + 1];  // held back until zoneout has seen the old ones
  void set_state(int i, V v) { new_states[i] = v; }
  V vector(int i) const {
    return V::load(static_cast<const Number*>(a.vectors) + at.direction * a.sums_direction + int64_t(i) * a.units + at.unit);
  }
};

// A row that has ended keeps its states, and whatever else later products read is finite.
template <int p>
inline void carry_over(const PhaseArguments& a, const Here& at) {
  const auto copy = [&](const Rows& to, const Rows& from, int i) {
    const int64_t k = int64_t(i) * a.units + at.unit;
    row_of<Number>(to, at.row, at.direction)[k] = row_of<Number>(from, at.row, at.direction)[k];
  };
  if constexpr (PhaseOf<p>::phase.sets_states) {
    RECURRA_UNROLL
    for (int i = 0; i < kStates; ++i) copy(a.states_after, a.states_before, i);
  }
  if (p < kLast) row_of<Weight>(a.result, at.row, at.direction)[at.unit] = narrowed(0);
  if (p < kLast) return;
  copy(a.h_after, a.h_before, 0);
  if (a.source.data) row_of<Weight>(a.source, at.row, at.direction)[at.unit] = narrowed(0);
}

// Which units of a state keep their old value in a step.
template <class Arguments>
inline recurra::detail::Draw zoneout(const recurra::detail::Noise& noise, const Arguments& a, const Here& at, int state,
                                     int64_t step) {
  const int64_t row = a.order ? a.order[at.row] : at.row;
  return noise.zoneout(state, size_t(a.noise.first_lane + at.direction), a.noise.sequence(row),
                       a.noise.before(row, at.direction) + step);
}
template <class Arguments>
inline recurra::detail::Draw zoneout(const recurra::detail::Noise& noise, const Arguments& a, const Here& at, int state) {
  return zoneout(noise, a, at, state, a.step);
}

// A state after zoneout.
template <class Old>
inline V zoned(const PhaseArguments& a, const Here& at, int state, V now, const Old& old, int64_t step) {
  const recurra::detail::Noise noise = noise_of(a.noise);
  if (!noise.zones_out(state)) return now;
  return noise.zoned(zoneout(noise, a, at, state, step), state, at.unit, now, old());
}
template <class Old>
inline V zoned(const PhaseArguments& a, const Here& at, int state, V now, const Old& old) {
  return zoned(a, at, state, now, old, a.step);
}

// h after the step, from what the last phase returned, and what the next recurrent product reads of it.
inline V finish_h(const ForwardUnit& unit, V result) {
  const PhaseArguments& a = unit.a;
  const Here& at = unit.at;
  result = zoned(a, at, 0, result, [&] { return unit.h(); });
  unit.set(a.h_after, 0, result);
  if (!a.source.data) return result;
  const V source = a.mask.data ? unit.value(a.mask, 0) * result : result;
  row_of<Weight>(a.source, at.row, at.direction)[at.unit] = narrowed(source.v);
  return result;
}

// What a phase makes of its chains. Returns h, of the last phase.
template <int p>
inline V finish_unit(const PhaseArguments& a, const Here& at, const V* chain) {
  ForwardUnit unit{a, at, {}};
  const V result = PhaseOf<p>::forward(chain, unit);
  if constexpr (PhaseOf<p>::phase.sets_states) {
    RECURRA_UNROLL
    for (int i = 0; i < kStates; ++i)
      unit.set(a.states_after, i, zoned(a, at, 1 + i, unit.new_states[i], [&] { return unit.state(i); }));
  }
  if constexpr (p == kLast) return finish_h(unit, result);
  row_of<Weight>(a.result, at.row, at.direction)[at.unit] = narrowed(result.v);
  return result;
}

template <int p>
inline void forward_unit(const PhaseArguments& a, const Here& at) {
  using P = PhaseOf<p>;
  constexpr int chains = P::phase.chains, inputs = P::phase.input.count;
  constexpr Places places = places_of(P::phase);
  if (a.lengths && a.step >= a.lengths[at.row]) return carry_over<p>(a, at);

  V chain[chains];
  const Number* bias = static_cast<const Number*>(a.bias);
  RECURRA_UNROLL
  for (int c = 0; c < chains; ++c) {
    const int slot = places.slot[c], block = places.block[c];
    const auto number = [&](const Rows& rows, int i) {
      return V::load(row_of<Number>(rows, at.row, at.direction) + int64_t(i) * a.units + at.unit);
    };
    if (!bias) {
      chain[c] = block < 0 ? number(a.input, slot) : number(a.recurrent, block);
      continue;
    }
    V sum = V::load(bias + at.direction * a.sums_direction + int64_t(slot) * a.units + at.unit);
    if (c < inputs) sum = sum + number(a.input, slot);
    if (block >= 0) sum = sum + number(a.recurrent, block);
    chain[c] = sum;
  }
  finish_unit<p>(a, at, chain);
}

struct BackwardUnit {
  const BackwardArguments& a;
  Here at;
  const int chains;

  V value(const Rows& rows, int i) const {
    return V::load(row_of<Number>(rows, at.row, at.direction) + int64_t(i) * a.units + at.unit);
  }
  void set(const Rows& rows, int i, V v) const {
    row_of<Number>(rows, at.row, at.direction)[int64_t(i) * a.units + at.unit] = v.v;
  }
  void set_da(int i, V v) const { row_of<Weight>(a.da, at.row, at.direction)[int64_t(i) * a.units + at.unit] = narrowed(v.v); }

  V h() const { return value(a.h_before, 0); }
  V state(int i) const { return value(a.states_before, i); }
  V saved(int i) const { return value(a.saved, i); }
  V d_kept(int i) const { return value(a.d_kept, i); }
  void set_d_kept(int i, V v) const { set(a.d_kept, i, v); }
  V constant(int i) const { return V(Number(a.constants[at.direction][i])); }
  int choice(int i) const { return int(a.constants[at.direction][i]); }
  V vector(int i) const {
    return V::load(static_cast<const Number*>(a.vectors) + at.direction * a.sums_direction + int64_t(i) * a.units + at.unit);
  }
  void set_d_vector(int i, V v) const { set_da(chains + i, v); }

  V d_states[kStates + 1];
  V d_state(int i) const { return d_states[i]; }
  void set_d_state(int i, V v) { d_states[i] = v; }
  V direct;  // what reaches h(t-1) past the chains
  void add_d_h(V v) { direct = direct + v; }

  // What the phases around have left here, and what this one leaves: gradients of h, of an earlier phase's result, of states.
  V d_h() const { return value(a.d_h, 0); }
  V d_result() const { return value(a.d_result, 0); }
  V dy() const { return value(a.dy, 0); }
  V d_cells() const { return value(a.d_cells, 0); }
  V d_state_after(int i) const { return value(a.d_states, i); }
  void leave_d_h(V v) const { set(a.d_h, 0, v); }
  void leave_d_state(int i, V v) const { set(a.d_states, i, v); }
  int64_t now() const { return a.step; }
};

// Only what a phase of `hidden` units has to say of h(t-1) is of these units; another one's is nothing.
template <int p>
constexpr bool kReachesH = p == kLast || PhaseOf<p>::phase.units == PhaseOf<kLast>::phase.units;

template <int p, class Unit>
inline void run_backward(Unit& unit, const BackwardArguments& a, const Here& at, int64_t step) {
  using P = PhaseOf<p>;
  constexpr int chains = P::phase.chains;
  constexpr Places places = places_of(P::phase);
  const recurra::detail::Noise noise = noise_of(a.noise);
  // A state's gradient is divided into what bypasses the step, which is returned, and what reaches the cell.
  const auto divide = [&](int state, V& d) {
    const V share = noise.kept<V>(zoneout(noise, a, at, state, step), state, at.unit);
    const V past = share * d;
    d = (V(1) - share) * d;
    return past;
  };

  V d_result = p == kLast ? unit.d_h() : unit.d_result(), past_h(0), past_states[kStates + 1];
  if (p == kLast && a.dy.data) d_result = d_result + unit.dy();
  const bool zones_h = p == kLast && noise.zones_out(0);
  if (zones_h) past_h = divide(0, d_result);
  if constexpr (P::phase.sets_states) {
    RECURRA_UNROLL
    for (int i = 0; i < kStates; ++i) {
      unit.d_states[i] = unit.d_state_after(i);
      if (i == 0 && a.d_cells.data) unit.d_states[i] = unit.d_states[i] + unit.d_cells();
      if (noise.zones_out(1 + i)) past_states[i] = divide(1 + i, unit.d_states[i]);
    }
  }
  V da[chains];
  P::backward(d_result, da, unit);
  RECURRA_UNROLL
  for (int c = 0; c < chains; ++c) unit.set_da(places.slot[c], da[c]);
  if constexpr (P::phase.sets_states) {
    RECURRA_UNROLL
    for (int i = 0; i < kStates; ++i)
      unit.leave_d_state(i, noise.zones_out(1 + i) ? unit.d_states[i] + past_states[i] : unit.d_states[i]);
  }
  if constexpr (kReachesH<p>) {
    V d_h = p == kLast ? unit.direct : unit.d_h() + unit.direct;
    if (zones_h) d_h = d_h + past_h;
    unit.leave_d_h(d_h);
  }
}

template <int p>
inline void backward_unit(const BackwardArguments& a, const Here& at) {
  constexpr int chains = PhaseOf<p>::phase.chains, vectors = PhaseOf<p>::phase.vector_count;
  BackwardUnit unit{a, at, chains, {}, V(0)};
  if (!a.lengths || a.step < a.lengths[at.row]) return run_backward<p>(unit, a, at, a.step);
  RECURRA_UNROLL
  for (int i = 0; i < chains + vectors; ++i) unit.set_da(i, V(0));
}

template <class Unit, class Arguments>
inline void each_unit(const Arguments& a, const Unit& use) {
  const int unit = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (unit >= a.units) return;
  for (int row = int(blockIdx.y); row < a.rows; row += int(gridDim.y)) use(Here{unit, row, int(blockIdx.z)});
}

#if !RECURRA_BY_ROWS && !defined(RECURRA_ROWS)  // those of all steps are kernels of their own
RECURRA_KERNEL(forward_0, PhaseArguments) {
  each_unit(a, [&](const Here& at) { forward_unit<0>(a, at); });
}
RECURRA_KERNEL(backward_0, BackwardArguments) {
  each_unit(a, [&](const Here& at) { backward_unit<0>(a, at); });
}
#if RECURRA_PHASES > 1
RECURRA_KERNEL(forward_1, PhaseArguments) {
  each_unit(a, [&](const Here& at) { forward_unit<1>(a, at); });
}
RECURRA_KERNEL(backward_1, BackwardArguments) {
  each_unit(a, [&](const Here& at) { backward_unit<1>(a, at); });
}
#endif
#endif

}  // namespace cuda
}  // namespace recurra
