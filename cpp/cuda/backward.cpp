#include <algorithm>
#include <deque>
#include <limits>

#include "call.h"

namespace recurra {
namespace cuda {
namespace {

// What a layer needs while it runs.
struct Scratch {
  Rows loop_dy;  // of its output, in the loops' order
  Rows d_h, d_states, d_result, d_kept, d_masked, mask;
  std::vector<Rows> da;  // of each phase, of a chunk of steps
  Rows previous;         // what recurrent products read, of a chunk, where rows end
  // To compute again what the tape has not, of a chunk.
  std::vector<Rows> input, recurrent;
  Rows saved, kept, result, h, states;
  char* blas = nullptr;
  Exchanged exchange;
};

struct Workspace {
  std::vector<char*> d_final, d_initial;             // of each state: [lane][row][width], numbers
  std::vector<std::vector<PhaseWeights>> gradients;  // [layer][phase], numbers
  char* dy = nullptr;                                // of the network's output, in time: [row][direction][output]
  char* dx = nullptr;                                // of its input, in time
  char* between[2] = {};                             // of another layer's input, in time
  char* second_dx = nullptr;                         // the last direction's, in its loop's order, where that is backwards
  char* reversed_x = nullptr;
  char* d_cells = nullptr;       // of the last layer's second state, in time: [row][direction][hidden]
  Rows loop_dc;                  // of that state, in the loops' order
  std::vector<Scratch> scratch;  // of each layer that runs at the same time, the last one first
};

Scratch deal_scratch(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  const NetworkConfig& c = net.config;
  const int directions = net.directions();
  const size_t size = net.number_size;
  const int64_t hidden = c.hidden_size, rows = plan.rows, states = net.states() * hidden,
                chunk = std::min(plan.total, plan.backward_steps * rows),
                first_units = net.phases() > 1 ? net.shape(0, 0).units : 0;
  Scratch s;
  s.loop_dy = deal_rows(deal, directions, plan.total, c.output_size, size);
  s.d_h = deal_rows(deal, directions, rows, c.output_size, size);
  s.d_states = deal_rows(deal, directions, rows, states, size);
  s.d_result = deal_rows(deal, directions, rows, first_units, size);
  s.d_kept = deal_rows(deal, directions, rows, net.spec.kept * hidden, size);
  if (c.regularization.recurrent_dropout > 0)
    for (Rows* each : {&s.d_masked, &s.mask}) *each = deal_rows(deal, directions, rows, c.output_size, size);
  for (int p = 0; p < net.phases(); ++p)
    s.da.push_back(deal_rows(deal, directions, chunk, net.shape(0, p).columns, net.weight_size));
  if (!plan.starts.empty()) s.previous = deal_rows(deal, directions, chunk, c.output_size, net.weight_size);
  if (plan.options.recompute) {
    for (int p = 0; p < net.phases(); ++p) {
      const Phase& phase = net.spec.phases[p];
      const int64_t units = net.shape(0, p).units;
      s.input.push_back(deal_rows(deal, directions, chunk, phase.input.count * units, size));
      s.recurrent.push_back(deal_rows(deal, directions, chunk, phase.recurrent.count * units, size));
    }
    s.saved = deal_rows(deal, directions, chunk, net.spec.saved * hidden, size);
    s.kept = deal_rows(deal, directions, chunk, net.spec.kept * hidden, size);
    s.result = deal_rows(deal, directions, chunk, first_units, net.weight_size);
    s.h = deal_rows(deal, directions, rows, c.output_size, size);
    s.states = deal_rows(deal, directions, rows, states, size);
  }
  if (plan.engine == Engine::cublas) s.blas = deal.take(Blas::workspace_bytes, 1);
  s.exchange = deal_exchange(deal, plan.resident_back, net.weight_size);
  return s;
}

Workspace deal_workspace(Dealer& deal, const Network::Data& net, const Plan::Data& plan) {
  const NetworkConfig& c = net.config;
  const int directions = net.directions();
  const size_t size = net.number_size;
  const int64_t hidden = c.hidden_size, rows = plan.rows, output = directions * c.output_size,
                widest = std::max(c.input_size, c.layers > 1 ? output : 0);
  Workspace w;
  for (std::vector<char*>* all : {&w.d_final, &w.d_initial})
    for (int s = 0; s <= net.states(); ++s)
      all->push_back(deal.take(int64_t(c.layers) * directions * rows * (s ? hidden : c.output_size), size));
  for (int layer = 0; layer < c.layers; ++layer) w.gradients.push_back(net.deal_weights(deal, layer, size));
  w.dy = deal.take(plan.total * output, size);
  w.dx = deal.take(plan.total * c.input_size, size);
  for (int i = 0; i < std::min(c.layers - 1, 2); ++i) w.between[i] = deal.take(plan.total * output, size);
  if (net.runs_back()) w.second_dx = deal.take(plan.engine == Engine::cublas ? plan.total * widest : 0, size);
  if (net.runs_back()) w.reversed_x = deal.take(plan.total * widest, net.weight_size);
  if (plan.options.cells) {
    w.d_cells = deal.take(plan.total * directions * hidden, size);
    w.loop_dc = deal_rows(deal, directions, plan.total, hidden, size);
  }
  for (int i = 0; i < (plan.wavefront_back ? c.layers : 1); ++i) w.scratch.push_back(deal_scratch(deal, net, plan));
  return w;
}

// Backward through one layer: `count` directions from `first` on.
class Layer {
 public:
  Layer(const Call& call, const Workspace& w, const Blas* blas, const std::vector<LayerRows>& layers, int layer, int first,
        int count, bool has_dy, bool has_dc, double clip, char* dx)
      : call_(call),
        net_(call.net),
        plan_(call.plan),
        w_(w),
        scratch_(w.scratch[size_t(net_.config.layers - 1 - layer) % w.scratch.size()]),
        products_{call_.launch, plan_.engine, blas, count},
        layer_(layer),
        first_(first),
        count_(count),
        has_dy_(has_dy),
        has_dc_(has_dc),
        clip_(clip),
        dx_(dx) {
    const LayerRows& rows = layers[size_t(layer)];
    rows_.h = number(rows.h);
    rows_.states = number(rows.states);
    rows_.saved = number(rows.saved);
    rows_.source = weight(rows.source);
    rows_.result = weight(rows.result);
    x_ = {const_cast<void*>(call.input_rows(layers, layer)), net_.input_size(layer), 0};
    if (net_.runs_back()) {
      x_in_time_ = x_.data;
      x_.direction = (w.reversed_x - static_cast<char*>(x_.data)) / int64_t(net_.weight_size);
      if (net_.config.reverse) x_ = {w.reversed_x, x_.row, 0};
    }
    x_ = weight(x_);
    for (int p = 0; p < net_.phases(); ++p) {
      const PhaseWeights& packed = call.weights[size_t(layer)][size_t(p)];
      weights_.push_back({weight(packed.input), weight(packed.recurrent), number(packed.sums)});
      const PhaseWeights& gradient = w.gradients[size_t(layer)][size_t(p)];
      gradients_.push_back({number(gradient.input), number(gradient.recurrent), number(gradient.sums)});
    }
  }

