// Loops over numbers, which are plain C++: their order is fixed, and so are their bits.
#pragma once
#include <cstdint>

namespace recurra {
namespace detail {

// Of rows of so many numbers, with weights and biases of one row; sums are of 16 parts, as in cpu/parts.h. y may be x.
template <class T>
void layer_norm(const T* x, int64_t rows, int64_t size, T eps, const T* weight, const T* bias, T* y);
template <class T>
void scale(const T* x, int64_t rows, int64_t size, const T* weight, const T* bias, T* y);

template <class T>
void add(const T* a, const T* b, int64_t count, T* y);
template <class T>
void multiply(const T* a, const T* b, int64_t count, T* y);

}  // namespace detail
}  // namespace recurra
