// Graphs, and networks of their cells.
#include <memory>
#include <variant>

#include "../engine/graph.h"
#include "calls.h"

namespace recurra {
namespace bindings {

class PyGraph {
 public:
  PyGraph(const Int64Array& fronts, const Int64Array& before, const Int64Array& source, const std::optional<Int64Array>& first,
          const std::optional<Int64Array>& children)
      : rows_(std::make_shared<GraphRows>(list("fronts", fronts),
                                          before.ndim() == 2 && before.shape(0) <= kMaxSlots ? int(before.shape(0)) : -1,
                                          std::vector<int64_t>(before.data(), before.data() + before.size()),
                                          list("source", source), first ? list("first", *first) : std::vector<int64_t>(),
                                          children ? list("children", *children) : std::vector<int64_t>())) {}
  const std::shared_ptr<const GraphRows>& rows() const { return rows_; }

 private:
  static std::vector<int64_t> list(const char* name, const Int64Array& array) {
    if (array.ndim() != 1) throw py::value_error(std::string(name) + ": expected one axis");
    return {array.data(), array.data() + array.size()};
  }
  std::shared_ptr<const GraphRows> rows_;
};

template <class T>
std::vector<T*> graph_states_of(const char* name, const std::vector<OptionalArray>& arrays, int64_t rows, int64_t units,
                                Use use) {
  std::vector<T*> all;
  for (const OptionalArray& array : arrays) all.push_back(optional<std::remove_const_t<T>>(name, array, {rows, units}, use));
  return all;
}

template <class T>
std::vector<T*> graph_params_of(const GraphConfig& config, const std::vector<OptionalArray>& arrays, Use use) {
  const GraphSpec spec = graph_spec(config);
  check_count("params", size_t(spec.params.size), arrays.size());
  std::vector<T*> all;
  for (int p = 0; p < spec.params.size; ++p)
    all.push_back(
        optional<std::remove_const_t<T>>(spec.params[p].name, arrays[size_t(p)], graph_shape(spec.params[p], config), use));
  return all;
}

template <class T>
struct RecordedGraph {
  GraphConfig config;
  GraphTape<T> tape;

  void backward(const std::vector<OptionalArray>& d_states, const OptionalArray& dx, const std::vector<OptionalArray>& d_given,
                const std::vector<OptionalArray>& params) const {
    const int64_t units = config.hidden_size;
    const auto from = graph_states_of<const T>("d_states", d_states, tape.rows().rows, units, Use::read);
    const auto given = graph_states_of<T>("d_given", d_given, tape.rows().given, units, Use::write);
    for (const T* array : given)
      if (!array) throw py::value_error("d_given: expected arrays");
    const auto all = graph_params_of<T>(config, params, Use::write);
    T* const to = optional<T>("dx", dx, {tape.inputs(), config.input_size}, Use::write);
    until_signal(tape.multiplications(), [&](const Stop& stop) { tape.backward(from, to, given, all, stop); });
  }
};

class PyGraphTape {
 public:
  using AnyTape = std::variant<RecordedGraph<float>, RecordedGraph<double>>;
  explicit PyGraphTape(AnyTape tape) : tape_(std::move(tape)) {}
  void backward(const std::vector<OptionalArray>& d_states, const OptionalArray& dx, const std::vector<OptionalArray>& d_given,
                const std::vector<OptionalArray>& params) const {
    std::visit([&](const auto& tape) { tape.backward(d_states, dx, d_given, params); }, tape_);
  }
  size_t bytes() const {
    return std::visit([](const auto& tape) { return tape.tape.bytes(); }, tape_);
  }

 private:
  AnyTape tape_;
};

class PyGraphNetwork {
 public:
  PyGraphNetwork(const GraphConfig& config, const std::string& dtype, const std::vector<OptionalArray>& params)
      : network_(dtype == "float64" ? AnyNetwork(made<double>(config, params)) : AnyNetwork(made<float>(config, params))) {}

  std::optional<PyGraphTape> forward(const py::array& x, const PyGraph& graph, const std::vector<OptionalArray>& given,
                                     const std::vector<OptionalArray>& out, const std::optional<bool>& recompute) const {
    return std::visit([&](const auto& network) { return run(network, x, graph, given, out, recompute); }, network_);
  }

 private:
  using AnyNetwork = std::variant<GraphNetwork<float>, GraphNetwork<double>>;

  template <class T>
  static GraphNetwork<T> made(const GraphConfig& config, const std::vector<OptionalArray>& params) {
    const auto all = graph_params_of<const T>(config, params, Use::read);
    const py::gil_scoped_release release;
    return GraphNetwork<T>(config, all);
  }

