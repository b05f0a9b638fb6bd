// The kinds of nodes, made from their descriptions.
#pragma once
#include "json.h"
#include "node.h"

namespace recurra {
namespace detail {

// What a node is made of. Whatever does not go together is refused, without the node's name.
template <class T>
struct Description {
  const Json& json;
  std::string kind, name;
  std::vector<ModelValue> inputs;
  const ModelParameters<T>& parameters;

  int64_t integer(const char* key, int64_t least = 1) const { return checked(json.at(key), key, least); }
  double number(const char* key) const { return json.at(key).number(key); }
  bool flag(const char* key) const { return json.at(key).boolean(key); }
  const std::string& text(const char* key) const { return json.at(key).string(key); }
  // Numbers that a file has one of for time alone, or one for each of time and width.
  std::vector<int64_t> integers(const char* key, int64_t least = 1) const;
  const T* tensor(const std::string& parameter, const std::vector<int64_t>& shape) const {
    return parameters.tensor(name + "." + parameter, shape);
  }
  const ModelValue& input() const;         // the only one, of numbers
  const ModelValue& sequence() const;      // likewise, with time
  const ModelValue& sized(int64_t) const;  // likewise, of so many features

  static int64_t checked(const Json& value, const char* key, int64_t least);
};

inline ModelValue value_of(std::vector<int64_t> features, bool time) { return {"", std::move(features), time, false}; }

template <class T>
using MadeNode = std::unique_ptr<Node<T>>;

// Each sets the result; null if the kind is not one of theirs.
template <class T>
MadeNode<T> make_plain(const Description<T>& about, ModelValue& result);
template <class T>
MadeNode<T> make_window(const Description<T>& about, ModelValue& result);
template <class T>
MadeNode<T> make_timed(const Description<T>& about, ModelValue& result);

template <class T>
class LinearNode : public Plain<T> {
 public:
  explicit LinearNode(const Linear<T>& given) : linear(given), affine_(given) {}
  double multiplications() const override { return double(linear.inputs()) * double(linear.outputs()); }
  void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t rows, T* out) const override;

  const Linear<T> linear;

 private:
  const Affine<T> affine_;
};

template <class T>
class Recurrent : public Node<T> {
 public:
  // number: among the model's recurrent nodes.
  Recurrent(const Description<T>& about, size_t number, ModelValue& result);

  const Network<T>& network() const { return network_; }
  std::vector<int64_t> state_widths() const { return widths_; }  // of a layer and direction
  int64_t lanes() const { return lanes_; }                       // layers * directions

  double multiplications() const override { return network_.multiplications_per_step(); }
  void call(Run<T>& run) const override;
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                        std::vector<Slot<T>*> out) const override {
    return stream(sizes, in, out, nullptr);
  }
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in, std::vector<Slot<T>*> out,
                                        const Linear<T>* head) const;

  std::vector<bool> state_is_read;  // by state: whether it is a value that another node reads, or an output

 private:
  class Live;
  std::vector<std::vector<T>> start(const std::vector<std::vector<T>>& learned, int64_t rows) const;

  size_t number_;
  Network<T> network_;
  int64_t lanes_;
  std::vector<int64_t> widths_;
  std::vector<std::vector<T>> learned_;  // initial states [lanes, width], if there are any
};

}  // namespace detail
}  // namespace recurra
