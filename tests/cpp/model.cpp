// Random models, both types: rows alone against all rows of a call, three threads against one, streams by steps and by chunks,
// each of which is first given up, against calls, all to the bit. The hash of all results is the same on every instruction set
// with fused multiply-add, NEON included. Built with sanitizers it also shows stray memory accesses and data races.
#include "recurra/model.h"

#include <cstdio>
#include <cstring>

#include "draws.h"

namespace {

using recurra::Model;
using recurra::ModelCall;
using recurra::ModelStream;
using recurra::Sequence;

std::string text(int64_t number) { return std::to_string(number); }

// A chain with skips, of nodes that streams can run or of any.
class Drawn {
 public:
  explicit Drawn(bool streams) : streams_(streams), size_(random_int(1, 12)), first_(size_) {
    for (int n = random_int(1, 9); n > 0; --n) add_random();
  }

  std::string structure(const char* dtype) const {
    std::string json = "{\"dtype\": \"" + std::string(dtype) + "\", \"batch_first\": false, \"inputs\": [{\"name\": \"x\", ";
    json += "\"features\": [" + text(first_) + "], \"time\": true, \"integer\": false}], \"nodes\": [" + nodes_ + "], ";
    return json + "\"outputs\": [\"" + current_ + "\"]}";
  }

  std::string current() const { return current_; }

 private:
  void add(const std::string& kind, const std::string& attributes, int size, const std::string& inputs = "") {
    const std::string name = "n" + text(count_++);
    nodes_ += (nodes_.empty() ? "" : ", ") + ("{\"name\": \"" + name) + "\", \"kind\": \"" + kind + "\", \"inputs\": [" +
              (inputs.empty() ? "\"" + current_ + "\"" : inputs) + "]" + (attributes.empty() ? "" : ", " + attributes) + "}";
    current_ = name;
    size_ = size;
  }

  void add_random() {
    const std::string before = current_;
    const int size = size_;
    switch (random_int(0, 10)) {
      case 0:
      case 1: return recurrent();
      case 2: return conv1d();
      case 3: return windows2d();
      case 4: {
        const int outputs = random_int(1, 20);
        return add("linear", "\"in_features\": " + text(size) + ", \"out_features\": " + text(outputs) + ", \"bias\": true",
                   outputs);
      }
      case 5: {
        const char* const names[] = {"tanh", "relu", "softplus", "elu", "leaky_relu", "hard_sigmoid"};
        return add("activation", std::string("\"function\": \"") + names[random_int(0, 5)] + "\", \"alpha\": null", size);
      }
      case 6: {
        const bool log = random_int(0, 1) != 0;
        add("softmax", std::string("\"log\": ") + (log ? "true" : "false"), size);
        if (!log) add("sqrt", "", size);
        return;
      }
      case 7:
        return add("layer_norm", "\"features\": " + text(size) + ", \"eps\": 1e-3, \"weight\": true, \"bias\": false", size);
      case 8: return add("scale", "\"features\": " + text(size), size);
      case 9: {
        add("select", "\"indices\": [0, " + text(size - 1) + ", " + text(size / 2) + "]", 3);
        return add("dropout", "\"p\": 0.5", 3);
      }
      default: {
        add("activation", "\"function\": \"sigmoid\"", size);
        const std::string both = "\"" + before + "\", \"" + current_ + "\"";
        const char* const kinds[] = {"add", "multiply", "concatenate"};
        const int kind = random_int(0, 2);
        return add(kinds[kind], "", kind == 2 ? 2 * size : size, both);
      }
    }
  }

  void recurrent() {
    const char* const cells[] = {"lstm", "gru", "gru_reset_before", "rnn_tanh", "gru_layer_norm"};
    const char* const directions[] = {"forward", "reverse", "bidirectional"};
    // One draw a statement: compilers differ in which of an expression's calls they make first.
    const int hidden = random_int(1, 40), direction = streams_ ? 0 : random_int(0, 2);
    const char* const cell = cells[random_int(0, 4)];
    const int layers = random_int(1, 2);
    const bool starts_at_zero = random_int(0, 3) != 0;
    add("recurrent",
        std::string("\"cell\": \"") + cell + "\", \"input_size\": " + text(size_) + ", \"hidden_size\": " + text(hidden) +
            ", \"num_layers\": " + text(layers) + ", \"direction\": \"" + directions[direction] +
            "\", \"proj_size\": 0, \"heads\": 1, \"bias\": true, \"proj_bias\": false, \"initial_state\": " +
            (starts_at_zero ? "false" : "true") +
            ", \"dropout\": 0, \"recurrent_dropout\": 0, \"zoneout\": 0, \"constants\": null, \"precision\": null, \"keep\": "
            "[]",
        direction == 2 ? 2 * hidden : hidden);
  }

  // Padding that a stream can do with.
  std::string before(int reach) const { return text(streams_ ? reach + random_int(0, 1) : random_int(0, reach + 1)); }

