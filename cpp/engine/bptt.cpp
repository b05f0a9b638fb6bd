#include "bptt.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "worth.h"

namespace recurra {
namespace detail {
template <class T>
Bptt<T>::Bptt(const Record<T>& record, const Gradients<T>& gradients, int workers, Stopper& stopper)
    : record_(record),
      gradients_(gradients),
      model_(*record.model),
      workers_(workers),
      cell_(cell_number(model_.config.cell)),
      barrier_(workers),
      stopper_(stopper),
      regularizer_(record.noise, model_),
      weights_(model_, gradients.params, gradients.add, workers),
      da_(model_.layers[0].phases.size()) {
  const int rows = std::max(record.rows(), 1);
  const double step = model_.multiplications() * rows;
  const bool by_rows = model_.spec->phases[0].by_rows;  // then tiles cannot be shared
  split_ = workers == 1 || rows >= (by_rows ? 1 : kRowsPerWorker) * workers ? Split::rows
           : !by_rows && step >= kWorthBarrier * workers                    ? Split::tiles
                                                                            : Split::none;
  same_tiles_ = true;
  for (const PackedPhase<T>& phase : model_.layers[0].phases)
    same_tiles_ = same_tiles_ && phase.tile_count * model_.lanes == model_.padded(phase.tiles.source_size);
  chunk_steps_ = std::clamp<int64_t>(kGradientRows / rows, 1, std::max<int64_t>(record.x.steps, 1));
  chunk_rows_ = int(chunk_steps_ * rows);
  model_.transposed();
  deal();
}

template <class T>
Bptt<T>::~Bptt() {
  model_.spare->give(std::move(memory_));
}

template <class T>
void Bptt<T>::deal() {
  const NetworkConfig& c = model_.config;
  const Spec& spec = *model_.spec;
  const ptrdiff_t hidden = model_.padded_hidden(), output = c.directions * c.output_size;
  const int rows = std::max(record_.rows(), 1);
  const int64_t input = c.layers > 1 ? std::max<int64_t>(c.input_size, output) : c.input_size;
  const int64_t recomputed = record_.recompute ? chunk_rows_ : 0;
  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory_.data()};
    for (size_t p = 0; p < da_.size(); ++p) deal.blocks(da_[p], weights_.columns(p), chunk_rows_);
    weights_.deal(deal, input, record_.stride);
    deal.blocks(x_, input, chunk_rows_);
    deal.blocks(h_, record_.stride, chunk_rows_);
    deal.blocks(first_result_, da_.size() > 1 ? record_.stride : 0, chunk_rows_);
    deal.panel(states_, record_.state_width, recomputed);
    deal.panel(masked_h_, record_.stride, regularizer_.masked_rows(chunk_rows_));
    deal.panel(saved_, spec.saved * hidden, recomputed);
    deal.panel(kept_, spec.kept * hidden, recomputed);
    deal.panel(apart_, model_.apart_width(), recomputed);
    for (Panel<T>& result : result_) deal.panel(result, record_.stride, recomputed);
    deal.panel(d_h_, record_.stride, rows);
    deal.panel(d_states_, record_.state_width, rows);
    deal.panel(d_kept_, spec.kept * hidden, rows);
    deal.panel(d_result_, record_.stride, rows);
    for (Panel<T>* panel : {&mask_, &d_masked_}) deal.panel(*panel, record_.stride, regularizer_.masked_rows(rows));
    deal.panel(past_.h, record_.stride, regularizer_.zoned_h_rows(rows));
    deal.panel(past_.states, record_.state_width, regularizer_.zoned_state_rows(rows));
    for (int b = 0; b < 2; ++b) deal.panel(between_[b], output, c.layers > b + 1 ? record_.x.steps * rows : 0);
    deal.take(tables_, workers_ * (2 * int64_t(rows) + 3 * chunk_rows_));
    if (counting) memory_ = model_.spare->take(deal.used);
  }
}

template <class T>
typename Bptt<T>::Tables Bptt<T>::tables(int worker) const {
  const ptrdiff_t rows = std::max(record_.rows(), 1);
  ptrdiff_t* at = tables_ + ptrdiff_t(worker) * (2 * rows + 3 * ptrdiff_t(chunk_rows_));
  ptrdiff_t* chunk = at + 2 * rows;
  return {at, at + rows, chunk, chunk + chunk_rows_, chunk + 2 * ptrdiff_t(chunk_rows_)};
}

