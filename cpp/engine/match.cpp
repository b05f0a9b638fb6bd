#include "match.h"

#include <algorithm>
#include <limits>

#include "../threads/team.h"
#include "linear.h"
#include "record.h"
#include "row_order.h"
#include "stopper.h"
#include "worth.h"

namespace recurra {

using detail::Buffer;
using detail::Dealer;
using detail::every;
using detail::expect;
using detail::read_only;
using detail::RowOrder;
using detail::RowShare;
using detail::Stopper;

namespace {

int64_t filled(int64_t size) { return (size + kParts - 1) / kParts * kParts; }

// A row of `size` numbers, zeros after it.
template <class T>
void copy_filled(T* to, const T* from, int64_t size, int64_t filled_size) {
  std::copy_n(from, size, to);
  std::fill(to + size, to + filled_size, T(0));
}

}  // namespace

// States, what the LSTM saves, and queries with W_m h(k-1) in them: of all steps in a record, else of those a step needs.
template <class T>
struct Match<T>::Places {
  int64_t rows, steps, states;  // steps, and moments between them, that are kept
  Panel<T> h, c, saved, query;

  Places(const Match& match, const MatchCall<T>& call, T* at)
      : rows(call.rows), steps(call.record ? call.steps : 1), states(call.record ? call.steps + 1 : 2) {
    const ptrdiff_t hidden = match.lstm_->padded_hidden();
    const auto take = [&](ptrdiff_t stride, int64_t count) {
      const Panel<T> panel = {at, stride};
      if (at) at += stride * count;
      return panel;
    };
    h = take(hidden, states * rows);
    c = take(hidden, states * rows);
    query = take(match.filled_units_, steps * rows);
    if (call.record) saved = take(4 * hidden, steps * rows);
  }
  int64_t state(int64_t step) const { return step % states * rows; }  // row of the states before a step
  int64_t at(int64_t step) const { return step % steps * rows; }
};

// The rows of one worker, which waits for no other. Row r is number share.row(r) of those that are sorted, longest first.
template <class T>
class Match<T>::Walk {
 public:
  Walk(const Match& match, const MatchCall<T>& call, const Places& places, const RowOrder& sorted, const RowShare& share,
       bool back)
      : match_(match),
        lstm_(*match.lstm_),
        phase_(lstm_.layers[0].phases[0]),
        kernels_(kernels<T>(*lstm_.backend)),
        call_(call),
        places_(places),
        sorted_(sorted),
        share_(share),
        back_(back),
        table_(size_t(4 * share.count)) {
    for (const bool counting : {true, false}) {
      Dealer deal{counting ? nullptr : memory_.data()};
      this->deal(deal);
      if (counting) memory_ = Buffer<char>(deal.used);
    }
  }

  void forward(Stopper& stopper) {
    begin();
    for (int64_t step = 0; step < sorted_.steps && !stopper.stopped(); ++step, stopper.poll()) {
      const int rows = active(step);
      ask(step, rows);
      attend(step, rows);
      advance(step, rows);
    }
  }

  void backward(const MatchGradients<T>& gradients, T* d_weights, Stopper& stopper) {
    begin();
    for (int64_t step = sorted_.steps; step-- > 0 && !stopper.stopped(); stopper.poll()) {
      const int rows = active(step);
      retreat(gradients, step, rows);
      attend_backward(gradients, d_weights, step, rows);
      ask_backward(rows);
    }
    hand_out(gradients);
  }

 private:
  int64_t caller(int r) const { return sorted_.order[size_t(share_.row(r))]; }
  int64_t length(int r) const { return sorted_.lengths.empty() ? sorted_.steps : sorted_.lengths[size_t(share_.row(r))]; }
  int words(int r) const { return int(call_.word_counts ? call_.word_counts[caller(r)] : call_.words) + 1; }
  // Where word j of row r lies in [M + 1, B]: NULL is the last of its words, and after all of the array's.
  int64_t word(int r, int j) const { return (j + 1 == words(r) ? call_.words : j) * call_.rows + caller(r); }
  // In [T, B].
  int64_t place(int r, int64_t step) const { return (call_.reverse ? length(r) - 1 - step : step) * call_.rows + caller(r); }
  ptrdiff_t moved(int64_t step) const { return (call_.reverse ? -step : step) * call_.rows; }
  int active(int64_t step) const {
    int rows = share_.count;
    while (rows > 0 && length(rows - 1) <= step) --rows;
    return rows;
  }
  Panel<T> mine(const Panel<T>& panel, int64_t first) const { return every(panel, first + share_.first, share_.stride); }

