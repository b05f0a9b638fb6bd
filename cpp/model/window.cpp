// Nodes with a window over time and width: convolutions and poolings. A window's frames are found first, null where there is
// none, which is before a row begins, past its length, or before a reset; what is computed from them is the same in calls and
// streams.
#include <limits>

#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

struct Axis {
  int64_t kernel = 1, stride = 1, dilation = 1, before = 0, after = 0;

  int64_t windows(int64_t steps) const {
    const int64_t room = steps + before + after - (dilation * (kernel - 1) + 1);
    return room < 0 ? 0 : room / stride + 1;
  }
};

template <class T>
class Window : public Node<T> {
 public:
  Window(const Axis& the_time, const Axis& the_width, int64_t the_channels, int64_t the_inputs, int64_t outputs)
      : time(the_time),
        width(the_width),
        channels(the_channels),
        input_width(the_inputs),
        output_width(the_width.windows(the_inputs)),
        output_size(outputs * output_width) {}

  int64_t steps(int64_t given) const override { return time.windows(given); }
  void call(Run<T>& run) const override;
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                        std::vector<Slot<T>*> out) const override;

  // Results of `count` windows, whose frames are taps[window * kernel + j], in the numbers of scratch_size(count).
  virtual void compute(const T* const* taps, int64_t count, T* out, T* scratch) const = 0;
  virtual size_t scratch_size(int64_t) const { return 0; }
  virtual T nothing() const { return 0; }  // what a stream keeps for frames that are not there

  int64_t input_size() const { return channels * input_width; }
  bool by_steps() const { return time.kernel == 1 && time.stride == 1 && !time.before && !time.after; }

  const Axis time, width;
  const int64_t channels, input_width, output_width, output_size;

 private:
  class Live;
  static constexpr int64_t kCount = 64;  // windows at a time
  int64_t at_once() const { return std::max<int64_t>(1, kCount / output_width); }
};

template <class T>
void Window<T>::call(Run<T>& run) const {
  const SharedTiming& from = run[this->inputs[0]].timing;
  auto to = std::make_shared<Timing>();
  to->steps = steps(from->steps), to->rows = run.rows;
  for (const int64_t length : from->lengths) to->lengths.push_back(steps(length));
  if (!from->mask.empty() && !by_steps()) this->refuse("a window over time has no masked steps: expected no mask");
  if (!from->resets.empty() && (time.stride > 1 || time.dilation * (time.kernel - 1) != time.before || time.after))
    this->refuse("expected no resets with a stride over time, or a window that does not end at its own step");
  to->mask = from->mask, to->resets = from->resets;
  std::vector<int32_t> begins;  // the last reset until each step, of each row
  for (size_t i = 0; i < from->resets.size(); ++i) {
    const int64_t t = int64_t(i) / run.rows;
    begins.push_back(from->resets[i] ? int32_t(t) : t ? begins[i - size_t(run.rows)] : 0);
  }

  const T* const x = run.frames(this->inputs[0]).data;
  const SharedTiming timing = from;
  T* const out = run.make(this->outputs[0], to);
  const int64_t rows = run.rows, all = to->steps * rows, group = at_once();
  const int workers = num_threads();
  const Block scratch(size_t(workers) * scratch_size(group) * sizeof(T));
  std::vector<const T*> taps(size_t(workers * group * time.kernel));
  share(all, this->multiplications(), run.stop, [&](int64_t first, int64_t count, int rank) {
    const T** const its_taps = taps.data() + rank * group * time.kernel;
    for (int64_t start = first; start < first + count; start += group) {
      const int64_t windows = std::min(group, first + count - start);
      for (int64_t i = 0; i < windows; ++i) {
        const int64_t row = (start + i) % rows, own = (start + i) / rows * time.stride, length = timing->length(row);
        const int64_t begin = begins.empty() || !length ? 0 : begins[size_t(std::min(own, timing->steps - 1) * rows + row)];
        for (int64_t j = 0; j < time.kernel; ++j) {
          const int64_t t = own - time.before + j * time.dilation;
          its_taps[i * time.kernel + j] = t >= begin && t < length ? x + (t * rows + row) * input_size() : nullptr;
        }
      }
      compute(its_taps, windows, out + start * output_size, scratch.template as<T>() + size_t(rank) * scratch_size(group));
    }
  });
}

