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

// Its gradient: returns that of z, sets that of n, and passes on what h(t-1) gets directly.
template <Update update, class V, class Unit>
V gru_update_backward(V dh, V z, V n, V& dn, Unit& unit) {
  const V one(1), h_prev = unit.h();
  if constexpr (update == Update::keep) {
    dn = dh * (one - z);
    unit.add_d_h(dh * z);
    return dh * (h_prev - n);
  }
  dn = dh * z;
  unit.add_d_h(dh * (one - z));
  return dh * (n - h_prev);
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
    unit.save(0, r), unit.save(1, z), unit.save(2, n), unit.save(3, a[3]);
    return gru_update<update>(z, unit.h(), n);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), r = unit.saved(0), z = unit.saved(1), n = unit.saved(2), q = unit.saved(3);
    V dn;
    const V dz = gru_update_backward<update>(dh, z, n, dn, unit);
    da[2] = dn * ((one - n) * (one + n));
    da[3] = da[2] * r;
    da[1] = dz * (z * (one - z));
    da[0] = da[2] * q * (r * (one - r));
  }
};

struct GruReset {
  static constexpr Phase phase = {input_gates(0, 2), recurrent_gates(0, 2), 2, Dim::hidden, nullptr, 0, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V r = sigmoid(a[0]), z = sigmoid(a[1]);
    unit.keep(0, z);
    unit.save(0, r), unit.save(1, z);
    return r * unit.h();
  }

  // Of q = r h(t-1).
  template <class V, class Unit>
  static void backward(V dq, V* da, Unit& unit) {
    const V one(1), r = unit.saved(0), z = unit.saved(1);
    da[0] = dq * unit.h() * (r * (one - r));
    da[1] = unit.d_kept(0) * (z * (one - z));
    unit.add_d_h(dq * r);
  }
};

template <Update update>
struct GruCandidate {
  static constexpr Phase phase = {input_gates(2, 1), recurrent_gates(2, 1), 1, Dim::hidden, nullptr, 0, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V n = tanh(a[0]);
    unit.save(2, n);
    return gru_update<update>(unit.kept(0), unit.h(), n);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), n = unit.saved(2);
    V dn;
    unit.set_d_kept(0, gru_update_backward<update>(dh, unit.saved(1), n, dn, unit));
    da[0] = dn * ((one - n) * (one + n));
  }
};

template <class P, int kept, int saved>
struct GruBase {
  using Phases = P;
  static constexpr Spec spec() {
    return {"rzn", gate_params(3), List<State, kMaxStates>({State{"h", Dim::output}}), {}, kept, saved, Phases::phases()};
  }
};

template <Update update>
struct GruAfter : GruBase<Pointwise<GruResetAfter<update>>, 0, 4> {};

template <Update update>
struct GruBefore : GruBase<Pointwise<GruReset, GruCandidate<update>>, 1, 3> {};

}  // namespace recurra
