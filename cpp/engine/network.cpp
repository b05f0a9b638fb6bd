// A call of a network, divided among threads, and the backward pass over its tape.
#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "bptt.h"
#include "schedule.h"
#include "session.h"
#include "worth.h"

namespace recurra {

using detail::check_alike;
using detail::check_marks;
using detail::Crew;
using detail::Events;
using detail::expect;
using detail::Model;
using detail::Record;
using detail::RowPlan;
using detail::RowShare;
using detail::Schedule;
using detail::Session;
using detail::Stopper;

namespace {

// How a call is divided: into `parts` sessions that never wait for each other, each run by `workers` workers.
struct Share {
  int parts = 1, workers = 1;
};

Share share_out(const NetworkConfig& config, double multiplications, int64_t rows, int64_t steps) {
  const int threads = num_threads();
  const double step = multiplications * double(rows);
  if (threads == 1 || step * double(steps) < kWorthWaking) return {};
  const bool wide = multiplications >= kWide && config.hidden_size >= kUnitsPerWorkerOfWide * threads &&
                    threads % config.directions == 0;  // directions run side by side
  if (rows >= (wide ? kRowsPerWorkerOfWide : kRowsPerWorker) * threads) return {threads, 1};
  if (step >= kWorthBarrier * threads) return {1, threads};
  if (config.directions == 2) return {1, 2};
  return {int(std::min<int64_t>(threads, rows)), 1};
}

}  // namespace

template <class T>
Network<T>::Network(const NetworkConfig& config, const std::vector<std::vector<const T*>>& params)
    : model_(std::make_shared<Model<T>>(config, params)) {}

template <class T>
void Network<T>::get_parameter(size_t layer, int i, T* out) const {
  expect(layer < model_->layers.size(), "layer: expected a number of a layer and direction");
  expect(i >= 0 && i < model_->spec->params.size, "i: expected a number of the cell's list of parameters");
  model_->get_parameter(layer, i, out);
}

template <class T>
const NetworkConfig& Network<T>::config() const {
  return model_->config;
}

template <class T>
const CellInfo& Network<T>::cell() const {
  return *model_->info;
}

template <class T>
size_t Network<T>::weight_bytes() const {
  size_t bytes = 0;
  for (const auto& layer : model_->layers) bytes += layer.weights.size() * sizeof(T);
  return bytes;
}

template <class T>
double Network<T>::multiplications_per_step() const {
  return model_->multiplications();
}

namespace {

// Zeros the output where a row has no step, but where it repeats one.
template <class T>
void clear_padding(const Sequence<T>& y, int64_t size, const RowPlan& plan) {
  for (int r = 0; plan.lengths && r < plan.rows; ++r)
    detail::each_skipped(plan.times ? plan.times[r] : nullptr, plan.lengths[r], y.steps, [&](int64_t t) {
      if (!plan.repeats_until || t >= plan.repeats_until[r])
        std::memset(y.data + t * y.step_stride + plan.source(r) * y.row_stride, 0, size_t(size) * sizeof(T));
    });
}

template <class T>
void check_cells(const Model<std::remove_const_t<T>>& model, const Sequence<T>& cells, const Sequence<T>& y) {
  if (!cells.data) return;
  expect(model.spec->states.size > 1, "cells: expected none, for the cell's only state is h");
  expect(cells.rows == y.rows && cells.steps >= y.steps, "cells: expected the steps and rows of y");
}

// The rows of one of several sessions, and what the schedule says of them.
struct Rows {
  std::vector<int64_t> order, lengths, repeats_until;
  std::vector<const int64_t*> times;
  Events events[2];
  RowPlan plan;

