// Grid LSTM. N. Kalchbrenner, I. Danihelka, A. Graves, arXiv 1507.01526.
//
// Dimension d has h_d and m_d of its own, those of the predecessor in slot d. Every dimension reads all h; the h of dimensions
// without priority are computed first, and those with priority read them in place of the old ones.
//   LSTM:   i, f, o = s(.), g = tanh(.);  m = f m_d + i g;  h = tanh(o m) ("paper") or o tanh(m) ("standard")
//   others: h = a, tanh(a) or relu(a), without memory
// and, in a residual dimension, h + h_d in place of h.
#pragma once
#include "cell.h"

namespace recurra {

enum class GridDimension { lstm, identity, tanh, relu };
constexpr const char* kGridDimensions[] = {"lstm", "identity", "tanh", "relu"};

// What the user chooses for each slot, and the form for all.
struct SlotOptions {
  GridDimension kinds[kMaxSlots] = {};
  bool priority[kMaxSlots] = {}, residual[kMaxSlots] = {};
  bool standard = false;
};

// States h_1 .. h_N, m_1 .. m_N; option: 4 d + 2 for a residual dimension + 1 for the form "standard".
struct GridLstm {
  template <class Node>
  static void forward(Node& node) {
    using V = typename Node::Vector;
    const int d = node.option() / 4, m_at = node.slots() + d;
    const V i = sigmoid(node.chain(0)), f = sigmoid(node.chain(1)), g = tanh(node.chain(2)), o = sigmoid(node.chain(3));
    const V m = fma(f, node.state(d, m_at), i * g);
    node.save(0, i), node.save(1, f), node.save(2, g), node.save(3, o);
    node.set_state(m_at, m);
    const V h = node.option() % 2 ? o * tanh(m) : tanh(o * m);
    node.set_state(d, node.option() & 2 ? h + node.state(d, d) : h);
  }

  template <class Node>
  static void backward(Node& node) {
    using V = typename Node::Vector;
    const int d = node.option() / 4, m_at = node.slots() + d;
    const V one(1), i = node.saved(0), f = node.saved(1), g = node.saved(2), o = node.saved(3), m = node.own(m_at);
    const V dh = node.d_state(d);
    V d_o, dm;
    if (node.option() % 2) {
      const V q = tanh(m);
      d_o = dh * q;
      dm = fma(dh * o, (one - q) * (one + q), node.d_state(m_at));
    } else {
      const V h = node.option() & 2 ? tanh(o * m) : node.own(d), k = dh * ((one - h) * (one + h));
      d_o = k * m;
      dm = fma(k, o, node.d_state(m_at));
    }
    node.set_da(0, dm * g * (i * (one - i)));
    node.set_da(1, dm * node.state(d, m_at) * (f * (one - f)));
    node.set_da(2, dm * i * ((one - g) * (one + g)));
    node.set_da(3, d_o * (o * (one - o)));
    node.set_direct(d, dm * f);
  }
};

// option: 8 d + 4 for a residual dimension + GridDimension.
struct GridPlain {
  template <class Node>
  static void forward(Node& node) {
    using V = typename Node::Vector;
    const int d = node.option() / 8;
    V h = node.chain(0);
    if (kind(node) == GridDimension::tanh) h = tanh(h);
    if (kind(node) == GridDimension::relu) h = relu(h);
    node.save(0, h);
    node.set_state(d, node.option() & 4 ? h + node.state(d, d) : h);
    node.set_state(node.slots() + d, V(0));
  }

  template <class Node>
  static void backward(Node& node) {
    using V = typename Node::Vector;
    const int d = node.option() / 8;
    const V one(1), h = node.saved(0);
    V da = node.d_state(d);
    if (kind(node) == GridDimension::tanh) da = da * ((one - h) * (one + h));
    if (kind(node) == GridDimension::relu) da = select(V(0) < h, da, V(0));
    node.set_da(0, da);
    node.set_direct(d, V(0));
  }

 private:
  template <class Node>
  static GridDimension kind(const Node& node) {
    return GridDimension(node.option() % 4);
  }
};

constexpr GraphSpec grid(int slots, const SlotOptions& options) {
  const auto& [kinds, priority, residual, standard] = options;
  constexpr const char* weights[] = {"weight_1", "weight_2", "weight_3", "weight_4"};
  constexpr const char* biases[] = {"bias_1", "bias_2", "bias_3", "bias_4"};
  constexpr const char* inputs[] = {"weight_ih_1", "weight_ih_2", "weight_ih_3", "weight_ih_4"};
  GraphSpec s;
  s.slots = slots;
  s.states = 2 * slots;
  s.states_of_slots = true;
  int chain[kMaxSlots] = {};
  for (int d = 0; d < slots; ++d) {
    const int blocks = kinds[d] == GridDimension::lstm ? 4 : 1;
    s.residual[d] = residual[d];
    add(s.params, GraphParam{weights[d], 0, blocks, Dim::hidden, slots});
    add(s.params, GraphParam{biases[d], 0, blocks, Dim::one, 1, true});
    add(s.params, GraphParam{inputs[d], 0, blocks, Dim::input, 1, true});
    add(s.biases, GraphBias{3 * d + 1, blocks, s.chains});
    add(s.direct, GraphDirect{d, slots + d});
    chain[d] = s.chains;
    s.chains += blocks;
  }
  for (int prior = 0; prior < 2; ++prior)
    for (int d = 0; d < slots; ++d) {
      if (int(priority[d]) != prior) continue;
      const bool lstm = kinds[d] == GridDimension::lstm;
      const int blocks = lstm ? 4 : 1;
      GraphPhase phase;
      phase.function = lstm ? GraphFunction::grid : GraphFunction::plain;
      phase.option = lstm ? 4 * d + 2 * residual[d] + standard : 8 * d + 4 * residual[d] + int(kinds[d]);
      phase.chain = chain[d];
      add(phase.products, GraphProduct{{}, 3 * d + 2, 0, blocks, 0, chain[d]});
      for (int e = 0; e < slots; ++e) {
        const bool renewed = prior && !priority[e];
        const GraphSource source = {renewed ? GraphSource::own : GraphSource::before, e, e};
        add(phase.products, GraphProduct{source, 3 * d, 0, blocks, e, chain[d]});
      }
      add(s.phases, phase);
    }
  return s;
}

}  // namespace recurra
