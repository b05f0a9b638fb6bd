#include "session.h"

#include <algorithm>
#include <cstring>

namespace recurra {
namespace detail {
namespace {

// The input product of several steps at once reads its weights once for all their rows, and pays as long as it stays in the
// second-level cache; for kChunkRows rows it may take more of that (bench/NOTES.md).
constexpr int64_t kChunkBytes = 256 << 10;
constexpr int64_t kMostChunkBytes = 1 << 20;
constexpr int64_t kChunkRows = 64;
constexpr int64_t kSpanBytes = 1 << 20;
constexpr int64_t kFetchBytes = 128 << 10;  // of input rows prefetched at once: a part of the second-level cache
constexpr int64_t kMostSteps = 64;

// Bytes that a row may need in the form that reduced weights expect: integers are one byte each, bfloat16 numbers two or four.
int64_t reduced_bytes(Precision precision, int64_t size) {
  return precision == Precision::full ? 0 : (size * (precision == Precision::int8 ? 1 : 4) + 63) / 64 * 64;
}

int64_t steps_within(int64_t budget, int64_t bytes_a_step) {
  return std::clamp<int64_t>(budget / std::max<int64_t>(bytes_a_step, 1), 1, kMostSteps);
}

// Prefetches rows that are not in a near cache, new ones or those that other workers have just written, all cache lines at
// once: the product would wait for them one by one.
template <class T>
void fetch(const Rows<const T>& rows, int count, int64_t size) {
  for (int r = 0; r < count; ++r)
    for (int64_t k = 0; k < size; k += 64 / int64_t(sizeof(T))) __builtin_prefetch(rows[r] + k);
}

// How many of the first `rows` rows are still running at `step`.
int active(const RowPlan& plan, int rows, int64_t step) {
  while (plan.lengths && rows > 0 && plan.lengths[rows - 1] <= step) --rows;
  return rows;
}

}  // namespace

Crew::Crew(int size, int directions)
    : size(size),
      side_by_side(directions == 2 && size > 1),
      all(size),
      groups{{0, side_by_side ? size / 2 : size}, {side_by_side ? size / 2 : 0, size - size / 2}} {}

template <class T>
Session<T>::Session(std::shared_ptr<const Model<T>> model, int rows, int64_t steps, int workers)
    : model_(std::move(model)),
      rows_(rows),
      workers_(workers),
      share_(rows),
      states_(*model_, rows),
      regularizer_(noise_of(model_->config.regularization, nullptr), *model_) {
  size(steps);
  deal(std::max(rows, 1));
  for (int row = 0; row < rows; ++row) states_.clear_row(row);
}

template <class T>
Session<T>::Session(Record<T>& record, const RowShare& share, int workers)
    : model_(record.model),
      rows_(share.count),
      workers_(workers),
      record_(&record),
      share_(share),
      states_(record, share),
      regularizer_(record.noise, *model_) {
  size(record.x.steps);
  span_ = std::max<int64_t>(record.x.steps, 1);
  deal(std::max(rows_, 1));
}

template <class T>
Session<T>::~Session() {
  model_->spare->give(std::move(memory_));
}

template <class T>
void Session<T>::size(int64_t steps) {
  const Model<T>& m = *model_;
  const NetworkConfig& c = m.config;
  const int64_t batch = std::max(rows_, 1);

  int64_t before_width = 0;
  for (const PackedPhase<T>& p : m.layers[0].phases) before_width += int64_t(p.tile_count) * p.inputs * m.lanes;
  const int64_t output_width = c.directions * c.output_size;
  const int64_t before_bytes = batch * before_width * int64_t(sizeof(T));
  chunk_ = std::max(steps_within(kChunkBytes, before_bytes),
                    std::min(steps_within(kMostChunkBytes, before_bytes), kChunkRows / batch));
  chunk_ = std::min(chunk_, std::max<int64_t>(steps, 1));
  span_ = std::max(chunk_, steps_within(kSpanBytes, batch * output_width * int64_t(sizeof(T))));
  if (c.layers == 1 || c.directions == 2 || c.reverse) span_ = std::max(span_, steps);
}

// One block of memory, divided up in order; the first pass finds out how much is needed.
template <class T>
void Session<T>::deal(int64_t batch) {
  const Model<T>& m = *model_;
  const NetworkConfig& c = m.config;
  const ptrdiff_t hidden = m.padded_hidden();
  const int64_t output_width = c.directions * c.output_size;
  const int64_t before_rows = chunk_ > 1 ? batch * chunk_ : 0;
  reduced_stride_ = reduced_bytes(c.precision, std::max(c.input_size, std::max(output_width, c.hidden_size)));
  calls_.resize(size_t(workers_));

  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory_.data()};
    states_.deal(deal);
    for (int d = 0; d < c.directions; ++d) {
      deal.panel(scratch_[d].kept, ptrdiff_t(m.spec->kept) * hidden, batch);
      deal.panel(scratch_[d].apart, m.apart_width(), batch);
      deal.panel(scratch_[d].old_states, states_.width(), regularizer_.zoned_state_rows(batch));
      for (int p = 0; p < m.spec->phases.size; ++p) {
        const PackedPhase<T>& phase = m.layers[0].phases[p];
        deal.panel(scratch_[d].before[p], ptrdiff_t(phase.tile_count) * phase.inputs * m.lanes, before_rows);
      }
    }
    for (Panel<T>& between : between_) deal.panel(between, output_width, c.layers > 1 && !record_ ? span_ * batch : 0);
    for (Panel<T>* panel : {&masked_.mask, &masked_.h})
      deal.panel(*panel, states_.stride(), regularizer_.masked_rows(workers_ * batch));
    deal.take(offsets_, workers_ * batch * (5 + chunk_));
    if (reduced_stride_) {
      deal.take(reduced_, workers_ * batch * (chunk_ + 1) * reduced_stride_);
      deal.take(scales_, workers_ * batch * (chunk_ + 1));
    }
    if (counting) memory_ = m.spare->take(deal.used);
  }
}

