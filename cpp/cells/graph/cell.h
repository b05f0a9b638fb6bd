// What a cell of graphs tells the engine: a row is one step, with a predecessor in each of several slots, or with children.
//
// A row has chains (pre-activations), each one sequence of fused multiply-adds: the bias, then the products in the order of
// the list, k ascending. Phases run in order; a phase makes its products and then calls a pointwise function, which may set
// states that products of later phases multiply. All numbers that depend on the slots are known at run time only.
#pragma once
#include "../cell.h"

namespace recurra {

constexpr int kMaxSlots = 4;

// What a product multiplies: x; state `state` of the predecessor in `slot`; of this row, as an earlier phase has set it; of the
// children, summed in order; or of each child, into the chain of that child.
struct GraphSource {
  enum Kind { input, before, own, sum, child } kind = input;
  int slot = 0, state = 0;
};

// Blocks row .. row+count-1 of a weight (block b: its rows b * H ..), columns from block `column` on, for chains from `chain`
// on.
struct GraphProduct {
  GraphSource source;
  int param = 0;
  int row = 0, count = 0, column = 0;
  int chain = 0;
};

// A parameter [leading, rows * H, columns], without `leading` if it is 0, a vector if `columns` is `one`.
struct GraphParam {
  const char* name = nullptr;
  int leading = 0, rows = 0;
  Dim columns = Dim::one;
  int column_blocks = 1;  // the width is so many times that of `columns`
  bool optional = false;
};

// Blocks 0 .. count-1 of a bias, for chains from `chain` on.
struct GraphBias {
  int param = 0, count = 0, chain = 0;
};

enum class GraphFunction { gated, memory, output, differences, child_sum, stable, leaky, leakylp, grid, plain };
constexpr int kGraphFunctions = 10;

struct GraphPhase {
  List<GraphProduct, 12> products;
  GraphFunction function = GraphFunction::gated;
  int chain = 0;   // the first of its chains
  int option = 0;  // whatever the function makes of it
};

// d/d state of the predecessor in `slot`, as far as the pointwise functions pass it on themselves.
struct GraphDirect {
  int slot = 0, state = 0;
};

struct GraphSpec {
  int slots = 0;  // 0: children
  int memories = 0;
  int chains = 0;
  int states = 2;                 // h, c
  bool states_of_slots = false;   // or h_1 .. h_N, m_1 .. m_N
  bool differences = false;       // or h, d0, d1, ..
  bool residual[kMaxSlots] = {};  // whether h_d of the predecessor is a summand of h_d
  double scale = 1;
  int vectors = -1, vector_count = 0;  // the parameter of per-unit vectors
  List<GraphParam, 12> params;
  List<GraphBias, 4> biases;
  List<GraphPhase, 4> phases;
  List<GraphDirect, 4> direct;
};

// The pointwise functions have `template <class Node> static void forward(Node&)` and `backward(Node&)`. forward: chain(c) and
// save(c, v), which takes its place; state(slot, i) of a predecessor, own(i), set_state(i, v), vector(i). backward: saved(c),
// d_state(i) and set_d_state(i, v) of this row, set_da(c, v) for every chain, set_direct(k, v) for every number k of
// GraphSpec::direct, set_d_vector(i, v).
template <class T, int n>
constexpr void add(List<T, n>& list, const T& item) {
  list.append(&item, 1);
}

}  // namespace recurra
