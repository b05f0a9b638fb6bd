// Trees: N-ary and Child-Sum, K. S. Tai, R. Socher, C. Manning, arXiv 1503.00075; S-LSTM, X. Zhu, P. Sobhani, H. Guo, arXiv
// 1503.04881.
//
// N-ary and S-LSTM are those of gated.h without peepholes, with h of every child in every chain. S-LSTM's i and f_k also see
// every child's c, and its o the new c, through full matrices.
//
// Child-Sum:
//   i, g, o from x and the sum of the children's h
//   f_k = s(W_f x + b_f + U_f h_k)        c = i g + sum_k f_k c_k,  h = o tanh(c)
#pragma once
#include "gated.h"

namespace recurra {

struct ChildSum {
  template <class Node>
  static void forward(Node& node) {
    using V = typename Node::Vector;
    const V i = sigmoid(node.chain(0)), g = tanh(node.chain(2)), o = sigmoid(node.chain(3));
    V c = i * g;
    for (int k = 0; k < node.children(); ++k) {
      const V f = sigmoid(node.child_chain(k));
      c = fma(f, node.child_state(k, 1), c);
      node.save_child(k, f);
    }
    node.save(0, i), node.save(2, g), node.save(3, o);
    node.set_state(1, c);
    node.set_state(0, o * tanh(c));
  }

  template <class Node>
  static void backward(Node& node) {
    using V = typename Node::Vector;
    const V one(1), c = node.own(1), q = tanh(c), dh = node.d_state(0);
    const V i = node.saved(0), g = node.saved(2), o = node.saved(3);
    const V dc = fma(dh * o, (one - q) * (one + q), node.d_state(1));
    node.set_da(3, dh * q * (o * (one - o)));
    node.set_da(0, dc * g * (i * (one - i)));
    node.set_da(2, dc * i * ((one - g) * (one + g)));
    V sum(0);
    for (int k = 0; k < node.children(); ++k) {
      const V f = node.child_chain(k), da = dc * node.child_state(k, 1) * (f * (one - f));
      node.set_child_da(k, da);
      node.set_child_direct(k, dc * f);
      sum = sum + da;
    }
    node.set_da(1, sum);
  }
};

constexpr GraphSpec gated_spec(int slots) {
  GraphSpec s;
  s.slots = s.memories = slots;
  s.chains = slots + 3;
  for (int d = 0; d < slots; ++d) add(s.direct, GraphDirect{d, 1});
  return s;
}

// All chains from h of every slot, by a weight [slots, chains * H, H].
constexpr void add_slots(GraphPhase& phase, int param, int slots, int state, int chains) {
  for (int d = 0; d < slots; ++d) add(phase.products, GraphProduct{{GraphSource::before, d, state}, param, d * chains, chains});
}

constexpr GraphSpec nary_tree(int slots) {
  GraphSpec s = gated_spec(slots);
  add(s.params, GraphParam{"weight_ih", 0, 4, Dim::input, 1, true});
  add(s.params, GraphParam{"weight_hh", slots, s.chains, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, s.chains, Dim::one, 1, true});
  add(s.biases, GraphBias{2, s.chains, 0});
  GraphPhase phase;
  add(phase.products, GraphProduct{{}, 0, 0, 2, 0, 0});  // i and f_1; then the same block for every other f
  for (int k = 1; k < slots; ++k) add(phase.products, GraphProduct{{}, 0, 1, 1, 0, 1 + k});
  add(phase.products, GraphProduct{{}, 0, 2, 2, 0, 1 + slots});
  add_slots(phase, 1, slots, 0, s.chains);
  add(s.phases, phase);
  return s;
}

constexpr GraphSpec s_lstm_tree(int slots) {
  GraphSpec s = gated_spec(slots);
  add(s.params, GraphParam{"weight_hh", slots, s.chains, Dim::hidden});
  add(s.params, GraphParam{"weight_ch", slots, slots + 1, Dim::hidden});
  add(s.params, GraphParam{"weight_co", 0, 1, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, s.chains, Dim::one, 1, true});
  add(s.biases, GraphBias{3, s.chains, 0});
  GraphPhase memory, output;
  memory.function = GraphFunction::memory;
  add_slots(memory, 0, slots, 0, s.chains);
  add_slots(memory, 1, slots, 1, slots + 1);
  output.function = GraphFunction::output;
  add(output.products, GraphProduct{{GraphSource::own, 0, 1}, 2, 0, 1, 0, slots + 2});
  add(s.phases, memory);
  add(s.phases, output);
  return s;
}

constexpr GraphSpec child_sum_tree() {
  GraphSpec s;
  s.chains = 4;
  add(s.params, GraphParam{"weight_ih", 0, 4, Dim::input, 1, true});
  add(s.params, GraphParam{"weight_hh", 0, 4, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, 4, Dim::one, 1, true});
  add(s.biases, GraphBias{2, 4, 0});
  GraphPhase phase;
  phase.function = GraphFunction::child_sum;
  add(phase.products, GraphProduct{{}, 0, 0, 4, 0, 0});
  add(phase.products, GraphProduct{{GraphSource::sum}, 1, 0, 1, 0, 0});
  add(phase.products, GraphProduct{{GraphSource::sum}, 1, 2, 2, 0, 2});
  add(phase.products, GraphProduct{{GraphSource::child}, 1, 1, 1, 0, 1});
  add(s.phases, phase);
  return s;
}

}  // namespace recurra
