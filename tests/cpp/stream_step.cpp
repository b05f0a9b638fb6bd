// Proves that a stream's step allocates nothing, takes no lock and makes no system call, for every cell and both types.
//
// Allocation and locking are counted by standing in front of the C library's functions. System calls are shown to be absent by
// giving them up: in strict seccomp mode the kernel kills a process that makes any but read, write and exit.
#include <dlfcn.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>

#include "recurra/recurra.h"

static std::atomic<long> allocations{0}, locks{0};

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t n) {
  ++allocations;
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t size) {
  ++allocations;
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t n) {
  ++allocations;
  return __libc_realloc(p, n);
}
void* aligned_alloc(size_t alignment, size_t n) {
  ++allocations;
  return __libc_memalign(alignment, n);
}
int posix_memalign(void** out, size_t alignment, size_t n) {
  ++allocations;
  *out = __libc_memalign(alignment, n);
  return *out ? 0 : 12;
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
  ++locks;
  static const auto real = reinterpret_cast<int (*)(pthread_mutex_t*)>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  return real(mutex);
}
}

void* operator new(size_t n) {
  if (void* p = malloc(n)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { free(p); }
void operator delete(void* p, size_t) noexcept { free(p); }

namespace {

constexpr int kInput = 19, kHidden = 37, kOutput = 11, kLayers = 2, kRows = 3, kSteps = 300;

template <class T>
class Example {
 public:
  Example(const recurra::CellInfo& cell, recurra::Precision precision)
      : network_(make(cell, precision)), stream_(network_, kRows), with_head_(network_, kRows, 1, &head_) {
    for (T& x : x_) x = T(random_());
  }

  void run(int steps) {
    for (int s = 0; s < steps; ++s) {
      stream_.step(x_, y_);
      with_head_.step(x_, of_head_);
    }
  }

  double sum() const {
    double sum = 0;
    for (T y : y_) sum += double(y);
    for (T y : of_head_) sum += double(y);
    return sum;
  }

 private:
  recurra::Network<T> make(const recurra::CellInfo& cell, recurra::Precision precision) {
    recurra::NetworkConfig config{cell.name, kInput, kHidden, cell.projected ? kOutput : kHidden, kLayers, 1, {},
                                  precision, {},     {}};
    for (const auto& constant : cell.constants) config.constants.push_back(constant.second);
    std::vector<std::vector<T>> storage;
    std::vector<std::vector<const T*>> params(kLayers);
    for (auto& layer : params)
      for (const auto& p : cell.params) {
        storage.emplace_back(size_t(p.blocks) * 64 * 64);
        for (T& w : storage.back()) w = T(random_() * 0.2);
        layer.push_back(storage.back().data());
      }
    return recurra::Network<T>(config, params);
  }

  double random_() { return uniform_(engine_); }

  std::mt19937 engine_{1};
  std::uniform_real_distribution<double> uniform_{-1, 1};
  recurra::Network<T> network_;
  std::vector<T> weight_ = std::vector<T>(2 * kHidden, T(0.1));
  recurra::Linear<T> head_{network_.config().output_size, 2, weight_.data(), nullptr};
  recurra::Stream<T> stream_, with_head_;
  T x_[kRows * kInput] = {};
  T y_[kRows * kHidden] = {};
  T of_head_[kRows * 2] = {};
};

// True when the child lived through the steps without a system call.
template <class T>
bool runs_without_system_calls(Example<T>& example) {
  const pid_t child = fork();
  if (child == 0) {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(2);
    example.run(kSteps);
    syscall(SYS_exit, 0);  // not exit_group, which strict mode refuses
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

template <class T>
int failures(const recurra::CellInfo& cell, const char* type, recurra::Precision precision) {
  Example<T> example(cell, precision);
  const long allocated = allocations, locked = locks;
  example.run(kSteps);
  const long new_allocations = allocations - allocated, new_locks = locks - locked;
  const bool silent = runs_without_system_calls(example);
  if (!new_allocations && !new_locks && silent && example.sum() != 0) return 0;
  std::printf("%s %s: %ld allocations, %ld locks, system calls: %s\n", cell.name.c_str(), type, new_allocations, new_locks,
              silent ? "none" : "some");
  return 1;
}

}  // namespace

int main() {
  // The counters must count, or nothing is proved.
  const long before = allocations;
  delete new std::vector<int>(10);
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&mutex);
  if (allocations == before || locks == 0) return std::puts("the counters do not count"), 1;

  int failed = 0;
  for (const recurra::CellInfo& cell : recurra::cells())
    failed += failures<float>(cell, "float32", recurra::Precision::full) +
              failures<double>(cell, "float64", recurra::Precision::full) +
              failures<float>(cell, "bfloat16", recurra::Precision::bfloat16) +
              failures<float>(cell, "int8", recurra::Precision::int8);
  std::printf("%zu cells x 4 types x %d steps: %d failed\n", recurra::cells().size(), kSteps, failed);
  return failed ? 1 : 0;
}
