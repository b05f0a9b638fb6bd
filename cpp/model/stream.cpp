// Streams of a model: the same nodes, fed with a few steps at a time.
#include <numeric>

#include "../engine/in_use.h"
#include "nodes.h"

namespace recurra {
namespace detail {

template <class T>
void describe(const Node<T>& node, const std::vector<const Slot<T>*>& in, Slot<T>& out) {
  out.constant = true;
  for (const Slot<T>* slot : in) {
    if (slot->constant) continue;
    if (out.constant)
      out.rate = slot->rate, out.so_far = slot->so_far;
    else if (out.so_far != slot->so_far)
      node.refuse("a stream has no value of the whole sequence while it runs");
    else if (out.rate != slot->rate)
      node.refuse("expected inputs of the same number of steps");
    out.constant = false;
  }
}

namespace {

template <class T>
class PlainStream : public StreamNode<T> {
 public:
  PlainStream(const Plain<T>& node, const StreamSizes& sizes, const std::vector<const Slot<T>*>& in, Slot<T>& out)
      : node_(node), rows_(sizes.rows), frames_(in.size()) {
    describe(node, in, out);
    for (const Slot<T>* slot : in) {
      if (!slot->constant) sequence_ = sequence_ ? sequence_ : slot;
      if (slot->mask && std::find(masks_.begin(), masks_.end(), slot->mask) == masks_.end()) masks_.push_back(slot->mask);
    }
    if (masks_.size() > 1) both_.resize(size_t(sizes.piece * sizes.rows));
    out.mask = masks_.empty() ? nullptr : masks_.size() == 1 ? masks_[0] : both_.data();
  }

  void run() override {
    const int64_t frames = sequence_ ? sequence_->frames : 1;
    this->out->frames = frames;
    for (size_t i = 0; i < frames_.size(); ++i)
      frames_[i] = {this->in[i]->data, this->in[i]->integers, sequence_ && this->in[i]->constant};
    node_.apply(frames_.data(), 0, frames * rows_, rows_, this->out->data);
    for (size_t i = 0; i < size_t(masks_.size() > 1 ? frames * rows_ : 0); ++i) {
      both_[i] = 1;
      for (const uint8_t* mask : masks_) both_[i] &= mask[i];
    }
  }

 private:
  const Plain<T>& node_;
  const int64_t rows_;
  std::vector<Frames<T>> frames_;
  const Slot<T>* sequence_ = nullptr;
  std::vector<uint8_t*> masks_;
  std::vector<uint8_t> both_;
};

}  // namespace

template <class T>
std::unique_ptr<StreamNode<T>> Plain<T>::stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                std::vector<Slot<T>*> out) const {
  return std::make_unique<PlainStream<T>>(*this, sizes, in, *out[0]);
}

template class Plain<float>;
template class Plain<double>;
template void describe(const Node<float>&, const std::vector<const Slot<float>*>&, Slot<float>&);
template void describe(const Node<double>&, const std::vector<const Slot<double>*>&, Slot<double>&);

}  // namespace detail

using detail::expect;
using detail::InUse;
using detail::ModelGraph;
using detail::Slot;
using detail::StreamNode;

template <class T>
struct ModelStream<T>::Live {
  static constexpr int64_t kPiece = 64, kPieceNumbers = 1 << 15;

