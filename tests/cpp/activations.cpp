// Tries sigmoid and tanh on every float32, 2^32 of them, softplus and exp - 1 on every 16th vector of them, and all on a sample
// of doubles, where subnormal numbers count as zero. Built once per instruction set.
//
//   activations_avx2 avx2           looks whether the results of each function have the hash that is known of them, the same on
//                                   every instruction set with FMA; a new one is a failure, and is compared as below
//   activations_avx2 avx2 compare   compares with the C library in double precision, and fails beyond 2 ulp
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../../cpp/engine/backend.h"

namespace {
#include "../../cpp/cpu/simd.h"
//
#include "../../cpp/cpu/math.h"
}  // namespace

#include "bits.h"
#include "recurra/recurra.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

double true_sigmoid(double x) { return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x)); }
long double true_sigmoid_long(double x) {
  const long double e = std::exp(-std::fabs((long double)x));
  return x < 0 ? e / (1 + e) : 1 / (1 + e);
}

struct Function {
  const char* name;
  Vec<float> (*f32)(Vec<float>);
  Vec<double> (*f64)(Vec<double>);
  double (*truth)(double);
  long double (*long_truth)(double);
  double ulps;       // allowed
  uint64_t fused;    // hash of the float32 results with fused multiply-add, which were compared
  uint64_t generic;  // and without
  uint64_t every = 1;
};

double true_softplus(double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }
long double true_softplus_long(double x) {
  return std::fmax((long double)x, 0) + std::log1p(std::exp(-std::fabs((long double)x)));
}
template <class T>
Vec<T> expm1_where_below(Vec<T> x) {
  return expm1_below(min(Vec<T>(0), x));
}

const Function functions[] = {
    {"sigmoid", [](Vec<float> x) { return sigmoid(x); }, [](Vec<double> x) { return sigmoid(x); }, true_sigmoid,
     true_sigmoid_long, 2, 0xd363c7b5d16e2631, 0xd363b53685779afd},
    {"tanh", [](Vec<float> x) { return tanh(x); }, [](Vec<double> x) { return tanh(x); }, [](double x) { return std::tanh(x); },
     [](double x) { return std::tanh((long double)x); }, 2, 0x7daa32125624c6ee, 0x7db271fb95b3e0b4},
    {"softplus", [](Vec<float> x) { return softplus(x); }, [](Vec<double> x) { return softplus(x); }, true_softplus,
     true_softplus_long, 2, 0x7280ad61f34386e7, 0x728151965b577209, 16},
    {"expm1", expm1_where_below<float>, expm1_where_below<double>, [](double x) { return std::expm1(std::fmin(x, 0)); },
     [](double x) { return std::expm1(std::fmin((long double)x, 0)); }, 2, 0xed09b92a3057f7dc, 0xed09b7018ecc02ee, 16},
};

// The unit in the last place of a float of this size.
double float_ulp(double size) {
  uint64_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  const int64_t exponent = std::max<int64_t>(int64_t(bits >> 52 & 0x7ff) - 23, 1023 - 149);
  bits = uint64_t(exponent) << 52;
  std::memcpy(&size, &bits, sizeof size);
  return size;
}

long double double_ulp(long double size) {
  int exponent = 0;
  std::frexp(size, &exponent);
  return std::ldexp(1.0L, std::max(exponent - 53, -1074));
}

struct Worst {
  double ulps = 0;
  double at = 0;
  void merge(const Worst& other) {
    if (other.ulps > ulps) *this = other;
  }
};

struct Bits {
  uint64_t hash = 0;
  uint64_t wrong_nans = 0;
  void merge(const Bits& other) {
    hash += other.hash;
    wrong_nans += other.wrong_nans;
  }
};

// What a true value counts as: zero when it is smaller than any normal number.
template <class T>
T counted(T truth, T smallest) {
  return std::fabs(truth) < smallest ? 0 : truth;
}

// Calls visit(bits of the first input, inputs, results) for each vector of a range.
template <class Visit>
void each_vector(const Function& function, uint64_t begin, uint64_t end, Visit visit) {
  const recurra::Environment environment(recurra::backend());
  constexpr int lanes = Vec<float>::lanes;
  float in[lanes], out[lanes];
  for (uint64_t bits = begin; bits < end; bits += lanes) {
    if (bits / 16 % function.every) continue;  // vectors have 4 to 16 lanes
    for (int i = 0; i < lanes; ++i) in[i] = as_float(uint32_t(bits + i));
    function.f32(Vec<float>::load(in)).store(out);
    visit(bits, in, out);
  }
}

