// A model from its structure and parameters.
#include <cmath>

#include "nodes.h"

namespace recurra {
namespace detail {
namespace {

constexpr int64_t kMost = INT_MAX;  // numbers of a step, and of an attribute

int64_t checked_size(const std::vector<int64_t>& features) {
  int64_t size = 1;
  for (const int64_t each : features) {
    if (each < 1 || each > kMost / size) throw std::invalid_argument("features: expected 1 to 2^31 - 1 in all");
    size *= each;
  }
  return size;
}

// Values by their names: nodes that change nothing share the number of what they are given.
struct Known {
  ModelValue value;
  int number;
};

template <class T>
class Builder {
 public:
  Builder(ModelGraph<T>& graph, const ModelParameters<T>& parameters) : graph_(graph), parameters_(parameters) {}

  void build(const Json& structure) {
    const std::string& dtype = structure.at("dtype").string("dtype");
    const char* const wanted = sizeof(T) == sizeof(float) ? "float32" : "float64";
    if (dtype != wanted) throw std::invalid_argument("dtype: expected " + std::string(wanted) + ", got '" + dtype + "'");
    graph_.batch_first = structure.at("batch_first").boolean("batch_first");
    for (const Json& input : structure.at("inputs").array("inputs")) add_input(input);
    expect(!graph_.inputs.empty(), "inputs: expected at least one");
    for (const Json& node : structure.at("nodes").array("nodes")) add_node(node);
    for (const Json& output : structure.at("outputs").array("outputs")) {
      const Known& known = find(output.string("outputs"), "outputs");
      expect(!known.value.integer, "outputs: expected floating-point numbers, got integers");
      graph_.outputs.push_back(known.value);
      graph_.outputs.back().name = output.string("outputs");
      graph_.output_values.push_back(known.number);
      read(known.number, INT_MAX);
      graph_.values[size_t(known.number)].output = true;
    }
    expect(!graph_.outputs.empty(), "outputs: expected at least one");
    for (const int n : graph_.recurrent_nodes) {
      auto& node = static_cast<Recurrent<T>&>(*graph_.nodes[size_t(n)]);
      for (size_t s = 1; s < node.outputs.size(); ++s)
        node.state_is_read[s - 1] = graph_.values[size_t(node.outputs[s])].readers > 0;
    }
  }

 private:
  void add_input(const Json& json) {
    ModelValue value;
    value.name = json.at("name").string("name");
    for (const Json& size : json.at("features").array("features")) value.features.push_back(size.integer("features"));
    value.time = json.at("time").boolean("time");
    value.integer = json.at("integer").boolean("integer");
    expect(value.features.size() <= 2, "features: expected at most two sizes");
    expect(value.features.empty() == value.integer, "features: expected none for integers, and some for other inputs");
    checked_size(value.features);
    graph_.inputs.push_back(value);
    add(value.name, value, store(value));
  }

  void add_node(const Json& json) {
    const std::string name = json.at("name").string("name"), kind = json.at("kind").string("kind");
    Description<T> about{json, kind, name, {}, parameters_};
    std::vector<int> inputs;
    try {
      for (const Json& input : json.at("inputs").array("inputs")) {
        const Known& known = find(input.string("inputs"), "inputs");
        about.inputs.push_back(known.value);
        inputs.push_back(known.number);
      }
      expect(!inputs.empty(), "inputs: expected at least one");
      make(about, inputs);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("layers: node '" + name + "': " + error.what());
    }
  }

