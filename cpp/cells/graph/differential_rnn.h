// Differential recurrent network whose gates see the differences of the cell through matrices, V. Veeriah et al., arXiv
// 1504.06678; equations in ../differential_rnn.h, with matrices Q for its vectors q. A sequence is a graph with one slot.
//
// States h, d_0 .. d_N. The phases are an LSTM's memory, which is d_0; the other differences; and its output.
#pragma once
#include "tree.h"

namespace recurra {

// d_n = d_(n-1) - d_(n-1)(t-1), n = 1 .. option; state 1 + n is d_n. Numbers n of GraphSpec::direct are these.
struct Differences {
  template <class Node>
  static void forward(Node& node) {
    for (int n = 1; n <= node.option(); ++n) node.set_state(1 + n, node.own(n) - node.state(0, n));
  }

  template <class Node>
  static void backward(Node& node) {
    for (int n = node.option(); n > 0; --n) {
      const auto d = node.d_state(1 + n);
      node.set_d_state(n, node.d_state(n) + d);
      node.set_direct(n, -d);
    }
  }
};

template <int count>
constexpr GraphSpec differential(const int (&orders)[count]) {
  const int highest = orders[count - 1];  // they ascend
  GraphSpec s = gated_spec(1);
  s.states = 2 + highest;
  s.differences = true;
  add(s.params, GraphParam{"weight_ih", 0, 4, Dim::input, 1, true});
  add(s.params, GraphParam{"weight_hh", 0, 4, Dim::hidden});
  add(s.params, GraphParam{"weight_dos", 0, 3 * count, Dim::hidden});
  add(s.params, GraphParam{"bias", 0, 4, Dim::one, 1, true});
  add(s.biases, GraphBias{3, 4, 0});
  for (int n = 1; n <= highest; ++n) add(s.direct, GraphDirect{0, n});
  GraphPhase memory, differences, output;
  memory.function = GraphFunction::memory;
  add(memory.products, GraphProduct{{}, 0, 0, 4, 0, 0});
  add(memory.products, GraphProduct{{GraphSource::before, 0, 0}, 1, 0, 4, 0, 0});
  differences.function = GraphFunction::differences;
  differences.option = highest;
  output.function = GraphFunction::output;
  for (int k = 0; k < count; ++k) {
    add(memory.products, GraphProduct{{GraphSource::before, 0, 1 + orders[k]}, 2, 3 * k, 2, 0, 0});
    add(output.products, GraphProduct{{GraphSource::own, 0, 1 + orders[k]}, 2, 3 * k + 2, 1, 0, 3});
  }
  add(s.phases, memory);
  add(s.phases, differences);
  add(s.phases, output);
  return s;
}

}  // namespace recurra
