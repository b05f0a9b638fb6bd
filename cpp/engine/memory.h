// Blocks of memory: weights, workspaces, tapes; and those that calls have left behind.
#pragma once
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace recurra {
namespace detail {

// What all blocks of 2 MB and more may take together; unlimited at first. Linux promises memory that does not exist and kills
// the process that tries to use it: with a limit, a call that is too large fails before it has written anything.
void limit_memory(size_t bytes);

// Bytes that count as taken as long as it lives; std::bad_alloc beyond the limit, when releasing spare memory was not enough.
class Taken {
 public:
  Taken() = default;
  explicit Taken(size_t bytes);
  Taken(Taken&& other) noexcept : bytes_(std::exchange(other.bytes_, 0)) {}
  Taken& operator=(Taken&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Taken();

 private:
  bool take() const;
  size_t bytes_ = 0;
};

// Memory aligned to cache lines and, from 2 MB on, to huge pages, which it requests: a step of LSTM H = 1024 takes two thirds
// of the time (bench/NOTES.md). Zeroed, unless the caller promises to do it.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count, bool zeroed = true);
  T* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  struct Free {
    size_t mapped = 0;  // bytes that mmap gave; 0 for calloc's
    void operator()(void* p) const;
  };
  Taken taken_;
  std::unique_ptr<void, Free> memory_;
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Memory of calls that are over, for those to come: fresh memory costs a page fault every 4 KB, which is a third of the time of
// a batch of 32 at H = 64 (bench/NOTES.md). One store for the process, so that what is kept does not grow with the number of
// layers. Calls do not wait for each other here: a thread that finds the store in use allocates for itself.
class SpareMemory {
 public:
  static SpareMemory& of_process();  // never destroyed: layers may outlive any static object

  Buffer<char> take(size_t bytes);
  void give(Buffer<char> block);
  void release();  // all that is kept, to the system

 private:
  SpareMemory();
  // Of all blocks; the oldest go first. With 64 MiB a training whose tapes took 79 MiB lost 4 to 8 %.
  static constexpr size_t kMostBytes = 128 << 20;
  static constexpr size_t kMostBlocks = 64;
  std::mutex mutex_;
  std::vector<Buffer<char>> blocks_;
};

}  // namespace detail
}  // namespace recurra
