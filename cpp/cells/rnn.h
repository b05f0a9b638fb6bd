// The simple recurrent network. J. L. Elman, "Finding structure in time", Cognitive Science 14(2), 1990.
//
//   h = f(W x + b_ih + U h(t-1) + b_hh)        f: tanh, relu or sigmoid
#pragma once
#include "cell.h"

namespace recurra {

struct Tanh {
  static constexpr bool unit_range = true;
  template <class V>
  static V apply(V a) {
    return tanh(a);
  }
};

struct Relu {
  static constexpr bool unit_range = false;
  template <class V>
  static V apply(V a) {
    return relu(a);
  }
};

struct Sigmoid {
  static constexpr bool unit_range = true;
  template <class V>
  static V apply(V a) {
    return sigmoid(a);
  }
};

template <class F>
struct RnnUpdate {
  static constexpr Phase phase = {input_gates(0, 1), recurrent_gates(0, 1), 1, Dim::hidden, nullptr, 0, F::unit_range};

  template <class V, class Unit>
  static V forward(const V* a, Unit&) {
    return F::apply(a[0]);
  }
};

template <class F>
struct Rnn {
  using Phases = Pointwise<RnnUpdate<F>>;
  static constexpr Spec spec() {
    return {"h", gate_params(1), List<State, 4>({State{"h", Dim::output}}), {}, 0, Phases::phases()};
  }
};

}  // namespace recurra
