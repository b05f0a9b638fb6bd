// Work runs at once here, so what happens to come later on a GPU is told by clocks: two touches of an allocation, one of them a
// write, must be ordered by a stream, an event or a synchronisation.
#include "standin.h"

namespace standin {
namespace {

// Of what a kernel touches only the pointers among its arguments are known. What changes near one of them has been written.
constexpr size_t window_bytes = 64 << 10;

struct Window {
  const char* data;
  size_t bytes;
  uint64_t hash;
};
struct Touched {
  Access access = Access::read;
  std::vector<Window> windows;
};

Window window_around(const char* pointer, const Allocation& allocation) {
  const size_t before = std::min(size_t(pointer - allocation.data), window_bytes);
  const size_t behind = std::min(size_t(allocation.data + allocation.bytes - pointer), window_bytes);
  return {pointer - before, before + behind, hash_bytes(pointer - before, before + behind)};
}

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
  for (const auto& [allocation, touched] : all) {
    if (const CUresult error = check(work, clock, *allocation, allocation->written, "writes")) return error;
    if (touched.access != Access::write) continue;
    if (const CUresult error = check_readers(work, clock, *allocation)) return error;
  }

  CUresult result = work.run();

  for (auto& [allocation, touched] : all) {
    for (const Window& window : touched.windows)
      if (hash_bytes(window.data, window.bytes) != window.hash) touched.access = Access::write;
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
