// Recurrent layers as nodes: a Network in calls, a Stream in streams.
#include <cmath>

#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

int64_t size_of(const std::string& axis, const NetworkConfig& c, int layer) {
  if (axis == "one") return 1;
  if (axis == "input") return layer ? c.directions * c.output_size : c.input_size;
  if (axis == "head") return c.hidden_size / std::max<int64_t>(c.heads, 1);
  return axis == "hidden" ? c.hidden_size : c.output_size;
}

const CellInfo& cell_named(const std::string& name) {
  for (const CellInfo& cell : cells())
    if (cell.name == name) return cell;
  throw std::invalid_argument("cell: there is no cell '" + name + "' that a model may hold");
}

// Those of the first direction, and those of the second where the structure names one.
std::vector<double> constants_of(const Json* given, const CellInfo& cell, int directions) {
  std::vector<double> values, of_reverse;
  bool own = false;
  const bool any = given && given->kind() != Json::Kind::null;
  size_t found = 0;
  for (const auto& [name, value] : cell.constants) {
    const Json* const forward = any ? given->find(name) : nullptr;
    const Json* const reverse = any && directions == 2 ? given->find(name + "_reverse") : nullptr;
    values.push_back(forward ? forward->number("constants") : value);
    of_reverse.push_back(reverse ? reverse->number("constants") : values.back());
    own = own || reverse;
    found += size_t(forward != nullptr) + size_t(reverse != nullptr);
  }
  expect(!any || found == given->object("constants").size(), "constants: expected names of the cell's constants");
  if (own) values.insert(values.end(), of_reverse.begin(), of_reverse.end());
  return values;
}

template <class T>
NetworkConfig config_of(const Description<T>& about, const CellInfo& cell) {
  NetworkConfig c;
  c.cell = cell.name;
  c.input_size = about.integer("input_size");
  c.hidden_size = about.integer("hidden_size");
  const int64_t projected = about.integer("proj_size", 0);
  c.output_size = projected ? projected : c.hidden_size;
  c.layers = int(about.integer("num_layers"));
  const std::string& direction = about.text("direction");
  expect(direction == "forward" || direction == "reverse" || direction == "bidirectional",
         "direction: expected 'forward', 'reverse' or 'bidirectional'");
  c.directions = direction == "bidirectional" ? 2 : 1;
  c.reverse = direction == "reverse";
  c.heads = about.integer("heads");
  c.constants = constants_of(about.json.find("constants"), cell, c.directions);
  if (const Json& precision = about.json.at("precision"); precision.kind() != Json::Kind::null) {
    const std::string& name = precision.string("precision");
    expect(name == "bfloat16" || name == "int8", "precision: expected null, 'bfloat16' or 'int8'");
    expect(sizeof(T) == sizeof(float), "precision: expected null for float64");
    c.precision = name == "int8" ? Precision::int8 : Precision::bfloat16;
  }
  for (const Json& layer : about.json.at("keep").array("keep")) c.kept.push_back(int(about.checked(layer, "keep", 0)));
  for (const int layer : c.kept) expect(layer < c.layers, "keep: expected numbers of layers");
  c.regularization.dropout = about.number("dropout");
  c.regularization.recurrent_dropout = about.number("recurrent_dropout");
  const Json& zoneout = about.json.at("zoneout");
  for (size_t s = 0; s < cell.states.size(); ++s) {
    if (zoneout.kind() == Json::Kind::array)
      expect(zoneout.array("zoneout").size() == cell.states.size(), "zoneout: expected a number for each state");
    c.regularization.zoneout[s] =
        (zoneout.kind() == Json::Kind::array ? zoneout.array("zoneout")[s] : zoneout).number("zoneout");
  }
  return c;
}

template <class T>
Network<T> network_of(const Description<T>& about) {
  if (const auto given = about.parameters.networks.find(about.name); given != about.parameters.networks.end())
    return given->second;
  const CellInfo& cell = cell_named(about.text("cell"));
  const NetworkConfig c = config_of(about, cell);
  const bool bias = about.flag("bias"), proj_bias = about.flag("proj_bias");
  std::vector<std::vector<const T*>> params;
  for (int layer = 0; layer < c.layers; ++layer)
    for (int direction = 0; direction < c.directions; ++direction) {
      params.emplace_back();
      for (const ParamInfo& p : cell.params) {
        params.back().push_back(nullptr);
        if (!(p.name == "bias_hr" ? proj_bias : bias || !p.is_bias)) continue;
        std::vector<int64_t> shape{p.blocks * size_of(p.rows, c, layer)};
        if (p.cols != "one") shape.push_back(size_of(p.cols, c, layer));
        const T* const values = about.tensor(p.name + "_l" + std::to_string(layer) + (direction ? "_reverse" : ""), shape);
        const int64_t count = shape[0] * (shape.size() > 1 ? shape[1] : 1);
        for (int64_t i = 0; c.precision == Precision::int8 && i < count; ++i)
          expect(std::isfinite(values[i]), "expected finite parameters for int8");
        params.back().back() = values;
      }
    }
  return Network<T>(c, params);
}

}  // namespace

