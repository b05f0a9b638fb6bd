// Activations on a vector: fixed sequences of IEEE operations, the same on every instruction set with a fused multiply-add.
// In float32 sigmoid and tanh lie within 2 ulp of the true value for every input (tests/cpp/activations.cpp tries all 2^32);
// NaN gives NaN. Subnormal numbers count as zero, as everywhere in the engine (Backend::enter), and so do results below the
// smallest normal number. Included by kernels.cpp after simd.h, in the same namespace.
//
// Both stand on exp(t) = 2^n (1 + p), with n = round(t / ln 2), r = t - n ln 2 and p = expm1(r) = r + r^2 q(r). The
// polynomials are Chebyshev fits (mpmath.chebyfit) of (expm1(r) - r) / r^2 over |r| <= ln(2) / 2 and, for small arguments, of
// (tanh(x) / x - 1) / x^2 in x^2 over |x| <= 0.55; their errors are about 0.1 ulp in either type.

template <class T>
struct Constants;

template <>
struct Constants<float> {
  using Int = int;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves round(x) in the low bits
  static constexpr float ln2_hi = 0.693359375f;      // 10 bits, so that n * ln2_hi is exact
  static constexpr float ln2_lo = -2.12194440e-4f;
  static constexpr float tanh_limit = 10.0f;     // tanh(x) rounds to 1 beyond 9.02
  static constexpr float sigmoid_limit = 87.5f;  // sigmoid(x) counts as 0 below -87.34; 2^n and 2^-n stay normal up to 87.68
  static constexpr float q[] = {1.3926250831497611718e-3f, 8.3632328836826182041e-3f, 4.1666554212984150314e-2f,
                                1.6666576666119928305e-1f, 0.5f};
  static constexpr float tanh[] = {-6.6034737560032391222e-3f, 2.130579190515235932e-2f, -5.3908841659100259053e-2f,
                                   1.333311074006183226e-1f, -3.333333198506049671e-1f};
};

template <>
struct Constants<double> {
  using Int = long long;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;     // 1.5 * 2^52
  static constexpr double ln2_hi = 6.93147180369123816490e-01;  // 33 bits
  static constexpr double ln2_lo = 1.90821492927058770002e-10;
  static constexpr double tanh_limit = 20.0;
  static constexpr double sigmoid_limit = 708.5;  // likewise 708.40 and 708.74
  static constexpr double q[] = {2.5100472505694996003e-8, 2.7620201591031548792e-7, 2.7557268276905696187e-6,
                                 2.4801521057868205199e-5, 1.9841269863171556026e-4, 1.3888888917367080562e-3,
                                 8.3333333333300381973e-3, 4.1666666666623820532e-2, 1.6666666666666667460e-1,
                                 0.50000000000000010314};
  static constexpr double tanh[] = {-2.0556481227849428388e-5, 8.5046409816780455264e-5,  -2.345939626300280444e-4,
                                    5.889222948725542448e-4,   -1.4556590344968791631e-3, 3.5921100283635908872e-3,
                                    -8.8632343711986176177e-3, 2.1869488492510939724e-2,  -5.3968253967408654727e-2,
                                    1.3333333333332693382e-1,  -3.3333333333333332531e-1};
};

template <class T>
RECURRA_FN Vec<T> abs(Vec<T> x) {
  constexpr auto mask = typename Constants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits(x.bits() & mask);
}

// The magnitude of `size` (which has no sign) with the sign of `sign`.
template <class T>
RECURRA_FN Vec<T> with_sign(Vec<T> size, Vec<T> sign) {
  constexpr auto mask = typename Constants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits((size.bits() & mask) | (sign.bits() & ~mask));
}

template <class T>
RECURRA_FN Vec<T> clip(Vec<T> x, Vec<T> bound) {
  return max(-bound, min(bound, x));
}

// v where |x| <= bound, 0 elsewhere: the gradient of clip.
template <class T>
RECURRA_FN Vec<T> where_inside(Vec<T> x, Vec<T> bound, Vec<T> v) {
  return select(bound < abs(x), Vec<T>(0), v);
}

template <class T>
RECURRA_FN Vec<T> relu(Vec<T> x) {
  return select(x < Vec<T>(0), Vec<T>(0), x);
}

// coefficients[0] x^(terms-1) + ... + coefficients[terms-1].
template <class T, int terms>
RECURRA_FN Vec<T> polynomial(const T (&coefficients)[terms], Vec<T> x) {
  Vec<T> sum(coefficients[0]);
#pragma GCC unroll 16
  for (int i = 1; i < terms; ++i) sum = fma(sum, x, Vec<T>(coefficients[i]));
  return sum;
}

// n = round(t / ln 2) and p = expm1(t - n ln 2).
template <class T>
struct ReducedExp {
  typename Vec<T>::Bits n;
  Vec<T> p;
};

template <class T>
RECURRA_FN ReducedExp<T> reduced_exp(Vec<T> t) {
  using C = Constants<T>;
  const Vec<T> magic(C::round_magic);
  const Vec<T> rounded = fma(t, Vec<T>(T(1.44269504088896340736)), magic);
  const Vec<T> n = rounded - magic;
  Vec<T> r = fma(n, Vec<T>(-C::ln2_hi), t);
  r = fma(n, Vec<T>(-C::ln2_lo), r);
  return {rounded.bits() - magic.bits(), fma(r * r, polynomial<T>(C::q, r), r)};
}

// 2^n for n in the range of normal numbers.
template <class T>
RECURRA_FN Vec<T> power_of_two(typename Vec<T>::Bits n) {
  using C = Constants<T>;
  return Vec<T>::from_bits((n + C::exponent_bias) << C::mantissa_bits);
}

// 1 / (1 + e) with e = exp(-x) = 2^n (1 + p), where 1 + e = 2^n ((p + 2^-n) + 1): the smaller two first, since e may be so
// large that adding 1 to it would do nothing, and rounding e itself would cost too much.
template <class T>
RECURRA_FN Vec<T> sigmoid(Vec<T> x) {
  const ReducedExp<T> e = reduced_exp(-clip(x, Vec<T>(Constants<T>::sigmoid_limit)));
  const Vec<T> scale = power_of_two<T>(e.n), inverse = power_of_two<T>(-e.n);
  return Vec<T>(1) / fma(scale, e.p + inverse, scale);
}

// 1 - 2e / (1 + e) with e = exp(-2|x|) while that is above 1/2, an odd polynomial below, where the difference would cancel.
template <class T>
RECURRA_FN Vec<T> tanh(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> one(1), size = abs(x);
  const Vec<T> t = -min(Vec<T>(C::tanh_limit), size);
  const ReducedExp<T> r = reduced_exp(t + t);
  const Vec<T> scale = power_of_two<T>(r.n);
  const Vec<T> e = fma(scale, r.p, scale);
  const Vec<T> large = one - (e + e) / (one + e);
  const Vec<T> square = x * x;
  const Vec<T> small = fma(size * square, polynomial<T>(C::tanh, square), size);
  return with_sign(select(size < Vec<T>(T(0.55)), small, large), x);
}
