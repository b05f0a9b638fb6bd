#include "linear.h"

#include <algorithm>
#include <cstring>

#include "../threads/team.h"
#include "arguments.h"
#include "worth.h"

namespace recurra {

using detail::Buffer;
using detail::expect;

template <class T>
Linear<T>::Weights::Weights(int64_t the_inputs, int64_t the_outputs, const T* weight, const T* bias)
    : inputs(the_inputs),
      outputs(the_outputs),
      forward(size_t(tiles(the_outputs) * width() * (1 + the_inputs) + lanes)),  // a last vector may read beyond
      backward(size_t(tiles(the_inputs) * lanes * the_outputs)) {
  for (int64_t o = 0; o < outputs; ++o) {
    T* to = forward.data() + o / lanes * (1 + inputs) * width() + o % lanes;
    if (bias) *to = bias[o];
    for (int64_t i = 0; i < inputs; ++i) {
      to[(1 + i) * width()] = weight[o * inputs + i];
      backward.data()[(i / lanes * outputs + o) * lanes + i % lanes] = weight[o * inputs + i];
    }
  }
}

template <class T>
AffineCall<T> Linear<T>::Weights::affine(const Panel<const T>& x, int64_t rows, const Panel<T>& y) const {
  AffineCall<T> call;
  call.tiles.base = forward.data();
  call.tiles.size = (1 + inputs) * width();
  call.width = width();
  call.tiles.units = int(outputs);
  call.tile_end = int(tiles(outputs));
  call.rows = int(rows);
  call.inputs = inputs;
  call.x = x;
  call.y = y;
  return call;
}

namespace {

constexpr int64_t kChunkRows = 256;

int workers_for(int64_t inputs, int64_t outputs, int64_t rows) {
  return double(inputs) * double(outputs) * double(rows) < kWorthWaking ? 1 : num_threads();
}

}  // namespace

template <class T>
Linear<T>::Linear(int64_t inputs, int64_t outputs, const T* weight, const T* bias) {
  const auto check_size = [](const char* name, int64_t size) {  // tiles count in an int
    if (size < 0 || size > INT_MAX)
      throw std::invalid_argument(std::string(name) + ": expected 0 to 2^31 - 1, got " + std::to_string(size));
  };
  check_size("inputs", inputs);
  check_size("outputs", outputs);
  expect(weight || !inputs || !outputs, "weight: expected values, got null");
  weights_ = std::make_shared<Weights>(inputs, outputs, weight, bias);
}

template <class T>
int64_t Linear<T>::inputs() const {
  return weights_->inputs;
}

template <class T>
int64_t Linear<T>::outputs() const {
  return weights_->outputs;
}

template <class T>
void Linear<T>::forward(const T* x, int64_t rows, T* y) const {
  const Weights& w = *weights_;
  TeamLease team(workers_for(w.inputs, w.outputs, rows));
  auto job = [&](int rank) {
    const Environment environment(w.backend);
    const int64_t end = rows * (rank + 1) / team.size();
    for (int64_t first = rows * rank / team.size(); first < end; first += kChunkRows)
      w.run(w.affine({x + first * w.inputs, w.inputs}, std::min(kChunkRows, end - first), {y + first * w.outputs, w.outputs}));
  };
  team.run(job);
}

template <class T>
void Linear<T>::backward(const T* x, const T* dy, int64_t rows, T* dx, T* d_weight, T* d_bias) const {
  if (!RECURRA_TRAINING) left_out("backward");
  const Weights& w = *weights_;
  // Whole vectors of x, and of ones, which sum up dy, for the outer product; its sums begin in the caller's arrays.
  const int64_t width = w.tiles(w.inputs + 1) * w.lanes;
  Blocks<T> padded;
  detail::Dealer counted;
  counted.blocks(padded, width, kChunkRows);
  const Buffer<char> memory(counted.used);
  detail::Dealer{memory.data()}.blocks(padded, width, kChunkRows);
  Buffer<T> sums(size_t(w.outputs * width));
  for (int64_t o = 0; o < w.outputs; ++o) {
    std::copy_n(d_weight + o * w.inputs, w.inputs, sums.data() + o * width);
    if (d_bias) sums.data()[o * width + w.inputs] = d_bias[o];
  }
  TeamLease team(workers_for(w.inputs, w.outputs, rows));
  Barrier barrier(team.size());
  auto job = [&](int rank) {
    const Environment environment(w.backend);
    const auto share = [&](int64_t count, int r) { return count * r / team.size(); };
    TransposedCall<T> to_x;
    to_x.tiles.base = w.backward.data();
    to_x.tiles.size = w.outputs * w.lanes;
    to_x.tiles.units = int(w.inputs);
    to_x.tile_end = int(w.tiles(w.inputs));
    to_x.gates = 1;
    to_x.summed = w.outputs;
    ptrdiff_t offset[kChunkRows];
    for (int64_t r = 0; r < std::min(kChunkRows, rows); ++r) offset[r] = r * w.inputs;
    for (int64_t first = share(rows, rank), end = share(rows, rank + 1); dx && first < end; first += kChunkRows) {
      to_x.rows = int(std::min(kChunkRows, end - first));
      to_x.a = {dy + first * w.outputs, w.outputs, to_x.a.width};
      to_x.out = {dx + first * w.inputs, offset};
      kernels<T>(w.backend).transposed(to_x);
    }
    const int64_t blocks = (width + padded.width - 1) / padded.width, block = share(blocks, rank);  // a worker's own
    for (int64_t first = 0; first < rows; first += kChunkRows) {
      const int64_t count = std::min(kChunkRows, rows - first);
      for (int64_t r = share(count, rank); r < share(count, rank + 1); ++r) {
        detail::copy_row(padded, r, x + (first + r) * w.inputs, w.inputs);
        *padded.at(r, w.inputs) = 1;
      }
      barrier.wait(rank);
      OuterCall<T> call;
      call.rows = int(count);
      call.a = {dy + first * w.outputs, w.outputs, call.a.width};
      call.end = w.outputs;
      call.x = {padded.base + block * padded.stride, padded.row, padded.stride};
      call.columns = std::min(width, share(blocks, rank + 1) * padded.width) - block * padded.width;
      call.out = {sums.data() + block * padded.width, width};
      call.add = true;
      kernels<T>(w.backend).outer(call);
      barrier.wait(rank);
    }
  };
  team.run(job);
  for (int64_t o = 0; o < w.outputs; ++o) {
    std::copy_n(sums.data() + o * width, w.inputs, d_weight + o * w.inputs);
    if (d_bias) d_bias[o] = sums.data()[o * width + w.inputs];
  }
}

template class Linear<float>;
template class Linear<double>;

}  // namespace recurra
