// Nodes that see one step of one row at a time.
#include <cmath>

#include "../cells/activation.h"
#include "../engine/backend.h"
#include "arithmetic.h"
#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

template <class T>
class ActivationNode : public Plain<T> {
 public:
  ActivationNode(int64_t size, int function, T alpha, T beta) : size_(size), function_(function), alpha_(alpha), beta_(beta) {}
  double multiplications() const override { return 8 * double(size_); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    ActivationCall<T> call{function_, alpha_, beta_, count * size_, in[0].data + first * size_, out + first * size_};
    kernels<T>(backend()).activation(call);
  }

 private:
  const int64_t size_;
  const int function_;
  const T alpha_, beta_;
};

template <class T>
class SoftmaxNode : public Plain<T> {
 public:
  SoftmaxNode(int64_t size, bool log) : size_(size), log_(log) {}
  double multiplications() const override { return 16 * double(size_); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    SoftmaxCall<T> call{count, size_, log_, in[0].data + first * size_, out + first * size_};
    kernels<T>(backend()).softmax(call);
  }

 private:
  const int64_t size_;
  const bool log_;
};

template <class T>
class SqrtNode : public Plain<T> {
 public:
  explicit SqrtNode(int64_t size) : size_(size) {}
  double multiplications() const override { return 8 * double(size_); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    const T* const x = in[0].data + first * size_;
    T* const y = out + first * size_;
    for (int64_t k = 0; k < count * size_; ++k) y[k] = std::sqrt(x[k]);  // correctly rounded everywhere
  }

 private:
  const int64_t size_;
};

template <class T>
class LayerNormNode : public Plain<T> {
 public:
  LayerNormNode(int64_t size, T eps, const T* weight, const T* bias)
      : size_(size), eps_(eps), weight_(size_t(size), T(1)), bias_(size_t(size)) {
    if (weight) weight_.assign(weight, weight + size);
    if (bias) bias_.assign(bias, bias + size);
  }
  double multiplications() const override { return 4 * double(size_); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    layer_norm(in[0].data + first * size_, count, size_, eps_, weight_.data(), bias_.data(), out + first * size_);
  }

 private:
  const int64_t size_;
  const T eps_;
  std::vector<T> weight_, bias_;
};

template <class T>
class ScaleNode : public Plain<T> {
 public:
  ScaleNode(int64_t size, const T* weight, const T* bias) : weight_(weight, weight + size), bias_(bias, bias + size) {}
  double multiplications() const override { return double(weight_.size()); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    const int64_t size = int64_t(weight_.size());
    scale(in[0].data + first * size, count, size, weight_.data(), bias_.data(), out + first * size);
  }

 private:
  std::vector<T> weight_, bias_;
};

// Row r of a step of a value, for a result whose rows are counted over all steps.
template <class T>
const T* row_of(const Frames<T>& in, int64_t position, int64_t rows, int64_t size) {
  return in.data + (in.constant ? position % rows : position) * size;
}

// Adds or multiplies.
template <class T>
class ArithmeticNode : public Plain<T> {
 public:
  ArithmeticNode(int64_t size, size_t inputs, bool adds) : size_(size), inputs_(inputs), adds_(adds) {}
  double multiplications() const override { return double(size_) * double(inputs_); }
  bool in_place() const override { return true; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t rows, T* out) const override {
    const bool even = std::none_of(in, in + inputs_, [](const Frames<T>& each) { return each.constant; });
    const int64_t run = even ? count : 1;  // positions at a time
    for (int64_t r = first; r < first + count; r += run)
      for (size_t k = 1; k < inputs_; ++k) {
        T* const y = out + r * size_;
        const T* const so_far = k == 1 ? row_of(in[0], r, rows, size_) : y;
        (adds_ ? add<T> : multiply<T>)(so_far, row_of(in[k], r, rows, size_), run * size_, y);
      }
  }

 private:
  const int64_t size_;
  const size_t inputs_;
  const bool adds_;
};

template <class T>
class ConcatenateNode : public Plain<T> {
 public:
  explicit ConcatenateNode(std::vector<int64_t> sizes) : sizes_(std::move(sizes)) {
    for (const int64_t size : sizes_) all_ += size;
  }
  double multiplications() const override { return double(all_) / 2; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t rows, T* out) const override {
    for (int64_t r = first; r < first + count; ++r) {
      T* y = out + r * all_;
      for (size_t k = 0; k < sizes_.size(); ++k) y = std::copy_n(row_of(in[k], r, rows, sizes_[k]), sizes_[k], y);
    }
  }

