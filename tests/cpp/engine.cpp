// Every cell, both types, random shapes, lengths, resets and masks, directions and threads through the C++ interface: whole
// sequences against the same in chunks, on one thread and from several threads at once, and by a caller who rounds otherwise;
// and the gradients of training, with and without recomputing. All must agree to the bit, and the hash of all results printed
// at the end must be the same on every instruction set with fused multiply-add, NEON included. Built with sanitizers it also
// shows stray memory accesses and data races.
#include <algorithm>
#include <cfenv>
#include <cstdio>
#include <cstring>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "draws.h"
#include "recurra/recurra.h"

namespace {

using recurra::CellInfo;
using recurra::Marks;
using recurra::Network;
using recurra::NetworkConfig;

template <class T>
struct Result {
  std::vector<T> y;
  std::vector<std::vector<T>> states;
  bool operator==(const Result& other) const {
    for (size_t s = 0; s < states.size(); ++s)
      if (!same(states[s], other.states[s])) return false;
    return same(y, other.y);
  }
  uint64_t hash() const {
    uint64_t hash = fnv(14695981039346656037ull, y);
    for (const auto& state : states) hash = fnv(hash, state);
    return hash;
  }

 private:
  // NaNs count as one: x86 makes them with the sign bit set, ARM without, and of two that meet either may go on.
  static bool same(const std::vector<T>& a, const std::vector<T>& b) {
    for (size_t i = 0; i < a.size(); ++i)
      if (std::memcmp(&a[i], &b[i], sizeof(T)) && (a[i] == a[i] || b[i] == b[i])) return false;
    return true;
  }
  static uint64_t fnv(uint64_t hash, const std::vector<T>& values) {
    for (const T value : values) {
      unsigned char bytes[sizeof(T)] = {};
      if (value == value) std::memcpy(bytes, &value, sizeof value);
      for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211ull;
    }
    return hash;
  }
};

// While it lives, this thread rounds another way, and on x86 flushes subnormal numbers too.
class OddArithmetic {
 public:
  OddArithmetic() {
    const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    std::fegetenv(&saved_);
    std::fesetround(modes[random_int(0, 2)]);
    [[maybe_unused]] const bool flushes = random_int(0, 1) == 1;  // drawn everywhere, or trials would differ from here on
#if defined(__x86_64__)
    if (flushes) _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
  }
  ~OddArithmetic() { std::fesetenv(&saved_); }
  OddArithmetic(const OddArithmetic&) = delete;

 private:
  std::fenv_t saved_;
};

enum class Rows { whole, of_lengths, marked };

bool few = false;  // for emulators and sanitizers

template <class T>
class Trial {
 public:
  // Of random sizes unless they are given.
  Trial(const CellInfo& cell, int directions, Rows rows, recurra::Precision precision, int inputs = 0, int hidden = 0)
      : cell_(cell),
        config_{cell.name,
                inputs ? inputs : random_int(1, 40),
                hidden ? hidden : random_int(2, 70),
                0,
                random_int(1, 3),
                directions,
                false,
                {},
                precision,
                {},
                {},
                1},
        steps_(random_int(1, few ? 30 : 80)),
        rows_(random_int(1, few ? 20 : 40)) {
    if (random_int(0, 1)) config_.regularization = {0.3, cell.recurrent_product ? 0.2 : 0, {0.1, 0.2, 0.2, 0.3}};
    if (cell.has_heads) config_.heads = random_int(1, 5), config_.hidden_size *= config_.heads;
    config_.output_size = cell.projected ? random_int(1, int(config_.hidden_size) - 1) : config_.hidden_size;
    for (int d = 0; d < (random_int(0, 1) ? directions : 1); ++d)
      for (const auto& [name, value] : cell.constants) {
        const int bounded[] = {1, 2, 6, 7};  // of recurra::activations(): nothing overflows
        const double other = name.size() == 1 ? bounded[random_int(0, 3)] : 0.3;
        config_.constants.push_back(random_int(0, 1) ? value : other);
      }
    x_ = random_values<T>(size_t(steps_) * rows_ * config_.input_size);
    for (const auto& state : cell.states) initial_.push_back(random_values<T>(size_t(lanes()) * rows_ * width(state.second)));
    for (int r = 0; rows == Rows::of_lengths && r < rows_; ++r) lengths_.push_back(random_int(0, steps_));
    if (rows != Rows::marked) return;
    for (const auto& state : initial_) fresh_.push_back(random_values<T>(state.size()));
    for (int i = 0; i < steps_ * rows_; ++i) {
      resets_.push_back(random_int(0, 9) == 0);
      mask_.push_back(random_int(0, 9) > 0);
    }
    repeat_ = random_int(0, 1) == 1;
  }

