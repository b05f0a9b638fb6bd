// Multidimensional LSTM. A. Graves, S. Fernandez, J. Schmidhuber, arXiv 0705.2011; cells that stay bounded: G. Leifert et al.,
// JMLR 17, 2016; joint time-frequency LSTM: T. Sainath, B. Li, Interspeech 2016.
//
// The standard cell is that of gated.h; halved, with scale 1/N and no peepholes. In the others N-1 logits decide how the
// predecessors' memories are mixed: l = softmax(a_l1 .. a_l(N-1), 0), s = sum_d l_d c_d, and
//   stable   c = i g + f s        h = o tanh(c)               chains i, f, l.., g, o
//   leaky    c = (1 - f) g + f s  h = o c                            f, l.., g, o
//   leakylp  c = (1 - f) g + f s  h = tanh(o1 c + o2 s)              f, l.., g, o1, o2
#pragma once
#include "tree.h"

namespace recurra {

template <GraphFunction kind>
struct Mixed {
  static constexpr int f_at = kind == GraphFunction::stable ? 1 : 0;

  template <class Node>
  static void forward(Node& node) {
    using V = typename Node::Vector;
    const int n = node.memories(), g_at = f_at + n, o_at = g_at + 1;
    const V one(1), f = sigmoid(node.chain(f_at)), g = tanh(node.chain(g_at)), o = sigmoid(node.chain(o_at));
    V shares[kMaxSlots];
    for (int d = 0; d + 1 < n; ++d) shares[d] = node.chain(f_at + 1 + d);
    if (n == 2) shares[0] = sigmoid(shares[0]);
    if (n > 2) softmax_with_zero(shares, n - 1);
    for (int d = 0; d + 1 < n; ++d) node.save(f_at + 1 + d, shares[d]);
    const V mix = mixed(node, shares);
    V c;
    if constexpr (kind == GraphFunction::stable) {
      const V i = sigmoid(node.chain(0));
      node.save(0, i);
      c = fma(f, mix, i * g);
    } else {
      c = fma(f, mix, (one - f) * g);
    }
    node.set_state(1, c);
    if constexpr (kind == GraphFunction::stable) node.set_state(0, o * tanh(c));
    if constexpr (kind == GraphFunction::leaky) node.set_state(0, o * c);
    if constexpr (kind == GraphFunction::leakylp) {
      const V o2 = sigmoid(node.chain(o_at + 1));
      node.save(o_at + 1, o2);
      node.set_state(0, tanh(fma(o, c, o2 * mix)));
    }
    node.save(f_at, f), node.save(g_at, g), node.save(o_at, o);
  }

  template <class Node>
  static void backward(Node& node) {
    using V = typename Node::Vector;
    const int n = node.memories(), g_at = f_at + n, o_at = g_at + 1;
    const V one(1), f = node.saved(f_at), g = node.saved(g_at), o = node.saved(o_at), c = node.own(1);
    const V dh = node.d_state(0);
    V shares[kMaxSlots];
    for (int d = 0; d + 1 < n; ++d) shares[d] = node.saved(f_at + 1 + d);
    const V mix = mixed(node, shares);
    V dc = node.d_state(1), d_mix(0);
    if constexpr (kind == GraphFunction::stable) {
      const V q = tanh(c);
      node.set_da(o_at, dh * q * (o * (one - o)));
      dc = fma(dh * o, (one - q) * (one + q), dc);
    }
    if constexpr (kind == GraphFunction::leaky) {
      node.set_da(o_at, dh * c * (o * (one - o)));
      dc = fma(dh, o, dc);
    }
    if constexpr (kind == GraphFunction::leakylp) {
      const V h = node.own(0), k = dh * ((one - h) * (one + h)), o2 = node.saved(o_at + 1);
      node.set_da(o_at, k * c * (o * (one - o)));
      node.set_da(o_at + 1, k * mix * (o2 * (one - o2)));
      dc = fma(k, o, dc);
      d_mix = k * o2;
    }
    d_mix = fma(dc, f, d_mix);
    V dg = dc * (one - f), df = dc * (mix - g);
    if constexpr (kind == GraphFunction::stable) {
      const V i = node.saved(0);
      node.set_da(0, dc * g * (i * (one - i)));
      dg = dc * i, df = dc * mix;
    }
    node.set_da(f_at, df * (f * (one - f)));
    node.set_da(g_at, dg * ((one - g) * (one + g)));
    for (int d = 0; d < n; ++d) {
      const V direct = d_mix * shares[d];
      if (d + 1 < n) node.set_da(f_at + 1 + d, direct * (node.state(d, 1) - mix));
      node.set_direct(d, direct);
    }
  }

 private:
  // shares[n-1] too, which is what the others leave.
  template <class Node, class V>
  static V mixed(Node& node, V* shares) {
    const int n = node.memories();
    V rest(1);
    for (int d = 0; d + 1 < n; ++d) rest = rest - shares[d];
    shares[n - 1] = rest;
    V mix = shares[0] * node.state(0, 1);
    for (int d = 1; d < n; ++d) mix = fma(shares[d], node.state(d, 1), mix);
    return mix;
  }

  // The first `count` values of a softmax over them and a zero.
  template <class V>
  static void softmax_with_zero(V* logits, int count) {
    V most(0);
    for (int d = 0; d < count; ++d) most = max(most, logits[d]);
    V sum = exp(-most);
    for (int d = 0; d < count; ++d) sum = sum + (logits[d] = exp(logits[d] - most));
    for (int d = 0; d < count; ++d) logits[d] = logits[d] / sum;
  }
};

constexpr GraphSpec multidimensional(int slots, GraphFunction function, double scale, bool peepholes) {
  GraphSpec s = gated_spec(slots);
  s.chains = function == GraphFunction::leaky ? slots + 2 : slots + 3;
  s.scale = scale;
  add(s.params, GraphParam{"weight_ih", 0, s.chains, Dim::input, 1, true});
  add(s.params, GraphParam{"weight_hh", slots, s.chains, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, s.chains, Dim::one, 1, true});
  add(s.biases, GraphBias{2, s.chains, 0});
  if (peepholes) {
    add(s.params, GraphParam{"weight_peep", 0, slots + 2, Dim::one, 1, true});
    s.vectors = 3, s.vector_count = slots + 2;
  }
  GraphPhase phase;
  phase.function = function;
  add(phase.products, GraphProduct{{}, 0, 0, s.chains, 0, 0});
  add_slots(phase, 1, slots, 0, s.chains);
  add(s.phases, phase);
  return s;
}

// One memory, that of time, slot 0; h of slot 1, frequency, too.
constexpr GraphSpec time_frequency() {
  GraphSpec s = gated_spec(1);
  s.slots = 2;
  add(s.params, GraphParam{"weight_ih", 0, 4, Dim::input, 1, true});
  add(s.params, GraphParam{"weight_hh", 2, 4, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, 4, Dim::one, 1, true});
  add(s.params, GraphParam{"weight_peep", 0, 3, Dim::one, 1, true});
  s.vectors = 3, s.vector_count = 3;
  add(s.biases, GraphBias{2, 4, 0});
  GraphPhase phase;
  add(phase.products, GraphProduct{{}, 0, 0, 4, 0, 0});
  add_slots(phase, 1, 2, 0, 4);
  add(s.phases, phase);
  return s;
}

}  // namespace recurra