  Live(std::shared_ptr<const ModelGraph<T>> the_graph, int64_t the_rows, int threads)
      : graph(std::move(the_graph)), rows(detail::checked_rows(the_rows)), slots(graph->values.size()) {
    int64_t widest = 1;
    for (const auto& value : graph->values) widest = std::max(widest, value.size);
    piece = std::max<int64_t>(1, std::min(kPiece, kPieceNumbers / std::max<int64_t>(1, rows * widest)));
    size_t numbers = 0, integers = 0;
    for (const auto& value : graph->values)
      (value.integer ? integers : numbers) += size_t(piece * rows * std::max<int64_t>(1, value.size));
    memory = detail::Buffer<T>(numbers);
    whole.resize(integers);
    T* next = memory.data();
    int64_t* next_integer = whole.data();
    for (size_t v = 0; v < slots.size(); ++v) {
      const int64_t count = piece * rows * std::max<int64_t>(1, graph->values[v].size);
      if (graph->values[v].integer)
        slots[v].integers = next_integer, next_integer += count;
      else
        slots[v].data = next, next += count;
      own.push_back(slots[v].data);
    }
    for (size_t i = 0; i < graph->inputs.size(); ++i) slots[i].constant = !graph->inputs[i].time;
    const detail::StreamSizes sizes{rows, piece, threads};
    by_number.resize(graph->nodes.size());
    for (size_t n = 0; n < graph->nodes.size(); ++n) add(n, sizes);
    frames_of.resize(slots.size());
    made.resize(graph->outputs.size());
    for (const int id : graph->output_values) {
      const bool repeated = std::count(graph->output_values.begin(), graph->output_values.end(), id) > 1;
      direct.push_back(size_t(id) >= graph->inputs.size() && !aliased[size_t(id)] && !repeated && !slots[size_t(id)].constant);
    }
    for (const size_t n : running)
      for (const ModelState& state : by_number[n]->states()) {
        states.push_back(state);
        states.back().name = graph->nodes[n]->name + ":" + state.name;
        holders.push_back({by_number[n].get(), 0});
      }
    for (size_t s = 1; s < holders.size(); ++s)
      if (holders[s].first == holders[s - 1].first) holders[s].second = holders[s - 1].second + 1;
    simple = graph->inputs.size() == 1 && graph->outputs.size() == 1 && graph->inputs[0].time && direct[0];
    reset(nullptr, rows);
  }

  // A recurrent node and the linear one that alone reads it become one.
  void add(size_t n, const detail::StreamSizes& sizes) {
    const detail::Node<T>& node = *graph->nodes[n];
    aliased.resize(slots.size());
    if (std::find(fused.begin(), fused.end(), n) != fused.end()) return;
    std::vector<const Slot<T>*> in;
    std::vector<Slot<T>*> out;
    for (const int id : node.inputs) in.push_back(&slots[size_t(id)]);
    for (const int id : node.outputs) out.push_back(&slots[size_t(id)]);
    const auto* recurrent = dynamic_cast<const detail::Recurrent<T>*>(&node);
    const auto& value = graph->values[size_t(node.outputs[0])];
    const Linear<T>* head = nullptr;
    if (recurrent && value.readers == 1 && !value.output && !in[0]->mask)
      if (const auto* linear = dynamic_cast<const detail::LinearNode<T>*>(graph->nodes[size_t(value.last_reader)].get())) {
        head = &linear->linear;
        out[0] = &slots[size_t(linear->outputs[0])];
        fused.push_back(size_t(value.last_reader));
      }
    by_number[n] = recurrent ? recurrent->stream(sizes, in, out, head) : node.stream(sizes, in, out);
    by_number[n]->in = in;
    by_number[n]->out = out[0];
    aliased[size_t(node.outputs[0])] = node.aliases();
    running.push_back(n);
    const bool always = std::all_of(in.begin(), in.end(), [](const Slot<T>* slot) { return slot->constant; });
    const auto first = std::find_if(in.begin(), in.end(), [](const Slot<T>* slot) { return !slot->constant; });
    order.push_back({by_number[n].get(), always ? nullptr : *first});
  }

  void run_nodes() {
    for (const auto& [node, sequence] : order)
      if (!sequence || sequence->frames)
        node->run();
      else
        node->out->frames = 0;
  }

  bool step(T* y) {
    const Environment environment(backend());
    Slot<T>& out = slots[size_t(graph->output_values[0])];
    slots[0].frames = 1;
    out.data = y;
    run_nodes();
    return out.frames != 0;
  }

