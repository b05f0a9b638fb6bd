// Times one sample a call, as an audio plug-in makes it: GRU and LSTM of one input, alone, with a Linear(1) in the same stream,
// and in blocks of 64 samples. Nanoseconds a sample, medians of rounds in turns. Also what a step costs beside its arithmetic.
//   cmake -S . -B build/cpp -G Ninja -DRECURRA_PYTHON=OFF -DRECURRA_TESTS=ON && cmake --build build/cpp --target steps
//   build/cpp/bench/steps
// With arguments it times nothing and makes so many steps of so many rows, for what counts instructions (bench/arm.py):
//   build/cpp/bench/steps gru 64 1 int8 100
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>

#include "../cpp/engine/backend.h"
#include "recurra/recurra.h"

namespace {

constexpr int kRounds = 41, kBlock = 64;
volatile float sink;

double now() { return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Contestant {
  std::function<void(int)> run;  // so many samples
  double nanoseconds = 0;
};

// In turns, so that what disturbs one disturbs all.
void measure(std::vector<Contestant>& all, int samples) {
  std::vector<std::vector<double>> times(all.size());
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].run(samples / 4);
      const double start = now();
      all[i].run(samples);
      times[i].push_back((now() - start) / samples);
    }
  for (size_t i = 0; i < all.size(); ++i) {
    std::nth_element(times[i].begin(), times[i].begin() + kRounds / 2, times[i].end());
    all[i].nanoseconds = times[i][kRounds / 2];
  }
}

recurra::Network<float> network(const char* cell, int hidden, int gates,
                                recurra::Precision precision = recurra::Precision::full) {
  recurra::NetworkConfig config;
  config.cell = cell;
  config.precision = precision;
  config.input_size = 1;
  config.hidden_size = config.output_size = hidden;
  for (const recurra::CellInfo& info : recurra::cells())
    for (const auto& constant : info.constants)
      if (info.name == cell) config.constants.push_back(constant.second);
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-0.3f, 0.3f);
  std::vector<float> weights(size_t(gates * hidden * std::max(hidden, 1)));
  for (float& w : weights) w = uniform(random);
  return {config, {{weights.data(), weights.data(), weights.data(), weights.data()}}};
}

void row(const char* cell, int hidden, int gates) {
  const auto net = network(cell, hidden, gates);
  const std::vector<float> weight(size_t(hidden), 0.1f);
  const recurra::Linear<float> head(hidden, 1, weight.data(), weight.data());
  recurra::Stream<float> alone(net, 1), headed(net, 1, 1, &head), blocks(net, 1, 1, &head);
  std::vector<float> x(kBlock), out(kBlock);
  std::vector<float> y(static_cast<size_t>(hidden));
  for (int i = 0; i < kBlock; ++i) x[size_t(i)] = std::sin(0.3f * float(i));
  const auto each = [&](recurra::Stream<float>& stream, std::vector<float>& to) {
    return [&](int samples) {
      float sum = 0;
      for (int i = 0; i < samples; ++i) {
        stream.step(&x[size_t(i % kBlock)], to.data());
        sum += to[0];
      }
      sink = sum;
    };
  };
  std::vector<Contestant> all = {{each(alone, y)}, {each(headed, out)}, {[&](int samples) {
                                   for (int i = 0; i < samples; i += kBlock)
                                     blocks.run({x.data(), kBlock, 1, 1, 1}, {out.data(), kBlock, 1, 1, 1});
                                   sink = out[0];
                                 }}};
  measure(all, std::max(4 * kBlock, 400000 / (hidden * hidden / 4 + 100) / kBlock * kBlock));
  std::printf("%-4s %4d  %9.1f  %9.1f  %9.1f\n", cell, hidden, all[0].nanoseconds, all[1].nanoseconds, all[2].nanoseconds);
}

int only_steps(const char* const* given) {
  const char* const cell = given[0];
  const int hidden = std::atoi(given[1]), rows = std::atoi(given[2]);
  const auto precision = !std::strcmp(given[3], "int8")       ? recurra::Precision::int8
                         : !std::strcmp(given[3], "bfloat16") ? recurra::Precision::bfloat16
                                                              : recurra::Precision::full;
  const auto net = network(cell, hidden, std::strcmp(cell, "lstm") ? 3 : 4, precision);
  recurra::Stream<float> stream(net, rows);
  std::vector<float> x(static_cast<size_t>(rows), 0.5f), y(static_cast<size_t>(rows * hidden));
  for (int step = std::atoi(given[4]); step > 0; --step) stream.step(x.data(), y.data());
  sink = y[0];
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6) return only_steps(argv + 1);
  std::printf("%s, ns a sample, I = 1\n\ncell    H      alone   + Linear  in blocks\n", recurra::isa().c_str());
  for (const int hidden : {1, 8, 16, 32, 64, 128, 256}) row("gru", hidden, 3);
  for (const int hidden : {1, 8, 16, 32, 64, 128, 256}) row("lstm", hidden, 4);

  const recurra::Backend& backend = recurra::backend();
  std::atomic<bool> busy{false};
  std::vector<Contestant> parts = {{[&](int n) {
                                     for (int i = 0; i < n; ++i) recurra::Environment environment(backend);
                                   }},
                                   {[&](int n) {
                                     for (int i = 0; i < n; ++i) {
                                       busy.exchange(true, std::memory_order_acquire);
                                       busy.store(false, std::memory_order_release);
                                     }
                                   }}};
  measure(parts, 100000);
  std::printf("\nof each step, alone: floating-point environment %.1f, refusal of a second thread %.1f\n", parts[0].nanoseconds,
              parts[1].nanoseconds);
}