  void deal(Dealer& deal) {
    const int64_t rows = share_.count, all = call_.words + 1;
    deal.panel(values_, all * match_.filled_size_, rows);
    deal.panel(keys_, all * match_.filled_units_, rows);
    deal.take(alpha_, filled(all));
    deal.take(context_, match_.filled_size_);
    if (!back_) return;
    const ptrdiff_t hidden = lstm_.padded_hidden();
    deal.take(d_score_, filled(all));
    deal.panel(d_values_, values_.stride, rows);
    deal.panel(d_keys_, keys_.stride, rows);
    deal.panel(d_query_, match_.filled_units_, rows);
    deal.panel(d_h_, hidden, rows);
    deal.panel(d_c_, hidden, rows);
    deal.panel(d_gates_, 4 * hidden, rows);
  }

  void begin() {
    const ptrdiff_t h_stride = mine(places_.h, 0).stride;
    own_ = table_.data();
    joined_ = own_ + share_.count;
    y_ = joined_ + share_.count;
    back_h_ = y_ + share_.count;
    for (int r = 0; r < share_.count; ++r) {
      own_[r] = r * h_stride;
      joined_[r] = place(r, 0) * 2 * match_.size_;
      y_[r] = place(r, 0) * match_.size_;
      back_h_[r] = r * d_h_.stride;
      for (int j = 0; j < words(r); ++j) {
        copy_filled(values_[r] + j * match_.filled_size_, call_.values + word(r, j) * match_.size_, match_.size_,
                    match_.filled_size_);
        copy_filled(keys_[r] + j * match_.filled_units_, call_.keys + word(r, j) * match_.units_, match_.units_,
                    match_.filled_units_);
      }
      if (back_) continue;
      std::fill_n(mine(places_.h, 0)[r], places_.h.stride, T(0));
      std::fill_n(mine(places_.c, 0)[r], places_.c.stride, T(0));
    }
  }

  // query = W_m h(k-1) + the query's own product.
  void ask(int64_t step, int rows) {
    const Panel<T> query = mine(places_.query, places_.at(step));
    const auto& map = *match_.state_map_.weights_;
    map.run(map.affine(read_only(mine(places_.h, places_.state(step))), rows, query));
    for (int r = 0; r < rows; ++r) {
      const T* const given = call_.queries + place(r, step) * match_.units_;
      for (int64_t a = 0; a < match_.units_; ++a) query[r][a] = query[r][a] + given[a];
      std::fill(query[r] + match_.units_, query[r] + match_.filled_units_, T(0));
    }
  }

  AttentionCall<T> attention(int64_t step, int r) const {
    AttentionCall<T> call;
    call.words = words(r);
    call.units = match_.filled_units_;
    call.size = match_.filled_size_;
    call.keys = keys_[r];
    call.values = values_[r];
    call.query = mine(places_.query, places_.at(step))[r];
    call.weight = match_.weight_score_.data();
    call.alpha = alpha_;
    call.context = context_;
    return call;
  }
  T* alpha(int64_t step, int r) const { return call_.alpha + place(r, step) * (call_.words + 1); }

  void attend(int64_t step, int rows) {
    for (int r = 0; r < rows; ++r) {
      const AttentionCall<T> call = attention(step, r);
      kernels_.attention(call);
      std::copy_n(alpha_, call.words - 1, alpha(step, r));
      alpha(step, r)[call_.words] = alpha_[call.words - 1];
      std::copy_n(context_, match_.size_, call_.joined + place(r, step) * 2 * match_.size_);
    }
  }

  void advance(int64_t step, int rows) {
    const Panel<T> h = mine(places_.h, places_.state(step)), c = mine(places_.c, places_.state(step));
    PhaseCall<T> call;
    call.finish = phase_.finish[places_.saved.base != nullptr];
    call.tiles = phase_.tiles;
    call.tile_end = phase_.tile_count;
    call.rows = rows;
    call.x.rows = {call_.joined + moved(step) * 2 * match_.size_, joined_};
    call.source.rows = call.h = {h.base, own_};
    call.result = mine(places_.h, places_.state(step + 1));
    call.y = {call_.y + moved(step) * match_.size_, y_};
    call.states = read_only(c);
    call.new_states = mine(places_.c, places_.state(step + 1));
    if (places_.saved.base) call.saved = mine(places_.saved, places_.at(step));
    call.padded = lstm_.padded_hidden();
    call.constants = lstm_.layers[0].constants.data();
    if (rows) phase_.run(call);
  }

