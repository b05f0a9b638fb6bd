// What tree, multidimensional and time-frequency LSTMs share: M predecessors with memories c_1 .. c_M, chains i, f_1 .. f_M, g,
// o.
//
//   i   = s(a_i + p_i sum_d c_d)        one input-gate peephole for all
//   f_d = s(a_fd + p_fd c_d)
//   c   = i tanh(a_g) + scale sum_d f_d c_d
//   o   = s(a_o + p_o c),  h = o tanh(c)
#pragma once
#include "cell.h"

namespace recurra {

struct GatedMemory {
  template <class Node>
  static void forward(Node& node) {
    using V = typename Node::Vector;
    const int memories = node.memories();
    V ai = node.chain(0), c;
    if (node.peepholes()) ai = fma(node.vector(0), sum_of_memories(node), ai);
    const V i = sigmoid(ai), g = tanh(node.chain(1 + memories)), scale = node.scale();
    c = i * g;
    for (int d = 0; d < memories; ++d) {
      const V before = node.state(d, 1);
      V af = node.chain(1 + d);
      if (node.peepholes()) af = fma(node.vector(1 + d), before, af);
      const V f = sigmoid(af);
      c = fma(f * scale, before, c);
      node.save(1 + d, f);
    }
    node.save(0, i), node.save(1 + memories, g);
    node.set_state(1, c);
  }

  template <class Node>
  static void backward(Node& node) {
    backward(node, node.d_state(1));
  }

  template <class Node, class V>
  static void backward(Node& node, V dc) {
    const int memories = node.memories();
    const V one(1), scale = node.scale(), i = node.saved(0), g = node.saved(1 + memories);
    const V dai = dc * g * (i * (one - i));
    node.set_da(0, dai);
    node.set_da(1 + memories, dc * i * ((one - g) * (one + g)));
    if (node.peepholes()) node.set_d_vector(0, dai * sum_of_memories(node));
    for (int d = 0; d < memories; ++d) {
      const V before = node.state(d, 1), f = node.saved(1 + d), daf = dc * before * scale * (f * (one - f));
      V direct = dc * f * scale;
      if (node.peepholes()) {
        direct = fma(node.vector(1 + d), daf, fma(node.vector(0), dai, direct));
        node.set_d_vector(1 + d, daf * before);
      }
      node.set_da(1 + d, daf);
      node.set_direct(d, direct);
    }
  }

 private:
  template <class Node>
  static typename Node::Vector sum_of_memories(Node& node) {
    typename Node::Vector sum = node.state(0, 1);
    for (int d = 1; d < node.memories(); ++d) sum = sum + node.state(d, 1);
    return sum;
  }
};

struct GatedOutput {
  template <class Node>
  static void forward(Node& node) {
    const int at = 2 + node.memories();
    const auto c = node.own(1);
    auto a = node.chain(at);
    if (node.peepholes()) a = fma(node.vector(1 + node.memories()), c, a);
    const auto o = sigmoid(a);
    node.save(at, o);
    node.set_state(0, o * tanh(c));
  }

  template <class Node>
  static void backward(Node& node) {
    node.set_d_state(1, passed_on(node));
  }

  // The gradient of c, without what products pass on.
  template <class Node>
  static typename Node::Vector passed_on(Node& node) {
    using V = typename Node::Vector;
    const int at = 2 + node.memories();
    const V one(1), c = node.own(1), q = tanh(c), o = node.saved(at), dh = node.d_state(0), da = dh * q * (o * (one - o));
    node.set_da(at, da);
    const V dc = fma(dh * o, (one - q) * (one + q), node.d_state(1));
    if (!node.peepholes()) return dc;
    node.set_d_vector(1 + node.memories(), da * c);
    return fma(node.vector(1 + node.memories()), da, dc);
  }
};

struct Gated {
  template <class Node>
  static void forward(Node& node) {
    GatedMemory::forward(node);
    GatedOutput::forward(node);
  }

  template <class Node>
  static void backward(Node& node) {
    GatedMemory::backward(node, GatedOutput::passed_on(node));
  }
};

}  // namespace recurra
