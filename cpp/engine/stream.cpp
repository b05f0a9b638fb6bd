// Streams: a session that stays, and a head after it.
#include <algorithm>
#include <string>

#include "arguments.h"
#include "in_use.h"
#include "linear.h"
#include "session.h"
#include "worth.h"

namespace recurra {

using detail::checked_rows;
using detail::Crew;
using detail::expect;
using detail::InUse;
using detail::Model;
using detail::RowPlan;
using detail::Session;
using detail::Stopper;

template <class T>
struct Stream<T>::Live {
  using Head = std::shared_ptr<const typename Linear<T>::Weights>;
  static constexpr int64_t kPiece = 64;  // steps of a long run that share an input product

  Live(std::shared_ptr<const Model<T>> model, int rows, int threads, Head the_head)
      : session(std::move(model), rows, kPiece, threads), crew(threads, 1), plan{rows, nullptr, nullptr}, head(the_head) {
    session.make_ready();
    if (head) {
      outputs = detail::Buffer<T>(size_t(kPiece * rows * head->inputs));
      head_step = head->affine({nullptr, session.states().stride()}, rows, {nullptr, head->outputs});
    }
    by_steps = session.ready() && (rows > 1 || pays_by_steps());
    const TeamLease starts_threads(threads);
  }

  // Whether a run of one row gains nothing over one step after another: where all weights stay in the first-level cache, or
  // where those of the input, which a run reads once for many steps, are few. (Runs of several rows never gain: bench/NOTES.md,
  // "Runs step by step".)
  bool pays_by_steps() const {
    const Model<T>& model = session.model();
    size_t bytes = 0;
    for (const auto& layer : model.layers) bytes += layer.weights.size() * sizeof(T);
    return ptrdiff_t(bytes) <= first_level_cache ||
           (model.config.layers == 1 && 16 * model.config.input_size <= model.config.hidden_size);
  }

  int64_t width() const { return head ? head->outputs : session.model().config.output_size; }  // of y
  const Backend& backend() const { return *session.model().backend; }

  void step(const T* x, T* y) {
    const ptrdiff_t rows = plan.rows, inputs = session.model().config.input_size;
    if (!session.ready()) return run({x, 1, rows, 0, inputs}, {y, 1, rows, 0, width()}, {});
    const Environment environment(backend());
    ready_step(x, y);
  }

  void ready_step(const T* x, T* y) {
    const Panel<const T> h = session.step(x, head ? nullptr : y);
    if (!head) return;
    head_step.x.base = h.base;
    head_step.y.base = y;
    head->run(head_step);
  }

  void run(const Sequence<const T>& x, const Sequence<T>& y, const Stop& stop) {
    Stopper stopper(stop);
    const bool plain = plan.rows == 1 || (x.row_stride == session.model().config.input_size && y.row_stride == width());
    for (int64_t first = 0; first < x.steps && !stopper.stopped(); first += kPiece) {
      const int64_t steps = std::min(kPiece, x.steps - first);
      run_piece(detail::from_step(x, first, steps), detail::from_step(y, first, steps), by_steps && plain, stopper);
      stopper.poll();
    }
    stopper.check();
  }

  void run_piece(const Sequence<const T>& x, const Sequence<T>& y, bool step_by_step, Stopper& stopper) {
    const ptrdiff_t rows = plan.rows;
    if (step_by_step) {
      const Environment environment(backend());
      for (int64_t t = 0; t < x.steps; ++t) ready_step(x.data + t * x.step_stride, y.data + t * y.step_stride);
      return;
    }
    if (!head) return run_layers(x, y, stopper);
    const ptrdiff_t inputs = head->inputs;
    run_layers(x, {outputs.data(), x.steps, rows, rows * inputs, inputs}, stopper);
    const Environment environment(backend());
    if (rows == 1) return head->run(head->affine({outputs.data(), inputs}, x.steps, {y.data, y.step_stride}));
    for (int64_t t = 0; t < x.steps; ++t)
      head->run(head->affine({outputs.data() + t * rows * inputs, inputs}, rows, {y.data + t * y.step_stride, y.row_stride}));
  }