  int64_t frames(size_t output, int64_t steps) const {
    std::vector<int64_t>& all = frames_of;
    std::fill(all.begin(), all.end(), steps);
    for (const size_t n : running) {
      const StreamNode<T>& node = *by_number[n];
      int64_t given = steps;
      for (const Slot<T>* slot : node.in)
        if (!slot->constant) given = all[size_t(slot - slots.data())];
      all[size_t(node.out - slots.data())] = node.frames(given);
    }
    const size_t id = size_t(graph->output_values[output]);
    return slots[id].constant ? steps : all[id];
  }

  void run(int64_t steps, const std::vector<ModelInput<T>>& inputs, const std::vector<Sequence<T>>& outputs, const Stop& stop) {
    std::fill(made.begin(), made.end(), 0);
    const Environment environment(backend());
    for (int64_t first = 0; first < steps; first += piece) {
      const int64_t count = std::min(piece, steps - first);
      for (size_t i = 0; i < inputs.size(); ++i) give(i, inputs[i], first, count);
      for (size_t k = 0; k < outputs.size(); ++k)
        if (direct[k]) {
          const Sequence<T>& to = outputs[k];
          Slot<T>& slot = slots[size_t(graph->output_values[k])];
          slot.data =
              close(to, graph->outputs[k].size()) ? to.data + made[k] * to.step_stride : own[size_t(graph->output_values[k])];
        }
      run_nodes();
      for (size_t k = 0; k < outputs.size(); ++k) made[k] += hand_out(k, outputs[k], made[k], count);
      if (stop && stop()) throw Stopped();
    }
  }

  // Whether rows and steps lie side by side.
  template <class U>
  bool close(const Sequence<U>& x, int64_t size) const {
    return (rows <= 1 || x.row_stride == size) && (x.steps <= 1 || x.step_stride == rows * size);
  }

  void give(size_t i, const ModelInput<T>& input, int64_t first, int64_t count) {
    Slot<T>& slot = slots[i];
    const ModelValue& about = graph->inputs[i];
    if (!about.time) first = 0, count = 1;
    slot.frames = count;
    const int64_t size = about.size();
    if (about.integer) {
      int64_t* to = whole.data();
      for (size_t before = 0; before < i; ++before)
        if (graph->inputs[before].integer) to += piece * rows;
      slot.integers = to;
      for (int64_t t = 0; t < count; ++t)
        for (int64_t r = 0; r < rows; ++r)
          to[t * rows + r] = input.integers.data[(first + t) * input.integers.step_stride + r * input.integers.row_stride];
    } else if (const Sequence<const T>& x = input.numbers; close(x, size)) {
      slot.data = const_cast<T*>(x.data + first * x.step_stride);
    } else {
      slot.data = own[i];
      for (int64_t t = 0; t < count; ++t)
        for (int64_t r = 0; r < rows; ++r)
          std::copy_n(x.data + (first + t) * x.step_stride + r * x.row_stride, size, slot.data + (t * rows + r) * size);
    }
  }

  int64_t hand_out(size_t k, const Sequence<T>& to, int64_t made, int64_t count) {
    const Slot<T>& slot = slots[size_t(graph->output_values[k])];
    const int64_t size = graph->outputs[k].size(), frames = slot.constant ? count : slot.frames;
    T* const start = to.data + made * to.step_stride;
    if (slot.data == start) return frames;
    for (int64_t t = 0; t < frames; ++t)
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(slot.data + ((slot.constant ? 0 : t) * rows + r) * size, size,
                    start + t * to.step_stride + r * to.row_stride);
    return frames;
  }

  void reset(const int64_t* which, int64_t count) {
    for (const size_t n : running) {
      StreamNode<T>& node = *by_number[n];
      if (which && count < rows)
        for (const ModelState& state : node.states())
          if (state.name == "position" && state.shape.empty())
            graph->nodes[n]->refuse("a stride over time counts the steps of all rows together: reset all");
    }
    for (const size_t n : running) by_number[n]->reset(which, count);
  }

