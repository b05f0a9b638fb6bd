// Calls of a model: values on their way from node to node.
#include <algorithm>

#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

std::string text(int64_t number) { return std::to_string(number); }

template <class T>
bool side_by_side(const Sequence<T>& x, int64_t size) {
  return (x.rows <= 1 || x.row_stride == size) && (x.steps <= 1 || x.step_stride == x.rows * size);
}

template <class T, class U>
void copy_rows(const Sequence<T>& from, const Sequence<U>& to, int64_t size) {
  for (int64_t t = 0; t < from.steps; ++t)
    for (int64_t r = 0; r < from.rows; ++r)
      std::copy_n(from.data + t * from.step_stride + r * from.row_stride, size,
                  to.data + t * to.step_stride + r * to.row_stride);
}

std::vector<uint8_t> copy_of(const Sequence<const uint8_t>& flags) {
  std::vector<uint8_t> copy;
  for (int64_t t = 0; flags.data && t < flags.steps; ++t)
    for (int64_t r = 0; r < flags.rows; ++r) copy.push_back(flags.data[t * flags.step_stride + r * flags.row_stride] != 0);
  return copy;
}

}  // namespace

template <class T>
void ModelGraph<T>::check_integers(size_t input, const Sequence<const int64_t>& x, const int64_t* lengths) const {
  const int64_t limit = values[input].limit;
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t t = 0, end = lengths && inputs[input].time ? lengths[r] : x.steps; t < end; ++t)
      if (const int64_t i = x.data[t * x.step_stride + r * x.row_stride]; i < 0 || i >= limit)
        throw std::invalid_argument(inputs[input].name + ": expected integers in 0.." + text(limit - 1) + ", got " + text(i));
}

template <class T>
Run<T>::Run(const ModelGraph<T>& graph, const ModelCall<T>& the_call, const Stop& the_stop)
    : call(the_call), stop(the_stop), graph_(graph), values_(graph.values.size()) {
  expect(call.inputs.size() == graph.inputs.size(), "inputs: expected as many as the model has");
  expect(call.outputs.size() == graph.outputs.size(), "outputs: expected as many as the model has");
  rows = -1;
  std::map<int64_t, std::shared_ptr<Timing>> timings;  // by steps
  for (size_t i = 0; i < graph.inputs.size(); ++i) {
    const ModelValue& about = graph.inputs[i];
    CallValue<T>& value = values_[i];
    value.numbers = call.inputs[i].numbers, value.integers = call.inputs[i].integers;
    const int64_t its_rows = about.integer ? value.integers.rows : value.numbers.rows;
    const int64_t steps = about.integer ? value.integers.steps : value.numbers.steps;
    if (rows < 0) rows = checked_rows(its_rows);
    if (its_rows != rows) throw std::invalid_argument(about.name + ": expected " + text(rows) + " rows, got " + text(its_rows));
    if (checked_steps(steps) != 1 && !about.time)
      throw std::invalid_argument(about.name + ": expected one step, got " + text(steps));
    if (about.time) {
      std::shared_ptr<Timing>& timing = timings[steps];
      if (!timing) timing = std::make_shared<Timing>();
      value.timing = timing;
    }
  }
  for (const auto& [steps, timing] : timings) {
    timing->steps = steps, timing->rows = rows;
    for (int64_t r = 0; call.lengths && r < rows; ++r) {
      expect(call.lengths[r] >= 0 && call.lengths[r] <= steps, "lengths: expected 0 to the number of steps");
      timing->lengths.push_back(call.lengths[r]);
    }
    for (const auto* flags : {&call.marks.resets, &call.marks.mask})
      expect(!flags->data || (flags->steps == steps && flags->rows == rows),
             "resets, mask: expected the steps and rows of the inputs");
    timing->resets = copy_of(call.marks.resets), timing->mask = copy_of(call.marks.mask);
  }
  for (size_t i = 0; i < graph.inputs.size(); ++i)
    if (graph.inputs[i].integer) graph.check_integers(i, values_[i].integers, call.lengths);
}

