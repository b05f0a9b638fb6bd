// Cells whose units do not see each other's state: no recurrent product, each unit has a recurrence of its own.
//
// IndRNN (S. Li et al., arXiv 1803.04831), f: relu or tanh:
//   h = f(W x + b + u h(t-1))
// minGRU (L. Feng et al., arXiv 2410.01201), G: the identity or, positive, a + 1/2 for a > 0 and s(a) below:
//   z = s(W_z x + b_z)    h = (1 - z) h(t-1) + z G(W_n x + b_n)
// minLSTM (ibid.):
//   f = s(W_f x + b_f)    i = s(W_i x + b_i)    p = f / (f + i)    h = p h(t-1) + (1 - p) G(W_n x + b_n)
// SRU (T. Lei et al., arXiv 1709.02755), with a projected highway, g: the identity or tanh:
//   f = s(W_f x + v_f c(t-1) + b_f)    r = s(W_r x + v_r c(t-1) + b_r)
//   c = f c(t-1) + (1 - f) W_u x       h = r g(c) + (1 - r) W_s x
#pragma once
#include "rnn.h"

namespace recurra {

template <class F>
struct IndRnnUpdate {
  static constexpr Phase phase = {input_gates(0, 1), {}, 1, Dim::hidden, "weight_u", 1};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V h = F::apply(fma(unit.vector(0), unit.h(), a[0]));
    unit.save(0, h);
    return h;
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    da[0] = dh * F::derivative(unit.saved(0));
    unit.set_d_vector(0, da[0] * unit.h());
    unit.add_d_h(da[0] * unit.vector(0));
  }
};

struct Identity {
  template <class V>
  static V apply(V a) {
    return a;
  }
  template <class V>
  static V derivative(V) {
    return V(1);
  }
};

struct Positive {
  template <class V>
  static V apply(V a) {
    return select(V(0) < a, a + V(0.5), sigmoid(a));
  }
  template <class V>
  static V derivative(V g) {
    return select(V(0.5) < g, V(1), g * (V(1) - g));
  }
};

template <class G>
struct MinGruUpdate {
  static constexpr Phase phase = {input_gates(0, 2), {}, 2};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    // n may be large, so that 1 - z is not left to a difference.
    const V z = sigmoid(a[0]), kept = sigmoid(-a[0]), n = G::apply(a[1]);
    unit.save(0, z), unit.save(1, kept), unit.save(2, n);
    return fma(z, n, kept * unit.h());
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V z = unit.saved(0), kept = unit.saved(1), n = unit.saved(2);
    da[0] = dh * (n - unit.h()) * (z * kept);
    da[1] = dh * z * G::derivative(n);
    unit.add_d_h(dh * kept);
  }
};

template <class G>
struct MinLstmUpdate {
  static constexpr Phase phase = {input_gates(0, 3), {}, 3};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V f = sigmoid(a[0]), i = sigmoid(a[1]), n = G::apply(a[2]), sum = f + i;
    // Where both gates are about to underflow they are powers of e. n may be large: 1 - p is not left to a difference.
    const auto tiny = sum < V(1e-30);
    const V p = select(tiny, sigmoid(a[0] - a[1]), f / sum), q = select(tiny, sigmoid(a[1] - a[0]), i / sum);
    unit.save(0, p), unit.save(1, q), unit.save(2, f), unit.save(3, i), unit.save(4, n);
    return fma(p, unit.h(), q * n);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), p = unit.saved(0), q = unit.saved(1), f = unit.saved(2), i = unit.saved(3), n = unit.saved(4);
    const V d = dh * (unit.h() - n) * (p * q);
    da[0] = d * (one - f);
    da[1] = -(d * (one - i));
    da[2] = dh * q * G::derivative(n);
    unit.add_d_h(dh * p);
  }
};

template <class G>
struct SruUpdate {
  static constexpr Phase phase = {{"weight_ih", nullptr, 0, 4, {0, 1, 2, 3}},
                                  {},
                                  4,
                                  Dim::hidden,
                                  "weight_v",
                                  2,
                                  false,
                                  true,
                                  List<Product, 5>({Product{nullptr, "bias_ih", 0, 2, {1, 2}}})};

  template <class V, class Unit>
  static V forward(const V* a, Unit& unit) {
    const V one(1), c_prev = unit.state(0);
    const V f = sigmoid(fma(unit.vector(0), c_prev, a[1])), r = sigmoid(fma(unit.vector(1), c_prev, a[2]));
    const V c = fma(f, c_prev, (one - f) * a[0]);
    unit.set_state(0, c);
    unit.save(0, a[0]), unit.save(1, f), unit.save(2, r), unit.save(3, a[3]);
    return fma(r, G::apply(c), (one - r) * a[3]);
  }

  template <class V, class Unit>
  static void backward(V dh, V* da, Unit& unit) {
    const V one(1), c_prev = unit.state(0), u = unit.saved(0), f = unit.saved(1), r = unit.saved(2), s = unit.saved(3);
    const V g = G::apply(fma(f, c_prev, (one - f) * u));
    const V dc = fma(dh * r, G::derivative(g), unit.d_state(0));
    da[0] = dc * (one - f);
    da[1] = dc * (c_prev - u) * (f * (one - f));
    da[2] = dh * (g - s) * (r * (one - r));
    da[3] = dh * (one - r);
    unit.set_d_vector(0, da[1] * c_prev);
    unit.set_d_vector(1, da[2] * c_prev);
    unit.set_d_state(0, fma(unit.vector(1), da[2], fma(unit.vector(0), da[1], dc * f)));
  }
};

template <int gates>
constexpr List<Param, 8> input_params() {
  return List<Param, 8>(
      {Param{"weight_ih", gates, Dim::hidden, Dim::input}, Param{"bias_ih", gates, Dim::hidden, Dim::one, true}});
}

constexpr List<State, kMaxStates> only_h() { return List<State, kMaxStates>({State{"h", Dim::output}}); }

template <class F>
struct IndRnn {
  using Phases = Pointwise<IndRnnUpdate<F>>;
  static constexpr Spec spec() {
    Spec s = {"h", input_params<1>(), only_h(), {}, 0, 1, Phases::phases()};
    const Param vectors[] = {{"weight_u", 1, Dim::hidden}};
    s.params.append(vectors, 1);
    return s;
  }
};

template <class G>
struct MinGru {
  using Phases = Pointwise<MinGruUpdate<G>>;
  static constexpr Spec spec() { return {"zn", input_params<2>(), only_h(), {}, 0, 3, Phases::phases()}; }
};

template <class G>
struct MinLstm {
  using Phases = Pointwise<MinLstmUpdate<G>>;
  static constexpr Spec spec() { return {"fin", input_params<3>(), only_h(), {}, 0, 5, Phases::phases()}; }
};

template <class G>
struct Sru {
  using Phases = Pointwise<SruUpdate<G>>;
  static constexpr Spec spec() {
    return {"ufrs",
            List<Param, 8>({Param{"weight_ih", 4, Dim::hidden, Dim::input}, Param{"bias_ih", 2, Dim::hidden, Dim::one, true},
                            Param{"weight_v", 2, Dim::hidden}}),
            List<State, kMaxStates>({State{"h", Dim::output}, State{"c", Dim::hidden}}),
            {},
            0,
            4,
            Phases::phases()};
  }
};

}  // namespace recurra