template <class T>
typename Bptt<T>::Pass Bptt<T>::pass_of(int layer, int direction) {
  const NetworkConfig& c = model_.config;
  const bool top = layer == c.layers - 1;
  const int rows = record_.rows();
  const ptrdiff_t width = c.directions * c.output_size;
  const auto between = [&](int l) { return Sequence<T>{between_[l & 1].base, record_.x.steps, rows, rows * width, width}; };
  Pass pass;
  pass.lane = size_t(layer * c.directions + direction);
  pass.reverse = direction == 1 || c.reverse;
  pass.packed = &model_.layers[pass.lane];
  pass.transposed = &model_.transposed()[pass.lane];
  pass.track = &record_.tracks[pass.lane];
  pass.x = layer ? read_only(record_.output(layer - 1)) : read_only(record_.x);
  pass.x_order = layer ? nullptr : record_.order.data();
  pass.dx = layer ? between(layer - 1) : gradients_.dx;
  pass.dy = top ? gradients_.dy : read_only(between(layer));
  pass.y_order = top ? record_.order.data() : nullptr;
  if (pass.dy.data) pass.dy.data += direction * c.output_size;
  if (top && gradients_.d_cells.data) {
    pass.d_cells = gradients_.d_cells;
    pass.d_cells.data += direction * c.hidden_size;
  }
  return pass;
}

template <class T>
void Bptt<T>::run(int worker) {
  const Environment environment(*model_.backend);
  clear_padding(worker);
  for (int layer = model_.config.layers - 1; layer >= 0; --layer) {
    for (int direction = 0; direction < model_.config.directions; ++direction) run_pass(pass_of(layer, direction), worker);
    if (layer) drop_between(layer - 1, worker);
  }
}

template <class T>
void Bptt<T>::run_pass(const Pass& pass, int worker) {
  begin(pass, worker);
  barrier_.wait(worker);
  const int64_t steps = record_.x.steps;
  // Without any step there is still one chunk, of no rows: its sums are zero.
  for (int64_t from = std::max<int64_t>(steps - 1, 0) / chunk_steps_ * chunk_steps_; from >= 0 && !given_up_;
       from -= chunk_steps_) {
    const int64_t to = std::min(steps, from + chunk_steps_);
    const Chunk chunk = {from, to, int(record_.at(to) - record_.at(from))};
    gather(pass, chunk, worker);
    if (record_.recompute && chunk.rows) recompute(pass, chunk, worker);
    if (da_.size() > 1) gather_result(pass, chunk, worker);
    time_loop(pass, chunk, worker);
    barrier_.wait(worker);
    input_gradients(pass, chunk, worker);
    weight_gradients(pass, chunk, worker);
    if (worker == 0) {
      stopper_.poll();
      given_up_ = stopper_.stopped();
    }
    barrier_.wait(worker);
  }
  if (!given_up_) finish(pass, worker);
  barrier_.wait(worker);
}

// The gradients that reach the final states.
template <class T>
void Bptt<T>::begin(const Pass& pass, int worker) {
  const NetworkConfig& c = model_.config;
  const ptrdiff_t hidden = model_.padded_hidden();
  const RowShare rows = rows_of(worker);
  if (walks(worker)) regularizer_.draw_masks(every(mask_, rows.first, rows.stride), pass.lane, {record_.order.data(), rows});
  for (int r = 0; r < rows.count && walks(worker); ++r) {
    const int place = rows.place + r;
    const int64_t caller_row = record_.order[size_t(rows.row(r))];
    std::memset(d_h_[place], 0, size_t(d_h_.stride) * sizeof(T));
    std::memset(d_states_[place], 0, size_t(d_states_.stride) * sizeof(T));
    for (int s = 0; gradients_.d_final && s < model_.spec->states.size; ++s) {
      if (!gradients_.d_final[s]) continue;
      const int64_t width = s ? c.hidden_size : c.output_size;
      const T* from = gradients_.d_final[s] + (int64_t(pass.lane) * record_.rows() + caller_row) * width;
      std::memcpy(s ? d_states_[place] + (s - 1) * hidden : d_h_[place], from, size_t(width) * sizeof(T));
    }
  }
}

