// A call of a network, divided among threads, and the backward pass over its tape.
#include <algorithm>
#include <cstring>

#include "arguments.h"
#include "bptt.h"
#include "row_order.h"
#include "session.h"
#include "worth.h"

namespace recurra {

using detail::check_alike;
using detail::Crew;
using detail::expect;
using detail::Model;
using detail::Record;
using detail::RowOrder;
using detail::RowPlan;
using detail::RowShare;
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

// Zeros the output past each row's length.
template <class T>
void clear_padding(const Sequence<T>& y, int64_t size, const RowPlan& plan) {
  for (int r = 0; plan.lengths && r < plan.rows; ++r)
    for (int64_t step = plan.lengths[r]; step < y.steps; ++step)
      std::memset(y.data + step * y.step_stride + plan.source(r) * y.row_stride, 0, size_t(size) * sizeof(T));
}

// Runs a call, divided among threads; into a record if there is one.
template <class T>
void run_rows(std::shared_ptr<const Model<T>> model, Record<T>* record, const RowOrder& sorted, Sequence<const T> x,
              const T* const* initial, Sequence<T> y, T* const* final_states, const Stop& stop) {
  const NetworkConfig& c = model->config;
  const Share share = share_out(c, model->multiplications(), x.rows, x.steps);
  struct Part {
    std::vector<int64_t> order, lengths;
    RowPlan plan;
    std::unique_ptr<Session<T>> session;
    std::unique_ptr<Crew> crew;
  };
  TeamLease team(share.parts * share.workers);
  const bool alone = team.size() == 1;
  const int workers = alone ? 1 : share.workers;
  std::vector<Part> parts(alone ? 1 : size_t(share.parts));
  for (size_t p = 0; p < parts.size(); ++p) {
    Part& part = parts[p];
    const RowShare rows(int(sorted.order.size()), sorted.lengths.empty(), int(p), int(parts.size()));
    for (int r = 0; r < rows.count; ++r) {
      part.order.push_back(sorted.order[size_t(rows.row(r))]);
      if (!sorted.lengths.empty()) part.lengths.push_back(sorted.lengths[size_t(rows.row(r))]);
    }
    part.plan = {int(part.order.size()), part.order.data(), sorted.lengths.empty() ? nullptr : part.lengths.data()};
    part.session = record ? std::make_unique<Session<T>>(*record, rows, workers)
                          : std::make_unique<Session<T>>(model, part.plan.rows, x.steps, workers);
    part.crew = std::make_unique<Crew>(workers, c.directions);
    if (initial) part.session->states().load(initial, part.plan, x.rows);
  }

  Stopper stopper(stop);
  auto job = [&](int rank) {
    const bool together = parts.size() == 1;
    const Part& part = parts[together ? 0 : size_t(rank)];
    part.session->run(*part.crew, together ? rank : 0, x, y, part.plan, stopper);
    if (rank == 0 || !together) clear_padding(y, c.directions * c.output_size, part.plan);
  };
  team.run(job);
  stopper.check();
  for (const Part& part : parts) part.session->states().store(final_states, part.plan, x.rows, x.steps);
}

}  // namespace

template <class T>
void Network<T>::forward(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y,
                         T* const* final_states, const Stop& stop) const {
  check_alike(x, y);
  const RowOrder sorted(x.rows, x.steps, lengths);
  x.steps = sorted.steps;
  run_rows<T>(model_, nullptr, sorted, x, initial, y, final_states, stop);
}

// ---- training

template <class T>
Tape<T> Network<T>::record(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y,
                           T* const* final_states, bool recompute, const uint64_t* seed, const Stop& stop) const {
  if (model_->config.precision != Precision::full)
    throw std::invalid_argument("record: weights of reduced precision cannot be trained");
  check_alike(x, y);
  const RowOrder sorted(x.rows, x.steps, lengths);
  x.steps = sorted.steps;
  auto record = std::make_shared<Record<T>>(model_, x.steps, sorted.order, sorted.lengths, recompute, seed);
  run_rows<T>(model_, record.get(), sorted, x, initial, y, final_states, stop);
  return Tape<T>(std::move(record));
}

template <class T>
void Tape<T>::backward(Sequence<const T> dy, const T* const* d_final, Sequence<T> dx, T* const* d_initial,
                       const std::vector<std::vector<T*>>& params, bool add, const Stop& stop) const {
  const detail::Gradients<T> gradients = {dy, d_final, dx, d_initial, &params, add};
  const int64_t rows = record_->rows(), steps = record_->x.steps;
  expect(!dy.data || (dy.rows == rows && dy.steps >= steps), "dy: expected the steps and rows of the output");
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
