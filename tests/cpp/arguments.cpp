// Wrong calls from C++ are refused by name and leave nothing behind.
#include <climits>
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra/recurra.h"

namespace {

using recurra::Network;
using recurra::NetworkConfig;

int failed = 0;

// `work` must throw std::invalid_argument whose text begins with `start`.
void refused(const char* start, const std::function<void()>& work) {
  std::string got = "nothing";
  try {
    work();
  } catch (const std::invalid_argument& error) {
    got = error.what();
    if (got.compare(0, std::string(start).size(), start) == 0) return;
  }
  ++failed;
  std::printf("expected '%s...', got '%s'\n", start, got.c_str());
}

const recurra::CellInfo& cell_named(const std::string& name) {
  for (const recurra::CellInfo& cell : recurra::cells())
    if (cell.name == name) return cell;
  throw std::logic_error(name);
}

NetworkConfig small(const std::string& cell) {
  NetworkConfig config;
  config.cell = cell;
  config.input_size = 3, config.hidden_size = 4, config.output_size = cell_named(cell).projected ? 2 : 4;
  for (const auto& constant : cell_named(cell).constants) config.constants.push_back(constant.second);
  return config;
}

const std::vector<float> values(1024, 0.1f);

std::vector<std::vector<const float*>> given(const NetworkConfig& config) {
  const std::vector<const float*> lane(cell_named(config.cell).params.size(), values.data());
  return std::vector<std::vector<const float*>>(size_t(config.layers) * size_t(config.directions), lane);
}

void refused_config(const char* start, const std::function<void(NetworkConfig&)>& spoil, const char* cell = "lstm") {
  NetworkConfig config = small(cell);
  spoil(config);
  refused(start, [&] { Network<float>(config, given(small(cell))); });
}

void configs() {
  refused_config("cell", [](NetworkConfig& c) { c.cell = "nonesuch"; });
  for (const int64_t size : {int64_t(0), int64_t(-1), int64_t(INT_MAX) + 1, INT64_MIN}) {
    refused_config("input_size", [&](NetworkConfig& c) { c.input_size = size; });
    refused_config("hidden_size", [&](NetworkConfig& c) { c.hidden_size = size; });
    refused_config("output_size", [&](NetworkConfig& c) { c.output_size = size; });
  }
  refused_config("output_size", [](NetworkConfig& c) { c.output_size = 3; });
  refused_config("layers", [](NetworkConfig& c) { c.layers = 0; });
  refused_config("directions", [](NetworkConfig& c) { c.directions = 3; });
  refused_config(
      "directions * output_size", [](NetworkConfig& c) { c.output_size = INT_MAX, c.layers = c.directions = 2; },
      "lstm_projected");
  refused_config("constants", [](NetworkConfig& c) { c.constants.clear(); });
  refused_config("heads: expected 1 for cell 'lstm', which has none, got 2", [](NetworkConfig& c) { c.heads = 2; });
  for (const int64_t heads : {int64_t(0), int64_t(-2), int64_t(3), int64_t(8), INT64_MIN})
    refused_config("heads: expected a divisor of hidden_size=4", [&](NetworkConfig& c) { c.heads = heads; }, "slstm");
  refused_config("constants", [](NetworkConfig& c) { c.constants.push_back(1); }, "gru_general");
  refused_config("constants", [](NetworkConfig& c) { c.constants.insert(c.constants.end(), 7, 1.0); }, "gru_general");
  for (const double function : {-1.0, 0.5, 9.0, std::nan("")})
    refused_config("f", [&](NetworkConfig& c) { c.constants[1] = function; }, "gru_general");
  NetworkConfig both = small("gru_general");  // each direction may have its own
  both.directions = 2;
  both.constants.insert(both.constants.end(), both.constants.begin(), both.constants.begin() + 7);
  Network<float>(both, given(both));
  for (const double chance : {-0.1, 1.1, std::nan("")}) {
    refused_config("dropout", [&](NetworkConfig& c) { c.regularization.dropout = chance; });
    refused_config("recurrent_dropout", [&](NetworkConfig& c) { c.regularization.recurrent_dropout = chance; });
    for (const int state : {0, 1, 3})
      refused_config(("zoneout[" + std::to_string(state) + "]").c_str(),
                     [&](NetworkConfig& c) { c.regularization.zoneout[state] = chance; });
  }
  // Sums of int8 products are 32-bit integers.
  const auto int8 = [](const char* name, int64_t NetworkConfig::* size) {
    refused_config(name, [&](NetworkConfig& c) { c.precision = recurra::Precision::int8, c.*size = 133145; }, "lstm_projected");
  };
  int8("input_size: expected at most 133144 for int8", &NetworkConfig::input_size);
  int8("hidden_size: expected at most 133144 for int8", &NetworkConfig::hidden_size);
  int8("output_size: expected at most 133144 for int8", &NetworkConfig::output_size);
  refused_config(
      "directions * output_size: expected at most 133144 for int8",
      [](NetworkConfig& c) { c.precision = recurra::Precision::int8, c.output_size = 66573, c.layers = c.directions = 2; },
      "lstm_projected");
}

void parameters() {
  for (const recurra::CellInfo& cell : recurra::cells()) {
    const NetworkConfig config = small(cell.name);
    for (size_t i = 0; i < cell.params.size(); ++i) {
      auto params = given(config);
      params[0][i] = nullptr;
      if (cell.params[i].is_bias)
        Network<float>(config, params);
      else
        refused(cell.params[i].name.c_str(), [&] { Network<float>(config, params); });
    }
    auto params = given(config);
    params[0].pop_back();
    refused("params", [&] { Network<float>(config, params); });
    refused("params", [&] { Network<float>(config, {}); });
  }
}

void calls() {
  const NetworkConfig config = small("gru");
  const Network<float> network(config, given(config));
  std::vector<float> x(2 * 5 * 3), y(2 * 5 * 4), h(5 * 4);
  float* const final_states[] = {h.data()};
  const auto in = [&](int64_t steps, int64_t rows) { return recurra::Sequence<const float>{x.data(), steps, rows, 15, 3}; };
  const auto out = [&](int64_t steps, int64_t rows) { return recurra::Sequence<float>{y.data(), steps, rows, 20, 4}; };
  const auto forward = [&](recurra::Sequence<const float> from, recurra::Sequence<float> to, const int64_t* lengths) {
    return [=, &network, &final_states] { network.forward(from, nullptr, lengths, to, final_states); };
  };
  refused("layer", [&] { network.get_parameter(1, 0, y.data()); });
  for (const int i : {-1, 4}) refused("i:", [&] { network.get_parameter(0, i, y.data()); });
  refused("y", forward(in(2, 5), out(1, 5), nullptr));
  refused("y", forward(in(2, 5), out(2, 4), nullptr));
  refused("y", forward(in(-1, 5), out(-1, 5), nullptr));
  refused("rows", forward(in(2, -1), out(2, -1), nullptr));
  const int64_t too_long[] = {0, 3, 1, 2, 2}, negative[] = {0, 2, -1, 2, 2};
  refused("lengths", forward(in(2, 5), out(2, 5), too_long));
  refused("lengths", forward(in(2, 5), out(2, 5), negative));

  const auto tape = network.record(in(2, 5), nullptr, nullptr, out(2, 5), final_states, false, nullptr);
  std::vector<float> dx(x.size());
  const auto d_in = [&](int64_t steps, int64_t rows) { return recurra::Sequence<float>{dx.data(), steps, rows, 15, 3}; };
  const auto dy = [&](int64_t steps, int64_t rows) { return recurra::Sequence<const float>{y.data(), steps, rows, 20, 4}; };
  const std::vector<std::vector<float*>> none{std::vector<float*>(4)};
  refused("dy", [&] { tape.backward(dy(1, 5), nullptr, d_in(2, 5), nullptr, none, false); });
  refused("dx", [&] { tape.backward(dy(2, 5), nullptr, d_in(2, 4), nullptr, none, false); });
  refused("params", [&] { tape.backward(dy(2, 5), nullptr, d_in(2, 5), nullptr, {}, false); });
  refused("params", [&] { tape.backward(dy(2, 5), nullptr, d_in(2, 5), nullptr, {{nullptr}}, false); });
  tape.backward(dy(2, 5), nullptr, d_in(2, 5), nullptr, none, false);

  for (const int threads : {0, -1}) refused("threads", [&] { recurra::Stream<float>(network, 5, threads); });
  refused("rows", [&] { recurra::Stream<float>(network, -1); });
  recurra::Stream<float> stream(network, 5);
  refused("x", [&] { stream.run(in(2, 4), out(2, 4)); });
  refused("y", [&] { stream.run(in(2, 5), out(1, 5)); });
  for (const int64_t row : {int64_t(-1), int64_t(5)}) refused("rows", [&] { stream.reset(&row, 1); });
  stream.run(in(2, 5), out(2, 5));

  for (const int64_t size : {int64_t(-1), int64_t(INT_MAX) + 1}) {
    refused("inputs", [&] { recurra::Linear<float>(size, 1, values.data(), nullptr); });
    refused("outputs", [&] { recurra::Linear<float>(1, size, values.data(), nullptr); });
  }
  refused("weight", [] { recurra::Linear<float>(2, 3, nullptr, nullptr); });
  recurra::Linear<float>(0, 3, nullptr, nullptr);
  refused("num_threads", [] { recurra::set_num_threads(0); });
}

}  // namespace

int main() {
  configs();
  parameters();
  calls();
  std::printf("%d failed\n", failed);
  return failed ? 1 : 0;
}