  void conv1d() {
    const int kernel = random_int(1, 4), dilation = random_int(1, 3), groups = random_int(0, 1) ? size_ : 1;
    const int outputs = groups * random_int(1, 4), stride = random_int(0, 3) ? 1 : random_int(2, 3);
    add("conv1d",
        "\"in_channels\": " + text(size_) + ", \"out_channels\": " + text(outputs) + ", \"kernel_size\": " + text(kernel) +
            ", \"stride\": " + text(stride) + ", \"dilation\": " + text(dilation) + ", \"padding\": [" +
            before(dilation * (kernel - 1)) + ", 0], \"groups\": " + text(groups) + ", \"bias\": true",
        outputs);
  }

  void windows2d() {
    const int size = size_, channels = size % 2 ? 1 : 2, width = size / channels;
    add("reshape", "\"features\": [" + text(channels) + ", " + text(width) + "]", size);
    const int kernel = random_int(1, 3), across = random_int(1, std::min(3, width)), step = random_int(1, 2);
    const int places = (width + across / 2 - across) / step + 1;
    const std::string sides = "[" + text(across / 2) + ", 0]";
    const std::string size_of =
        "\"kernel_size\": [" + text(kernel) + ", " + text(across) + "], \"stride\": [1, " + text(step) + "]";
    if (random_int(0, 1) || (streams_ && kernel > 2)) {
      const int outputs = random_int(1, 3);
      add("conv2d",
          size_of + ", \"in_channels\": " + text(channels) + ", \"out_channels\": " + text(outputs) +
              ", \"dilation\": [1, 1], \"padding\": [[" + before(kernel - 1) + ", 0], " + sides +
              "], \"groups\": 1, \"bias\": false",
          outputs * places);
    } else {
      add(random_int(0, 1) ? "max_pool2d" : "avg_pool2d",
          size_of + ", \"padding\": [[" + text(kernel / 2) + ", 0], " + sides + "]", channels * places);
    }
    add("reshape", "\"features\": [" + text(size_) + "]", size_);
  }

  const bool streams_;
  int size_;
  const int first_;
  int count_ = 0;
  std::string nodes_, current_ = "x";
};

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

template <class T>
class Trial {
 public:
  explicit Trial(bool streams)
      : drawn_(streams),
        model_(made()),
        steps_(random_int(0, 90)),
        rows_(random_int(1, 12)),
        size_(model_.inputs()[0].size()),
        outputs_(model_.outputs()[0].size()),
        x_(random_values<T>(size_t(steps_ * rows_ * size_))) {
    for (int64_t r = 0; r < rows_; ++r) lengths_.push_back(random_int(0, int(steps_)));
  }

