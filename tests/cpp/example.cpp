// The example at the top of the header computes what its comments say: torch's GRU and Linear, here in double from the
// equations.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "recurra/recurra.h"

namespace {

constexpr int kInput = 12, kHidden = 64, kOutput = 9, kFrames = 50;

std::mt19937 engine{1};
std::map<std::string, std::vector<float>> loaded;
std::vector<std::vector<float>> read, written;

std::vector<float> random_floats(int size) {
  std::vector<float> values(static_cast<size_t>(size));
  for (float& value : values) value = std::uniform_real_distribution<float>(-0.3f, 0.3f)(engine);
  return values;
}

std::vector<float> load(const std::string& name) {
  static const std::map<std::string, int> sizes = {{"weight_ih_l0", 3 * kHidden * kInput},
                                                   {"weight_hh_l0", 3 * kHidden * kHidden},
                                                   {"bias_ih_l0", 3 * kHidden},
                                                   {"bias_hh_l0", 3 * kHidden},
                                                   {"weight", kOutput * kHidden},
                                                   {"bias", kOutput}};
  return loaded[name] = random_floats(sizes.at(name));
}

bool read_frame(float (&x)[kInput]) {
  if (read.size() == kFrames) return false;
  read.push_back(random_floats(kInput));
  std::copy(read.back().begin(), read.back().end(), x);
  return true;
}

void write_frame(const float (&y)[kOutput]) { written.emplace_back(y, y + kOutput); }

void run() {
#include "header_example.inc"
}

// Row `row` of x W^T + b.
template <class T>
double affine(const std::vector<T>& x, const std::string& weight, const std::string& bias, size_t row) {
  double sum = loaded.at(bias)[row];
  for (size_t i = 0; i < x.size(); ++i) sum += double(loaded.at(weight)[row * x.size() + i]) * double(x[i]);
  return sum;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

std::vector<double> gru(const std::vector<float>& x, const std::vector<double>& h) {
  const auto in = [&](size_t row) { return affine(x, "weight_ih_l0", "bias_ih_l0", row); };
  const auto recurrent = [&](size_t row) { return affine(h, "weight_hh_l0", "bias_hh_l0", row); };
  std::vector<double> next(kHidden);
  for (size_t j = 0; j < kHidden; ++j) {
    const double r = sigmoid(in(j) + recurrent(j));
    const double z = sigmoid(in(j + kHidden) + recurrent(j + kHidden));
    const double n = std::tanh(in(j + 2 * kHidden) + r * recurrent(j + 2 * kHidden));
    next[j] = (1 - z) * n + z * h[j];
  }
  return next;
}

}  // namespace

int main() {
  run();
  std::vector<double> h(kHidden);
  double error = 0;
  for (size_t t = 0; t < written.size(); ++t) {
    h = gru(read[t], h);
    for (size_t j = 0; j < kOutput; ++j) error = std::fmax(error, std::fabs(written[t][j] - affine(h, "weight", "bias", j)));
  }
  std::printf("%zu frames, largest error %.1e\n", written.size(), error);
  return written.size() == kFrames && error < 1e-6 ? 0 : 1;
}