 private:
  const std::vector<int64_t> sizes_;
  int64_t all_ = 0;
};

template <class T>
class SelectNode : public Plain<T> {
 public:
  SelectNode(int64_t size, std::vector<int64_t> indices) : size_(size), indices_(std::move(indices)) {}
  double multiplications() const override { return double(indices_.size()); }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    T* y = out + first * int64_t(indices_.size());
    for (int64_t r = first; r < first + count; ++r)
      for (const int64_t index : indices_) *y++ = in[0].data[r * size_ + index];
  }

 private:
  const int64_t size_;
  const std::vector<int64_t> indices_;
};

// Integers that count are checked before; those past a row's length may be anything, and give zeros.
template <class T>
class EmbeddingNode : public Plain<T> {
 public:
  EmbeddingNode(int64_t count, int64_t size, const T* table)
      : count_(count), size_(size), table_(table, table + count * size) {}
  double multiplications() const override { return double(size_) / 2; }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const override {
    for (int64_t r = first; r < first + count; ++r) {
      const int64_t index = in[0].integers[r];
      T* const y = out + r * size_;
      if (index >= 0 && index < count_)
        std::copy_n(table_.data() + index * size_, size_, y);
      else
        std::fill_n(y, size_, T(0));
    }
  }

 private:
  const int64_t count_, size_;
  const std::vector<T> table_;
};

// A function by its name in structures, which are those of python/recurra/activation.py, and what its parameters are.
struct Named {
  const char* name;
  Activation function;
  double alpha, beta;
  int given;  // parameters that a structure may give: the first so many of alpha and beta
};
constexpr Named kNamed[] = {{"tanh", Activation::scaled_tanh, 1, 1, 0},
                            {"sigmoid", Activation::sigmoid, 0, 0, 0},
                            {"relu", Activation::thresholded_relu, 0, 0, 0},
                            {"linear", Activation::affine, 1, 0, 0},
                            {"hard_sigmoid", Activation::hard_sigmoid, 0.2, 0.5, 2},
                            {"softsign", Activation::softsign, 0, 0, 0},
                            {"softplus", Activation::softplus, 0, 0, 0},
                            {"leaky_relu", Activation::leaky_relu, 0.01, 0, 1},
                            {"elu", Activation::elu, 1, 0, 1},
                            {"thresholded_relu", Activation::thresholded_relu, 1, 0, 1},
                            {"scaled_tanh", Activation::scaled_tanh, 1, 1, 2},
                            {"affine", Activation::affine, 1, 0, 2}};

template <class T>
MadeNode<T> make_activation(const Description<T>& about, int64_t size) {
  const std::string& name = about.text("function");
  for (const Named& named : kNamed) {
    if (name != named.name) continue;
    double values[] = {named.alpha, named.beta};
    const char* const keys[] = {"alpha", "beta"};
    for (int i = 0; i < named.given; ++i)
      if (const Json* given = about.json.find(keys[i]); given && given->kind() != Json::Kind::null)
        values[i] = given->number(keys[i]);
    return std::make_unique<ActivationNode<T>>(size, int(named.function), T(values[0]), T(values[1]));
  }
  throw std::invalid_argument("function: there is no activation '" + name + "'");
}

template <class T>
MadeNode<T> make_combination(const Description<T>& about, ModelValue& result) {
  expect(about.inputs.size() >= 2, "expected at least two inputs");
  const ModelValue& first = about.inputs[0];
  bool time = false, wide = true;
  int64_t all = 0, channels = 0;
  std::vector<int64_t> sizes;
  for (const ModelValue& input : about.inputs) {
    expect(!input.integer, "expected floating-point numbers, got integers");
    time = time || input.time;
    wide = wide && input.features.size() == 2 && input.features[1] == about.inputs[0].features[1];
    sizes.push_back(input.size());
    all += input.size();
    channels += input.features.empty() ? 1 : input.features[0];
  }
  if (about.kind == "concatenate") {
    result = wide ? value_of({channels, first.features[1]}, time) : value_of({all}, time);
    return std::make_unique<ConcatenateNode<T>>(sizes);
  }
  for (const int64_t size : sizes) expect(size == first.size(), "expected inputs of one size");
  result = value_of(first.features, time);
  return std::make_unique<ArithmeticNode<T>>(first.size(), sizes.size(), about.kind == "add");
}