template <class T>
void Session<T>::run(Crew& crew, int worker, Sequence<const T> x, Sequence<T> y, const RowPlan& plan, Stopper& stopper,
                     const T* const* reset_state, Sequence<T> cells) {
  if (!plan.rows) return;
  const NetworkConfig& c = model_->config;
  const Environment environment(*model_->backend);
  Pass pass;
  pass.offsets = offsets_of(worker);
  pass.reduced = reduced_of(worker);
  pass.masked = masked_of(worker);
  pass.calls = calls_[size_t(worker)].phase;
  pass.plan = &plan;
  pass.reset_state = reset_state;
  pass.x_rows = x.rows;
  pass.rows = {plan.order, RowShare(plan.rows)};
  pass.stopper = &stopper;

  // Where something befalls rows there is a span for it, of no steps if need be.
  const int64_t end = plan.events ? std::max<int64_t>(x.steps, 1) : x.steps;
  for (pass.first = 0; pass.first < end && !pass.given_up; pass.first += span_) {
    const int64_t steps = std::min(span_, x.steps - pass.first);
    for (int layer = 0; layer < c.layers; ++layer) {
      const bool last = layer == c.layers - 1;
      const Sequence<const T> in = layer ? read_only(between(layer - 1, steps)) : from_step(x, pass.first, steps);
      for (int d = 0; d < c.directions; ++d) {
        Crew::Group& group = crew.group_of(d);
        pass.rank = worker - group.first;
        if (pass.rank < 0 || pass.rank >= group.size) continue;
        pass.size = group.size;
        pass.group = &group;
        pass.direction = d;
        pass.reverse = d == 1 || c.reverse;
        pass.lane = size_t(layer * c.directions + d);
        pass.layer = &model_->layers[pass.lane];
        pass.scratch = &scratch_[d];
        pass.first_layer = layer == 0;
        pass.last_layer = last;
        pass.x = in;
        pass.y = last ? from_step(y, pass.first, steps) : between(layer, steps);
        pass.y.data += d * c.output_size;
        pass.cells = last && cells.data ? from_step(cells, pass.first, steps) : Sequence<T>();
        if (pass.cells.data) pass.cells.data += d * c.hidden_size;
        run_pass(pass, steps);
        if (plan.events && pass.first + steps == x.steps && !pass.given_up) between_steps(pass, x.steps);
        if (!last && !pass.given_up) drop_between(pass, steps);
      }
      if (crew.side_by_side) crew.all.wait(worker);
    }
  }
}

template <class T>
Sequence<T> Session<T>::between(int layer, int64_t steps) const {
  if (!record_) return {between_[layer & 1].base, steps, rows_, rows_ * between_[0].stride, between_[0].stride};
  const Sequence<T> all = record_->output(layer);
  return {all.data + share_.first * all.row_stride, steps, rows_, all.step_stride, all.row_stride * share_.stride};
}