// Keeps as many frames as a window reaches back, in a ring with room for those of a run.
template <class T>
class Window<T>::Live : public StreamNode<T> {
 public:
  Live(const Window& node, const StreamSizes& sizes)
      : node_(node),
        rows_(sizes.rows),
        frame_(sizes.rows * node.input_size()),
        kept_(node.time.before),
        all_(kept_ + sizes.piece),
        ring_(size_t(all_ * frame_), node.nothing()),
        taps_(size_t(sizes.piece * sizes.rows * node.time.kernel)),
        scratch_(node.scratch_size(node.at_once())) {}

  void run() override {
    const Slot<T>& x = *this->in[0];
    const int64_t kernel = node_.time.kernel;
    int64_t windows = 0;
    for (int64_t t = 0; t < x.frames; ++t) {
      std::copy_n(x.data + t * frame_, frame_, ring_.data() + next_ * frame_);
      if (position_ == 0) {
        for (int64_t r = 0; r < rows_; ++r)
          for (int64_t j = 0; j < kernel; ++j) {
            int64_t at = next_ - node_.time.before + j * node_.time.dilation;
            if (at < 0) at += all_;
            taps_[size_t(windows * kernel + j)] = ring_.data() + at * frame_ + r * node_.input_size();
            if (j + 1 == kernel) ++windows;
          }
      }
      if (++position_ == node_.time.stride) position_ = 0;
      if (++next_ == all_) next_ = 0;
    }
    for (int64_t first = 0; first < windows; first += node_.at_once())
      node_.compute(taps_.data() + first * kernel, std::min(node_.at_once(), windows - first),
                    this->out->data + first * node_.output_size, scratch_.data());
    this->out->frames = windows / rows_;
  }

  int64_t frames(int64_t given) const override {
    const int64_t stride = node_.time.stride, first = position_ ? stride - position_ : 0;
    return given > first ? (given - first - 1) / stride + 1 : 0;
  }

  void reset(const int64_t* rows, int64_t count) override {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t t = 0; t < all_; ++t)
        std::fill_n(ring_.data() + t * frame_ + (rows ? rows[i] : i) * node_.input_size(), node_.input_size(), node_.nothing());
    if (!rows || count == rows_) position_ = 0;
  }

  std::vector<ModelState> states() const override {
    std::vector<ModelState> all;
    if (kept_) all.push_back({"window", {kept_, rows_, node_.input_size()}, false});
    if (node_.time.stride > 1) all.push_back({"position", {}, true});
    return all;
  }
  void get_state(size_t i, void* to) const override {
    if (i == 0 && kept_)
      for (int64_t t = 0; t < kept_; ++t) std::copy_n(place(t), frame_, static_cast<T*>(to) + t * frame_);
    else
      *static_cast<int64_t*>(to) = position_;
  }
  void set_state(size_t i, const void* from) override {
    if (i == 0 && kept_)
      for (int64_t t = 0; t < kept_; ++t) std::copy_n(static_cast<const T*>(from) + t * frame_, frame_, place(t));
    else if (const int64_t given = *static_cast<const int64_t*>(from); given >= 0 && given < node_.time.stride)
      position_ = given;
    else
      node_.refuse("position: expected 0 to stride - 1");
  }

 private:
  T* place(int64_t t) const {  // of the t-th of the frames that are kept
    const int64_t at = next_ - kept_ + t;
    return const_cast<T*>(ring_.data()) + (at < 0 ? at + all_ : at) * frame_;
  }

  const Window& node_;
  const int64_t rows_, frame_, kept_, all_;
  std::vector<T> ring_;
  int64_t next_ = 0, position_ = 0;  // where the next frame goes; how many are over since the last window
  std::vector<const T*> taps_;
  std::vector<T> scratch_;
};

