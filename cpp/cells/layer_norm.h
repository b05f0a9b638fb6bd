// Layer-normalised LSTM and GRU. J. Ba, J. Kiros, G. Hinton, arXiv 1607.06450, in the form of the authors' LSTM and of Haste:
// means run over all gates of a unit's row, and the cell that is carried on is not normalised.
//
//   N(y) = (y - mean(y)) / sqrt(mean((y - mean(y))^2) + 1e-5), over a row; A = gx N(W x) and R = gh N(U h(t-1))
//   LSTM:  i, f, o = s(A + R + b)    g = tanh(A_g + R_g + b_g)    c = clip(f c(t-1) + i g)    h = o tanh(gc N(c) + bc)
//   GRU:   r, z = s(A + b_i + R + b_h)    n = tanh(A_n + b_in + r (R_n + b_hn))    h = z h(t-1) + (1 - z) n
#pragma once
#include "gru.h"

// Before a loop over a small array, which a GPU's compiler then keeps in registers. A CPU's may have it small.
#ifndef RECURRA_UNROLL
#define RECURRA_UNROLL
#endif
// Of functions that a CPU's compiler leaves small and apart.
#ifndef RECURRA_SMALL
#define RECURRA_SMALL
#endif

namespace recurra {

template <class V>
struct Norm {
  V mean, scale;

  V operator()(V y) const { return (y - mean) * scale; }
  // The gradient of y from t, that of N(y), and the means of t and of t N(y).
  V backward(V t, V normed, V mean_t, V mean_tn) const { return fma(-normed, mean_tn, t - mean_t) * scale; }
};

// Of each side s, over value(unit, s, k), k < n, of each unit. In two passes: the square of a mean may be much larger than the
// variance.
template <int n, int sides, class Row, class Value>
RECURRA_SMALL void find_norms(Row& row, Norm<typename Row::Value> (&norm)[sides], const Value& value) {
  using V = typename Row::Value;
  V mean[sides];
  const auto find = [&](const auto& with) {
    auto sums = row.template sums<sides>();
    row.each([&](auto& u) {
      RECURRA_UNROLL
      for (int s = 0; s < sides; ++s) {
        V all(0);
        RECURRA_UNROLL
        for (int k = 0; k < n; ++k) all = with(all, value(u, s, k), s);
        sums.add(u, s, all);
      }
    });
    row.means(sums, n, mean);
  };
  find([](V all, V v, int) { return all + v; });
  RECURRA_UNROLL
  for (int s = 0; s < sides; ++s) norm[s].mean = mean[s];
  find([&](V all, V v, int s) {
    const V distance = v - norm[s].mean;
    return fma(distance, distance, all);
  });
  RECURRA_UNROLL
  for (int s = 0; s < sides; ++s) norm[s].scale = V(1) / sqrt(mean[s] + V(1e-5));
}

// Both products of a row, whose gains are its first 2 * gates vectors.
template <int gates, class Row>
struct NormedSides {
  using V = typename Row::Value;
  Row& row;
  Norm<V> norm[2];

  explicit NormedSides(Row& row) : row(row) {
    find_norms<gates>(row, norm, [](auto& u, int s, int g) { return u.side(s, g); });
  }

  template <class Unit>
  V operator()(Unit& u, int s, int g, V bias) const {
    return fma(u.vector(s * gates + g), norm[s](u.side(s, g)), bias);
  }

  template <class Unit>
  void save(Unit& u) const {
    RECURRA_UNROLL
    for (int s = 0; s < 2; ++s) RECURRA_UNROLL
    for (int g = 0; g < gates; ++g) u.save(s * gates + g, u.side(s, g));
  }

  // From d(unit, side, gate), the gradient of what the operator returned.
  template <class Gradient>
  void backward(const Gradient& d) const {
    backward(0, norm[0], d);
    backward(1, norm[1], d);
  }