// Reads and writes every row at its own place: forward at step, reverse at length - 1 - step. Both walk with one base for all
// rows, because what differs between rows is put into their offsets.
template <class T>
void Session<T>::run_pass(Pass& pass, int64_t steps) {
  const RowPlan& plan = *pass.plan;
  const int64_t *x_order = pass.first_layer ? plan.order : nullptr, *y_order = pass.last_layer ? plan.order : nullptr;
  const ptrdiff_t own = states_.before(pass.lane, 0).h.stride, result = states_.result(pass.direction, pass.lane, 0).stride;
  for (int r = 0; r < plan.rows; ++r) {
    const int64_t start = pass.reverse ? plan.length(r, steps) - 1 : 0;
    pass.offsets.own[r] = r * own;
    pass.offsets.result[r] = r * result;
    pass.offsets.masked[r] = r * states_.stride();
    pass.offsets.x[r] = (x_order ? x_order[r] : r) * pass.x.row_stride + start * pass.x.step_stride;
    pass.offsets.y[r] = (y_order ? y_order[r] : r) * pass.y.row_stride + start * pass.y.step_stride;
  }
  regularizer_.draw_masks(pass.masked.mask, pass.lane, pass.rows);
  for (size_t p = 0; p < pass.layer->phases.size(); ++p) {
    const PackedPhase<T>& phase = pass.layer->phases[p];
    prepare(*pass.layer, p, *pass.scratch, pass.calls[p]);
    pass.calls[p].tile_begin = pass.begin(phase.tile_count);
    pass.calls[p].tile_end = pass.end(phase.tile_count);
  }
  int rows = plan.rows;
  for (int64_t from = 0; from < steps; from += chunk_) {
    const int64_t to = std::min(steps, from + chunk_);
    // A single step has nothing to share: its input product joins the chain in the phase itself.
    const bool at_once = to - from > 1;
    bool& stopped = pass.group->stopped[pass.chunks++ & 1];
    pass.stopper->poll();
    if (pass.rank == 0) stopped = pass.stopper->stopped();
    if (record_ && pass.lane == 0) keep_inputs(pass, from, to);
    if (at_once) chunk_of_inputs(pass, from, to);
    ptrdiff_t row = 0;
    for (int64_t step = from; step < to; ++step) {
      if (plan.events && plan.events[pass.reverse].any(pass.first + step)) between_steps(pass, pass.first + step);
      rows = active(plan, rows, pass.first + step);
      if (!rows) return;
      run_step(pass, step, rows, at_once ? row : -1);
      if (pass.cells.data) copy_cells(pass, step, rows);
      row += rows;
    }
    if (stopped) {
      pass.given_up = true;
      return;
    }
  }
}

// What befalls rows when so many of their steps are done. The first worker sees to it.
template <class T>
void Session<T>::between_steps(const Pass& pass, int64_t position) {
  const Events& events = pass.plan->events[pass.reverse];
  if (!events.any(position)) return;
  if (pass.cells.data && pass.size > 1) pass.group->barrier.wait(pass.rank);  // until all have copied theirs
  const Place<T> now = states_.before(pass.lane, position);
  const auto repeat = [&](const Event& event, const Sequence<T>& to, const T* from, int64_t size) {
    T* const place = to.data + (event.time - pass.first) * to.step_stride + pass.plan->source(event.row) * to.row_stride;
    std::memcpy(place, from, size_t(size) * sizeof(T));
  };
  for (const Event& event : events.at(position)) {
    if (pass.rank) break;
    if (event.resets()) {
      states_.reset_row(pass.lane, position, event.row, pass.reset_state, *pass.plan, pass.x_rows);
    } else if (pass.last_layer) {
      repeat(event, pass.y, now.h[event.row], model_->config.output_size);
      if (pass.cells.data) repeat(event, pass.cells, now.states[event.row], model_->config.hidden_size);
    }
  }
  if (pass.size > 1) pass.group->barrier.wait(pass.rank);
}

// Which of a row's steps in this span it is that the loop comes to at `step`.
template <class T>
int64_t Session<T>::number_of(const Pass& pass, int row, int64_t step) const {
  return pass.reverse ? pass.plan->length(row, pass.x.steps) - 1 - step : step;
}