  void make(const Description<T>& about, const std::vector<int>& inputs) {
    if (about.kind == "dropout") return add(about.name, about.input(), inputs[0]);
    if (about.kind == "reshape") {
      ModelValue value = about.input();
      value.features = about.integers("features");
      expect(value.features.size() == 1 || value.features.size() == 2, "features: expected one or two sizes");
      expect(checked_size(value.features) == about.input().size(), "features: expected as many in all as the input has");
      return add(about.name, value, inputs[0]);
    }
    ModelValue result;
    MadeNode<T> node;
    Recurrent<T>* recurrent = nullptr;
    if (about.kind == "recurrent") {
      auto made = std::make_unique<Recurrent<T>>(about, graph_.recurrent.size(), result);
      recurrent = made.get();
      node = std::move(made);
    }
    if (!node) node = make_plain(about, result);
    if (!node) node = make_window(about, result);
    if (!node) node = make_timed(about, result);
    if (!node) throw std::invalid_argument("kind: there is no '" + about.kind + "'");
    checked_size(result.features);
    node->name = about.name;
    node->inputs = inputs;
    node->outputs.push_back(store(result));
    add(about.name, result, node->outputs[0]);
    if (recurrent) {
      graph_.recurrent.emplace_back(about.name, recurrent->network());
      graph_.recurrent_nodes.push_back(int(graph_.nodes.size()));
      const auto widths = recurrent->state_widths();
      for (size_t s = 0; s < widths.size(); ++s) {
        const ModelValue state = value_of({recurrent->lanes() * widths[s]}, false);
        checked_size(state.features);
        node->outputs.push_back(store(state));
        add(about.name + ":" + recurrent->network().cell().states[s].first, state, node->outputs.back());
      }
    }
    for (const int input : inputs) read(input, int(graph_.nodes.size()));
    if (about.kind == "embedding") {
      int64_t& limit = graph_.values[size_t(inputs[0])].limit;
      limit = std::min(limit, about.integer("num_embeddings"));
    }
    graph_.multiplications += node->multiplications();
    graph_.nodes.push_back(std::move(node));
  }

  int store(const ModelValue& value) {
    typename ModelGraph<T>::Stored stored;
    stored.size = value.size();
    stored.time = value.time;
    stored.integer = value.integer;
    graph_.values.push_back(stored);
    return int(graph_.values.size()) - 1;
  }
  void read(int number, int reader) {
    auto& value = graph_.values[size_t(number)];
    ++value.readers;
    value.last_reader = std::max(value.last_reader, reader);
  }
  void add(const std::string& name, const ModelValue& value, int number) {
    if (!known_.emplace(name, Known{value, number}).second)
      throw std::invalid_argument("name: expected one that is not used yet, got '" + name + "'");
  }
  const Known& find(const std::string& name, const char* what) const {
    const auto known = known_.find(name);
    if (known == known_.end()) throw std::invalid_argument(std::string(what) + ": there is no '" + name + "' before it");
    return known->second;
  }

  ModelGraph<T>& graph_;
  const ModelParameters<T>& parameters_;
  std::map<std::string, Known> known_;
};

}  // namespace

template <class T>
int64_t Description<T>::checked(const Json& value, const char* key, int64_t least) {
  const int64_t number = value.integer(key);
  if (number < least || number > kMost)
    throw std::invalid_argument(std::string(key) + ": expected " + std::to_string(least) + " to 2^31 - 1, got " +
                                std::to_string(number));
  return number;
}

template <class T>
std::vector<int64_t> Description<T>::integers(const char* key, int64_t least) const {
  const Json& value = json.at(key);
  if (value.kind() == Json::Kind::number) return {checked(value, key, least)};
  std::vector<int64_t> all;
  for (const Json& each : value.array(key)) all.push_back(checked(each, key, least));
  return all;
}

template <class T>
const ModelValue& Description<T>::input() const {
  expect(inputs.size() == 1, "expected one input");
  expect(!inputs[0].integer, "expected floating-point numbers, got integers");
  return inputs[0];
}

template <class T>
const ModelValue& Description<T>::sequence() const {
  expect(input().time, "expected a sequence, got one value for each row");
  return inputs[0];
}

template <class T>
const ModelValue& Description<T>::sized(int64_t features) const {
  if (input().size() != features)
    throw std::invalid_argument("expected " + std::to_string(features) + " features, got " + std::to_string(inputs[0].size()));
  return inputs[0];
}

template <class T>
ModelGraph<T>::ModelGraph(std::string_view structure, const ModelParameters<T>& parameters) {
  Builder<T>(*this, parameters).build(Json::parse(structure));
}

template struct Description<float>;
template struct Description<double>;
template struct ModelGraph<float>;
template struct ModelGraph<double>;

}  // namespace detail
}  // namespace recurra
