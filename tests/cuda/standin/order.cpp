// Work runs at once here, so what happens to come later on a GPU is told by clocks: two touches of an allocation, one of them a
// write, must be ordered by a stream, an event or a synchronisation.
#include <algorithm>

#include "standin.h"

namespace standin {
namespace {

// Of what a kernel touches only the pointers among its arguments are known: what changes near one of them has been written.
constexpr size_t window_bytes = 16 << 10;

struct Window {
  const char *begin, *end;
  uint64_t hash;
};
struct Touched {
  Access access = Access::read;
  std::vector<Window> windows;
};

Window window_around(const char* pointer, const Allocation& allocation) {
  const size_t before = std::min(size_t(pointer - allocation.data), window_bytes);
  const size_t behind = std::min(size_t(allocation.data + allocation.bytes - pointer), window_bytes);
  return {pointer - before, pointer + behind, 0};
}

void merge(std::vector<Window>& windows) {
  std::sort(windows.begin(), windows.end(), [](const Window& a, const Window& b) { return a.begin < b.begin; });
  std::vector<Window> merged;
  for (const Window& window : windows) {
    if (merged.empty() || merged.back().end < window.begin)
      merged.push_back(window);
    else
      merged.back().end = std::max(merged.back().end, window.end);
  }
  windows = std::move(merged);
}

uint64_t hash(const Window& window) { return hash_bytes(window.begin, size_t(window.end - window.begin)); }

CUresult check(const Work& work, const Clock& clock, const Allocation& allocation, const Stamp& earlier, const char* did) {
  const auto seen = clock.find(earlier.chain);
  if (earlier.chain < 0 || (seen != clock.end() && seen->second >= earlier.time)) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_LAUNCH_FAILED,
              work.what + " touches an allocation of " + std::to_string(allocation.bytes) + " bytes that " + earlier.what +
                  " " + did + " on another stream, and nothing orders the two: an event or a synchronisation is missing");
}

CUresult check_readers(const Work& work, const Clock& clock, const Allocation& allocation) {
  for (const auto& [chain, stamp] : allocation.read)
    if (const CUresult error = check(work, clock, allocation, stamp, "reads")) return error;
  return CUDA_SUCCESS;
}

}  // namespace

void join(Clock& clock, const Clock& other) {
  for (const auto& [chain, time] : other) {
    uint64_t& mine = clock[chain];
    mine = std::max(mine, time);
  }
}

int new_chain() {
  static int chains = 0;
  return chains++;
}

CUresult perform(const Work& work, Clock& clock, int chain) {
  static uint64_t time = 0;
  clock[chain] = ++time;

  std::map<Allocation*, Touched> all;
  for (const Touch& touch : work.touches) {
    Allocation* const allocation = allocation_of(touch.pointer);
    if (!allocation) continue;
    if (allocation->ordinal != work.ordinal)
      return fail(CUDA_ERROR_ILLEGAL_ADDRESS, work.what + ": a pointer to memory of another GPU");
    Touched& touched = all[allocation];
    if (touch.access == Access::write) touched.access = Access::write;
    if (touch.access == Access::unknown)
      touched.windows.push_back(window_around(static_cast<const char*>(touch.pointer), *allocation));
  }
  for (auto& [allocation, touched] : all) {
    merge(touched.windows);
    for (Window& window : touched.windows) window.hash = hash(window);
    if (const CUresult error = check(work, clock, *allocation, allocation->written, "writes")) return error;
    if (touched.access != Access::write) continue;
    if (const CUresult error = check_readers(work, clock, *allocation)) return error;
  }

  CUresult result = work.run();

  for (auto& [allocation, touched] : all) {
    for (const Window& window : touched.windows)
      if (hash(window) != window.hash) touched.access = Access::write;
    if (touched.access == Access::write) {
      if (!result) result = check_readers(work, clock, *allocation);
      allocation->written = {chain, time, work.what};
      allocation->read.clear();
    } else {
      allocation->read[chain] = {chain, time, work.what};
    }
  }
  return result;
}

}  // namespace standin