  // The hash of all outputs and final states; 0 when any two runs differ.
  uint64_t run() {
    make_params();
    recurra::set_num_threads(1);
    const Network<T> network(config_, params_);
    const Result<T> whole = forward(network);
    recurra::set_num_threads(64);
    bool good = forward(network) == whole && gives_params_back(network) && forward({config_, params_}) == whole;
    Result<T> others[3];
    std::vector<std::thread> threads;
    for (Result<T>& other : others) threads.emplace_back([&] { other = forward(network); });
    for (std::thread& thread : threads) thread.join();
    for (const Result<T>& other : others) good = good && other == whole;
    if (config_.directions == 1 && lengths_.empty() && mask_.empty()) good = good && in_chunks(network) == whole;
    good = good && oddly([&](const Network<T>& packed) { return forward(packed); }) == whole;
    if (!good)
      std::printf(
          "%s float%zu I=%d H=%d O=%d layers=%d directions=%d T=%d B=%d lengths=%d marks=%d precision=%d: bits differ\n",
          cell_.name.c_str(), 8 * sizeof(T), int(config_.input_size), int(config_.hidden_size), int(config_.output_size),
          config_.layers, config_.directions, steps_, rows_, int(!lengths_.empty()), int(!mask_.empty()),
          int(config_.precision));
    if (config_.precision != recurra::Precision::full) return good ? whole.hash() ^ 1 : 0;
    const uint64_t gradients = train(network);
    return good && gradients ? whole.hash() ^ gradients : 0;
  }

 private:
  // What a caller gets who does not round to nearest, from a network that he has packed himself.
  template <class Compute>
  Result<T> oddly(const Compute& compute) const {
    const OddArithmetic arithmetic;
    return compute(Network<T>(config_, params_));
  }

  // The hash of all gradients; 0 when any two runs differ.
  uint64_t train(const Network<T>& network) const {
    recurra::set_num_threads(1);
    const Result<T> one = gradients(network, false, 7);
    bool good = gradients(network, true, 8) == one && added(network, one);
    recurra::set_num_threads(64);
    for (const bool recompute : {false, true}) good = good && gradients(network, recompute, recompute) == one;
    good = good && added(network, one);
    good = good && oddly([&](const Network<T>& packed) { return gradients(packed, random_int(0, 1), 7); }) == one;
    if (!good) std::printf("%s float%zu: gradients differ\n", cell_.name.c_str(), 8 * sizeof(T));
    return good ? one.hash() : 0;
  }

  // What befalls steps; the states that resets lead to are at `fresh`.
  Marks<T> marks(std::vector<const T*>& fresh) const {
    if (mask_.empty()) return {};
    for (const auto& state : fresh_) fresh.push_back(state.data());
    const auto flags = [&](const std::vector<uint8_t>& all) {
      return recurra::Sequence<const uint8_t>{all.data(), steps_, rows_, rows_, 1};
    };
    return {flags(resets_), fresh.data(), flags(mask_), repeat_};
  }

  // Gradients of parameters that are added to what is there, a sum each. Some explode.
  bool added(const Network<T>& network, const Result<T>& one) const {
    const auto same = [](T a, T b) { return a == b || (a != a && b != b); };
    const Result<T> result = gradients(network, false, 3, true);
    bool good = true;
    for (size_t i = 0; i < result.states.size(); ++i)
      for (size_t k = 0; k < result.states[i].size(); ++k)
        good = good && same(result.states[i][k], (i < initial_.size() || i >= params_end() ? T(0) : T(3)) + one.states[i][k]);
    return good;
  }

