// RNN, LSTM and GRU with any activations: f in place of the sigmoid (in an RNN, of its only function), g in place of the
// candidate's tanh, and in an LSTM h in place of the cell's. Pre-activations, peepholes included, are bounded by
// `clip`, but not the cell that h sees: ONNX's `clip`, as ONNX Runtime has it. Equations are those of rnn.h,
// lstm.h and gru.h, and with their functions so are the bits.
//
// What is saved are pre-activations, from which backward makes values and slopes. The functions of a family are out of line.
#pragma once
#include "activation.h"
#include "gru.h"
#include "lstm.h"
#include "rnn.h"

namespace recurra {

constexpr Phase general(Phase phase) {
  phase.unit_range = false;
  phase.shares_code = true;
  return phase;
}

// The constants clip and f, g and h where they are.
constexpr void append_clip(Spec& s) {
  const Constant clip[] = {{"clip", kInfinity}};
  s.constants.append(clip, 1);
}

constexpr void append_activation(Spec& s, const char* name, const char* alpha, const char* beta, Activation standard) {
  const double parameter = standard == Activation::scaled_tanh ? 1 : 0;
  const Constant all[] = {{name, double(int(standard)), true}, {alpha, parameter}, {beta, parameter}};
  s.constants.append(all, 3);
}

constexpr void append_gates(Spec& s) {
  append_clip(s);
  append_activation(s, "f", "f_alpha", "f_beta", Activation::sigmoid);
  append_activation(s, "g", "g_alpha", "g_beta", Activation::scaled_tanh);
}

// ---- RNN: constants clip, f

struct GeneralRnnUpdate {
  static constexpr Phase phase = general(RnnUpdate<Tanh>::phase);

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    unit.save(0, a[0]);
    return activate(Chosen<V>(unit, 1, unit.constant(0)), a[0]);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    da[0] = dh * differentiate(Chosen<V>(unit, 1, unit.constant(0)), unit.saved(0)).slope;
  }
};

struct GeneralRnn {
  using Phases = Pointwise<GeneralRnnUpdate>;
  static constexpr Spec spec() {
    Spec s = Rnn<Tanh>::spec();
    append_clip(s);
    append_activation(s, "f", "f_alpha", "f_beta", Activation::scaled_tanh);
    s.phases = Phases::phases();
    return s;
  }
};

// ---- LSTM: constants cell_clip, clip, f, g, h

template <class V, class Unit>
struct LstmActivations {
  const Chosen<V> f, g, h;
  explicit LstmActivations(const Unit& unit)
      : f(unit, 2, unit.constant(1)), g(unit, 5, unit.constant(1)), h(unit, 8, V(kInfinity)) {}
};

// With its peephole, if there are any.
template <class V, class Unit>
V peep(V a, Unit& unit, bool peephole, int which, V c) {
  return peephole ? fma(unit.vector(which), c, a) : a;
}

// dc, with what comes from gate gradient da through its peephole.
template <class V, class Unit>
V peep_backward(V da, Unit& unit, bool peephole, int which, V c, V dc) {
  if (!peephole) return dc;
  unit.set_d_vector(which, da * c);
  return fma(unit.vector(which), da, dc);
}

template <class V, class Unit>
RECURRA_OUT_OF_LINE V general_lstm(const V* a, Unit& unit, Coupling coupling, bool peephole) {
  const bool coupled = coupling != Coupling::none;
  const int g_at = coupled ? 1 : 2, o_at = g_at + 1;
  const LstmActivations<V, Unit> use(unit);
  const V c_prev = unit.state(0), first = peep(a[0], unit, peephole, 0, c_prev), value = activate(use.f, first);
  V i = value, f;
  if (coupled) {
    f = complement(use.f, first, value);
    if (coupling == Coupling::i_from_f) i = f, f = value;
  } else {
    const V second = peep(a[1], unit, peephole, 1, c_prev);
    f = activate(use.f, second);
    unit.save(1, second);
  }
  const V c = clip(fma(f, c_prev, i * activate(use.g, a[g_at])), unit.constant(0));
  const V last = peep(a[o_at], unit, peephole, o_at - 1, c);
  unit.set_state(0, c);
  unit.save(0, first), unit.save(g_at, a[g_at]), unit.save(o_at, last);
  return activate(use.f, last) * activate(use.h, c);
}