  std::vector<std::vector<char>> copy_of_states() const {
    std::vector<std::vector<char>> copy;
    for (size_t s = 0; s < states.size(); ++s) {
      int64_t count = 1;
      for (const int64_t axis : states[s].shape) count *= axis;
      copy.emplace_back(size_t(count) * (states[s].integer ? sizeof(int64_t) : sizeof(T)));
      holders[s].first->get_state(holders[s].second, copy.back().data());
    }
    for (size_t k = 0; k < graph->recurrent.size(); ++k) {
      std::vector<T*> to;
      for (const int64_t size : state_sizes(k)) copy.emplace_back(size_t(size) * sizeof(T)), to.push_back(as<T>(copy.back()));
      recurrent(k).get_state(to.data());
    }
    return copy;
  }
  void set_states(std::vector<std::vector<char>>& copy) {
    size_t next = 0;
    for (; next < states.size(); ++next) holders[next].first->set_state(holders[next].second, copy[next].data());
    for (size_t k = 0; k < graph->recurrent.size(); ++k) {
      std::vector<const T*> from;
      for (size_t s = 0; s < state_sizes(k).size(); ++s) from.push_back(as<T>(copy[next++]));
      recurrent(k).set_state(from.data());
    }
  }
  template <class U>
  static U* as(std::vector<char>& bytes) {
    return static_cast<U*>(static_cast<void*>(bytes.data()));
  }
  std::vector<int64_t> state_sizes(size_t k) const {
    const Network<T>& network = graph->recurrent[k].second;
    const NetworkConfig& c = network.config();
    std::vector<int64_t> sizes;
    for (const auto& state : network.cell().states)
      sizes.push_back(c.layers * rows * (state.second == "hidden" ? c.hidden_size : c.output_size));
    return sizes;
  }
  Stream<T>& recurrent(size_t k) const {
    expect(k < graph->recurrent_nodes.size(), "node: expected a number of the model's recurrent nodes");
    return *by_number[size_t(graph->recurrent_nodes[k])]->stream();
  }

  std::shared_ptr<const ModelGraph<T>> graph;
  int64_t rows, piece = 1;
  std::vector<Slot<T>> slots;
  detail::Buffer<T> memory;
  std::vector<int64_t> whole;  // numbers of integer inputs
  std::vector<T*> own;         // of each slot
  std::vector<std::unique_ptr<StreamNode<T>>> by_number;
  std::vector<size_t> running, fused;
  std::vector<std::pair<StreamNode<T>*, const Slot<T>*>> order;  // with what has to have frames for it to run
  std::vector<char> aliased;                                     // by value: its memory is another's
  std::vector<char> direct;                                      // by output: whether it may be written where it is to go
  mutable std::vector<int64_t> frames_of;                        // of each slot, for frames()
  std::vector<int64_t> made;                                     // of each output in a run
  std::vector<ModelState> states;
  std::vector<std::pair<StreamNode<T>*, size_t>> holders;
  bool simple = false;
  mutable std::atomic<bool> busy{false};
};

namespace {

constexpr char kStepsAlone[] = "step: expected a model with one such input and one output that is none of its inputs; use run";

}  // namespace

template <class T>
ModelStream<T>::ModelStream(const Model<T>& model, int64_t rows, int threads) {
  expect(threads >= 1, "threads: expected at least 1");
  live_ = std::make_unique<Live>(model.graph_, rows, threads);
}

template <class T>
ModelStream<T>::~ModelStream() = default;
template <class T>
ModelStream<T>::ModelStream(ModelStream&&) noexcept = default;

template <class T>
bool ModelStream<T>::step(const T* x, T* y) {
  const InUse use(live_->busy);
  expect(live_->simple && !live_->graph->inputs[0].integer, kStepsAlone);
  live_->slots[0].data = const_cast<T*>(x);
  return live_->step(y);
}

template <class T>
bool ModelStream<T>::step(const int64_t* x, T* y) {
  const InUse use(live_->busy);
  expect(live_->simple && live_->graph->inputs[0].integer, kStepsAlone);
  live_->graph->check_integers(0, {x, 1, live_->rows, 0, 1}, nullptr);
  live_->slots[0].integers = x;
  return live_->step(y);
}

