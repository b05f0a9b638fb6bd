#include "bptt.h"

#include <algorithm>
#include <cstring>

#include "worth.h"

namespace recurra {
namespace detail {
namespace {

// Rows of a chunk: enough that reading and writing a weight's gradient once a chunk is little beside its multiply-adds.
constexpr int64_t kChunkRows = 256;

// An odd number of cache lines (of floats): rows a multiple of a page's size apart would all fall into the same few lines of
// the first-level cache.
ptrdiff_t odd_stride(ptrdiff_t width) { return ((width + 15) / 16 | 1) * 16; }

}  // namespace

template <class T>
Bptt<T>::Bptt(const Record<T>& record, const Gradients<T>& gradients, int workers)
    : record_(record),
      gradients_(gradients),
      model_(*record.model),
      workers_(workers),
      cell_(cell_number(model_.config.cell)),
      barrier_(workers) {
  const int rows = std::max(record.rows(), 1);
  const double step = model_.multiplications() * rows;
  split_ = workers == 1 || rows >= kRowsPerWorker * workers ? Split::rows
           : step >= kWorthBarrier * workers                ? Split::tiles
                                                            : Split::none;
  same_tiles_ = true;
  for (const PackedPhase<T>& phase : model_.layers[0].phases)
    same_tiles_ = same_tiles_ && phase.tile_count * model_.lanes == model_.padded(phase.tiles.source_size);
  chunk_steps_ = std::clamp<int64_t>(kChunkRows / rows, 1, std::max<int64_t>(record.x.steps, 1));
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
  phases_.resize(size_t(spec.phases.size));
  for (int p = 0; p < spec.phases.size; ++p) phases_[size_t(p)].width = model_.padded(model_.width(spec.phases[p].units, 0));
  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory_.data()};
    for (int p = 0; p < spec.phases.size; ++p) {
      const recurra::Phase& described = spec.phases[p];
      Phase& phase = phases_[size_t(p)];
      const ptrdiff_t columns = (described.chains + described.vector_count) * phase.width;
      deal.blocks(phase.da, columns, chunk_rows_);
      deal.panel(phase.d_input, odd_stride(input), described.input.count * phase.width);
      deal.panel(phase.d_recurrent, odd_stride(record_.stride), described.recurrent.count * phase.width);
      deal.panel(phase.d_sums, columns, 1);
    }
    deal.blocks(x_, input, chunk_rows_);
    deal.blocks(h_, record_.stride, chunk_rows_);
    deal.blocks(first_result_, spec.phases.size > 1 ? record_.stride : 0, chunk_rows_);
    deal.panel(states_, record_.state_width, recomputed);
    deal.panel(masked_h_, record_.stride, record_.noise.drops_recurrent() ? chunk_rows_ : 0);
    deal.panel(saved_, spec.saved * hidden, recomputed);
    deal.panel(kept_, spec.kept * hidden, recomputed);
    for (Panel<T>& result : result_) deal.panel(result, record_.stride, recomputed);
    deal.panel(d_h_, record_.stride, rows);
    deal.panel(d_states_, record_.state_width, rows);
    deal.panel(d_kept_, spec.kept * hidden, rows);
    deal.panel(d_result_, record_.stride, rows);
    const Noise& noise = record_.noise;
    for (Panel<T>* panel : {&mask_, &d_masked_}) deal.panel(*panel, record_.stride, noise.drops_recurrent() ? rows : 0);
    deal.panel(past_h_, record_.stride, noise.zones_out(0) ? rows : 0);
    deal.panel(past_states_, record_.state_width, noise.zones_out(1) ? rows : 0);
    for (int b = 0; b < 2; ++b) deal.panel(between_[b], output, c.layers > b + 1 ? record_.x.steps * rows : 0);
    deal.take(one_, 1);
    deal.take(tables_, workers_ * (2 * int64_t(rows) + 3 * chunk_rows_));
    if (counting) memory_ = model_.spare->take(deal.used);
  }
  *one_ = 1;
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
  pass.reverse = direction == 1;
  pass.packed = &model_.layers[pass.lane];
  pass.transposed = &model_.transposed()[pass.lane];
  pass.track = &record_.tracks[pass.lane];
  pass.x = layer ? read_only(record_.output(layer - 1)) : read_only(record_.x);
  pass.x_order = layer ? nullptr : record_.order.data();
  pass.dx = layer ? between(layer - 1) : gradients_.dx;
  pass.dy = top ? gradients_.dy : read_only(between(layer));
  pass.y_order = top ? record_.order.data() : nullptr;
  if (pass.dy.data) pass.dy.data += direction * c.output_size;
  return pass;
}

