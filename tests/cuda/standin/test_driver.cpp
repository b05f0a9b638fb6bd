// Memory, streams, events, captures, graphs.
#include <cmath>
#include <functional>
#include <thread>

#include "test.h"

namespace {

// y[i] = x[i] + 1, for one thread each.
struct Next {
  const float* x;
  float* y;
};
CUfunction next() {
  static const CUfunction function = kernel(R"(
    struct Next { const float* x; float* y; };
    RECURRA_KERNEL(run, Next) { a.y[threadIdx.x] = a.x[threadIdx.x] + 1; })");
  return function;
}
int run_next(CUstream stream, const Array<float>& x, const Array<float>& y) {
  return launch(next(), {1, unsigned(x.size)}, stream, Next{x.data(), y.data()});
}
const std::vector<float> two{1.0f, 2.0f};

void order(CUstream first, CUstream then) {
  const CUevent event = new_event();
  CHECK_IS(cuEventRecord(event, first), 0);
  CHECK_IS(cuStreamWaitEvent(then, event, 0), 0);
  CHECK_IS(cuEventDestroy(event), 0);
}

}  // namespace

void test_memory() {
  reset_counts();
  const uint64_t live = count("live_allocations");
  {
    const Array<float> memory(10);
    CHECK_IS(count("live_allocations"), live + 1);
    CHECK(count("live_bytes") >= 40);
    for (float value : memory.values()) CHECK(std::isnan(value));
    unsigned type = 0;
    int ordinal = -1;
    CHECK_IS(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory.pointer + 39), 0);
    CHECK_IS(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, memory.pointer), 0);
    CHECK_IS(type, 2);
    CHECK_IS(ordinal, 0);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory.pointer + 40) != 0);

    float host[10] = {};
    CHECK_IS(cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(host), host, 4), 1);
    CHECK_IS(cuMemcpyHtoD(memory.pointer + 8, host, 40), 1);
    CHECK_IS(cuMemFree(memory.pointer + 8), 1);

    // A test's own memory, of the second GPU.
    CHECK_IS(standin_register(host, sizeof(host), 1), 0);
    CHECK_IS(cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, reinterpret_cast<CUdeviceptr>(host + 1)), 0);
    CHECK_IS(ordinal, 1);
    CHECK_IS(cuMemcpyDtoDAsync(memory.pointer, reinterpret_cast<CUdeviceptr>(host), 4, nullptr), 1);
    CHECK_IS(launch(next(), {}, nullptr, Next{host, memory.data()}), 700);
    CHECK_IS(standin_unregister(host), 0);
    CHECK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(host)) != 0);
  }
  CHECK_IS(count("live_allocations"), live);
  CHECK_IS(count("allocations"), 1);
  CUdeviceptr pointer;
  CHECK_IS(cuMemAlloc(&pointer, size_t(1) << 40), 2);

#ifndef STANDIN_ADDRESS_SANITIZER  // which reports it: run_fault
  const uint64_t errors = count("errors");
  Array<float> x(two), y(1);
  CHECK_IS(run_next(nullptr, x, y), 0);
  CHECK_IS(cuStreamSynchronize(nullptr), 700);
  CHECK_IS(cuMemFree(y.pointer), 700);
  y.pointer = 0;
  CHECK_IS(count("errors"), errors + 2);
#endif
}