// Offsets of the rows of a step that lie at times of their own; the base moves with the step as that of others.
template <class T>
template <class S>
void Session<T>::locate(const Pass& pass, const S& sequence, ptrdiff_t* offsets, int64_t step, int rows) const {
  const RowPlan& plan = *pass.plan;
  const int64_t base = pass.first + (pass.reverse ? -step : step);
  for (int r = 0; r < rows; ++r) {
    const int64_t time = plan.times[r][pass.first + number_of(pass, r, step)];
    offsets[r] = plan.source(r) * sequence.row_stride + (time - base) * sequence.step_stride;
  }
}

// Copies the caller's rows for backward, just before they are read; the workers take turns.
template <class T>
void Session<T>::keep_inputs(const Pass& pass, int64_t from, int64_t to) const {
  const RowPlan& plan = *pass.plan;
  const Sequence<T>& kept = record_->x;
  int rows = plan.rows;
  for (int64_t step = from, count = 0; step < to; ++step) {
    rows = active(plan, rows, pass.first + step);
    if (pass.scatters_x()) locate(pass, pass.x, pass.offsets.x, step, rows);
    for (int r = 0; r < rows; ++r, ++count)
      if (count % pass.size == pass.rank)
        std::memcpy(kept.data + (pass.first + number_of(pass, r, step)) * kept.step_stride + plan.source(r) * kept.row_stride,
                    pass.x.data + pass.offsets.x[r] + (pass.reverse ? -step : step) * pass.x.step_stride,
                    size_t(kept.row_stride) * sizeof(T));
  }
}

// Bias plus input product of all rows of steps from .. to-1.
template <class T>
void Session<T>::chunk_of_inputs(const Pass& pass, int64_t from, int64_t to) const {
  if (pass.stopper->stopped()) return;
  const RowPlan& plan = *pass.plan;
  const ptrdiff_t stride = pass.reverse ? -pass.x.step_stride : pass.x.step_stride;
  int count = 0, rows = plan.rows;
  for (int64_t step = from; step < to; ++step) {
    rows = active(plan, rows, pass.first + step);
    if (pass.scatters_x()) locate(pass, pass.x, pass.offsets.x, step, rows);
    for (int r = 0; r < rows; ++r) pass.offsets.chunk[count++] = pass.offsets.x[r] + step * stride;
  }
  const int64_t size = pass.layer->phases[0].tiles.input_size;
  const Rows<const T> x_rows = {pass.x.data, pass.offsets.chunk};
  if (count * size * int64_t(sizeof(T)) <= kFetchBytes) fetch(x_rows, count, size);
  const Operand<T> x = operand(pass.layer->precision, x_rows, count, size, false, pass.reduced.x, pass.reduced.x_scale);
  for (size_t p = 0; p < pass.layer->phases.size(); ++p) {
    const PackedPhase<T>& phase = pass.layer->phases[p];
    if (!phase.inputs) continue;
    InputCall<T> call;
    call.tiles = phase.tiles;
    call.tile_begin = pass.begin(phase.tile_count);
    call.tile_end = pass.end(phase.tile_count);
    call.rows = count;
    call.x = x;
    call.out = pass.scratch->before[p];
    phase.input_product(call);
  }
}

// What is the same in all steps of a phase, for all of its tiles.
template <class T>
void Session<T>::prepare(const PackedLayer<T>& layer, size_t p, const Scratch& scratch, PhaseCall<T>& call) const {
  const PackedPhase<T>& phase = layer.phases[p];
  call.finish = phase.finish[states_.saves()];
  call.tiles = phase.tiles;
  call.tile_begin = 0;
  call.tile_end = phase.tile_count;
  call.kept = scratch.kept;
  call.apart = scratch.apart;
  call.padded = model_->padded_hidden();
  call.constants = layer.constants.data();
}

