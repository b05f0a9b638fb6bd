#include <algorithm>
#include <deque>

#include "call.h"

namespace recurra {
namespace cuda {
namespace {

// What a layer needs while it runs.
struct Scratch {
  std::vector<Rows> input;  // of each phase, of a chunk of steps
  Rows recurrent, kept, mask;
  Rows result;  // where it is not on the tape
  char* blas = nullptr;
  Exchanged exchange;
};

struct Workspace {
  Tape own;                           // of a call without a tape
  std::vector<char*> initial, final;  // of each state: [lane][row][width], numbers
  char* reversed_x = nullptr;
  std::vector<Scratch> scratch;  // of each layer that runs at the same time
};

Scratch deal_scratch(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  const NetworkConfig& c = net.config;
  const int directions = net.directions();
  const int64_t chunk = std::min(plan.total, plan.chunk_steps * plan.rows);
  int64_t columns = 0;
  Scratch s;
  for (int p = 0; p < net.phases(); ++p) {
    const Phase& phase = net.spec.phases[p];
    const int64_t units = net.shape(0, p).units;
    s.input.push_back(deal_rows(deal, directions, chunk, phase.input.count * units, net.number_size));
    columns = std::max(columns, phase.recurrent.count * units);
  }
  s.recurrent = deal_rows(deal, directions, plan.rows, columns, net.number_size);
  s.kept = deal_rows(deal, directions, plan.rows, net.spec.kept * c.hidden_size, net.number_size);
  if (!plan.options.training || plan.options.recompute)
    s.result = deal_rows(deal, directions, plan.rows, net.phases() > 1 ? net.shape(0, 0).units : 0, net.weight_size);
  if (plan.options.training && c.regularization.recurrent_dropout > 0)
    s.mask = deal_rows(deal, directions, plan.rows, c.output_size, net.number_size);
  if (plan.engine == Engine::cublas) s.blas = deal.take(Blas::workspace_bytes, 1);
  s.exchange = deal_exchange(deal, plan.resident, net.weight_size);
  return s;
}

Workspace deal_workspace(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  const NetworkConfig& c = net.config;
  const int directions = net.directions();
  Workspace w;
  if (!plan.options.training) w.own = deal_tape(deal, net, plan);
  for (std::vector<char*>* all : {&w.initial, &w.final})
    for (int s = 0; s <= net.states(); ++s)
      all->push_back(
          deal.take(int64_t(c.layers) * directions * plan.rows * (s ? c.hidden_size : c.output_size), net.number_size));
  const int64_t widest = std::max(c.input_size, c.layers > 1 ? net.input_size(1) : 0);
  if (net.runs_back()) w.reversed_x = deal.take(plan.total * widest, net.weight_size);
  for (int i = 0; i < (plan.wavefront ? c.layers : 1); ++i) w.scratch.push_back(deal_scratch(deal, net, plan));
  return w;
}

// What a layer has made, at times from .. to - 1.
OutputArguments output_of(const Call& call, const LayerRows& rows, int layer, int64_t from, int64_t to) {
  OutputArguments a{};
  a.steps = call.steps();
  a.from = from;
  a.to = to;
  a.columns = call.net.config.output_size;
  a.directions = call.net.directions();
  a.rows = cuda::from(rows.h, call.plan.rows, 0, call.net.number_size);
  a.noise = call.seeded(layer);
  return a;
}

// The time loop of one layer, both directions at once, in chunks of steps.
class Layer {
 public:
  Layer(const Call& call, const Workspace& workspace, const Blas* blas, const std::vector<LayerRows>& layers, int layer)
      : call_(call),
        net_(call.net),
        plan_(call.plan),
        workspace_(workspace),
        scratch_(workspace.scratch[size_t(layer) % workspace.scratch.size()]),
        products_{call_.launch, plan_.engine, blas, net_.directions()},
        weights_(call.weights[size_t(layer)]),
        layers_(layers),
        rows_(layers[size_t(layer) % layers.size()]),
        layer_(layer) {
    x_ = {const_cast<void*>(call.input_rows(layers, layer)), net_.input_size(layer), 0};
    if (net_.directions() == 2)  // the second direction's rows lie elsewhere: as far as that
      x_.direction = (workspace.reversed_x - static_cast<char*>(x_.data)) / int64_t(net_.weight_size);
    if (net_.config.reverse) x_.data = workspace.reversed_x;
  }

  void run(int64_t chunk) const {
    if (chunk == 0) begin();
    const int64_t from = chunk * plan_.chunk_steps, to = std::min(plan_.steps, from + plan_.chunk_steps);
    if (from < to) run(from, to);
    if (to == plan_.steps) end();
    if (layer_ + 1 == net_.config.layers || call_.reads_h_below(layer_ + 1)) return;
    if (!net_.runs_back())
      pass_on(from, to);
    else if (to == plan_.steps)
      pass_on(0, to);
  }