template <class T>
bool ModelStream<T>::steps_alone() const {
  return live_->simple;
}

template <class T>
void ModelStream<T>::run(int64_t steps, const std::vector<ModelInput<T>>& inputs, const std::vector<Sequence<T>>& outputs) {
  run(steps, inputs, outputs, {});
}

template <class T>
void ModelStream<T>::run(int64_t steps, const std::vector<ModelInput<T>>& inputs, const std::vector<Sequence<T>>& outputs,
                         const Stop& stop) {
  Live& live = *live_;
  const InUse use(live.busy);
  detail::checked_steps(steps);
  expect(inputs.size() == live.graph->inputs.size(), "inputs: expected as many as the model has");
  expect(outputs.size() == live.graph->outputs.size(), "outputs: expected as many as the model has");
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ModelValue& about = live.graph->inputs[i];
    const int64_t its_steps = about.integer ? inputs[i].integers.steps : inputs[i].numbers.steps;
    const int64_t its_rows = about.integer ? inputs[i].integers.rows : inputs[i].numbers.rows;
    if (its_steps != (about.time ? steps : 1) || its_rows != live.rows)
      throw std::invalid_argument(about.name + ": expected the steps of the run and the rows of the stream");
    if (about.integer) live.graph->check_integers(i, inputs[i].integers, nullptr);
  }
  for (size_t k = 0; k < outputs.size(); ++k)
    if (outputs[k].steps < live.frames(k, steps) || outputs[k].rows != live.rows)
      throw std::invalid_argument(live.graph->outputs[k].name + ": expected an output of " +
                                  std::to_string(live.frames(k, steps)) + " steps and the rows of the stream");
  if (!stop) return live.run(steps, inputs, outputs, stop);
  auto before = live.copy_of_states();
  try {
    live.run(steps, inputs, outputs, stop);
  } catch (...) {  // Stopped, or what `stop` has thrown
    live.set_states(before);
    throw;
  }
}

template <class T>
int64_t ModelStream<T>::frames(size_t output, int64_t steps) const {
  const InUse use(live_->busy);
  expect(output < live_->graph->outputs.size(), "output: expected a number of the model's outputs");
  return live_->frames(output, detail::checked_steps(steps));
}

template <class T>
void ModelStream<T>::reset(const int64_t* rows, int64_t count) {
  const InUse use(live_->busy);
  expect(rows || count == live_->rows, "count: expected that of the stream's rows without rows");
  for (int64_t i = 0; rows && i < count; ++i)
    expect(rows[i] >= 0 && rows[i] < live_->rows, "rows: expected rows of the stream");
  live_->reset(rows, count);
}

template <class T>
void ModelStream<T>::get_state(size_t node, T* const* states) const {
  const InUse use(live_->busy);
  live_->recurrent(node).get_state(states);
}

template <class T>
void ModelStream<T>::set_state(size_t node, const T* const* states) {
  const InUse use(live_->busy);
  live_->recurrent(node).set_state(states);
}

template <class T>
void ModelStream<T>::reset_state(size_t node, const int64_t* rows, int64_t count, const T* const* states, bool alike) {
  const InUse use(live_->busy);
  live_->recurrent(node).reset(rows, count, states, alike);
}

template <class T>
const std::vector<ModelState>& ModelStream<T>::states() const {
  return live_->states;
}

template <class T>
void ModelStream<T>::get_state(size_t state, void* to) const {
  const InUse use(live_->busy);
  expect(state < live_->states.size(), "state: expected a number of the stream's states");
  live_->holders[state].first->get_state(live_->holders[state].second, to);
}

template <class T>
void ModelStream<T>::set_state(size_t state, const void* from) {
  const InUse use(live_->busy);
  expect(state < live_->states.size(), "state: expected a number of the stream's states");
  live_->holders[state].first->set_state(live_->holders[state].second, from);
}

template class ModelStream<float>;
template class ModelStream<double>;

}  // namespace recurra