template <class T>
Frames<T> Run<T>::frames(int id) {
  CallValue<T>& value = values_[size_t(id)];
  const int64_t size = graph_.values[size_t(id)].size;
  const bool constant = !value.timing;
  if (graph_.values[size_t(id)].integer) {
    if (!side_by_side(value.integers, 1)) {
      const int64_t steps = value.integers.steps;
      value.memory = std::make_shared<Block>(size_t(steps * rows) * sizeof(int64_t));
      const Sequence<int64_t> copy{value.memory->template as<int64_t>(), steps, rows, rows, 1};
      copy_rows(value.integers, copy, 1);
      value.integers = {copy.data, steps, rows, rows, 1};
    }
    return {nullptr, value.integers.data, constant};
  }
  if (!side_by_side(value.numbers, size)) {
    const int64_t steps = value.numbers.steps;
    value.memory = std::make_shared<Block>(size_t(steps * rows * size) * sizeof(T));
    const Sequence<T> copy{value.memory->template as<T>(), steps, rows, rows * size, size};
    copy_rows(value.numbers, copy, size);
    value.numbers = {copy.data, steps, rows, rows * size, size};
  }
  return {value.numbers.data, nullptr, constant};
}

template <class T>
const Sequence<T>* Run<T>::place_of(int id) const {
  for (size_t k = 0; k < graph_.output_values.size(); ++k)
    if (graph_.output_values[k] == id) return &call.outputs[k];
  return nullptr;
}

template <class T>
Sequence<T> Run<T>::make_sequence(int id, SharedTiming timing) {
  CallValue<T>& value = values_[size_t(id)];
  const int64_t size = graph_.values[size_t(id)].size, steps = timing ? timing->steps : 1;
  const Sequence<T>* place = place_of(id);
  Sequence<T> to{nullptr, steps, rows, rows * size, size};
  if (place && place->steps == steps && place->rows == rows) {
    to = *place;
  } else {
    value.memory = std::make_shared<Block>(size_t(steps * rows * size) * sizeof(T));
    to.data = value.memory->template as<T>();
  }
  value.numbers = {to.data, steps, rows, to.step_stride, to.row_stride};
  value.timing = std::move(timing);
  return to;
}

template <class T>
T* Run<T>::make(int id, SharedTiming timing) {
  const int64_t size = graph_.values[size_t(id)].size, steps = timing ? timing->steps : 1;
  const Sequence<T>* place = place_of(id);
  if (place && place->steps == steps && place->rows == rows && side_by_side(*place, size))
    return make_sequence(id, std::move(timing)).data;
  CallValue<T>& value = values_[size_t(id)];
  value.memory = std::make_shared<Block>(size_t(steps * rows * size) * sizeof(T));
  T* const data = value.memory->template as<T>();
  value.numbers = {data, steps, rows, rows * size, size};
  value.timing = std::move(timing);
  return data;
}

template <class T>
bool Run<T>::take(int id, int from) {
  const CallValue<T>& old = values_[size_t(from)];
  if (!old.memory || old.memory.use_count() > 1 || graph_.values[size_t(from)].last_reader > node_ ||
      graph_.values[size_t(id)].output || graph_.values[size_t(from)].output ||
      graph_.values[size_t(id)].size != graph_.values[size_t(from)].size)
    return false;
  values_[size_t(id)] = old;
  return true;
}

template <class T>
void Run<T>::drop_after(int node) {
  node_ = node + 1;
  for (const int id : graph_.nodes[size_t(node)]->inputs)
    if (graph_.values[size_t(id)].last_reader == node && !graph_.values[size_t(id)].output)
      values_[size_t(id)].memory = nullptr;
  if (stop && stop()) throw Stopped();
}

template <class T>
void Run<T>::finish() {
  for (size_t k = 0; k < graph_.output_values.size(); ++k) {
    const CallValue<T>& value = values_[size_t(graph_.output_values[k])];
    const int64_t size = graph_.outputs[k].size();
    const Sequence<T>& to = call.outputs[k];
    if (to.steps != value.numbers.steps || to.rows != rows)
      throw std::invalid_argument(graph_.outputs[k].name + ": expected an output of " + text(value.numbers.steps) +
                                  " steps and " + text(rows) + " rows");
    if (value.numbers.data != to.data) copy_rows(value.numbers, to, size);
    for (int64_t r = 0; value.timing && r < rows; ++r)
      for (int64_t t = value.timing->length(r); t < to.steps; ++t)
        std::fill_n(to.data + t * to.step_stride + r * to.row_stride, size, T(0));
  }
}

