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
constexpr int64_t kFetchBytes = 128 << 10;  // of input rows asked for at once: a part of the second-level cache
constexpr int64_t kMostSteps = 64;

// Bytes that a row may need in the form that reduced weights want: integers are one byte each, bfloat16 numbers two or four.
int64_t reduced_bytes(Precision precision, int64_t size) {
  return precision == Precision::full ? 0 : (size * (precision == Precision::int8 ? 1 : 4) + 63) / 64 * 64;
}

int64_t steps_within(int64_t budget, int64_t bytes_a_step) {
  return std::clamp<int64_t>(budget / std::max<int64_t>(bytes_a_step, 1), 1, kMostSteps);
}

// Asks for rows that are far away, new ones or such as other workers have just written, all cache lines at once: the product
// would wait for them one by one.
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
    : model_(std::move(model)), rows_(rows), workers_(workers), share_(rows), noise_(model_->config.regularization, nullptr) {
  size(steps);
  deal(std::max(rows, 1));
  for (int row = 0; row < rows; ++row) clear_row(row);
}

template <class T>
Session<T>::Session(Record<T>& record, const RowShare& share, int workers)
    : model_(record.model), rows_(share.count), workers_(workers), record_(&record), share_(share), noise_(record.noise) {
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
  hidden_ = m.padded_hidden();
  stride_ = std::max(hidden_, ptrdiff_t(m.padded_output()));

  int64_t before_width = 0;
  for (const PackedPhase<T>& p : m.layers[0].phases) before_width += int64_t(p.tile_count) * p.inputs * m.lanes;
  const int64_t output_width = c.directions * c.output_size;
  const int64_t before_bytes = batch * before_width * int64_t(sizeof(T));
  chunk_ = std::max(steps_within(kChunkBytes, before_bytes),
                    std::min(steps_within(kMostChunkBytes, before_bytes), kChunkRows / batch));
  chunk_ = std::min(chunk_, std::max<int64_t>(steps, 1));
  span_ = std::max(chunk_, steps_within(kSpanBytes, batch * output_width * int64_t(sizeof(T))));
  if (c.layers == 1 || c.directions == 2) span_ = std::max(span_, steps);
}

// One block of memory, dealt out in order; the first round finds out how much it takes.
template <class T>
void Session<T>::deal(int64_t batch) {
  const Model<T>& m = *model_;
  const NetworkConfig& c = m.config;
  const int64_t output_width = c.directions * c.output_size;
  const int64_t before_rows = chunk_ > 1 ? batch * chunk_ : 0;
  reduced_stride_ = reduced_bytes(c.precision, std::max(c.input_size, std::max(output_width, c.hidden_size)));
  lanes_.resize(m.layers.size());
  calls_.resize(size_t(workers_));

  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory_.data()};
    for (Lane& lane : lanes_) {
      if (record_) break;
      for (Panel<T>& h : lane.h) deal.panel(h, stride_, batch);
      deal.panel(lane.states, state_width(), batch);
    }
    for (int d = 0; d < c.directions; ++d) {
      deal.panel(scratch_[d].result, stride_, batch);
      deal.panel(scratch_[d].kept, ptrdiff_t(m.spec->kept) * hidden_, batch);
      deal.panel(scratch_[d].old_states, state_width(), noise_.zones_out(1) ? batch : 0);
      for (int p = 0; p < m.spec->phases.size; ++p) {
        const PackedPhase<T>& phase = m.layers[0].phases[p];
        deal.panel(scratch_[d].before[p], ptrdiff_t(phase.tile_count) * phase.inputs * m.lanes, before_rows);
      }
    }
    for (Panel<T>& between : between_) deal.panel(between, output_width, c.layers > 1 && !record_ ? span_ * batch : 0);
    for (Panel<T>* panel : {&masked_.mask, &masked_.h})
      deal.panel(*panel, stride_, noise_.drops_recurrent() ? workers_ * batch : 0);
    deal.take(offsets_, workers_ * batch * (5 + chunk_));
    if (reduced_stride_) {
      deal.take(reduced_, workers_ * batch * (chunk_ + 1) * reduced_stride_);
      deal.take(scales_, workers_ * batch * (chunk_ + 1));
    }
    if (counting) memory_ = m.spare->take(deal.used);
  }
}

