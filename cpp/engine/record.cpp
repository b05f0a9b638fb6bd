#include "record.h"

#include <algorithm>

namespace recurra {
namespace detail {

template <class T>
Record<T>::Record(std::shared_ptr<const Model<T>> the_model, Sequence<const T> the_x, std::vector<int64_t> the_order,
                  std::vector<int64_t> the_lengths, bool recompute, const uint64_t* seed)
    : model(std::move(the_model)),
      x(the_x),
      order(std::move(the_order)),
      lengths(std::move(the_lengths)),
      recompute(recompute),
      noise(model->config.regularization, seed) {
  const NetworkConfig& c = model->config;
  const ptrdiff_t hidden = model->padded_hidden();
  stride = std::max(hidden, ptrdiff_t(model->padded_output()));
  state_width = (model->spec->states.size - 1) * hidden;
  saved_width = recompute ? 0 : model->spec->saved * hidden;
  const ptrdiff_t result_width = recompute || model->spec->phases.size == 1 ? 0 : stride;

  if (!lengths.empty()) {
    starts_.assign(size_t(x.steps) + 1, 0);
    int running = rows();
    for (int64_t step = 0; step < x.steps; ++step) {
      while (running > 0 && lengths[size_t(running) - 1] <= step) --running;
      starts_[size_t(step) + 1] = starts_[size_t(step)] + running;
    }
  }
  const int64_t all = at(x.steps);
  tracks.resize(size_t(c.layers) * size_t(c.directions));
  for (Track<T>& track : tracks) {
    track.memory = Buffer<T>(size_t((all + rows()) * (stride + state_width) + all * (saved_width + result_width)));
    track.h = {track.memory.data(), stride};
    track.states = {track.h[all + rows()], state_width};
    T* rest = track.states[all + rows()];
    track.saved = {saved_width ? rest : nullptr, saved_width};
    track.result = {result_width ? rest + all * saved_width : nullptr, result_width};
  }
  for (int layer = 0; layer + 1 < c.layers; ++layer)
    between.emplace_back(size_t(x.steps * rows()) * size_t(c.directions * c.output_size));
}

template struct Record<float>;
template struct Record<double>;

}  // namespace detail
}  // namespace recurra
