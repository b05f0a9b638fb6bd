#include "call.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include "engine/parts.h"

namespace recurra {
namespace cuda {

void Launcher::zero(void* data, int64_t count, size_t size) const {
  if (count > 0)
    check_driver(driver().cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(data), 0, size_t(count) * size, stream),
                 "cuMemsetD8Async");
}

void Launcher::upload(const void* from, void* to, size_t bytes) const {
  UploadArguments a{};
  constexpr size_t most = sizeof a.words;
  for (size_t at = 0; at < bytes; at += most) {
    const size_t part = std::min(most, bytes - at);
    a.count = int(part / sizeof(uint32_t));
    a.to = reinterpret_cast<uint32_t*>(static_cast<char*>(to) + at);
    std::memcpy(a.words, static_cast<const char*>(from) + at, part);
    run(net.kernels.upload, 128, 1, 1, a);
  }
}

void each_parameter(const Network::Data& net, int layer, int p, int direction, const PhaseWeights& packed, size_t matrix_size,
                    const std::function<void(int, ParameterArguments, bool)>& use) {
  using Kind = recurra::detail::Part::Kind;
  const Phase& phase = net.spec.phases[p];
  const PhaseShape shape = net.shape(layer, p);
  recurra::detail::each_part(net.spec, phase, [&](const recurra::detail::Part& part) {
    const bool input = part.kind == Kind::input, recurrent = part.kind == Kind::recurrent;
    const Rows& rows = input ? packed.input : recurrent ? packed.recurrent : packed.sums;
    ParameterArguments a{};
    const bool heads = recurrent && net.config.heads > 1 && net.spec.params[part.param].cols == Dim::head;
    a.head = heads ? int(shape.units / net.config.heads) : 0;
    a.columns = input ? shape.inputs : heads ? a.head : recurrent ? shape.sources : 1;
    a.units = shape.units;
    a.first = part.first;
    a.count = part.count;
    for (int g = 0; g < part.count; ++g)  // the recurrent product's slots are its blocks; vectors lie behind the chains
      a.slot[g] = recurrent ? g : part.chain[g] < phase.chains ? slot_of(phase, part.chain[g]) : part.chain[g];
    a.packed = of_direction(rows, direction, input || recurrent ? matrix_size : net.number_size).data;
    use(part.param, a, input || recurrent);
  });
}

// ---- products

namespace {

Matrix matrix_of(const Rows& rows) { return {rows.data, rows.row, rows.direction}; }

template <class Arguments>
void ordered(const Launcher& launch, CUfunction kernel, int64_t m, int64_t n, int directions, const Arguments& a) {
  launch_tiles(kernel, m, n, directions, launch.net.number_size, launch.stream, a);
}

// One product after another: the rows that directions read need not lie in one array, as a batch would have to.
template <class Use>
void each_direction(const Network::Data& net, int directions, const Rows& x, const Rows& weights, const Rows& out,
                    const Use& use) {
  for (int d = 0; d < directions; ++d)
    use(matrix_of(of_direction(x, d, net.weight_size)), matrix_of(of_direction(weights, d, net.weight_size)),
        matrix_of(of_direction(out, d, net.number_size)));
}

ProductArguments product(int64_t m, int64_t n, const Rows& a, int64_t length, const Rows& out) {
  ProductArguments args{};
  args.m = int(m);
  args.n = int(n);
  args.segments = 1;
  args.length = int(length);
  args.a = a;
  args.out = out;
  return args;
}

}  // namespace

void Products::input(const PhaseWeights& w, const Phase& phase, const PhaseShape& shape, const Rows& x, int64_t m,
                     const Rows& out) const {
  const int64_t n = int64_t(phase.input.count) * shape.units;
  if (engine == Engine::cublas)
    return each_direction(launch.net, directions, x, w.input, out, [&](const Matrix& a, const Matrix& b, const Matrix& c) {
      blas->gemm({m, n, shape.inputs, a, b, false, true, c}, launch.net.options.number);
    });
  ProductArguments a = product(m, n, x, shape.inputs, out);
  a.b = w.input.data;
  a.b_k = 1;
  a.b_n = w.input.row;
  a.b_direction = w.input.direction;
  a.bias = w.sums.data;
  a.bias_direction = w.sums.direction;
  ordered(launch, launch.net.kernels.ordered_product, m, n, directions, a);
}

void Products::recurrent(const PhaseWeights& w, const Phase& phase, const PhaseShape& shape, const Rows& source, int64_t m,
                         const Rows& input, const Rows& out) const {
  if (!phase.recurrent.count) return;
  const int64_t n = int64_t(phase.recurrent.count) * shape.units;
  if (engine == Engine::cublas)
    return blas->gemm(
        {m, n, shape.sources, matrix_of(source), matrix_of(w.recurrent), false, true, matrix_of(out), 0, directions},
        launch.net.options.number);
  const size_t size = launch.net.number_size;
  const int64_t first = int64_t(recurrent_slot(phase)) * shape.units;
  ProductArguments a = product(m, n, source, shape.sources, out);
  a.b = w.recurrent.data;
  a.b_k = 1;
  a.b_n = w.recurrent.row;
  a.b_direction = w.recurrent.direction;
  a.start = from(input, 0, first, size);
  a.start_columns = shared_slots(phase) * shape.units;
  a.bias = advanced(w.sums.data, first, size);
  a.bias_direction = w.sums.direction;
  ordered(launch, launch.net.kernels.ordered_product, m, n, directions, a);
}

void Products::to_source(const PhaseWeights& w, const Phase& phase, const PhaseShape& shape, const Rows& da, int64_t m,
                         bool add, const Rows& out) const {
  if (!phase.recurrent.count) return;
  const int64_t k = int64_t(phase.recurrent.count) * shape.units;
  const Rows part = from(da, 0, int64_t(recurrent_slot(phase)) * shape.units, launch.net.weight_size);
  if (engine == Engine::cublas)
    return blas->gemm({m, shape.sources, k, matrix_of(part), matrix_of(w.recurrent), false, false, matrix_of(out),
                       add ? 1.0f : 0.0f, directions},
                      launch.net.options.number);
  ProductArguments a = product(m, shape.sources, part, k, out);
  a.b = w.recurrent.data;
  a.b_k = w.recurrent.row;
  a.b_n = 1;
  a.b_direction = w.recurrent.direction;
  a.adds = add;
  ordered(launch, launch.net.kernels.ordered_product, m, shape.sources, directions, a);
}

void Products::to_input(const PhaseWeights& w, const Phase& phase, const PhaseShape& shape, const Rows& da, int64_t m, bool add,
                        const int* out_rows, const Rows& out) const {
  if (engine == Engine::cublas)
    return blas->gemm({m, shape.inputs, int64_t(phase.input.count) * shape.units, matrix_of(da), matrix_of(w.input), false,
                       false, matrix_of(out), add ? 1.0f : 0.0f, 1},
                      launch.net.options.number);
  ProductArguments a = product(m, shape.inputs, da, shape.units, out);
  a.segments = phase.input.count;
  for (int g = 0; g < a.segments; ++g) a.a_at[g] = a.b_at[g] = slot_of(phase, phase.input.chain[g]) * shape.units;
  a.b = w.input.data;
  a.b_k = w.input.row;
  a.b_n = 1;
  a.adds = add;
  a.out_rows = out_rows;
  ordered(launch, launch.net.kernels.ordered_product, m, shape.inputs, 1, a);
}

void Products::outer(const Outer& order, const PhaseShape& shape, const Rows& da, int slot, int count, const Rows& x,
                     int64_t columns, int64_t rows, bool add, const Rows& out) const {
  if (!count) return;
  const int64_t m = int64_t(count) * shape.units;
  const Rows part = from(da, 0, int64_t(slot) * shape.units, launch.net.weight_size);
  if (engine == Engine::cublas)
    return each_direction(launch.net, directions, x, part, out, [&](const Matrix& b, const Matrix& a, const Matrix& c) {
      blas->gemm({m, columns, rows, a, b, true, false, c, add ? 1.0f : 0.0f}, launch.net.options.number);
    });
  OuterArguments a{int(m), int(columns), order, x};
  a.outer.a = part;
  a.outer.out = out;
  a.outer.adds = add;
  ordered(launch, launch.net.kernels.ordered_outer, m, columns, directions, a);
}

// ---- memory

namespace {

Header deal_header(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  Header header;
  header.seed = deal.take(1, sizeof(uint64_t));
  if (!plan.starts.empty()) {
    header.starts = deal.take(int64_t(plan.starts.size()), sizeof(int64_t));
    header.order = deal.take(plan.rows, sizeof(int32_t));
  }
  if (!plan.lengths.empty() || plan.options.device_lengths) header.lengths = deal.take(plan.rows, sizeof(int32_t));
  if (net.runs_back()) header.reversed = deal.take(plan.total, sizeof(int32_t));
  if (!plan.segments.empty()) header.segments = deal.take(int64_t(plan.segments.size()), sizeof(int32_t));
  return header;
}

}  // namespace

Tape deal_tape(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  const NetworkConfig& c = net.config;
  const bool training = plan.options.training, saves = training && !plan.options.recompute;
  const int64_t all = plan.rows + plan.total, kept = training ? all : plan.rows;
  Tape tape;
  tape.header = deal_header(deal, net, plan);
  // Without a tape a layer's rows last until the layer above has read them.
  for (int layer = 0; layer < (training || plan.wavefront ? c.layers : std::min(c.layers, 2)); ++layer) {
    LayerRows rows{};
    rows.h = deal_rows(deal, net.directions(), all, c.output_size, net.number_size);
    rows.states =
        deal_rows(deal, net.directions(), plan.keeps_states() ? all : plan.rows, net.states() * c.hidden_size, net.number_size);
    if (net.has_source(training)) rows.source = deal_rows(deal, net.directions(), kept, c.output_size, net.weight_size);
    if (saves) rows.saved = deal_rows(deal, net.directions(), plan.total, net.spec.saved * c.hidden_size, net.number_size);
    if (saves && net.phases() > 1)
      rows.result = deal_rows(deal, net.directions(), plan.total, net.shape(layer, 0).units, net.weight_size);
    if (!net.reads_h_below(layer, training))
      rows.x = deal.take(plan.total * std::max(net.input_size(layer), training ? 0 : net.input_size(1)), net.weight_size);
    tape.layers.push_back(rows);
  }
  return tape;
}

void measure(const Network::Data& net, Plan::Data& plan) {
  Dealer deal;
  if (plan.options.training) deal_tape(deal, net, plan);
  plan.tape = deal.used;
  plan.workspace = forward_bytes(net, plan);
  if (plan.options.training) plan.backward_workspace = backward_bytes(net, plan);
}

// ---- calls

Steps Call::steps() const {
  const auto ints = [](const char* p) { return reinterpret_cast<const int*>(p); };
  return {plan.steps,           plan.rows,          reinterpret_cast<const int64_t*>(header.starts),
          ints(header.lengths), ints(header.order), ints(header.reversed),
          net.config.reverse};
}

Seeded Call::seeded(int layer, int first_direction) const {
  return {recurra::detail::rates_of(net.config.regularization),
          draws ? reinterpret_cast<const uint64_t*>(header.seed) : nullptr, layer * net.directions() + first_direction,
          draws ? reinterpret_cast<const int*>(header.segments) : nullptr,
          net.runs_back() ? net.directions() - 1 - first_direction : -1};
}

const void* Call::input_rows(const std::vector<LayerRows>& layers, int layer) const {
  const LayerRows& rows = layers[size_t(layer) % layers.size()];
  if (!reads_h_below(layer)) return rows.x;
  const Rows& below = layers[size_t(layer - 1) % layers.size()].h;
  return from(below, plan.rows, 0, net.number_size).data;
}

void Call::write_header(const uint64_t* seed, const int32_t* lengths) const {
  if (seed) launch.upload(seed, header.seed, sizeof *seed);
  if (seed && header.segments) launch.upload(plan.segments.data(), header.segments, plan.segments.size() * sizeof(int32_t));
  if (header.starts) {
    launch.upload(plan.starts.data(), header.starts, plan.starts.size() * sizeof(int64_t));
    launch.upload(plan.order.data(), header.order, plan.order.size() * sizeof(int32_t));
    launch.upload(plan.lengths.data(), header.lengths, plan.lengths.size() * sizeof(int32_t));
  } else if (lengths) {
    launch.run(net.kernels.read_lengths, plan.rows, 1, 1,
               LengthArguments{plan.rows, int(plan.steps), lengths, reinterpret_cast<int*>(header.lengths)});
  }
  if (header.reversed)
    launch.run(net.kernels.fill_reversed, plan.rows, plan.steps, 1,
               ReversalArguments{steps(), reinterpret_cast<int*>(header.reversed)});
}

void Call::state(CUfunction kernel, const Array& array, int format, void* rows, int64_t width) const {
  StateArguments a{};
  a.steps = steps();
  a.columns = width;
  a.array = {array.data, array.outer, array.row, array.column, format};
  a.rows = {rows, width, plan.rows * width};
  launch.run(kernel, width, plan.rows, net.config.layers * net.directions(), a);
}

// ---- layers

void run_layers(const Network::Data& net, const std::vector<Lane>& lanes, int64_t chunks,
                const std::function<void(int, int64_t)>& run) {
  const int layers = net.config.layers;
  if (lanes.size() == 1) {
    for (int i = 0; i < layers; ++i)
      for (int64_t chunk = 0; chunk < chunks; ++chunk) run(i, chunk);
    return;
  }
  const auto record = [&](int i) {
    check_driver(driver().cuEventRecord(net.lanes[size_t(i)].reached, lanes[size_t(i)].stream), "cuEventRecord");
  };
  const auto wait = [&](int i, int for_lane) {
    check_driver(driver().cuStreamWaitEvent(lanes[size_t(i)].stream, net.lanes[size_t(for_lane)].reached, 0),
                 "cuStreamWaitEvent");
  };
  for (int64_t front = 0; front < chunks + layers - 1; ++front)
    for (int i = layers - 1; i >= 0; --i) {  // the latest first: what it waits for has been reached in the front before
      if (front < i || front - i >= chunks) continue;
      if (i) wait(i, i - 1);
      run(i, front - i);
      record(i);
    }
  for (int i = 1; i < layers; ++i) wait(0, i);
}

// ---- graphs

namespace {

constexpr size_t kGraphs = 16;         // kept by a network
constexpr int64_t kGraphSteps = 4096;  // larger ones take long to make, and gain little

CUgraphExec captured(CUstream stream, const std::function<void()>& body) {
  CUgraph graph = nullptr;
  check_driver(driver().cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  try {
    body();
  } catch (...) {
    driver().cuStreamEndCapture(stream, &graph);
    if (graph) driver().cuGraphDestroy(graph);
    throw;
  }
  check_driver(driver().cuStreamEndCapture(stream, &graph), "cuStreamEndCapture");
  const Relaxed relaxed;  // another thread may be capturing
  CUgraphExec exec = nullptr;
  const CUresult status = driver().cuGraphInstantiate(&exec, graph, 0);
  driver().cuGraphDestroy(graph);
  check_driver(status, "cuGraphInstantiateWithFlags");
  return exec;
}

}  // namespace

void replay(Network::Data& net, const Plan::Data& plan, int kind, double clip, const void* workspace, const void* tape,
            const void* weights, const std::vector<void*>& blas_memory, int64_t steps, CUstream stream,
            const std::function<void(const std::vector<Lane>&)>& body) {
  std::deque<Blas> blas;
  const auto lane_on = [&](CUstream on, size_t i) -> Lane {
    if (plan.engine != Engine::cublas) return {on, nullptr};
    return {on, &blas.emplace_back(net.device, on, blas_memory[i], net.options.allow_tf32)};
  };
  // A graph pays once it is launched again. One of sorted rows would fit one batch's lengths only.
  if (!plan.starts.empty() || steps > kGraphSteps || is_capturing(stream)) return body({lane_on(stream, 0)});
  std::unique_lock<std::mutex> lock(net.graphs_lock);
  auto& graphs = net.graphs;
  const auto found = std::find_if(graphs.begin(), graphs.end(), [&](const Graph& g) {
    return g.plan == plan.number && g.kind == kind && g.clip == clip && g.workspace == workspace && g.tape == tape &&
           g.weights == weights;
  });
  if (found == graphs.end()) {
    graphs.push_front({plan.number, kind, clip, workspace, tape, weights, nullptr});
    if (graphs.size() > kGraphs) {
      if (graphs.back().exec) driver().cuGraphExecDestroy(graphs.back().exec);
      graphs.pop_back();
    }
    lock.unlock();
    return body({lane_on(stream, 0)});
  }
  graphs.splice(graphs.begin(), graphs, found);
  if (!found->exec) {
    std::vector<Lane> lanes;  // before the capture, in which no cuBLAS handle could be made
    for (size_t i = 0; i < blas_memory.size(); ++i) lanes.push_back(lane_on(net.stream_of_lane(i), i));
    found->exec = captured(net.capture_stream, [&] { body(lanes); });
  }
  check_driver(driver().cuGraphLaunch(found->exec, stream), "cuGraphLaunch");
}

}  // namespace cuda
}  // namespace recurra
