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
  const Spec& spec = *model_->spec;
  for (size_t lane = 0; lane < lanes_.size(); ++lane)
    for (int s = 0; s < spec.states.size; ++s) {
      const int64_t width = model_->width(spec.states[s].width, 0);
      for (int r = 0; r < plan.rows; ++r) {
        const Place<T> place = before(lane, 0);
        T* to = s ? place.states[r] + (s - 1) * hidden_ : place.h[r];
        std::memcpy(to, from[s] + (int64_t(lane) * total_rows + plan.source(r)) * width, size_t(width) * sizeof(T));
      }
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
void States<T>::clear_row(int row) {
  for (Lane& lane : lanes_) {
    std::memset(lane.h[side(0)][row], 0, size_t(stride_) * sizeof(T));
    std::memset(lane.states[row], 0, size_t(width()) * sizeof(T));
  }
}

template class States<float>;
template class States<double>;

}  // namespace detail
}  // namespace recurra