template <class T>
void Session<T>::run_step(const Pass& pass, int64_t step, int rows, ptrdiff_t before_row) const {
  const int64_t now = pass.first + step, place = pass.reverse ? -step : step;
  const Place<T> old = states_.before(pass.lane, now), next = states_.before(pass.lane, now + 1);
  const Panel<T> result = states_.result(pass.direction, pass.lane, now), saved = states_.saved(pass.lane, now);
  const size_t last = pass.layer->phases.size() - 1;
  const bool stopped = pass.stopper->stopped(), zones_out = regularizer_.zones_out();
  if (before_row < 0 && pass.scatters_x()) locate(pass, pass.x, pass.offsets.x, step, rows);
  if (pass.scatters_y()) locate(pass, pass.y, pass.offsets.y, step, rows);
  Operand<T> x;
  if (before_row < 0)
    x = operand(pass.layer->precision, {pass.x.data + place * pass.x.step_stride, pass.offsets.x}, rows,
                pass.layer->phases[0].tiles.input_size, false, pass.reduced.x, pass.reduced.x_scale);
  for (size_t p = 0; p <= last; ++p) {
    const PackedPhase<T>& phase = pass.layer->phases[p];
    PhaseCall<T>& call = pass.calls[p];
    call.backwards = states_.side(now);
    call.rows = rows;
    call.x = x;
    call.h = {old.h.base, pass.offsets.own};
    call.states = {old.states.base, old.states.stride};
    call.new_states = next.states;
    call.saved = saved;
    const Rows<const T> source = p ? Rows<const T>{result.base, pass.offsets.result} : masked(pass, old.h, rows);
    if (pass.size > 1) fetch(source, rows, phase.tiles.source_size);
    call.source = operand(pass.layer->precision, source, rows, phase.tiles.source_size, phase.source_in_unit_range,
                          pass.reduced.source, pass.reduced.source_scale);
    call.result = p < last ? result : next.h;
    call.before = {};
    if (before_row >= 0 && phase.inputs) call.before = {pass.scratch->before[p][before_row], pass.scratch->before[p].stride};
    call.y = p < last ? Rows<T>() : Rows<T>{pass.y.data + place * pass.y.step_stride, pass.offsets.y};
    call.shared = pass.size > 1;
    if (!stopped) {
      if (zones_out) regularizer_.keep_old(call, p, pass.scratch->old_states);
      phase.each_call(call, phase.run);
    }
    if (phase.by_rows && call.shared) {
      pass.group->barrier.wait(pass.rank);
      const int begin = pass.begin(rows);
      if (!stopped) call.finish(call, begin, pass.end(rows) - begin, 0, 0, nullptr);
      if (zones_out) pass.group->barrier.wait(pass.rank);
    }
    if (!stopped) {
      if (zones_out) regularizer_.zone_out(call, p, p == last, pass.scratch->old_states, pass.lane, pass.rows, now);
    }
    if (pass.size > 1) pass.group->barrier.wait(pass.rank);
  }
}

// The units that this worker has just made of the second state, for the caller: no other worker writes them.
template <class T>
void Session<T>::copy_cells(const Pass& pass, int64_t step, int rows) const {
  const RowPlan& plan = *pass.plan;
  const Panel<T> states = states_.before(pass.lane, pass.first + step + 1).states;
  int p = 0;
  while (!model_->spec->phases[p].sets_states) ++p;
  const ptrdiff_t begin = pass.calls[p].tile_begin * ptrdiff_t(model_->lanes);
  const ptrdiff_t end = std::min<ptrdiff_t>(pass.calls[p].tile_end * ptrdiff_t(model_->lanes), model_->config.hidden_size);
  for (int r = 0; r < rows && begin < end; ++r) {
    const int64_t number = number_of(pass, r, step);
    const int64_t t = plan.times ? plan.times[r][pass.first + number] - pass.first : number;
    T* const to = pass.cells.data + plan.source(r) * pass.cells.row_stride + t * pass.cells.step_stride;
    std::memcpy(to + begin, states[r] + begin, size_t(end - begin) * sizeof(T));
  }
}

// h(t-1) as recurrent products read it.
template <class T>
Rows<const T> Session<T>::masked(const Pass& pass, const Panel<T>& h, int rows) const {
  if (!regularizer_.drops_recurrent()) return {h.base, pass.offsets.own};
  for (int r = 0; r < rows; ++r) regularizer_.mask_row(pass.masked.h[r], pass.masked.mask[r], h[r], states_.stride());
  return {pass.masked.h.base, pass.offsets.masked};
}

// Dropout on a layer's output, once the output is complete.
template <class T>
void Session<T>::drop_between(const Pass& pass, int64_t steps) const {
  if (!regularizer_.drops_between()) return;
  const RowPlan& plan = *pass.plan;
  const int64_t size = model_->config.output_size, begin = size * pass.rank / pass.size;
  const int64_t end = size * (pass.rank + 1) / pass.size;
  for (int r = 0; r < plan.rows; ++r)
    for (int64_t t = 0; t < plan.length(r, steps); ++t)
      regularizer_.drop_between(pass.y.data + t * pass.y.step_stride + r * pass.y.row_stride, begin, end, pass.lane,
                                plan.source(r), t);
  if (pass.size > 1) pass.group->barrier.wait(pass.rank);
}

