// The example at the top of cuda.h computes what its comments say: torch's LSTM, here on the CPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <list>
#include <map>
#include <random>

#include "cuda/device.h"
#include "recurra/cuda.h"

namespace {

std::mt19937 engine{1};
std::map<std::string, std::vector<float>> loaded;
std::list<recurra::cuda::Memory> memory;
void* const stream = nullptr;
bool same = false;

void* allocate(size_t bytes) {
  memory.emplace_back(recurra::cuda::Device::of(0), bytes);
  return memory.back().data();
}

float* to_device(const std::string& name) {
  static const std::map<std::string, int> sizes = {
      {"weight_ih_l0", 256 * 12}, {"weight_hh_l0", 256 * 64}, {"bias_ih_l0", 256}, {"bias_hh_l0", 256}, {"x", 100 * 8 * 12}};
  std::vector<float>& values = loaded[name];
  for (int i = 0; i < sizes.at(name); ++i) values.push_back(std::uniform_real_distribution<float>(-0.3f, 0.3f)(engine));
  float* to = static_cast<float*>(allocate(values.size() * sizeof(float)));
  const recurra::cuda::Current current(recurra::cuda::Device::of(0));
  recurra::cuda::check_driver(recurra::cuda::driver().cuMemcpyHtoD(reinterpret_cast<recurra::cuda::CUdeviceptr>(to),
                                                                   values.data(), values.size() * sizeof(float)),
                              "cuMemcpyHtoD");
  return to;
}

std::vector<float> from_device(const recurra::cuda::Array& array, size_t count) {
  std::vector<float> values(count);
  const recurra::cuda::Current current(recurra::cuda::Device::of(0));
  recurra::cuda::check_driver(
      recurra::cuda::driver().cuMemcpyDtoH(values.data(), reinterpret_cast<recurra::cuda::CUdeviceptr>(array.data),
                                           count * sizeof(float)),
      "cuMemcpyDtoH");
  return values;
}

void show(const recurra::cuda::Array& y, const recurra::cuda::Array& h, const recurra::cuda::Array& c) {
  recurra::NetworkConfig config;
  config.cell = "lstm";
  config.input_size = 12;
  config.hidden_size = config.output_size = 64;
  config.constants = {INFINITY};
  const recurra::Network<float> network(config, {{loaded["weight_ih_l0"].data(), loaded["weight_hh_l0"].data(),
                                                  loaded["bias_ih_l0"].data(), loaded["bias_hh_l0"].data()}});
  std::vector<float> wanted(100 * 8 * 64), wanted_h(8 * 64), wanted_c(8 * 64);
  float* const states[] = {wanted_h.data(), wanted_c.data()};
  network.forward({loaded["x"].data(), 100, 8, 8 * 12, 12}, nullptr, nullptr, {wanted.data(), 100, 8, 8 * 64, 64}, states);
  same = from_device(y, wanted.size()) == wanted && from_device(h, wanted_h.size()) == wanted_h &&
         from_device(c, wanted_c.size()) == wanted_c;
}

void run() {
#include "header_example.inc"
}

}  // namespace

int main() {
  run();
  memory.clear();  // not after the driver
  std::printf("the example %s\n", same ? "has the CPU's bits" : "FAILED");
  return !same;
}
