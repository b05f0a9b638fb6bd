// What phases by rows have in common, whoever walks through time: the sums of a row, and what a cell sees of its units.
#pragma once
#include "cuda/kernels/cell.cuh"

namespace recurra {
namespace cuda {

using RowPhase = PhaseOf<0>;
constexpr int kGates = RowPhase::phase.input.count;

// Of kParts threads side by side each has a part of a sum, as on the CPU; all get the whole. Lanes that come here together.
inline V sum_of_parts(V part, unsigned lanes) {
  RECURRA_UNROLL
  for (int half = kParts / 2; half; half /= 2) part = part + V(__shfl_xor_sync(lanes, part.v, half));
  return part;
}
inline V mean_of(V sum, int n, int units) { return sum / V(Number(int64_t(n) * units)); }

// Base: a view of one unit that has what the step after has left, and takes what this one leaves.
template <class Base>
struct BackwardRowUnit : Base {
  V side(int s, int g) const { return this->saved(s * kGates + g); }
  // The part of a state's gradient that bypasses the step, and what reaches the cell, or of nothing zoned out.
  template <class Use>
  V shared(int state, V whole, const Use& use) const {
    const recurra::detail::Noise noise = noise_of(this->a.noise);
    if (!noise.zones_out(state)) return use(whole, V(0), false);
    const V share = noise.kept<V>(zoneout(noise, this->a, this->at, state, this->now()), state, this->at.unit);
    return use((V(1) - share) * whole, share * whole, true);
  }
  static V reaching(V d, V, bool) { return d; }
  // What is left for the step before.
  static V with_past(V v, V past, bool zones) { return zones ? v + past : v; }

  V whole_d_h() const { return this->a.dy.data ? this->d_h() + this->dy() : this->d_h(); }
  V d_result() const { return shared(0, whole_d_h(), reaching); }
  void set_d_h(V v) const {
    this->leave_d_h(shared(0, whole_d_h(), [&](V, V past, bool zones) { return with_past(v, past, zones); }));
  }
  V whole_d_state(int i) const {
    const V d = this->d_state_after(i);
    return i == 0 && this->a.d_cells.data ? d + this->d_cells() : d;
  }
  V d_state(int i) const { return shared(1 + i, whole_d_state(i), reaching); }
  void set_d_state(int i, V v) const {
    this->leave_d_state(i, shared(1 + i, whole_d_state(i), [&](V, V past, bool zones) { return with_past(v, past, zones); }));
  }
  // Of a row that has ended.
  void rest() const {
    for (int i = 0; i < RowPhase::phase.chains + RowPhase::phase.vector_count; ++i) this->set_da(i, V(0));
  }
};

}  // namespace cuda
}  // namespace recurra
