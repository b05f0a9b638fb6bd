#include "states.h"

#include <algorithm>
#include <cstring>

namespace recurra {
namespace detail {

template <class T>
States<T>::States(const Model<T>& model, int rows)
    : model_(&model),
      share_(rows),
      rows_(std::max(rows, 1)),
      hidden_(model.padded_hidden()),
      stride_(std::max(hidden_, ptrdiff_t(model.padded_output()))),
      lanes_(model.layers.size()) {}

template <class T>
States<T>::States(Record<T>& record, const RowShare& share) : States(*record.model, share.count) {
  record_ = &record;
  share_ = share;
}

template <class T>
void States<T>::deal(Dealer& deal) {
  for (Lane& lane : lanes_) {
    if (record_) break;
    for (Panel<T>& h : lane.h) deal.panel(h, stride_, rows_);
    deal.panel(lane.states, width(), rows_);
  }
  for (int d = 0; d < model_->config.directions; ++d) deal.panel(result_[d], stride_, rows_);
}

template <class T>
void States<T>::load(const T* const* from, const RowPlan& plan, int64_t total_rows) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane)
    for (int r = 0; r < plan.rows; ++r) load_row(lane, 0, r, from, plan.source(r), total_rows);
}

template <class T>
void States<T>::load_row(int row, const T* const* from, int64_t source, int64_t total_rows) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) load_row(lane, 0, row, from, source, total_rows);
}

template <class T>
void States<T>::load_row(size_t lane, int64_t step, int row, const T* const* from, int64_t source, int64_t total_rows) {
  const Spec& spec = *model_->spec;
  const Place<T> place = before(lane, step);
  for (int s = 0; s < spec.states.size; ++s) {
    const int64_t width = model_->width(spec.states[s].width, 0);
    T* to = s ? place.states[row] + (s - 1) * hidden_ : place.h[row];
    std::memcpy(to, from[s] + (int64_t(lane) * total_rows + source) * width, size_t(width) * sizeof(T));
  }
}

template <class T>
void States<T>::store(T* const* to, const RowPlan& plan, int64_t total_rows, int64_t steps) const {
  const Spec& spec = *model_->spec;
  for (size_t lane = 0; lane < lanes_.size(); ++lane)
    for (int s = 0; s < spec.states.size; ++s) {
      const int64_t width = model_->width(spec.states[s].width, 0);
      for (int r = 0; r < plan.rows; ++r) {
        const Place<T> place = before(lane, plan.length(r, steps));
        const T* from = s ? place.states[r] + (s - 1) * hidden_ : place.h[r];
        std::memcpy(to[s] + (int64_t(lane) * total_rows + plan.source(r)) * width, from, size_t(width) * sizeof(T));
      }
    }
}

template <class T>
void States<T>::reset_row(size_t lane, int64_t step, int row, const T* const* from, const RowPlan& plan, int64_t total_rows) {
  const Place<T> place = before(lane, step);
  std::memset(place.h[row], 0, size_t(stride_) * sizeof(T));
  std::memset(place.states[row], 0, size_t(width()) * sizeof(T));
  if (from) load_row(lane, step, row, from, plan.source(row), total_rows);
}

template <class T>
void States<T>::clear_row(int row) {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) reset_row(lane, 0, row, nullptr, {}, 0);
}

template class States<float>;
template class States<double>;

}  // namespace detail
}  // namespace recurra
