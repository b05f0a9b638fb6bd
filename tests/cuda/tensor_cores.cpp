// Random networks of 16-bit numbers on a GPU, or its stand-in: all steps of a layer in one launch by the tensor cores beside
// the same network step by step, forward and, from the same tape, backward. tensor_cores [trials] [cells]: food for the
// sanitizers. Where the stand-in gives a block little shared memory (RECURRA_STANDIN_SHARED_BYTES), clusters or grids walk.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "engine/model.h"
#include "recurra/cuda.h"
#include "trials.h"

namespace cuda = recurra::cuda;

namespace {

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

uint32_t bits_of(float value, cuda::Number number) {
  if (number == cuda::Number::f16) return bits_as<uint16_t>(_Float16(value));
  return number == cuda::Number::bf16 ? bits_as<uint32_t>(value) >> 16 : bits_as<uint32_t>(value);
}
float value_of(uint32_t bits, cuda::Number number) {
  if (number == cuda::Number::f16) return float(bits_as<_Float16>(uint16_t(bits)));
  return bits_as<float>(number == cuda::Number::bf16 ? bits << 16 : bits);
}

// Random numbers in device memory: floats, or of 16 bits.
class Numbers {
 public:
  Numbers(int64_t count, cuda::Number number, double scale) : number_(number), count_(size_t(count)) {
    std::vector<char> all(count_ * size());
    for (size_t i = 0; i < count_; ++i) {
      const uint32_t bits = bits_of(float((double(generator() >> 11) * 0x1p-52 - 1) * scale), number);
      std::memcpy(all.data() + i * size(), &bits, size());  // the low bytes of it
    }
    memory_ = cuda::Memory(cuda::Device::of(0), std::max<size_t>(all.size(), 1));
    cuda::write(cuda::Device::of(0), all.data(), memory_.data(), all.size());
  }
  void* data() const { return memory_.data(); }
  std::vector<float> read() const {
    std::vector<char> all(count_ * size());
    cuda::read(cuda::Device::of(0), memory_.data(), all.data(), all.size());
    std::vector<float> values(count_);
    for (size_t i = 0; i < count_; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, all.data() + i * size(), size());
      values[i] = value_of(bits, number_);
    }
    return values;
  }

 private:
  size_t size() const { return number_ == cuda::Number::f32 ? 4 : 2; }
  cuda::Number number_;
  size_t count_;
  cuda::Memory memory_;
};