template <class T>
Recurrent<T>::Recurrent(const Description<T>& about, size_t number, ModelValue& result)
    : number_(number), network_(network_of(about)), lanes_(network_.config().layers * network_.config().directions) {
  const NetworkConfig& c = network_.config();
  for (const auto& state : network_.cell().states) widths_.push_back(size_of(state.second, c, 0));
  state_is_read.resize(widths_.size());
  const ModelValue& x = about.inputs[0];
  expect(!x.integer && x.time && x.size() == c.input_size, "expected a sequence of input_size features");
  expect(about.inputs.size() == 1 || about.inputs.size() == 1 + widths_.size(),
         "expected initial states for all states or none");
  for (size_t s = 1; s < about.inputs.size(); ++s)
    expect(!about.inputs[s].integer && !about.inputs[s].time && about.inputs[s].size() == lanes_ * widths_[s - 1],
           "expected initial states of the sizes of the states, without time");
  expect(about.inputs.size() == 1 || c.precision != Precision::int8 || !network_.cell().unit_range,
         "expected no initial states of other nodes for int8, whose scale is fixed");
  if (about.flag("initial_state"))
    for (size_t s = 0; s < widths_.size(); ++s) {
      const T* const values = about.tensor(network_.cell().states[s].first + "_0", {lanes_, widths_[s]});
      learned_.emplace_back(values, values + lanes_ * widths_[s]);
    }
  result = value_of({c.directions * c.output_size}, true);
}

// [lanes, width] for all of some rows.
template <class T>
std::vector<std::vector<T>> Recurrent<T>::start(const std::vector<std::vector<T>>& learned, int64_t rows) const {
  std::vector<std::vector<T>> all;
  for (size_t s = 0; s < learned.size(); ++s) {
    all.emplace_back();
    for (int64_t lane = 0; lane < lanes_; ++lane)
      for (int64_t r = 0; r < rows; ++r)
        all.back().insert(all.back().end(), learned[s].data() + lane * widths_[s], learned[s].data() + (lane + 1) * widths_[s]);
  }
  return all;
}

namespace {

template <class U, class T>
std::vector<U*> pointers(std::vector<std::vector<T>>& arrays) {
  std::vector<U*> all;
  for (auto& array : arrays) all.push_back(array.data());
  return all;
}

}  // namespace

template <class T>
void Recurrent<T>::call(Run<T>& run) const {
  const auto given = [&](const auto& lists) { return number_ < lists.size() ? lists[number_] : nullptr; };
  const SharedTiming timing = run[this->inputs[0]].timing;
  const Sequence<const T> x = run[this->inputs[0]].numbers;
  const Sequence<T> y = run.make_sequence(this->outputs[0], timing);

  std::vector<std::vector<T>> starts;  // from other nodes, or what was learned
  const T* const* initial = given(run.call.initial);
  if (initial && this->inputs.size() > 1) this->refuse("expected no state, which comes from other nodes");
  for (size_t s = 0; s + 1 < this->inputs.size(); ++s) {
    const T* const from = run.frames(this->inputs[s + 1]).data;
    starts.emplace_back(size_t(lanes_ * run.rows * widths_[s]));
    for (int64_t lane = 0; lane < lanes_; ++lane)
      for (int64_t r = 0; r < run.rows; ++r)
        std::copy_n(from + (r * lanes_ + lane) * widths_[s], widths_[s], starts[s].data() + (lane * run.rows + r) * widths_[s]);
  }
  auto learned = learned_.empty() ? std::vector<std::vector<T>>() : start(learned_, run.rows);
  const std::vector<const T*> own = starts.empty() ? pointers<const T>(learned) : pointers<const T>(starts);
  if (!initial && !own.empty()) initial = own.data();

  std::vector<std::vector<T>> ends;
  T* const* final_states = given(run.call.final_states);
  for (const int64_t width : widths_) ends.emplace_back(final_states ? 0 : size_t(lanes_ * run.rows * width));
  const std::vector<T*> own_ends = pointers<T>(ends);
  if (!final_states) final_states = own_ends.data();

  Marks<T> marks;
  if (!timing->resets.empty()) marks.resets = {timing->resets.data(), timing->steps, run.rows, run.rows, 1};
  if (!timing->mask.empty()) marks.mask = {timing->mask.data(), timing->steps, run.rows, run.rows, 1};
  marks.repeat = run.call.marks.repeat;
  const std::vector<const T*> of_learned = pointers<const T>(learned);
  marks.reset_state = given(run.call.reset_state);
  if (!marks.reset_state && !of_learned.empty()) marks.reset_state = of_learned.data();
  network_.forward(x, initial, timing->lengths.empty() ? nullptr : timing->lengths.data(), y, final_states, run.stop, marks);

  for (size_t s = 0; s < widths_.size(); ++s) {
    if (!state_is_read[s]) continue;
    T* const to = run.make(this->outputs[s + 1], nullptr);
    for (int64_t r = 0; r < run.rows; ++r)
      for (int64_t lane = 0; lane < lanes_; ++lane)
        std::copy_n(final_states[s] + (lane * run.rows + r) * widths_[s], widths_[s], to + (r * lanes_ + lane) * widths_[s]);
  }
}

