// What a cell tells the engine about itself. Everything here is compile-time data; the maths is in the cell's own header.
//
// A step runs the cell's phases in order. A phase is one recurrent product and one pointwise function:
//   chains   every pre-activation is a chain of fused multiply-adds: bias, then the input product, then the recurrent one;
//   source   what the recurrent product multiplies: h(t-1) in the first phase, the previous phase's result afterwards; the
//            first phase may do without one (its count is 0), and its pointwise function alone then reads h(t-1);
//   result   what the pointwise function returns: the source of the next phase, or h(t) from the last one.
// A phase by rows has, in place of a pointwise function, one of whole rows, which may take means over their units.
#pragma once

namespace recurra {

// RECURRA_OUT_OF_LINE: on a function that cells share, whose code then exists once, since the wheel has a limit; a GPU's calls
// are dear.
#ifdef __CUDACC_RTC__
#define RECURRA_OUT_OF_LINE inline
#else
#define RECURRA_OUT_OF_LINE __attribute__((noinline))
#endif

// Infinity, as each compiler takes it for a constant: NVRTC, which has no __GNUC__, lacks the built-in function, and g++ also
// compiles kernels, for the tests.
#ifdef __GNUC__
constexpr double kInfinity = __builtin_inf();
#else
constexpr double kInfinity = 1.0 / 0.0;
#endif

// A size that is known only when a layer is made. `output` is the width of h: the projection when there is one. `head` is that
// of one of the heads that h is cut into: a weight of so many columns is block diagonal, without the zeros.
enum class Dim { one, input, hidden, output, head };

constexpr int kMaxChains = 4;    // of a product: registers of the kernels hold them
constexpr int kMaxVectors = 14;  // memory does
constexpr int kMaxStates = 4;
constexpr int kMaxPhases = 2;
constexpr int kMaxConstants = 11;

// What a sum over units depends on is the number of its parts, never that of the lanes which hold them: unit u is in part
// u mod kParts, each part ascends, and halves of the parts are then added to each other.
constexpr int kParts = 16;

// A short compile-time list; only for the tables below.
template <class T, int capacity>
struct List {
  T item[capacity] = {};
  int size = 0;
  constexpr List() = default;
  template <int n>
  constexpr List(const T (&from)[n]) {
    append(from, n);
  }
  constexpr void append(const T* from, int n) {
    for (int i = 0; i < n; ++i) item[size++] = from[i];
  }
  constexpr const T& operator[](int i) const { return item[i]; }
};

// A parameter of shape [blocks * rows, cols], or [blocks * rows] when cols is `one`. Biases may be left out by the user.
struct Param {
  const char* name = nullptr;
  int blocks = 0;
  Dim rows = Dim::one;
  Dim cols = Dim::one;
  bool is_bias = false;
};

struct State {
  const char* name = nullptr;
  Dim width = Dim::hidden;
};

// A number the user may set when the layer is made, for each direction: a clipping bound, an activation function (an Activation
// of cells/activation.h), or a function's parameter.
struct Constant {
  const char* name = nullptr;
  double value = 0;
  bool chooses_activation = false;
};

// Gate blocks first .. first+count-1 of `weight` (and of `bias`, when not null); block first+g adds to chain[g]. Without a
// weight it is a bias only, and chain[g] = chains + v stands for vector v of the phase.
struct Product {
  const char* weight = nullptr;
  const char* bias = nullptr;
  int first = 0;
  int count = 0;
  int chain[kMaxChains] = {};
};

struct Phase {
  Product input;      // of x(t); by convention block g adds to chain g
  Product recurrent;  // of the source
  int chains = 0;
  Dim units = Dim::hidden;        // how many units the phase computes
  const char* vectors = nullptr;  // parameter holding per-unit vectors (peepholes)
  int vector_count = 0;           // all of them
  bool unit_range = false;        // the result lies in -1 .. 1 when h(t-1) does; int8 then knows its scale beforehand
  bool sets_states = false;       // of the states beside h; one phase sets them all
  List<Product, 5> rest = {};     // blocks of biases and vectors that are neither those of a product nor of `vectors`
  // Its code is that of all phases with such products, save the pointwise function, for single rows too. That costs 5 % of
  // the smallest steps and saves 3 KB of each instruction set.
  bool shares_code = false;
  // Its products, of as many gates each, are kept apart: chains of the input first, then those of the source.
  bool by_rows = false;
};

struct Spec {
  const char* gates = "";          // one letter per gate block, in packed order
  List<Param, 8> params;           // each block of each is of one product, or the vectors of one phase: backward writes it once
  List<State, kMaxStates> states;  // states[0] is h, as wide as the output; the others are as wide as `hidden`
  List<Constant, kMaxConstants> constants;
  int kept = 0;   // per-unit values handed from one phase to a later one of the same step
  int saved = 0;  // per-unit values that a step with a tape keeps for backward, beside its states
  List<Phase, kMaxPhases> phases;
};

// The pointwise functions of a cell's phases, in order. A phase type P has `static constexpr Phase phase` and
//   template <class V, class Unit> static V forward(const V* a, Unit& unit)
//   template <class V, class Unit> static void backward(V d_result, V* da, Unit& unit)
// where V holds one or more units (a SIMD vector, a float, a double) and `unit` gives access to the units' own values.
//
// forward: a[c] is chain c; unit.h() = h(t-1), unit.state(i) / set_state(i, v) the other states (c, ...), unit.vector(i) the
// per-unit vectors, unit.kept(i) / keep(i, v) values for a later phase, unit.save(i, v) values for backward, unit.constant(i),
// and unit.choice(i) for a constant that is an integer.
// backward: from the gradient of what forward returned to da[c], those of the chains. It reads h() and state(i) as before the
// step, saved(i), vector(i), constant(i), choice(i); d_state(i) is the gradient of a state after the step, set_d_state(i, v)
// sets that of the state before it; add_d_h(v) adds what reaches h(t-1) past the chains; d_kept(i) / set_d_kept(i, v) hand
// gradients to an earlier phase; set_d_vector(i, v) is this unit's share of a per-unit vector's gradient. Only a phase of
// `hidden` units may use states, kept and saved values, and only the one that sets states may read them.
//
// A phase by rows, which is the only one of its cell, has instead
//   template <class Row> static void forward(Row& row)
//   template <class Row> static void backward(Row& row)
// where row.each(use) is use(unit) for all units of a row, V = Row::Value at a time. row.sums<count>(), one or two and no
// others meanwhile, are what sums.add(unit, s, v) adds n values of each unit to, until row.means(sums, n, mean) has their
// mean[count]. A unit has all of the above, unit.side(s, g) for gate block g of the input product (s = 0) or of the recurrent
// one, and unit.set_result(v); kept and d_kept are memory to work in. Backward, it has d_result(), set_da(c, v) and, in place
// of add_d_h, set_d_h(v), after which d_result() is gone; side(s, g) must have been saved as value s * gates + g. set_state and
// set_d_state come after all uses of state and d_state.
template <class... P>
struct Pointwise {
  static constexpr List<Phase, kMaxPhases> phases() { return List<Phase, kMaxPhases>({P::phase...}); }
};

// The parameters that nearly every cell has: weight_ih [G*H, I], weight_hh [G*H, H], bias_ih [G*H], bias_hh [G*H].
constexpr List<Param, 8> gate_params(int gates) {
  return List<Param, 8>({
      Param{"weight_ih", gates, Dim::hidden, Dim::input},
      Param{"weight_hh", gates, Dim::hidden, Dim::output},
      Param{"bias_ih", gates, Dim::hidden, Dim::one, true},
      Param{"bias_hh", gates, Dim::hidden, Dim::one, true},
  });
}

constexpr Product input_gates(int first, int count) { return Product{"weight_ih", "bias_ih", first, count, {0, 1, 2, 3}}; }

constexpr Product recurrent_gates(int first, int count) { return Product{"weight_hh", "bias_hh", first, count, {0, 1, 2, 3}}; }

}  // namespace recurra