  // The i-th chunk from the end.
  void run(int64_t i) const {
    const int64_t chunks = chunks_of(plan_.steps, plan_.backward_steps), from = (chunks - 1 - i) * plan_.backward_steps;
    const Chunk chunk = {from, std::min(plan_.steps, from + plan_.backward_steps)};
    if (i == 0) begin();
    if (!net_.runs_back())
      divide(chunk);
    else if (i == 0 && !first_)
      divide({0, plan_.steps});
    if (plan_.total)
      run(chunk);
    else if (i == 0)
      clear_gradients();
    if (i + 1 == chunks) end();
  }

 private:
  struct Chunk {
    int64_t from, to;
  };

  // Rows of this layer's directions, from row `row` on.
  Rows number(const Rows& rows, int64_t row = 0) const {
    return from(of_direction(rows, first_, net_.number_size), row, 0, net_.number_size);
  }
  Rows weight(const Rows& rows, int64_t row = 0) const {
    return from(of_direction(rows, first_, net_.weight_size), row, 0, net_.weight_size);
  }
  // Of rows that are such already.
  Rows at_number(const Rows& rows, int64_t row) const { return from(rows, row, 0, net_.number_size); }
  Rows at_weight(const Rows& rows, int64_t row) const { return from(rows, row, 0, net_.weight_size); }

  const Phase& phase(int p) const { return net_.spec.phases[p]; }
  PhaseShape shape(int p) const { return net_.shape(layer_, p); }
  int64_t rows_of(const Chunk& chunk) const { return plan_.at(chunk.to) - plan_.at(chunk.from); }
  int64_t width(int s) const { return s ? net_.config.hidden_size : net_.config.output_size; }
  Rows mask() const { return call_.drops_recurrent() ? number(scratch_.mask) : Rows{}; }

