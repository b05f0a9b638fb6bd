// Long short-term memory. S. Hochreiter, J. Schmidhuber, Neural Computation 9(8), 1997; forget gate: F. Gers et al., Neural
// Computation 12(10), 2000; peepholes: F. Gers et al., JMLR 3, 2002; projection: H. Sak et al., Interspeech 2014; coupled
// gates: K. Greff et al., arXiv 1503.04069.
//
//   i = s(W_i x + b_i + U_i h(t-1) + p_i c(t-1))
//   f = s(W_f x + b_f + U_f h(t-1) + p_f c(t-1))
//   g = tanh(W_g x + b_g + U_g h(t-1))
//   c = clip(f c(t-1) + i g)
//   o = s(W_o x + b_o + U_o h(t-1) + p_o c)          the output gate sees the new c
//   h = o tanh(c), or with projection h = W_hr (o tanh(c)) + b_hr
//
// Coupled, one of the two gates is not computed: i = 1 - f ("i_from_f") or f = 1 - i ("f_from_i"), taken as 1 - s(a) = s(-a).
#pragma once
#include "cell.h"

namespace recurra {

enum class Coupling { none, i_from_f, f_from_i };

template <Coupling coupling, bool peephole>
struct LstmGates {
  static constexpr bool coupled = coupling != Coupling::none;
  static constexpr int gates = coupled ? 3 : 4;
  static constexpr Phase phase = {input_gates(0, gates),
                                  recurrent_gates(0, gates),
                                  gates,
                                  Dim::hidden,
                                  peephole ? "weight_peep" : nullptr,
                                  peephole ? gates - 1 : 0,
                                  true,
                                  true};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    // Packed order i, f, g, o; coupled, the first of the two gates stands for both.
    constexpr int g_at = gates - 2, o_at = gates - 1;
    const V c_prev = unit.state(0);

    V i, f;
    if constexpr (!coupled) {
      i = sigmoid(peep<V>(a[0], unit, 0, c_prev));
      f = sigmoid(peep<V>(a[1], unit, 1, c_prev));
    } else {
      const V gate = peep<V>(a[0], unit, 0, c_prev);
      f = sigmoid(coupling == Coupling::i_from_f ? gate : -gate);
      i = sigmoid(coupling == Coupling::i_from_f ? -gate : gate);
    }
    const V g = tanh(a[g_at]);
    const V c = clip(fma(f, c_prev, i * g), unit.constant(0));
    const V o = sigmoid(peep<V>(a[o_at], unit, gates - 2, c));
    unit.set_state(0, c);
    unit.save(0, i), unit.save(1, f), unit.save(2, g), unit.save(3, o);
    return o * tanh(c);
  }

  // The output gate first: with peepholes it sends a gradient to c.
  template <class V, class Unit>
  static void backward(V dq, V* da, Unit& unit) {
    constexpr int g_at = gates - 2, o_at = gates - 1;
    const V one(1), c_prev = unit.state(0);
    const V i = unit.saved(0), f = unit.saved(1), g = unit.saved(2), o = unit.saved(3);
    const V unclipped = fma(f, c_prev, i * g), c = clip(unclipped, unit.constant(0)), q = tanh(c);

    da[o_at] = dq * q * (o * (one - o));
    V dc = fma(dq * o, (one - q) * (one + q), unit.d_state(0));
    dc = peep_backward<V>(da[o_at], unit, gates - 2, c, dc);
    dc = where_inside(unclipped, unit.constant(0), dc);
    V dc_prev = dc * f;
    if constexpr (!coupled) {
      da[0] = dc * g * (i * (one - i));
      da[1] = dc * c_prev * (f * (one - f));
      dc_prev = peep_backward<V>(da[0], unit, 0, c_prev, dc_prev);
      dc_prev = peep_backward<V>(da[1], unit, 1, c_prev, dc_prev);
    } else {
      da[0] = dc * (coupling == Coupling::i_from_f ? c_prev - g : g - c_prev) * (i * f);
      dc_prev = peep_backward<V>(da[0], unit, 0, c_prev, dc_prev);
    }
    da[g_at] = dc * i * ((one - g) * (one + g));
    unit.set_d_state(0, dc_prev);
  }

 private:
  template <class V, class Unit>
  static V peep(V a, Unit& unit, int which, V c) {
    if constexpr (peephole) return fma(unit.vector(which), c, a);
    return a;
  }

  // dc, with what comes from gate gradient da through its peephole.
  template <class V, class Unit>
  static V peep_backward(V da, Unit& unit, int which, V c, V dc) {
    if constexpr (!peephole) return dc;
    unit.set_d_vector(which, da * c);
    return fma(unit.vector(which), da, dc);
  }
};

template <Coupling coupling, bool peephole>
struct Lstm {
  using Gates = LstmGates<coupling, peephole>;
  using Phases = Pointwise<Gates>;

  static constexpr Spec spec() {
    constexpr const char* letters[] = {"ifgo", "fgo", "igo"};
    Spec s = {letters[int(coupling)],
              gate_params(Gates::gates),
              List<State, kMaxStates>({State{"h", Dim::output}, State{"c", Dim::hidden}}),
              List<Constant, kMaxConstants>({Constant{"cell_clip", kInfinity}}),
              0,
              4,
              Phases::phases()};
    const Param peepholes[] = {{"weight_peep", Gates::gates - 1, Dim::hidden}};
    if (peephole) s.params.append(peepholes, 1);
    return s;
  }
};

// h = W_hr q + b_hr, where q is the result of the cell's own last phase.
struct Projection {
  static constexpr Phase phase = {{}, {"weight_hr", "bias_hr", 0, 1, {0}}, 1, Dim::output};

  template <class V, class Unit>
  static V forward(const V* a, Unit&) {
    return a[0];
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit&) {
    da[0] = dh;
  }
};

template <Coupling coupling, bool peephole>
struct ProjectedLstm {
  using Base = Lstm<coupling, peephole>;
  using Phases = Pointwise<typename Base::Gates, Projection>;

  static constexpr Spec spec() {
    Spec s = Base::spec();
    const Param projection[] = {{"weight_hr", 1, Dim::output, Dim::hidden}, {"bias_hr", 1, Dim::output, Dim::one, true}};
    s.params.append(projection, 2);
    s.phases = Phases::phases();
    return s;
  }
};

}  // namespace recurra