// The chunk's inputs and previous states, side by side.
template <class T>
void Bptt<T>::gather(const Pass& pass, const Chunk& chunk, int worker) {
  const int64_t inputs = pass.packed->phases[0].tiles.input_size, sources = pass.packed->phases[0].tiles.source_size;
  const int64_t begin = share(chunk.rows, worker), end = share(chunk.rows, worker + 1);
  for (int64_t step = chunk.from; step < chunk.to; ++step) {
    const int64_t first = record_.at(step) - record_.at(chunk.from), before = record_.before(step);
    const int64_t last = std::min<int64_t>(record_.active(step), end - first);
    for (int64_t r = std::max<int64_t>(0, begin - first); r < last; ++r) {
      copy_row(x_, first + r, pass.x.data + offset(pass, pass.x, pass.x_order, int(r), step), inputs);
      const T* h = pass.track->h[before + r];
      if (regularizer_.drops_recurrent()) {
        regularizer_.mask_row(masked_h_[first + r], mask_[r], h, sources);
        h = masked_h_[first + r];
      }
      copy_row(h_, first + r, h, sources);
      if (record_.recompute && record_.state_width)
        std::memcpy(states_[first + r], pass.track->states[before + r], size_t(record_.state_width) * sizeof(T));
    }
  }
}

// What the cell would have saved, for all rows of the chunk at once: with all h known, steps do not wait for each other.
template <class T>
void Bptt<T>::recompute(const Pass& pass, const Chunk& chunk, int worker) {
  barrier_.wait(worker);  // until all rows have been gathered
  const Tables table = tables(worker);
  for (int64_t step = chunk.from, row = 0; step < chunk.to; ++step)
    for (int r = 0; r < record_.active(step); ++r, ++row) {
      table.chunk_x[row] = offset(pass, pass.x, pass.x_order, r, step);
      table.chunk_h[row] = (record_.before(step) + r) * pass.track->h.stride;
      table.chunk_own[row] = row * record_.stride;
    }
  const bool masked = regularizer_.drops_recurrent();
  PhaseCall<T> call;
  call.rows = chunk.rows;
  call.x.rows = {pass.x.data, table.chunk_x};
  call.h = {pass.track->h.base, table.chunk_h};
  call.states = read_only(states_);
  call.new_states = states_;
  call.kept = kept_;
  call.saved = saved_;
  call.apart = apart_;
  call.shared = workers_ > 1;
  call.padded = model_.padded_hidden();
  call.constants = pass.packed->constants.data();
  for (size_t p = 0; p < da_.size(); ++p) {
    const PackedPhase<T>& phase = pass.packed->phases[p];
    call.finish = phase.finish[1];
    call.tiles = phase.tiles;
    call.tile_begin = int(share(phase.tile_count, worker));
    call.tile_end = int(share(phase.tile_count, worker + 1));
    call.source.rows = p        ? Rows<const T>{result_[p - 1].base, table.chunk_own}
                       : masked ? Rows<const T>{masked_h_.base, table.chunk_own}
                                : call.h;
    call.result = result_[p];
    phase.each_call(call, phase.run);
    barrier_.wait(worker);
    if (!phase.by_rows || !call.shared) continue;
    const int begin = int(share(chunk.rows, worker));
    call.finish(call, begin, int(share(chunk.rows, worker + 1)) - begin, 0, 0, nullptr);
    barrier_.wait(worker);
  }
}

// What the second phase's weights met.
template <class T>
void Bptt<T>::gather_result(const Pass& pass, const Chunk& chunk, int worker) {
  const Panel<T> from = record_.recompute ? result_[0] : every(pass.track->result, record_.at(chunk.from), 1);
  for (int64_t r = share(chunk.rows, worker); r < share(chunk.rows, worker + 1); ++r)
    copy_row(first_result_, r, from[r], pass.packed->phases[1].tiles.source_size);
}

template <class T>
void Bptt<T>::time_loop(const Pass& pass, const Chunk& chunk, int worker) {
  if (split_ == Split::none && worker) return;
  const Tables table = tables(worker);
  for (int r = 0; r < rows_of(worker).count; ++r) table.own[r] = r * record_.stride;
  for (int64_t step = chunk.to - 1; step >= chunk.from; --step) {
    between_steps(pass, step + 1, worker);
    this->step(pass, chunk, step, worker);
  }
}

