// An affine map of rows made ready, on the products of backpropagation.
#pragma once
#include "model.h"

namespace recurra {

// Tiles over the outputs for forward, over the inputs for backward.
template <class T>
struct Linear<T>::Weights {
  static constexpr int64_t kChunkRows = 256;

  const int64_t inputs, outputs;
  const Backend& backend = recurra::backend();
  const int lanes = kernels<T>(backend).lanes;
  detail::Buffer<T> bias, forward, backward;

  Weights(int64_t inputs, int64_t outputs, const T* weight, const T* bias);

  int64_t tiles(int64_t units) const { return (units + lanes - 1) / lanes; }

  // y[r] = x[r] W^T + b, at most kChunkRows rows.
  void apply(const Panel<const T>& x, int64_t rows, const Rows<T>& y) const;
  // out (+)= a times one of the packed matrices, at most kChunkRows rows.
  void product(const detail::Buffer<T>& packed, int64_t summed, int64_t columns, const Panel<const T>& a, int64_t rows,
               const Rows<T>& out, bool add) const;
};

}  // namespace recurra
