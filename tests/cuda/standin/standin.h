// A stand-in for the CUDA driver, NVRTC and cuBLAS on a machine without a GPU: it exports their symbols, runs at once on host
// memory what it is asked to, and refuses what a driver refuses and what only happens to work. README.md has the rules.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cuda/api.h"
#include "machine.h"

#define STANDIN_EXPORT extern "C" __attribute__((visibility("default")))

namespace standin {
using namespace recurra::cuda;

#define STANDIN_DECLARE(symbol, name, ...) STANDIN_EXPORT int symbol(__VA_ARGS__);
RECURRA_DRIVER_CALLS(STANDIN_DECLARE)
RECURRA_NVRTC_CALLS(STANDIN_DECLARE)
RECURRA_CUBLAS_CALLS(STANDIN_DECLARE)
#undef STANDIN_DECLARE

// CUDA_ERROR_... and what cuGetErrorName and cuGetErrorString say.
#define STANDIN_ERRORS(ERROR)                                                                             \
  ERROR(INVALID_VALUE, 1, "invalid argument")                                                             \
  ERROR(NOT_INITIALIZED, 3, "initialization error")                                                       \
  ERROR(INVALID_DEVICE, 101, "invalid device ordinal")                                                    \
  ERROR(INVALID_IMAGE, 200, "device kernel image is invalid")                                             \
  ERROR(INVALID_CONTEXT, 201, "invalid device context")                                                   \
  ERROR(NO_BINARY_FOR_GPU, 209, "no kernel image is available for execution on the device")               \
  ERROR(INVALID_HANDLE, 400, "invalid resource handle")                                                   \
  ERROR(ILLEGAL_STATE, 401, "the operation cannot be performed in the present state")                     \
  ERROR(NOT_FOUND, 500, "named symbol not found")                                                         \
  ERROR(ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")                                 \
  ERROR(LAUNCH_FAILED, 719, "unspecified launch failure")                                                 \
  ERROR(COOPERATIVE_LAUNCH_TOO_LARGE, 720, "too many blocks in cooperative launch")                       \
  ERROR(INVALID_CLUSTER_SIZE, 912, "invalid cluster size")                                                \
  ERROR(STREAM_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")              \
  ERROR(STREAM_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")       \
  ERROR(STREAM_CAPTURE_MERGE, 902, "operation would result in a merge of separate capture sequences")     \
  ERROR(STREAM_CAPTURE_UNMATCHED, 903, "capture was not ended in the same stream as it began")            \
  ERROR(STREAM_CAPTURE_UNJOINED, 904, "capturing stream has unjoined work")                               \
  ERROR(STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")         \
  ERROR(STREAM_CAPTURE_IMPLICIT, 906, "operation would make the legacy stream depend on a capturing one") \
  ERROR(CAPTURED_EVENT, 907, "operation not permitted on an event last recorded in a capturing stream")   \
  ERROR(STREAM_CAPTURE_WRONG_THREAD, 908, "attempt to terminate a thread-local capture sequence from another thread")
#define STANDIN_CONSTANT(name, value, text) constexpr CUresult CUDA_ERROR_##name = value;
STANDIN_ERRORS(STANDIN_CONSTANT)
#undef STANDIN_CONSTANT

// Says on stderr what is wrong, counts it, and returns `error`.
CUresult fail(CUresult error, const std::string& what);

// ---- which work is ordered before which (order.cpp) -------------------------------------------------------------------------
// A chain is work in order: a stream's, or that of a path through a graph. A clock says how far it has seen each chain.
using Clock = std::map<int, uint64_t>;
void join(Clock& clock, const Clock& other);
int new_chain();

struct Stamp {
  int chain = -1;
  uint64_t time = 0;
  std::shared_ptr<const std::string> what;
  uint64_t launch = 0;
};
struct Touched {
  Stamp written;
  std::map<int, Stamp> read;  // since then, the last time by each chain
};

struct Allocation : Touched {
  char* data;
  size_t bytes;
  int ordinal;
  bool registered;  // by a test, whose memory it is
  // By one launch of a graph whose branches share allocations: of each line of `line_bytes`.
  uint64_t launch = 0;
  std::map<size_t, Touched> lines;
};
constexpr size_t line_bytes = 256;

enum class Access { read, write, unknown };
struct Touch {
  const void* pointer;
  size_t bytes;  // of a read or a write
  Access access;
};

// A launch, a copy, a product.
struct Work {
  std::string what;
  int ordinal;
  std::vector<Touch> touches;
  std::function<CUresult()> run;
};
// Runs it as the next work of `chain`, if all the work that it must come after is in `clock`. A launch of a graph with
// branches has a number.
CUresult perform(const Work& work, Clock& clock, int chain, uint64_t launch = 0);

// ---- memory (memory.cpp, bytes.cpp) -----------------------------------------------------------------------------------------
Allocation* allocation_of(const void* pointer);  // or null
bool inside(const void* pointer, size_t bytes, int ordinal);
CUresult check_guards();  // of all allocations

// Without sanitizers: guards are poisoned, and threads that know nothing of each other may share an array.
uint64_t hash_bytes(const char* data, size_t bytes);
bool guards_intact(const char* data, size_t bytes);
char* guarded_new(size_t bytes);
void guarded_delete(char* data, size_t bytes);

// ---- streams, events, graphs (streams.cpp, graphs.cpp) ----------------------------------------------------------------------
struct Node {
  Work work;
  std::vector<Node*> after;
};
struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;  // each behind those that it comes after
};
struct Exec {
  struct Step {
    Work work;
    std::vector<size_t> after;
    int chain;  // -1: the stream's
  };
  int ordinal;
  std::vector<Step> steps;
  bool branches = false;
  std::map<const Node*, size_t> index;
  Clock seen;  // by its last launch
};

