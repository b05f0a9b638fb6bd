// Numbers on the device: Vec<T> of one lane, for which the cells and the CPU's own sigmoid and tanh (cpu/math.h) are compiled
// unchanged, and the number types that weights may have. A translation unit defines RECURRA_NUMBER, the type of states and sums
// (float, double), and RECURRA_WEIGHT, that of weights and of the vectors they meet (the same, or half, bf16).
#pragma once
#include <cmath>

#include "cuda/kernels/device.cuh"

namespace recurra {
namespace cuda {

template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  union {
    From from;
    To to;
  } both = {from};
  return both.to;
}

inline float fma_of(float a, float b, float c) { return ::fmaf(a, b, c); }
inline double fma_of(double a, double b, double c) { return ::fma(a, b, c); }

// Subnormal numbers count as zero, as on the CPU. The compiler sees to it for float (-ftz=true); for double there is no such
// mode.
inline float flushed(float x) { return x; }
inline double flushed(double x) {
  return (bits_as<uint64_t>(x) & 0x7ff0000000000000u) ? x : bits_as<double>(bits_as<uint64_t>(x) & 0x8000000000000000u);
}

template <class T>
inline T clipped(T x, T limit) {
  return x < -limit ? -limit : x > limit ? limit : x;
}

template <class T>
struct VecBits;
template <>
struct VecBits<float> {
  using type = int;
  using word = unsigned;
};
template <>
struct VecBits<double> {
  using type = long long;
  using word = unsigned long long;
};

template <class T>
struct Vec {
  using Int = typename VecBits<T>::type;
  using Word = typename VecBits<T>::word;
  static constexpr int lanes = 1;
  T v;
  Vec() = default;
  explicit Vec(T a) : v(a) {}
  Int bits() const { return bits_as<Int>(v); }
  static Vec from_bits(Int b) { return Vec(bits_as<T>(b)); }
  Word words() const { return bits_as<Word>(v); }
  static Vec from_words(Word w) { return Vec(bits_as<T>(w)); }
  static Vec load(const T* p) { return Vec(flushed(*p)); }

  friend Vec operator+(Vec a, Vec b) { return Vec(flushed(a.v + b.v)); }
  friend Vec operator-(Vec a, Vec b) { return Vec(flushed(a.v - b.v)); }
  friend Vec operator*(Vec a, Vec b) { return Vec(flushed(a.v * b.v)); }
  friend Vec operator/(Vec a, Vec b) { return Vec(flushed(a.v / b.v)); }
  friend Vec operator-(Vec a) { return Vec(-a.v); }
  friend bool operator<(Vec a, Vec b) { return a.v < b.v; }
};

template <class T>
inline Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return Vec<T>(flushed(fma_of(a.v, b.v, c.v)));
}
// The smaller and the larger of a and b; NaN when b is NaN.
template <class T>
inline Vec<T> min(Vec<T> a, Vec<T> b) {
  return a.v < b.v ? a : b;
}
template <class T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a.v > b.v ? a : b;
}
inline Vec<float> sqrt(Vec<float> a) { return Vec<float>(flushed(::sqrtf(a.v))); }
inline Vec<double> sqrt(Vec<double> a) { return Vec<double>(flushed(::sqrt(a.v))); }
template <class T>
inline Vec<T> select(bool condition, Vec<T> yes, Vec<T> no) {
  return condition ? yes : no;
}

[[maybe_unused]] constexpr bool kFusesProducts = true;
template <class T>
constexpr bool kLittleCode = false;
#define RECURRA_FN inline
#include "cpu/math.h"
#undef RECURRA_FN

// ---- 16-bit numbers: the nearest one, ties to even

struct bf16 {
  uint16_t bits;
};
struct half {
  uint16_t bits;
};

inline float widened(bf16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }
inline float widened(half x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, size = x.bits & 0x7fff;
  if (size >= 0x7c00) return bits_as<float>(sign | 0x7f800000u | (size & 0x3ff) << 13);
  // 2^-24 times its integer value where it is subnormal.
  if (size < 0x400) return bits_as<float>(sign | bits_as<uint32_t>(float(size) * 5.9604644775390625e-8f));
  return bits_as<float>(sign | ((size << 13) + 0x38000000u));
}
inline float widened(float x) { return x; }
inline double widened(double x) { return x; }

template <class To>
struct Narrowed;
template <>
struct Narrowed<float> {
  static float of(float x) { return x; }
};
template <>
struct Narrowed<double> {
  static double of(double x) { return x; }
};
template <>
struct Narrowed<bf16> {
  static bf16 of(float x) {
    const uint32_t bits = bits_as<uint32_t>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t(bits >> 16 | 0x40)};  // a NaN must not round to infinity
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  }
};
template <>
struct Narrowed<half> {
  static half of(float x) {
    const uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return {uint16_t(sign | 0x7e00)};
    if (size >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};  // 65520 and more
    if (size >= 0x38800000u) return {uint16_t(sign | (size - 0x38000000u + 0xfff + (size >> 13 & 1)) >> 13)};
    // Subnormal: a sum with 0.5 leaves the nearest multiple of 2^-24 in the low bits.
    return {uint16_t(sign | (bits_as<uint32_t>(bits_as<float>(size) + 0.5f) - 0x3f000000u))};
  }
};

using Number = RECURRA_NUMBER;
using Weight = RECURRA_WEIGHT;
using V = Vec<Number>;

// What one load brings.
struct alignas(16) Words {
  uint32_t v[4];
};

inline Weight narrowed(Number x) { return Narrowed<Weight>::of(x); }

}  // namespace cuda
}  // namespace recurra
