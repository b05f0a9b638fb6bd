// Networks on GPUs for Python, which has checked the arrays: addresses, strides and streams go in.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <limits>
#include <optional>

#include "recurra/cuda.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

using Address = uint64_t;
using CudaArray = std::tuple<Address, int64_t, int64_t, int64_t>;  // address, strides of the outer axis, rows, columns
using CudaLengths = std::optional<py::array_t<int64_t, py::array::c_style | py::array::forcecast>>;
using CudaSegments = std::optional<py::array_t<int32_t, py::array::c_style | py::array::forcecast>>;

inline void* pointer(Address address) { return reinterpret_cast<void*>(address); }

inline cuda::Array array(const std::optional<CudaArray>& given) {
  if (!given) return {};
  const auto& [address, outer, row, column] = *given;
  return {pointer(address), outer, row, column};
}

class PyCudaNetwork {
 public:
  PyCudaNetwork(const NetworkConfig& config, const cuda::Options& options) : network_(config, options) {}

  void set_parameters(const std::vector<std::vector<Address>>& params, Address stream) {
    network_.set_parameters(pointers<const void*>(params), pointer(stream));
  }
  void pack(const std::vector<std::vector<Address>>& params, Address weights, Address stream) const {
    network_.pack(pointers<const void*>(params), pointer(weights), pointer(stream));
  }

  cuda::Plan plan(int64_t steps, int64_t rows, const CudaLengths& lengths, bool device_lengths, bool training, bool recompute,
                  bool packed, bool cells, const CudaSegments& segments) const {
    if (lengths && lengths->size() != rows) throw py::value_error("lengths: expected one for each row");
    if (segments && segments->size() != 3 * rows) throw py::value_error("segments: expected three numbers for each row");
    return network_.plan(steps, rows,
                         {lengths ? lengths->data() : nullptr, device_lengths, training, recompute, packed, cells,
                          segments ? segments->data() : nullptr});
  }

  using States = std::optional<std::vector<std::optional<CudaArray>>>;

  void forward(const cuda::Plan& plan, const CudaArray& x, const States& initial, Address lengths, const CudaArray& y,
               const States& final_states, std::optional<uint64_t> seed, Address tape, Address workspace, Address stream,
               Address weights, const std::optional<CudaArray>& cells) const {
    const auto from = states(initial), to = states(final_states);
    network_.forward(plan, array(x), initial ? from.data() : nullptr, static_cast<const int32_t*>(pointer(lengths)), array(y),
                     to.data(), seed ? &*seed : nullptr, pointer(tape), pointer(workspace), pointer(stream), pointer(weights),
                     array(cells));
  }

  void backward(const cuda::Plan& plan, const std::optional<CudaArray>& dy, const States& d_final,
                const std::optional<CudaArray>& dx, const States& d_initial, const std::vector<std::vector<Address>>& params,
                bool add, bool seeded, Address tape, Address workspace, Address stream, Address weights,
                const std::optional<CudaArray>& d_cells, double clip) const {
    const auto from = states(d_final), to = states(d_initial);
    network_.backward(plan, array(dy), d_final ? from.data() : nullptr, array(dx), d_initial ? to.data() : nullptr,
                      pointers<void*>(params), add, seeded, pointer(tape), pointer(workspace), pointer(stream),
                      pointer(weights), array(d_cells), clip);
  }

  size_t weight_bytes() const { return network_.weight_bytes(); }
  const cuda::Network& network() const { return network_; }

 private:
  template <class Pointer>
  static std::vector<std::vector<Pointer>> pointers(const std::vector<std::vector<Address>>& params) {
    std::vector<std::vector<Pointer>> all;
    for (const auto& lane : params) {
      all.emplace_back();
      for (const Address address : lane) all.back().push_back(pointer(address));
    }
    return all;
  }

  std::vector<cuda::Array> states(const States& given) const {
    std::vector<cuda::Array> all;
    if (given)
      for (const auto& one : *given) all.push_back(array(one));
    if (all.empty()) all.resize(network_.cell().states.size());  // no array for any
    if (all.size() != network_.cell().states.size()) throw py::value_error("states: expected the cell's number of them");
    return all;
  }

  cuda::Network network_;
};

