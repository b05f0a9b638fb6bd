// Proves that a stream's steps, runs and states allocate nothing, take no lock and make no system call, for every cell and both
// types, and for a model with every kind of node that streams have.
//
// Allocation and locking are counted by standing in front of the C library's functions. System calls are shown to be absent by
// giving them up: in strict seccomp mode the kernel kills a process that makes any but read, write and exit. Compiled for
// RealtimeSanitizer, which stands in front of them itself, it is that which ends a process where one is called.
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

#include "recurra.h"
#include "recurra/model.h"

static std::atomic<long> allocations{0}, locks{0};

#ifdef __has_feature
#if __has_feature(realtime_sanitizer)
#define RECURRA_WATCHED
#endif
#endif

#ifndef RECURRA_WATCHED
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
#endif

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
    stream_.run({x_, 1, kRows, 0, kInput}, {y_, 1, kRows, 0, network_.config().output_size});
    stream_.get_state(states_);
    stream_.reset();
    stream_.set_state(states_);
  }

  double sum() const {
    double sum = 0;
    for (T y : y_) sum += double(y);
    for (T y : of_head_) sum += double(y);
    return sum;
  }

 private:
  recurra::Network<T> make(const recurra::CellInfo& cell, recurra::Precision precision) {
    recurra::NetworkConfig config{cell.name, kInput, kHidden, cell.projected ? kOutput : kHidden, kLayers, 1, false, {},
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
  T state_[4][kLayers * kRows * kHidden] = {};
  T* states_[4] = {state_[0], state_[1], state_[2], state_[3]};
  T x_[kRows * kInput] = {};
  T y_[kRows * kHidden] = {};
  T of_head_[kRows * 2] = {};
};

constexpr char kModel[] = R"({"dtype": "DTYPE", "batch_first": false, "outputs": ["out"],
  "inputs": [{"name": "x", "features": [12], "time": true, "integer": false}], "nodes": [
  {"name": "conv", "kind": "conv1d", "inputs": ["x"], "in_channels": 12, "out_channels": 20, "kernel_size": 5, "stride": 2,
   "dilation": 3, "padding": [12, 0], "groups": 2, "bias": true},
  {"name": "relu", "kind": "activation", "inputs": ["conv"], "function": "relu", "alpha": null, "beta": null},
  {"name": "wide", "kind": "reshape", "inputs": ["relu"], "features": [2, 10]},
  {"name": "conv2", "kind": "conv2d", "inputs": ["wide"], "in_channels": 2, "out_channels": 3, "kernel_size": [2, 3],
   "stride": [1, 2], "dilation": [1, 1], "padding": [[1, 0], [1, 1]], "groups": 1, "bias": false},
  {"name": "pooled", "kind": "max_pool2d", "inputs": ["conv2"], "kernel_size": [1, 2], "stride": [1, 1],
   "padding": [[0, 0], [0, 0]]},
  {"name": "scale", "kind": "scale", "inputs": ["pooled"], "features": 12},
  {"name": "norm", "kind": "layer_norm", "inputs": ["scale"], "features": 12, "eps": 1e-5, "weight": true, "bias": true},
  {"name": "mask", "kind": "mask", "inputs": ["norm"], "value": 0},
  {"name": "gru", "kind": "recurrent", "inputs": ["mask"], "cell": "gru", "input_size": 12, "hidden_size": 21, "num_layers": 2,
   "direction": "forward", "proj_size": 0, "heads": 1, "bias": true, "proj_bias": false, "initial_state": true, "dropout": 0,
   "recurrent_dropout": 0, "zoneout": 0, "constants": null, "precision": null, "keep": []},
  {"name": "linear", "kind": "linear", "inputs": ["gru"], "in_features": 21, "out_features": 12, "bias": true},
  {"name": "skip", "kind": "add", "inputs": ["linear", "norm"]},
  {"name": "both", "kind": "concatenate", "inputs": ["skip", "norm"]},
  {"name": "some", "kind": "select", "inputs": ["both"], "indices": [0, 23, 3]},
  {"name": "softmax", "kind": "softmax", "inputs": ["some"], "log": true},
  {"name": "out", "kind": "pool", "inputs": ["softmax"], "mode": "mean"}]})";

template <class T>
class ModelExample {
 public:
  void run(int steps) {
    for (int s = 0; s < steps; ++s) {
      for (T& x : x_) x = T(s % 7 ? 0.1 * (s % 5) : 0);
      made_ += stream_.step(x_, y_);
    }
    for (int s = 0; s < steps; s += kBlock) stream_.run(kBlock, in_, out_);
    stream_.get_state(0, states_);
    stream_.reset(nullptr, kRows);
    stream_.set_state(0, states_);
  }
  double sum() const { return made_ > 0 ? double(y_[0]) : 0; }

 private:
  static recurra::Model<T> make() {
    std::vector<std::vector<T>> storage;
    recurra::ModelParameters<T> parameters;
    parameters.tensor = [&](const std::string&, const std::vector<int64_t>& shape) {
      size_t count = 1;
      for (const int64_t size : shape) count *= size_t(size);
      storage.emplace_back(count, T(0.1));
      return storage.back().data();
    };
    std::string structure = kModel;
    structure.replace(structure.find("DTYPE"), 5, sizeof(T) == sizeof(float) ? "float32" : "float64");
    return recurra::Model<T>(structure, parameters);
  }

