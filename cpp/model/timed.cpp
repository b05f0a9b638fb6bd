// Nodes that put steps in another order, leave some out, or make one value of all.
#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

enum class Mode { last, first, max, mean };

// The pooled value of a row so far, of `count` steps, with one more.
template <class T>
void pool_step(Mode mode, int64_t count, const T* x, int64_t size, T* value) {
  if (mode == Mode::last || (count == 0 && mode != Mode::mean)) {
    std::copy_n(x, size, value);
  } else if (mode == Mode::max) {
    for (int64_t i = 0; i < size; ++i) value[i] = value[i] < x[i] || x[i] != x[i] ? x[i] : value[i];
  } else if (mode == Mode::mean) {
    for (int64_t i = 0; i < size; ++i) value[i] = value[i] + x[i];
  }
}

template <class T>
class PoolNode : public Node<T> {
 public:
  PoolNode(Mode mode, int64_t size) : mode_(mode), size_(size) {}
  double multiplications() const override { return double(size_); }
  int64_t steps(int64_t) const override { return 1; }

  void call(Run<T>& run) const override {
    const SharedTiming timing = run[this->inputs[0]].timing;
    if (!timing->resets.empty()) this->refuse("expected no resets, for it makes one value of all steps");
    const Sequence<const T> x = run[this->inputs[0]].numbers;
    T* const out = run.make(this->outputs[0], nullptr);
    share(run.rows, this->multiplications() * double(timing->steps), run.stop, [&](int64_t first, int64_t rows, int) {
      for (int64_t r = first; r < first + rows; ++r) {
        T* const value = out + r * size_;
        std::fill_n(value, size_, T(0));
        int64_t count = 0;
        for (int64_t t = 0; t < timing->length(r); ++t)
          if (timing->valid(t, r)) pool_step(mode_, count++, x.data + t * x.step_stride + r * x.row_stride, size_, value);
        finish(count, value, value);
      }
    });
  }

  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                        std::vector<Slot<T>*> out) const override;

 private:
  class Live;
  void finish(int64_t count, const T* value, T* to) const {
    for (int64_t i = 0; i < size_; ++i) to[i] = mode_ == Mode::mean && count ? value[i] / T(count) : value[i];
  }

  const Mode mode_;
  const int64_t size_;
};

template <class T>
class PoolNode<T>::Live : public StreamNode<T> {
 public:
  Live(const PoolNode& node, const StreamSizes& sizes)
      : node_(node), values_(size_t(sizes.rows * node.size_)), counts_(size_t(sizes.rows)) {}

  void run() override {
    const Slot<T>& x = *this->in[0];
    const int64_t rows = int64_t(counts_.size()), size = node_.size_;
    for (int64_t i = 0; i < x.frames * rows; ++i) {
      int64_t& count = counts_[size_t(i % rows)];
      T* const value = values_.data() + i % rows * size;
      if (!x.mask || x.mask[i]) pool_step(node_.mode_, count++, x.data + i * size, size, value);
      node_.finish(count, value, this->out->data + i * size);
    }
    this->out->frames = x.frames;
  }
  void reset(const int64_t* rows, int64_t count) override {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = rows ? rows[i] : i;
      counts_[size_t(row)] = 0;
      std::fill_n(values_.data() + row * node_.size_, node_.size_, T(0));
    }
  }
  std::vector<ModelState> states() const override {
    const int64_t rows = int64_t(counts_.size());
    return {{"pool", {rows, node_.size_}, false}, {"position", {rows}, true}};
  }
  void get_state(size_t i, void* to) const override {
    if (i)
      std::copy(counts_.begin(), counts_.end(), static_cast<int64_t*>(to));
    else
      std::copy(values_.begin(), values_.end(), static_cast<T*>(to));
  }
  void set_state(size_t i, const void* from) override {
    if (i)
      std::copy_n(static_cast<const int64_t*>(from), counts_.size(), counts_.begin());
    else
      std::copy_n(static_cast<const T*>(from), values_.size(), values_.begin());
  }

 private:
  const PoolNode& node_;
  std::vector<T> values_;  // of the mean, its sum
  std::vector<int64_t> counts_;
};

template <class T>
std::unique_ptr<StreamNode<T>> PoolNode<T>::stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                   std::vector<Slot<T>*> out) const {
  describe(*this, in, *out[0]);
  out[0]->so_far = true;
  return std::make_unique<Live>(*this, sizes);
}

template <class T>
class ReverseNode : public Node<T> {
 public:
  explicit ReverseNode(int64_t size) : size_(size) {}
  void call(Run<T>& run) const override {
    const SharedTiming timing = run[this->inputs[0]].timing;
    if (!timing->mask.empty() || !timing->resets.empty()) this->refuse("expected no mask and no resets");
    const Sequence<const T> x = run[this->inputs[0]].numbers;
    T* const out = run.make(this->outputs[0], timing);
    for (int64_t t = 0; t < timing->steps; ++t)
      for (int64_t r = 0; r < run.rows; ++r) {
        T* const to = out + (t * run.rows + r) * size_;
        const int64_t from = timing->length(r) - 1 - t;
        if (from >= 0)
          std::copy_n(x.data + from * x.step_stride + r * x.row_stride, size_, to);
        else
          std::fill_n(to, size_, T(0));
      }
  }
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes&, std::vector<const Slot<T>*>, std::vector<Slot<T>*>) const override {
    this->refuse("it begins at the last step, so it needs the whole sequence");
  }

 private:
  const int64_t size_;
};