 private:
  int lanes() const { return net_.directions(); }
  bool trains() const { return plan_.options.training; }
  Rows number(const Rows& rows, int64_t first) const { return from(rows, first, 0, net_.number_size); }
  Rows weight(const Rows& rows, int64_t first) const { return from(rows, first, 0, net_.weight_size); }

  void run(int64_t from, int64_t to) const {
    const int64_t first = plan_.at(from);
    for (int p = 0; p < net_.phases(); ++p)
      if (net_.spec.phases[p].input.count)
        products_.input(weights_[size_t(p)], net_.spec.phases[p], net_.shape(layer_, p),
                        cuda::from(x_, first, 0, net_.weight_size), plan_.at(to) - first, scratch_.input[size_t(p)]);
    if (plan_.resident.kernel) return walk(from, to);
    for (int64_t step = from; step < to; ++step) this->step(step, plan_.at(step) - first);
  }

  void pass_on(int64_t from, int64_t to) const {
    OutputArguments a = output_of(call_, rows_, layer_, from, to);
    a.packed = layers_[size_t(layer_ + 1) % layers_.size()].x;
    call_.launch.run(net_.kernels.pass_on, a.columns, plan_.rows, (to - from) * lanes(), a, lanes());
  }

  void begin() const {
    if (net_.runs_back()) {
      const void* const in_time = call_.input_rows(layers_, layer_);
      call_.launch.run(net_.kernels.reverse_rows, x_.row, plan_.total, 1,
                       ReorderArguments{plan_.total, x_.row, call_.steps().reversed, in_time, workspace_.reversed_x});
    }
    for (int s = 0; s <= net_.states(); ++s) copy_state(s, net_.kernels.read_state, workspace_.initial[size_t(s)], false);
    if (call_.drops_recurrent())
      call_.launch.run(
          net_.kernels.draw_masks, net_.config.output_size, plan_.rows, lanes(),
          MaskArguments{plan_.rows, net_.config.output_size, call_.steps().order, scratch_.mask, call_.seeded(layer_)});
    if (rows_.source.data)
      call_.launch.run(net_.kernels.make_source, net_.config.output_size, plan_.rows, lanes(),
                       SourceArguments{plan_.rows, net_.config.output_size, rows_.h, mask(), rows_.source});
  }

  void end() const {
    for (int s = 0; s <= net_.states(); ++s) copy_state(s, net_.kernels.write_state, workspace_.final[size_t(s)], true);
  }

  Rows mask() const { return call_.drops_recurrent() ? scratch_.mask : Rows{}; }

  // Between a state of this layer and rows of all layers that keep it for the caller.
  void copy_state(int s, CUfunction kernel, char* all, bool at_end) const {
    const int64_t width = s ? net_.config.hidden_size : net_.config.output_size;
    StateArguments a{};
    a.steps = call_.steps();
    a.steps.order = nullptr;
    a.columns = width;
    a.first_lane = layer_ * lanes();
    a.at_end = at_end && (!s || plan_.keeps_states());
    a.array = {all, plan_.rows * width, width, 1, net_.number_size == 8 ? format_f64 : format_f32};
    a.rows = s ? from(rows_.states, 0, (s - 1) * width, net_.number_size) : rows_.h;
    call_.launch.run(kernel, width, plan_.rows, lanes(), a);
  }

  // What phases of a step have in common, whose rows begin there.
  PhaseArguments arguments(int64_t before, int64_t after, int64_t at) const {
    PhaseArguments a{};
    if (plan_.options.device_lengths) a.lengths = call_.steps().lengths;
    a.order = call_.steps().order;
    a.h_before = number(rows_.h, before);
    a.h_after = number(rows_.h, after);
    a.states_before = number(rows_.states, plan_.keeps_states() ? before : 0);
    a.states_after = number(rows_.states, plan_.keeps_states() ? after : 0);
    a.source = weight(rows_.source, trains() ? after : 0);
    a.mask = mask();
    a.kept = scratch_.kept;
    a.saved = number(rows_.saved, at);
    net_.set_constants(a.constants);
    a.noise = call_.seeded(layer_);
    a.result = rows_.result.data ? weight(rows_.result, at) : scratch_.result;
    return a;
  }
  void set_sums(PhaseArguments& a, int p) const {
    const PhaseWeights& weights = weights_[size_t(p)];
    a.units = net_.shape(layer_, p).units;
    a.bias = weights.sums.data;
    a.sums_direction = weights.sums.direction;
    a.vectors = advanced(weights.sums.data, net_.spec.phases[p].chains * a.units, net_.number_size);
  }

  // `place`: of the step's first row among those whose input product has been made.
  void step(int64_t step, int64_t place) const {
    const int64_t before = plan_.before(step), rows = plan_.active(step);
    PhaseArguments a = arguments(before, plan_.before(step + 1), plan_.at(step));
    a.rows = int(rows);
    a.step = step;
    Rows source = rows_.source.data ? weight(rows_.source, trains() ? before : 0) : a.h_before;
    for (int p = 0; p < net_.phases(); ++p) {
      const Phase& phase = net_.spec.phases[p];
      const PhaseShape shape = net_.shape(layer_, p);
      const PhaseWeights& weights = weights_[size_t(p)];
      set_sums(a, p);
      a.input = number(scratch_.input[size_t(p)], place);
      a.recurrent = scratch_.recurrent;
      a.recurrent.row = phase.recurrent.count * shape.units;
      if (products_.engine == Engine::exact) a.bias = nullptr;
      products_.recurrent(weights, phase, shape, source, rows, a.input, a.recurrent);
      call_.launch.phase(net_.kernels.forward[p], p, lanes(), a);
      source = a.result;
    }
  }

