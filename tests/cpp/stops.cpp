// Long calls that are given up: by the answer of the caller's function, or by what it throws. Nothing else gets out of them,
// the function computes as its author does, and what is used again works on.
#include <cfenv>
#include <climits>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <vector>

#include "recurra/recurra.h"

namespace {

constexpr int kHidden = 512, kRows = 4;
constexpr int64_t kEndless = int64_t(1) << 40, kSteps = 2000;  // of which backward takes long enough to be asked about

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

}  // namespace

int main() {
  const std::vector<float> weights(3 * kHidden * kHidden, 0.01f);
  const auto network = make_network(weights);
  for (const int threads : {1, 2}) stops(network, threads);
  check(rounds_upward, "the caller's function rounded as kernels do", 0);
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}