void test_order() {
  const CUstream first = new_stream(), second = new_stream(), blocking = new_stream(0);
  const Array<float> x(two), y(two), z(two), other(std::vector<float>{5, 6}), rest(two);

  // One writes, the other reads.
  CHECK_IS(run_next(first, x, y), 0);
  CHECK_IS(run_next(second, y, z), 719);
  order(first, second);
  CHECK_IS(run_next(second, y, z), 0);
  // Both read; then one writes what the other reads.
  CHECK_IS(run_next(first, y, rest), 0);
  CHECK_IS(run_next(first, other, y), 719);
  order(second, first);
  CHECK_IS(run_next(first, other, y), 0);
  CHECK_IS(run_next(second, y, z), 719);
  // The host has seen it.
  CHECK_IS(cuStreamSynchronize(first), 0);
  CHECK_IS(run_next(second, y, z), 0);

  // The legacy stream and blocking ones wait for each other, others do not.
  CHECK_IS(cuStreamSynchronize(second), 0);
  CHECK_IS(run_next(blocking, x, y), 0);
  CHECK_IS(run_next(nullptr, y, z), 0);
  CHECK_IS(run_next(blocking, z, y), 0);
  CHECK_IS(run_next(first, z, other), 719);
  float host[2];
  CHECK_IS(cuMemcpyDtoH(host, y.pointer, 8), 0);
  CHECK(host[0] == 4);
  CHECK_IS(run_next(first, z, other), 0);
  CHECK_IS(cuMemcpyDtoH(host, other.pointer, 8), 719);

  // A copy to the GPU may return before it has arrived.
  CHECK_IS(cuMemcpyHtoD(z.pointer, host, 8), 719);  // first reads it
  CHECK_IS(cuStreamSynchronize(first), 0);
  CHECK_IS(cuMemcpyHtoD(z.pointer, host, 8), 0);
  CHECK_IS(run_next(first, z, y), 719);
  CHECK_IS(cuStreamSynchronize(reinterpret_cast<CUstream>(1)), 0);
  CHECK_IS(run_next(first, z, y), 0);
  CHECK_IS(cuMemsetD8Async(y.pointer, 0, 8, second), 719);
  CHECK_IS(cuMemcpyDtoDAsync(x.pointer, y.pointer, 8, second), 719);

  // Another thread's stream.
  CHECK_IS(cuStreamSynchronize(first), 0);
  CHECK_IS(run_next(reinterpret_cast<CUstream>(2), x, z), 0);
  std::thread([&] {
    CHECK_IS(cuCtxPushCurrent(context_of(0)), 0);
    CHECK_IS(run_next(reinterpret_cast<CUstream>(2), z, other), 719);
  }).join();

  // Events and streams that are gone, or of another context.
  const CUevent event = new_event();
  CHECK_IS(cuStreamWaitEvent(second, event, 0), 0);  // never recorded
  CHECK_IS(cuCtxPushCurrent(context_of(1)), 0);
  const CUstream far = new_stream();
  CHECK_IS(cuCtxPopCurrent(nullptr), 0);
  CHECK_IS(cuEventRecord(event, far), 400);
  CHECK_IS(cuEventDestroy(event), 0);
  CHECK_IS(cuEventRecord(event, first), 400);
  for (const CUstream stream : {first, second, blocking, far}) CHECK_IS(cuStreamDestroy(stream), 0);
  CHECK_IS(cuStreamDestroy(first), 400);

  CUevent from, to;
  float milliseconds = -1;
  CHECK_IS(cuEventCreate(&from, CU_EVENT_DEFAULT), 0);
  CHECK_IS(cuEventCreate(&to, CU_EVENT_DEFAULT), 0);
  CHECK_IS(cuEventElapsedTime(&milliseconds, from, to), 400);
  CHECK_IS(cuEventRecord(from, nullptr), 0);
  CHECK_IS(cuEventRecord(to, nullptr), 0);
  CHECK_IS(cuEventSynchronize(to), 0);
  CHECK_IS(cuEventElapsedTime(&milliseconds, from, to), 0);
  CHECK(milliseconds >= 0);
  CHECK_IS(cuEventDestroy(from), 0);
  CHECK_IS(cuEventDestroy(to), 0);
}

