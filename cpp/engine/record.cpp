#include "record.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

namespace recurra {
namespace detail {
namespace {

// In a training loop arrays come and go together, and glibc returns the top of its heap to the kernel each time, to be given
// new pages at the next call: 7 % of LSTM T = 50, B = 32, H = 256. Once a block of 16 MB that it had mapped has been freed,
// here or by anybody, it makes smaller ones on its heap and keeps up to twice as much of that (mallopt(3), M_MMAP_THRESHOLD).
void keep_heap() {
#if defined(__GLIBC__)
  static std::atomic<bool> done{false};
  if (done.exchange(true)) return;
  void* volatile block = std::malloc(16 << 20);  // volatile, or the pair would be left out
  std::free(block);
#endif
}

}  // namespace

template <class T>
Record<T>::Record(std::shared_ptr<const Model<T>> the_model, Schedule schedule, bool recompute, const uint64_t* seed)
    : Schedule(std::move(schedule)),
      model(std::move(the_model)),
      recompute(recompute),
      noise(noise_of(model->config.regularization, seed)) {
  keep_heap();
  const NetworkConfig& c = model->config;
  const ptrdiff_t hidden = model->padded_hidden();
  stride = std::max(hidden, ptrdiff_t(model->padded_output()));
  state_width = (model->spec->states.size - 1) * hidden;
  saved_width = recompute ? 0 : model->spec->saved * hidden;
  const ptrdiff_t result_width = recompute || model->spec->phases.size == 1 ? 0 : stride;

  if (!lengths.empty()) starts_ = starts_of(lengths, steps);
  bytes = size_t(steps * rows() * c.input_size) * sizeof(T);
  x_memory_ = model->spare->take(bytes);
  x = {reinterpret_cast<T*>(x_memory_.data()), steps, rows(), rows() * c.input_size, c.input_size};
  const int64_t all = at(steps);
  tracks.resize(size_t(c.layers) * size_t(c.directions));
  for (Track<T>& track : tracks) {
    for (const bool counting : {true, false}) {
      Dealer deal{counting ? nullptr : track.memory.data()};
      deal.panel(track.h, stride, all + rows());
      deal.panel(track.states, state_width, all + rows());
      if (saved_width) deal.panel(track.saved, saved_width, all);
      if (result_width) deal.panel(track.result, result_width, all);
      if (counting) track.memory = model->spare->take(deal.used);
      if (counting) bytes += deal.used;
    }
    std::fill_n(track.h.base, rows() * stride, T(0));
    std::fill_n(track.states.base, rows() * state_width, T(0));
  }
  for (int layer = 0; layer + 1 < c.layers && !output_is_h(); ++layer) {
    between.emplace_back(size_t(steps * rows()) * size_t(c.directions * c.output_size));
    bytes += between.back().size() * sizeof(T);
  }
}

template <class T>
Record<T>::~Record() {
  for (Track<T>& track : tracks) model->spare->give(std::move(track.memory));
  model->spare->give(std::move(x_memory_));
}

template struct Record<float>;
template struct Record<double>;

}  // namespace detail
}  // namespace recurra
