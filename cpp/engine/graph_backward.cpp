#include <algorithm>

#include "arguments.h"
#include "graph_model.h"
#include "record.h"

namespace recurra {
namespace {

using detail::expect;
using detail::read_only;
using detail::SpareMemory;

constexpr int kOuterRows = 256;

// One call of GraphTape::backward.
template <class T>
class GraphBackward {
 public:
  GraphBackward(const GraphRecord<T>& record, const std::vector<const T*>& d_states, T* dx, const std::vector<T*>& d_given,
                const std::vector<T*>& params, int workers, Stopper& stopper)
      : record_(record),
        model_(*record.model),
        rows_(*record.rows),
        given_d_(d_states),
        dx_(dx),
        d_given_(d_given),
        params_(params),
        workers_(workers),
        barrier_(workers),
        stopper_(stopper),
        front_end_{stopper, barrier_} {
    for (int64_t r = 0; rows_.lists() && r < rows_.rows; ++r)
      most_children_ =
          std::max(most_children_, rows_.first[size_t(std::min(rows_.rows, r + kGraphRows))] - rows_.first[size_t(r)]);
    for (const auto& phase : model_.weights)
      for (const auto& packed : phase) {
        widest_ = std::max(widest_, packed.inputs);
        longest_ = std::max(longest_, packed.outputs);
      }
    const int64_t units = model_.units, steps = rows_.rows - rows_.given, children = int64_t(rows_.children.size());
    const GraphSpec& spec = model_.spec;
    const int64_t wide = (widest_ + model_.kernel.lanes - 1) / model_.kernel.lanes * model_.kernel.lanes;
    for (const bool counting : {true, false}) {
      Dealer deal{counting ? nullptr : memory_.data()};
      deal.panel(d_states_, odd_width(spec.states * units), rows_.rows);
      deal.panel(da_, odd_width(model_.chain_width()), steps);
      deal.panel(d_vectors_, odd_width(spec.vector_count * units), model_.peepholes() ? steps : 0);
      deal.panel(direct_, odd_width(std::max(spec.direct.size, 1) * units), steps);  // with children: of the sum of their h
      deal.panel(fed_da_, odd_width(model_.chain_width()), rows_.shares() ? rows_.inputs : 0);
      deal.panel(child_da_, odd_width(units), children);
      deal.panel(child_direct_, odd_width(units), children);
      deal.panel(chains_, odd_width(model_.chain_width()), record.recompute ? workers * kGraphRows : 0);
      deal.panel(states_, record.states.stride, record.recompute ? workers * kGraphRows : 0);
      deal.panel(child_chains_, odd_width(units), record.recompute ? workers * most_children_ : 0);
      deal.take(sums_, rows_.lists() ? workers * kGraphRows * units : 0);
      for (int w = 0; w < workers; ++w) {
        Blocks<T> x, a;
        deal.blocks(x, wide, kOuterRows);
        deal.blocks(a, longest_, kOuterRows);
        if (!counting) x_.push_back(x), a_.push_back(a);
      }
      deal.panel(sum_, wide, longest_);
      if (counting) memory_ = SpareMemory::of_process().take(deal.used);
    }
  }
  ~GraphBackward() { SpareMemory::of_process().give(std::move(memory_)); }