void test_capture() {
  const CUstream stream = new_stream(), second = new_stream();
  const Array<float> x(two), y(two), z(two), two_more(two);
  CUgraph graph;
  CUgraphExec exec;
  int status;

  // Nothing runs while it is captured; arguments are those of that time.
  reset_counts();
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(cuStreamIsCapturing(stream, &status), 0);
  CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
  CHECK_IS(run_next(stream, x, y), 0);
  CHECK_IS(cuMemcpyDtoDAsync(x.pointer, y.pointer, 8, stream), 0);
  CHECK_IS(cuStreamEndCapture(stream, &graph), 0);
  CHECK_IS(cuStreamIsCapturing(stream, &status), 0);
  CHECK_IS(status, CU_STREAM_CAPTURE_STATUS_NONE);
  CHECK(x.values()[0] == 1);
  CHECK_IS(cuGraphInstantiate(&exec, graph, 0), 0);
  CHECK_IS(cuGraphDestroy(graph), 0);
  for (int i = 0; i < 3; ++i) CHECK_IS(cuGraphLaunch(exec, stream), 0);
  CHECK_IS(count("graph_launches"), 3);
  CHECK_IS(cuStreamSynchronize(stream), 0);
  CHECK(x.values()[0] == 4);

  // A graph inside a capture.
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(cuGraphLaunch(exec, stream), 0);
  CHECK_IS(run_next(stream, x, z), 0);
  CHECK_IS(cuStreamEndCapture(stream, &graph), 0);
  CUgraphExec outer;
  CHECK_IS(cuGraphInstantiate(&outer, graph, 0), 0);
  CHECK_IS(cuGraphLaunch(outer, stream), 0);
  CHECK_IS(cuStreamSynchronize(stream), 0);
  CHECK(z.values()[0] == 6);
  CHECK_IS(cuGraphDestroy(graph), 0);
  CHECK_IS(cuGraphExecDestroy(outer), 0);
  CHECK_IS(cuGraphExecDestroy(exec), 0);

  // What may not be done meanwhile.
  const CUevent event = new_event();
  const std::string image = compile("RECURRA_KERNEL(run, int) {}").cubin;
  cublasHandle handle;
  CUdeviceptr pointer;
  CUmodule module;
  float host[2];
  const std::vector<std::pair<int, std::function<int()>>> forbidden = {
      {900, [&] { return cuMemAlloc(&pointer, 4); }},
      {900, [&] { return cuMemFree(z.pointer); }},
      {900, [&] { return cuStreamSynchronize(second); }},
      {900, [&] { return cuStreamSynchronize(stream); }},
      {900, [&] { return cuEventSynchronize(event); }},
      {900, [&] { return cuMemcpyHtoD(x.pointer, host, 8); }},
      {900, [&] { return cuMemcpyDtoH(host, x.pointer, 8); }},
      {900, [&] { return cuModuleLoadData(&module, image.data()); }},
      {3, [&] { return cublasCreate(&handle); }},
      {906, [&] { return run_next(nullptr, x, z); }},
      {906, [&] { return cuEventRecord(event, nullptr); }},
      {906, [&] { return cuMemsetD8Async(x.pointer, 0, 8, reinterpret_cast<CUstream>(1)); }},
  };
  for (const auto& [error, call] : forbidden) {
    CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
    CHECK_IS(run_next(stream, x, y), 0);
    // Another thread may, unless it is the capturing stream's own affair.
    CHECK_IS(call(), error);
    CHECK_IS(cuStreamIsCapturing(stream, &status), 0);
    CHECK_IS(status, 2);
    CHECK_IS(run_next(stream, x, y), 901);
    CHECK_IS(cuStreamEndCapture(stream, &graph), 901);
    CHECK(graph == nullptr);
  }
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  std::thread([&] {
    CHECK_IS(cuCtxPushCurrent(context_of(0)), 0);
    CHECK_IS(cuMemAlloc(&pointer, 4), 0);
    CHECK_IS(cuMemFree(pointer), 0);
    CHECK_IS(run_next(nullptr, two_more, z), 0);  // the capturing stream is none that waits for this one
  }).join();
  CHECK_IS(run_next(second, z, y), 719);  // runs, and is checked
  CHECK_IS(cuStreamEndCapture(stream, &graph), 0);
  CHECK_IS(cuGraphDestroy(graph), 0);
  CHECK_IS(cuStreamSynchronize(nullptr), 0);

  // A relaxed thread may, in its own capture and in another's.
  for (const int capture_mode : {0, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL}) {
    CHECK_IS(cuStreamBeginCapture(stream, capture_mode), 0);
    std::vector<std::function<void(const std::function<void()>&)>> threads = {
        [](const std::function<void()>& work) { work(); }, [](const std::function<void()>& work) { std::thread(work).join(); }};
    for (const auto& in_thread : threads)
      in_thread([&] {
        CHECK_IS(cuCtxPushCurrent(context_of(0)), 0);
        int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
        CHECK_IS(cuThreadExchangeStreamCaptureMode(&mode), 0);
        CHECK_IS(mode, 0);
        CHECK_IS(cuMemAlloc(&pointer, 4), 0);
        CHECK_IS(cuMemFree(pointer), 0);
        CHECK_IS(cuThreadExchangeStreamCaptureMode(&mode), 0);
        CHECK_IS(mode, CU_STREAM_CAPTURE_MODE_RELAXED);
        CUcontext context;
        CHECK_IS(cuCtxPopCurrent(&context), 0);
      });
    CHECK_IS(run_next(stream, x, y), 0);
    std::thread([&] {
      CHECK_IS(cuCtxPushCurrent(context_of(0)), 0);
      CHECK_IS(cuMemFree(0), capture_mode ? 0 : 900);
    }).join();
    CHECK_IS(cuStreamEndCapture(stream, &graph), capture_mode ? 0 : 901);
    if (graph) CHECK_IS(cuGraphDestroy(graph), 0);
  }
  int mode = 3;
  CHECK_IS(cuThreadExchangeStreamCaptureMode(&mode), 1);
  CHECK_IS(cuMemsetD8Async(x.pointer, 0, 0, stream), 1);

  // Another stream joins, and must be joined again.
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(run_next(stream, x, y), 0);
  order(stream, second);
  CHECK_IS(run_next(second, y, z), 0);
  CHECK_IS(cuStreamEndCapture(stream, &graph), 904);
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(run_next(stream, x, y), 0);
  order(stream, second);
  CHECK_IS(run_next(second, y, z), 0);
  order(second, stream);
  CHECK_IS(cuStreamEndCapture(stream, &graph), 0);
  CHECK_IS(cuGraphDestroy(graph), 0);
  // An event from before the capture.
  CHECK_IS(cuEventRecord(event, second), 0);
  CHECK_IS(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 0);
  CHECK_IS(cuStreamWaitEvent(stream, event, 0), 905);
  CHECK_IS(cuStreamEndCapture(stream, &graph), 901);
  CHECK_IS(cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), 900);
  CHECK_IS(cuEventDestroy(event), 0);
  CHECK_IS(cuStreamDestroy(stream), 0);
  CHECK_IS(cuStreamDestroy(second), 0);
}