  // Steps from .. to - 1, whose input products have been made.
  void walk(int64_t from, int64_t to) const {
    const Resident& resident = plan_.resident;
    WalkArguments w{};
    static_cast<WalkPlaces&>(w) = resident.places;
    w.steps = call_.steps();
    w.from = from;
    w.to = to;
    w.moves_states = plan_.keeps_states();
    w.moves_source = trains();
    w.moves_result = rows_.result.data != nullptr;
    for (int p = 0; p < net_.phases(); ++p) {
      w.phase[p] = arguments(0, 0, 0);
      set_sums(w.phase[p], p);
      w.phase[p].input = scratch_.input[size_t(p)];
      w.phase[p].recurrent = weights_[size_t(p)].recurrent;
    }
    launch_walk(call_.launch, resident, plan_.rows, lanes(), scratch_.exchange, w);
  }

  const Call call_;
  const Network::Data& net_;
  const Plan::Data& plan_;
  const Workspace& workspace_;
  const Scratch& scratch_;
  const Products products_;
  const std::vector<PhaseWeights>& weights_;
  const std::vector<LayerRows>& layers_;
  const LayerRows& rows_;
  const int layer_;
  Rows x_;
};

}  // namespace

size_t forward_bytes(const Network::Data& net, const Plan::Data& plan) {
  Dealer deal;
  deal_workspace(deal, net, plan);
  return deal.used;
}

void run_forward(Network::Data& net, const Plan::Data& plan, const Array& x, const Array* initial, const int32_t* lengths,
                 const Array& y, const Array* final_states, int state_format, const uint64_t* seed, void* tape, void* workspace,
                 CUstream stream, const void* packed, const Array& cells) {
  const Current current(net.device);
  const NetworkConfig& c = net.config;
  Dealer deal{static_cast<char*>(workspace)}, taped{static_cast<char*>(tape)};
  const Workspace w = deal_workspace(deal, net, plan);
  const Tape kept = tape ? deal_tape(taped, net, plan) : w.own;
  const std::vector<LayerRows>& layers = kept.layers;
  const Weights weights = net.weights_at(packed);
  const auto call_on = [&](CUstream on) { return Call{net, plan, {net, on}, kept.header, weights, seed != nullptr}; };
  const auto width = [&](int s) { return s ? c.hidden_size : c.output_size; };

  const Call call = call_on(stream);
  call.write_header(seed, lengths);
  call.launch.run(net.kernels.read_input, c.input_size, plan.rows, plan.steps,
                  ReadArguments{call.steps(), c.input_size, call.sequence(x), layers[0].x});
  for (int s = 0; s <= net.states(); ++s)
    call.state(net.kernels.read_state, initial ? initial[s] : Array{}, state_format, w.initial[size_t(s)], width(s));

  std::vector<void*> blas;
  for (const Scratch& each : w.scratch) blas.push_back(each.blas);
  const int64_t steps = plan.resident.kernel ? 0 : plan.steps * c.layers;
  replay(net, plan, seed ? 1 : 0, 0, workspace, tape, packed, blas, steps, stream, [&](const std::vector<Lane>& lanes) {
    std::deque<Layer> all;
    for (int layer = 0; layer < c.layers; ++layer) {
      const Lane& lane = lanes[size_t(layer) % lanes.size()];
      all.emplace_back(call_on(lane.stream), w, lane.blas, layers, layer);
    }
    run_layers(net, lanes, chunks_of(plan.steps, plan.chunk_steps), [&](int i, int64_t chunk) { all[size_t(i)].run(chunk); });
  });

  const LayerRows& last = layers[size_t(c.layers - 1) % layers.size()];
  OutputArguments a = output_of(call, last, c.layers - 1, 0, plan.all_steps);
  a.array = call.sequence(y);
  call.launch.run(net.kernels.write_output, c.output_size, plan.rows, plan.all_steps * net.directions(), a, net.directions());
  if (cells.data) {
    a.columns = c.hidden_size;
    a.rows = from(last.states, plan.rows, 0, net.number_size);
    a.array = call.sequence(cells);
    call.launch.run(net.kernels.write_output, c.hidden_size, plan.rows, plan.all_steps * net.directions(), a, net.directions());
  }
  for (int s = 0; final_states && s <= net.states(); ++s)
    if (final_states[s].data) call.state(net.kernels.write_state, final_states[s], state_format, w.final[size_t(s)], width(s));
}

}  // namespace cuda
}  // namespace recurra