class PyCudaStream {
 public:
  using States = std::vector<CudaArray>;

  PyCudaStream(const PyCudaNetwork& network, int64_t rows)
      : stream_(network.network(), rows), states_(network.network().cell().states.size()) {}

  void step(const CudaArray& x, const CudaArray& y, Address stream) { stream_.step(array(x), array(y), pointer(stream)); }
  void run(const cuda::Plan& plan, const CudaArray& x, const CudaArray& y, Address workspace, Address stream) {
    stream_.run(plan, array(x), array(y), pointer(workspace), pointer(stream));
  }
  void get_state(const States& states, Address stream) const { stream_.get_state(arrays(states).data(), pointer(stream)); }
  void set_state(const States& states, Address stream) { stream_.set_state(arrays(states).data(), pointer(stream)); }
  void reset(const CudaLengths& rows, Address stream, const std::optional<States>& states) {
    if (rows)
      stream_.reset(rows->data(), rows->size(), pointer(stream), states ? arrays(*states).data() : nullptr);
    else if (states)
      stream_.set_state(arrays(*states).data(), pointer(stream));
    else
      stream_.reset(pointer(stream));
  }

 private:
  std::vector<cuda::Array> arrays(const States& given) const {
    if (given.size() != states_) throw py::value_error("states: expected the cell's number of them");
    std::vector<cuda::Array> all;
    for (const auto& one : given) all.push_back(array(one));
    return all;
  }

  cuda::Stream stream_;
  size_t states_;
};

inline int find_name(const char* what, const std::string& name, std::initializer_list<const char*> names) {
  int i = 0;
  for (const char* each : names) {
    if (name == each) return i;
    ++i;
  }
  throw py::value_error(std::string(what) + ": there is none named '" + name + "'");
}

inline cuda::Number number_of(const std::string& dtype) {
  return cuda::Number(find_name("dtype", dtype, {"float32", "float64", "float16", "bfloat16"}));
}

inline cuda::Options cuda_options(const std::string& dtype, int device, const std::string& engine, bool allow_tf32) {
  cuda::Options options;
  options.device = device;
  options.number = number_of(dtype);
  const int found =
      find_name("engine", engine, {"auto", "exact", "cublas", "exact-steps", "exact-resident", "cublas-resident"});
  options.engine = found < 3 ? cuda::Engine(found) : found < 5 ? cuda::Engine::exact : cuda::Engine::cublas;
  if (found >= 3) options.walk = found == 3 ? cuda::Walk::steps : cuda::Walk::resident;
  options.allow_tf32 = allow_tf32;
  return options;
}

class PyCudaLinear {
 public:
  PyCudaLinear(int64_t inputs, int64_t outputs, const cuda::Options& options) : linear_(inputs, outputs, options) {}
  void set_parameters(Address weight, Address bias, Address stream) {
    linear_.set_parameters(pointer(weight), pointer(bias), pointer(stream));
  }
  size_t workspace_bytes(int64_t rows) const { return linear_.workspace_bytes(rows); }
  void forward(Address x, int64_t rows, Address y, Address workspace, Address stream) const {
    linear_.forward(pointer(x), rows, pointer(y), pointer(workspace), pointer(stream));
  }
  void backward(Address x, Address dy, int64_t rows, Address dx, Address d_weight, Address d_bias, bool add, Address workspace,
                Address stream) const {
    linear_.backward(pointer(x), pointer(dy), rows, pointer(dx), pointer(d_weight), pointer(d_bias), add, pointer(workspace),
                     pointer(stream));
  }

 private:
  cuda::Linear linear_;
};

