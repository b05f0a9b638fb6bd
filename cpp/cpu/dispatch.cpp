// Which of the compiled instruction sets this process uses.
#if defined(__unix__)
#include <unistd.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "../engine/backend.h"
#include "recurra/recurra.h"

namespace recurra {

ptrdiff_t first_level_cache = 32 << 10, worth_prefetching = 64 << 20;

void left_out(const char* what) {
  throw std::invalid_argument(std::string(what) + ": left out when this library was built, by a RECURRA_ option of CMake");
}

#define RECURRA_DECLARE(isa)  \
  namespace isa {             \
  extern const Backend table; \
  }

// RECURRA_WITH_...: by CMakeLists.txt, for what it compiles.
#if defined(RECURRA_WITH_avx512)
RECURRA_DECLARE(avx512)
namespace avx512 {
extern const Backend table_bf16;
}
#endif
#if defined(RECURRA_WITH_avx2)
RECURRA_DECLARE(avx2)
#endif
#if defined(RECURRA_WITH_neon)
RECURRA_DECLARE(neon)
namespace neon {
extern const Backend table_dot, table_bf16;
}
#endif
#if defined(RECURRA_WITH_generic)
RECURRA_DECLARE(generic)
#endif

namespace {

struct Candidate {
  const Backend* backend;
  bool runs;
};

#if defined(RECURRA_WITH_neon)
// Linux says it by bits of two words, macOS by names.
#if defined(__linux__)
bool has_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }    // HWCAP_ASIMDDP
bool has_bf16() { return getauxval(AT_HWCAP2) >> 14 & 1; }  // HWCAP2_BF16
#elif defined(__APPLE__)
bool has(const char* feature) {
  int there = 0;
  size_t size = sizeof there;
  return sysctlbyname(feature, &there, &size, nullptr, 0) == 0 && there;
}
bool has_dot() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_bf16() { return has("hw.optional.arm.FEAT_BF16"); }
#else
bool has_dot() { return false; }
bool has_bf16() { return false; }
#endif
#endif

// Best first.
std::vector<Candidate> candidates() {
  std::vector<Candidate> all;
#if defined(__x86_64__)
  [[maybe_unused]] const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if defined(RECURRA_WITH_avx512)
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  all.push_back({&avx512::table_bf16, has_avx512 && __builtin_cpu_supports("avx512bf16")});
  all.push_back({&avx512::table, has_avx512});
  if (__builtin_cpu_is("intel")) std::swap(all[0], all[1]);  // whose vdpbf16ps is slow (bench/NOTES.md); the bits are the same
#endif
#if defined(RECURRA_WITH_avx2)
  all.push_back({&avx2::table, has_avx2});
#endif
#if defined(RECURRA_WITH_neon)
  all.push_back({&neon::table_bf16, has_dot() && has_bf16()});
  all.push_back({&neon::table_dot, has_dot()});
  all.push_back({&neon::table, true});
#endif
#if defined(RECURRA_WITH_generic)
  all.push_back({&generic::table, true});
#endif
  return all;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void look_at_processor() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("intel")) worth_prefetching = 16 << 20;  // bench/NOTES.md, "Prefetching the next tiles for a batch"
#endif
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  if (const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE); bytes > 0) first_level_cache = bytes;
#endif
}

const Backend& choose() {
  look_at_processor();
  const char* forced = std::getenv("RECURRA_ISA");
  for (const Candidate& c : candidates())
    if (c.runs && (!forced || !*forced || std::string(forced) == c.backend->name)) return *c.backend;
  throw std::runtime_error(std::string("RECURRA_ISA: expected an instruction set that this machine can run (") +
                           joined(available_isas()) + "), or nothing for the best of them, got '" + (forced ? forced : "") +
                           "'");
}

}  // namespace

const Backend& backend() {
  static const Backend& chosen = choose();
  return chosen;
}

std::string isa() { return backend().name; }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates())
    if (c.runs) names.push_back(c.backend->name);
  return names;
}

}  // namespace recurra