  void run(int rank) {
    const Environment environment(model_.backend);
    const GraphShare worker{rank, workers_};
    begin(worker);
    barrier_.wait(rank);
    for (size_t f = rows_.fronts.size() - 1; f-- > 0;) {
      divide_rows(rows_.fronts[f], rows_.fronts[f + 1], 2 * model_.multiplications, worker, front_end_,
                  [&](int64_t first, int count, GraphShare share, const GraphMeeting& sync) {
                    pull(first, count, share, sync);
                    step(first, count, rank, share, sync);
                  });
      if (!front_end_.goes_on(rank, f)) return;
    }
    divide_rows(0, rows_.given, 2 * model_.multiplications, worker, front_end_,
                [&](int64_t first, int count, GraphShare share, const GraphMeeting& sync) { pull(first, count, share, sync); });
    barrier_.wait(rank);
    finish_states(worker);
    if (rows_.shares()) {
      sum_fed(worker);
      barrier_.wait(rank);
    }
    if (dx_) inputs(worker);
    for (int p = 0; p < model_.spec.phases.size; ++p)
      for (int i = 0; i < model_.spec.phases[p].products.size; ++i) {
        const auto& packed = model_.weights[size_t(p)][size_t(i)];
        const GraphProduct& product = model_.spec.phases[p].products[i];
        if (!packed.outputs || !params_[size_t(product.param)]) continue;
        weights(product, packed, worker);
        barrier_.wait(rank);  // another product may have the same blocks
      }
    vectors(worker);
  }

 private:
  using Packed = typename GraphModel<T>::Packed;
  int64_t units() const { return model_.units; }
  Panel<T> from(const Panel<T>& panel, int64_t row) const { return {panel[row], panel.stride}; }

  void begin(GraphShare worker) {
    for (int64_t r = worker.begin(rows_.rows); r < worker.end(rows_.rows); ++r)
      for (int i = 0; i < model_.spec.states; ++i) {
        T* to = d_states_[r] + i * units();
        if (given_d_[size_t(i)])
          std::copy_n(given_d_[size_t(i)] + r * units(), units(), to);
        else
          std::fill_n(to, units(), T(0));
      }
    for (int p = 0; p < model_.spec.params.size; ++p) {
      const GraphParam& param = model_.spec.params[p];
      const int64_t width = param.columns == Dim::one ? 1 : model_.param_width(param);
      const int64_t count = std::max(param.leading, 1) * param.rows * units() * width;
      T* to = params_[size_t(p)];
      if (to) std::fill(to + worker.begin(count), to + worker.end(count), T(0));
    }
    for (int64_t i = worker.begin(record_.inputs); dx_ && i < worker.end(record_.inputs); ++i)
      std::fill_n(dx_ + i * model_.config.input_size, model_.config.input_size, T(0));
  }

  static void add_row(T* to, const T* from, int64_t size) {
    for (int64_t u = 0; u < size; ++u) to[u] += from[u];
  }

  // What the rows that these precede hold for them.
  void pull(int64_t first, int count, GraphShare share, const GraphMeeting& sync) {
    const GraphSpec& spec = model_.spec;
    for (int64_t r = first + share.begin(count); r < first + share.end(count); ++r) {
      T* const d = d_states_[r];
      if (rows_.lists() && rows_.parent[size_t(r)] >= 0) {
        add_row(d, direct_[rows_.parent[size_t(r)] - rows_.given], units());
        add_row(d + units(), child_direct_[rows_.number[size_t(r)]], units());
      }
      for (int k = 0; k < spec.direct.size; ++k) {
        const int64_t p = rows_.after[size_t(spec.direct[k].slot * rows_.rows + r)];
        if (p >= 0) add_row(d + spec.direct[k].state * units(), direct_[p - rows_.given] + k * units(), units());
      }
      for (int s = 0; s < spec.slots; ++s) {
        const int64_t p = spec.residual[s] ? rows_.after[size_t(s * rows_.rows + r)] : -1;
        if (p >= 0) add_row(d + s * units(), d_states_[p] + s * units(), units());
      }
    }
    sync();
    for (int p = 0; p < spec.phases.size; ++p)
      for (int i = 0; i < spec.phases[p].products.size; ++i) {
        const GraphProduct& product = spec.phases[p].products[i];
        const GraphSource& source = product.source;
        const bool child = source.kind == GraphSource::child;
        if (!child && source.kind != GraphSource::before) continue;
        const Packed& packed = model_.weights[size_t(p)][size_t(i)];
        ptrdiff_t a[kGraphRows], to[kGraphRows];
        int found = 0;
        for (int r = 0; r < count; ++r) {
          const int64_t row = first + r;
          const int64_t next = child ? rows_.number[size_t(row)] : rows_.after[size_t(source.slot * rows_.rows + row)];
          if (next < 0) continue;
          a[found] = child ? next * child_da_.stride : (next - rows_.given) * da_.stride;
          to[found++] = r * d_states_.stride;
        }
        run_gathered<T>(model_, packed.backward, packed.outputs, share, found,
                        {child ? child_da_.base : da_.base + product.chain * units(), a},
                        {d_states_[first] + source.state * units(), to});
        sync();
      }
  }