  void copy_state(int s, CUfunction kernel, char* all) const {
    StateArguments a{};
    a.steps = call_.steps();
    a.steps.order = nullptr;
    a.columns = width(s);
    a.first_lane = layer_ * net_.directions() + first_;
    a.array = {all, plan_.rows * width(s), width(s), 1, net_.number_size == 8 ? format_f64 : format_f32};
    a.rows = s ? from(number(scratch_.d_states), 0, (s - 1) * width(s), net_.number_size) : number(scratch_.d_h);
    call_.launch.run(kernel, width(s), plan_.rows, count_, a);
  }

  void run(const Chunk& chunk) const {
    const Rows previous = this->previous(chunk);
    if (plan_.options.recompute) recompute(chunk, previous);
    if (plan_.resident_back.kernel)
      walk(chunk);
    else
      for (int64_t step = chunk.to - 1; step >= chunk.from; --step) this->step(chunk, step);
    input_gradients(chunk);
    weight_gradients(chunk, previous);
  }

  // The gradients of the layer's output and of its second state, at the chunk's times, to the loops' order.
  void divide(const Chunk& chunk) const {
    const bool top = layer_ + 1 == net_.config.layers;
    DivideArguments a{};
    a.steps = call_.steps();
    a.from = chunk.from;
    a.to = chunk.to;
    a.directions = net_.directions();
    const auto run = [&](const void* packed, const Rows& rows) {
      a.columns = rows.row;
      a.packed = advanced(packed, plan_.at(chunk.from) * a.directions * rows.row, net_.number_size);
      a.rows = rows;
      call_.launch.run(net_.kernels.divide_gradient, a.columns, plan_.rows, (chunk.to - chunk.from) * a.directions, a,
                       a.directions);
    };
    if (has_dc_) run(w_.d_cells, w_.loop_dc);
    if (!top) a.noise = call_.seeded(layer_);
    if (has_dy_) run(top ? w_.dy : w_.between[layer_ % 2], scratch_.loop_dy);
  }

  void begin() const {
    if (x_in_time_ && !first_)
      call_.launch.run(net_.kernels.reverse_rows, x_.row, plan_.total, 1,
                       ReorderArguments{plan_.total, x_.row, call_.steps().reversed, x_in_time_, w_.reversed_x});
    for (int s = 0; s <= net_.states(); ++s) copy_state(s, net_.kernels.read_state, w_.d_final[size_t(s)]);
    if (call_.drops_recurrent())
      call_.launch.run(
          net_.kernels.draw_masks, net_.config.output_size, plan_.rows, count_,
          MaskArguments{plan_.rows, net_.config.output_size, call_.steps().order, mask(), call_.seeded(layer_, first_)});
  }

  void end() const {
    for (int s = 0; s <= net_.states(); ++s) copy_state(s, net_.kernels.write_state, w_.d_initial[size_t(s)]);
    if (!dx_ || in_time() || !net_.runs_back()) return;
    // The last direction's gradient is in its own order still.
    if (net_.config.reverse) call_.launch.zero(dx_, plan_.total * x_.row, net_.number_size);
    call_.launch.run(net_.kernels.add_reversed, x_.row, plan_.total, 1,
                     ReorderArguments{plan_.total, x_.row, call_.steps().reversed, w_.second_dx, dx_});
  }

  // The exact engine makes the gradients of a direction that runs backwards in time, or adds them to the first one's; the
  // other one puts them aside.
  bool in_time() const { return products_.engine == Engine::exact; }

  void clear_gradients() const {
    const auto clear = [&](const Rows& rows, int64_t count) {
      for (int d = 0; d < count_; ++d)
        call_.launch.zero(of_direction(rows, d, net_.number_size).data, count * rows.row, net_.number_size);
    };
    for (int p = 0; p < net_.phases(); ++p) {
      const PhaseWeights& gradient = gradients_[size_t(p)];
      clear(gradient.input, int64_t(phase(p).input.count) * shape(p).units);
      clear(gradient.recurrent, int64_t(phase(p).recurrent.count) * shape(p).units);
      clear(gradient.sums, 1);
    }
  }

  // What the first phase's recurrent products read, row for row of the chunk.
  Rows previous(const Chunk& chunk) const {
    const Rows rows = rows_.source.data ? rows_.source : rows_.h;
    if (plan_.starts.empty()) return at_weight(rows, plan_.before(chunk.from));
    PreviousArguments a{call_.steps(), chunk.from, chunk.to, net_.config.output_size, count_, rows, weight(scratch_.previous)};
    call_.launch.run(net_.kernels.gather_previous, a.columns, plan_.rows, (chunk.to - chunk.from) * count_, a, count_);
    return a.to;
  }

