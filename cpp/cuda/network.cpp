#include "network.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "call.h"
#include "choice.h"
#include "engine/bptt.h"
#include "engine/row_order.h"

namespace recurra {
namespace cuda {
namespace {

const Spec& spec_named(const std::string& cell) { return spec_of(cell_number(cell)); }

void refuse(const std::string& what) { throw std::invalid_argument(what); }

}  // namespace

Network::Data::Data(const NetworkConfig& c, const Options& o)
    : config(c),
      options(o),
      device(Device::of(o.device)),
      spec(spec_named(c.cell)),
      info(cells()[size_t(cell_number(c.cell))]),
      number_size(number_bytes(o.number)),
      weight_size(cuda::weight_bytes(o.number)) {
  recurra::detail::check_config(config, info);
  if (config.precision != Precision::full) refuse("precision: expected full, the number type says what weights are rounded to");
  if (options.engine == Engine::exact && weight_size == 2) refuse("engine: exact is for float32 and float64");
  if (options.walk != Walk::automatic && options.engine != Engine::exact &&
      !(options.walk == Walk::resident && options.engine == Engine::cublas && weight_size == 2))
    refuse("walk: expected automatic but for the exact engine, or for f16 and bf16 with cublas resident");
  if (options.walk == Walk::resident && !resident_of(*this, 1, Way::forward) && !resident_of(*this, 1, Way::backward))
    refuse("engine: expected one that is not resident, for " + config.cell + " of hidden_size " +
           std::to_string(config.hidden_size) +
           (has_products(*this) ? " does not fit into all multiprocessors" : " needs a GPU of compute capability 8.0 or more"));
  if (options.allow_tf32 && options.number != Number::f32) refuse("allow_tf32: expected a float32 network");
  kernels = kernels_of(device, cell_number(config.cell), options.number);
  Dealer deal;
  for (int layer = 0; layer < config.layers; ++layer) deal_weights(deal, layer, weight_size);
  weight_bytes = deal.used;
  if (engine_of(options, widest()) == Engine::cublas) Blas::prepare(device);
  const Current current(device);
  check_driver(driver().cuStreamCreate(&capture_stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

Network::Data::~Data() {
  release(device, [&] {
    for (const Graph& graph : graphs)
      if (graph.exec) driver().cuGraphExecDestroy(graph.exec);
    driver().cuStreamDestroy(capture_stream);
  });
}

void Network::Data::set_constants(double (&to)[2][kMaxConstants], int first) const {
  for (int d = first; d < directions(); ++d)
    std::copy_n(recurra::detail::constants_of(config, spec, d), spec.constants.size, to[d - first]);
}

PhaseShape Network::Data::shape(int layer, int p) const {
  const Phase& phase = spec.phases[p];
  const auto width = [&](Dim dim) { return dim == Dim::output ? config.output_size : config.hidden_size; };
  PhaseShape shape;
  shape.units = int(width(phase.units));
  shape.inputs = phase.input.count ? input_size(layer) : 0;
  shape.sources = p ? width(spec.phases[p - 1].units) : config.output_size;
  shape.columns = (phase.chains + phase.vector_count) * shape.units;
  return shape;
}

std::vector<PhaseWeights> Network::Data::deal_weights(Dealer& deal, int layer, size_t size) const {
  std::vector<PhaseWeights> all;
  for (int p = 0; p < phases(); ++p) {
    const Phase& phase = spec.phases[p];
    const PhaseShape s = shape(layer, p);
    all.push_back({deal_rows(deal, directions(), int64_t(phase.input.count) * s.units, s.inputs, size),
                   deal_rows(deal, directions(), int64_t(phase.recurrent.count) * s.units, s.sources, size),
                   deal_rows(deal, directions(), 1, s.columns, number_size)});
  }
  return all;
}

Weights Network::Data::weights_at(const void* base) const {
  if (!base && !memory.data()) refuse("weights: expected them packed, or parameters set");
  if (!base) return weights;
  Dealer deal{static_cast<char*>(const_cast<void*>(base))};
  Weights all;
  for (int layer = 0; layer < config.layers; ++layer) all.push_back(deal_weights(deal, layer, weight_size));
  return all;
}

Network::Network(const NetworkConfig& config, const Options& options) : data_(std::make_shared<Data>(config, options)) {}

const NetworkConfig& Network::config() const { return data_->config; }
const CellInfo& Network::cell() const { return data_->info; }
const Options& Network::options() const { return data_->options; }
size_t Network::weight_bytes() const { return data_->weight_bytes; }

void Network::set_parameters(const std::vector<std::vector<const void*>>& params, StreamHandle stream) {
  Data& net = *data_;
  if (!net.memory.data()) {
    net.memory = Memory(net.device, net.weight_bytes);
    net.weights = net.weights_at(net.memory.data());
  }
  pack(params, net.memory.data(), stream);
}

void Network::pack(const std::vector<std::vector<const void*>>& params, void* to, StreamHandle stream) const {
  const Data& net = *data_;
  if (int(params.size()) != net.config.layers * net.directions()) refuse("params: expected one list per layer and direction");
  for (const auto& lane : params) {
    if (int(lane.size()) != net.spec.params.size) refuse("params: expected the cell's number of them");
    for (size_t i = 0; i < lane.size(); ++i)
      if (!lane[i] && !net.spec.params[int(i)].is_bias)
        refuse(std::string(net.spec.params[int(i)].name) + ": expected values, got null");
  }
  const Current current(net.device);
  const Launcher launch{net, static_cast<CUstream>(stream)};
  const Weights all = net.weights_at(to);
  for (size_t lane = 0; lane < params.size(); ++lane)
    for (int p = 0; p < net.phases(); ++p) {
      const int layer = int(lane) / net.directions(), direction = int(lane) % net.directions();
      const PhaseWeights& weights = all[size_t(layer)][size_t(p)];
      launch.zero(of_direction(weights.sums, direction, net.number_size).data, weights.sums.row, net.number_size);
      if (net.config.heads > 1)  // outside of the blocks
        launch.zero(of_direction(weights.recurrent, direction, net.weight_size).data, weights.recurrent.direction,
                    net.weight_size);
      each_parameter(net, layer, p, direction, weights, net.weight_size, [&](int i, ParameterArguments a, bool matrix) {
        a.parameter = const_cast<void*>(params[lane][size_t(i)]);
        if (a.parameter) launch.parameter(matrix ? net.kernels.pack_weights : net.kernels.pack_sums, a);
      });
    }
}

// ---- plans

namespace {

std::atomic<uint64_t> plans{0};

// Numbers of input products, and of chains' gradients, that are in memory at a time: more would not make products faster.
constexpr int64_t kChunkNumbers = 32 << 20;

int64_t steps_of_chunk(int64_t rows, int64_t columns, int64_t steps) {
  return std::clamp<int64_t>(kChunkNumbers / std::max<int64_t>(rows * columns, 1), 1, std::max<int64_t>(steps, 1));
}

}  // namespace

Plan Network::plan(int64_t steps, int64_t rows, const PlanOptions& options) const {
  const Data& net = *data_;
  if (steps < 0 || rows < 0 || rows >= INT32_MAX) refuse("rows: expected 0 to 2^31 - 2 rows and 0 or more steps");
  if (options.cells && !net.states()) refuse("cells: expected none, for the cell's only state is h");
  if (options.lengths && options.device_lengths) refuse("lengths: expected in host or in device memory, got both");
  if (options.packed && (!options.lengths || !std::is_sorted(options.lengths, options.lengths + rows, std::greater<int64_t>())))
    refuse("lengths: expected falling ones in host memory, as packed sequences have them");
  auto plan = std::make_shared<Plan::Data>();
  plan->options = options;
  plan->options.lengths = nullptr;
  plan->options.segments = nullptr;
  if (options.training && options.segments) plan->segments.assign(options.segments, options.segments + 3 * rows);
  plan->number = ++plans;
  plan->all_steps = steps;
  plan->rows = rows;
  const recurra::detail::RowOrder order(rows, steps, options.lengths);
  plan->steps = order.steps;
  if (!order.lengths.empty() && order.lengths.back() < order.steps) {
    plan->order.assign(order.order.begin(), order.order.end());
    plan->lengths.assign(order.lengths.begin(), order.lengths.end());
    plan->starts = recurra::detail::starts_of(order.lengths, order.steps);
  }
  plan->total = plan->at(plan->steps);
  if (plan->total >= INT32_MAX || plan->steps >= INT32_MAX) refuse("x: expected fewer than 2^31 - 1 rows of steps");
  plan->engine = engine_of(net.options, net.widest());
  // Known now, rather than when the gradients of layers above have been added to the caller's.
  if (options.training && plan->engine == Engine::exact) check_columns(net.config.input_size);
  int64_t columns = 1;
  for (int p = 0; p < net.phases(); ++p) columns = std::max<int64_t>(columns, net.shape(0, p).columns * net.directions());
  plan->block_steps =
      std::clamp<int64_t>(recurra::detail::kGradientRows / std::max<int64_t>(rows, 1), 1, std::max<int64_t>(plan->steps, 1));
  plan->chunk_steps = steps_of_chunk(rows, columns, plan->steps);
  plan->backward_steps = std::max<int64_t>(plan->chunk_steps / plan->block_steps, 1) * plan->block_steps;
  choose_walk(net, *plan);
  measure(net, *plan);
  Plan made;
  made.data_ = std::move(plan);
  return made;
}

size_t Plan::workspace_bytes() const { return data_->workspace; }
size_t Plan::backward_workspace_bytes() const { return data_->backward_workspace; }
size_t Plan::tape_bytes() const { return data_->tape; }
Engine Plan::engine() const { return data_->engine; }

void Network::forward(const Plan& plan, const Array& x, const Array* initial, const int32_t* lengths, const Array& y,
                      const Array* final_states, const uint64_t* seed, void* tape, void* workspace, StreamHandle stream,
                      const void* weights, const Array& cells) const {
  if (cells.data && !plan.data_->options.cells) refuse("cells: expected none for a plan without them");
  if (plan.data_->rows && plan.data_->options.device_lengths != (lengths != nullptr))
    refuse("lengths: expected as in the plan");
  if (plan.data_->options.training != (tape != nullptr)) refuse("tape: expected memory for a plan for training only");
  if (seed && !tape) refuse("seed: expected null outside of training");
  run_forward(*data_, *plan.data_, x, initial, lengths, y, final_states, format_of(data_->options.number), seed, tape,
              workspace, static_cast<CUstream>(stream), weights, cells);
}

void Network::backward(const Plan& plan, const Array& dy, const Array* d_final, const Array& dx, const Array* d_initial,
                       const std::vector<std::vector<void*>>& params, bool add, bool seeded, const void* tape, void* workspace,
                       StreamHandle stream, const void* weights, const Array& d_cells, double clip) const {
  if (d_cells.data && !plan.data_->options.cells) refuse("d_cells: expected none for a plan without cells");
  if (!(clip > 0)) refuse("clip: expected a positive number");
  if (!plan.data_->options.training) refuse("plan: expected one for training");
  if (int(params.size()) != data_->config.layers * data_->directions())
    refuse("params: expected one list per layer and direction");
  for (const auto& lane : params)
    if (int(lane.size()) != data_->spec.params.size) refuse("params: expected the cell's number of them");
  run_backward(*data_, *plan.data_, dy, d_final, dx, d_initial, params, add, seeded, tape, workspace,
               static_cast<CUstream>(stream), weights, d_cells, clip);
}

}  // namespace cuda
}  // namespace recurra
