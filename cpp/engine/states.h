// Where the states of some rows live while a session runs them: live, or in the record that backward will read.
#pragma once
#include "record.h"

namespace recurra {
namespace detail {

// The states of the rows at one moment: h, and the others side by side in one row.
template <class T>
struct Place {
  Panel<T> h, states;
};

// Which rows of the caller's arrays a session holds. Row r of the session is row order[r] of the caller (r itself when null)
// and runs lengths[r] steps (all of them when null). Longest first, so that the rows of any step are 0 .. n-1.
struct RowPlan {
  int rows = 0;
  const int64_t* order = nullptr;
  const int64_t* lengths = nullptr;
  // As in Schedule; null when there is none.
  const int64_t* const* times = nullptr;
  const int64_t* repeats_until = nullptr;
  const Events* events = nullptr;

  int64_t source(int r) const { return order ? order[r] : r; }
  int64_t length(int r, int64_t steps) const { return lengths ? lengths[r] : steps; }
};

// A lane is one direction of a layer: number layer * directions + direction.
template <class T>
class States {
 public:
  States(const Model<T>& model, int rows);           // live ones
  States(Record<T>& record, const RowShare& share);  // those of some rows of a record

  void deal(Dealer& deal);
  // Here, since the time loop asks in every step.
  Place<T> before(size_t lane, int64_t step) const {  // before a step
    if (!record_) return {lanes_[lane].h[side(step)], lanes_[lane].states};
    const Track<T>& track = record_->tracks[lane];
    const int64_t row = record_->before(step) + share_.first;
    return {every(track.h, row, share_.stride), every(track.states, row, share_.stride)};
  }
  bool saves() const { return record_ && record_->tracks[0].saved.base; }
  Panel<T> saved(size_t lane, int64_t step) const {  // what backward wants of a step; base is null when it wants nothing
    if (!record_ || !record_->tracks[lane].saved.base) return {};
    return every(record_->tracks[lane].saved, record_->at(step) + share_.first, share_.stride);
  }
  Panel<T> result(int direction, size_t lane, int64_t step) const {  // of the first of two phases
    if (!record_ || !record_->tracks[lane].result.base) return result_[direction];
    return every(record_->tracks[lane].result, record_->at(step) + share_.first, share_.stride);
  }
  int side(int64_t step) const { return (parity_ ^ int(step)) & 1; }  // of h that a step reads
  void ran(int64_t steps) { parity_ ^= int(steps & 1); }

  ptrdiff_t stride() const { return stride_; }                                            // of h and of phase results, padded
  ptrdiff_t width() const { return ptrdiff_t(model_->spec->states.size - 1) * hidden_; }  // of the other states

  // From and to arrays [lanes, total_rows, width], one per state.
  void load(const T* const* from, const RowPlan& plan, int64_t total_rows);
  void load_row(int row, const T* const* from, int64_t source, int64_t total_rows);
  void store(T* const* to, const RowPlan& plan, int64_t total_rows, int64_t steps) const;
  void clear_row(int row);
  // One row and lane, before a step; from == null: to zero.
  void reset_row(size_t lane, int64_t step, int row, const T* const* from, const RowPlan& plan, int64_t total_rows);

 private:
  // h is kept twice: a step reads h(t-1) from one side and writes h(t) to the other.
  struct Lane {
    Panel<T> h[2];
    Panel<T> states;
  };

  void load_row(size_t lane, int64_t step, int row, const T* const* from, int64_t source, int64_t total_rows);

  const Model<T>* model_;
  Record<T>* record_ = nullptr;
  RowShare share_;  // of the record
  int64_t rows_;
  ptrdiff_t hidden_, stride_;
  int parity_ = 0;
  std::vector<Lane> lanes_;  // live ones
  Panel<T> result_[2];       // [direction]
};

}  // namespace detail
}  // namespace recurra
