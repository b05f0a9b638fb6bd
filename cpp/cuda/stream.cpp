// Streams: a step is one kernel for each phase of each layer, two for one by rows, in one graph where there are several.
#include <algorithm>
#include <array>
#include <stdexcept>

#include "call.h"

namespace recurra {
namespace cuda {

struct Stream::Live {
  std::shared_ptr<Network::Data> network;
  int64_t rows;
  Memory memory;
  // h [layer][row][output] before and after a step: they swap. Then the other states, in place: [layer][row][state][hidden].
  Rows h[2], states;
  Rows result, kept;
  Rows apart;   // sums of a phase by rows
  int now = 0;  // which h is before the next step

  // Of each kernel of each layer, for both places of h: the first reads x, the last writes y.
  std::array<std::vector<StepArguments>, 2> steps;
  struct Ready {
    CUgraph graph = nullptr;  // whose nodes the executable one is told by
    CUgraphExec exec = nullptr;
    std::vector<CUgraphNode> nodes;
  };
  std::array<Ready, 2> ready;

  Live(std::shared_ptr<Network::Data> network, int64_t rows);
  ~Live();
  void deal();
  StepArguments arguments(int before, int layer, int phase) const;
  Ready graph(std::vector<StepArguments>& all) const;
  bool by_rows() const { return network->spec.phases[0].by_rows; }
  int kernels() const { return by_rows() ? 2 : network->phases(); }  // of a layer
  bool has_rows(size_t i) const { return by_rows() && i % 2; }
  CUfunction kernel(size_t i) const { return network->kernels.step[i % size_t(kernels())]; }
  Grid grid(size_t i) const {
    if (has_rows(i)) return {1, unsigned(std::min<int64_t>(rows, 65535)), 1};
    const bool few = rows <= kFewRows;
    const int units = step_units(chains(i), few), high = step_rows(few);
    return {unsigned((steps[0][i].phase.units + units - 1) / units), unsigned((rows + high - 1) / high), 1};
  }
  Grid block(size_t i) const { return {unsigned(has_rows(i) ? kParts : kStepThreads), 1, 1}; }
  unsigned shared_bytes(size_t i) const {
    return has_rows(i) ? unsigned(kParts * network->number_size) : unsigned(kStepSharedBytes);
  }
  int chains(size_t i) const { return network->spec.phases[by_rows() ? 0 : int(i) % network->phases()].chains; }
  CUDA_KERNEL_NODE_PARAMS node(size_t i, StepArguments& a, void** parameters) const;
  int state_format() const { return network->number_size == 8 ? format_f64 : format_f32; }
  Array state(int s) const;  // in our memory, [layer][row][width]
  // `count` rows from row `own` on here, from row `given` on there.
  struct Part {
    int64_t own, given, count;
  };
  void copy_states(CUfunction kernel, const Array* states, CUstream stream, const Part& part) const;
};

Stream::Live::Live(std::shared_ptr<Network::Data> the_network, int64_t the_rows)
    : network(std::move(the_network)), rows(the_rows) {
  if (network->directions() != 1) throw std::invalid_argument("network: expected one direction, a stream cannot run backwards");
  if (network->config.reverse) throw std::invalid_argument("network: expected one that runs forward in time");
  network->weights_at(nullptr);
  if (rows < 0 || rows > 65535 * 4) throw std::invalid_argument("rows: expected 0 to 262140, got " + std::to_string(rows));
  deal();
  const Current current(network->device);
  const std::lock_guard<std::mutex> lock(network->graphs_lock);  // another thread may be capturing a graph on that stream
  Launcher{*network, network->capture_stream}.zero(memory.data(), int64_t(memory.size()), 1);
  check_driver(driver().cuStreamSynchronize(network->capture_stream), "cuStreamSynchronize");
  for (int before = 0; before < 2; ++before) {
    for (int layer = 0; layer < network->config.layers; ++layer)
      for (int k = 0; k < kernels(); ++k) steps[size_t(before)].push_back(arguments(before, layer, by_rows() ? 0 : k));
    if (rows && steps[size_t(before)].size() > 1) ready[size_t(before)] = graph(steps[size_t(before)]);
  }
}

Stream::Live::~Live() {
  release(network->device, [&] {
    for (const Ready& each : ready)
      if (each.graph) driver().cuGraphExecDestroy(each.exec), driver().cuGraphDestroy(each.graph);
  });
}

void Stream::Live::deal() {
  const NetworkConfig& c = network->config;
  const size_t size = network->number_size;
  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory.data()};
    for (Rows& each : h) each = deal_rows(deal, c.layers, rows, c.output_size, size);
    states = deal_rows(deal, c.layers, rows, network->states() * c.hidden_size, size);
    result = deal_rows(deal, 1, rows, network->phases() > 1 ? network->shape(0, 0).units : 0, network->weight_size);
    kept = deal_rows(deal, 1, rows, network->spec.kept * c.hidden_size, size);
    apart = deal_rows(deal, 1, rows, by_rows() ? network->spec.phases[0].chains * c.hidden_size : 0, size);
    if (counting) memory = Memory(network->device, deal.used);
  }
}

