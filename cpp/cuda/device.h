// GPUs: their contexts, memory that this package owns, launches.
#pragma once
#include <memory>
#include <string>

#include "library.h"

namespace recurra {
namespace cuda {

// One for each GPU of the process, made at first use and kept. Its primary context, which CuPy and PyTorch use too.
class Device {
 public:
  static const Device& of(int ordinal);  // std::invalid_argument when there is no such GPU
  static int count();                    // 0 without a driver or GPU
  static constexpr int most = 64;

  int ordinal = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  int shared_bytes = 0;  // that a block may have
  CUcontext context = nullptr;
};

// Between construction and destruction the device's context is this thread's current one.
class Current {
 public:
  explicit Current(const Device& device);
  ~Current();
  Current(const Current&) = delete;
};

// As long as it lives this thread may allocate, free and instantiate although it or another thread is capturing a stream; else
// the driver would refuse and end the capture. For what has nothing to do with a capture.
class Relaxed {
 public:
  Relaxed();
  ~Relaxed();
  Relaxed(const Relaxed&) = delete;

 private:
  int mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;  // then the thread's own
};

// For destructors, which Python may run in the middle of a capture: free(), with the context current. Without effect in a
// forked child, whose parent frees it, and when the driver has shut down at exit.
template <class Free>
void release(const Device& device, Free&& free) noexcept {
  try {
    const Current current(device);
    const Relaxed relaxed;
    free();
  } catch (const std::exception&) {
  }
}

// Device memory of our own: weights, states of streams. Allocated and freed synchronously, so never inside a call.
class Memory {
 public:
  Memory() = default;
  Memory(const Device& device, size_t bytes);  // std::bad_alloc when the GPU has no room
  ~Memory();
  Memory(Memory&&) noexcept;
  Memory& operator=(Memory&&) noexcept;
  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  const Device* device_ = nullptr;
  char* data_ = nullptr;
  size_t size_ = 0;
};

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

// Launches a kernel, which takes one struct by value.
template <class Arguments>
void launch(CUfunction kernel, Grid grid, Grid block, CUstream stream, const Arguments& arguments, unsigned shared_bytes = 0) {
  void* parameters[] = {const_cast<Arguments*>(&arguments)};
  check_driver(driver().cuLaunchKernel(kernel, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared_bytes, stream,
                                       parameters, nullptr),
               "cuLaunchKernel");
}

// A launch of which blocks run at the same time, those along z as a cluster or all of them as a cooperative grid, which the
// driver begins when it has room for all: it must not be copied.
struct JointLaunch {
  CUlaunchAttribute attribute{};
  CUlaunchConfig config{};
  JointLaunch(Grid grid, unsigned threads, unsigned shared_bytes, CUstream stream, bool cooperative);
  JointLaunch(const JointLaunch&) = delete;
  void run(CUfunction kernel, const void* arguments) const;
};

// How many clusters, or blocks of a cooperative grid, the current GPU has room for at the same time.
int room_for_clusters(CUfunction kernel, unsigned blocks, unsigned threads, unsigned shared_bytes);
int room_for_blocks(const Device& device, CUfunction kernel, unsigned threads, unsigned shared_bytes);

bool is_capturing(CUstream stream);

// Outside of calls, for these wait: copies to and from host memory, in the legacy stream's order, and what a stream has been
// given.
void read(const Device& device, const void* from, void* to, size_t bytes);
void write(const Device& device, const void* from, void* to, size_t bytes);
void synchronize(const Device& device, CUstream stream);

// A copy within a GPU, in the stream's order.
void copy(const Device& device, const void* from, void* to, size_t bytes, CUstream stream);

// What a device pointer belongs to: the GPU's number, or -1 when it is no device memory.
int device_of(const void* pointer);

}  // namespace cuda
}  // namespace recurra
