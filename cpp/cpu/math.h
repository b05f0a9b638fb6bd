// Activations on a vector: fixed sequences of IEEE operations, the same on every instruction set with a fused multiply-add.
// In float32 sigmoid and tanh lie within 2 ulp of the true value for every input (tests/cpp/activations.cpp tries all 2^32);
// NaN gives NaN. Subnormal numbers count as zero, as everywhere in the engine (Backend::enter), and so do results below the
// smallest normal number. Included by kernels.cpp after simd.h, in the same namespace.
//
// Both are built on exp(t) = 2^n (1 + p), with n = round(t / ln 2), r = t - n ln 2 and p = expm1(r) = r + r^2 q(r). Of all such
// polynomials q, before its rounding, has the least largest error relative to p over |r| <= ln(2) / 2: a quarter of an ulp, in
// float64 next to nothing.

template <class T>
struct Constants;

template <>
struct Constants<float> {
  using Int = int;
  using Word = unsigned;
  static constexpr int mantissa_bits = 23, exponent_bias = 127;
  static constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float ln2 = 0.69314718055994530942f;
  static constexpr float ln2_hi = 0.693359375f;  // 10 bits, so that n * ln2_hi is exact
  static constexpr float ln2_lo = -2.12194440e-4f;
  static constexpr float tanh_limit = 10.0f;     // tanh(x) rounds to 1 beyond 9.02
  static constexpr float sigmoid_limit = 87.5f;  // sigmoid(x) counts as 0 below -87.34; 2^n and 2^-n stay normal up to 87.68
  // log(1 + u) for 0 <= u <= 1, with s = u / (2 + u) and w = s^2, is u - (u^2 / 2 - s (u^2 / 2 + w l(w))): of l the best
  // polynomial in the same sense as q, to 10^-8 of it, in float64 to 3 10^-18.
  static constexpr float l[] = {0.23233564550884759835f, 0.21704531964135016566f, 0.28592499111789097226f,
                                0.39999703222809303994f, 0.66666667331171788623f};
  static constexpr float q[] = {1.3882508098085455983e-3f, 8.3665154035698447143e-3f, 4.1667199879079572634e-2f,
                                1.6666543656878698613e-1f, 0.49999998154461999735f};
};

template <>
struct Constants<double> {
  using Int = long long;
  using Word = unsigned long long;
  static constexpr int mantissa_bits = 52, exponent_bias = 1023;
  static constexpr double round_magic = 6755399441055744.0;     // 1.5 * 2^52
  static constexpr double ln2_hi = 6.93147180369123816490e-01;  // 33 bits
  static constexpr double ln2_lo = 1.90821492927058770002e-10;
  static constexpr double tanh_limit = 20.0;
  static constexpr double sigmoid_limit = 708.5;  // likewise 708.40 and 708.74
  static constexpr double l[] = {0.15638841596673274398, 0.07487560284710250753, 0.10846258642729251067, 0.11734138141073984751,
                                 0.13335189737450688544, 0.15384543423328554892, 0.18181819914031089697, 0.22222222197963058001,
                                 0.28571428571602465511, 0.39999999999999514578, 0.6666666666666666689};
  static constexpr double q[] = {2.0875296917534827267e-9, 2.5108971110336515679e-8, 2.7557402724440104331e-7,
                                 2.7557244393472935855e-6, 2.4801587172471676598e-5, 1.9841269885950160885e-4,
                                 1.3888888888962391099e-3, 8.3333333333216961905e-3, 4.1666666666666508765e-2,
                                 1.6666666666666676504e-1, 5.0000000000000000000e-1};
};

template <class T>
RECURRA_FN Vec<T> abs(Vec<T> x) {
  constexpr auto mask = typename Constants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits(x.bits() & mask);
}

template <class T>
RECURRA_FN Vec<T> minus_abs(Vec<T> x) {
  constexpr auto mask = typename Constants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits(x.bits() | ~mask);
}