  Rows(const Schedule& all, const RowShare& share) {
    const auto pick = [&](const auto& from, auto& to) {
      for (int r = 0; !from.empty() && r < share.count; ++r) to.push_back(from[size_t(share.row(r))]);
    };
    pick(all.order, order), pick(all.lengths, lengths), pick(all.times, times), pick(all.repeats_until, repeats_until);
    plan.rows = share.count;
    plan.order = order.data();
    if (!all.lengths.empty()) plan.lengths = lengths.data();
    if (!all.times.empty()) plan.times = times.data();
    if (!all.repeats_until.empty()) plan.repeats_until = repeats_until.data();
    if (!all.events[0].any() && !all.events[1].any()) return;
    const bool all_rows = size_t(share.count) == all.order.size();
    for (int direction = 0; direction < 2 && !all_rows; ++direction) events[direction] = all.events[direction].of(share);
    plan.events = all_rows ? all.events : events;
  }
  Rows(const Rows&) = delete;
};

// Runs a call, divided among threads; into a record if there is one.
template <class T>
void run_rows(std::shared_ptr<const Model<T>> model, Record<T>* record, const Schedule& schedule, Sequence<const T> x,
              const T* const* initial, const T* const* reset_state, Sequence<T> y, T* const* final_states, const Stop& stop,
              Sequence<T> cells) {
  const NetworkConfig& c = model->config;
  const Share share = share_out(c, model->multiplications(), x.rows, x.steps);
  struct Part {
    std::unique_ptr<Rows> rows;
    std::unique_ptr<Session<T>> session;
    std::unique_ptr<Crew> crew;
  };
  TeamLease team(share.parts * share.workers);
  const bool alone = team.size() == 1;
  const int workers = alone ? 1 : share.workers;
  std::vector<Part> parts(alone ? 1 : size_t(share.parts));
  for (size_t p = 0; p < parts.size(); ++p) {
    Part& part = parts[p];
    const RowShare share(int(schedule.order.size()), schedule.lengths.empty(), int(p), int(parts.size()));
    part.rows = std::make_unique<Rows>(schedule, share);
    part.session = record ? std::make_unique<Session<T>>(*record, share, workers)
                          : std::make_unique<Session<T>>(model, share.count, x.steps, workers);
    part.crew = std::make_unique<Crew>(workers, c.directions);
    if (initial) part.session->states().load(initial, part.rows->plan, x.rows);
  }

  Stopper stopper(stop);
  auto job = [&](int rank) {
    const bool together = parts.size() == 1;
    const Part& part = parts[together ? 0 : size_t(rank)];
    part.session->run(*part.crew, together ? rank : 0, x, y, part.rows->plan, stopper, reset_state, cells);
    if (rank && together) return;
    clear_padding(y, c.directions * c.output_size, part.rows->plan);
    if (cells.data) clear_padding(cells, c.directions * c.hidden_size, part.rows->plan);
  };
  team.run(job);
  stopper.check();
  for (const Part& part : parts) part.session->states().store(final_states, part.rows->plan, x.rows, x.steps);
}

}  // namespace

template <class T>
void Network<T>::forward(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y,
                         T* const* final_states, const Stop& stop, const Marks<T>& marks, Sequence<T> cells) const {
  check_alike(x, y);
  check_marks(x, marks);
  check_cells(*model_, cells, y);
  const Schedule schedule(x.rows, x.steps, lengths, marks.resets, marks.mask, marks.repeat, model_->config);
  x.steps = schedule.steps;
  run_rows<T>(model_, nullptr, schedule, x, initial, marks.reset_state, y, final_states, stop, cells);
}

// ---- training

template <class T>
Tape<T> Network<T>::record(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y,
                           T* const* final_states, bool recompute, const uint64_t* seed, const Stop& stop,
                           const Marks<T>& marks, Sequence<T> cells) const {
  if (!RECURRA_TRAINING) left_out("record");
  if (model_->config.precision != Precision::full)
    throw std::invalid_argument("record: weights of reduced precision cannot be trained");
  check_alike(x, y);
  check_marks(x, marks);
  check_cells(*model_, cells, y);
  Schedule schedule(x.rows, x.steps, lengths, marks.resets, marks.mask, marks.repeat, model_->config);
  x.steps = schedule.steps;
  auto record = std::make_shared<Record<T>>(model_, std::move(schedule), recompute, seed);
  run_rows<T>(model_, record.get(), *record, x, initial, marks.reset_state, y, final_states, stop, cells);
  return Tape<T>(std::move(record));
}

template <class T>
void Tape<T>::backward(Sequence<const T> dy, const T* const* d_final, Sequence<T> dx, T* const* d_initial,
                       const std::vector<std::vector<T*>>& params, bool add, const Stop& stop, T* const* d_reset,
                       Sequence<const T> d_cells, T clip) const {
  const detail::Gradients<T> gradients = {dy, d_cells, d_final, dx, d_initial, d_reset, &params, add, clip};
  const int64_t rows = record_->rows(), steps = record_->x.steps;
  expect(!dy.data || (dy.rows == rows && dy.steps >= steps), "dy: expected the steps and rows of the output");
  check_cells(*record_->model, d_cells, Sequence<const T>{nullptr, steps, rows});
  expect(clip > 0, "clip: expected a positive number");
  expect(!dx.data || (dx.rows == rows && dx.steps >= steps), "dx: expected the steps and rows of the input");
  expect(params.size() == record_->tracks.size(), "params: expected one list per layer and direction");
  for (const auto& lane : params)
    expect(int(lane.size()) == record_->model->spec->params.size, "params: expected the cell's number of them");
  const double work = 2 * record_->model->multiplications() * double(rows) * double(steps);
  TeamLease team(work < kWorthWakingBackward ? 1 : num_threads());
  Stopper stopper(stop);
  detail::Bptt<T> bptt(*record_, gradients, team.size(), stopper);
  auto job = [&](int rank) { bptt.run(rank); };
  team.run(job);
  stopper.check();
}

template <class T>
size_t Tape<T>::bytes() const {
  return record_->bytes;
}

template class Network<float>;
template class Network<double>;
template class Tape<float>;
template class Tape<double>;

}  // namespace recurra
