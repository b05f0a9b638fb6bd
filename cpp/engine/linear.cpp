// An affine map of rows, on the products of backpropagation.
#include <algorithm>
#include <cstring>

#include "../cpu/team.h"
#include "model.h"
#include "worth.h"

namespace recurra {

using detail::Buffer;

namespace {

constexpr int64_t kChunkRows = 256;

}  // namespace

// Tiles over the outputs for forward, over the inputs for backward.
template <class T>
struct Linear<T>::Weights {
  int64_t inputs, outputs;
  const Backend& backend = recurra::backend();
  int lanes = kernels<T>(backend).lanes;
  Buffer<T> bias, forward, backward;

  int64_t tiles(int64_t units) const { return (units + lanes - 1) / lanes; }

  Weights(int64_t the_inputs, int64_t the_outputs, const T* weight, const T* the_bias)
      : inputs(the_inputs),
        outputs(the_outputs),
        bias(size_t(the_outputs)),
        forward(size_t(tiles(the_outputs) * lanes * the_inputs)),
        backward(size_t(tiles(the_inputs) * lanes * the_outputs)) {
    if (the_bias) std::copy_n(the_bias, outputs, bias.data());
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) {
        forward.data()[(o / lanes * inputs + i) * lanes + o % lanes] = weight[o * inputs + i];
        backward.data()[(i / lanes * outputs + o) * lanes + i % lanes] = weight[o * inputs + i];
      }
  }

  // Rows begin .. end-1 of out (+)= a times the packed matrix.
  void product(const Buffer<T>& packed, int64_t summed, int64_t columns, const T* a, T* out, int64_t begin, int64_t end,
               bool add) const {
    ptrdiff_t to[kChunkRows];
    for (int64_t r = 0; r < kChunkRows; ++r) to[r] = r * columns;
    TransposedCall<T> call;
    call.tiles.base = packed.data();
    call.tiles.size = summed * lanes;
    call.tiles.units = int(columns);
    call.tile_end = int(tiles(columns));
    call.gates = 1;
    call.summed = summed;
    call.add = add;
    for (int64_t row = begin; row < end; row += kChunkRows) {
      call.rows = int(std::min(kChunkRows, end - row));
      call.a = {a + row * summed, summed, call.a.width};
      call.out = {out + row * columns, to};
      kernels<T>(backend).transposed(call);
    }
  }

  int workers(int64_t rows) const { return double(inputs) * double(outputs) * double(rows) < kWorthWaking ? 1 : num_threads(); }
};

template <class T>
Linear<T>::Linear(int64_t inputs, int64_t outputs, const T* weight, const T* bias)
    : weights_(std::make_shared<Weights>(inputs, outputs, weight, bias)) {}

template <class T>
void Linear<T>::forward(const T* x, int64_t rows, T* y) const {
  const Weights& w = *weights_;
  TeamLease team(w.workers(rows));
  auto job = [&](int rank) {
    const Environment environment(w.backend);
    const int64_t begin = rows * rank / team.size(), end = rows * (rank + 1) / team.size();
    for (int64_t r = begin; r < end; ++r) std::copy_n(w.bias.data(), w.outputs, y + r * w.outputs);
    w.product(w.forward, w.inputs, w.outputs, x, y, begin, end, true);
  };
  team.run(job);
}

template <class T>
void Linear<T>::backward(const T* x, const T* dy, int64_t rows, T* dx, T* d_weight, T* d_bias) const {
  const Weights& w = *weights_;
  // Whole vectors of x, and of a one that sums dy up, for the outer product; its sums begin in the caller's arrays.
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
  TeamLease team(w.workers(rows));
  Barrier barrier(team.size());
  auto job = [&](int rank) {
    const Environment environment(w.backend);
    const auto share = [&](int64_t count, int r) { return count * r / team.size(); };
    if (dx) w.product(w.backward, w.outputs, w.inputs, dy, dx, share(rows, rank), share(rows, rank + 1), false);
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
