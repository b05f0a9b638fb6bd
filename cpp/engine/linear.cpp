#include "linear.h"

#include <algorithm>
#include <cstring>

#include "../threads/team.h"
#include "worth.h"

namespace recurra {

using detail::Buffer;

template <class T>
Linear<T>::Weights::Weights(int64_t the_inputs, int64_t the_outputs, const T* weight, const T* the_bias)
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

template <class T>
void Linear<T>::Weights::apply(const Panel<const T>& x, int64_t rows, const Rows<T>& y) const {
  for (int64_t r = 0; r < rows; ++r) std::copy_n(bias.data(), outputs, y[r]);
  product(forward, inputs, outputs, x, rows, y, true);
}

template <class T>
void Linear<T>::Weights::product(const Buffer<T>& packed, int64_t summed, int64_t columns, const Panel<const T>& a,
                                 int64_t rows, const Rows<T>& out, bool add) const {
  TransposedCall<T> call;
  call.tiles.base = packed.data();
  call.tiles.size = summed * lanes;
  call.tiles.units = int(columns);
  call.tile_end = int(tiles(columns));
  call.gates = 1;
  call.summed = summed;
  call.add = add;
  call.rows = int(rows);
  call.a = {a.base, a.stride, call.a.width};
  call.out = out;
  kernels<T>(backend).transposed(call);
}

namespace {

// Rows begin .. end-1 of contiguous arrays in chunks: use(first row, rows, their offsets in an array of `columns`).
template <class Use>
void in_chunks(int64_t begin, int64_t end, int64_t most, int64_t columns, const Use& use) {
  ptrdiff_t offset[256];
  for (int64_t r = 0; r < std::min(most, end - begin); ++r) offset[r] = r * columns;
  for (int64_t first = begin; first < end; first += most) use(first, std::min(most, end - first), offset);
}

int workers_for(int64_t inputs, int64_t outputs, int64_t rows) {
  return double(inputs) * double(outputs) * double(rows) < kWorthWaking ? 1 : num_threads();
}

}  // namespace

template <class T>
Linear<T>::Linear(int64_t inputs, int64_t outputs, const T* weight, const T* bias)
    : weights_(std::make_shared<Weights>(inputs, outputs, weight, bias)) {}

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
    in_chunks(rows * rank / team.size(), rows * (rank + 1) / team.size(), w.kChunkRows, w.outputs,
              [&](int64_t first, int64_t count, const ptrdiff_t* offset) {
                w.apply({x + first * w.inputs, w.inputs}, count, {y + first * w.outputs, offset});
              });
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
  counted.blocks(padded, width, w.kChunkRows);
  const Buffer<char> memory(counted.used);
  detail::Dealer{memory.data()}.blocks(padded, width, w.kChunkRows);
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
    in_chunks(share(rows, rank), dx ? share(rows, rank + 1) : 0, w.kChunkRows, w.inputs,
              [&](int64_t first, int64_t count, const ptrdiff_t* offset) {
                const Rows<T> out = {dx + first * w.inputs, offset};
                w.product(w.backward, w.outputs, w.inputs, {dy + first * w.outputs, w.outputs}, count, out, false);
              });
    const int64_t blocks = (width + padded.width - 1) / padded.width, block = share(blocks, rank);  // a worker's own
    for (int64_t first = 0; first < rows; first += w.kChunkRows) {
      const int64_t count = std::min(w.kChunkRows, rows - first);
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