template <class T>
std::unique_ptr<StreamNode<T>> Window<T>::stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                 std::vector<Slot<T>*> out) const {
  if (time.dilation * (time.kernel - 1) > time.before)
    this->refuse(
        "a window that sees later steps needs the whole sequence: expected padding before of dilation * (kernel_size - 1)");
  if (in[0]->mask && !by_steps()) this->refuse("a window over time has no masked steps: expected no Mask before it");
  describe(*this, in, *out[0]);
  out[0]->mask = in[0]->mask;
  out[0]->rate *= time.stride;
  return std::make_unique<Live>(*this, sizes);
}

// Each group's windows as rows, in the order of its weights, and one affine map of them.
template <class T>
class Convolution : public Window<T> {
 public:
  Convolution(const Axis& time, const Axis& width, int64_t channels, int64_t input_width, int64_t outputs, int64_t groups,
              const T* weight, const T* bias)
      : Window<T>(time, width, channels, input_width, outputs),
        outputs_(outputs / groups),
        channels_(channels / groups),
        row_(channels_ * time.kernel * width.kernel) {
    for (int64_t g = 0; g < groups; ++g)
      maps_.emplace_back(Linear<T>(row_, outputs_, weight + g * outputs_ * row_, bias ? bias + g * outputs_ : nullptr));
  }

  double multiplications() const override {
    return double(maps_.size()) * double(row_) * double(outputs_) * double(this->output_width);
  }
  size_t scratch_size(int64_t count) const override {
    const int64_t rows = count * this->output_width;
    return size_t(rows * row_ + (this->output_width > 1 ? rows * outputs_ : 0));
  }

  void compute(const T* const* taps, int64_t count, T* out, T* scratch) const override {
    const int64_t wide = this->output_width, rows = count * wide;
    for (size_t g = 0; g < maps_.size(); ++g) {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t w = 0; w < wide; ++w)
          gather(taps + i * this->time.kernel, int64_t(g), w * this->width.stride - this->width.before,
                 scratch + (i * wide + w) * row_);
      T* const own = out + int64_t(g) * outputs_ * wide;
      if (wide == 1) {
        maps_[g].run({scratch, row_}, rows, {own, this->output_size});
        continue;
      }
      T* const results = scratch + rows * row_;
      maps_[g].run({scratch, row_}, rows, {results, outputs_});
      for (int64_t i = 0; i < count; ++i)
        for (int64_t w = 0; w < wide; ++w)
          for (int64_t o = 0; o < outputs_; ++o)
            own[i * this->output_size + o * wide + w] = results[(i * wide + w) * outputs_ + o];
    }
  }

 private:
  void gather(const T* const* taps, int64_t group, int64_t left, T* row) const {
    const int64_t times = this->time.kernel, widths = this->width.kernel, wide = this->input_width;
    for (int64_t j = 0; j < times; ++j) {
      const T* const frame = taps[j];
      for (int64_t k = 0; k < widths; ++k) {
        const int64_t w = left + k * this->width.dilation;
        T* const to = row + j * widths + k;
        if (!frame || w < 0 || w >= wide) {
          for (int64_t c = 0; c < channels_; ++c) to[c * times * widths] = 0;
          continue;
        }
        const T* const from = frame + group * channels_ * wide + w;
        for (int64_t c = 0; c < channels_; ++c) to[c * times * widths] = from[c * wide];
      }
    }
  }

  const int64_t outputs_, channels_, row_;  // of a group
  std::vector<Affine<T>> maps_;
};

template <class T>
class Pooling : public Window<T> {
 public:
  Pooling(const Axis& time, const Axis& width, int64_t channels, int64_t input_width, bool largest)
      : Window<T>(time, width, channels, input_width, channels), largest_(largest) {}

  double multiplications() const override {
    return double(this->output_size) * double(this->time.kernel) * double(this->width.kernel);
  }
  T nothing() const override { return largest_ ? -std::numeric_limits<T>::infinity() : T(0); }

  void compute(const T* const* taps, int64_t count, T* out, T*) const override {
    for (int64_t i = 0; i < count; ++i, taps += this->time.kernel)
      for (int64_t c = 0; c < this->channels; ++c)
        for (int64_t w = 0; w < this->output_width; ++w) *out++ = pooled(taps, c, w * this->width.stride - this->width.before);
  }