  // From the gradients of h and c after a step to those of the LSTM's chains, of what it read, and of h and c before it.
  void retreat(const MatchGradients<T>& gradients, int64_t step, int rows) {
    const ptrdiff_t hidden = lstm_.padded_hidden();
    const Panel<T> h = mine(places_.h, places_.state(step)), c = mine(places_.c, places_.state(step));
    const Blocks<T> da = {d_gates_.base, d_gates_.stride, Blocks<T>::width};
    BackwardCall<T> call;
    call.tiles = phase_.tiles;
    call.tile_end = phase_.tile_count;
    call.rows = rows;
    call.last = true;
    call.dy = {gradients.dy + moved(step) * match_.size_, y_};
    call.d_result = call.d_h = d_h_;
    call.h = read_only(h);
    call.states = read_only(c);
    call.saved = read_only(mine(places_.saved, places_.at(step)));
    call.saved_width = 4 * hidden;
    call.d_states = d_c_;
    call.da = da;
    call.d_width = call.padded = hidden;
    call.constants = lstm_.layers[0].constants.data();
    kernels_.backward[cell_number(lstm_.config.cell)][0](call);

    const auto& transposed = lstm_.transposed()[0].phases[0];
    product(transposed.recurrent, da, hidden, 4, match_.size_, {d_h_.base, back_h_}, true, rows);
    product(transposed.input, da, hidden, 4, match_.size_, {gradients.d_joined + moved(step) * 2 * match_.size_, joined_},
            false, rows);
    for (int r = 0; r < rows; ++r)
      for (int g = 0; g < 4; ++g)
        std::copy_n(d_gates_[r] + g * hidden, match_.size_, gradients.d_gates + (place(r, step) * 4 + g) * match_.size_);
  }

  void attend_backward(const MatchGradients<T>& gradients, T* d_weights, int64_t step, int rows) {
    for (int r = 0; r < rows; ++r) {
      AttentionCall<T> call = attention(step, r);
      const int64_t before_null = call.words - 1;
      std::copy_n(alpha(step, r), before_null, alpha_);
      copy_filled(alpha_ + before_null, alpha(step, r) + call_.words, 1, filled(call.words) - before_null);
      copy_filled(context_, gradients.d_joined + place(r, step) * 2 * match_.size_, match_.size_, match_.filled_size_);
      call.d_score = d_score_;
      call.d_keys = d_keys_[r];
      call.d_values = d_values_[r];
      call.d_query = d_query_[r];
      call.d_weight = d_weights + caller(r) * match_.filled_units_;
      kernels_.attention_backward(call);
      std::copy_n(d_query_[r], match_.units_, gradients.d_chains + place(r, step) * match_.units_);
    }
  }

  void ask_backward(int rows) {
    const auto& map = *match_.state_map_.weights_;
    Tiles<T> tiles;
    tiles.base = map.backward.data();
    tiles.size = match_.units_ * map.lanes;
    tiles.units = int(match_.size_);
    product(tiles, {d_query_.base, d_query_.stride, Blocks<T>::width}, 0, 1, match_.units_, {d_h_.base, back_h_}, true, rows);
  }

  // out = a W, or that is added to it.
  void product(const Tiles<T>& tiles, const Blocks<T>& a, ptrdiff_t width, int gates, int64_t summed, const Rows<T>& out,
               bool add, int rows) {
    TransposedCall<T> call;
    call.tiles = tiles;
    call.tile_end = int(lstm_.padded(tiles.units) / lstm_.lanes);
    call.rows = rows;
    call.gates = gates;
    for (int g = 0; g < gates; ++g) call.chain[g] = g;
    call.summed = summed;
    call.width = width;
    call.a = read_only(a);
    call.out = out;
    call.add = add;
    if (rows) kernels_.transposed(call);
  }

  void hand_out(const MatchGradients<T>& gradients) const {
    for (int r = 0; r < share_.count; ++r)
      for (int j = 0; j < words(r); ++j) {
        std::copy_n(d_values_[r] + j * match_.filled_size_, match_.size_, gradients.d_values + word(r, j) * match_.size_);
        std::copy_n(d_keys_[r] + j * match_.filled_units_, match_.units_, gradients.d_keys + word(r, j) * match_.units_);
      }
  }