template <class T>
SharedTiming common_timing(const Node<T>& node, Run<T>& run) {
  SharedTiming common;
  for (const int id : node.inputs) {
    const SharedTiming& other = run[id].timing;
    if (!other || other == common) continue;
    if (!common) {
      common = other;
      continue;
    }
    if (other->steps != common->steps)
      node.refuse("expected inputs of the same number of steps, got " + text(common->steps) + " and " + text(other->steps));
    auto both = std::make_shared<Timing>(*common);  // a row is as long as the shortest, a step masked where one is
    for (int64_t r = 0; r < run.rows && !(common->lengths.empty() && other->lengths.empty()); ++r) {
      both->lengths.resize(size_t(run.rows));
      both->lengths[size_t(r)] = std::min(common->length(r), other->length(r));
    }
    if (!other->mask.empty()) both->mask.resize(other->mask.size(), 1);
    for (size_t i = 0; i < other->mask.size(); ++i) both->mask[i] = both->mask[i] && other->mask[i];
    if (!other->resets.empty()) both->resets.resize(other->resets.size());
    for (size_t i = 0; i < other->resets.size(); ++i) both->resets[i] = both->resets[i] || other->resets[i];
    common = both;
  }
  return common;
}

template <class T>
void Plain<T>::call(Run<T>& run) const {
  const SharedTiming timing = common_timing(*this, run);
  std::vector<Frames<T>> in;
  for (const int id : this->inputs) in.push_back(run.frames(id));
  if (timing)
    for (size_t i = 0; i < in.size(); ++i) in[i].constant = !run[this->inputs[i]].timing;
  else
    for (Frames<T>& each : in) each.constant = false;
  const int id = this->outputs[0];
  const int first_input = this->inputs[0];
  const bool once = std::count(this->inputs.begin(), this->inputs.end(), first_input) == 1;  // or it is read again too late
  const bool taken = in_place() && once && run[first_input].timing == timing && run.take(id, first_input);
  T* const out = taken ? const_cast<T*>(in[0].data) : run.make(id, timing);
  share((timing ? timing->steps : 1) * run.rows, this->multiplications(), run.stop,
        [&](int64_t first, int64_t count, int) { apply(in.data(), first, count, run.rows, out); });
}

template class Run<float>;
template class Run<double>;
template class Plain<float>;
template class Plain<double>;
template SharedTiming common_timing(const Node<float>&, Run<float>&);
template SharedTiming common_timing(const Node<double>&, Run<double>&);

}  // namespace detail

template <class T>
Model<T>::Model(std::string_view structure, const ModelParameters<T>& parameters)
    : graph_(std::make_shared<detail::ModelGraph<T>>(structure, parameters)) {}

template <class T>
const std::vector<ModelValue>& Model<T>::inputs() const {
  return graph_->inputs;
}

template <class T>
const std::vector<ModelValue>& Model<T>::outputs() const {
  return graph_->outputs;
}

template <class T>
const std::vector<std::pair<std::string, Network<T>>>& Model<T>::recurrent() const {
  return graph_->recurrent;
}

template <class T>
bool Model<T>::batch_first() const {
  return graph_->batch_first;
}

template <class T>
double Model<T>::multiplications_per_step() const {
  return graph_->multiplications;
}

template <class T>
int64_t Model<T>::output_steps(size_t output, const std::vector<int64_t>& steps) const {
  detail::expect(output < graph_->outputs.size(), "output: expected a number of the model's outputs");
  detail::expect(steps.size() == graph_->inputs.size(), "steps: expected one number for each input");
  std::vector<int64_t> all(steps);
  std::for_each(all.begin(), all.end(), detail::checked_steps);
  all.resize(graph_->values.size());
  for (const auto& node : graph_->nodes) {
    int64_t given = 1;
    for (auto id = node->inputs.rbegin(); id != node->inputs.rend(); ++id)
      if (graph_->values[size_t(*id)].time) given = all[size_t(*id)];
    all[size_t(node->outputs[0])] = node->steps(given);
  }
  const int id = graph_->output_values[output];
  return graph_->values[size_t(id)].time ? all[size_t(id)] : 1;
}

template <class T>
void Model<T>::forward(const ModelCall<T>& call, const Stop& stop) const {
  detail::Run<T> run(*graph_, call, stop);
  for (size_t n = 0; n < graph_->nodes.size(); ++n) {
    graph_->nodes[n]->call(run);
    run.drop_after(int(n));
  }
  run.finish();
}

template class Model<float>;
template class Model<double>;

}  // namespace recurra
