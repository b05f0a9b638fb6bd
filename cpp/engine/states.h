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
  Place<T> before(size_t lane, int64_t step) const;                   // before a step
  Panel<T> saved(size_t lane, int64_t step) const;                    // what backward needs of a step; base is null if nothing
  Panel<T> result(int direction, size_t lane, int64_t step) const;    // of the first of two phases
  int side(int64_t step) const { return (parity_ ^ int(step)) & 1; }  // of h that a step reads
  void ran(int64_t steps) { parity_ ^= int(steps & 1); }

  ptrdiff_t stride() const { return stride_; }                                            // of h and of phase results, padded
  ptrdiff_t width() const { return ptrdiff_t(model_->spec->states.size - 1) * hidden_; }  // of the other states

  // From and to arrays [lanes, total_rows, width], one per state.
  void load(const T* const* from, const RowPlan& plan, int64_t total_rows);
  void store(T* const* to, const RowPlan& plan, int64_t total_rows, int64_t steps) const;
  void clear_row(int row);

 private:
  // h is kept twice: a step reads h(t-1) from one side and writes h(t) to the other.
  struct Lane {
    Panel<T> h[2];
    Panel<T> states;
  };

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