template <class V, class Unit>
RECURRA_OUT_OF_LINE void general_lstm_backward(V dq, V* da, Unit& unit, Coupling coupling, bool peephole) {
  const bool coupled = coupling != Coupling::none;
  const int g_at = coupled ? 1 : 2, o_at = g_at + 1;
  const LstmActivations<V, Unit> use(unit);
  const V c_prev = unit.state(0), pre = unit.saved(0);
  const Activated<V> first = differentiate(use.f, pre), g = differentiate(use.g, unit.saved(g_at));
  Activated<V> second = first;
  V i = first.value, f;
  if (coupled) {
    f = complement(use.f, pre, first.value);
    if (coupling == Coupling::i_from_f) i = f, f = first.value;
  } else {
    second = differentiate(use.f, unit.saved(1));
    f = second.value;
  }
  const V unclipped = fma(f, c_prev, i * g.value), c = clip(unclipped, unit.constant(0));
  const Activated<V> o = differentiate(use.f, unit.saved(o_at)), q = differentiate(use.h, c);

  da[o_at] = dq * q.value * o.slope;
  V dc = fma(dq * o.value, q.slope, unit.d_state(0));
  dc = peep_backward(da[o_at], unit, peephole, o_at - 1, c, dc);
  dc = where_inside(unclipped, unit.constant(0), dc);
  V dc_prev = dc * f;
  if (coupled) {
    da[0] = dc * (coupling == Coupling::i_from_f ? c_prev - g.value : g.value - c_prev) * first.slope;
  } else {
    da[0] = dc * g.value * first.slope;
    da[1] = dc * c_prev * second.slope;
  }
  for (int gate = 0; gate < g_at; ++gate) dc_prev = peep_backward(da[gate], unit, peephole, gate, c_prev, dc_prev);
  da[g_at] = dc * i * g.slope;
  unit.set_d_state(0, dc_prev);
}

template <Coupling coupling, bool peephole>
struct GeneralLstmGates {
  static constexpr Phase phase = general(LstmGates<coupling, peephole>::phase);

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    return general_lstm(a, unit, coupling, peephole);
  }

  template <class V, class Unit>
  static void backward(V dq, V* da, Unit& unit) {
    general_lstm_backward(dq, da, unit, coupling, peephole);
  }
};

template <class Standard, class P>
struct GeneralLstmBase {
  using Phases = P;
  static constexpr Spec spec() {
    Spec s = Standard::spec();
    append_gates(s);
    append_activation(s, "h", "h_alpha", "h_beta", Activation::scaled_tanh);
    s.saved = Phases::phases()[0].chains;
    s.phases = Phases::phases();
    return s;
  }
};

template <Coupling coupling, bool peephole>
struct GeneralLstm : GeneralLstmBase<Lstm<coupling, peephole>, Pointwise<GeneralLstmGates<coupling, peephole>>> {};

template <Coupling coupling, bool peephole>
struct GeneralProjectedLstm
    : GeneralLstmBase<ProjectedLstm<coupling, peephole>, Pointwise<GeneralLstmGates<coupling, peephole>, Projection>> {};

// ---- GRU: constants clip, f, g

template <class V, class Unit>
Chosen<V> gru_gate(const Unit& unit) {
  return {unit, 1, unit.constant(0)};
}

template <class V, class Unit>
Chosen<V> gru_candidate(const Unit& unit) {
  return {unit, 4, unit.constant(0)};
}

template <class V, class Unit>
V general_update(Update update, V z, V n, Unit& unit) {
  return update == Update::keep ? gru_update<Update::keep>(z, unit.h(), n) : gru_update<Update::write>(z, unit.h(), n);
}