// Back over what befell rows when so many of their steps were done. With all workers at the same rows, the first sees to it.
template <class T>
void Bptt<T>::between_steps(const Pass& pass, int64_t position, int worker) {
  if (!record_.events[pass.reverse].any(position)) return;
  const Events::Range events = record_.events[pass.reverse].at(position);
  if (split_ == Split::tiles) barrier_.wait(worker);
  const NetworkConfig& c = model_.config;
  const RowShare rows = rows_of(worker);
  for (const Event* event = events.end(); event-- != events.begin() && walks(worker);) {
    const int r = rows.place_of(event->row), place = rows.place + r;
    if (r < 0) continue;
    const int64_t caller_row = record_.order[size_t(event->row)];
    if (event->resets()) {
      for (int s = 0; s < model_.spec->states.size; ++s) {
        const int64_t width = s ? c.hidden_size : c.output_size;
        T* d = s ? d_states_[place] + (s - 1) * model_.padded_hidden() : d_h_[place];
        T* to =
            gradients_.d_reset ? gradients_.d_reset[s] + (int64_t(pass.lane) * record_.rows() + caller_row) * width : nullptr;
        for (int64_t i = 0; to && i < width; ++i) to[i] = to[i] + d[i];
        std::memset(d, 0, size_t(width) * sizeof(T));
      }
    } else if (pass.y_order) {
      const auto add = [&](T* to, const Sequence<const T>& from, int64_t size) {
        const T* d = from.data + event->time * from.step_stride + caller_row * from.row_stride;
        for (int64_t i = 0; from.data && i < size; ++i) to[i] = to[i] + d[i];
      };
      add(d_h_[place], pass.dy, c.output_size);
      add(d_states_[place], pass.d_cells, c.hidden_size);
    }
  }
  if (split_ == Split::tiles) barrier_.wait(worker);
}

template <class T>
void Bptt<T>::step(const Pass& pass, const Chunk& chunk, int64_t step, int worker) {
  const RowShare part = rows_of(worker);
  const int first = part.first, rows = part.within(record_.active(step));
  const int64_t row = record_.at(step) - record_.at(chunk.from) + first;  // of the chunk
  const auto mine = [&](const Panel<T>& panel, int64_t begin) { return every(panel, begin, part.stride); };
  const auto own = [&](const Panel<T>& panel) { return every(panel, part.place, 1); };
  const Tables table = tables(worker);
  const bool by_tiles = split_ == Split::tiles;
  BackwardCall<T> call;
  call.rows = rows;
  call.padded = model_.padded_hidden();
  if (pass.dy.data)
    for (int r = 0; r < rows; ++r) table.dy[r] = outer_offset(pass, pass.dy, pass.y_order, part.row(r), step);
  const Panel<T> d_h = own(d_h_), d_result = own(d_result_);
  const Place<T> past = {own(past_.h), own(past_.states)};
  const CallerRows callers = {record_.order.data(), part};
  call.d_h = d_h;
  call.h = read_only(mine(pass.track->h, record_.before(step) + first));
  call.states = read_only(mine(pass.track->states, record_.before(step) + first));
  call.saved = read_only(record_.recompute ? mine(saved_, row) : mine(pass.track->saved, record_.at(step) + first));
  call.d_states = own(d_states_);
  call.d_kept = own(d_kept_);
  call.constants = pass.packed->constants.data();
  for (size_t p = da_.size(); p-- > 0;) {
    const int tiles = pass.packed->phases[p].tile_count;
    call.tiles = pass.packed->phases[p].tiles;
    call.tile_begin = by_tiles ? int(share(tiles, worker)) : 0;
    call.tile_end = by_tiles ? int(share(tiles, worker + 1)) : tiles;
    call.last = p + 1 == da_.size();
    call.saved_width = call.last ? model_.spec->saved * call.padded : 0;
    call.dy = {call.last ? pass.dy.data : nullptr, table.dy};
    call.d_result = call.last ? d_h : d_result;
    call.da = every(da_[p], row, part.stride);
    call.d_width = weights_.width(p);
    if (pass.d_cells.data && model_.spec->phases[int(p)].sets_states) add_cells(pass, call, step, part);
    regularizer_.divide(call, p, past, pass.lane, callers, step);
    kernels<T>(*model_.backend).backward[cell_][p](call);
    regularizer_.reunite(call, p, past);
    if (by_tiles) barrier_.wait(worker);
    const bool masked = p == 0 && regularizer_.drops_recurrent();
    product(pass, p, call.da, masked ? own(d_masked_) : p ? d_result : d_h, rows, worker);
    if (by_tiles && !same_tiles_) barrier_.wait(worker);
  }
  if (gradients_.clip < std::numeric_limits<T>::infinity()) clip(rows, worker);
}