  const Match& match_;
  const detail::Model<T>& lstm_;
  const detail::PackedPhase<T>& phase_;
  const Kernels<T>& kernels_;
  const MatchCall<T>& call_;
  const Places& places_;
  const RowOrder& sorted_;
  const RowShare share_;
  const bool back_;
  std::vector<ptrdiff_t> table_;
  ptrdiff_t *own_ = nullptr, *joined_ = nullptr, *y_ = nullptr, *back_h_ = nullptr;  // offsets of rows
  Buffer<char> memory_;                                                              // all of the following, zeros at first
  Panel<T> values_, keys_, d_values_, d_keys_;                                       // a row's words, filled up
  Panel<T> d_query_, d_h_, d_c_, d_gates_;
  T *alpha_ = nullptr, *context_ = nullptr, *d_score_ = nullptr;
};

namespace {

NetworkConfig config_of(int64_t size) {
  NetworkConfig config;
  config.cell = "lstm";
  config.input_size = 2 * size;
  config.hidden_size = config.output_size = size;
  config.constants = {std::numeric_limits<double>::infinity()};  // no clipping
  return config;
}

}  // namespace

template <class T>
Match<T>::Match(int64_t size, int64_t units, const T* weight_state, const T* weight_score, const std::vector<const T*>& lstm)
    : size_(size),
      units_(units),
      filled_size_(filled(size)),
      filled_units_(filled(units)),
      lstm_(std::make_shared<detail::Model<T>>(config_of(size), std::vector<std::vector<const T*>>{lstm})),
      state_map_(size, units, weight_state, nullptr),
      weight_score_(size_t(filled_units_)) {
  if (!RECURRA_GRAPHS) left_out("match");
  std::copy_n(weight_score, units, weight_score_.data());
}

template <class T>
int64_t Match<T>::record_size(int64_t steps, int64_t rows) const {
  return rows * (2 * (steps + 1) * lstm_->padded_hidden() + steps * (4 * lstm_->padded_hidden() + filled_units_));
}

template <class T>
double Match<T>::multiplications(int64_t steps, int64_t rows, int64_t words) const {
  constexpr double activation = 20;  // multiply-adds that take the time of one
  const double word = double(filled_units_) * activation + double(filled_size_);
  return double(steps) * double(rows) * (lstm_->multiplications() + double(size_) * double(units_) + double(words + 1) * word);
}

// Forward, or backward if there are gradients to write.
template <class T>
void Match<T>::run(const MatchCall<T>& call, const MatchGradients<T>* gradients, const Stop& stop) const {
  const RowOrder sorted(call.rows, call.steps, call.lengths);
  const int64_t live = call.record ? 0 : call.rows * (4 * lstm_->padded_hidden() + filled_units_);
  const Buffer<T> memory(size_t(live), false);
  const Places places(*this, call, call.record ? call.record : memory.data());
  const Buffer<T> d_weights(gradients ? size_t(call.rows * filled_units_) : 0);  // of w, [row of the caller]
  if (gradients) lstm_->transposed();
  TeamLease team(multiplications(call.steps, call.rows, call.words) < kWorthWaking ? 1 : num_threads());
  std::vector<std::unique_ptr<Walk>> walks(static_cast<size_t>(team.size()));
  for (int w = 0; w < team.size(); ++w) {
    const RowShare share(int(call.rows), sorted.lengths.empty(), w, team.size());
    walks[size_t(w)] = std::make_unique<Walk>(*this, call, places, sorted, share, gradients != nullptr);
  }
  Stopper stopper(stop);
  auto job = [&](int rank) {
    const Environment environment(*lstm_->backend);
    gradients ? walks[size_t(rank)]->backward(*gradients, d_weights.data(), stopper) : walks[size_t(rank)]->forward(stopper);
  };
  team.run(job);
  stopper.check();
  if (!gradients) return;
  const Environment environment(*lstm_->backend);
  T* const sum = gradients->d_weight;
  std::fill_n(sum, units_, T(0));
  for (int64_t b = 0; b < call.rows; ++b)
    for (int64_t a = 0; a < units_; ++a) sum[a] = sum[a] + d_weights.data()[b * filled_units_ + a];
}

template <class T>
void Match<T>::forward(const MatchCall<T>& call, const Stop& stop) const {
  run(call, nullptr, stop);
}

template <class T>
void Match<T>::backward(const MatchCall<T>& call, const MatchGradients<T>& gradients, const Stop& stop) const {
  expect(call.record, "record: expected that of forward, got null");
  run(call, &gradients, stop);
}

template class Match<float>;
template class Match<double>;

}  // namespace recurra
