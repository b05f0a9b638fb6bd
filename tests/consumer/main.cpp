// A GRU whose first step is known by hand: all weights 0, so h = (1 - z) n with z = 1/2 and n = tanh(bias).
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra/recurra.h"

namespace {

constexpr int kHidden = 16;

// `work` is refused because the library was built without it; or, if that is not so, succeeds.
template <class Work>
bool left_out(const char* name, Work work) {
  try {
    work();
  } catch (const std::invalid_argument& error) {
    std::printf("%s\n", error.what());
    return std::string(error.what()).find(std::string(name) + ": left out") == 0;
  }
  return false;
}

}  // namespace

int main(int count, char**) {
  recurra::NetworkConfig config;
  config.cell = "gru";
  config.input_size = 1;
  config.hidden_size = config.output_size = kHidden;
  std::vector<float> zeros(3 * kHidden * kHidden), bias(3 * kHidden);
  bias[2 * kHidden + 5] = 0.7f;
  const std::vector<std::vector<const float*>> params = {{zeros.data(), zeros.data(), bias.data(), nullptr}};
  const recurra::Network<float> network(config, params);
  recurra::Stream<float> stream(network, 1);
  float x = 1, y[kHidden];
  stream.step(&x, y);
  const float expected = 0.5f * std::tanh(0.7f);
  std::printf("%s: %g, expected %g\n", recurra::isa().c_str(), double(y[5]), double(expected));
  bool right = std::fabs(y[5] - expected) < 1e-6f && y[4] == 0;

  if (count > 1) {  // the smallest library
    config.precision = recurra::Precision::int8;
    right = left_out("precision", [&] { recurra::Network<float>(config, params); }) && right;
    config.precision = recurra::Precision::full;
    right = left_out("double", [&] { recurra::Network<double>(config, {{nullptr, nullptr, nullptr, nullptr}}); }) && right;
    float h[kHidden], *states[] = {h};
    right = left_out("record",
                     [&] {
                       network.record({&x, 1, 1, 1, 1}, nullptr, nullptr, {y, 1, 1, kHidden, kHidden}, states, false, nullptr);
                     }) &&
            right;
    right = recurra::cells().size() == 1 && recurra::num_threads() == 1 && right;
  }
  return right ? 0 : 1;
}
