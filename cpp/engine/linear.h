// An affine map of rows, packed; it uses the products of backpropagation.
#pragma once
#include "model.h"

namespace recurra {

// Weights in tiles over the outputs for AffineCall, over the inputs for TransposedCall.
template <class T>
struct Linear<T>::Weights {
  const int64_t inputs, outputs;
  const Backend& backend = recurra::backend();
  const int lanes = kernels<T>(backend).lanes;
  detail::Buffer<T> forward, backward;

  Weights(int64_t inputs, int64_t outputs, const T* weight, const T* bias);

  int64_t width() const { return outputs < lanes ? outputs : lanes; }  // of a forward tile
  int64_t tiles(int64_t units) const { return (units + lanes - 1) / lanes; }

  // y[r] = x[r] W^T + b.
  AffineCall<T> affine(const Panel<const T>& x, int64_t rows, const Panel<T>& y) const;
  void run(const AffineCall<T>& call) const { kernels<T>(backend).affine(call); }
};

}  // namespace recurra
