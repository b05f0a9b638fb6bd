// Activations on a vector: fixed sequences of IEEE operations, the same on every instruction set with a fused multiply-add.
// In float32 sigmoid and tanh lie within 2 ulp of the true value for every input (tests/cpp/activations.cpp tries all 2^32);
// NaN gives NaN. Included by kernels.cpp after simd.h, in the same namespace.
//
// Both stand on one function: for t <= 0, exp(t) - 1 = 2^n p + (2^n - 1) with n = round(t / ln 2), r = t - n ln 2 and
// p = expm1(r) = r + r^2 q(r). q is a Chebyshev fit of (expm1(r) - r) / r^2 over |r| <= ln(2)/2 (mpmath.chebyfit); its error
// adds at most 0.01 ulp in either type. Near t = 0, n is 0 and p keeps its full relative accuracy, which is what tanh needs there.

template <class T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  using Int = int;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  static constexpr float ln2_hi = 0.693359375f;      // 10 bits, so that n * ln2_hi is exact
  static constexpr float ln2_lo = -2.12194440e-4f;
  static constexpr float tanh_limit = 10.0f;      // tanh(x) rounds to 1 beyond 9.02
  static constexpr float sigmoid_limit = 104.0f;  // exp(-x) rounds to 0 beyond 103.98
  static constexpr float q[] = {1.9890990824673653847e-4f, 1.3933649996309250429e-3f, 8.3333109254809008349e-3f,
                                4.1666464925285905408e-2f, 1.6666666681623231402e-1f, 0.5f};
};

template <>
struct ExpConstants<double> {
  using Int = long long;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;     // 1.5 * 2^52
  static constexpr double ln2_hi = 6.93147180369123816490e-01;  // 33 bits
  static constexpr double ln2_lo = 1.90821492927058770002e-10;
  static constexpr double tanh_limit = 20.0;
  static constexpr double sigmoid_limit = 746.0;
  static constexpr double q[] = {2.0914686968086877232e-9,  2.5105217004720745163e-8,  2.7557273643110295328e-7,
                                 2.755725540020642443e-6,   2.4801587325547741216e-5,  1.9841269874820625271e-4,
                                 1.3888888888883748305e-3,  8.3333333333261351258e-3,  4.1666666666666669755e-2,
                                 1.6666666666666670991e-1,  0.5};
};

template <class T>
RECURRA_FN Vec<T> abs(Vec<T> x) {
  constexpr auto mask = typename ExpConstants<T>::Int(~0ull >> (65 - 8 * sizeof(T)) );
  return Vec<T>::from_bits(x.bits() & mask);
}

// The magnitude of `size` (which has no sign) with the sign of `sign`.
template <class T>
RECURRA_FN Vec<T> with_sign(Vec<T> size, Vec<T> sign) {
  constexpr auto mask = typename ExpConstants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits((size.bits() & mask) | (sign.bits() & ~mask));
}

template <class T>
RECURRA_FN Vec<T> clip(Vec<T> x, Vec<T> bound) {
  x = select(bound < x, bound, x);
  return select(x < -bound, -bound, x);
}

template <class T>
RECURRA_FN Vec<T> relu(Vec<T> x) {
  return select(x < Vec<T>(0), Vec<T>(0), x);
}

// n = round(t / ln 2) and p = expm1(t - n ln 2).
template <class T>
struct ReducedExp {
  typename Vec<T>::Bits n;
  Vec<T> p;
};

template <class T>
RECURRA_FN ReducedExp<T> reduced_exp(Vec<T> t) {
  using C = ExpConstants<T>;
  const Vec<T> magic(C::round_magic);
  const Vec<T> rounded = fma(t, Vec<T>(T(1.44269504088896340736)), magic);
  const Vec<T> n = rounded - magic;
  Vec<T> r = fma(n, Vec<T>(-C::ln2_hi), t);
  r = fma(n, Vec<T>(-C::ln2_lo), r);
  constexpr int terms = sizeof(C::q) / sizeof(T);
  Vec<T> q(C::q[0]);
#pragma GCC unroll 16
  for (int i = 1; i < terms; ++i) q = fma(q, r, Vec<T>(C::q[i]));
  return {rounded.bits() - magic.bits(), fma(r * r, q, r)};
}

// 2^n for n in the range of normal numbers.
template <class T>
RECURRA_FN Vec<T> power_of_two(typename Vec<T>::Bits n) {
  using C = ExpConstants<T>;
  return Vec<T>::from_bits((n + C::exponent_bias) << C::mantissa_bits);
}

// s(x) = 1 / (1 + e) for x >= 0 and e / (1 + e) for x < 0, with e = exp(-|x|).
template <class T>
RECURRA_FN Vec<T> sigmoid(Vec<T> x) {
  using C = ExpConstants<T>;
  const Vec<T> one(1), limit(C::sigmoid_limit);
  const Vec<T> size = abs(x);
  const ReducedExp<T> e = reduced_exp(-select(limit < size, limit, size));
  // 2^n in two factors: at n < -126 one alone would be subnormal and could not be built.
  const auto half = e.n >> 1;
  const Vec<T> first = power_of_two<T>(half);
  const Vec<T> exp = fma(first, e.p, first) * power_of_two<T>(e.n - half);
  return select(x < Vec<T>(0), exp, one) / (one + exp);
}

// tanh(x) = -m / (2 + m) for x >= 0 with m = exp(-2x) - 1, and odd.
template <class T>
RECURRA_FN Vec<T> tanh(Vec<T> x) {
  using C = ExpConstants<T>;
  const Vec<T> limit(C::tanh_limit);
  const Vec<T> size = abs(x);
  const ReducedExp<T> e = reduced_exp(Vec<T>(-2) * select(limit < size, limit, size));
  const Vec<T> scale = power_of_two<T>(e.n);
  const Vec<T> m = fma(scale, e.p, scale - Vec<T>(1));
  return with_sign(m / (m + Vec<T>(2)), x);
}