  static constexpr int kBlock = 5;

  recurra::ModelStream<T> stream_{make(), kRows};
  T x_[kRows * 12] = {}, y_[kRows * 3] = {};
  T block_[kBlock * kRows * 12] = {}, made_of_block_[kBlock * kRows * 3] = {};
  const std::vector<recurra::ModelInput<T>> in_{{{block_, kBlock, kRows, kRows * 12, 12}, {}}};
  const std::vector<recurra::Sequence<T>> out_{{made_of_block_, kBlock, kRows, kRows * 3, 3}};
  T state_[2 * kRows * 21] = {};
  T* states_[1] = {state_};
  int made_ = 0;
};

// The same through the C interface, of a model in a file.
class CExample {
 public:
  explicit CExample(const char* path) {
    recurra_model* model = nullptr;
    ok_ = recurra_model_load(path, &model) == RECURRA_OK && recurra_model_sizes(model, &inputs_, &outputs_) == RECURRA_OK &&
          inputs_ <= 8 && outputs_ <= 8 && recurra_stream_open(model, 1, 1, &stream_) == RECURRA_OK;
    recurra_model_free(model);
    if (!ok_ || recurra_stream_state_size(stream_, &bytes_) != RECURRA_OK) std::puts(recurra_error());
    state_.resize(bytes_);
  }
  ~CExample() { recurra_stream_close(stream_); }

  void run(int steps) {
    for (int s = 0; s < steps; ++s) ok_ &= recurra_stream_step(stream_, x_, inputs_, y_, outputs_, nullptr) == RECURRA_OK;
    ok_ &= recurra_stream_run(stream_, x_, kBlock * inputs_, kBlock, y_, kBlock * outputs_, nullptr) == RECURRA_OK &&
           recurra_stream_get_state(stream_, state_.data(), bytes_) == RECURRA_OK &&
           recurra_stream_reset(stream_, -1) == RECURRA_OK &&
           recurra_stream_set_state(stream_, state_.data(), bytes_) == RECURRA_OK;
  }
  double sum() const { return ok_; }

 private:
  static constexpr int kBlock = 5;

  recurra_stream* stream_ = nullptr;
  size_t inputs_ = 0, outputs_ = 0, bytes_ = 0;
  std::vector<char> state_;
  float x_[kBlock * 8] = {}, y_[kBlock * 8] = {};
  bool ok_;
};

// True when the child lived through it.
template <class Function>
bool lives(const Function& function) {
  const pid_t child = fork();
  if (child == 0) {
    function();
    syscall(SYS_exit, 0);  // not exit_group, which strict mode refuses
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

template <class Example>
bool runs_without_system_calls(Example& example) {
  return lives([&] {
#ifndef RECURRA_WATCHED
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(2);
#endif
    example.run(kSteps);
  });
}

template <class Example>
int failures(const char* name, const char* type, Example& example) {
  const long allocated = allocations, locked = locks;
  example.run(kSteps);
  const long new_allocations = allocations - allocated, new_locks = locks - locked;
  const bool silent = runs_without_system_calls(example);
  if (!new_allocations && !new_locks && silent && example.sum() != 0) return 0;
  std::printf("%s %s: %ld allocations, %ld locks, system calls: %s\n", name, type, new_allocations, new_locks,
              silent ? "none" : "some");
  return 1;
}

template <class T>
int failures(const recurra::CellInfo& cell, const char* type, recurra::Precision precision) {
  Example<T> example(cell, precision);
  return failures(cell.name.c_str(), type, example);
}

template <class T>
int failures_of_model(const char* type) {
  ModelExample<T> example;
  return failures("a model", type, example);
}

// The counters must count, and the sanitizer must watch, or nothing is proved.
void allocate() RECURRA_NONBLOCKING {
  int* volatile some = new int[10];
  delete[] some;
}
void lock() RECURRA_NONBLOCKING {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&mutex);
}
bool watched() {
#ifdef RECURRA_WATCHED
  return !lives(allocate) && !lives(lock);
#else
  allocate();
  lock();
  return allocations && locks;
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2 || !watched()) return std::puts("no file, or nobody counts or watches"), 1;
  CExample of_c(arguments[1]);
  int failed =
      failures("a model of C", "float32", of_c) + failures_of_model<float>("float32") + failures_of_model<double>("float64");
  for (const recurra::CellInfo& cell : recurra::cells())
    failed += failures<float>(cell, "float32", recurra::Precision::full) +
              failures<double>(cell, "float64", recurra::Precision::full) +
              failures<float>(cell, "bfloat16", recurra::Precision::bfloat16) +
              failures<float>(cell, "int8", recurra::Precision::int8);
  std::printf("%zu cells x 4 types x %d steps: %d failed\n", recurra::cells().size(), kSteps, failed);
  return failed ? 1 : 0;
}