// To the gradient of the second state after the step, of the units of a call.
template <class T>
void Bptt<T>::add_cells(const Pass& pass, const BackwardCall<T>& call, int64_t step, const RowShare& rows) const {
  const int64_t begin = call.tile_begin * int64_t(model_.lanes);
  const int64_t end = std::min(call.tile_end * int64_t(model_.lanes), model_.config.hidden_size);
  for (int r = 0; r < call.rows; ++r) {
    const T* const from = pass.d_cells.data + outer_offset(pass, pass.d_cells, pass.y_order, rows.row(r), step);
    for (int64_t u = begin; u < end; ++u) call.d_states[r][u] = call.d_states[r][u] + from[u];
  }
}

// What a step hands to the one before it, of the first `rows` rows that a worker walks. A NaN stays one.
template <class T>
void Bptt<T>::clip(int rows, int worker) {
  const bool together = split_ == Split::tiles;
  if (together) barrier_.wait(worker);
  const int first = rows_of(worker).place, most = rows;
  const int begin = together ? int(share(most, worker)) : 0, end = together ? int(share(most, worker + 1)) : most;
  for (const Panel<T>& d : {d_h_, d_states_})
    for (int r = first + begin; r < first + end; ++r)
      for (ptrdiff_t i = 0; i < d.stride; ++i) d[r][i] = std::min(std::max(d[r][i], -gradients_.clip), gradients_.clip);
  if (together) barrier_.wait(worker);
}

// From the gradients of a phase's chains to that of the vector it multiplied.
template <class T>
void Bptt<T>::product(const Pass& pass, size_t p, const Blocks<T>& da, const Panel<T>& out, int rows, int worker) {
  const Product& recurrent = model_.spec->phases[int(p)].recurrent;
  const Tables table = tables(worker);
  TransposedCall<T> call;
  call.tiles = pass.transposed->phases[p].recurrent;
  const int64_t tiles = model_.padded(call.tiles.units) / model_.lanes;
  const bool by_tiles = split_ == Split::tiles;
  call.tile_begin = by_tiles ? int(share(tiles, worker)) : 0;
  call.tile_end = int(by_tiles ? share(tiles, worker + 1) : tiles);
  call.rows = rows;
  call.gates = recurrent.count;
  std::copy_n(recurrent.chain, kMaxChains, call.chain);
  call.summed = pass.packed->phases[p].tiles.units;
  call.width = weights_.width(p);
  call.a = read_only(da);
  call.out = {out.base, table.own};
  const bool masked = p == 0 && regularizer_.drops_recurrent();
  call.add = p == 0 && !masked;
  const auto transposed = kernels<T>(*model_.backend).transposed;
  const std::vector<HeadTiles>& heads = pass.transposed->phases[p].heads;
  if (rows > 0 && heads.empty()) transposed(call);
  if (rows > 0)
    each_head_tiles(heads, call, [&](TransposedCall<T> part, const Span& meet) {
      part.summed = meet.size();
      part.a.base += meet.begin / part.a.width * part.a.stride;
      transposed(part);
    });
  const int64_t begin = call.tile_begin * int64_t(model_.lanes), end = call.tile_end * int64_t(model_.lanes);
  const RowShare part = rows_of(worker);
  for (int r = 0; masked && r < rows; ++r) {
    T* d_h = d_h_[part.place + r];
    for (int64_t i = begin; i < end; ++i) d_h[i] = d_h[i] + mask_[part.row(r)][i] * out[r][i];
  }
}