 private:
  template <class Gradient>
  RECURRA_SMALL void backward(int s, const Norm<V>& norm, const Gradient& d) const {
    auto sums = row.template sums<2>();
    row.each([&](auto& u) {
      V t(0), tn(0);
      RECURRA_UNROLL
      for (int g = 0; g < gates; ++g) {
        const V each = d(u, s, g) * u.vector(s * gates + g);
        t = t + each;
        tn = fma(each, norm(u.side(s, g)), tn);
      }
      sums.add(u, 0, t), sums.add(u, 1, tn);
    });
    V mean[2];
    row.means(sums, gates, mean);
    row.each([&](auto& u) {
      RECURRA_UNROLL
      for (int g = 0; g < gates; ++g) {
        const int k = s * gates + g;
        const V normed = norm(u.side(s, g)), each = d(u, s, g);
        u.set_d_vector(k, each * normed);
        u.set_da(k, norm.backward(each * u.vector(k), normed, mean[0], mean[1]));
      }
    });
  }
};

struct LayerNormLstmGates {
  static constexpr int kBias = 8, kGain = 12, kShift = 13;  // vectors
  static constexpr Phase phase = {
      {"weight_ih", nullptr, 0, 4, {0, 1, 2, 3}},
      {"weight_hh", nullptr, 0, 4, {4, 5, 6, 7}},
      8,
      Dim::hidden,
      nullptr,
      14,
      true,
      true,
      List<Product, 5>({Product{nullptr, "gamma_x", 0, 4, {8, 9, 10, 11}}, Product{nullptr, "gamma_h", 0, 4, {12, 13, 14, 15}},
                        Product{nullptr, "bias_ih", 0, 4, {16, 17, 18, 19}}, Product{nullptr, "gamma_c", 0, 1, {20}},
                        Product{nullptr, "beta_c", 0, 1, {21}}}),
      false,
      true};

  template <class Row>
  RECURRA_SMALL static void forward(Row& row) {
    using V = typename Row::Value;
    const NormedSides<4, Row> sides(row);
    row.each([&](auto& u) {
      const Gates<V> a = gates_of<V>(u, sides);
      u.keep(0, a.o), u.keep(1, clip(a.unclipped, u.constant(0)));
      sides.save(u);
    });
    Norm<V> norm[1];
    find_norms<1>(row, norm, [](auto& u, int, int) { return u.kept(1); });
    row.each([&](auto& u) {
      const V c = u.kept(1);
      u.set_state(0, c);
      u.set_result(u.kept(0) * tanh(fma(u.vector(kGain), norm[0](c), u.vector(kShift))));
    });
  }

  template <class Row>
  RECURRA_SMALL static void backward(Row& row) {
    using V = typename Row::Value;
    const V one(1);
    const NormedSides<4, Row> sides(row);
    row.each([&](auto& u) {
      const Gates<V> a = gates_of<V>(u, sides);
      u.set_d_kept(0, a.i), u.set_d_kept(1, a.f), u.set_d_kept(2, a.g), u.set_d_kept(3, a.o), u.set_d_kept(4, a.unclipped);
    });

    const auto cell = [](auto& u) { return clip(u.d_kept(4), u.constant(0)); };
    Norm<V> norm[1];
    find_norms<1>(row, norm, [&](auto& u, int, int) { return cell(u); });
    auto sums = row.template sums<2>();
    row.each([&](auto& u) {
      const V dh = u.d_result(), o = u.d_kept(3), normed = norm[0](cell(u));
      const V q = tanh(fma(u.vector(kGain), normed, u.vector(kShift)));
      const V d = dh * o * ((one - q) * (one + q)), t = d * u.vector(kGain);
      u.set_d_vector(kGain, d * normed), u.set_d_vector(kShift, d);
      u.set_d_kept(3, dh * q * (o * (one - o))), u.set_d_kept(5, t);
      sums.add(u, 0, t), sums.add(u, 1, t * normed);
    });

    V mean[2];
    row.means(sums, 1, mean);
    row.each([&](auto& u) {
      const V i = u.d_kept(0), f = u.d_kept(1), g = u.d_kept(2);
      const V through = norm[0].backward(u.d_kept(5), norm[0](cell(u)), mean[0], mean[1]);
      const V dc = where_inside(u.d_kept(4), u.constant(0), u.d_state(0) + through);
      const V da[] = {dc * g * (i * (one - i)), dc * u.state(0) * (f * (one - f)), dc * i * ((one - g) * (one + g)),
                      u.d_kept(3)};
      RECURRA_UNROLL
      for (int k = 0; k < 4; ++k) u.set_d_kept(k, da[k]), u.set_d_vector(kBias + k, da[k]);
      u.set_d_state(0, dc * f);
      u.set_d_h(V(0));
    });
    sides.backward([](auto& u, int, int g) { return u.d_kept(g); });
  }

 private:
  template <class V>
  struct Gates {
    V i, f, g, o, unclipped;
  };

