#include "memory.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "recurra/recurra.h"

namespace recurra {
namespace detail {

namespace {

constexpr size_t kCacheLine = 64, kHugePage = 2 << 20;

template <class T>
T* aligned(void* memory, size_t alignment) {
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(memory) + alignment - 1) / alignment * alignment);
}

std::atomic<size_t> most{SIZE_MAX}, taken{0};

class TooMuch : public std::bad_alloc {
 public:
  TooMuch(size_t bytes, size_t beside)
      : text_("needs " + std::to_string(bytes) + " bytes beside " + std::to_string(beside) + " that are taken, of " +
              std::to_string(most.load()) + " that there are") {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

}  // namespace

void limit_memory(size_t bytes) { most.store(bytes); }

Taken::Taken(size_t bytes) : bytes_(bytes) {
  if (!bytes || take()) return;
  SpareMemory::of_process().release();
  if (!take()) throw TooMuch(bytes, taken.load());
}

bool Taken::take() const {
  if (taken.fetch_add(bytes_) + bytes_ <= most.load()) return true;
  taken.fetch_sub(bytes_);
  return false;
}

Taken::~Taken() {
  if (bytes_) taken.fetch_sub(bytes_);
}

// mmap and calloc give memory that is known to be zero; an aligned allocation would have to be cleared.
template <class T>
Buffer<T>::Buffer(size_t count, bool zeroed) : size_(count) {
  if (count > (SIZE_MAX - kHugePage) / sizeof(T)) throw std::bad_alloc();
  const size_t bytes = count * sizeof(T);
  taken_ = Taken(bytes >= kHugePage ? bytes : 0);
#if defined(__linux__)
  if (bytes >= kHugePage) {
    const size_t mapped = bytes + kHugePage;
    void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = {memory, Free{mapped}};
    data_ = aligned<T>(memory, kHugePage);
    // Only a request: without huge pages everything works, with a page fault every 4 KB and more TLB misses.
    madvise(data_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
    return;
  }
#endif
  memory_.reset(zeroed ? std::calloc(bytes + kCacheLine, 1) : std::malloc(bytes + kCacheLine));
  if (!memory_) throw std::bad_alloc();
  data_ = aligned<T>(memory_.get(), kCacheLine);
}

template <class T>
void Buffer<T>::Free::operator()(void* p) const {
#if defined(__linux__)
  if (mapped) {
    munmap(p, mapped);
    return;
  }
#endif
  std::free(p);
}

SpareMemory& SpareMemory::of_process() {
  static SpareMemory* const store = new SpareMemory;
  return *store;
}

SpareMemory::SpareMemory() {
  blocks_.reserve(kMostBlocks + 1);
#if defined(__unix__) || defined(__APPLE__)
  // A child forked while another thread is using the store would find it locked for ever.
  pthread_atfork([] { of_process().mutex_.lock(); }, [] { of_process().mutex_.unlock(); },
                 [] { of_process().mutex_.unlock(); });
#endif
}

// The smallest block that is large enough, unless most of it would be unused: a stream holds its block as long as it lives.
Buffer<char> SpareMemory::take(size_t bytes) {
  std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock) return Buffer<char>(bytes);
  auto best = blocks_.end();
  for (auto block = blocks_.begin(); block != blocks_.end(); ++block)
    if (block->size() >= bytes && block->size() / 2 <= bytes && (best == blocks_.end() || block->size() < best->size()))
      best = block;
  if (best == blocks_.end()) {
    lock.unlock();
    return Buffer<char>(bytes);
  }
  Buffer<char> block = std::move(*best);
  blocks_.erase(best);
  return block;
}

void SpareMemory::give(Buffer<char> block) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock || !block.size() || block.size() > kMostBytes) return;
  blocks_.push_back(std::move(block));
  size_t all = 0;
  for (const Buffer<char>& kept : blocks_) all += kept.size();
  for (; all > kMostBytes || blocks_.size() > kMostBlocks; blocks_.erase(blocks_.begin())) all -= blocks_.front().size();
}

void SpareMemory::release() {
  std::vector<Buffer<char>> released;
  released.reserve(kMostBlocks + 1);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    released.swap(blocks_);
  }
}

template class Buffer<float>;
template class Buffer<double>;
template class Buffer<char>;

}  // namespace detail

void release_memory() {
  detail::SpareMemory::of_process().release();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace recurra
