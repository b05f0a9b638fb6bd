// Streams: a session that stays, and a head after it.
#include <algorithm>
#include <atomic>
#include <climits>
#include <stdexcept>
#include <string>

#include "linear.h"
#include "session.h"
#include "worth.h"

namespace recurra {

using detail::Crew;
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
      offsets.resize(size_t(kPiece * rows));
    }
    const TeamLease starts_threads(threads);
  }

  const Backend& backend() const { return *session.model().backend; }

  void step(const T* x, T* y) {
    const NetworkConfig& c = session.model().config;
    const int64_t rows = plan.rows, width = head ? head->outputs : c.output_size;
    if (!session.ready())
      return run({x, 1, rows, 0, ptrdiff_t(c.input_size)}, {y, 1, rows, 0, ptrdiff_t(width)}, {});
    const Environment environment(backend());
    const Panel<const T> h = session.step(x, head ? nullptr : y);
    if (!head) return;
    for (int64_t r = 0; r < rows; ++r) offsets[size_t(r)] = r * width;
    head->apply(h, rows, {y, offsets.data()});
  }

  void run(const Sequence<const T>& x, const Sequence<T>& y, const Stop& stop) {
    Stopper stopper(stop);
    if (!head) run_layers(x, y, stopper);
    for (int64_t first = 0; head && first < x.steps && !stopper.stopped(); first += kPiece) {
      const int64_t steps = std::min(kPiece, x.steps - first), rows = plan.rows, width = head->inputs;
      run_layers(detail::from_step(x, first, steps), {outputs.data(), steps, rows, rows * width, width}, stopper);
      for (int64_t i = 0; i < steps * rows; ++i) offsets[size_t(i)] = (i / rows) * y.step_stride + (i % rows) * y.row_stride;
      const Environment environment(backend());
      head->apply({outputs.data(), width}, steps * rows, {y.data + first * y.step_stride, offsets.data()});
    }
    stopper.check();
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
  detail::Buffer<T> outputs;       // of the layers, for the head
  std::vector<ptrdiff_t> offsets;  // of the head's rows in the caller's array
  std::atomic<bool> busy{false};
};

namespace {

// Refuses a second thread without a lock.
class Use {
 public:
  explicit Use(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire)) throw std::runtime_error("stream: in use by another thread");
  }
  ~Use() { busy_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool>& busy_;
};

}  // namespace

template <class T>
Stream<T>::Stream(const Network<T>& network, int64_t rows, int threads, const Linear<T>* head) {
  const NetworkConfig& c = network.config();
  if (c.directions != 1) throw std::invalid_argument("stream: a bidirectional network needs the whole sequence");
  if (rows < 0 || rows > INT_MAX) throw std::invalid_argument("rows: expected 0 to 2^31 - 1, got " + std::to_string(rows));
  if (head && head->inputs() != c.output_size)
    throw std::invalid_argument("head: expected " + std::to_string(c.output_size) + " inputs, got " +
                                std::to_string(head->inputs()));
  threads = std::min(threads, num_threads());
  const bool worth = network.multiplications_per_step() * double(rows) >= kWorthBarrier * threads;
  live_ = std::make_unique<Live>(network.model_, int(rows), worth ? threads : 1, head ? head->weights_ : nullptr);
}

template <class T>
Stream<T>::~Stream() = default;
template <class T>
Stream<T>::Stream(Stream&&) noexcept = default;

template <class T>
void Stream<T>::step(const T* x, T* y) {
  const Use use(live_->busy);
  live_->step(x, y);
}

template <class T>
void Stream<T>::run(Sequence<const T> x, Sequence<T> y, const Stop& stop) {
  const Use use(live_->busy);
  if (!stop) return live_->run(x, y, stop);
  const std::vector<std::vector<T>> before = live_->copy_of_states();
  try {
    live_->run(x, y, stop);
  } catch (const Stopped&) {
    std::vector<const T*> from;
    for (const std::vector<T>& state : before) from.push_back(state.data());
    live_->session.states().load(from.data(), live_->plan, live_->plan.rows);
    throw;
  }
}

template <class T>
void Stream<T>::get_state(T* const* states) const {
  const Use use(live_->busy);
  live_->session.states().store(states, live_->plan, live_->plan.rows, 0);
}

template <class T>
void Stream<T>::set_state(const T* const* states) {
  const Use use(live_->busy);
  live_->session.states().load(states, live_->plan, live_->plan.rows);
}

template <class T>
void Stream<T>::reset() {
  const Use use(live_->busy);
  for (int row = 0; row < live_->plan.rows; ++row) live_->session.states().clear_row(row);
}

template <class T>
void Stream<T>::reset(const int64_t* rows, int64_t count) {
  const Use use(live_->busy);
  for (int64_t i = 0; i < count; ++i) live_->session.states().clear_row(int(rows[i]));
}

template class Stream<float>;
template class Stream<double>;

}  // namespace recurra