inline void define_cuda_network(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  py::class_<cuda::Plan>(m, "Plan", "What a call of one shape needs; immutable.")
      .def_property_readonly("workspace_bytes", &cuda::Plan::workspace_bytes)
      .def_property_readonly("backward_workspace_bytes", &cuda::Plan::backward_workspace_bytes)
      .def_property_readonly("tape_bytes", &cuda::Plan::tape_bytes)
      .def_property_readonly("engine",
                             [](const cuda::Plan& plan) { return plan.engine() == cuda::Engine::exact ? "exact" : "cublas"; })
      .def("explain", &cuda::Plan::explain, "How the engine walks through time, and why.");
  py::class_<PyCudaStream>(m, "Stream", "The running state of some sequences on a GPU.")
      .def("step", &PyCudaStream::step, py::arg("x"), py::arg("y"), py::arg("stream"), released, "x [B, I], y [B, O].")
      .def("run", &PyCudaStream::run, py::arg("plan"), py::arg("x"), py::arg("y"), py::arg("workspace"), py::arg("stream"),
           released)
      .def("get_state", &PyCudaStream::get_state, py::arg("states"), py::arg("stream"), released)
      .def("set_state", &PyCudaStream::set_state, py::arg("states"), py::arg("stream"), released)
      .def("reset", &PyCudaStream::reset, py::arg("rows"), py::arg("stream"), py::arg("states") = py::none(),
           "All rows, or the given ones, to zero or to these states.");
  py::class_<PyCudaNetwork>(m, "Network", "Weights of a stack of layers on a GPU.")
      .def(py::init([](const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size,
                       int64_t output_size, int layers, int directions, const std::vector<double>& constants,
                       const std::array<double, 6>& rates, int device, const std::string& engine, bool allow_tf32, bool reverse,
                       int64_t heads) {
             NetworkConfig c;
             c.cell = cell;
             c.input_size = input_size;
             c.hidden_size = hidden_size;
             c.output_size = output_size;
             c.layers = layers;
             c.directions = directions;
             c.reverse = reverse;
             c.constants = constants;
             c.heads = heads;
             c.regularization = {rates[0], rates[1], {rates[2], rates[3], rates[4], rates[5]}};
             const cuda::Options options = cuda_options(dtype, device, engine, allow_tf32);
             const py::gil_scoped_release compiling;
             return std::make_unique<PyCudaNetwork>(c, options);
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("output_size"),
           py::arg("layers"), py::arg("directions"), py::arg("constants"), py::arg("regularization"), py::arg("device"),
           py::arg("engine"), py::arg("allow_tf32"), py::arg("reverse") = false, py::arg("heads") = 1)
      .def("set_parameters", &PyCudaNetwork::set_parameters, py::arg("params"), py::arg("stream"), released,
           "Addresses by layer and direction, 0 for an absent bias.")
      .def("pack", &PyCudaNetwork::pack, py::arg("params"), py::arg("weights"), py::arg("stream"), released,
           "The same, to weight_bytes of the caller's memory.")
      .def("plan", &PyCudaNetwork::plan, py::arg("steps"), py::arg("rows"), py::arg("lengths"), py::arg("device_lengths"),
           py::arg("training"), py::arg("recompute"), py::arg("packed") = false, py::arg("cells") = false,
           py::arg("segments") = py::none())
      .def("forward", &PyCudaNetwork::forward, py::arg("plan"), py::arg("x"), py::arg("initial"), py::arg("lengths"),
           py::arg("y"), py::arg("final_states"), py::arg("seed"), py::arg("tape"), py::arg("workspace"), py::arg("stream"),
           py::arg("weights") = 0, py::arg("cells") = py::none(), released,
           "Arrays are (address, outer stride, row stride, column stride). weights: of `pack`; 0: of `set_parameters`.")
      .def("backward", &PyCudaNetwork::backward, py::arg("plan"), py::arg("dy"), py::arg("d_final"), py::arg("dx"),
           py::arg("d_initial"), py::arg("params"), py::arg("add"), py::arg("seeded"), py::arg("tape"), py::arg("workspace"),
           py::arg("stream"), py::arg("weights") = 0, py::arg("d_cells") = py::none(),
           py::arg("clip") = std::numeric_limits<double>::infinity(), released)
      .def(
          "stream", [](const PyCudaNetwork& network, int64_t rows) { return std::make_unique<PyCudaStream>(network, rows); },
          py::arg("rows"))
      .def_property_readonly("weight_bytes", &PyCudaNetwork::weight_bytes);
  py::class_<PyCudaLinear>(m, "Linear", "An affine map of rows on a GPU. Arrays are addresses of contiguous numbers.")
      .def(py::init([](int64_t inputs, int64_t outputs, const std::string& dtype, int device, const std::string& engine,
                       bool allow_tf32) {
             const cuda::Options options = cuda_options(dtype, device, engine, allow_tf32);
             const py::gil_scoped_release compiling;
             return std::make_unique<PyCudaLinear>(inputs, outputs, options);
           }),
           py::arg("inputs"), py::arg("outputs"), py::arg("dtype"), py::arg("device"), py::arg("engine"), py::arg("allow_tf32"))
      .def("set_parameters", &PyCudaLinear::set_parameters, py::arg("weight"), py::arg("bias"), py::arg("stream"), released)
      .def("workspace_bytes", &PyCudaLinear::workspace_bytes, py::arg("rows"))
      .def("forward", &PyCudaLinear::forward, py::arg("x"), py::arg("rows"), py::arg("y"), py::arg("workspace"),
           py::arg("stream"), released)
      .def("backward", &PyCudaLinear::backward, py::arg("x"), py::arg("dy"), py::arg("rows"), py::arg("dx"),
           py::arg("d_weight"), py::arg("d_bias"), py::arg("add"), py::arg("workspace"), py::arg("stream"), released,
           "0 for what is not wanted.");
  m.def(
      "load_rows", [](const std::string& dtype, int device) { cuda::load_rows(cuda_options(dtype, device, "auto", false)); },
      py::arg("dtype"), py::arg("device"), released,
      "Loads the kernels of take_rows, put_rows, add_rows and make_contiguous, which else they do at their first call.");
  m.def(
      "take_rows",
      [](const std::string& dtype, int device, Address table, int64_t rows, int64_t columns, Address indices, bool wide,
         int64_t count, Address out, Address stream) {
        cuda::take_rows(cuda_options(dtype, device, "auto", false), pointer(table), rows, columns, pointer(indices), wide,
                        count, pointer(out), pointer(stream));
      },
      py::arg("dtype"), py::arg("device"), py::arg("table"), py::arg("rows"), py::arg("columns"), py::arg("indices"),
      py::arg("wide"), py::arg("count"), py::arg("out"), py::arg("stream"), released,
      "out[i] = table[indices[i]]; indices are int64 if `wide`, else int32.");
  m.def(
      "put_rows",
      [](const std::string& dtype, int device, Address table, int64_t rows, int64_t columns, Address indices, bool wide,
         int64_t count, Address from, Address stream) {
        cuda::put_rows(cuda_options(dtype, device, "auto", false), pointer(table), rows, columns, pointer(indices), wide, count,
                       pointer(from), pointer(stream));
      },
      py::arg("dtype"), py::arg("device"), py::arg("table"), py::arg("rows"), py::arg("columns"), py::arg("indices"),
      py::arg("wide"), py::arg("count"), py::arg("from_"), py::arg("stream"), released,
      "table[indices[i]] = from[i], for different indices; those of no row are left out.");
  m.def(
      "add_rows",
      [](const std::string& dtype, int device, Address table, int64_t rows, int64_t columns, Address indices, bool wide,
         int64_t count, Address from, bool add, Address stream) {
        cuda::add_rows(cuda_options(dtype, device, "auto", false), pointer(table), rows, columns, pointer(indices), wide, count,
                       pointer(from), add, pointer(stream));
      },
      py::arg("dtype"), py::arg("device"), py::arg("table"), py::arg("rows"), py::arg("columns"), py::arg("indices"),
      py::arg("wide"), py::arg("count"), py::arg("from_"), py::arg("add"), py::arg("stream"), released,
      "table[indices[i]] += from[i], in order; unless `add`, the table is zero before.");
  m.def(
      "make_contiguous",
      [](const std::string& dtype, int device, int number_size, const std::vector<int64_t>& shape,
         const std::vector<int64_t>& strides, Address from, Address to, Address stream) {
        cuda::make_contiguous(cuda_options(dtype, device, "auto", false), number_size, shape, strides, pointer(from),
                              pointer(to), pointer(stream));
      },
      py::arg("dtype"), py::arg("device"), py::arg("number_size"), py::arg("shape"), py::arg("strides"), py::arg("from_"),
      py::arg("to"), py::arg("stream"), released, "A copy in C order. Strides are in elements; dtype names the kernels.");
}

}  // namespace bindings
}  // namespace recurra