  void run_layers(const Sequence<const T>& x, const Sequence<T>& y, Stopper& stopper) {
    TeamLease team(crew.size);
    Crew& working = team.size() == crew.size ? crew : alone;
    auto job = [&](int rank) { session.run(working, rank, x, y, plan, stopper); };
    team.run(job);
    session.states().ran(x.steps);
  }

  std::vector<std::vector<T>> copy_of_states() const {
    const Model<T>& model = session.model();
    std::vector<std::vector<T>> copy;
    std::vector<T*> to;
    for (int s = 0; s < model.spec->states.size; ++s) {
      copy.emplace_back(size_t(model.config.layers * plan.rows * model.width(model.spec->states[s].width, 0)));
      to.push_back(copy.back().data());
    }
    session.states().store(to.data(), plan, plan.rows, 0);
    return copy;
  }

  Session<T> session;
  Crew crew, alone{1, 1};
  RowPlan plan;
  Head head;
  AffineCall<T> head_step;    // but for its arrays
  detail::Buffer<T> outputs;  // of the layers, for the head
  bool by_steps;              // how a run is done
  std::atomic<bool> busy{false};
};

template <class T>
Stream<T>::Stream(const Network<T>& network, int64_t rows, int threads, const Linear<T>* head) {
  const NetworkConfig& c = network.config();
  expect(c.directions == 1, "stream: a bidirectional network needs the whole sequence");
  expect(!c.reverse, "stream: a network that runs backwards in time begins at the last step");
  expect(threads >= 1, "threads: expected at least 1");
  if (head && head->inputs() != c.output_size)
    throw std::invalid_argument("head: expected " + std::to_string(c.output_size) + " inputs, got " +
                                std::to_string(head->inputs()));
  threads = std::min(threads, num_threads());
  const bool worth = network.multiplications_per_step() * double(rows) >= kWorthBarrier * threads;
  live_ = std::make_unique<Live>(network.model_, checked_rows(rows), worth ? threads : 1, head ? head->weights_ : nullptr);
}

template <class T>
Stream<T>::~Stream() = default;
template <class T>
Stream<T>::Stream(Stream&&) noexcept = default;

template <class T>
void Stream<T>::step(const T* x, T* y) {
  const InUse use(live_->busy);
  live_->step(x, y);
}

template <class T>
void Stream<T>::run(Sequence<const T> x, Sequence<T> y) {
  run(x, y, {});
}

template <class T>
void Stream<T>::run(Sequence<const T> x, Sequence<T> y, const Stop& stop) {
  detail::check_alike(x, y);
  expect(x.rows == live_->plan.rows, "x: expected the rows of the stream");
  const InUse use(live_->busy);
  if (!stop) return live_->run(x, y, stop);
  const std::vector<std::vector<T>> before = live_->copy_of_states();
  try {
    live_->run(x, y, stop);
  } catch (...) {  // Stopped, or what `stop` has thrown
    std::vector<const T*> from;
    for (const std::vector<T>& state : before) from.push_back(state.data());
    live_->session.states().load(from.data(), live_->plan, live_->plan.rows);
    throw;
  }
}

template <class T>
void Stream<T>::get_state(T* const* states) const {
  const InUse use(live_->busy);
  live_->session.states().store(states, live_->plan, live_->plan.rows, 0);
}

template <class T>
void Stream<T>::set_state(const T* const* states) {
  const InUse use(live_->busy);
  live_->session.states().load(states, live_->plan, live_->plan.rows);
}

template <class T>
void Stream<T>::reset() {
  const InUse use(live_->busy);
  for (int row = 0; row < live_->plan.rows; ++row) live_->session.states().clear_row(row);
}

template <class T>
void Stream<T>::reset(const int64_t* rows, int64_t count, const T* const* states, bool alike) {
  const InUse use(live_->busy);
  const int all = live_->plan.rows;
  expect(rows || count == all, "count: expected that of the stream's rows without rows");
  for (int64_t i = 0; rows && i < count; ++i) expect(rows[i] >= 0 && rows[i] < all, "rows: expected rows of the stream");
  for (int64_t i = 0; i < count; ++i) {
    const int row = int(rows ? rows[i] : i);
    if (states)
      live_->session.states().load_row(row, states, alike ? 0 : i, alike ? 1 : count);
    else
      live_->session.states().clear_row(row);
  }
}

template class Stream<float>;
template class Stream<double>;

}  // namespace recurra