template <class T>
void Bptt<T>::run(int worker) {
  const Environment environment(*model_.backend);
  clear_padding(worker);
  for (int layer = model_.config.layers - 1; layer >= 0; --layer) {
    for (int direction = 0; direction < model_.config.directions; ++direction) run_pass(pass_of(layer, direction), worker);
    if (layer && record_.noise.drops_between()) drop_between(layer - 1, worker);
  }
}

template <class T>
void Bptt<T>::run_pass(const Pass& pass, int worker) {
  begin(pass, worker);
  barrier_.wait(worker);
  const int64_t steps = record_.x.steps;
  // Without any step there is still a chunk, of no rows: its sums are zero.
  for (int64_t from = std::max<int64_t>(steps - 1, 0) / chunk_steps_ * chunk_steps_; from >= 0; from -= chunk_steps_) {
    const int64_t to = std::min(steps, from + chunk_steps_);
    const Chunk chunk = {from, to, int(record_.at(to) - record_.at(from))};
    gather(pass, chunk, worker);
    if (record_.recompute && chunk.rows) recompute(pass, chunk, worker);
    if (phases_.size() > 1) gather_result(pass, chunk, worker);
    time_loop(pass, chunk, worker);
    barrier_.wait(worker);
    input_gradients(pass, chunk, worker);
    weight_gradients(pass, chunk, worker);
    barrier_.wait(worker);
  }
  finish(pass, worker);
  barrier_.wait(worker);
}