  // With all h known, steps do not wait for each other: products are made of all rows of the chunk at once.
  void recompute(const Chunk& chunk, const Rows& previous) const {
    const int64_t first = plan_.at(chunk.from), count = rows_of(chunk);
    for (int p = 0; p < net_.phases(); ++p) {
      const Rows input = number(scratch_.input[size_t(p)]), recurrent = number(scratch_.recurrent[size_t(p)]);
      if (phase(p).input.count) products_.input(weights_[size_t(p)], phase(p), shape(p), at_weight(x_, first), count, input);
      products_.recurrent(weights_[size_t(p)], phase(p), shape(p), p ? weight(scratch_.result) : previous, count, input,
                          recurrent);
      for (int64_t step = chunk.from; step < chunk.to; ++step) {
        const int64_t place = plan_.at(step) - first;
        PhaseArguments a{};
        a.rows = int(plan_.active(step));
        a.units = shape(p).units;
        a.step = step;
        if (plan_.options.device_lengths) a.lengths = call_.steps().lengths;
        a.order = call_.steps().order;
        a.input = at_number(input, place);
        a.recurrent = at_number(recurrent, place);
        a.bias = products_.engine == Engine::exact ? nullptr : weights_[size_t(p)].sums.data;
        a.sums_direction = weights_[size_t(p)].sums.direction;
        a.vectors = vectors(p);
        a.h_before = at_number(rows_.h, plan_.before(step));
        a.h_after = number(scratch_.h);
        a.states_before = at_number(rows_.states, plan_.before(step));
        a.states_after = number(scratch_.states);
        a.result = at_weight(weight(scratch_.result), place);
        a.kept = at_number(number(scratch_.kept), place);
        a.saved = at_number(number(scratch_.saved), place);
        net_.set_constants(a.constants, first_);
        a.noise = call_.seeded(layer_, first_);
        call_.launch.phase(net_.kernels.forward[p], p, count_, a);
      }
    }
  }

  const void* vectors(int p) const {
    return advanced(weights_[size_t(p)].sums.data, int64_t(phase(p).chains) * shape(p).units, net_.number_size);
  }

  // What phases of a step have in common. `at`: its first row among those of all steps; `before`: that among rows which are
  // kept before every step; `place`: that among the chunk's.
  BackwardArguments arguments(int64_t at, int64_t before, int64_t place) const {
    BackwardArguments a{};
    if (plan_.options.device_lengths) a.lengths = call_.steps().lengths;
    a.order = call_.steps().order;
    if (has_dy_) a.dy = at_number(number(scratch_.loop_dy), at);
    if (has_dc_) a.d_cells = at_number(number(w_.loop_dc), at);
    a.d_h = number(scratch_.d_h);
    a.d_result = number(scratch_.d_result);
    a.d_states = number(scratch_.d_states);
    a.d_kept = number(scratch_.d_kept);
    a.h_before = at_number(rows_.h, before);
    a.states_before = at_number(rows_.states, before);
    a.saved = plan_.options.recompute ? at_number(number(scratch_.saved), place) : at_number(rows_.saved, at);
    net_.set_constants(a.constants, first_);
    a.noise = call_.seeded(layer_, first_);
    return a;
  }
  void set_phase(BackwardArguments& a, int p, int64_t place) const {
    a.units = shape(p).units;
    a.vectors = vectors(p);
    a.sums_direction = weights_[size_t(p)].sums.direction;
    a.da = at_weight(weight(scratch_.da[size_t(p)]), place);
  }

  void step(const Chunk& chunk, int64_t step) const {
    const int64_t place = plan_.at(step) - plan_.at(chunk.from), rows = plan_.active(step);
    BackwardArguments a = arguments(plan_.at(step), plan_.before(step), place);
    a.rows = int(rows);
    a.step = step;
    for (int p = net_.phases() - 1; p >= 0; --p) {
      set_phase(a, p, place);
      call_.launch.phase(net_.kernels.backward[p], p, count_, a);
      const bool masked = !p && call_.drops_recurrent();
      const Rows to = p ? a.d_result : masked ? number(scratch_.d_masked) : a.d_h;
      products_.to_source(weights_[size_t(p)], phase(p), shape(p), a.da, rows, !p && !masked, to);
      if (masked)
        call_.launch.run(net_.kernels.add_masked, net_.config.output_size, rows, count_,
                         MaskedArguments{rows, net_.config.output_size, a.d_h, mask(), to});
    }
    if (clip_ == std::numeric_limits<double>::infinity()) return;
    const int64_t others = net_.states() * net_.config.hidden_size;
    call_.launch.run(net_.kernels.clip_rows, net_.config.output_size, rows, count_,
                     ClipArguments{rows, net_.config.output_size, step, a.lengths, clip_, a.d_h});
    if (others)
      call_.launch.run(net_.kernels.clip_rows, others, rows, count_,
                       ClipArguments{rows, others, step, a.lengths, clip_, a.d_states});
  }

