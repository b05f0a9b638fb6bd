// sLSTM of xLSTM. M. Beck et al., arXiv 2405.04517; order of gates and the start from n = 0 as in the authors' code. The
// recurrent weights are block diagonal: a unit meets those of its own head.
//
//   i = exp(W_i x + U_i h(t-1) + b_i)    f = s(W_f x + U_f h(t-1) + b_f), or exp of it    o = s(W_o x + U_o h(t-1) + b_o)
//   z = tanh(W_z x + U_z h(t-1) + b_z)   C = f C(t-1) + i z    N = f N(t-1) + i           h = o C / N
//
// C and N may be too large for a number: the states are c = C exp(-m) and n = N exp(-m), where
//   m = max(log f + m(t-1), log i), or log i where there is nothing from before: n(t-1) = 0.
// Backward does not take m for a constant, so that gradients of the states themselves, and of states that are mixtures with
// old ones (zoneout), are right too. For a loss of h alone its gradient comes out as zero.
#pragma once
#include "cell.h"

namespace recurra {

enum class Forget { sigmoid, exponential };

template <Forget forget>
struct SlstmGates {
  static constexpr bool exponential = forget == Forget::exponential;
  static constexpr Phase phase = {input_gates(0, 4), recurrent_gates(0, 4), 4, Dim::hidden, nullptr, 0, false, true, {}, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V n_prev = unit.state(1), before = unit.state(2) + (exponential ? a[1] : log_sigmoid(a[1]));
    const V m = select(V(0) < abs(n_prev), max(a[0], before), a[0]);
    const V i = exp(a[0] - m), f = exp(before - m), z = tanh(a[2]), o = sigmoid(a[3]);
    const V c = fma(f, unit.state(0), i * z), n = fma(f, n_prev, i);
    unit.set_state(0, c), unit.set_state(1, n), unit.set_state(2, m);
    unit.save(0, i), unit.save(1, f), unit.save(2, z), unit.save(3, o);
    if (!exponential) unit.save(4, a[1]);
    return o * (c / n);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V zero(0), one(1), c_prev = unit.state(0), n_prev = unit.state(1);
    const V i = unit.saved(0), f = unit.saved(1), z = unit.saved(2), o = unit.saved(3);
    const V n = fma(f, n_prev, i), q = fma(f, c_prev, i * z) / n, dc_of_h = dh * o / n;
    const V dc = unit.d_state(0) + dc_of_h, dn = unit.d_state(1) - dc_of_h * q;
    const V d_i = fma(dc, z, dn) * i, d_f = fma(dc, c_prev, dn * n_prev) * f;  // of the exponents
    // m is one of two. Where it came from before, f is 1.
    const V dm = unit.d_state(2) - (d_i + d_f);
    const V dm_before = select(f < one, zero, select(zero < abs(n_prev), dm, zero));
    const V d_before = d_f + dm_before;
    da[0] = d_i + (dm - dm_before);
    da[1] = exponential ? d_before : d_before * sigmoid(-unit.saved(4));
    da[2] = dc * i * ((one - z) * (one + z));
    da[3] = dh * q * (o * (one - o));
    unit.set_d_state(0, dc * f), unit.set_d_state(1, dn * f), unit.set_d_state(2, d_before);
  }
};

template <Forget forget>
struct Slstm {
  using Gates = SlstmGates<forget>;
  using Phases = Pointwise<Gates>;

  static constexpr Spec spec() {
    return {
        "ifzo",
        List<Param, 8>({Param{"weight_ih", 4, Dim::hidden, Dim::input}, Param{"weight_hh", 4, Dim::hidden, Dim::head},
                        Param{"bias_ih", 4, Dim::hidden, Dim::one, true}, Param{"bias_hh", 4, Dim::hidden, Dim::one, true}}),
        List<State, kMaxStates>(
            {State{"h", Dim::output}, State{"c", Dim::hidden}, State{"n", Dim::hidden}, State{"m", Dim::hidden}}),
        {},
        0,
        Gates::exponential ? 4 : 5,
        Phases::phases()};
  }
};

}  // namespace recurra