StepArguments Stream::Live::arguments(int before, int layer, int p) const {
  const Network::Data& net = *network;
  const PhaseWeights& weights = net.weights[size_t(layer)][size_t(p)];
  const PhaseShape shape = net.shape(layer, p);
  const size_t size = net.number_size;
  StepArguments a{};
  a.phase.rows = int(rows);
  a.phase.units = shape.units;
  a.phase.bias = weights.sums.data;
  a.phase.vectors = advanced(weights.sums.data, int64_t(net.spec.phases[p].chains) * shape.units, size);
  a.phase.h_before = of_direction(h[before], layer, size);
  a.phase.h_after = of_direction(h[1 - before], layer, size);
  a.phase.states_before = a.phase.states_after = of_direction(states, layer, size);
  a.phase.input = apart;
  a.phase.recurrent = from(apart, 0, int64_t(net.spec.phases[p].input.count) * shape.units, size);
  a.phase.result = result;
  a.phase.kept = kept;
  net.set_constants(a.phase.constants);
  a.phase.noise.rates = recurra::detail::rates_of(net.config.regularization);
  a.x_is_weight = layer == 0;
  if (layer) a.x = {of_direction(h[1 - before], layer - 1, size).data, 0, net.config.output_size, 1, 0};
  a.input = weights.input.data;
  a.recurrent = weights.recurrent.data;
  a.inputs = shape.inputs;
  a.sources = shape.sources;
  a.source = result;
  return a;
}

CUDA_KERNEL_NODE_PARAMS Stream::Live::node(size_t i, StepArguments& a, void** parameters) const {
  parameters[0] = &a;
  const Grid g = grid(i), b = block(i);
  return {kernel(i), g.x, g.y, g.z, b.x, b.y, b.z, shared_bytes(i), parameters, nullptr, nullptr, nullptr};
}

Stream::Live::Ready Stream::Live::graph(std::vector<StepArguments>& all) const {
  Ready made;
  check_driver(driver().cuGraphCreate(&made.graph, 0), "cuGraphCreate");
  CUresult status = CUDA_SUCCESS;
  for (size_t i = 0; i < all.size() && status == CUDA_SUCCESS; ++i) {
    void* parameters[1];
    const CUDA_KERNEL_NODE_PARAMS described = node(i, all[i], parameters);
    const CUgraphNode previous = i ? made.nodes.back() : nullptr;
    CUgraphNode next = nullptr;
    status = driver().cuGraphAddKernelNode(&next, made.graph, i ? &previous : nullptr, i ? 1 : 0, &described);
    made.nodes.push_back(next);
  }
  if (status == CUDA_SUCCESS) status = driver().cuGraphInstantiate(&made.exec, made.graph, 0);
  if (status != CUDA_SUCCESS) driver().cuGraphDestroy(made.graph);
  check_driver(status, "cuGraphInstantiateWithFlags");
  return made;
}

Stream::Stream(const Network& network, int64_t rows) : live_(std::make_unique<Live>(network.data_, rows)) {}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;

void Stream::step(const Array& x, const Array& y, StreamHandle handle) {
  Live& live = *live_;
  if (!live.rows) return;
  const CUstream stream = static_cast<CUstream>(handle);
  const Current current(live.network->device);
  std::vector<StepArguments>& steps = live.steps[size_t(live.now)];
  Live::Ready& ready = live.ready[size_t(live.now)];
  StepArguments &first = steps.front(), &last = steps.back();
  // Every kernel of the first layer may read x.
  for (int k = 0; k < live.kernels(); ++k) steps[size_t(k)].x = {x.data, 0, x.row, x.column, 0};
  last.y = {y.data, 0, y.row, y.column, 0};
  const bool capturing = is_capturing(stream);
  if (ready.exec && !capturing) {
    const auto set = [&](size_t i) {
      void* parameters[1];
      const CUDA_KERNEL_NODE_PARAMS described = live.node(i, steps[i], parameters);
      check_driver(driver().cuGraphExecKernelNodeSetParams(ready.exec, ready.nodes[i], &described),
                   "cuGraphExecKernelNodeSetParams");
    };
    for (int k = 0; k < live.kernels(); ++k) set(size_t(k));
    if (&last != &first) set(steps.size() - 1);
    check_driver(driver().cuGraphLaunch(ready.exec, stream), "cuGraphLaunch");
  } else {
    for (size_t i = 0; i < steps.size(); ++i)
      launch(live.kernel(i), live.grid(i), live.block(i), stream, steps[i], live.shared_bytes(i));
  }
  // A graph that is launched again must find h where it left it, so there h goes back.
  if (capturing)
    check_driver(
        driver().cuMemcpyDtoDAsync(
            reinterpret_cast<CUdeviceptr>(live.h[live.now].data), reinterpret_cast<CUdeviceptr>(live.h[1 - live.now].data),
            size_t(live.network->config.layers * live.h[0].direction) * live.network->number_size, stream),
        "cuMemcpyDtoDAsync");
  else
    live.now = 1 - live.now;
}