  size_t params_end() const { return initial_.size() + size_t(lanes()) * cell_.params.size(); }

  // dx, then those of the initial states, of the parameters, where `before` was before, and of what resets lead to.
  Result<T> gradients(const Network<T>& network, bool recompute, int before, bool add = false) const {
    std::vector<T> x = x_;
    Result<T> forward = empty_result(), result{std::vector<T>(x.size(), T(before)), {}};
    for (const auto& state : initial_) result.states.emplace_back(state.size(), T(before));
    std::vector<const T*> initial, d_final;
    std::vector<T*> final_states, d_initial;
    for (const auto& state : initial_) initial.push_back(state.data()), d_final.push_back(state.data());
    for (auto& state : forward.states) final_states.push_back(state.data());
    std::vector<std::vector<int64_t>> sizes{size_t(lanes())};
    for (int lane = 0; lane < lanes(); ++lane)
      for (const auto& p : cell_.params) sizes[size_t(lane)].push_back(count(p, lane));
    for (const auto& lane : sizes)
      for (const int64_t size : lane) result.states.emplace_back(size_t(size), T(before));
    for (const auto& state : fresh_) result.states.emplace_back(state.size(), T(0));
    std::vector<std::vector<T*>> params;
    size_t next = initial_.size();
    for (const auto& lane : sizes) {
      params.emplace_back();
      for (size_t i = 0; i < lane.size(); ++i) params.back().push_back(result.states[next++].data());
    }
    for (size_t s = 0; s < initial_.size(); ++s) d_initial.push_back(result.states[s].data());
    const ptrdiff_t in = config_.input_size, out = config_.directions * config_.output_size;
    std::vector<T*> d_reset;
    for (size_t s = 0; s < fresh_.size(); ++s) d_reset.push_back(result.states[next++].data());
    std::vector<const T*> fresh;
    const uint64_t seed = 3;
    const auto tape = network.record(
        {x.data(), steps_, rows_, rows_ * in, in}, initial.data(), lengths_.empty() ? nullptr : lengths_.data(),
        {forward.y.data(), steps_, rows_, rows_ * out, out}, final_states.data(), recompute, &seed, {}, marks(fresh));
    std::fill(x.begin(), x.end(), T(before));  // the tape has its own
    tape.backward({forward.y.data(), steps_, rows_, rows_ * out, out}, d_final.data(),
                  {result.y.data(), steps_, rows_, rows_ * in, in}, d_initial.data(), params, add, {},
                  d_reset.empty() ? nullptr : d_reset.data());
    return result;
  }

  int lanes() const { return config_.layers * config_.directions; }
  int64_t width(const std::string& dim) const {
    return dim == "hidden"   ? config_.hidden_size
           : dim == "head"   ? config_.hidden_size / config_.heads
           : dim == "output" ? config_.output_size
           : dim == "one"    ? 1
                             : config_.input_size;
  }

  int64_t count(const recurra::ParamInfo& p, int lane) const {
    const bool upper = p.cols == "input" && lane >= config_.directions;
    return p.blocks * width(p.rows) * (upper ? config_.directions * config_.output_size : width(p.cols));
  }

  void make_params() {
    params_.resize(size_t(lanes()));
    for (int lane = 0; lane < lanes(); ++lane)
      for (const auto& p : cell_.params) {
        storage_.push_back(random_values<T>(size_t(count(p, lane))));
        params_[size_t(lane)].push_back(storage_.back().data());
      }
  }

  bool gives_params_back(const Network<T>& network) const {
    for (int lane = 0; config_.precision == recurra::Precision::full && lane < lanes(); ++lane)
      for (size_t i = 0; i < cell_.params.size(); ++i) {
        std::vector<T> again(size_t(count(cell_.params[i], lane)));
        network.get_parameter(size_t(lane), int(i), again.data());
        if (std::memcmp(again.data(), params_[size_t(lane)][i], again.size() * sizeof(T))) return false;
      }
    return true;
  }

  Result<T> empty_result() const {
    Result<T> result{std::vector<T>(size_t(steps_) * rows_ * config_.directions * config_.output_size), initial_};
    return result;
  }