// `size`, which has no sign, with the sign of `sign`.
template <class T>
RECURRA_FN Vec<T> with_sign(Vec<T> size, Vec<T> sign) {
  constexpr auto mask = typename Constants<T>::Int(~0ull >> (65 - 8 * sizeof(T)));
  return Vec<T>::from_bits(size.bits() | (sign.bits() & ~mask));
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

// coefficients[0] x^(terms-1) + ... + coefficients[terms-1], with x^2 at hand: pairs of terms are made side by side, so that
// the chain of operations that wait for each other is half of Horner's, and as many in all.
template <class T, int terms>
RECURRA_FN Vec<T> polynomial(const T (&coefficients)[terms], Vec<T> x, Vec<T> square) {
  static_assert(terms % 2 == 1, "one term, then pairs");
  Vec<T> sum(coefficients[0]);
  if constexpr (!kFusesProducts) {  // where products are rounded, by Horner: pairs made tanh 2.07 ulp
    for (int i = 1; i < terms; ++i) sum = fma(sum, x, Vec<T>(coefficients[i]));
    return sum;
  }
#pragma GCC unroll 16
  for (int i = 1; i < terms; i += 2) sum = fma(sum, square, fma(x, Vec<T>(coefficients[i]), Vec<T>(coefficients[i + 1])));
  return sum;
}

// 2^n for n = round(t / ln 2), and p = expm1(t - n ln 2).
template <class T>
struct ReducedExp {
  Vec<T> scale, p;
};

// Of t = factor * x, where factor is 2 or -1: a factor inside a constant costs no time.
// Adding `round_magic` leaves round(x) in the low bits; with the bias there as well, they only have to be shifted to be 2^n.
template <int factor, class T>
RECURRA_FN ReducedExp<T> reduced_exp(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> magic(C::round_magic + C::exponent_bias), t = x * Vec<T>(factor);
  const Vec<T> rounded = fma(x, Vec<T>(factor * T(1.44269504088896340736)), magic);
  const Vec<T> n = rounded - magic;
  const Vec<T> scale = Vec<T>::from_bits(rounded.bits() << C::mantissa_bits);
  if constexpr (sizeof(T) == sizeof(float) && factor == 2 && kFusesProducts) {
    // tanh's e counts for 2^n of it, so what ln 2 loses when it is rounded to float32, n times, does not show: one step less.
    const Vec<T> r = fma(n, Vec<T>(-C::ln2), t), square = r * r;
    return {scale, fma(square, polynomial<T>(C::q, r, square), r)};
  }
  const Vec<T> high = fma(n, Vec<T>(-C::ln2_hi), t), r = fma(n, Vec<T>(-C::ln2_lo), high);
  const Vec<T> square = r * r, q = polynomial<T>(C::q, r, square);
  if constexpr (sizeof(T) == sizeof(float)) return {scale, fma(square, q, r)};
  // r as high + low, or tanh would be off by up to 2.06 ulp; in float32 it is by 1.97 at most even so.
  return {scale, high + fma(square, q, n * Vec<T>(-C::ln2_lo))};
}

// 1 / power, a power of two.
template <class T>
RECURRA_FN Vec<T> inverse(Vec<T> power) {
  using C = Constants<T>;
  return Vec<T>::from_words((typename C::Word(2 * C::exponent_bias) << C::mantissa_bits) - power.words());
}

// f(x) by a call: the polynomials of float64 are long, and every cell would hold copies of them.
template <auto f, class T>
__attribute__((noinline)) Vec<T> called(Vec<T> x) {
  return f(x);
}

// 1 / (1 + e) with e = exp(-x) = 2^n (1 + p), where 1 + e = 2^n ((p + 2^-n) + 1): the smaller two first, since e may be so
// large that adding 1 to it would do nothing, and rounding e itself would cost too much.
template <class T>
RECURRA_FN Vec<T> inline_sigmoid(Vec<T> x) {
  const ReducedExp<T> e = reduced_exp<-1>(clip(x, Vec<T>(Constants<T>::sigmoid_limit)));
  return Vec<T>(1) / fma(e.scale, e.p + inverse(e.scale), e.scale);
}

template <class T>
RECURRA_FN Vec<T> sigmoid(Vec<T> x) {
  if constexpr (kLittleCode<T>)
    return called<inline_sigmoid<T>>(x);
  else
    return inline_sigmoid(x);
}

// With e = exp(-2|x|), (1 - e) / (1 + e) near zero, which keeps small results exact, and 1 - 2e / (1 + e) far from it, which
// keeps those near 1 so: one division, of either numerator, and e = 2^n (1 + p) itself is never rounded.
template <class T>
RECURRA_FN Vec<T> inline_tanh(Vec<T> x) {
  using C = Constants<T>;
  const Vec<T> one(1), t = max(Vec<T>(-C::tanh_limit), minus_abs(x));
  const auto far = t < Vec<T>(T(-0.87));
  const ReducedExp<T> e = reduced_exp<2>(t);
  const Vec<T> minus = -e.scale;
  const Vec<T> numerator = fma(select(far, minus + minus, minus), e.p, minus + select(far, minus, one));
  const Vec<T> quotient = numerator / fma(e.scale, e.p, one + e.scale);
  return with_sign(select(far, one + quotient, quotient), x);
}

template <class T>
RECURRA_FN Vec<T> tanh(Vec<T> x) {
  if constexpr (kLittleCode<T>)
    return called<inline_tanh<T>>(x);
  else
    return inline_tanh(x);
}

// exp(x); what is beyond the limit of sigmoid counts as that, so from there on down the result is zero.
template <class T>
RECURRA_FN Vec<T> inline_exp(Vec<T> x) {
  const ReducedExp<T> e = reduced_exp<-1>(clip(-x, Vec<T>(Constants<T>::sigmoid_limit)));
  if constexpr (!kFusesProducts) return e.scale * (Vec<T>(1) + e.p);
  return fma(e.scale, e.p, e.scale);
}

template <class T>
RECURRA_FN Vec<T> exp(Vec<T> x) {
  if constexpr (kLittleCode<T>)
    return called<inline_exp<T>>(x);
  else
    return inline_exp(x);
}

// exp(x) - 1 for x <= 0.
template <class T>
RECURRA_FN Vec<T> expm1_below(Vec<T> x) {
  const ReducedExp<T> e = reduced_exp<-1>(min(Vec<T>(Constants<T>::sigmoid_limit), -x));
  return fma(e.scale, e.p, e.scale - Vec<T>(1));
}

// log(1 + u) for 0 <= u <= 1.
template <class T>
RECURRA_FN Vec<T> log1p_of_unit(Vec<T> u) {
  const Vec<T> half_square = u * u * Vec<T>(T(0.5)), s = u / (Vec<T>(2) + u), w = s * s;
  const Vec<T> r = w * polynomial<T>(Constants<T>::l, w, w * w);
  return u - (half_square - s * (half_square + r));
}

// log(1 + exp(x)), of exp(-|x|), which is at most 1.
template <class T>
RECURRA_FN Vec<T> softplus(Vec<T> x) {
  return max(Vec<T>(0), x) + log1p_of_unit(exp(minus_abs(x)));
}

// log(sigmoid(x)).
template <class T>
RECURRA_FN Vec<T> log_sigmoid(Vec<T> x) {
  return -softplus(-x);
}