  // All steps of the chunk, the last first.
  void walk(const Chunk& chunk) const {
    const Resident& resident = plan_.resident_back;
    WalkBackArguments w{};
    static_cast<WalkPlaces&>(w) = resident.places;
    w.steps = call_.steps();
    w.from = chunk.from;
    w.to = chunk.to;
    for (int p = 0; p < net_.phases(); ++p) {
      w.phase[p] = arguments(0, 0, 0);
      set_phase(w.phase[p], p, 0);
      w.recurrent[p] = weights_[size_t(p)].recurrent;
    }
    w.mask = mask();
    w.clip = clip_;
    w.saved_from = plan_.options.recompute ? chunk.from : 0;
    launch_walk(call_.launch, resident, plan_.rows, count_, scratch_.exchange, w);
  }

  void input_gradients(const Chunk& chunk) const {
    if (!dx_) return;
    const int64_t first = plan_.at(chunk.from), count = rows_of(chunk);
    for (int d = 0; d < count_; ++d) {
      const bool back = net_.runs_back() && first_ + d + 1 == net_.directions(), placed = back && in_time();
      Rows to = {back && !placed ? w_.second_dx : dx_, x_.row, 0};
      if (!placed) to = at_number(to, first);
      bool add = placed && net_.directions() == 2;
      for (int p = 0; p < net_.phases(); ++p) {
        if (!phase(p).input.count) continue;
        PhaseWeights one = weights_[size_t(p)];
        one.input = of_direction(one.input, d, net_.weight_size);
        products_.to_input(one, phase(p), shape(p), of_direction(weight(scratch_.da[size_t(p)]), d, net_.weight_size), count,
                           add, placed ? call_.steps().reversed + first : nullptr, to);
        add = true;
      }
    }
  }

  void weight_gradients(const Chunk& chunk, const Rows& previous) const {
    const int64_t first = plan_.at(chunk.from), count = rows_of(chunk);
    const bool add = chunk.to != plan_.steps;
    const int64_t* starts = call_.steps().starts;
    const Outer order = {
        chunk.to - chunk.from, plan_.block_steps, starts ? starts + chunk.from : nullptr, plan_.rows, add, {}, {}};
    const Rows result = rows_.result.data ? at_weight(rows_.result, first) : weight(scratch_.result);
    for (int p = 0; p < net_.phases(); ++p) {
      const PhaseShape s = shape(p);
      const PhaseWeights& gradient = gradients_[size_t(p)];
      const Rows da = weight(scratch_.da[size_t(p)]);
      products_.outer(order, s, da, 0, phase(p).input.count, at_weight(x_, first), s.inputs, count, add, gradient.input);
      products_.outer(order, s, da, recurrent_slot(phase(p)), phase(p).recurrent.count, p ? result : previous, s.sources, count,
                      add, gradient.recurrent);
      SumArguments sums{s.columns, order};
      sums.outer.a = da;
      sums.outer.out = gradient.sums;
      if (plan_.engine == Engine::exact)
        call_.launch.run(net_.kernels.column_sums, s.columns, count_, 1, sums);
      else
        launch_sums(net_.kernels.parallel_sums, s.columns, count_, net_.number_size, call_.launch.stream, sums);
    }
  }