Bits bits_of_range(const Function& function, uint64_t begin, uint64_t end) {
  Bits range;
  each_vector(function, begin, end, [&](uint64_t bits, const float* in, const float* out) {
    for (int i = 0; i < Vec<float>::lanes; ++i)
      if (std::isnan(in[i]))
        range.wrong_nans += !std::isnan(out[i]);  // a NaN's payload may differ between machines
      else
        range.hash += (uint64_t(as_bits(out[i])) + 1) * (2 * (bits + i) + 1);
  });
  return range;
}

Worst worst_of_range(const Function& function, uint64_t begin, uint64_t end) {
  Worst worst;
  each_vector(function, begin, end, [&](uint64_t, const float* in, const float* out) {
    for (int i = 0; i < Vec<float>::lanes; ++i) {
      if (std::isnan(in[i])) continue;
      const double truth = counted(function.truth(double(in[i])), 0x1p-126);
      const double error = double(out[i]) == truth ? 0 : std::fabs(double(out[i]) - truth) / float_ulp(std::fabs(truth));
      if (!(error <= worst.ulps)) worst = {std::isnan(error) ? INFINITY : error, in[i]};
    }
  });
  return worst;
}

// Of all 2^32 inputs, by as many threads as there are CPUs.
template <class Result>
Result of_all(const Function& function, Result (*of_range)(const Function&, uint64_t, uint64_t)) {
  const int workers = std::max(1u, std::thread::hardware_concurrency());
  constexpr uint64_t all = uint64_t(1) << 32, piece = uint64_t(1) << 22;
  std::vector<Result> results(workers);
  std::vector<std::thread> threads;
  for (int w = 0; w < workers; ++w)
    threads.emplace_back([&, w] {
      for (uint64_t begin = w * piece; begin < all; begin += workers * piece)
        results[w].merge(of_range(function, begin, begin + piece));
    });
  Result result;
  for (int w = 0; w < workers; ++w) {
    threads[w].join();
    result.merge(results[w]);
  }
  return result;
}

Worst try_doubles(const Function& function) {
  const recurra::Environment environment(recurra::backend());
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-40, 10);
  Worst worst;
  double in[Vec<double>::lanes], out[Vec<double>::lanes];
  for (int n = 0; n < 4000000; n += Vec<double>::lanes) {
    for (double& x : in)
      x = std::ldexp(1 + std::generate_canonical<double, 53>(random), int(exponent(random))) * (random() & 1 ? 1 : -1);
    function.f64(Vec<double>::load(in)).store(out);
    for (int i = 0; i < Vec<double>::lanes; ++i) {
      const long double truth = counted(function.long_truth(in[i]), 0x1p-1022L);
      const double error = double(std::fabs(out[i] - truth) / double_ulp(std::fabs(truth)));
      if (!(error <= worst.ulps)) worst = {error, in[i]};
    }
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string isa = argc > 1 ? argv[1] : "";
  const std::vector<std::string> runnable = recurra::available_isas();
  if (std::find(runnable.begin(), runnable.end(), isa) == runnable.end()) {
    std::printf("skipped: this machine cannot run '%s'\n", isa.c_str());
    return 77;
  }
  const bool compare = argc > 2 && argv[2] == std::string("compare");
  bool good = true;
  for (const Function& function : functions) {
    const Bits found = of_all(function, bits_of_range);
    const bool known = found.hash == (isa == "generic" ? function.generic : function.fused);
    std::printf("%-8s float32: one in %d of all 2^32 inputs, %llu NaN lost, hash %016llx, which is %s;", function.name,
                int(function.every), (unsigned long long)found.wrong_nans, (unsigned long long)found.hash,
                known ? "known" : "new");
    // The generic build may contract or not, by processor: its bits may be others.
    good = good && found.wrong_nans == 0 && (known || isa == "generic");
    if (compare || !known) {
      const Worst worst = of_all(function, worst_of_range);
      std::printf(" worst %.3f ulp at %.9g;", worst.ulps, worst.at);
      good = good && worst.ulps <= function.ulps;
    }
    const Worst doubles = try_doubles(function);
    std::printf(" float64: sample, worst %.3f ulp at %.17g\n", doubles.ulps, doubles.at);
    good = good && doubles.ulps <= function.ulps;
  }
  return good ? 0 : 1;
}