template <class T>
class RepeatNode : public Node<T> {
 public:
  RepeatNode(int64_t size, int64_t steps) : size_(size), steps_(steps) {}
  int64_t steps(int64_t) const override { return steps_; }
  void call(Run<T>& run) const override {
    auto timing = std::make_shared<Timing>();
    timing->steps = steps_, timing->rows = run.rows;
    const T* const x = run.frames(this->inputs[0]).data;
    T* to = run.make(this->outputs[0], timing);
    for (int64_t t = 0; t < steps_; ++t) to = std::copy_n(x, run.rows * size_, to);
  }
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes&, std::vector<const Slot<T>*>, std::vector<Slot<T>*>) const override {
    this->refuse("its steps are not those of a stream");
  }

 private:
  const int64_t size_, steps_;
};

template <class T>
class MaskNode : public Node<T> {
 public:
  MaskNode(T value, int64_t seen) : value_(value), seen_(seen) {}
  bool aliases() const override { return true; }

  void call(Run<T>& run) const override {
    const SharedTiming timing = common_timing(*this, run);
    auto masked = std::make_shared<Timing>(*timing);
    masked->mask.resize(size_t(timing->steps * run.rows), 1);
    const Frames<T> by = run.frames(this->inputs.back());
    for (size_t i = 0; i < masked->mask.size(); ++i)
      masked->mask[i] = masked->mask[i] && valid(by.data, by.integers, int64_t(i));
    run[this->outputs[0]] = run[this->inputs[0]];
    run[this->outputs[0]].timing = masked;
  }
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                        std::vector<Slot<T>*> out) const override;

 private:
  class Live;
  bool valid(const T* numbers, const int64_t* integers, int64_t position) const {
    if (integers) return T(integers[position]) != value_;
    const T* const x = numbers + position * seen_;
    return std::any_of(x, x + seen_, [&](T number) { return number != value_; });
  }

  const T value_;
  const int64_t seen_;  // numbers of a step of what it looks at
};

template <class T>
class MaskNode<T>::Live : public StreamNode<T> {
 public:
  Live(const MaskNode& node, const StreamSizes& sizes)
      : node_(node), rows_(sizes.rows), mask_(size_t(sizes.rows * sizes.piece)) {}
  uint8_t* mask() { return mask_.data(); }

  void run() override {
    const Slot<T>&x = *this->in[0], &by = *this->in.back();
    for (int64_t i = 0; i < x.frames * rows_; ++i) {
      uint8_t valid = node_.valid(by.data, by.integers, i);
      for (const Slot<T>* slot : this->in) valid = valid && (!slot->mask || slot->mask[i]);
      mask_[size_t(i)] = valid;
    }
    this->out->data = x.data;
    this->out->frames = x.frames;
  }

 private:
  const MaskNode& node_;
  const int64_t rows_;
  std::vector<uint8_t> mask_;
};

template <class T>
std::unique_ptr<StreamNode<T>> MaskNode<T>::stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                   std::vector<Slot<T>*> out) const {
  describe(*this, in, *out[0]);
  auto live = std::make_unique<Live>(*this, sizes);
  out[0]->mask = live->mask();
  return live;
}

}  // namespace

template <class T>
MadeNode<T> make_timed(const Description<T>& about, ModelValue& result) {
  if (about.kind == "pool") {
    constexpr std::pair<const char*, Mode> kModes[] = {
        {"last", Mode::last}, {"first", Mode::first}, {"max", Mode::max}, {"mean", Mode::mean}};
    result = value_of(about.sequence().features, false);
    for (const auto& [name, mode] : kModes)
      if (about.text("mode") == name) return std::make_unique<PoolNode<T>>(mode, result.size());
    throw std::invalid_argument("mode: expected 'last', 'first', 'max' or 'mean'");
  }
  if (about.kind == "reverse") {
    result = value_of(about.sequence().features, true);
    return std::make_unique<ReverseNode<T>>(result.size());
  }
  if (about.kind == "repeat") {
    expect(!about.input().time, "expected one value for each row, got a sequence");
    result = value_of(about.input().features, true);
    return std::make_unique<RepeatNode<T>>(result.size(), about.integer("steps"));
  }
  if (about.kind == "mask") {
    expect(about.inputs.size() <= 2, "expected one or two sequences");
    for (const ModelValue& input : about.inputs) expect(input.time, "expected sequences");
    expect(!about.inputs[0].integer, "expected floating-point numbers, got integers");
    result = value_of(about.inputs[0].features, true);
    return std::make_unique<MaskNode<T>>(T(about.number("value")), about.inputs.back().size());
  }
  return nullptr;
}

template MadeNode<float> make_timed(const Description<float>&, ModelValue&);
template MadeNode<double> make_timed(const Description<double>&, ModelValue&);

}  // namespace detail
}  // namespace recurra