template <class V, class Unit>
V general_update_backward(Update update, V dh, V z, V n, V& dn, Unit& unit) {
  return update == Update::keep ? gru_update_backward<Update::keep>(dh, z, n, dn, unit)
                                : gru_update_backward<Update::write>(dh, z, n, dn, unit);
}

template <class V, class Unit>
RECURRA_OUT_OF_LINE V general_gru(const V* a, Unit& unit, Update update) {
  const Chosen<V> f = gru_gate<V>(unit);
  const V r = activate(f, a[0]), z = activate(f, a[1]), pre = fma(r, a[3], a[2]);
  unit.save(0, a[0]), unit.save(1, a[1]), unit.save(2, pre), unit.save(3, a[3]);
  return general_update(update, z, activate(gru_candidate<V>(unit), pre), unit);
}

template <class V, class Unit>
RECURRA_OUT_OF_LINE void general_gru_backward(V dh, V* da, Unit& unit, Update update) {
  const Chosen<V> f = gru_gate<V>(unit);
  const Activated<V> r = differentiate(f, unit.saved(0)), z = differentiate(f, unit.saved(1));
  const Activated<V> n = differentiate(gru_candidate<V>(unit), unit.saved(2));
  V dn;
  const V dz = general_update_backward(update, dh, z.value, n.value, dn, unit);
  da[2] = dn * n.slope;
  da[3] = da[2] * r.value;
  da[1] = dz * z.slope;
  da[0] = da[2] * unit.saved(3) * r.slope;
}

template <Update update>
struct GeneralGruResetAfter {
  static constexpr Phase phase = general(GruResetAfter<update>::phase);

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    return general_gru(a, unit, update);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    general_gru_backward(dh, da, unit, update);
  }
};

struct GeneralGruReset {
  static constexpr Phase phase = general(GruReset::phase);

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const Chosen<V> f = gru_gate<V>(unit);
    unit.keep(0, activate(f, a[1]));
    unit.save(0, a[0]), unit.save(1, a[1]);
    return activate(f, a[0]) * unit.h();
  }

  template <class V, class Unit>
  static void backward(V dq, V* da, Unit& unit) {
    const Chosen<V> f = gru_gate<V>(unit);
    const Activated<V> r = differentiate(f, unit.saved(0));
    da[0] = dq * unit.h() * r.slope;
    da[1] = unit.d_kept(0) * differentiate(f, unit.saved(1)).slope;
    unit.add_d_h(dq * r.value);
  }
};

template <class V, class Unit>
RECURRA_OUT_OF_LINE V general_candidate(const V* a, Unit& unit, Update update) {
  unit.save(2, a[0]);
  return general_update(update, unit.kept(0), activate(gru_candidate<V>(unit), a[0]), unit);
}

template <class V, class Unit>
RECURRA_OUT_OF_LINE void general_candidate_backward(V dh, V* da, Unit& unit, Update update) {
  const V z = activate(gru_gate<V>(unit), unit.saved(1));
  const Activated<V> n = differentiate(gru_candidate<V>(unit), unit.saved(2));
  V dn;
  unit.set_d_kept(0, general_update_backward(update, dh, z, n.value, dn, unit));
  da[0] = dn * n.slope;
}

template <Update update>
struct GeneralGruCandidate {
  static constexpr Phase phase = general(GruCandidate<update>::phase);

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    return general_candidate(a, unit, update);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    general_candidate_backward(dh, da, unit, update);
  }
};

template <class Standard, class P>
struct GeneralGruBase {
  using Phases = P;
  static constexpr Spec spec() {
    Spec s = Standard::spec();
    append_gates(s);
    s.phases = Phases::phases();
    return s;
  }
};

template <Update update>
struct GeneralGruAfter : GeneralGruBase<GruAfter<update>, Pointwise<GeneralGruResetAfter<update>>> {};

template <Update update>
struct GeneralGruBefore : GeneralGruBase<GruBefore<update>, Pointwise<GeneralGruReset, GeneralGruCandidate<update>>> {};

}  // namespace recurra