  Result<T> forward(const Network<T>& network) const {
    Result<T> result = empty_result();
    std::vector<const T*> initial, fresh;
    std::vector<T*> final_states;
    for (const auto& state : initial_) initial.push_back(state.data());
    for (auto& state : result.states) final_states.push_back(state.data());
    const ptrdiff_t in = config_.input_size, out = config_.directions * config_.output_size;
    network.forward({x_.data(), steps_, rows_, rows_ * in, in}, initial.data(), lengths_.empty() ? nullptr : lengths_.data(),
                    {result.y.data(), steps_, rows_, rows_ * out, out}, final_states.data(), {}, marks(fresh));
    return result;
  }

  Result<T> in_chunks(const Network<T>& network) const {
    Result<T> result = empty_result();
    recurra::Stream<T> stream(network, rows_);
    std::vector<const T*> initial;
    std::vector<T*> final_states;
    for (const auto& state : initial_) initial.push_back(state.data());
    for (auto& state : result.states) final_states.push_back(state.data());
    stream.set_state(initial.data());
    const ptrdiff_t in = config_.input_size, out = config_.output_size;
    for (int done = 0; done < steps_;) {
      const int piece = std::min(random_int(1, 70), steps_ - done);
      stream.run({x_.data() + done * rows_ * in, piece, rows_, rows_ * in, in},
                 {result.y.data() + done * rows_ * out, piece, rows_, rows_ * out, out});
      done += piece;
    }
    stream.get_state(final_states.data());
    return result;
  }

  const CellInfo& cell_;
  NetworkConfig config_;
  int steps_, rows_;
  std::vector<T> x_;
  std::vector<std::vector<T>> initial_, storage_;
  std::vector<std::vector<const T*>> params_;
  std::vector<int64_t> lengths_;
  std::vector<std::vector<T>> fresh_;
  std::vector<uint8_t> resets_, mask_;
  bool repeat_ = true;
};

}  // namespace

// With any argument, one trial in twelve and shorter, lengths, marks and precisions from cell to cell in turn. With "reduced",
// of these only some in reduced precision: what differs between instruction sets of ARM.
int main(int argc, char** argv) {
  few = argc > 1;
  const bool reduced = few && !std::strcmp(argv[1], "reduced");
  int trials = 0, failed = 0;
  uint64_t sum = 0;
  const auto count = [&](uint64_t hash) {
    ++trials;
    failed += hash == 0;
    sum = sum * 31 + hash;
  };
  Rows turn = Rows::marked;
  for (const CellInfo& cell : recurra::cells()) {
    turn = turn == Rows::marked ? Rows::of_lengths : Rows::marked;
    const ptrdiff_t index = &cell - recurra::cells().data();
    const auto taken = [&](ptrdiff_t precision) { return !few || index % 3 == precision; };
    if (reduced && index % 6 > 1) continue;
    for (const int directions : {1, 2})
      for (const Rows rows : {Rows::whole, Rows::of_lengths, Rows::marked}) {
        if (few && (directions == 1 || rows != turn)) continue;
        if (!reduced) count(Trial<float>(cell, directions, rows, recurra::Precision::full).run());
        if (taken(0)) count(Trial<float>(cell, directions, rows, recurra::Precision::bfloat16).run());
        if (taken(1)) count(Trial<float>(cell, directions, rows, recurra::Precision::int8).run());
        if (taken(2)) count(Trial<double>(cell, directions, rows, recurra::Precision::full).run());
      }
  }
  // Large enough to be packed on several threads, in int8 too.
  for (const auto precision : {recurra::Precision::full, recurra::Precision::bfloat16, recurra::Precision::int8})
    if (reduced ? precision != recurra::Precision::full : !few || precision == recurra::Precision::full)
      count(Trial<float>(recurra::cells().back(), 1, Rows::whole, precision, few ? 900 : 3000, 120).run());
  std::printf("%s: %d trials, %d failed, hash %016llx\n", recurra::isa().c_str(), trials, failed, (unsigned long long)sum);
  return failed ? 1 : 0;
}