  // From the gradients of states to those of chains.
  void step(int64_t first, int count, int rank, GraphShare share, const GraphMeeting& sync) {
    const GraphSpec& spec = model_.spec;
    const int64_t at = first - rows_.given, child = rows_.lists() ? rows_.first[size_t(first)] : 0;
    GraphStep<T> step{record_, first, count, {}, {}, {}, sums_ + rank * kGraphRows * units(), stopper_};
    if (record_.recompute) {
      const int64_t own = share.parts > 1 ? 0 : rank;
      step.chains = from(chains_, own * kGraphRows);
      step.child_chains = from(child_chains_, own * most_children_);
      step.states = from(states_, own * kGraphRows);
      step.forward(share, sync);
    } else {
      step.chains = from(record_.chains, at);
      step.child_chains = from(record_.child_chains, child);
      step.states = from(record_.states, first);
    }
    ptrdiff_t before[kMaxSlots][kGraphRows], a[kGraphRows], to[kGraphRows];
    for (int p = spec.phases.size; p-- > 0;) {
      const GraphPhase& phase = spec.phases[p];
      GraphCall<T> call = step.call(phase, share, before);
      call.d_states = from(d_states_, first);
      call.da = {da_[at] + phase.chain * units(), da_.stride};
      call.d_vectors = from(d_vectors_, at);
      call.direct = from(direct_, at);
      call.child_da = from(child_da_, child);
      call.child_direct = from(child_direct_, child);
      if (call.begin < call.end) model_.kernel.graph_backward[int(phase.function)](call);
      if (rows_.lists())
        for (int64_t r = share.begin(count); r < share.end(count); ++r) std::fill_n(direct_[at + r], units(), T(0));
      sync();
      for (int i = 0; i < phase.products.size; ++i) {
        const GraphProduct& product = phase.products[i];
        const bool sum = product.source.kind == GraphSource::sum;
        if (!sum && product.source.kind != GraphSource::own) continue;
        const Packed& packed = model_.weights[size_t(p)][size_t(i)];
        int found = 0;
        for (int r = 0; r < count; ++r) {
          if (sum && rows_.first[size_t(first + r)] == rows_.first[size_t(first + r) + 1]) continue;
          a[found] = r * da_.stride;
          to[found++] = r * (sum ? direct_.stride : d_states_.stride);
        }
        run_gathered<T>(model_, packed.backward, packed.outputs, share, found, {da_[at] + product.chain * units(), a},
                        {sum ? direct_[at] : d_states_[first] + product.source.state * units(), to});
        sync();
      }
    }
  }

  void finish_states(GraphShare worker) {
    for (int64_t r = worker.begin(rows_.given); r < worker.end(rows_.given); ++r)
      for (int i = 0; i < model_.spec.states; ++i)
        std::copy_n(d_states_[r] + i * units(), units(), d_given_[size_t(i)] + r * units());
  }

  // Of the chains that a row of x begins, over its rows in order.
  void sum_fed(GraphShare worker) {
    const int64_t begin = worker.begin(model_.chain_width()), size = worker.end(model_.chain_width()) - begin;
    for (int64_t i = 0; i < rows_.inputs; ++i) std::fill_n(fed_da_[i] + begin, size, T(0));
    for (int64_t r = rows_.given; r < rows_.rows; ++r)
      if (rows_.source[size_t(r)] >= 0) add_row(fed_da_[rows_.source[size_t(r)]] + begin, da_[r - rows_.given] + begin, size);
  }