  const Call call_;
  const Network::Data& net_;
  const Plan::Data& plan_;
  const Workspace& w_;
  const Scratch& scratch_;
  const Products products_;
  const int layer_, first_, count_;
  const bool has_dy_, has_dc_;
  const double clip_;
  char* const dx_;
  LayerRows rows_;
  Rows x_;
  const void* x_in_time_ = nullptr;  // where a direction runs backwards, and has its own order
  std::vector<PhaseWeights> weights_, gradients_;
};

}  // namespace

size_t backward_bytes(const Network::Data& net, const Plan::Data& plan) {
  Dealer deal;
  deal_workspace(deal, net, plan);
  return deal.used;
}

void run_backward(Network::Data& net, const Plan::Data& plan, const Array& dy, const Array* d_final, const Array& dx,
                  const Array* d_initial, const std::vector<std::vector<void*>>& params, bool add, bool draws, const void* tape,
                  void* workspace, CUstream stream, const void* packed, const Array& d_cells, double clip) {
  const Current current(net.device);
  const NetworkConfig& c = net.config;
  Dealer deal{static_cast<char*>(workspace)}, taped{static_cast<char*>(const_cast<void*>(tape))};
  const Workspace w = deal_workspace(deal, net, plan);
  const Tape kept = deal_tape(taped, net, plan);
  const Weights weights = net.weights_at(packed);
  const auto call_on = [&](CUstream on) { return Call{net, plan, {net, on}, kept.header, weights, draws}; };
  const auto width = [&](int s) { return s ? c.hidden_size : c.output_size; };
  const int format = format_of(net.options.number), directions = net.directions();
  const Call call = call_on(stream);

  if (dy.data)
    call.launch.run(net.kernels.read_gradient, directions * c.output_size, plan.rows, plan.steps,
                    ReadArguments{call.steps(), directions * c.output_size, call.sequence(dy), w.dy});
  if (d_cells.data)
    call.launch.run(net.kernels.read_gradient, directions * c.hidden_size, plan.rows, plan.steps,
                    ReadArguments{call.steps(), directions * c.hidden_size, call.sequence(d_cells), w.d_cells});
  for (int s = 0; s <= net.states(); ++s)
    call.state(net.kernels.read_state, d_final ? d_final[s] : Array{}, format, w.d_final[size_t(s)], width(s));

  const int kind = 2 + (dy.data ? 4 : 0) + (dx.data ? 8 : 0) + (draws ? 16 : 0) + (d_cells.data ? 32 : 0);
  const int64_t steps = plan.resident_back.kernel && !plan.options.recompute ? 0 : plan.steps * c.layers;
  std::vector<void*> blas;
  for (const Scratch& each : w.scratch) blas.push_back(each.blas);
  replay(net, plan, kind, clip, workspace, tape, packed, blas, steps, stream, [&](const std::vector<Lane>& lanes) {
    // The exact engine's sums go on from direction to direction, where one has several chunks.
    const int at_once = plan.engine == Engine::exact && plan.backward_steps < plan.steps ? 1 : directions;
    const int64_t chunks = chunks_of(plan.steps, plan.backward_steps), passes = directions / at_once;
    std::deque<Layer> all;  // the last one first
    for (int layer = c.layers - 1; layer >= 0; --layer) {
      const bool top = layer + 1 == c.layers;
      const Lane& lane = lanes[size_t(c.layers - 1 - layer) % lanes.size()];
      for (int first = 0; first < directions; first += at_once)
        all.emplace_back(call_on(lane.stream), w, lane.blas, kept.layers, layer, first, at_once, !top || dy.data,
                         top && d_cells.data, clip,
                         layer     ? w.between[(layer - 1) % 2]
                         : dx.data ? w.dx
                                   : nullptr);
    }
    run_layers(net, lanes, passes * chunks,
               [&](int i, int64_t chunk) { all[size_t(i * passes + chunk / chunks)].run(chunk % chunks); });
  });

  if (dx.data) {
    OutputArguments a{};
    a.steps = call.steps();
    a.steps.reverse = 0;
    a.columns = c.input_size;
    a.directions = 1;
    a.to = plan.all_steps;
    a.rows = {w.dx, c.input_size, 0};
    a.array = call.sequence(dx);
    call.launch.run(net.kernels.write_output, c.input_size, plan.rows, plan.all_steps, a);
  }
  for (int s = 0; d_initial && s <= net.states(); ++s)
    if (d_initial[s].data) call.state(net.kernels.write_state, d_initial[s], format, w.d_initial[size_t(s)], width(s));
  for (size_t lane = 0; lane < params.size(); ++lane)
    for (int p = 0; p < net.phases(); ++p) {
      const int layer = int(lane) / directions;
      each_parameter(net, layer, p, int(lane) % directions, w.gradients[size_t(layer)][size_t(p)], net.number_size,
                     [&](int i, ParameterArguments a, bool) {
                       a.parameter = params[lane][size_t(i)];
                       a.adds = add;
                       if (a.parameter) call.launch.parameter(net.kernels.give_gradient, a);
                     });
    }
}

}  // namespace cuda
}  // namespace recurra
