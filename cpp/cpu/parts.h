// Sums over the units of a row. Included by kernels.cpp after math.h, in the same namespace.

template <class T>
struct Parts {
  static constexpr int vectors = kParts / Vec<T>::lanes;
  static_assert(vectors * Vec<T>::lanes == kParts, "a part is a lane");
  Vec<T> part[vectors];

  RECURRA_FN Parts() {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) part[v] = Vec<T>(0);
  }
  // term(at, sum) is sum with the terms of the vector at `at` added.
  template <class Term>
  RECURRA_FN void add(ptrdiff_t size, const Term& term) {
    for (ptrdiff_t i = 0; i < size; i += kParts)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) part[v] = term(i + v * Vec<T>::lanes, part[v]);
  }
  RECURRA_FN T total() const {
    T sum[kParts];
    for (int v = 0; v < vectors; ++v) part[v].store(sum + v * Vec<T>::lanes);
    for (int half = kParts / 2; half; half /= 2)
      for (int i = 0; i < half; ++i) sum[i] = sum[i] + sum[i + half];
    return sum[0];
  }
};