template <class T>
class Recurrent<T>::Live : public StreamNode<T> {
 public:
  Live(const Recurrent& node, const StreamSizes& sizes, std::vector<Slot<T>*> out, const Linear<T>* head, const uint8_t* mask)
      : node_(node),
        rows_(sizes.rows),
        width_(head ? head->outputs() : node.network_.config().output_size),
        inputs_(node.network_.config().input_size),
        mask_(mask),
        out_(std::move(out)),
        stream_(node.network_, sizes.rows, sizes.threads, head) {
    reads_states_ = std::find(node.state_is_read.begin(), node.state_is_read.end(), true) != node.state_is_read.end();
    for (const int64_t width : node.widths_) {
      old_.emplace_back(size_t(node.lanes_ * rows_ * width));
      new_.emplace_back(size_t(node.lanes_ * rows_ * width));
    }
    old_states_ = pointers<T>(old_), new_states_ = pointers<T>(new_);
    for (const auto& state : node.learned_) start_.push_back(state.data());
    from_new_ = pointers<const T>(new_);
  }

  void run() override {
    const Slot<T>& x = *this->in[0];
    this->out->frames = x.frames;
    if (x.frames == 1 && !mask_ && !reads_states_) return stream_.step(x.data, this->out->data);
    if (mask_ || reads_states_) {
      for (int64_t t = 0; t < x.frames; ++t) {
        masked_step(x.data + t * rows_ * inputs_, this->out->data + t * rows_ * width_, mask_ ? mask_ + t * rows_ : nullptr);
        if (reads_states_) hand_out(t);
      }
      return;
    }
    stream_.run({x.data, x.frames, rows_, rows_ * inputs_, inputs_},
                {this->out->data, x.frames, rows_, rows_ * width_, width_});
  }

  void reset(const int64_t* rows, int64_t count) override {
    start_.empty() ? stream_.reset(rows, count) : stream_.reset(rows, count, start_.data(), true);
  }
  Stream<T>* stream() override { return &stream_; }

 private:
  // Masked rows keep their states, and their output is h as it stays.
  void masked_step(const T* x, T* y, const uint8_t* valid) {
    if (!valid || std::find(valid, valid + rows_, 0) == valid + rows_) return stream_.step(x, y);
    stream_.get_state(old_states_.data());
    stream_.step(x, y);
    stream_.get_state(new_states_.data());
    const int64_t top = node_.lanes_ - 1;
    for (int64_t r = 0; r < rows_; ++r) {
      if (valid[r]) continue;
      for (size_t s = 0; s < old_.size(); ++s)
        for (int64_t lane = 0; lane < node_.lanes_; ++lane) {
          const int64_t width = node_.widths_[s], at = (lane * rows_ + r) * width;
          std::copy_n(old_[s].data() + at, width, new_[s].data() + at);
        }
      std::copy_n(old_[0].data() + (top * rows_ + r) * width_, width_, y + r * width_);
    }
    stream_.set_state(from_new_.data());
  }

  void hand_out(int64_t frame) {
    stream_.get_state(new_states_.data());
    for (size_t s = 0; s < new_.size(); ++s) {
      const int64_t width = node_.widths_[s], lanes = node_.lanes_;
      Slot<T>& slot = *out_[s + 1];
      slot.frames = frame + 1;
      for (int64_t r = 0; r < rows_; ++r)
        for (int64_t lane = 0; lane < lanes; ++lane)
          std::copy_n(new_[s].data() + (lane * rows_ + r) * width, width,
                      slot.data + ((frame * rows_ + r) * lanes + lane) * width);
    }
  }

  const Recurrent& node_;
  const int64_t rows_, width_, inputs_;
  const uint8_t* const mask_;
  bool reads_states_;
  std::vector<Slot<T>*> out_;
  Stream<T> stream_;
  std::vector<std::vector<T>> old_, new_;
  std::vector<T*> old_states_, new_states_;
  std::vector<const T*> from_new_, start_;  // start_: what was learned
};

template <class T>
std::unique_ptr<StreamNode<T>> Recurrent<T>::stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                    std::vector<Slot<T>*> out, const Linear<T>* head) const {
  const NetworkConfig& c = network_.config();
  if (c.directions == 2) this->refuse("a bidirectional layer needs the whole sequence");
  if (c.reverse) this->refuse("a layer that runs backwards in time begins at the last step");
  if (in.size() > 1)
    this->refuse("its initial state comes from other nodes, which have it at their end; give the stream a state");
  describe(*this, {in[0]}, *out[0]);
  out[0]->mask = in[0]->mask;
  for (size_t s = 1; s < out.size(); ++s) out[s]->rate = out[0]->rate, out[s]->so_far = true;
  return std::make_unique<Live>(*this, sizes, std::move(out), head, in[0]->mask);
}

template class Recurrent<float>;
template class Recurrent<double>;

}  // namespace detail
}  // namespace recurra