  // Zero where bits differ.
  uint64_t run(bool streams) const {
    recurra::set_num_threads(1);
    const std::vector<T> whole = called(x_, steps_, rows_, streams ? nullptr : lengths_.data());
    recurra::set_num_threads(3);
    if (!same(called(x_, steps_, rows_, streams ? nullptr : lengths_.data()), whole)) return failed("threads");
    if (streams && !(streams_as(whole, 1) && streams_as(whole, random_int(2, 70)))) return 0;
    for (int64_t r = 0; !streams && r < rows_; ++r)
      if (!row_as(whole, r)) return failed("a row alone");
    uint64_t hash = 14695981039346656037ull;
    for (const T value : whole) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &value, sizeof value);
      for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211ull;
    }
    return hash;
  }

 private:
  Model<T> made() {
    recurra::ModelParameters<T> parameters;
    parameters.tensor = [&](const std::string&, const std::vector<int64_t>& shape) {
      size_t count = 1;
      for (const int64_t size : shape) count *= size_t(size);
      tensors_.push_back(random_values<T>(count));
      return tensors_.back().data();
    };
    return Model<T>(drawn_.structure(sizeof(T) == sizeof(float) ? "float32" : "float64"), parameters);
  }

  static uint64_t failed(const char* what) {
    std::printf("%s: other bits\n", what);
    return 0;
  }

  Sequence<const T> input(const std::vector<T>& x, int64_t steps, int64_t rows) const {
    return {x.data(), steps, rows, rows * size_, size_};
  }

  std::vector<T> called(const std::vector<T>& x, int64_t steps, int64_t rows, const int64_t* lengths) const {
    const int64_t made = model_.output_steps(0, {steps});
    std::vector<T> y(size_t(made * rows * outputs_));
    ModelCall<T> call;
    call.inputs.push_back({input(x, steps, rows), {}});
    call.outputs.push_back({y.data(), made, rows, rows * outputs_, outputs_});
    call.lengths = lengths;
    model_.forward(call);
    return y;
  }

  bool row_as(const std::vector<T>& whole, int64_t r) const {
    const int64_t length = lengths_[size_t(r)];
    std::vector<T> x;
    for (int64_t t = 0; t < length; ++t) {
      const T* const from = x_.data() + (t * rows_ + r) * size_;
      x.insert(x.end(), from, from + size_);
    }
    const std::vector<T> y = called(x, length, 1, nullptr);
    const int64_t made = int64_t(y.size()) / outputs_, all = int64_t(whole.size()) / outputs_ / rows_;
    const std::vector<T> zeros(size_t(outputs_), T(0));
    for (int64_t t = 0; t < all; ++t) {
      const T* const wanted = t < made ? y.data() + t * outputs_ : zeros.data();
      if (std::memcmp(whole.data() + (t * rows_ + r) * outputs_, wanted, size_t(outputs_) * sizeof(T))) return false;
    }
    return true;
  }

  bool streams_as(const std::vector<T>& whole, int64_t chunk) const {
    ModelStream<T> stream(model_, rows_, 1);
    std::vector<T> y(whole.size() + size_t(rows_ * outputs_));
    int64_t made = 0;
    for (int64_t first = 0; first < steps_; first += chunk) {
      const int64_t count = std::min(chunk, steps_ - first);
      const T* const x = x_.data() + first * rows_ * size_;
      T* const to = y.data() + made * rows_ * outputs_;
      const int64_t frames = stream.frames(0, count);
      if (size_t((made + frames) * rows_ * outputs_) > whole.size()) return failed("frames of a stream") != 0;
      if (chunk == 1 && stream.steps_alone()) {
        if (stream.step(x, to) != (frames == 1)) return failed("a step") != 0;
      } else {
        const std::vector<recurra::ModelInput<T>> in{{{x, count, rows_, rows_ * size_, size_}, {}}};
        const std::vector<Sequence<T>> out{{to, frames, rows_, rows_ * outputs_, outputs_}};
        try {  // which has to leave the states as they were
          stream.run(count, in, out, [] { return true; });
          if (count) return failed("a stopped run") != 0;
        } catch (const recurra::Stopped&) {
        }
        stream.run(count, in, out);
      }
      made += frames;
    }
    // Beyond the last step padding may make more.
    y.resize(size_t(made * rows_ * outputs_));
    return same(y, {whole.begin(), whole.begin() + ptrdiff_t(y.size())}) || failed("a stream");
  }

  std::vector<std::vector<T>> tensors_;
  const Drawn drawn_;
  const Model<T> model_;
  const int64_t steps_, rows_, size_, outputs_;
  const std::vector<T> x_;
  std::vector<int64_t> lengths_;
};

// What is no model is refused, and leaves nothing behind.
int refusals() {
  recurra::ModelParameters<float> none;
  none.tensor = [](const std::string& name, const std::vector<int64_t>&) -> const float* {
    throw std::invalid_argument("there is no " + name);
  };
  const std::string start =
      "{\"dtype\": \"float32\", \"batch_first\": false, \"inputs\": [{\"name\": \"x\", \"features\": [3], ";
  const std::string with = start + "\"time\": true, \"integer\": false}], \"nodes\": [";
  const std::string wrong[] = {
      "",
      "[]",
      "{}",
      start,
      "{\"dtype\": \"float64\"}",
      with + "], \"outputs\": []}",
      with + "], \"outputs\": [\"y\"]}",
      with + "{\"name\": \"n\", \"kind\": \"none\", \"inputs\": [\"x\"]}], \"outputs\": [\"n\"]}",
      with + "{\"name\": \"x\", \"kind\": \"dropout\", \"inputs\": [\"x\"]}], \"outputs\": [\"x\"]}",
      with + "{\"name\": \"n\", \"kind\": \"dropout\", \"inputs\": [\"n\"]}], \"outputs\": [\"n\"]}",
      with + "{\"name\": \"n\", \"kind\": \"scale\", \"inputs\": [\"x\"], \"features\": 3}], \"outputs\": [\"n\"]}",
      with + "{\"name\": \"n\", \"kind\": \"select\", \"inputs\": [\"x\"], \"indices\": [3]}], \"outputs\": [\"n\"]}"};
  int failed = 0;
  for (const std::string& structure : wrong) try {
      const Model<float> model(structure, none);
      ++failed;
      std::printf("not refused: %s\n", structure.c_str());
    } catch (const std::invalid_argument&) {
    }
  return failed;
}

}  // namespace

int main(int count, char** arguments) {
  const int trials = count > 1 && std::string(arguments[1]) == "few" ? 40 : 300;
  int failed = refusals();
  uint64_t all = 0;
  for (int i = 0; i < trials; ++i)
    for (const bool streams : {false, true}) {
      const uint64_t hashes[] = {Trial<float>(streams).run(streams), Trial<double>(streams).run(streams)};
      for (const uint64_t hash : hashes) {
        failed += hash == 0;
        all = all * 31 + hash;
      }
    }
  std::printf("%s: %d models, hash %016llx: %d failed\n", recurra::isa().c_str(), 4 * trials,
              static_cast<unsigned long long>(all), failed);
  return failed ? 1 : 0;
}