// The gradients that reach the final states.
template <class T>
void Bptt<T>::begin(const Pass& pass, int worker) {
  const NetworkConfig& c = model_.config;
  const ptrdiff_t hidden = model_.padded_hidden();
  const RowShare rows = rows_of(worker);
  for (int r = 0; r < rows.count && walks(worker); ++r) {
    const int place = rows.place + r;
    const int64_t caller_row = record_.order[size_t(rows.row(r))];
    std::memset(d_h_[place], 0, size_t(d_h_.stride) * sizeof(T));
    std::memset(d_states_[place], 0, size_t(d_states_.stride) * sizeof(T));
    if (record_.noise.drops_recurrent())
      record_.noise.recurrent_mask(mask_[rows.row(r)], record_.stride, pass.lane, caller_row);
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
      if (record_.noise.drops_recurrent()) {
        T* masked = masked_h_[first + r];
        for (int64_t i = 0; i < sources; ++i) masked[i] = mask_[r][i] * h[i];
        h = masked;
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
  const bool masked = record_.noise.drops_recurrent();
  PhaseCall<T> call;
  call.rows = chunk.rows;
  call.x.rows = {pass.x.data, table.chunk_x};
  call.h = {pass.track->h.base, table.chunk_h};
  call.states = read_only(states_);
  call.new_states = states_;
  call.kept = kept_;
  call.saved = saved_;
  call.padded = model_.padded_hidden();
  call.constants = model_.constants.data();
  for (size_t p = 0; p < phases_.size(); ++p) {
    const PackedPhase<T>& phase = pass.packed->phases[p];
    call.tiles = phase.tiles;
    call.tile_begin = int(share(phase.tile_count, worker));
    call.tile_end = int(share(phase.tile_count, worker + 1));
    call.source.rows = p        ? Rows<const T>{result_[p - 1].base, table.chunk_own}
                       : masked ? Rows<const T>{masked_h_.base, table.chunk_own}
                                : call.h;
    call.result = result_[p];
    phase.run(call);
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
  for (int64_t step = chunk.to - 1; step >= chunk.from; --step) this->step(pass, chunk, step, worker);
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
    for (int r = 0; r < rows; ++r) table.dy[r] = offset(pass, pass.dy, pass.y_order, part.row(r), step);
  const Panel<T> d_h = own(d_h_), d_result = own(d_result_);
  call.d_h = d_h;
  call.h = read_only(mine(pass.track->h, record_.before(step) + first));
  call.states = read_only(mine(pass.track->states, record_.before(step) + first));
  call.saved = read_only(record_.recompute ? mine(saved_, row) : mine(pass.track->saved, record_.at(step) + first));
  call.d_states = own(d_states_);
  call.d_kept = own(d_kept_);
  call.constants = model_.constants.data();
  for (size_t p = phases_.size(); p-- > 0;) {
    const int tiles = pass.packed->phases[p].tile_count;
    call.tiles = pass.packed->phases[p].tiles;
    call.tile_begin = by_tiles ? int(share(tiles, worker)) : 0;
    call.tile_end = by_tiles ? int(share(tiles, worker + 1)) : tiles;
    call.last = p + 1 == phases_.size();
    call.saved_width = call.last ? model_.spec->saved * call.padded : 0;
    call.dy = {call.last ? pass.dy.data : nullptr, table.dy};
    call.d_result = call.last ? d_h : d_result;
    call.da = every(phases_[p].da, row, part.stride);
    call.d_width = phases_[p].width;
    if (call.last && record_.noise.zones_out(0)) {
      zone_out(pass, call, 0, step, part);
      call.dy = {};
    }
    if (p == 0 && record_.noise.zones_out(1)) zone_out(pass, call, 1, step, part);
    kernels<T>(*model_.backend).backward[cell_][p](call);
    if (call.last && record_.noise.zones_out(0)) past_zoneout(call, 0, part);
    if (p == 0 && record_.noise.zones_out(1)) past_zoneout(call, 1, part);
    if (by_tiles) barrier_.wait(worker);
    const bool masked = p == 0 && record_.noise.drops_recurrent();
    product(pass, p, call.da, masked ? own(d_masked_) : p ? d_result : d_h, rows, worker);
    if (by_tiles && !same_tiles_) barrier_.wait(worker);
  }
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
  call.width = phases_[p].width;
  call.a = read_only(da);
  call.out = {out.base, table.own};
  const bool masked = p == 0 && record_.noise.drops_recurrent();
  call.add = p == 0 && !masked;
  if (rows > 0) kernels<T>(*model_.backend).transposed(call);
  const int64_t begin = call.tile_begin * int64_t(model_.lanes), end = call.tile_end * int64_t(model_.lanes);
  const RowShare part = rows_of(worker);
  for (int r = 0; masked && r < rows; ++r) {
    T* d_h = d_h_[part.place + r];
    for (int64_t i = begin; i < end; ++i) d_h[i] = d_h[i] + mask_[part.row(r)][i] * out[r][i];
  }
}

// Before the phase that made a state: what zoneout lets pass the step by, and what reaches the cell.
template <class T>
void Bptt<T>::zone_out(const Pass& pass, const BackwardCall<T>& call, int state, int64_t step, const RowShare& rows) {
  const ptrdiff_t begin = ptrdiff_t(call.tile_begin) * model_.lanes, end = ptrdiff_t(call.tile_end) * model_.lanes;
  const ptrdiff_t valid = std::min<ptrdiff_t>(end, call.tiles.units);
  for (int r = 0; r < call.rows; ++r) {
    const int place = rows.place + r;
    const int64_t caller_row = record_.order[size_t(rows.row(r))];
    if (state == 0) {
      T* d_h = d_h_[place];
      for (ptrdiff_t i = begin; call.dy.base && i < valid; ++i) d_h[i] = d_h[i] + call.dy[r][i];
      record_.noise.zone_out_backward(d_h, past_h_[place], begin, end, 0, pass.lane, caller_row, step);
    } else {
      for (ptrdiff_t at = 0; at < record_.state_width; at += call.padded)
        record_.noise.zone_out_backward(d_states_[place] + at, past_states_[place] + at, begin, end, 1, pass.lane, caller_row,
                                        step);
    }
  }
}

template <class T>
void Bptt<T>::past_zoneout(const BackwardCall<T>& call, int state, const RowShare& rows) {
  const ptrdiff_t begin = ptrdiff_t(call.tile_begin) * model_.lanes, end = ptrdiff_t(call.tile_end) * model_.lanes;
  for (int r = 0; r < call.rows; ++r) {
    const int place = rows.place + r;
    if (state == 0)
      for (ptrdiff_t i = begin; i < end; ++i) d_h_[place][i] = d_h_[place][i] + past_h_[place][i];
    else
      for (ptrdiff_t at = 0; at < record_.state_width; at += call.padded)
        for (ptrdiff_t i = at + begin; i < at + end; ++i) d_states_[place][i] = d_states_[place][i] + past_states_[place][i];
  }
}

// The gradient of a layer's output as it was before dropout.
template <class T>
void Bptt<T>::drop_between(int layer, int worker) {
  const NetworkConfig& c = model_.config;
  const int rows = record_.rows();
  const int64_t size = c.output_size, width = c.directions * size;
  for (int r = int(share(rows, worker)); r < share(rows, worker + 1); ++r)
    for (int64_t t = 0; t < record_.length(r); ++t)
      for (int d = 0; d < c.directions; ++d) {
        T* row = between_[layer & 1].base + (t * rows + r) * width + d * size;
        record_.noise.drop_between(row, 0, size, size_t(layer * c.directions + d), record_.order[size_t(r)], t);
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
      table.chunk_x[first + r - begin] = offset(pass, pass.dx, pass.x_order, int(r), step);
  }
  TransposedCall<T> call;
  call.rows = int(end - begin);
  call.out = {pass.dx.data, table.chunk_x};
  call.add = pass.reverse;
  for (size_t p = 0; p < phases_.size() && call.rows; ++p) {
    const Product& input = model_.spec->phases[int(p)].input;
    if (!input.count) continue;
    call.tiles = pass.transposed->phases[p].input;
    call.tile_end = int(model_.padded(call.tiles.units) / model_.lanes);
    call.gates = input.count;
    std::copy_n(input.chain, kMaxChains, call.chain);
    call.summed = pass.packed->phases[p].tiles.units;
    call.width = phases_[p].width;
    call.a = read_only(every(phases_[p].da, begin, 1));
    kernels<T>(*model_.backend).transposed(call);
    call.add = true;
  }
}

template <class T>
void Bptt<T>::weight_gradients(const Pass& pass, const Chunk& chunk, int worker) {
  if (!gradients_.params) return;
  const Kernels<T>& kernel = kernels<T>(*model_.backend);
  for (size_t p = 0; p < phases_.size(); ++p) {
    const recurra::Phase& described = model_.spec->phases[int(p)];
    const Phase& phase = phases_[p];
    const Tiles<T>& tiles = pass.packed->phases[p].tiles;
    OuterCall<T> call;
    call.rows = chunk.rows;
    call.add = chunk.to < record_.x.steps;
    const auto meet = [&](const Product& product, const Blocks<T>& x, int64_t columns, const Panel<T>& out) {
      for (int g = 0; g < product.count; ++g) {
        call.a = read_only(phase.da);
        call.first = product.chain[g] * phase.width;
        call.begin = share(tiles.units, worker);
        call.end = share(tiles.units, worker + 1);
        call.x = read_only(x);
        call.columns = model_.padded(columns);
        call.out = every(out, g * phase.width, 1);
        kernel.outer(call);
      }
    };
    meet(described.input, x_, tiles.input_size, phase.d_input);
    meet(described.recurrent, p ? first_result_ : h_, tiles.source_size, phase.d_recurrent);

    // A one for every row sums da up; workers have whole blocks of it.
    const int64_t columns = (described.chains + described.vector_count) * phase.width, width = phase.da.width;
    const int64_t blocks = (columns + width - 1) / width, block = share(blocks, worker);
    call.a = {one_, 0, width};
    call.first = call.begin = 0;
    call.end = 1;
    call.x = {phase.da.base + block * phase.da.stride, phase.da.row, phase.da.stride};
    call.columns = std::min(columns, share(blocks, worker + 1) * width) - block * width;
    call.out = {phase.d_sums.base + block * width, 0};
    kernel.outer(call);
  }
}

template <class T>
T* Bptt<T>::param(const Pass& pass, const char* name) const {
  for (int i = 0; name && i < model_.spec->params.size; ++i)
    if (std::strcmp(name, model_.spec->params[i].name) == 0) return (*gradients_.params)[pass.lane][size_t(i)];
  return nullptr;
}

template <class T>
void Bptt<T>::give_weights(const Pass& pass, const Product& product, const Panel<T>& d, const Phase& phase, int units,
                           int64_t columns, int worker) {
  T* out = param(pass, product.weight);
  if (!out) return;
  for (int g = 0; g < product.count; ++g)
    for (int64_t u = share(units, worker); u < share(units, worker + 1); ++u) {
      const T* from = d[g * phase.width + u];
      T* to = out + ((product.first + g) * int64_t(units) + u) * columns;
      for (int64_t i = 0; i < columns; ++i) to[i] = (gradients_.add ? to[i] : T(0)) + from[i];
    }
}

template <class T>
void Bptt<T>::give_sums(const Pass& pass, const char* name, int first, int count, const int* chain, const Phase& phase,
                        int units) {
  T* out = param(pass, name);
  for (int g = 0; out && g < count; ++g)
    for (int u = 0; u < units; ++u) {
      T& to = out[int64_t(first + g) * units + u];
      to = (gradients_.add ? to : T(0)) + phase.d_sums.base[chain[g] * phase.width + u];
    }
}

// Hands out the gradients of the initial states and of the parameters.
template <class T>
void Bptt<T>::finish(const Pass& pass, int worker) {
  const NetworkConfig& c = model_.config;
  const RowShare rows = rows_of(worker);
  for (int r = 0; r < rows.count && walks(worker); ++r)
    for (int s = 0; gradients_.d_initial && s < model_.spec->states.size; ++s) {
      const int64_t width = s ? c.hidden_size : c.output_size, caller_row = record_.order[size_t(rows.row(r))];
      T* to = gradients_.d_initial[s] + (int64_t(pass.lane) * record_.rows() + caller_row) * width;
      const int place = rows.place + r;
      std::memcpy(to, s ? d_states_[place] + (s - 1) * model_.padded_hidden() : d_h_[place], size_t(width) * sizeof(T));
    }
  if (!gradients_.params) return;
  for (size_t p = 0; p < phases_.size(); ++p) {
    const recurra::Phase& described = model_.spec->phases[int(p)];
    const Tiles<T>& tiles = pass.packed->phases[p].tiles;
    give_weights(pass, described.input, phases_[p].d_input, phases_[p], tiles.units, tiles.input_size, worker);
    give_weights(pass, described.recurrent, phases_[p].d_recurrent, phases_[p], tiles.units, tiles.source_size, worker);
    if (worker) continue;
    int vectors[kMaxChains];
    for (int v = 0; v < kMaxChains; ++v) vectors[v] = described.chains + v;
    const auto sums = [&](const char* name, int first, int count, const int* chain) {
      give_sums(pass, name, first, count, chain, phases_[p], tiles.units);
    };
    sums(described.input.bias, described.input.first, described.input.count, described.input.chain);
    sums(described.recurrent.bias, described.recurrent.first, described.recurrent.count, described.recurrent.chain);
    sums(described.vectors, 0, described.vector_count, vectors);
  }
}

// No gradient reaches a padded step.
template <class T>
void Bptt<T>::clear_padding(int worker) {
  const Sequence<T>& dx = gradients_.dx;
  const int rows = record_.rows();
  for (int r = int(share(rows, worker)); dx.data && r < share(rows, worker + 1); ++r)
    for (int64_t step = record_.length(r); step < dx.steps; ++step)
      std::memset(dx.data + step * dx.step_stride + record_.order[size_t(r)] * dx.row_stride, 0,
                  size_t(model_.config.input_size) * sizeof(T));
}

template class Bptt<float>;
template class Bptt<double>;

}  // namespace detail
}  // namespace recurra