template <class T>
void Session<T>::run(Crew& crew, int worker, Sequence<const T> x, Sequence<T> y, const RowPlan& plan) {
  if (!plan.rows) return;
  const Model<T>& m = *model_;
  const NetworkConfig& c = m.config;
  const Environment environment(*m.backend);
  const ptrdiff_t row_count = rows_;
  ptrdiff_t* table = offsets_ + ptrdiff_t(worker) * std::max(rows_, 1) * (5 + chunk_);
  const Offsets offsets = {
      table, table + row_count, table + 2 * row_count, table + 3 * row_count, table + 4 * row_count, table + 5 * row_count};

  for (int64_t first = 0; first < x.steps; first += span_) {
    const int64_t steps = std::min(span_, x.steps - first);
    const auto middle = [&](int layer) {
      if (record_ && layer >= 0 && layer + 1 < c.layers) {
        const Sequence<T> all = record_->output(layer);
        return Sequence<T>{all.data + share_.first * all.row_stride, steps, rows_, all.step_stride,
                           all.row_stride * share_.stride};
      }
      return Sequence<T>{between_[layer & 1].base, steps, rows_, rows_ * between_[0].stride, between_[0].stride};
    };
    for (int layer = 0; layer < c.layers; ++layer) {
      const bool last = layer == c.layers - 1;
      const Sequence<T> from = middle(layer - 1), to = middle(layer);
      const Sequence<const T> in =
          layer ? Sequence<const T>{from.data, steps, rows_, from.step_stride, from.row_stride}
                : Sequence<const T>{x.data + first * x.step_stride, steps, x.rows, x.step_stride, x.row_stride};
      for (int d = 0; d < c.directions; ++d) {
        Crew::Group& group = crew.group_of(d);
        const int rank = worker - group.first;
        if (rank < 0 || rank >= group.size) continue;
        Sequence<T> out = last ? Sequence<T>{y.data + first * y.step_stride, steps, y.rows, y.step_stride, y.row_stride} : to;
        out.data += d * c.output_size;
        const size_t lane = size_t(layer * c.directions + d);
        const Masked masked = {every(masked_.mask, ptrdiff_t(worker) * rows_, 1),
                               every(masked_.h, ptrdiff_t(worker) * rows_, 1)};
        const Pass pass = {&m.layers[lane],
                           lane,
                           &scratch_[d],
                           in,
                           out,
                           d == 1,
                           first,
                           offsets,
                           reduced_of(worker),
                           masked,
                           calls_[size_t(worker)].phase,
                           plan.order,
                           rank,
                           group.size,
                           &group.barrier};
        run_pass(pass, plan, steps, layer ? nullptr : plan.order, last ? plan.order : nullptr);
        if (!last && noise_.drops_between()) drop_between(pass, plan, steps);
      }
      if (crew.side_by_side) crew.all.wait(worker);
    }
  }
}