 private:
  T pooled(const T* const* taps, int64_t channel, int64_t left) const {
    T result = nothing();
    bool any = false;
    const int64_t end = std::min(this->width.kernel, this->input_width - left);
    for (int64_t j = 0; j < this->time.kernel; ++j) {
      if (!taps[j]) continue;
      const T* const row = taps[j] + channel * this->input_width + left;
      for (int64_t k = left < 0 ? -left : 0; k < end; ++k, any = true)
        result = largest_ ? (result < row[k] || row[k] != row[k] ? row[k] : result) : result + row[k];
    }
    if (largest_) return any ? result : T(0);
    return result / T(this->time.kernel * this->width.kernel);
  }

  const bool largest_;
};

// Time's number of an attribute, and width's if there are two.
template <class T>
void read_axes(const Description<T>& about, bool flat, Axis& time, Axis& width) {
  const auto pair = [&](const char* key, int64_t Axis::* to) {
    const std::vector<int64_t> both = about.integers(key);
    if (both.size() != (flat ? 1u : 2u)) throw std::invalid_argument(std::string(key) + ": expected one number for each axis");
    time.*to = both[0];
    if (!flat) width.*to = both[1];
  };
  pair("kernel_size", &Axis::kernel);
  pair("stride", &Axis::stride);
  if (about.json.find("dilation")) pair("dilation", &Axis::dilation);
  const auto sides = [&](const Json& json, Axis& axis) {
    const auto& both = json.array("padding");
    expect(both.size() == 2, "padding: expected a number for each side");
    axis.before = about.checked(both[0], "padding", 0), axis.after = about.checked(both[1], "padding", 0);
  };
  const Json& padding = about.json.at("padding");
  if (flat) return sides(padding, time);
  expect(padding.array("padding").size() == 2, "padding: expected two numbers for each axis");
  sides(padding.array("padding")[0], time), sides(padding.array("padding")[1], width);
}

}  // namespace

template <class T>
MadeNode<T> make_window(const Description<T>& about, ModelValue& result) {
  const bool flat = about.kind == "conv1d", convolves = flat || about.kind == "conv2d", largest = about.kind == "max_pool2d";
  if (!convolves && !largest && about.kind != "avg_pool2d") return nullptr;
  Axis time, width;
  read_axes(about, flat, time, width);
  const std::vector<int64_t>& features = about.sequence().features;
  const int64_t channels = features[0], input_width = features.size() == 2 ? features[1] : 1;
  expect(width.windows(input_width) >= 1, "expected a width that holds a window");
  if (!convolves) {
    for (const Axis& axis : {time, width})
      expect(axis.before <= axis.kernel / 2 && axis.after <= axis.kernel / 2, "padding: expected at most half of kernel_size");
    result = value_of({channels, width.windows(input_width)}, true);
    return std::make_unique<Pooling<T>>(time, width, channels, input_width, largest);
  }
  const int64_t inputs = about.integer("in_channels"), outputs = about.integer("out_channels"),
                groups = about.integer("groups");
  expect(channels == inputs && !(flat && features.size() == 2), "expected in_channels channels");
  expect(inputs % groups == 0 && outputs % groups == 0, "groups: expected a divisor of in_channels and out_channels");
  std::vector<int64_t> shape{outputs, inputs / groups, time.kernel};
  if (!flat) shape.push_back(width.kernel);
  const T* const weight = about.tensor("weight", shape);
  const T* const bias = about.flag("bias") ? about.tensor("bias", {outputs}) : nullptr;
  result = flat ? value_of({outputs}, true) : value_of({outputs, width.windows(input_width)}, true);
  return std::make_unique<Convolution<T>>(time, width, channels, input_width, outputs, groups, weight, bias);
}

template MadeNode<float> make_window(const Description<float>&, ModelValue&);
template MadeNode<double> make_window(const Description<double>&, ModelValue&);

}  // namespace detail
}  // namespace recurra
