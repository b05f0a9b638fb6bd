// Gated recurrent unit. K. Cho et al., arXiv 1406.1078: version 3 resets before the recurrent product, version 1 after it.
//
//   r = s(W_r x + b_ir + U_r h(t-1) + b_hr)
//   z = s(W_z x + b_iz + U_z h(t-1) + b_hz)
//   reset after:   n = tanh(W_n x + b_in + r * (U_n h(t-1) + b_hn))
//   reset before:  n = tanh(W_n x + b_in + U_n (r * h(t-1)) + b_hn)
//   update keep:   h = z h(t-1) + (1 - z) n        (torch, Keras, ONNX)
//   update write:  h = (1 - z) h(t-1) + z n        (the papers)
#pragma once
#include "cell.h"

namespace recurra {

enum class Update { keep, write };

// fma(z, p, (1 - z) q) is exact at both ends: z = 1 gives p, z = 0 gives q.
template <Update update, class V>
V gru_update(V z, V h_prev, V n) {
  const V one(1);
  if constexpr (update == Update::keep) return fma(z, h_prev, (one - z) * n);
  return fma(z, n, (one - z) * h_prev);
}

template <Update update>
struct GruResetAfter {
  // The candidate keeps its input side (chain 2) and its recurrent side (chain 3) apart.
  static constexpr Phase phase = {
      input_gates(0, 3), {"weight_hh", "bias_hh", 0, 3, {0, 1, 3}}, 4, Dim::hidden, nullptr, 0, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V r = sigmoid(a[0]);
    const V z = sigmoid(a[1]);
    const V n = tanh(fma(r, a[3], a[2]));
    return gru_update<update>(z, unit.h(), n);
  }
};

struct GruReset {
  static constexpr Phase phase = {input_gates(0, 2), recurrent_gates(0, 2), 2, Dim::hidden, nullptr, 0, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V r = sigmoid(a[0]);
    unit.keep(0, sigmoid(a[1]));  // z
    return r * unit.h();
  }
};

template <Update update>
struct GruCandidate {
  static constexpr Phase phase = {input_gates(2, 1), recurrent_gates(2, 1), 1, Dim::hidden, nullptr, 0, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V n = tanh(a[0]);
    return gru_update<update>(unit.kept(0), unit.h(), n);
  }
};

template <class P, int kept>
struct GruBase {
  using Phases = P;
  static constexpr Spec spec() {
    return {"rzn", gate_params(3), List<State, 4>({State{"h", Dim::output}}), {}, kept, Phases::phases()};
  }
};

template <Update update>
struct GruAfter : GruBase<Pointwise<GruResetAfter<update>>, 0> {};

template <Update update>
struct GruBefore : GruBase<Pointwise<GruReset, GruCandidate<update>>, 1> {};

}  // namespace recurra