// Reads and writes every row at its own place: forward at step, reverse at length - 1 - step. Both walk with one base for all
// rows, because what differs between rows is put into their offsets.
template <class T>
void Session<T>::run_pass(const Pass& pass, const RowPlan& plan, int64_t steps, const int64_t* x_order,
                          const int64_t* y_order) {
  const ptrdiff_t own = before(pass.lane, 0).h.stride, result = phase_result(pass, 0).stride;
  for (int r = 0; r < plan.rows; ++r) {
    const int64_t start = pass.reverse ? plan.length(r, steps) - 1 : 0;
    pass.offsets.own[r] = r * own;
    if (noise_.drops_recurrent()) noise_.recurrent_mask(pass.masked.mask[r], stride_, pass.lane, pass.rows ? pass.rows[r] : r);
    pass.offsets.result[r] = r * result;
    pass.offsets.masked[r] = r * stride_;
    pass.offsets.x[r] = (x_order ? x_order[r] : r) * pass.x.row_stride + start * pass.x.step_stride;
    pass.offsets.y[r] = (y_order ? y_order[r] : r) * pass.y.row_stride + start * pass.y.step_stride;
  }
  prepare(pass);
  int rows = plan.rows;
  for (int64_t from = 0; from < steps; from += chunk_) {
    const int64_t to = std::min(steps, from + chunk_);
    // A single step has nothing to share: its input product joins the chain in the phase itself.
    const bool at_once = to - from > 1;
    if (record_ && pass.lane == 0) keep_inputs(pass, plan, from, to);
    if (at_once) chunk_of_inputs(pass, plan, from, to);
    ptrdiff_t row = 0;
    for (int64_t step = from; step < to; ++step) {
      rows = active(plan, rows, pass.first + step);
      if (!rows) return;
      run_step(pass, step, rows, at_once ? row : -1);
      row += rows;
    }
  }
}

// Copies the caller's rows for backward, just before they are read; the workers take turns.
template <class T>
void Session<T>::keep_inputs(const Pass& pass, const RowPlan& plan, int64_t from, int64_t to) const {
  const Sequence<T>& kept = record_->x;
  int rows = plan.rows;
  for (int64_t step = from, count = 0; step < to; ++step) {
    rows = active(plan, rows, pass.first + step);
    for (int r = 0; r < rows; ++r, ++count)
      if (count % pass.size == pass.rank)
        std::memcpy(kept.data + (pass.first + step) * kept.step_stride + plan.source(r) * kept.row_stride,
                    pass.x.data + pass.offsets.x[r] + step * pass.x.step_stride, size_t(kept.row_stride) * sizeof(T));
  }
}