void trial(const recurra::CellInfo& cell, cuda::Number number, bool wide) {
  recurra::NetworkConfig config;
  config.cell = cell.name;
  config.input_size = draw(1, 9);
  config.hidden_size = wide ? draw(130, 150) : draw(2, 40);  // more weights than registers hold
  config.output_size = cell.projected ? draw(1, config.hidden_size - 1) : config.hidden_size;
  config.layers = int(draw(1, 2));
  config.directions = int(draw(1, 2));
  const bool forward_fits = fits(config, number, cuda::Way::forward), back_fits = fits(config, number, cuda::Way::backward);
  if (!forward_fits && !back_fits) return;
  for (const auto& [name, value] : cell.constants) config.constants.push_back(value);
  if (draw(0, 1)) config.regularization = {0.3, cell.recurrent_product ? 0.2 : 0, {0.1, 0.2, 0.2, 0.3}};
  const int64_t steps = wide ? 2 : draw(0, 5), rows = draw(1, wide ? 9 : 18), outputs = config.directions * config.output_size;
  const uint64_t seed = 5;
  std::vector<int64_t> lengths;
  for (int64_t r = 0; r < rows && steps % 2; ++r) lengths.push_back(draw(0, steps));
  const bool training = draw(0, 2), recompute = training && draw(0, 2) == 0, cells = training && cell.states.size() > 1;
  const double clip = draw(0, 1) ? 0.3 : 1e30;

  const auto width = [&](const std::string& axis, int layer) {
    if (axis == "input") return layer ? outputs : config.input_size;
    return axis == "one" ? 1 : axis == "hidden" ? config.hidden_size : config.output_size;
  };
  std::vector<Numbers> params, initial, ends, tapes;
  std::vector<std::vector<const void*>> given;
  std::vector<std::vector<int64_t>> sizes;
  const int lanes = config.layers * config.directions;
  params.reserve(size_t(lanes) * cell.params.size());
  for (int lane = 0; lane < lanes; ++lane) {
    given.emplace_back(), sizes.emplace_back();
    for (const auto& param : cell.params) {
      const int64_t columns = width(param.cols, lane / config.directions);
      sizes.back().push_back(param.blocks * width(param.rows, 0) * columns);
      params.emplace_back(sizes.back().back(), cuda::Number::f32, std::min(0.7, 1.5 / std::sqrt(double(columns))));
      given.back().push_back(params.back().data());
    }
  }
  const int64_t wide_row = config.directions * config.hidden_size;
  const Numbers x(steps * rows * config.input_size, number, 1), y(steps * rows * outputs, number, 1),
      dy(steps * rows * outputs, number, 1), d_cells(steps * rows * wide_row, number, 1);
  std::vector<cuda::Array> from, to;
  for (const auto& [name, axis] : cell.states) {
    const int64_t size = width(axis, 0), count = lanes * rows * size;
    initial.emplace_back(count, number, 1), ends.emplace_back(count, number, 1);
    from.push_back({initial.back().data(), rows * size, size}), to.push_back({ends.back().data(), rows * size, size});
  }

  std::vector<float> found[2];
  size_t count = 0;  // of these, outputs and states: gradients come after them, with more roundings on their way
  for (const bool resident : {false, true}) {
    cuda::Options options;
    options.number = number;
    options.engine = cuda::Engine::cublas;
    options.walk = resident ? cuda::Walk::resident : cuda::Walk::automatic;
    cuda::Network network(config, options);
    network.set_parameters(given, nullptr);
    const cuda::Plan plan =
        network.plan(steps, rows, {lengths.empty() ? nullptr : lengths.data(), false, training, recompute, false, cells});
    const bool some = lengths.empty() ? steps > 0 : *std::max_element(lengths.begin(), lengths.end()) > 0;
    const auto told = [&](const char* what) { return plan.explain().find(what) != std::string::npos; };
    shared += told("rows a cluster") || told("rows a grid");
    const bool walks = resident && some;
    if (told("cublas, resident") != (walks && forward_fits) || told("backward, resident") != (walks && training && back_fits)) {
      ++failures;
      std::printf("FAILED %s: %s\n", config.cell.c_str(), plan.explain().c_str());
    }
    const Numbers workspace(int64_t(plan.workspace_bytes() / 4 + 1), cuda::Number::f32, NAN),
        back(int64_t(plan.backward_workspace_bytes() / 4 + 1), cuda::Number::f32, NAN);
    tapes.emplace_back(int64_t(plan.tape_bytes() / 4 + 1), cuda::Number::f32, NAN);
    network.forward(plan, {x.data(), rows * config.input_size, config.input_size}, from.data(), nullptr,
                    {y.data(), rows * outputs, outputs}, to.data(), training ? &seed : nullptr,
                    training ? tapes.back().data() : nullptr, workspace.data(), nullptr);
    const auto find = [&](const Numbers& each) {
      const std::vector<float> one = each.read();
      found[resident].insert(found[resident].end(), one.begin(), one.end());
    };
    find(y);
    for (const Numbers& each : ends) find(each);
    count = found[resident].size();
    if (!training) continue;
    const Numbers dx(steps * rows * config.input_size, number, 1);
    std::vector<Numbers> made;
    std::vector<std::vector<void*>> all;
    for (const auto& lane : sizes) {
      all.emplace_back();
      for (const int64_t size : lane) all.back().push_back(made.emplace_back(size, cuda::Number::f32, 1).data());
    }
    std::vector<cuda::Array> d_initial;
    for (const cuda::Array& each : from)
      d_initial.push_back({made.emplace_back(lanes * each.outer, number, 1).data(), each.outer, each.row});
    network.backward(plan, {dy.data(), rows * outputs, outputs}, from.data(),
                     {dx.data(), rows * config.input_size, config.input_size}, d_initial.data(), all, false, true,
                     tapes.front().data(), back.data(), nullptr, nullptr,
                     {cells ? d_cells.data() : nullptr, rows * wide_row, wide_row}, clip);
    find(dx);
    for (const Numbers& each : made) find(each);
  }
  double worst = 0;
  for (size_t i = 0; i < found[0].size(); ++i) {
    const double off =
        std::fabs(double(found[1][i]) - double(found[0][i])) / (1 + std::fabs(double(found[0][i]))) / (i < count ? 1 : 4);
    if (!(off <= worst) && !std::isnan(worst)) worst = off;  // NaN is the worst
  }
  if (worst <= (number == cuda::Number::f16 ? 0x1p-10 : 0x1p-7)) return;
  ++failures;
  std::printf("FAILED %s: off by %g (T=%ld B=%ld I=%ld H=%ld L=%d D=%d)\n", config.cell.c_str(), worst, long(steps), long(rows),
              long(config.input_size), long(config.hidden_size), config.layers, config.directions);
}

}  // namespace

int main(int count, char** arguments) {
  const int trials = count > 1 ? std::atoi(arguments[1]) : 3;
  const std::vector<std::string> names(arguments + std::min(count, 2), arguments + count);
  const int enough = std::getenv("RECURRA_STANDIN_FAULT") ? 1 : 20;  // failures
  int done = 0;
  for (const recurra::CellInfo& cell : recurra::cells()) {
    if (std::find(names.begin(), names.end(), cell.name) == names.end()) continue;
    for (int i = 0; i < trials && failures < enough; ++i, ++done)
      trial(cell, cell.projected ? cuda::Number::bf16 : cuda::Number::f16, i % 8 == 1);
  }
  if (little_memory && !shared) ++failures, std::printf("no blocks that share\n");
  std::printf("%s: %d trials, %d failed\n", cuda::Device::of(0).name.c_str(), done, failures);
  return failures != 0;
}
