#include "regularizer.h"

#include <algorithm>

namespace recurra {
namespace detail {

template <class T>
Regularizer<T>::Regularizer(const Noise& noise, const Model<T>& model)
    : noise_(noise),
      spec_(model.spec),
      lanes_(model.lanes),
      hidden_(model.padded_hidden()),
      stride_(std::max(hidden_, ptrdiff_t(model.padded_output()))) {}

template <class T>
bool Regularizer<T>::zones_states() const {
  for (int s = 1; s < spec_->states.size; ++s)
    if (noise_.zones_out(s)) return true;
  return false;
}

template <class T>
template <class Use>
void Regularizer<T>::each_state(size_t phase, const Use& use) const {
  for (int s = 1; spec_->phases[int(phase)].sets_states && s < spec_->states.size; ++s)
    if (noise_.zones_out(s)) use(s, (s - 1) * hidden_);
}

template <class T>
void Regularizer<T>::draw_masks(const Panel<T>& mask, size_t lane, const CallerRows& rows) const {
  for (int r = 0; noise_.drops_recurrent() && r < rows.share.count; ++r) noise_.recurrent_mask(mask[r], stride_, lane, rows[r]);
}

template <class T>
void Regularizer<T>::mask_row(T* to, const T* mask, const T* h, int64_t size) const {
  for (int64_t i = 0; i < size; ++i) to[i] = mask[i] * h[i];
}

template <class T>
void Regularizer<T>::keep_old(const PhaseCall<T>& call, size_t phase, const Panel<T>& old_states) const {
  const ptrdiff_t begin = call.tile_begin * lanes_, end = call.tile_end * lanes_;
  each_state(phase, [&](int, ptrdiff_t at) {
    for (int r = 0; r < call.rows; ++r)
      std::copy(call.states[r] + at + begin, call.states[r] + at + end, old_states[r] + at + begin);
  });
}

// The last phase makes h.
template <class T>
void Regularizer<T>::zone_out(const PhaseCall<T>& call, size_t phase, bool last, const Panel<T>& old_states, size_t lane,
                              const CallerRows& rows, int64_t step) const {
  const ptrdiff_t begin = call.tile_begin * lanes_, end = std::min<ptrdiff_t>(call.tile_end * lanes_, call.tiles.units);
  each_state(phase, [&](int s, ptrdiff_t at) {
    for (int r = 0; r < call.rows; ++r)
      noise_.zone_out(call.new_states[r] + at, old_states[r] + at, begin, end, s, lane, rows[r], step);
  });
  for (int r = 0; last && noise_.zones_out(0) && r < call.rows; ++r) {
    noise_.zone_out(call.result[r], call.h[r], begin, end, 0, lane, rows[r], step);
    if (call.y[r] != call.result[r])
      std::copy(call.result[r] + begin, call.result[r] + std::max(begin, end), call.y[r] + begin);
  }
}

template <class T>
void Regularizer<T>::divide(BackwardCall<T>& call, size_t phase, const Place<T>& past, size_t lane, const CallerRows& rows,
                            int64_t step) const {
  const ptrdiff_t begin = call.tile_begin * lanes_, end = call.tile_end * lanes_;
  const ptrdiff_t valid = std::min<ptrdiff_t>(end, call.tiles.units);
  if (call.last && noise_.zones_out(0)) {
    for (int r = 0; r < call.rows; ++r) {
      T* d_h = call.d_result[r];
      for (ptrdiff_t i = begin; call.dy.base && i < valid; ++i) d_h[i] = d_h[i] + call.dy[r][i];
      noise_.zone_out_backward(d_h, past.h[r], begin, end, 0, lane, rows[r], step);
    }
    call.dy = {};
  }
  each_state(phase, [&](int s, ptrdiff_t at) {
    for (int r = 0; r < call.rows; ++r)
      noise_.zone_out_backward(call.d_states[r] + at, past.states[r] + at, begin, end, s, lane, rows[r], step);
  });
}

template <class T>
void Regularizer<T>::reunite(const BackwardCall<T>& call, size_t phase, const Place<T>& past) const {
  const ptrdiff_t begin = call.tile_begin * lanes_, end = call.tile_end * lanes_;
  for (int r = 0; call.last && noise_.zones_out(0) && r < call.rows; ++r)
    for (ptrdiff_t i = begin; i < end; ++i) call.d_h[r][i] = call.d_h[r][i] + past.h[r][i];
  each_state(phase, [&](int, ptrdiff_t at) {
    for (int r = 0; r < call.rows; ++r)
      for (ptrdiff_t i = at + begin; i < at + end; ++i) call.d_states[r][i] = call.d_states[r][i] + past.states[r][i];
  });
}

template class Regularizer<float>;
template class Regularizer<double>;

}  // namespace detail
}  // namespace recurra
