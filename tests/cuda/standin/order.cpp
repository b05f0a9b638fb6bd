// Work runs at once here, so what happens to come later on a GPU is told by clocks: two touches of an allocation, one of them a
// write, must be ordered by a stream, an event or a synchronisation. In one launch of a graph, two touches of a line of it.
#include <algorithm>

#include "standin.h"

namespace standin {
namespace {

// Of what a kernel touches only the pointers among its arguments are known: what changes near one of them has been written.
constexpr size_t window_bytes = 16 << 10;

// Lines around pointers of a kernel, and the bits of each `stride`.
struct Window {
  size_t begin, end, stride;
  std::vector<uint64_t> bits;
};
// What a work does with an allocation.
struct Done {
  bool writes = false;
  std::set<size_t> reads, written;  // lines, as far as is known, where they count
  std::vector<Window> windows;
};

size_t line_of(const Allocation& allocation, const char* pointer) { return size_t(pointer - allocation.data) / line_bytes; }

// use(line, the bits of it and those behind it)
template <class Use>
void each_stride(const Allocation& allocation, const Window& window, const Use& use) {
  for (size_t line = window.begin; line < window.end; line += window.stride) {
    const size_t at = line * line_bytes, end = std::min(line + window.stride, window.end) * line_bytes;
    use(line, hash_bytes(allocation.data + at, std::min(end, allocation.bytes) - at));
  }
}

void add_lines(std::set<size_t>& lines, const Allocation& allocation, const char* from, size_t bytes) {
  for (size_t line = line_of(allocation, from); line * line_bytes < size_t(from - allocation.data) + bytes; ++line)
    lines.insert(line);
}

void add(Done& done, const Allocation& allocation, const Touch& touch, bool lines) {
  const char* const pointer = static_cast<const char*>(touch.pointer);
  if (touch.access == Access::write) done.writes = true;
  const size_t bytes = touch.access == Access::unknown ? 1 : touch.bytes;
  if (lines) add_lines(touch.access == Access::write ? done.written : done.reads, allocation, pointer, bytes);
  if (touch.access != Access::unknown) return;
  const size_t at = size_t(pointer - allocation.data), end = std::min(at + window_bytes, allocation.bytes);
  done.windows.push_back({(at - std::min(at, window_bytes)) / line_bytes, (end + line_bytes - 1) / line_bytes, 1, {}});
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

struct Now {
  const Work& work;
  const Clock& clock;
  Stamp stamp;
};

CUresult check(const Now& now, const Allocation& allocation, bool line, const Stamp& earlier, const char* did) {
  const auto seen = now.clock.find(earlier.chain);
  if (earlier.chain < 0 || (seen != now.clock.end() && seen->second >= earlier.time)) return CUDA_SUCCESS;
  if (!line && now.stamp.launch && earlier.launch == now.stamp.launch) return CUDA_SUCCESS;  // lines tell
  return fail(CUDA_ERROR_LAUNCH_FAILED,
              now.work.what + " touches an allocation of " + std::to_string(allocation.bytes) + " bytes that " + *earlier.what +
                  " " + did + " on another stream, and nothing orders the two: an event or a synchronisation is missing");
}

// Whether all that was done to `touched` before is over for a read, or for a write.
CUresult check(const Now& now, const Allocation& allocation, bool line, const Touched& touched, bool writes) {
  if (const CUresult error = check(now, allocation, line, touched.written, "writes")) return error;
  for (const auto& [chain, stamp] : touched.read)
    if (const CUresult error = writes ? check(now, allocation, line, stamp, "reads") : CUDA_SUCCESS) return error;
  return CUDA_SUCCESS;
}

void stamp(Touched& touched, const Stamp& stamp, bool writes) {
  if (!writes) {
    touched.read[stamp.chain] = stamp;
    return;
  }
  touched.written = stamp;
  touched.read.clear();
}

// use(touched, whether it is a line, whether it is written)
template <class Use>
void each_touched(const Now& now, Allocation& allocation, const Done& done, const Use& use) {
  use(allocation, false, done.writes);
  if (!now.stamp.launch) return;
  if (allocation.launch != now.stamp.launch) allocation.launch = now.stamp.launch, allocation.lines.clear();
  for (size_t line : done.reads) use(allocation.lines[line], true, false);
  for (size_t line : done.written) use(allocation.lines[line], true, true);
}

CUresult check(const Now& now, Allocation& allocation, const Done& done) {
  CUresult result = CUDA_SUCCESS;
  each_touched(now, allocation, done, [&](const Touched& touched, bool line, bool writes) {
    if (!result) result = check(now, allocation, line, touched, writes);
  });
  return result;
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

CUresult perform(const Work& work, Clock& clock, int chain, uint64_t launch) {
  static uint64_t time = 0;
  clock[chain] = ++time;
  const Now now = {work, clock, {chain, time, std::make_shared<std::string>(work.what), launch}};

  std::map<Allocation*, Done> all;
  for (const Touch& touch : work.touches) {
    Allocation* const allocation = allocation_of(touch.pointer);
    if (!allocation) continue;
    if (allocation->ordinal != work.ordinal)
      return fail(CUDA_ERROR_ILLEGAL_ADDRESS, work.what + ": a pointer to memory of another GPU");
    add(all[allocation], *allocation, touch, launch);
  }
  for (auto& [allocation, done] : all) {
    merge(done.windows);
    for (Window& window : done.windows) {
      window.stride = launch ? 1 : window.end - window.begin;
      each_stride(*allocation, window, [&](size_t, uint64_t bits) { window.bits.push_back(bits); });
    }
    if (const CUresult error = check(now, *allocation, done)) return error;
  }

  CUresult result = work.run();

  for (auto& [allocation, done] : all) {
    for (const Window& window : done.windows)
      each_stride(*allocation, window, [&](size_t line, uint64_t bits) {
        if (bits != window.bits[(line - window.begin) / window.stride]) done.written.insert(line), done.writes = true;
      });
    if (!result) result = check(now, *allocation, done);
    each_touched(now, *allocation, done, [&](Touched& touched, bool, bool writes) { stamp(touched, now.stamp, writes); });
  }
  return result;
}

}  // namespace standin