struct Stream;
struct Capture {
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  Stream* origin = nullptr;
  std::set<Stream*> streams;
  std::thread::id thread;
  int mode = 0;
  bool valid = true;
};
struct Stream {
  int ordinal = 0;
  bool blocking = true, legacy = false;
  int chain = new_chain();
  Clock clock;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> last;  // captured: what the next work comes after
};
struct Event {
  int ordinal = 0;
  unsigned flags = 0;
  bool recorded = false;
  Clock clock;
  std::chrono::steady_clock::time_point time;
  std::weak_ptr<Capture> capture;
  std::vector<Node*> last;
};

// The stream behind a handle: one that was made, 0 or 1 for the legacy stream of the current context, 2 for this thread's.
CUresult find_stream(CUstream handle, Stream*& stream);
// The same for work to be put into it: it must be of the current context, and not the legacy stream while something captures.
CUresult find_stream_for_work(CUstream handle, Stream*& stream);
void begin_work(Stream& stream);  // as ordered by the host and by the legacy stream
CUresult submit(Stream& stream, Work work);
// Of a launch, blocks that run at the same time: a cluster's, or all.
struct Together {
  Index cluster{1, 1, 1};
  bool cooperative = false;
};
CUresult kernel_work(const CUDA_KERNEL_NODE_PARAMS& parameters, int ordinal, Work& work, const Together& together = {});
// While this thread captures, or another one globally: invalidates that, and returns the error. Not of a relaxed thread.
CUresult refuse_while_capturing(const char* call);

// ---- the driver's state -----------------------------------------------------------------------------------------------------
struct Module {
  void* library;
  int ordinal;
  bool flush;
  std::map<std::string, struct Function> functions;
};
struct Function {
  const Kernel* kernel;
  std::string name;
  const Module* module;
  int shared_bytes;  // that a block may have
};

// Objects that are alive, by handle.
template <class T, class Handle>
class Handles {
 public:
  Handle add(std::unique_ptr<T> object) {
    const Handle handle = reinterpret_cast<Handle>(object.get());
    all_.emplace(handle, std::move(object));
    return handle;
  }
  T* find(Handle handle) const {
    const auto found = all_.find(handle);
    return found == all_.end() ? nullptr : found->second.get();
  }
  std::unique_ptr<T> remove(Handle handle) {
    auto node = all_.extract(handle);
    return node ? std::move(node.mapped()) : nullptr;
  }
  const std::map<Handle, std::unique_ptr<T>>& all() const { return all_; }

 private:
  std::map<Handle, std::unique_ptr<T>> all_;
};

#define STANDIN_COUNTS(COUNT) \
  COUNT(launches)             \
  COUNT(graph_launches)       \
  COUNT(products)             \
  COUNT(allocations)          \
  COUNT(synchronisations)     \
  COUNT(compilations)         \
  COUNT(errors)

struct State {
  std::mutex mutex;
  bool initialised = false;
  std::map<uintptr_t, Allocation> memory;
  Handles<Stream, CUstream> streams;
  Handles<Event, CUevent> events;
  Handles<Graph, CUgraph> graphs;
  Handles<Exec, CUgraphExec> execs;
  Handles<Module, CUmodule> modules;
  std::set<CUfunction> functions;
  std::map<int, Stream> legacy;
  std::map<std::pair<std::thread::id, int>, Stream> per_thread;
  std::set<std::shared_ptr<Capture>> captures;
  Clock host;  // what synchronisation has shown to the host
#define STANDIN_COUNTER(name) uint64_t name = 0;
  STANDIN_COUNTS(STANDIN_COUNTER)
#undef STANDIN_COUNTER
};
State& state();  // never destroyed

// Every call holds it.
struct Lock : std::lock_guard<std::mutex> {
  Lock() : std::lock_guard<std::mutex>(state().mutex) {}
};

int device_count();
CUresult current_device(int& ordinal);  // of the current context

}  // namespace standin
