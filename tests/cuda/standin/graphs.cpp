// Captures and graphs.
#include <algorithm>

#include "standin.h"

namespace standin {
namespace {

// What nothing comes after.
std::set<const Node*> leaves(const Graph& graph) {
  std::set<const Node*> all;
  for (const auto& node : graph.nodes) {
    for (const Node* before : node->after) all.erase(before);
    all.insert(node.get());
  }
  return all;
}

// A node goes on with the chain of one that it comes after, if it is the first to; else it begins one.
void assign_chains(Exec& exec) {
  std::set<size_t> continued;
  bool stream_taken = false;
  for (size_t i = 0; i < exec.steps.size(); ++i) {
    Exec::Step& step = exec.steps[i];
    const auto before = std::find_if(step.after.begin(), step.after.end(), [&](size_t b) { return !continued.count(b); });
    if (before != step.after.end()) {
      continued.insert(*before);
      step.chain = exec.steps[*before].chain;
    } else if (step.after.empty() && !stream_taken) {
      stream_taken = true;
      step.chain = -1;
    } else {
      step.chain = new_chain();
      exec.branches = true;
    }
  }
}

CUresult replay(Exec& exec, Stream& stream) {
  begin_work(stream);
  join(stream.clock, exec.seen);  // a graph's launches follow each other, whatever their streams
  const Clock start = stream.clock;
  static uint64_t launches = 0;
  const uint64_t launch = exec.branches ? ++launches : 0;
  std::vector<Clock> clocks(exec.steps.size(), start);
  for (size_t i = 0; i < exec.steps.size(); ++i) {
    const Exec::Step& step = exec.steps[i];
    for (size_t before : step.after) join(clocks[i], clocks[before]);
    if (const CUresult error = perform(step.work, clocks[i], step.chain < 0 ? stream.chain : step.chain, launch)) return error;
    join(stream.clock, clocks[i]);
  }
  exec.seen = stream.clock;
  return CUDA_SUCCESS;
}

// A graph's nodes inside another one.
void capture_child(const Exec& exec, Stream& stream) {
  std::vector<Node*> made;
  std::set<Node*> last;
  for (const Exec::Step& step : exec.steps) {
    Node node{step.work, stream.last};
    if (!step.after.empty()) node.after.clear();
    for (size_t before : step.after) node.after.push_back(made[before]), last.erase(made[before]);
    made.push_back(stream.capture->graph->nodes.emplace_back(std::make_unique<Node>(std::move(node))).get());
    last.insert(made.back());
  }
  if (!last.empty()) stream.last.assign(last.begin(), last.end());
}

}  // namespace

STANDIN_EXPORT int cuStreamBeginCapture_v2(CUstream handle, int mode) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_stream(handle, stream)) return error;
  if (stream->legacy) return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamBeginCapture: the legacy stream");
  if (stream->capture) return fail(CUDA_ERROR_ILLEGAL_STATE, "cuStreamBeginCapture: the stream is capturing");
  if (mode < 0 || mode > 2) return fail(CUDA_ERROR_INVALID_VALUE, "cuStreamBeginCapture: mode");
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->streams = {stream};
  stream->capture->thread = std::this_thread::get_id();
  stream->capture->mode = mode;
  stream->last.clear();
  state().captures.insert(stream->capture);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  const Lock lock;
  *graph = nullptr;
  Stream* stream;
  if (const CUresult error = find_stream(handle, stream)) return error;
  const auto capture = stream->capture;
  if (!capture) return fail(CUDA_ERROR_ILLEGAL_STATE, "cuStreamEndCapture: the stream is not capturing");
  if (capture->mode != 2 && capture->thread != std::this_thread::get_id()) {
    capture->valid = false;
    return fail(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "cuStreamEndCapture");
  }
  if (capture->origin != stream) {
    capture->valid = false;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "cuStreamEndCapture: the capture began in another stream");
  }
  std::set<const Node*> unjoined = leaves(*capture->graph);
  for (const Node* node : stream->last) unjoined.erase(node);
  for (Stream* captured : capture->streams) captured->capture = nullptr, captured->last.clear();
  state().captures.erase(capture);
  if (!capture->valid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamEndCapture");
  if (!unjoined.empty())
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                "cuStreamEndCapture: " + (*unjoined.begin())->work.what + " and what it follows were not joined to the stream");
  *graph = state().graphs.add(std::move(capture->graph));
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuStreamIsCapturing(CUstream handle, int* status) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_stream(handle, stream)) return error;
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  if (stream->capture) *status = stream->capture->valid ? CU_STREAM_CAPTURE_STATUS_ACTIVE : 2;
  if (!stream->legacy) return CUDA_SUCCESS;
  for (const auto& capture : state().captures)
    for (const Stream* captured : capture->streams)
      if (captured->blocking && captured->ordinal == stream->ordinal)
        return fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "cuStreamIsCapturing of the legacy stream during a capture");
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuGraphCreate(CUgraph* graph, unsigned flags) {
  const Lock lock;
  if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuGraphCreate: flags");
  *graph = state().graphs.add(std::make_unique<Graph>());
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuGraphAddKernelNode_v2(CUgraphNode* made, CUgraph handle, const CUgraphNode* dependencies, size_t count,
                                           const CUDA_KERNEL_NODE_PARAMS* parameters) {
  const Lock lock;
  Graph* const graph = state().graphs.find(handle);
  if (!graph) return fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphAddKernelNode: no graph");
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  Node node;
  for (size_t i = 0; i < count; ++i) {
    const auto is = [&](const auto& other) { return other.get() == reinterpret_cast<Node*>(dependencies[i]); };
    const auto found = std::find_if(graph->nodes.begin(), graph->nodes.end(), is);
    if (found == graph->nodes.end())
      return fail(CUDA_ERROR_INVALID_VALUE, "cuGraphAddKernelNode: a dependency that is no node of the graph");
    node.after.push_back(found->get());
  }
  if (const CUresult error = kernel_work(*parameters, ordinal, node.work)) return error;
  graph->nodes.push_back(std::make_unique<Node>(std::move(node)));
  *made = reinterpret_cast<CUgraphNode>(graph->nodes.back().get());
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuGraphInstantiateWithFlags(CUgraphExec* made, CUgraph handle, unsigned long long flags) {
  const Lock lock;
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  if (const CUresult error = refuse_while_capturing("cuGraphInstantiate")) return error;
  const Graph* const graph = state().graphs.find(handle);
  if (!graph) return fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphInstantiate: no graph");
  if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuGraphInstantiate: flags");
  auto exec = std::make_unique<Exec>();
  exec->ordinal = ordinal;
  for (const auto& node : graph->nodes) {
    Exec::Step step{node->work, {}, -1};
    for (const Node* before : node->after) step.after.push_back(exec->index.at(before));
    exec->index[node.get()] = exec->steps.size();
    exec->steps.push_back(std::move(step));
  }
  assign_chains(*exec);
  *made = state().execs.add(std::move(exec));
  return CUDA_SUCCESS;
}

// A node lives as long as the graph that it was added to.
STANDIN_EXPORT int cuGraphExecKernelNodeSetParams_v2(CUgraphExec handle, CUgraphNode node_handle,
                                                     const CUDA_KERNEL_NODE_PARAMS* parameters) {
  const Lock lock;
  Exec* const exec = state().execs.find(handle);
  if (!exec) return fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphExecKernelNodeSetParams: no graph");
  const Node* const node = reinterpret_cast<Node*>(node_handle);
  bool alive = false;
  for (const auto& [graph_handle, graph] : state().graphs.all())
    for (const auto& other : graph->nodes) alive |= other.get() == node;
  const auto found = exec->index.find(node);
  if (!alive || found == exec->index.end())
    return fail(CUDA_ERROR_INVALID_VALUE, "cuGraphExecKernelNodeSetParams: no node of the graph, or the graph is destroyed");
  return kernel_work(*parameters, exec->ordinal, exec->steps[found->second].work);
}

STANDIN_EXPORT int cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
  const Lock lock;
  Exec* const exec = state().execs.find(handle);
  if (!exec) return fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphLaunch: no graph");
  Stream* stream;
  if (const CUresult error = find_stream_for_work(stream_handle, stream)) return error;
  if (stream->ordinal != exec->ordinal) return fail(CUDA_ERROR_INVALID_CONTEXT, "cuGraphLaunch: a graph of another GPU");
  if (!stream->capture) {
    ++state().graph_launches;
    return replay(*exec, *stream);
  }
  if (!stream->capture->valid) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuGraphLaunch");
  capture_child(*exec, *stream);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuGraphExecDestroy(CUgraphExec handle) {
  const Lock lock;
  return state().execs.remove(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphExecDestroy: no graph");
}

STANDIN_EXPORT int cuGraphDestroy(CUgraph handle) {
  const Lock lock;
  return state().graphs.remove(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "cuGraphDestroy: no graph");
}

}  // namespace standin
