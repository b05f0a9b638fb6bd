// Long calls that are given up: by the answer of the caller's function, or by what it throws. Nothing else gets out of them,
// the function computes as its author does, and what is used again works on.
#include <algorithm>
#include <cfenv>
#include <climits>
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "engine/graph.h"
#include "engine/match.h"
#include "recurra/recurra.h"

namespace {

// Calls that have to end by themselves take long enough to be asked about, every 50 ms: with sanitizers an eighth of the work.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int64_t kSlow = 8;
#else
constexpr int64_t kSlow = 1;
#endif
constexpr int kHidden = 512, kRows = 4;
constexpr int64_t kEndless = int64_t(1) << 40, kSteps = 2000 / kSlow;

int failed = 0;

void check(bool good, const char* what, int threads) {
  failed += !good;
  if (!good) std::printf("%s, %d threads\n", what, threads);
}

struct Enough : std::runtime_error {
  Enough() : std::runtime_error("enough") {}
};

bool rounds_upward = true;

// `call` must end by what the function it is given does.
void both_ways(const char* name, int threads, const std::function<void(const recurra::Stop&)>& call) {
  bool stopped = false, enough = false;
  try {
    call([] { return true; });
  } catch (const recurra::Stopped&) {
    stopped = true;
  }
  std::fesetround(FE_UPWARD);
  try {
    call([]() -> bool {
      rounds_upward = rounds_upward && std::fegetround() == FE_UPWARD;
      throw Enough();
    });
  } catch (const Enough&) {
    enough = true;
  }
  rounds_upward = rounds_upward && std::fegetround() == FE_UPWARD;
  std::fesetround(FE_TONEAREST);
  check(stopped && enough, name, threads);
}

recurra::Network<float> make_network(const std::vector<float>& weights) {
  recurra::NetworkConfig config;
  config.cell = "gru";
  config.input_size = 1, config.hidden_size = config.output_size = kHidden;
  for (const recurra::CellInfo& cell : recurra::cells())
    for (const auto& constant : cell.constants)
      if (cell.name == config.cell) config.constants.push_back(constant.second);
  return {config, {std::vector<const float*>(4, weights.data())}};
}

void stops(const recurra::Network<float>& network, int threads) {
  recurra::set_num_threads(threads);
  const std::vector<float> x(kRows, 0.5f);
  std::vector<float> y(kRows * kHidden), h(kRows * kHidden);
  float* const final_states[] = {h.data()};
  // The same rows again and again.
  const auto in = [&](int64_t steps) { return recurra::Sequence<const float>{x.data(), steps, kRows, 0, 1}; };
  const auto out = [&](int64_t steps) { return recurra::Sequence<float>{y.data(), steps, kRows, 0, kHidden}; };

  both_ways("forward", threads, [&](const recurra::Stop& stop) {
    network.forward(in(kEndless), nullptr, nullptr, out(kEndless), final_states, stop);
  });

  const auto tape = network.record(in(kSteps), nullptr, nullptr, out(kSteps), final_states, true, nullptr);
  const std::vector<std::vector<float*>> none{std::vector<float*>(4)};
  const recurra::Sequence<const float> dy{y.data(), kSteps, kRows, 0, kHidden};
  both_ways("backward", threads,
            [&](const recurra::Stop& stop) { tape.backward(dy, nullptr, {}, nullptr, none, false, stop); });

  recurra::Stream<float> stream(network, kRows, threads);
  stream.run(in(5), out(5));
  stream.get_state(final_states);
  const std::vector<float> before = h;
  both_ways("stream", threads, [&](const recurra::Stop& stop) { stream.run(in(kEndless), out(kEndless), stop); });
  stream.get_state(final_states);
  check(h == before, "the stream's state", threads);
}

// A graph of two slots, in fronts of the same number of rows, each of which follows one row of the front before in both slots.
std::shared_ptr<const recurra::GraphRows> fronts_of(int64_t fronts, int64_t rows) {
  std::vector<int64_t> starts, before;
  for (int64_t f = 1; f <= fronts; ++f) starts.push_back(f * rows);
  for (int64_t r = 0; r < 2 * fronts * rows; ++r) before.push_back(std::max<int64_t>(r % (fronts * rows) - rows, -1));
  return std::make_shared<recurra::GraphRows>(starts, 2, before, std::vector<int64_t>(before.size() / 2, -1),
                                              std::vector<int64_t>(), std::vector<int64_t>());
}

void graph_stops(const char* shape, const std::shared_ptr<const recurra::GraphRows>& rows, int threads) {
  recurra::set_num_threads(threads);
  recurra::GraphConfig config;
  config.cell = "mdlstm";
  config.hidden_size = kHidden;
  config.slots = rows->slots;
  const std::vector<float> weights(10 * kHidden * kHidden, 0.001f);
  std::vector<const float*> params;
  const recurra::GraphSpec spec = recurra::graph_spec(config);
  for (int p = 0; p < spec.params.size; ++p) params.push_back(spec.params[p].optional ? nullptr : weights.data());
  const recurra::GraphNetwork<float> network(config, params);
  const size_t size = size_t(rows->rows * kHidden);
  std::vector<float> h(size, 7.0f), c(size, 7.0f), given(size);
  std::vector<float> d_weights(weights.size());
  std::vector<float*> d_params(params.size());
  for (size_t p = 0; p < params.size(); ++p) d_params[p] = params[p] ? d_weights.data() : nullptr;
  both_ways(shape, threads, [&](const recurra::Stop& stop) {
    network.forward(nullptr, 0, rows, {nullptr, nullptr}, {h.data(), c.data()}, recurra::Keep::states, stop);
  });
  check(h == std::vector<float>(size, 7.0f) && c == h, "a stopped graph's states", threads);
  const recurra::GraphTape<float> tape(
      network.forward(nullptr, 0, rows, {nullptr, nullptr}, {h.data(), c.data()}, recurra::Keep::states, {}));
  both_ways(shape, threads, [&](const recurra::Stop& stop) {
    tape.backward({h.data(), nullptr}, nullptr, {given.data(), given.data()}, d_params, stop);
  });
}

void match_stops(int threads) {
  recurra::set_num_threads(threads);
  constexpr int64_t kSize = 64, kWords = 400, kMatchSteps = 16000 / kSlow;
  const std::vector<float> weights(8 * kSize * kSize, 0.01f), values(size_t((kWords + 1) * kRows * kSize));
  const recurra::Match<float> match(kSize, kSize, weights.data(), weights.data(),
                                    {weights.data(), weights.data(), nullptr, nullptr});
  const size_t moments = size_t(kMatchSteps * kRows);
  const std::vector<float> queries(moments * kSize);
  std::vector<float> joined(2 * moments * kSize), y(moments * kSize), alpha(moments * (kWords + 1)),
      record(size_t(match.record_size(kMatchSteps, kRows)));
  recurra::MatchCall<float> call;
  call.steps = kMatchSteps, call.rows = kRows, call.words = kWords;
  call.values = call.keys = values.data(), call.queries = queries.data();
  call.joined = joined.data(), call.y = y.data(), call.alpha = alpha.data(), call.record = record.data();
  both_ways("match-LSTM", threads, [&](const recurra::Stop& stop) { match.forward(call, stop); });
  match.forward(call, {});
  std::vector<float> d_values(values), d_keys(values), d_chains(queries), d_joined(joined), d_gates(4 * moments * kSize),
      d_weight(kSize);
  both_ways("match-LSTM backward", threads, [&](const recurra::Stop& stop) {
    match.backward(
        call, {y.data(), d_values.data(), d_keys.data(), d_chains.data(), d_joined.data(), d_gates.data(), d_weight.data()},
        stop);
  });
}

}  // namespace

int main() {
  const std::vector<float> weights(3 * kHidden * kHidden, 0.01f);
  const auto network = make_network(weights);
  for (const int threads : {1, 2}) {
    stops(network, threads);
    graph_stops("short fronts", fronts_of(2000 / kSlow, 8), threads);
    graph_stops("long fronts", fronts_of(3, 8000 / kSlow), threads);
    match_stops(threads);
  }
  check(rounds_upward, "the caller's function rounded as kernels do", 0);
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}
