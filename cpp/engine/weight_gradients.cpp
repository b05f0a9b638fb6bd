#include "weight_gradients.h"

#include <algorithm>

namespace recurra {
namespace detail {
namespace {

// An odd number of cache lines (of floats): rows a multiple of a page's size apart would all fall into the same few lines of
// the first-level cache.
ptrdiff_t odd_stride(ptrdiff_t width) { return ((width + 15) / 16 | 1) * 16; }

}  // namespace

template <class T>
WeightGradients<T>::WeightGradients(const Model<T>& model, const std::vector<std::vector<T*>>* params, bool add, int workers)
    : model_(model), params_(params), add_(add), workers_(workers), phases_(size_t(model.spec->phases.size)) {
  for (size_t p = 0; p < phases_.size(); ++p) phases_[p].width = model.padded(model.width(model.spec->phases[int(p)].units, 0));
}

template <class T>
ptrdiff_t WeightGradients<T>::columns(size_t phase) const {
  const recurra::Phase& described = model_.spec->phases[int(phase)];
  return (described.chains + described.vector_count) * phases_[phase].width;
}

template <class T>
void WeightGradients<T>::deal(Dealer& deal, int64_t input, ptrdiff_t source) {
  for (size_t p = 0; p < phases_.size(); ++p) {
    const recurra::Phase& described = model_.spec->phases[int(p)];
    Phase& phase = phases_[p];
    deal.panel(phase.d_input, odd_stride(input), described.input.count * phase.width);
    deal.panel(phase.d_recurrent, odd_stride(source), described.recurrent.count * phase.width);
    deal.panel(phase.d_sums, columns(p), 1);
  }
  deal.take(one_, 1);
  if (deal.block) *one_ = 1;
}

template <class T>
void WeightGradients<T>::sum(const PackedLayer<T>& layer, size_t p, const Rows& rows, int worker) const {
  const Kernels<T>& kernel = kernels<T>(*model_.backend);
  const recurra::Phase& described = model_.spec->phases[int(p)];
  const Phase& phase = phases_[p];
  const Tiles<T>& tiles = layer.phases[p].tiles;
  OuterCall<T> call;
  call.rows = rows.count;
  call.add = !rows.first;
  const auto meet = [&](const Product& product, const Blocks<T>& x, int64_t columns, const Panel<T>& out) {
    for (int g = 0; g < product.count; ++g) {
      call.a = read_only(rows.da);
      call.first = product.chain[g] * phase.width;
      call.begin = share(tiles.units, worker);
      call.end = share(tiles.units, worker + 1);
      call.x = read_only(x);
      call.columns = model_.padded(columns);
      call.out = every(out, g * phase.width, 1);
      kernel.outer(call);
    }
  };
  meet(described.input, rows.input, tiles.input_size, phase.d_input);
  if (layer.phases[p].heads.empty())
    meet(described.recurrent, rows.source, tiles.source_size, phase.d_recurrent);
  else
    meet_heads(described.recurrent, rows, phase, worker);

  // A one for every row sums up da; workers have whole blocks of it.
  const int64_t width = rows.da.width, blocks = (columns(p) + width - 1) / width, block = share(blocks, worker);
  call.a = {one_, 0, width};
  call.first = call.begin = 0;
  call.end = 1;
  call.x = {rows.da.base + block * rows.da.stride, rows.da.row, rows.da.stride};
  call.columns = std::min<int64_t>(columns(p), share(blocks, worker + 1) * width) - block * width;
  call.out = {phase.d_sums.base + block * width, 0};
  kernel.outer(call);
}

// As many units at a time as lie side by side in da, with what they meet.
template <class T>
void WeightGradients<T>::meet_heads(const Product& product, const Rows& rows, const Phase& phase, int worker) const {
  constexpr int64_t step = Blocks<T>::width;
  const Heads heads = model_.heads();
  OuterCall<T> call;
  call.rows = rows.count;
  call.add = !rows.first;
  call.a = read_only(rows.da);
  const int64_t last = share(heads.units, worker + 1);
  for (call.begin = share(heads.units, worker); call.begin < last; call.begin = call.end) {
    call.end = std::min(last, (call.begin / step + 1) * step);
    const Span met = heads.around(call.begin, call.end - call.begin, step);
    call.x = read_only(rows.source);
    call.x.base += met.begin / step * call.x.stride;
    call.columns = model_.padded(met.size());
    for (int g = 0; g < product.count; ++g) {
      call.first = product.chain[g] * phase.width;
      call.out = every(phase.d_recurrent, g * phase.width, 1);
      call.out.base += met.begin;
      kernels<T>(*model_.backend).outer(call);
    }
  }
}

template <class T>
void WeightGradients<T>::hand_out(const PackedLayer<T>& layer, size_t lane, int worker) const {
  for (size_t p = 0; p < phases_.size(); ++p)
    each_part(*model_.spec, model_.spec->phases[int(p)], [&](const Part& part) {
      const Tiles<T>& tiles = layer.phases[p].tiles;
      const Heads heads = {tiles.units, layer.phases[p].heads.empty() ? 1 : model_.config.heads};
      T* const out = (*params_)[lane][size_t(part.param)];
      if (!out) return;
      if (part.kind == Part::Kind::input)
        give_weights(out, part, phases_[p].d_input, phases_[p].width, {tiles.units, 1}, tiles.input_size, worker);
      else if (part.kind == Part::Kind::recurrent)
        give_weights(out, part, phases_[p].d_recurrent, phases_[p].width, heads,
                     heads.count > 1 ? heads.size() : tiles.source_size, worker);
      else if (worker == 0)
        give_sums(out, part, phases_[p], tiles.units);
    });
}

template <class T>
void WeightGradients<T>::give_weights(T* out, const Part& part, const Panel<T>& d, ptrdiff_t width, const Heads& heads,
                                      int64_t columns, int worker) const {
  const int64_t units = heads.units;
  for (int g = 0; g < part.count; ++g)
    for (int64_t u = share(units, worker); u < share(units, worker + 1); ++u) {
      const T* from = d[g * width + u] + heads.of(u).begin;
      T* to = out + ((part.first + g) * units + u) * columns;
      for (int64_t i = 0; i < columns; ++i) to[i] = (add_ ? to[i] : T(0)) + from[i];
    }
}

template <class T>
void WeightGradients<T>::give_sums(T* out, const Part& part, const Phase& phase, int units) const {
  for (int g = 0; g < part.count; ++g)
    for (int u = 0; u < units; ++u) {
      T& to = out[int64_t(part.first + g) * units + u];
      to = (add_ ? to : T(0)) + phase.d_sums.base[part.chain[g] * phase.width + u];
    }
}

template class WeightGradients<float>;
template class WeightGradients<double>;

}  // namespace detail
}  // namespace recurra
