#include "arithmetic.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace recurra {
namespace detail {
namespace {

constexpr int kParts = 16;

// The sum of term(i), i in part i mod kParts.
template <class T, class Term>
T sum_of(int64_t size, const Term& term) {
  T parts[kParts] = {};
  int64_t i = 0;
  for (; i + kParts <= size; i += kParts)
    for (int p = 0; p < kParts; ++p) parts[p] = parts[p] + term(i + p);
  for (int p = 0; i < size; ++i, ++p) parts[p] = parts[p] + term(i);
  for (int half = kParts / 2; half; half /= 2)
    for (int p = 0; p < half; ++p) parts[p] = parts[p] + parts[p + half];
  return parts[0];
}

// Numbers whose squares overflow, times this, have squares that neither overflow nor vanish.
template <class T>
constexpr T kSmall = sizeof(T) == 4 ? T(0x1p-100) : T(0x1p-800);

// (x - mean) / sqrt(variance + eps) times weight plus bias; whether the squares were finite.
template <class T>
bool normalized(const T* x, int64_t size, T eps, const T* weight, const T* bias, T* y) {
  const T mean = sum_of<T>(size, [&](int64_t i) { return x[i]; }) / T(size);
  const T squares = sum_of<T>(size, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  if (!(squares <= std::numeric_limits<T>::max())) return false;
  const T scale = T(1) / std::sqrt(squares / T(size) + eps);
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
  return true;
}

}  // namespace

template <class T>
void layer_norm(const T* x, int64_t rows, int64_t size, T eps, const T* weight, const T* bias, T* y) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    if (normalized(x, size, eps, weight, bias, y)) continue;
    for (int64_t i = 0; i < size; ++i) y[i] = x[i] * kSmall<T>;  // y may be x
    if (!normalized(y, size, std::numeric_limits<T>::min(), weight, bias, y))
      std::fill_n(y, size, std::numeric_limits<T>::quiet_NaN());
  }
}

template <class T>
void scale(const T* x, int64_t rows, int64_t size, const T* weight, const T* bias, T* y) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size)
    for (int64_t i = 0; i < size; ++i) y[i] = x[i] * weight[i] + bias[i];
}

template <class T>
void add(const T* a, const T* b, int64_t count, T* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

template <class T>
void multiply(const T* a, const T* b, int64_t count, T* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] * b[i];
}

template void layer_norm(const float*, int64_t, int64_t, float, const float*, const float*, float*);
template void layer_norm(const double*, int64_t, int64_t, double, const double*, const double*, double*);
template void scale(const float*, int64_t, int64_t, const float*, const float*, float*);
template void scale(const double*, int64_t, int64_t, const double*, const double*, double*);
template void add(const float*, const float*, int64_t, float*);
template void add(const double*, const double*, int64_t, double*);
template void multiply(const float*, const float*, int64_t, float*);
template void multiply(const double*, const double*, int64_t, double*);

}  // namespace detail
}  // namespace recurra