  template <class T>
  static std::optional<PyGraphTape> run(const GraphNetwork<T>& network, const py::array& x, const PyGraph& graph,
                                        const std::vector<OptionalArray>& given, const std::vector<OptionalArray>& out,
                                        const std::optional<bool>& recompute) {
    const GraphConfig& config = network.config();
    const T* from = data<T>("x", x, {kAny, config.input_size}, Layout::whole, Use::read);
    const auto start = graph_states_of<const T>("given", given, graph.rows()->given, config.hidden_size, Use::read);
    const auto to = graph_states_of<T>("out", out, graph.rows()->rows, config.hidden_size, Use::write);
    const Keep keep = !recompute ? Keep::nothing : *recompute ? Keep::states : Keep::everything;
    const int64_t inputs = x.shape(0);
    std::shared_ptr<const GraphRecord<T>> record;
    until_signal(network.multiplications(graph.rows()->rows),
                 [&](const Stop& stop) { record = network.forward(from, inputs, graph.rows(), start, to, keep, stop); });
    if (!record) return std::nullopt;
    return PyGraphTape(RecordedGraph<T>{config, GraphTape<T>(std::move(record))});
  }

  AnyNetwork network_;
};

inline GraphConfig graph_config(const std::string& cell, int64_t input_size, int64_t hidden_size, int slots,
                                const std::vector<std::string>& dimensions, const std::vector<bool>& priority,
                                const std::vector<bool>& residual, bool standard) {
  return {cell, input_size, hidden_size, slots, dimensions, priority, residual, standard};
}

inline py::tuple graph_cell(const std::string& cell, int64_t input_size, int64_t hidden_size, int slots,
                            const std::vector<std::string>& dimensions, const std::vector<bool>& priority,
                            const std::vector<bool>& residual, bool standard) {
  const GraphConfig config = graph_config(cell, input_size, hidden_size, slots, dimensions, priority, residual, standard);
  const GraphSpec spec = graph_spec(config);
  py::list params;
  for (int p = 0; p < spec.params.size; ++p)
    params.append(py::make_tuple(spec.params[p].name, graph_shape(spec.params[p], config), spec.params[p].optional));
  return py::make_tuple(graph_states(spec), params);
}

void define_graph(py::module_& m) {
  m.def("graph_cell", graph_cell, py::arg("cell"), py::arg("input_size"), py::arg("hidden_size"), py::arg("slots"),
        py::arg("dimensions"), py::arg("priority"), py::arg("residual"), py::arg("standard"),
        "The states of a cell of graphs, and its parameters: name, shape, whether it may be left out.");
  py::class_<PyGraph>(m, "Graph", "Rows in fronts, their predecessors and inputs; immutable.")
      .def(py::init<const Int64Array&, const Int64Array&, const Int64Array&, const std::optional<Int64Array>&,
                    const std::optional<Int64Array>&>(),
           py::arg("fronts"), py::arg("before"), py::arg("source"), py::arg("first"), py::arg("children"));
  py::class_<PyGraphTape>(m, "GraphTape", "What a forward pass over a graph leaves for backward.")
      .def("backward", &PyGraphTape::backward, py::arg("d_states"), py::arg("dx"), py::arg("d_given"), py::arg("params"),
           "Writes dx, d_given and params; dx and any of params may be None.")
      .def_property_readonly("nbytes", &PyGraphTape::bytes);
  py::class_<PyGraphNetwork>(m, "GraphNetwork", "Packed weights of a cell of graphs; immutable.")
      .def(py::init([](const std::string& cell, int64_t input_size, int64_t hidden_size, int slots,
                       const std::vector<std::string>& dimensions, const std::vector<bool>& priority,
                       const std::vector<bool>& residual, bool standard, const std::string& dtype,
                       const std::vector<OptionalArray>& params) {
             return PyGraphNetwork(graph_config(cell, input_size, hidden_size, slots, dimensions, priority, residual, standard),
                                   dtype, params);
           }),
           py::arg("cell"), py::arg("input_size"), py::arg("hidden_size"), py::arg("slots"), py::arg("dimensions"),
           py::arg("priority"), py::arg("residual"), py::arg("standard"), py::arg("dtype"), py::arg("params"))
      .def("forward", &PyGraphNetwork::forward, py::arg("x"), py::arg("graph"), py::arg("given"), py::arg("out"),
           py::arg("recompute"), "Writes the states of all rows; a tape unless `recompute` is None.");
}

}  // namespace bindings
}  // namespace recurra
