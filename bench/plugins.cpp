// The other side of bench/plugins.py: opens shared libraries that have
//   extern "C" void (*plugin(const char *model))(const float *x, float *y, int samples);
// which gives a function for a model ("GRU-16"), or null, and runs it one sample a call.
//   plugins time MODEL LIBRARY...   nanoseconds a sample of each: medians of short rounds in turns
//   plugins memory MODEL [LIBRARY]  resident KiB after 1,000 samples
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

using Run = void (*)(const float*, float*, int);
constexpr int kBlock = 64, kRounds = 1001;
float x[kBlock], y[kBlock];

double now() { return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Run opened(const char* library, const char* model) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  auto* plugin = handle ? reinterpret_cast<Run (*)(const char*)>(dlsym(handle, "plugin")) : nullptr;
  if (!plugin) std::fprintf(stderr, "%s\n", dlerror());
  return plugin ? plugin(model) : nullptr;
}

void samples(Run run, int blocks) {
  for (int b = 0; b < blocks; ++b)
    for (int i = 0; i < kBlock; ++i) run(x + i, y + i, 1);
}

// A round is 30 microseconds or so: what disturbs one contestant disturbs the others.
void measure(const std::vector<Run>& all) {
  std::vector<std::vector<double>> times(all.size());
  for (const Run run : all)
    if (run) samples(run, 100);
  for (int round = 0; round < kRounds; ++round)
    for (size_t i = 0; i < all.size(); ++i) {
      if (!all[i]) continue;
      samples(all[i], 1);
      const double start = now();
      samples(all[i], 4);
      times[i].push_back((now() - start) / (4 * kBlock));
    }
  for (auto& each : times) {
    std::sort(each.begin(), each.end());
    std::printf("%.1f\n", each.empty() ? 0.0 : each[kRounds / 2]);
  }
}

long resident() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::stol(line.substr(6));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
#if defined(__SSE__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zero, as hosts of plug-ins have it
#endif
  for (int i = 0; i < kBlock; ++i) x[i] = std::sin(0.3f * float(i));
  std::vector<Run> all;
  for (int i = 3; i < count; ++i) all.push_back(opened(arguments[i], arguments[2]));
  if (std::strcmp(arguments[1], "time") == 0) return measure(all), 0;
  for (const Run run : all)
    if (run) samples(run, 16);
  std::printf("%ld\n", resident());
}