  template <class V, class Unit, class Sides>
  static Gates<V> gates_of(Unit& u, const Sides& sides) {
    V a[4];
    RECURRA_UNROLL
    for (int g = 0; g < 4; ++g) {
      const V sum = sides(u, 0, g, sides(u, 1, g, u.vector(kBias + g)));
      a[g] = g == 2 ? tanh(sum) : sigmoid(sum);
    }
    return {a[0], a[1], a[2], a[3], fma(a[1], u.state(0), a[0] * a[2])};
  }
};

struct LayerNormLstm {
  using Phases = Pointwise<LayerNormLstmGates>;

  static constexpr Spec spec() {
    return {
        "ifgo",
        List<Param, 8>({Param{"weight_ih", 4, Dim::hidden, Dim::input}, Param{"weight_hh", 4, Dim::hidden, Dim::output},
                        Param{"bias_ih", 4, Dim::hidden, Dim::one, true}, Param{"gamma_x", 4, Dim::hidden},
                        Param{"gamma_h", 4, Dim::hidden}, Param{"gamma_c", 1, Dim::hidden}, Param{"beta_c", 1, Dim::hidden}}),
        List<State, kMaxStates>({State{"h", Dim::output}, State{"c", Dim::hidden}}),
        List<Constant, kMaxConstants>({Constant{"cell_clip", kInfinity}}),
        6,
        8,
        Phases::phases()};
  }
};

struct LayerNormGruGates {
  static constexpr int kBias = 6;  // vectors
  static constexpr Phase phase = {
      {"weight_ih", nullptr, 0, 3, {0, 1, 2}},
      {"weight_hh", nullptr, 0, 3, {3, 4, 5}},
      6,
      Dim::hidden,
      nullptr,
      12,
      true,
      false,
      List<Product, 5>({Product{nullptr, "gamma_x", 0, 3, {6, 7, 8}}, Product{nullptr, "gamma_h", 0, 3, {9, 10, 11}},
                        Product{nullptr, "bias_ih", 0, 3, {12, 13, 14}}, Product{nullptr, "bias_hh", 0, 3, {15, 16, 17}}}),
      false,
      true};

  template <class Row>
  RECURRA_SMALL static void forward(Row& row) {
    using V = typename Row::Value;
    const NormedSides<3, Row> sides(row);
    row.each([&](auto& u) {
      const Gates<V> a = gates_of<V>(u, sides);
      sides.save(u);
      u.set_result(gru_update<Update::keep>(a.z, u.h(), a.n));
    });
  }

  template <class Row>
  RECURRA_SMALL static void backward(Row& row) {
    using V = typename Row::Value;
    const V one(1);
    const NormedSides<3, Row> sides(row);
    row.each([&](auto& u) {
      const Gates<V> a = gates_of<V>(u, sides);
      const V dh = u.d_result(), dn = dh * (one - a.z) * ((one - a.n) * (one + a.n));
      const V dr = dn * a.q * (a.r * (one - a.r)), dz = dh * (u.h() - a.n) * (a.z * (one - a.z));
      const V d[] = {dr, dz, dn, dr, dz, dn * a.r};
      RECURRA_UNROLL
      for (int k = 0; k < 6; ++k) u.set_d_kept(k, d[k]), u.set_d_vector(kBias + k, d[k]);
      u.set_d_h(dh * a.z);
    });
    sides.backward([](auto& u, int s, int g) { return u.d_kept(3 * s + g); });
  }

 private:
  template <class V>
  struct Gates {
    V r, z, n, q;  // q: the recurrent side of the candidate
  };

  template <class V, class Unit, class Sides>
  static Gates<V> gates_of(Unit& u, const Sides& sides) {
    V x[3], h[3];
    RECURRA_UNROLL
    for (int g = 0; g < 3; ++g) x[g] = sides(u, 0, g, u.vector(kBias + g)), h[g] = sides(u, 1, g, u.vector(kBias + 3 + g));
    const V r = sigmoid(x[0] + h[0]), z = sigmoid(x[1] + h[1]);
    return {r, z, tanh(fma(r, h[2], x[2])), h[2]};
  }
};

struct LayerNormGru {
  using Phases = Pointwise<LayerNormGruGates>;

  static constexpr Spec spec() {
    Spec s = {"rzn", gate_params(3), List<State, kMaxStates>({State{"h", Dim::output}}), {}, 6, 6, Phases::phases()};
    const Param gains[] = {{"gamma_x", 3, Dim::hidden}, {"gamma_h", 3, Dim::hidden}};
    s.params.append(gains, 2);
    return s;
  }
};

}  // namespace recurra