// Bias plus input product of all rows of steps from .. to-1.
template <class T>
void Session<T>::chunk_of_inputs(const Pass& pass, const RowPlan& plan, int64_t from, int64_t to) const {
  const ptrdiff_t stride = pass.reverse ? -pass.x.step_stride : pass.x.step_stride;
  int count = 0, rows = plan.rows;
  for (int64_t step = from; step < to; ++step) {
    rows = active(plan, rows, pass.first + step);
    for (int r = 0; r < rows; ++r) pass.offsets.chunk[count++] = pass.offsets.x[r] + step * stride;
  }
  const int64_t size = pass.layer->phases[0].tiles.input_size;
  const Rows<const T> x_rows = {pass.x.data, pass.offsets.chunk};
  if (count * size * int64_t(sizeof(T)) <= kFetchBytes) fetch(x_rows, count, size);
  const Operand<T> x = operand(x_rows, count, size, false, pass.reduced.x, pass.reduced.x_scale);
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

// What is the same in all steps of a pass.
template <class T>
void Session<T>::prepare(const Pass& pass) const {
  for (size_t p = 0; p < pass.layer->phases.size(); ++p) {
    const PackedPhase<T>& phase = pass.layer->phases[p];
    PhaseCall<T>& call = pass.calls[p];
    call.tiles = phase.tiles;
    call.tile_begin = pass.begin(phase.tile_count);
    call.tile_end = pass.end(phase.tile_count);
    call.kept = pass.scratch->kept;
    call.padded = hidden_;
    call.constants = model_->constants.data();
  }
}

template <class T>
void Session<T>::run_step(const Pass& pass, int64_t step, int rows, ptrdiff_t before_row) const {
  const Scratch& scratch = *pass.scratch;
  const Place now = before(pass.lane, pass.first + step), next = before(pass.lane, pass.first + step + 1);
  const Panel<T> phase_result = this->phase_result(pass, pass.first + step);
  const int64_t place = pass.reverse ? -step : step;
  const size_t last = pass.layer->phases.size() - 1;
  const Reduced& reduced = pass.reduced;
  Operand<T> x;
  if (before_row < 0)
    x = operand({pass.x.data + place * pass.x.step_stride, pass.offsets.x}, rows, pass.layer->phases[0].tiles.input_size, false,
                reduced.x, reduced.x_scale);
  const Panel<T> saved = this->saved(pass.lane, pass.first + step);
  for (size_t p = 0; p <= last; ++p) {
    const PackedPhase<T>& phase = pass.layer->phases[p];
    PhaseCall<T>& call = pass.calls[p];
    call.backwards = (parity_ ^ int(pass.first + step)) & 1;
    call.rows = rows;
    call.x = x;
    call.h = {now.h.base, pass.offsets.own};
    call.states = {now.states.base, now.states.stride};
    call.new_states = next.states;
    call.saved = saved;
    const Rows<const T> source = p                          ? Rows<const T>{phase_result.base, pass.offsets.result}
                                 : noise_.drops_recurrent() ? masked(pass, now.h, rows)
                                                            : Rows<const T>{now.h.base, pass.offsets.own};
    if (pass.size > 1) fetch(source, rows, phase.tiles.source_size);
    call.source =
        operand(source, rows, phase.tiles.source_size, phase.source_in_unit_range, reduced.source, reduced.source_scale);
    call.result = p < last ? phase_result : next.h;
    if (before_row >= 0 && phase.inputs)
      call.before = {scratch.before[p][before_row], scratch.before[p].stride};
    else
      call.before = {};
    call.y = p < last ? Rows<T>() : Rows<T>{pass.y.data + place * pass.y.step_stride, pass.offsets.y};
    if (p == 0 && noise_.zones_out(1)) keep_old_states(pass, call);
    phase.run(call);
    if (noise_.zones_out(0) || noise_.zones_out(1)) zone_out(pass, call, now, pass.first + step, p);
    if (pass.size > 1) pass.barrier->wait(pass.rank);
  }
}

// h(t-1) as recurrent products read it under variational dropout.
template <class T>
Rows<const T> Session<T>::masked(const Pass& pass, const Panel<T>& h, int rows) const {
  for (int r = 0; r < rows; ++r)
    for (ptrdiff_t i = 0; i < stride_; ++i) pass.masked.h[r][i] = pass.masked.mask[r][i] * h[r][i];
  return {pass.masked.h.base, pass.offsets.masked};
}

// The units of this worker, before they are updated in place.
template <class T>
void Session<T>::keep_old_states(const Pass& pass, const PhaseCall<T>& call) const {
  const ptrdiff_t begin = ptrdiff_t(call.tile_begin) * model_->lanes, end = ptrdiff_t(call.tile_end) * model_->lanes;
  for (int r = 0; r < call.rows; ++r)
    for (ptrdiff_t at = 0; at < state_width(); at += hidden_)
      std::copy(call.states[r] + at + begin, call.states[r] + at + end, pass.scratch->old_states[r] + at + begin);
}

// After a phase: the last one has made h, the first one the other states.
template <class T>
void Session<T>::zone_out(const Pass& pass, const PhaseCall<T>& call, const Place& now, int64_t step, size_t p) const {
  const ptrdiff_t begin = ptrdiff_t(call.tile_begin) * model_->lanes;
  const ptrdiff_t end = std::min<ptrdiff_t>(ptrdiff_t(call.tile_end) * model_->lanes, call.tiles.units);
  for (int r = 0; r < call.rows; ++r) {
    const int64_t row = pass.rows ? pass.rows[r] : r;
    if (p == 0 && noise_.zones_out(1))
      for (ptrdiff_t at = 0; at < state_width(); at += hidden_)
        noise_.zone_out(call.new_states[r] + at, pass.scratch->old_states[r] + at, begin, end, 1, pass.lane, row, step);
    if (p + 1 < pass.layer->phases.size() || !noise_.zones_out(0)) continue;
    noise_.zone_out(call.result[r], now.h[r], begin, end, 0, pass.lane, row, step);
    if (call.y[r] != call.result[r])
      std::copy(call.result[r] + begin, call.result[r] + std::max(begin, end), call.y[r] + begin);
  }
}

// Dropout on a layer's output, once it is complete.
template <class T>
void Session<T>::drop_between(const Pass& pass, const RowPlan& plan, int64_t steps) const {
  const int64_t size = model_->config.output_size, begin = size * pass.rank / pass.size;
  const int64_t end = size * (pass.rank + 1) / pass.size;
  for (int r = 0; r < plan.rows; ++r)
    for (int64_t t = 0; t < plan.length(r, steps); ++t)
      noise_.drop_between(pass.y.data + t * pass.y.step_stride + r * pass.y.row_stride, begin, end, pass.lane, plan.source(r),
                          t);
  if (pass.size > 1) pass.barrier->wait(pass.rank);
}

template <class T>
typename Session<T>::Place Session<T>::before(size_t lane, int64_t step) const {
  if (!record_) return {lanes_[lane].h[parity_ ^ int(step & 1)], lanes_[lane].states};
  const Track<T>& track = record_->tracks[lane];
  const int64_t row = record_->before(step) + share_.first;
  return {every(track.h, row, share_.stride), every(track.states, row, share_.stride)};
}

template <class T>
Panel<T> Session<T>::saved(size_t lane, int64_t step) const {
  if (!record_ || !record_->tracks[lane].saved.base) return {};
  return every(record_->tracks[lane].saved, record_->at(step) + share_.first, share_.stride);
}

template <class T>
Panel<T> Session<T>::phase_result(const Pass& pass, int64_t step) const {
  if (!record_ || !record_->tracks[pass.lane].result.base) return pass.scratch->result;
  return every(record_->tracks[pass.lane].result, record_->at(step) + share_.first, share_.stride);
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

// Rows as a product wants them.
template <class T>
Operand<T> Session<T>::operand(Rows<const T> rows, int count, int64_t size, bool unit_range, const Panel<char>& reduced,
                               float* scale) const {
  Operand<T> all;
  all.rows = rows;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (!reduced_stride_) return all;
    ReduceCall call;
    call.rows = count;
    call.size = size;
    call.padded = (size + 3) / 4 * 4;
    call.unit_range = unit_range;
    call.x = rows;
    call.out = reduced;
    call.scale = scale;
    model_->backend->reduce[int(model_->config.precision)](call);
    all.reduced = {reduced.base, reduced.stride};
    all.scale = scale;
  }
  return all;
}

template <class T>
void Session<T>::load(const T* const* states, const RowPlan& plan, int64_t total_rows) {
  const Spec& spec = *model_->spec;
  for (size_t lane = 0; lane < lanes_.size(); ++lane)
    for (int s = 0; s < spec.states.size; ++s) {
      const int64_t width = model_->width(spec.states[s].width, 0);
      for (int r = 0; r < plan.rows; ++r) {
        const Place to_place = before(lane, 0);
        T* to = s ? to_place.states[r] + (s - 1) * hidden_ : to_place.h[r];
        std::memcpy(to, states[s] + (int64_t(lane) * total_rows + plan.source(r)) * width, size_t(width) * sizeof(T));
      }
    }
}

template <class T>
void Session<T>::store(T* const* states, const RowPlan& plan, int64_t total_rows, int64_t steps) const {
  const Spec& spec = *model_->spec;
  for (size_t lane = 0; lane < lanes_.size(); ++lane)
    for (int s = 0; s < spec.states.size; ++s) {
      const int64_t width = model_->width(spec.states[s].width, 0);
      for (int r = 0; r < plan.rows; ++r) {
        const Place place = before(lane, plan.length(r, steps));
        const T* from = s ? place.states[r] + (s - 1) * hidden_ : place.h[r];
        std::memcpy(states[s] + (int64_t(lane) * total_rows + plan.source(r)) * width, from, size_t(width) * sizeof(T));
      }
    }
}

template <class T>
void Session<T>::clear_row(int row) {
  for (Lane& lane : lanes_) {
    std::memset(lane.h[parity_][row], 0, size_t(stride_) * sizeof(T));
    std::memset(lane.states[row], 0, size_t(state_width()) * sizeof(T));
  }
}

template class Session<float>;
template class Session<double>;

}  // namespace detail
}  // namespace recurra