  // The row of x that a row of chains, or of their sums, comes from; -1 for none.
  int64_t source_of(int64_t r) const {
    return rows_.shares() ? (rows_.feeds[size_t(r)] ? r : -1) : rows_.source[size_t(r + rows_.given)];
  }

  void inputs(GraphShare worker) {
    const Panel<T>& da = rows_.shares() ? fed_da_ : da_;
    const int64_t steps = rows_.shares() ? rows_.inputs : rows_.rows - rows_.given, end = worker.end(steps);
    ptrdiff_t a[kGraphRows], to[kGraphRows];
    for (int64_t first = worker.begin(steps); first < end && !stopper_.stopped(); first += kGraphRows, stopper_.poll()) {
      int found = 0;
      for (int64_t r = first; r < std::min(end, first + kGraphRows); ++r) {
        const int64_t source = source_of(r);
        if (source < 0) continue;
        a[found] = r * da.stride;
        to[found++] = source * model_.config.input_size;
      }
      for (int p = 0; p < model_.spec.phases.size; ++p)
        for (int i = 0; i < model_.spec.phases[p].products.size; ++i) {
          const GraphProduct& product = model_.spec.phases[p].products[i];
          const Packed& packed = model_.weights[size_t(p)][size_t(i)];
          if (product.source.kind == GraphSource::input && packed.outputs)
            run_gathered<T>(model_, packed.backward, packed.outputs, GraphShare{}, found,
                            {da.base + product.chain * units(), a}, {dx_, to});
        }
    }
  }

  // The vector that a product multiplied for a row, or for a child; null if there was none.
  const T* multiplied(const GraphProduct& product, int64_t row, T* sum) const {
    const GraphSource& source = product.source;
    const auto state = [&](int64_t r) { return record_.states[r] + source.state * units(); };
    switch (source.kind) {
      case GraphSource::child: return state(rows_.children[size_t(row)]);
      case GraphSource::own: return state(row);
      case GraphSource::before: {
        const int64_t q = rows_.before[size_t(source.slot * rows_.rows + row)];
        return q < 0 ? nullptr : state(q);
      }
      case GraphSource::input: {
        const int64_t at = source_of(row - rows_.given);
        return at < 0 ? nullptr : record_.x + at * model_.config.input_size;
      }
      default:
        if (rows_.first[size_t(row)] == rows_.first[size_t(row) + 1]) return nullptr;
        sum_children(record_, row, sum);
        return sum;
    }
  }

  // Rows in order, a chunk of those that the product had something to multiply for at a time; workers divide the outputs.
  void weights(const GraphProduct& product, const Packed& packed, GraphShare worker) {
    const bool child = product.source.kind == GraphSource::child;
    const int64_t begin = worker.begin(packed.outputs), end = worker.end(packed.outputs);
    const int64_t lanes = model_.kernel.lanes, columns = (packed.inputs + lanes - 1) / lanes * lanes;
    const bool fed = product.source.kind == GraphSource::input && rows_.shares();
    const Panel<T>& da = child ? child_da_ : fed ? fed_da_ : da_;
    const int64_t shift = child ? 0 : rows_.given;
    const int64_t count = child ? int64_t(rows_.children.size()) : fed ? shift + rows_.inputs : rows_.rows;
    const Blocks<T>&x = x_[size_t(worker.rank)], &a = a_[size_t(worker.rank)];
    OuterCall<T> call;
    call.x = read_only(x);
    call.columns = columns;
    call.out = {sum_.base, columns};
    int64_t row = shift;
    do {
      call.rows = 0;
      for (; row < count && call.rows < kOuterRows && begin < end; ++row) {
        T* const scratch = sums_ + worker.rank * kGraphRows * units();
        const T* vector = multiplied(product, row, scratch);
        if (!vector) continue;
        detail::copy_row(x, call.rows, vector, packed.inputs);
        detail::copy_row(a, call.rows++, da[row - shift] + (child ? 0 : product.chain * units()) + begin, end - begin);
      }
      call.a = read_only(a);
      call.begin = 0;
      call.end = end - begin;
      call.out.base = sum_.base + begin * columns;
      if (begin < end) model_.kernel.outer(call);
      call.add = true;
      stopper_.poll();
    } while (row < count && begin < end && !stopper_.stopped());
    const int64_t width = model_.param_width(model_.spec.params[product.param]);
    T* const out = params_[size_t(product.param)] + product.row * units() * width + product.column * units();
    for (int64_t o = begin; o < end; ++o) add_row(out + o * width, sum_.base + o * columns, packed.inputs);
  }