// The gradient of a layer's output as it was before dropout.
template <class T>
void Bptt<T>::drop_between(int layer, int worker) {
  if (!regularizer_.drops_between()) return;
  const NetworkConfig& c = model_.config;
  const int rows = record_.rows();
  const int64_t size = c.output_size, width = c.directions * size;
  for (int r = int(share(rows, worker)); r < share(rows, worker + 1); ++r)
    for (int64_t t = 0; t < record_.length(r); ++t)
      for (int d = 0; d < c.directions; ++d) {
        T* row = between_[layer & 1].base + (t * rows + r) * width + d * size;
        regularizer_.drop_between(row, 0, size, size_t(layer * c.directions + d), record_.order[size_t(r)], t);
      }
  barrier_.wait(worker);
}

template <class T>
void Bptt<T>::input_gradients(const Pass& pass, const Chunk& chunk, int worker) {
  if (!pass.dx.data) return;
  const Tables table = tables(worker);
  const int64_t begin = share(chunk.rows, worker), end = share(chunk.rows, worker + 1);
  for (int64_t step = chunk.from; step < chunk.to; ++step) {
    const int64_t first = record_.at(step) - record_.at(chunk.from);
    const int64_t last = std::min<int64_t>(record_.active(step), end - first);
    for (int64_t r = std::max<int64_t>(0, begin - first); r < last; ++r)
      table.chunk_x[first + r - begin] = outer_offset(pass, pass.dx, pass.x_order, int(r), step);
  }
  TransposedCall<T> call;
  call.rows = int(end - begin);
  call.out = {pass.dx.data, table.chunk_x};
  call.add = pass.lane % size_t(model_.config.directions) != 0;  // to what the first direction has left
  for (size_t p = 0; p < da_.size() && call.rows; ++p) {
    const Product& input = model_.spec->phases[int(p)].input;
    if (!input.count) continue;
    call.tiles = pass.transposed->phases[p].input;
    call.tile_end = int(model_.padded(call.tiles.units) / model_.lanes);
    call.gates = input.count;
    std::copy_n(input.chain, kMaxChains, call.chain);
    call.summed = pass.packed->phases[p].tiles.units;
    call.width = weights_.width(p);
    call.a = read_only(every(da_[p], begin, 1));
    kernels<T>(*model_.backend).transposed(call);
    call.add = true;
  }
}

template <class T>
void Bptt<T>::weight_gradients(const Pass& pass, const Chunk& chunk, int worker) {
  for (size_t p = 0; weights_.wanted() && p < da_.size(); ++p)
    weights_.sum(*pass.packed, p, {x_, p ? first_result_ : h_, da_[p], chunk.rows, chunk.to == record_.x.steps}, worker);
}

// Hands out the gradients of the initial states and of the parameters.
template <class T>
void Bptt<T>::finish(const Pass& pass, int worker) {
  const NetworkConfig& c = model_.config;
  const RowShare rows = rows_of(worker);
  between_steps(pass, 0, worker);
  for (int r = 0; r < rows.count && walks(worker); ++r)
    for (int s = 0; gradients_.d_initial && s < model_.spec->states.size; ++s) {
      const int64_t width = s ? c.hidden_size : c.output_size, caller_row = record_.order[size_t(rows.row(r))];
      T* to = gradients_.d_initial[s] + (int64_t(pass.lane) * record_.rows() + caller_row) * width;
      const int place = rows.place + r;
      std::memcpy(to, s ? d_states_[place] + (s - 1) * model_.padded_hidden() : d_h_[place], size_t(width) * sizeof(T));
    }
  if (weights_.wanted()) weights_.hand_out(*pass.packed, pass.lane, worker);
}

// No gradient reaches a step that is not run.
template <class T>
void Bptt<T>::clear_padding(int worker) {
  const Sequence<T>& dx = gradients_.dx;
  const int rows = record_.rows();
  for (int r = int(share(rows, worker)); dx.data && r < share(rows, worker + 1); ++r)
    each_skipped(record_.times.empty() ? nullptr : record_.times[size_t(r)], record_.length(r), dx.steps, [&](int64_t t) {
      std::memset(dx.data + t * dx.step_stride + record_.order[size_t(r)] * dx.row_stride, 0,
                  size_t(model_.config.input_size) * sizeof(T));
    });
}

template class Bptt<float>;
template class Bptt<double>;

}  // namespace detail
}  // namespace recurra
