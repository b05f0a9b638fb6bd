// Differential recurrent network: an LSTM whose gates see differences of the cell. V. Veeriah et al., arXiv 1504.06678. With
// d_0 the cell and d_n its n-th difference in time, for the orders n that are chosen, each with vectors of its own:
//
//   i = s(W_i x + b_i + U_i h(t-1) + sum_n q_in d_n(t-1))
//   f = s(W_f x + b_f + U_f h(t-1) + sum_n q_fn d_n(t-1))
//   g = tanh(W_g x + b_g + U_g h(t-1))
//   d_0 = f d_0(t-1) + i g          d_n = d_(n-1) - d_(n-1)(t-1)
//   o = s(W_o x + b_o + U_o h(t-1) + sum_n q_on d_n)
//   h = o tanh(d_0)
//
// Differences are states, so none is a sum of cells that cancel out; those of the start are zero.
#pragma once
#include "cell.h"

namespace recurra {

template <int... orders>
struct DifferentialGates {
  static constexpr int count = sizeof...(orders);
  static constexpr int order(int k) {
    const int all[] = {orders...};
    return all[k];
  }
  static constexpr int highest = order(count - 1);  // they ascend
  static constexpr Phase phase = {
      input_gates(0, 4), recurrent_gates(0, 4), 4, Dim::hidden, "weight_dos", 3 * count, true, true, {}, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    V ai = a[0], af = a[1], ao = a[3], old[highest + 1], now[highest + 1];
    for (int n = 0; n <= highest; ++n) old[n] = unit.state(n);
    for (int k = 0; k < count; ++k) {
      ai = fma(unit.vector(3 * k), old[order(k)], ai);
      af = fma(unit.vector(3 * k + 1), old[order(k)], af);
    }
    const V i = sigmoid(ai), f = sigmoid(af), g = tanh(a[2]);
    differences(i, f, g, old, now);
    for (int k = 0; k < count; ++k) ao = fma(unit.vector(3 * k + 2), now[order(k)], ao);
    const V o = sigmoid(ao);
    for (int n = 0; n <= highest; ++n) unit.set_state(n, now[n]);
    unit.save(0, i), unit.save(1, f), unit.save(2, g), unit.save(3, o);
    return o * tanh(now[0]);
  }

  // The output gate first, which sends gradients to all differences; then these, the highest first, to the ones below.
  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), i = unit.saved(0), f = unit.saved(1), g = unit.saved(2), o = unit.saved(3);
    V old[highest + 1], now[highest + 1], d[highest + 1], d_old[highest + 1];
    for (int n = 0; n <= highest; ++n) old[n] = unit.state(n), d[n] = unit.d_state(n), d_old[n] = V(0);
    differences(i, f, g, old, now);
    const V q = tanh(now[0]);
    da[3] = dh * q * (o * (one - o));
    d[0] = fma(dh * o, (one - q) * (one + q), d[0]);
    for (int k = 0; k < count; ++k) {
      d[order(k)] = fma(unit.vector(3 * k + 2), da[3], d[order(k)]);
      unit.set_d_vector(3 * k + 2, da[3] * now[order(k)]);
    }
    for (int n = highest; n > 0; --n) {
      d[n - 1] = d[n - 1] + d[n];
      d_old[n - 1] = d_old[n - 1] - d[n];
    }
    da[0] = d[0] * g * (i * (one - i));
    da[1] = d[0] * old[0] * (f * (one - f));
    da[2] = d[0] * i * ((one - g) * (one + g));
    d_old[0] = fma(d[0], f, d_old[0]);
    for (int k = 0; k < count; ++k) {
      V& to = d_old[order(k)];
      to = fma(unit.vector(3 * k), da[0], to);
      to = fma(unit.vector(3 * k + 1), da[1], to);
      unit.set_d_vector(3 * k, da[0] * old[order(k)]);
      unit.set_d_vector(3 * k + 1, da[1] * old[order(k)]);
    }
    for (int n = 0; n <= highest; ++n) unit.set_d_state(n, d_old[n]);
  }

 private:
  template <class V>
  static void differences(V i, V f, V g, const V* old, V* now) {
    now[0] = fma(f, old[0], i * g);
    for (int n = 1; n <= highest; ++n) now[n] = now[n - 1] - old[n - 1];
  }
};

template <int... orders>
struct DifferentialRnn {
  using Gates = DifferentialGates<orders...>;
  using Phases = Pointwise<Gates>;

  static constexpr Spec spec() {
    Spec s = {"ifgo", gate_params(4), List<State, kMaxStates>({State{"h", Dim::output}}), {}, 0, 4, Phases::phases()};
    const Param vectors[] = {{"weight_dos", 3 * Gates::count, Dim::hidden}};
    s.params.append(vectors, 1);
    const State differences[] = {{"d0", Dim::hidden}, {"d1", Dim::hidden}, {"d2", Dim::hidden}};
    s.states.append(differences, Gates::highest + 1);
    return s;
  }
};

}  // namespace recurra