void test_graphs() {
  const CUstream stream = new_stream(), other = new_stream();
  const Array<float> x(two), y(two), z(two), elsewhere(1);
  const Next to_y{x.data(), y.data()}, to_z{y.data(), z.data()}, back{z.data(), x.data()};
  void* parameters[1];
  CUgraph graph;
  CUgraphNode first, second;
  CUgraphExec exec;
  const auto make = [&](bool ordered) {
    CHECK_IS(cuGraphCreate(&graph, 0), 0);
    CUDA_KERNEL_NODE_PARAMS node_parameters = node(next(), {1, 2}, parameters, to_y);
    CHECK_IS(cuGraphAddKernelNode(&first, graph, nullptr, 0, &node_parameters), 0);
    node_parameters = node(next(), {1, 2}, parameters, to_z);
    CHECK_IS(cuGraphAddKernelNode(&second, graph, &first, ordered, &node_parameters), 0);
    CHECK_IS(cuGraphInstantiate(&exec, graph, 0), 0);
  };
  make(false);  // a dependency is missing
  CHECK_IS(cuGraphLaunch(exec, stream), 719);
  CHECK_IS(cuGraphExecDestroy(exec), 0);
  CHECK_IS(cuGraphDestroy(graph), 0);

  // Two branches may write to one allocation, not to one line of it; nor may one write what the other reads.
  const Array<float> shared(std::vector<float>(1024));
  const auto branches = [&](size_t from, size_t to, bool reads) {
    const Next writes{x.data(), shared.data() + from},
        touches{reads ? shared.data() + to : x.data(), reads ? z.data() : shared.data() + to};
    CHECK_IS(cuGraphCreate(&graph, 0), 0);
    for (const Next& each : {writes, touches}) {
      const CUDA_KERNEL_NODE_PARAMS node_parameters = node(next(), {1, 2}, parameters, each);
      CHECK_IS(cuGraphAddKernelNode(&first, graph, nullptr, 0, &node_parameters), 0);
    }
    CHECK_IS(cuGraphInstantiate(&exec, graph, 0), 0);
    const CUresult result = cuGraphLaunch(exec, stream);
    CHECK_IS(cuStreamSynchronize(stream), 0);
    CHECK_IS(cuGraphExecDestroy(exec), 0);
    CHECK_IS(cuGraphDestroy(graph), 0);
    return result;
  };
  CHECK_IS(branches(0, 64, false), 0);
  CHECK_IS(branches(128, 130, false), 719);
  CHECK_IS(branches(192, 256, true), 0);
  CHECK_IS(branches(320, 322, true), 719);

  make(true);
  CHECK_IS(cuGraphLaunch(exec, stream), 0);
  CHECK_IS(cuGraphLaunch(exec, other), 0);        // launches of one graph follow each other
  CHECK_IS(run_next(stream, elsewhere, y), 719);  // but this does not follow the other stream's
  CHECK_IS(cuStreamSynchronize(other), 0);
  CHECK(z.values()[0] == 3);
  CUDA_KERNEL_NODE_PARAMS changed = node(next(), {1, 1}, parameters, back);
  CHECK_IS(cuGraphExecKernelNodeSetParams(exec, second, &changed), 0);
  CHECK_IS(cuGraphLaunch(exec, stream), 0);
  CHECK_IS(cuStreamSynchronize(stream), 0);
  CHECK(x.values() == (std::vector<float>{4, 2}));
  CHECK_IS(cuGraphDestroy(graph), 0);
  CHECK_IS(cuGraphExecKernelNodeSetParams(exec, second, &changed), 1);
  CHECK_IS(cuGraphExecDestroy(exec), 0);
  CHECK_IS(cuGraphLaunch(exec, stream), 400);
  CHECK_IS(count("live_graphs") + count("live_execs"), 0);
  CHECK_IS(cuStreamDestroy(stream), 0);
  CHECK_IS(cuStreamDestroy(other), 0);
}
