// Activation functions that are chosen when a layer is made, with their parameters alpha and beta (ONNX, operators RNN, GRU and
// LSTM).
//
//   affine            alpha a + beta                               linear: alpha = 1, beta = 0
//   scaled_tanh       alpha tanh(beta a)                           tanh: alpha = beta = 1
//   sigmoid           1 / (1 + exp(-a))
//   thresholded_relu  a, or 0 for a < alpha                        relu: alpha = 0
//   leaky_relu        a, or alpha a for a < 0
//   elu               a, or alpha (exp(a) - 1) for a < 0
//   hard_sigmoid      alpha a + beta, bounded to 0 .. 1
//   softsign          a / (1 + |a|)
//   softplus          log(1 + exp(a))
//
// At a kink the slope is that below it, at those of hard_sigmoid and beyond a bound of `a` it is 0, as in PyTorch.
#pragma once
#include "cell.h"

namespace recurra {

enum class Activation { affine, scaled_tanh, sigmoid, thresholded_relu, leaky_relu, elu, hard_sigmoid, softsign, softplus };

constexpr const char* kActivations[] = {"affine", "scaled_tanh",  "sigmoid",  "thresholded_relu", "leaky_relu",
                                        "elu",    "hard_sigmoid", "softsign", "softplus"};

// Which function constants i, i + 1 and i + 2 of a unit choose: number, alpha, beta. For pre-activations within +-bound.
template <class V>
struct Chosen {
  int function;
  V alpha, beta, bound;

  Chosen(int number, V a, V b, V limit) : function(number), alpha(a), beta(b), bound(limit) {}
  template <class Unit>
  Chosen(const Unit& unit, int i, V limit)
      : function(unit.choice(i)), alpha(unit.constant(i + 1)), beta(unit.constant(i + 2)), bound(limit) {}
};

template <class V>
RECURRA_OUT_OF_LINE V activate(const Chosen<V>& f, V pre_activation) {
  const V zero(0), one(1), a = clip(pre_activation, f.bound);
  switch (Activation(f.function)) {
    case Activation::affine: return fma(f.alpha, a, f.beta);
    case Activation::scaled_tanh: return f.alpha * tanh(f.beta * a);
    case Activation::sigmoid: return sigmoid(a);
    case Activation::thresholded_relu: return select(a < f.alpha, zero, a);
    case Activation::leaky_relu: return select(a < zero, f.alpha * a, a);
    case Activation::elu: return select(a < zero, f.alpha * expm1_below(min(zero, a)), a);
    case Activation::hard_sigmoid: return max(zero, min(one, fma(f.alpha, a, f.beta)));
    case Activation::softsign: return a / (one + abs(a));
    case Activation::softplus: break;
  }
  return softplus(a);
}

template <class V>
struct Activated {
  V value, slope;
};

template <class V>
RECURRA_OUT_OF_LINE Activated<V> differentiate(const Chosen<V>& f, V pre_activation) {
  const V zero(0), one(1), a = clip(pre_activation, f.bound);
  V value, slope;
  switch (Activation(f.function)) {
    case Activation::affine: value = fma(f.alpha, a, f.beta), slope = f.alpha; break;
    case Activation::scaled_tanh:
      value = tanh(f.beta * a), slope = f.alpha * f.beta * ((one - value) * (one + value)), value = f.alpha * value;
      break;
    case Activation::sigmoid: value = sigmoid(a), slope = value * (one - value); break;
    case Activation::thresholded_relu: value = select(a < f.alpha, zero, a), slope = select(f.alpha < a, one, zero); break;
    case Activation::leaky_relu: value = select(a < zero, f.alpha * a, a), slope = select(zero < a, one, f.alpha); break;
    case Activation::elu:
      value = select(a < zero, f.alpha * expm1_below(min(zero, a)), a);
      slope = select(zero < a, one, f.alpha * exp(min(zero, a)));
      break;
    case Activation::hard_sigmoid:
      value = fma(f.alpha, a, f.beta), slope = select(zero < value, select(value < one, f.alpha, zero), zero);
      value = max(zero, min(one, value));
      break;
    case Activation::softsign: slope = one / (one + abs(a)), value = a / (one + abs(a)), slope = slope * slope; break;
    default: value = softplus(a), slope = sigmoid(a);
  }
  return {value, where_inside(pre_activation, f.bound, slope)};
}

// 1 - f(a), with all digits where f is a sigmoid.
template <class V>
V complement(const Chosen<V>& f, V a, V value) {
  return Activation(f.function) == Activation::sigmoid ? activate(f, -a) : V(1) - value;
}

}  // namespace recurra
