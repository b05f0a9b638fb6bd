// Dropout and zoneout on the rows of a step, forward and backward: `Noise` draws, this knows where the numbers lie. Functions
// do nothing when what they are for is switched off; only the time loop of session.cpp asks first, since two calls for nothing
// are 2 % of a step at H = 64.
#pragma once
#include "states.h"

namespace recurra {
namespace detail {

// The caller's numbers of the rows that a worker has, which decide what is drawn for them.
struct CallerRows {
  const int64_t* order;  // null: as they are
  RowShare share;

  int64_t operator[](int r) const { return order ? order[share.row(r)] : share.row(r); }
};

template <class T>
class Regularizer {
 public:
  Regularizer(const Noise& noise, const Model<T>& model);

  bool drops_recurrent() const { return noise_.drops_recurrent(); }
  bool drops_between() const { return noise_.drops_between(); }
  bool zones_out() const { return noise_.zones_out(0) || zones_states(); }

  // The recurrent product's vector under variational dropout, mask[r] * h[r]; the masks stay the same for all of a sequence.
  void draw_masks(const Panel<T>& mask, size_t lane, const CallerRows& rows) const;
  void mask_row(T* to, const T* mask, const T* h, int64_t size) const;

  // Forward: the old states of the units a call computes are kept before its phase replaces them in place, and after the phase
  // that made a state some units go back to them.
  void keep_old(const PhaseCall<T>& call, size_t phase, const Panel<T>& old_states) const;
  void zone_out(const PhaseCall<T>& call, size_t phase, bool last, const Panel<T>& old_states, size_t lane,
                const CallerRows& rows, int64_t step) const;

  // Backward, of a phase that made a state: before it, the state's gradient is divided into what bypasses the step, which is
  // put into `past`, and what reaches the cell; after it, both are added up. From then on dy is included in d_result.
  void divide(BackwardCall<T>& call, size_t phase, const Place<T>& past, size_t lane, const CallerRows& rows,
              int64_t step) const;
  void reunite(const BackwardCall<T>& call, size_t phase, const Place<T>& past) const;

  // Numbers begin .. end-1 of a layer's output row on its way to the next layer; backward, of its gradient.
  void drop_between(T* row, int64_t begin, int64_t end, size_t lane, int64_t caller_row, int64_t t) const {
    noise_.drop_between(row, begin, end, lane, caller_row, t);
  }

  // Rows of memory that are needed: none for what is switched off.
  int64_t masked_rows(int64_t rows) const { return noise_.drops_recurrent() ? rows : 0; }
  int64_t zoned_h_rows(int64_t rows) const { return noise_.zones_out(0) ? rows : 0; }
  int64_t zoned_state_rows(int64_t rows) const { return zones_states() ? rows : 0; }

 private:
  bool zones_states() const;  // any of those beside h
  // use(its number, where it lies in a row) for each state beside h that is zoned out, if this is the phase that sets them.
  template <class Use>
  void each_state(size_t phase, const Use& use) const;

  Noise noise_;
  const Spec* spec_;
  ptrdiff_t lanes_, hidden_, stride_;
};

}  // namespace detail
}  // namespace recurra
