// The simple recurrent network. J. L. Elman, "Finding structure in time", Cognitive Science 14(2), 1990.
//
//   h = f(W x + b_ih + U h(t-1) + b_hh)        f: tanh, relu or sigmoid
//
// Derivatives are written in terms of h: 1 - h^2, 1[h > 0], h (1 - h).
#pragma once
#include "cell.h"

namespace recurra {

struct Tanh {
  static constexpr bool unit_range = true;
  template <class V>
  static V apply(V a) {
    return tanh(a);
  }
  template <class V>
  static V derivative(V h) {
    return (V(1) - h) * (V(1) + h);
  }
};

struct Relu {
  static constexpr bool unit_range = false;
  template <class V>
  static V apply(V a) {
    return relu(a);
  }
  template <class V>
  static V derivative(V h) {
    return select(V(0) < h, V(1), V(0));
  }
};

struct Sigmoid {
  static constexpr bool unit_range = true;
  template <class V>
  static V apply(V a) {
    return sigmoid(a);
  }
  template <class V>
  static V derivative(V h) {
    return h * (V(1) - h);
  }
};

template <class F>
struct RnnUpdate {
  static constexpr Phase phase = {input_gates(0, 1), recurrent_gates(0, 1), 1, Dim::hidden, nullptr, 0, F::unit_range};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V h = F::apply(a[0]);
    unit.save(0, h);
    return h;
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    da[0] = dh * F::derivative(unit.saved(0));
  }
};

template <class F>
struct Rnn {
  using Phases = Pointwise<RnnUpdate<F>>;
  static constexpr Spec spec() {
    return {"h", gate_params(1), List<State, kMaxStates>({State{"h", Dim::output}}), {}, 0, 1, Phases::phases()};
  }
};

}  // namespace recurra