Array Stream::Live::state(int s) const {
  const NetworkConfig& c = network->config;
  if (!s) return {h[now].data, rows * c.output_size, c.output_size, 1};
  return {from(states, 0, (s - 1) * c.hidden_size, network->number_size).data, states.direction, states.row, 1};
}

void Stream::run(const Plan& plan, const Array& x, const Array& y, void* workspace, StreamHandle stream) {
  Live& live = *live_;
  if (plan.data_->rows != live.rows || plan.data_->options.training || !plan.data_->lengths.empty())
    throw std::invalid_argument("plan: expected one of the stream's rows, not for training and without lengths");
  std::vector<Array> states;
  for (int s = 0; s <= live.network->states(); ++s) states.push_back(live.state(s));
  run_forward(*live.network, *plan.data_, x, states.data(), nullptr, y, states.data(), live.state_format(), nullptr, nullptr,
              workspace, static_cast<CUstream>(stream), nullptr);
}

void Stream::Live::copy_states(CUfunction kernel, const Array* given, CUstream stream, const Part& part) const {
  const NetworkConfig& c = network->config;
  const Current current(network->device);
  const Launcher launch{*network, stream};
  for (int s = 0; s <= network->states(); ++s) {
    const Array own = state(s);
    StateArguments a{};
    a.steps.rows = part.count;
    a.columns = s ? c.hidden_size : c.output_size;
    char* const first = static_cast<char*>(given[s].data) + part.given * given[s].row * int64_t(network->weight_size);
    a.array = {first, given[s].outer, given[s].row, given[s].column, format_of(network->options.number)};
    a.rows = from({own.data, own.row, own.outer}, part.own, 0, network->number_size);
    launch.run(kernel, a.columns, part.count, c.layers, a);
  }
}

void Stream::get_state(const Array* states, StreamHandle stream) const {
  live_->copy_states(live_->network->kernels.write_state, states, static_cast<CUstream>(stream), {0, 0, live_->rows});
}

void Stream::set_state(const Array* states, StreamHandle stream) {
  live_->copy_states(live_->network->kernels.read_state, states, static_cast<CUstream>(stream), {0, 0, live_->rows});
}

void Stream::reset(StreamHandle stream) {
  const Current current(live_->network->device);
  const Launcher launch{*live_->network, static_cast<CUstream>(stream)};
  launch.zero(live_->memory.data(), int64_t(live_->memory.size()), 1);
}

void Stream::reset(const int64_t* rows, int64_t count, StreamHandle stream, const Array* states) {
  const Live& live = *live_;
  for (int64_t i = 0; i < count; ++i)
    if (rows[i] < 0 || rows[i] >= live.rows) throw std::invalid_argument("rows: expected numbers of the stream's rows");
  for (int64_t i = 0; states && i < count; ++i)
    live.copy_states(live.network->kernels.read_state, states, static_cast<CUstream>(stream), {rows[i], i, 1});
  if (states) return;
  const Current current(live.network->device);
  const Launcher launch{*live.network, static_cast<CUstream>(stream)};
  constexpr int64_t most = sizeof ClearArguments::row / sizeof(int);
  for (int64_t at = 0; at < count; at += most) {
    ClearArguments a{};
    a.count = int(std::min(most, count - at));
    for (int i = 0; i < a.count; ++i) a.row[i] = int(rows[at + i]);
    for (const Rows& each : {live.h[live.now], live.states}) {
      a.columns = each.row;
      a.rows = each;
      launch.run(live.network->kernels.clear_rows, a.columns, a.count, live.network->config.layers, a);
    }
  }
}

}  // namespace cuda
}  // namespace recurra