  // Sums over rows, in order: of biases, and of per-unit vectors.
  void vectors(GraphShare worker) {
    const int64_t steps = rows_.rows - rows_.given;
    const auto sum = [&](const Panel<T>& panel, int64_t from, int64_t count, T* out) {
      const int64_t begin = worker.begin(count), size = worker.end(count) - begin;
      for (int64_t r = 0; r < steps; ++r) add_row(out + begin, panel[r] + from + begin, size);
    };
    for (int b = 0; b < model_.spec.biases.size; ++b) {
      const GraphBias& bias = model_.spec.biases[b];
      if (T* out = params_[size_t(bias.param)]) sum(da_, bias.chain * units(), bias.count * units(), out);
    }
    if (model_.peepholes())
      if (T* out = params_[size_t(model_.spec.vectors)]) sum(d_vectors_, 0, model_.spec.vector_count * units(), out);
  }

  const GraphRecord<T>& record_;
  const GraphModel<T>& model_;
  const GraphRows& rows_;
  const std::vector<const T*>& given_d_;
  T* const dx_;
  const std::vector<T*>&d_given_, &params_;
  const int workers_;
  Barrier barrier_;
  Stopper& stopper_;
  GraphFrontEnd front_end_;
  int64_t most_children_ = 0, widest_ = 0, longest_ = 0;
  Buffer<char> memory_;
  Panel<T> d_states_, da_, d_vectors_, direct_, fed_da_, child_da_, child_direct_;
  Panel<T> chains_, states_, child_chains_;  // to recompute
  Panel<T> sum_;                             // of a weight's gradient
  T* sums_ = nullptr;
  std::vector<Blocks<T>> x_, a_;
};

}  // namespace

template <class T>
void GraphTape<T>::backward(const std::vector<const T*>& d_states, T* dx, const std::vector<T*>& d_given,
                            const std::vector<T*>& params, const Stop& stop) const {
  const GraphModel<T>& model = *record_->model;
  const size_t states = size_t(model.spec.states);
  expect(d_states.size() == states && d_given.size() == states, "d_states, d_given: expected one array a state");
  expect(int(params.size()) == model.spec.params.size, "params: expected those of the cell's table");
  TeamLease team(multiplications() < kWorthWakingBackward ? 1 : num_threads());
  Stopper stopper(stop);
  GraphBackward<T> backward(*record_, d_states, dx, d_given, params, team.size(), stopper);
  auto job = [&](int rank) { backward.run(rank); };
  team.run(job);
  stopper.check();
}

template <class T>
double GraphTape<T>::multiplications() const {
  return 3 * record_->model->multiplications * double(record_->rows->rows);
}

template <class T>
size_t GraphTape<T>::bytes() const {
  return record_->memory.size();
}

template <class T>
const GraphRows& GraphTape<T>::rows() const {
  return *record_->rows;
}

template <class T>
int64_t GraphTape<T>::inputs() const {
  return record_->inputs;
}

template class GraphTape<float>;
template class GraphTape<double>;

}  // namespace recurra