template <class T>
typename Session<T>::Offsets Session<T>::offsets_of(int worker) const {
  const ptrdiff_t rows = rows_;
  ptrdiff_t* table = offsets_ + ptrdiff_t(worker) * std::max(rows_, 1) * (5 + chunk_);
  return {table, table + rows, table + 2 * rows, table + 3 * rows, table + 4 * rows, table + 5 * rows};
}

template <class T>
typename Session<T>::Masked Session<T>::masked_of(int worker) const {
  return {every(masked_.mask, ptrdiff_t(worker) * rows_, 1), every(masked_.h, ptrdiff_t(worker) * rows_, 1)};
}

template <class T>
typename Session<T>::Reduced Session<T>::reduced_of(int worker) const {
  if (!reduced_stride_) return {};
  const ptrdiff_t batch = std::max(rows_, 1), rows = batch * (chunk_ + 1);
  char* reduced = reduced_ + worker * rows * reduced_stride_;
  float* scales = scales_ + worker * rows;
  return {{reduced, reduced_stride_},
          {reduced + batch * chunk_ * reduced_stride_, reduced_stride_},
          scales,
          scales + batch * chunk_};
}

// Rows in the form that a product reads.
template <class T>
Operand<T> Session<T>::operand(Precision precision, Rows<const T> rows, int count, int64_t size, bool unit_range,
                               const Panel<char>& reduced, float* scale) const {
  Operand<T> all;
  all.rows = rows;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (precision == Precision::full) return all;
    ReduceCall call;
    call.rows = count;
    call.size = size;
    call.padded = (size + 3) / 4 * 4;
    call.unit_range = unit_range;
    call.x = rows;
    call.out = reduced;
    call.scale = scale;
    model_->backend->reduce[int(precision)](call);
    all.reduced = {reduced.base, reduced.stride};
    all.scale = scale;
  }
  return all;
}

template <class T>
void Session<T>::make_ready() {
  const NetworkConfig& c = model_->config;
  if (workers_ > 1 || c.directions > 1 || reduced_stride_ || regularizer_.zones_out()) return;
  const ptrdiff_t rows = rows_, h_stride = states_.stride();
  ready_offsets_.resize(size_t(3 * rows));
  ptrdiff_t *own = ready_offsets_.data(), *x = own + rows, *y = x + rows;
  for (ptrdiff_t r = 0; r < rows; ++r) {
    own[r] = r * h_stride;
    x[r] = r * c.input_size;
    y[r] = r * c.output_size;
  }
  for (const int side : {0, 1}) {
    const int64_t step = states_.side(0) ^ side;
    Panel<T> below;  // h of the layer below, after this step
    for (size_t lane = 0; lane < model_->layers.size(); ++lane) {
      const Place<T> old = states_.before(lane, step), next = states_.before(lane, step + 1);
      const Panel<T> result = states_.result(0, lane, step);
      const PackedLayer<T>& layer = model_->layers[lane];
      const std::vector<PackedPhase<T>>& phases = layer.phases;
      for (size_t p = 0; p < phases.size(); ++p) {
        PhaseCall<T> all;
        prepare(layer, p, scratch_[0], all);
        all.backwards = side;
        all.rows = rows_;
        all.x.rows = {below.base, lane ? own : x};
        all.h = {old.h.base, own};
        all.source.rows = {p ? result.base : old.h.base, own};
        all.states = read_only(old.states);
        all.new_states = next.states;
        all.result = p + 1 < phases.size() ? result : next.h;
        all.y = {nullptr, y};
        ready_last_ = ready_[side].size();
        phases[p].each_call(all, [&](const PhaseCall<T>& call) { ready_[side].push_back({call, phases[p].run}); });
      }
      if (!lane) ready_first_ = ready_[side].size();
      below = next.h;
    }
  }
}

template <class T>
Panel<const T> Session<T>::step(const T* x, T* y) {
  std::vector<Ready>& calls = ready_[states_.side(0)];
  for (size_t i = 0; i < ready_first_; ++i) calls[i].call.x.rows.base = x;
  for (size_t i = ready_last_; i < calls.size(); ++i) calls[i].call.y.base = y;
  for (const Ready& ready : calls) ready.run(ready.call);
  states_.ran(1);
  return read_only(calls.back().call.result);
}

template class Session<float>;
template class Session<double>;

}  // namespace detail
}  // namespace recurra
