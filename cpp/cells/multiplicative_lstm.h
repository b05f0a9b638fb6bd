// Multiplicative LSTM. B. Krause et al., arXiv 1609.07959; both outputs are in the authors' code.
//
//   m = (W_mx x) * (W_mh h(t-1))
//   i = s(W_i x + U_i m + b_i)    f = s(W_f x + U_f m + b_f)    o = s(W_o x + U_o m + b_o)
//   standard:               g = tanh(W_g x + U_g m + b_g)   c = f c(t-1) + i g   h = o tanh(c)
//   paper:                  g = W_g x + U_g m + b_g         c = f c(t-1) + i g   h = tanh(c o)
//   paper, bias at output:  g = W_g x + U_g m               c = f c(t-1) + i g   h = tanh(c o + b_g)
#pragma once
#include "cell.h"

namespace recurra {

enum class Multiplicative { standard, paper, paper_output };

struct MultiplicativeFactors {
  static constexpr Phase phase = {
      {"weight_mx", nullptr, 0, 1, {0}}, {"weight_mh", nullptr, 0, 1, {1}}, 2, Dim::hidden, nullptr, 0, false, false, {}, true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    unit.save(0, a[0]), unit.save(1, a[1]);
    return a[0] * a[1];
  }

  template <class V, class Unit>
  static void backward(V dm, V* da, Unit& unit) {
    da[0] = dm * unit.saved(1);
    da[1] = dm * unit.saved(0);
  }
};

template <Multiplicative form>
struct MultiplicativeGates {
  static constexpr bool paper = form != Multiplicative::standard, bias_at_output = form == Multiplicative::paper_output;
  static constexpr Phase phase = {{"weight_ih", nullptr, 0, 4, {0, 1, 2, 3}},
                                  {"weight_hh", nullptr, 0, 4, {0, 1, 2, 3}},
                                  4,
                                  Dim::hidden,
                                  nullptr,
                                  bias_at_output ? 1 : 0,
                                  true,
                                  true,
                                  List<Product, 5>({Product{nullptr, "bias_ih", 0, 4, {0, 1, bias_at_output ? 4 : 2, 3}}}),
                                  true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V i = sigmoid(a[0]), f = sigmoid(a[1]), o = sigmoid(a[3]);
    const V g = paper ? a[2] : tanh(a[2]);
    const V c = fma(f, unit.state(0), i * g);
    unit.set_state(0, c);
    unit.save(2, i), unit.save(3, f), unit.save(4, g), unit.save(5, o);
    return output<V>(c, o, unit);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), c_prev = unit.state(0);
    const V i = unit.saved(2), f = unit.saved(3), g = unit.saved(4), o = unit.saved(5);
    const V c = fma(f, c_prev, i * g);
    V d_o, dc;
    if constexpr (paper) {
      const V h = output<V>(c, o, unit), dk = dh * ((one - h) * (one + h));
      if constexpr (bias_at_output) unit.set_d_vector(0, dk);
      d_o = dk * c;
      dc = fma(dk, o, unit.d_state(0));
    } else {
      const V q = tanh(c);
      d_o = dh * q;
      dc = fma(dh * o, (one - q) * (one + q), unit.d_state(0));
    }
    da[0] = dc * g * (i * (one - i));
    da[1] = dc * c_prev * (f * (one - f));
    da[2] = paper ? dc * i : dc * i * ((one - g) * (one + g));
    da[3] = d_o * (o * (one - o));
    unit.set_d_state(0, dc * f);
  }

 private:
  template <class V, class Unit>
  static V output(V c, V o, Unit& unit) {
    if constexpr (bias_at_output) return tanh(fma(c, o, unit.vector(0)));
    if constexpr (paper) return tanh(c * o);
    return o * tanh(c);
  }
};

template <Multiplicative form>
struct MultiplicativeLstm {
  using Phases = Pointwise<MultiplicativeFactors, MultiplicativeGates<form>>;

  static constexpr Spec spec() {
    return {"ifgo",
            List<Param, 8>({Param{"weight_ih", 4, Dim::hidden, Dim::input}, Param{"weight_hh", 4, Dim::hidden, Dim::hidden},
                            Param{"bias_ih", 4, Dim::hidden, Dim::one, true}, Param{"weight_mx", 1, Dim::hidden, Dim::input},
                            Param{"weight_mh", 1, Dim::hidden, Dim::hidden}}),
            List<State, kMaxStates>({State{"h", Dim::output}, State{"c", Dim::hidden}}),
            {},
            0,
            6,
            Phases::phases()};
  }
};

}  // namespace recurra
