// vdpbf16ps, and bfmlalt and bfmlalb on ARM, against what engine/ takes them for: two fused multiply-adds, the upper pair's
// first, under the engine's floating-point environment. Random numbers whose exponents lie together, anywhere, or where sums
// and products underflow.
#if defined(__x86_64__)
#include <immintrin.h>
#else
#include <arm_neon.h>
#endif

#include "../../cpp/engine/backend.h"

namespace {
#include "../../cpp/cpu/simd.h"
}  // namespace

#include "bits.h"
#include "recurra/recurra.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <string>

namespace {

#if defined(__x86_64__)
constexpr char kName[] = "avx512bf16";
#else
constexpr char kName[] = "neonbf16";
#endif
constexpr int kTrials = 300000;

struct Exponents {
  int low, high;
};

struct Mix {
  const char* name;
  Exponents x, w, sum;
};

const Mix mixes[] = {
    {"together", {120, 127}, {120, 127}, {118, 133}},
    {"anywhere, without infinity and NaN", {0, 254}, {0, 254}, {0, 254}},
    {"underflowing sums", {40, 103}, {20, 83}, {0, 64}},
    {"at the smallest numbers", {60, 67}, {57, 72}, {0, 8}},
};

uint32_t draw(std::mt19937& random, Exponents e) {
  return (random() & 0x807fffff) | uint32_t(e.low + int(random() % uint32_t(e.high - e.low + 1))) << 23;
}

uint64_t differing(const Mix& mix, std::mt19937& random) {
  constexpr int lanes = Vec<float>::lanes;
  uint64_t found = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const uint32_t x = draw(random, mix.x) >> 16 | (draw(random, mix.x) & 0xffff0000);
    float w[lanes], sum[lanes], dot[lanes];
    for (int i = 0; i < lanes; ++i) {
      w[i] = as_float(draw(random, mix.w) >> 16 | (draw(random, mix.w) & 0xffff0000));
      sum[i] = as_float(draw(random, mix.sum));
    }
    fma(TwoHalves(int(x)), Vec<float>::load(w), Vec<float>::load(sum)).store(dot);
    for (int i = 0; i < lanes; ++i) {
      const uint32_t pair = as_bits(w[i]);
      const float upper = std::fma(as_float(x & 0xffff0000), as_float(pair & 0xffff0000), sum[i]);
      const float both = std::fma(as_float(x << 16), as_float(pair << 16), upper);
      found += std::isnan(both) ? !std::isnan(dot[i]) : as_bits(both) != as_bits(dot[i]);
    }
  }
  return found;
}

}  // namespace

int main() {
  const auto available = recurra::available_isas();
  if (std::find(available.begin(), available.end(), kName) == available.end()) {
    std::printf("skipped: this machine has no %s\n", kName);
    return 77;
  }
  const recurra::Environment environment(recurra::backend());
  std::mt19937 random(1);
  uint64_t all = 0;
  for (const Mix& mix : mixes) {
    const uint64_t found = differing(mix, random);
    std::printf("%s: %llu of %d differ\n", mix.name, (unsigned long long)found, kTrials * Vec<float>::lanes);
    all += found;
  }
  return all ? 1 : 0;
}
