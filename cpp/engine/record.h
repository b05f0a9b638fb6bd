// What a forward pass leaves behind for backward. Rows are sorted longest first as in a session, and the rows of all steps lie
// one after another, so no padded step takes memory, but in the copy of x.
#pragma once
#include <memory>
#include <vector>

#include "model.h"
#include "noise.h"
#include "schedule.h"

namespace recurra {
namespace detail {

inline Noise::Rates rates_of(const Regularization& r) {
  Noise::Rates rates{r.dropout, r.recurrent_dropout, {}};
  static_assert(sizeof rates.zoneout == sizeof r.zoneout, "a rate for each state");
  std::copy_n(r.zoneout, kMaxStates, rates.zoneout);
  return rates;
}

inline Noise noise_of(const Regularization& r, const uint64_t* seed) {
  return {rates_of(r), seed != nullptr, seed ? *seed : 0};
}

// Which of all rows one of several workers has, longest first too. Where all rows run equally long it is a block of them: what
// a cache fetches ahead of one worker's rows is then not what another is writing, 10 % of a small layer's steps backward
// (bench/NOTES.md). Otherwise every stride-th, so that every worker has long and short ones.
struct RowShare {
  int first = 0, stride = 1, count = 0;
  int place = 0;  // of its first row where the rows of each worker lie side by side

  explicit RowShare(int rows = 0) : count(rows) {}
  RowShare(int rows, bool equally_long, int part, int parts)
      : count(rows / parts + (part < rows % parts)), place(rows / parts * part + std::min(part, rows % parts)) {
    first = equally_long ? place : part;
    stride = equally_long ? 1 : parts;
  }

  int row(int r) const { return first + r * stride; }
  int place_of(int row) const {  // r, or -1 for another's
    const int r = (row - first) / stride;
    return row >= first && r < count && this->row(r) == row ? r : -1;
  }
  int within(int rows) const { return std::clamp((rows - first + stride - 1) / stride, 0, count); }  // of the first `rows`
};

// One layer and direction.
template <class T>
struct Track {
  Buffer<char> memory;
  Panel<T> h, states;  // row before(step) + r: before that step
  Panel<T> saved;      // row at(step) + r: what the cell saved in that step; base is null when it is to be recomputed
  Panel<T> result;     // likewise: the result of the first of two phases
};

template <class T>
struct Record : Schedule {
  Record(std::shared_ptr<const Model<T>> model, Schedule schedule, bool recompute, const uint64_t* seed);
  ~Record();
  Record(const Record&) = delete;

  const std::shared_ptr<const Model<T>> model;
  const bool recompute;
  const Noise noise;
  Sequence<T> x;                   // a copy of the caller's, in the same order; steps past a row's length are never written
  std::vector<Track<T>> tracks;    // [layer * directions + direction]
  std::vector<Buffer<T>> between;  // [layer]: what the layer above reads, [step][row][directions * output], if not h
  ptrdiff_t stride, state_width, saved_width;
  size_t bytes = 0;  // of all that

  int rows() const { return int(order.size()); }
  int64_t length(int row) const { return lengths.empty() ? x.steps : lengths[size_t(row)]; }
  // How many rows run at this step, and where their rows lie.
  int active(int64_t step) const { return lengths.empty() ? rows() : int(starts_[size_t(step) + 1] - starts_[size_t(step)]); }
  int64_t at(int64_t step) const { return lengths.empty() ? step * rows() : starts_[size_t(step)]; }
  int64_t before(int64_t step) const { return step ? rows() + at(step - 1) : 0; }

  // What the layer above reads. One direction's h is that itself, unless dropout or a reset changes it, steps differ in their
  // rows or h is in the order of the loop, backwards in time.
  bool output_is_h() const {
    const NetworkConfig& c = model->config;
    return c.directions == 1 && !c.reverse && lengths.empty() && !resets && !noise.drops_between();
  }
  Sequence<T> output(int layer) const {
    const Panel<T>& h = tracks[size_t(layer)].h;
    if (output_is_h()) return {h[rows()], x.steps, rows(), rows() * h.stride, h.stride};
    const ptrdiff_t width = model->config.directions * model->config.output_size;
    return {between[size_t(layer)].data(), x.steps, rows(), rows() * width, width};
  }

 private:
  Buffer<char> x_memory_;
  std::vector<int64_t> starts_;
};

template <class T>
Sequence<const T> read_only(const Sequence<T>& s) {
  return {s.data, s.steps, s.rows, s.step_stride, s.row_stride};
}

// `steps` steps from step `first` on.
template <class T>
Sequence<T> from_step(const Sequence<T>& s, int64_t first, int64_t steps) {
  return {s.data + first * s.step_stride, steps, s.rows, s.step_stride, s.row_stride};
}

template <class T>
Panel<const T> read_only(const Panel<T>& panel) {
  return {panel.base, panel.stride};
}

template <class T>
Blocks<const T> read_only(const Blocks<T>& blocks) {
  return {blocks.base, blocks.row, blocks.stride};
}

// Every step-th row from row `first` on.
template <class T>
Panel<T> every(Panel<T> panel, int64_t first, int64_t step) {
  return {panel.base + first * panel.stride, panel.stride * step};
}

template <class T>
Blocks<T> every(Blocks<T> blocks, int64_t first, int64_t step) {
  return {blocks.base + first * blocks.row, blocks.row * step, blocks.stride};
}

}  // namespace detail
}  // namespace recurra