template <class T>
MadeNode<T> make_linear(const Description<T>& about, ModelValue& result) {
  const int64_t inputs = about.integer("in_features"), outputs = about.integer("out_features");
  result = value_of({outputs}, about.sized(inputs).time);
  if (const auto given = about.parameters.linears.find(about.name); given != about.parameters.linears.end()) {
    expect(given->second.inputs() == inputs && given->second.outputs() == outputs,
           "expected in_features and out_features of the packed one");
    return std::make_unique<LinearNode<T>>(given->second);
  }
  const T* const weight = about.tensor("weight", {outputs, inputs});
  const T* const bias = about.flag("bias") ? about.tensor("bias", {outputs}) : nullptr;
  return std::make_unique<LinearNode<T>>(Linear<T>(inputs, outputs, weight, bias));
}

}  // namespace

template <class T>
void LinearNode<T>::apply(const Frames<T>* in, int64_t first, int64_t count, int64_t, T* out) const {
  constexpr int64_t kRows = 256;
  const int64_t inputs = affine_.inputs(), outputs = affine_.outputs();
  for (int64_t r = first; r < first + count; r += kRows)
    affine_.run({in[0].data + r * inputs, inputs}, std::min(kRows, first + count - r), {out + r * outputs, outputs});
}

template <class T>
MadeNode<T> make_plain(const Description<T>& about, ModelValue& result) {
  const std::string& kind = about.kind;
  if (kind == "linear") return make_linear(about, result);
  if (kind == "add" || kind == "multiply" || kind == "concatenate") return make_combination(about, result);
  if (kind == "embedding") {
    expect(about.inputs.size() == 1 && about.inputs[0].integer, "expected one input of integers");
    const int64_t count = about.integer("num_embeddings"), size = about.integer("embedding_dim");
    result = value_of({size}, about.inputs[0].time);
    return std::make_unique<EmbeddingNode<T>>(count, size, about.tensor("weight", {count, size}));
  }
  if (kind == "activation") {
    result = value_of(about.input().features, about.input().time);
    return make_activation(about, about.input().size());
  }
  if (kind == "softmax") {
    result = value_of(about.input().features, about.input().time);
    return std::make_unique<SoftmaxNode<T>>(about.input().size(), about.flag("log"));
  }
  if (kind == "sqrt") {
    result = value_of(about.input().features, about.input().time);
    return std::make_unique<SqrtNode<T>>(about.input().size());
  }
  if (kind == "layer_norm" || kind == "scale") {
    const int64_t size = about.integer("features");
    result = value_of(about.sized(size).features, about.input().time);
    const bool scale = kind == "scale";
    const T* const weight = scale || about.flag("weight") ? about.tensor("weight", {size}) : nullptr;
    const T* const bias = scale || about.flag("bias") ? about.tensor("bias", {size}) : nullptr;
    if (scale) return std::make_unique<ScaleNode<T>>(size, weight, bias);
    const double eps = about.number("eps");
    expect(eps > 0 && T(eps) > 0, "eps: expected a positive number");
    return std::make_unique<LayerNormNode<T>>(size, T(eps), weight, bias);
  }
  if (kind == "select") {
    std::vector<int64_t> indices;
    const int64_t size = about.input().size();
    for (const Json& index : about.json.at("indices").array("indices"))
      indices.push_back(Description<T>::checked(index, "indices", 0));
    expect(!indices.empty(), "indices: expected at least one");
    for (const int64_t index : indices) expect(index < size, "indices: expected numbers of features");
    result = value_of({int64_t(indices.size())}, about.input().time);
    return std::make_unique<SelectNode<T>>(size, std::move(indices));
  }
  return nullptr;
}

template class LinearNode<float>;
template class LinearNode<double>;
template MadeNode<float> make_plain(const Description<float>&, ModelValue&);
template MadeNode<double> make_plain(const Description<double>&, ModelValue&);

}  // namespace detail
}  // namespace recurra
