// The Python module. It turns arrays into views and nothing else: recurra/_arrays.py has checked and normalised them already,
// but for plain ones, which steps and calls take as they are or leave to it.
#include <pybind11/stl.h>

#include <variant>

#include "arrays.h"

namespace {

using namespace recurra::bindings;
using recurra::Network;
using recurra::NetworkConfig;
using recurra::Sequence;
using recurra::Stream;
using recurra::Tape;

// Below this many multiply-adds (some 10 microseconds) releasing the GIL can only add latency: taking it back may have to wait
// for another thread's switch interval.
constexpr double kWorthReleasing = 5e5;

using Addresses = std::vector<uintptr_t>;

template <class Work>
void without_gil_if(bool worth, Work&& work) {
  if (!worth) return work();
  const py::gil_scoped_release release;
  work();
}

// ---- streams

template <class T>
class FastStream {
 public:
  FastStream(const Network<T>& network, int64_t batch, bool unbatched, int threads)
      : stream_(network, batch, threads),
        dtype_(py::dtype::of<T>()),
        input_(row_or_rows(batch, network.config().input_size, unbatched)),
        output_(row_or_rows(batch, network.config().output_size, unbatched)),
        multiplications_(network.multiplications_per_step() * double(batch)) {}

  // None, and nothing done, unless the arrays are exactly what a step can use as they are.
  py::object step(py::handle x, py::handle out) {
    const T* from = plain<T>(x, dtype_, input_, false);
    if (!from) return py::none();
    auto [result, to] = output_array<T>(out, dtype_, output_, from, count_of(input_));
    if (to) without_gil_if(multiplications_ > kWorthReleasing, [&, to = to] { stream_.step(from, to); });
    return result;
  }

  void run(const py::array& x, const py::array& out) {
    const auto from = input<T>(x);
    const auto to = sequence<T>(out);
    without_gil_if(multiplications_ * double(from.steps) > kWorthReleasing, [&] { stream_.run(from, to); });
  }

  void get_state(const Arrays& states) const { stream_.get_state(pointers<T>(states).data()); }
  void set_state(const Arrays& states) { stream_.set_state(pointers<const T>(states).data()); }
  void reset(const std::optional<Int64Array>& rows) {
    if (rows)
      stream_.reset(rows->data(), rows->size());
    else
      stream_.reset();
  }

 private:
  static Shape row_or_rows(int64_t batch, int64_t size, bool unbatched) {
    return unbatched ? Shape{1, {Py_intptr_t(size)}} : Shape{2, {Py_intptr_t(batch), Py_intptr_t(size)}};
  }

  Stream<T> stream_;
  py::dtype dtype_;
  Shape input_, output_;
  double multiplications_;
};

using AnyStream = std::variant<FastStream<float>, FastStream<double>>;
using SharedStream = std::shared_ptr<AnyStream>;

// What a step function works on. `otherwise` takes over, with the same arguments, when they are not plain enough.
struct Stepping {
  SharedStream stream;
  py::object otherwise;
};

// step(x, out) as a plain C function: pybind11's dispatcher would cost as much as the arithmetic of a small step.
PyObject* call_step(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  try {
    const auto& stepping = *static_cast<Stepping*>(PyCapsule_GetPointer(capsule, nullptr));
    const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    const bool names_out = named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "out") == 0;
    if (count >= 1 && count + named <= 2 && (!named || names_out)) {
      const py::handle x = arguments[0], out = count + named == 2 ? arguments[1] : Py_None;
      py::object result = std::visit([&](auto& s) { return s.step(x, out); }, *stepping.stream);
      if (!result.is_none()) return result.release().ptr();
    }
    return PyObject_Vectorcall(stepping.otherwise.ptr(), arguments, size_t(count), names);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const py::builtin_exception& error) {
    error.set_error();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyMethodDef step_method = {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_step)),
                           METH_FASTCALL | METH_KEYWORDS, "step($self, /, x, out=None)\n--\n\nAdvance all layers by one step."};

class PyStream {
 public:
  template <class T>
  explicit PyStream(FastStream<T> stream) : stream_(std::make_shared<AnyStream>(std::move(stream))) {}

  py::object step(py::object otherwise) const {
    const py::capsule capsule(new Stepping{stream_, std::move(otherwise)},
                              [](void* owned) { delete static_cast<Stepping*>(owned); });
    return py::reinterpret_steal<py::object>(PyCFunction_New(&step_method, capsule.ptr()));
  }
  void run(const py::array& x, const py::array& out) {
    std::visit([&](auto& s) { s.run(x, out); }, *stream_);
  }
  void get_state(const Arrays& states) const {
    std::visit([&](auto& s) { s.get_state(states); }, *stream_);
  }
  void set_state(const Arrays& states) {
    std::visit([&](auto& s) { s.set_state(states); }, *stream_);
  }
  void reset(const std::optional<Int64Array>& rows) {
    std::visit([&](auto& s) { s.reset(rows); }, *stream_);
  }

 private:
  SharedStream stream_;
};

// ---- tapes

class PyTape {
 public:
  using AnyTape = std::variant<Tape<float>, Tape<double>>;
  explicit PyTape(AnyTape tape) : tape_(std::move(tape)) {}

  void backward(const OptionalArray& dy, const std::vector<OptionalArray>& d_final, const OptionalArray& dx,
                const std::optional<Arrays>& d_initial, const std::vector<std::vector<OptionalArray>>& params, bool add) const {
    std::visit([&](const auto& tape) { run(tape, dy, d_final, dx, d_initial, params, add); }, tape_);
  }

  size_t bytes() const {
    return std::visit([](const auto& tape) { return tape.bytes(); }, tape_);
  }

 private:
  template <class T>
  static void run(const Tape<T>& tape, const OptionalArray& dy, const std::vector<OptionalArray>& d_final,
                  const OptionalArray& dx, const std::optional<Arrays>& d_initial,
                  const std::vector<std::vector<OptionalArray>>& params, bool add) {
    const auto optional = [](const OptionalArray& array) { return array ? data<T>(*array) : nullptr; };
    std::vector<const T*> final_states;
    for (const OptionalArray& array : d_final) final_states.push_back(optional(array));
    const auto all = nested<T>(params);
    const auto initial = d_initial ? pointers<T>(*d_initial) : std::vector<T*>();
    const auto from = dy ? input<T>(*dy) : Sequence<const T>{};
    const auto to = dx ? sequence<T>(*dx) : Sequence<T>{};
    const py::gil_scoped_release release;
    tape.backward(from, final_states.data(), to, d_initial ? initial.data() : nullptr, all, add);
  }

  AnyTape tape_;
};

// ---- networks

class PyNetwork {
 public:
  PyNetwork(const std::string& dtype, const NetworkConfig& config, const std::vector<std::vector<OptionalArray>>& params,
            const std::optional<PyNetwork>& former)
      : dtype_(dtype),
        network_(dtype == "float64" ? AnyNetwork(made<double>(config, params, former))
                                    : AnyNetwork(made<float>(config, params, former))) {}

  void forward(const py::array& x, const std::optional<Arrays>& h0, const std::optional<Int64Array>& lengths,
               const py::array& out, const Arrays& hn) const {
    std::visit([&](const auto& network) { run(network, x, h0, lengths, out, hn); }, network_);
  }

  py::object call(py::handle x, py::handle out, bool batch_first) const {
    return std::visit([&](const auto& network) { return called(network, dtype_, x, out, batch_first); }, network_);
  }

  PyTape record(const py::array& x, const std::optional<Arrays>& h0, const std::optional<Int64Array>& lengths,
                const py::array& out, const Arrays& hn, bool recompute, const std::optional<uint64_t>& seed) const {
    return std::visit([&](const auto& network) { return recorded(network, x, h0, lengths, out, hn, recompute, seed); },
                      network_);
  }

  PyStream stream(int64_t batch, bool unbatched, int threads) const {
    return std::visit([&](const auto& network) { return PyStream(FastStream(network, batch, unbatched, threads)); }, network_);
  }

  void get_parameter(size_t layer, int number, const py::array& out) const {
    std::visit([&](const auto& network) { get(network, layer, number, out); }, network_);
  }

  size_t weight_bytes() const {
    return std::visit([](const auto& network) { return network.weight_bytes(); }, network_);
  }

 private:
  using AnyNetwork = std::variant<Network<float>, Network<double>>;

  template <class T>
  static Network<T> made(const NetworkConfig& config, const std::vector<std::vector<OptionalArray>>& params,
                         const std::optional<PyNetwork>& former) {
    const auto all = nested<const T>(params);
    const Network<T>* old = former ? std::get_if<Network<T>>(&former->network_) : nullptr;
    const py::gil_scoped_release release;
    return Network<T>(config, all, old);
  }

  template <class T>
  static void get(const Network<T>& network, size_t layer, int number, const py::array& out) {
    T* to = data<T>(out);
    const py::gil_scoped_release release;
    network.get_parameter(layer, number, to);
  }

  template <class T>
  static void run(const Network<T>& network, const py::array& x, const std::optional<Arrays>& h0,
                  const std::optional<Int64Array>& lengths, const py::array& out, const Arrays& hn) {
    const auto from = input<T>(x);
    const auto to = sequence<T>(out);
    const auto initial = h0 ? pointers<const T>(*h0) : std::vector<const T*>();
    const auto final_states = pointers<T>(hn);
    const double work = network.multiplications_per_step() * double(from.steps) * double(from.rows);
    without_gil_if(work > kWorthReleasing, [&] {
      network.forward(from, h0 ? initial.data() : nullptr, lengths ? lengths->data() : nullptr, to, final_states.data());
    });
  }

  template <class T>
  static PyTape recorded(const Network<T>& network, const py::array& x, const std::optional<Arrays>& h0,
                         const std::optional<Int64Array>& lengths, const py::array& out, const Arrays& hn, bool recompute,
                         const std::optional<uint64_t>& seed) {
    const auto from = input<T>(x);
    const auto to = sequence<T>(out);
    const auto initial = h0 ? pointers<const T>(*h0) : std::vector<const T*>();
    const auto final_states = pointers<T>(hn);
    const py::gil_scoped_release release;
    return PyTape(network.record(from, h0 ? initial.data() : nullptr, lengths ? lengths->data() : nullptr, to,
                                 final_states.data(), recompute, seed ? &*seed : nullptr));
  }

  // From zero states. Python asks before it makes arrays that may be too large for the machine.
  template <class T>
  static py::object called(const Network<T>& network, const py::dtype& dtype, py::handle x, py::handle out, bool batch_first) {
    constexpr double kSmall = 1 << 28;  // bytes
    const NetworkConfig& c = network.config();
    const Py_intptr_t size = c.input_size, width = c.directions * c.output_size, lanes = c.layers * c.directions;
    bool batched = true;
    const T* from = plain<T>(x, dtype, {3, {-1, -1, size}}, false);
    if (!from) {
      batched = false;
      from = plain<T>(x, dtype, {2, {-1, size}}, false);
    }
    if (!from) return py::none();
    Shape shape = shape_of(x);
    const int64_t count = count_of(shape);
    if (!count || double(count) / double(size) * double(std::max(width, lanes * c.hidden_size)) * sizeof(T) > kSmall)
      return py::none();
    const Py_intptr_t steps = shape.size[batched && batch_first], rows = batched ? shape.size[!batch_first] : 1;
    shape.size[size_t(shape.dims - 1)] = width;
    const auto [y, to] = output_array<T>(out, dtype, shape, from, count);
    if (!to) return py::none();
    py::list states;
    std::vector<T*> final_states;
    for (const auto& [name, dim] : network.cell().states) {
      const Py_intptr_t values = dim == "hidden" ? c.hidden_size : c.output_size;
      const auto [state, data] = new_array<T>(dtype, batched ? Shape{3, {lanes, rows, values}} : Shape{2, {lanes, values}});
      if (!data) return py::none();
      states.append(state);
      final_states.push_back(data);
    }
    const Py_intptr_t step = batch_first ? 1 : rows, row = batch_first ? steps : 1;  // from one to the next, in rows of x and y
    const Sequence<const T> read{from, steps, rows, step * size, row * size};
    const Sequence<T> written{to, steps, rows, step * width, row * width};
    const double work = network.multiplications_per_step() * double(steps) * double(rows);
    without_gil_if(work > kWorthReleasing, [&] { network.forward(read, nullptr, nullptr, written, final_states.data()); });
    return py::make_tuple(y, states.size() == 1 ? py::object(states[0]) : py::tuple(states));
  }

  py::dtype dtype_;
  AnyNetwork network_;
};

// For callers that hold no arrays but addresses, and keep alive what lies there.
class PyStepInPlace {
 public:
  PyStepInPlace(const std::string& dtype, const NetworkConfig& config)
      : step_(dtype == "float64" ? AnyStep(recurra::StepInPlace<double>(config))
                                 : AnyStep(recurra::StepInPlace<float>(config))) {}

  void run(uintptr_t x, const Addresses& params, const std::optional<Addresses>& initial, uintptr_t y,
           const Addresses& final_states) const {
    std::visit(
        [&](const auto& step) {
          without_gil_if(step.multiplications() > kWorthReleasing,
                         [&] { run_typed(step, x, params, initial, y, final_states); });
        },
        step_);
  }

 private:
  using AnyStep = std::variant<recurra::StepInPlace<float>, recurra::StepInPlace<double>>;

  template <class T>
  static void run_typed(const recurra::StepInPlace<T>& step, uintptr_t x, const Addresses& params,
                        const std::optional<Addresses>& initial, uintptr_t y, const Addresses& final_states) {
    step.run(reinterpret_cast<const T*>(x), reinterpret_cast<const T* const*>(params.data()),
             initial ? reinterpret_cast<const T* const*>(initial->data()) : nullptr, reinterpret_cast<T*>(y),
             reinterpret_cast<T* const*>(final_states.data()));
  }

  AnyStep step_;
};

py::bytes fingerprint(const Addresses& arrays, const std::vector<size_t>& bytes) {
  if (arrays.size() != bytes.size()) throw std::invalid_argument("fingerprint: expected as many sizes as arrays");
  uint64_t sum[8];
  {
    const py::gil_scoped_release release;
    recurra::fingerprint(reinterpret_cast<const void* const*>(arrays.data()), bytes.data(), arrays.size(), sum);
  }
  return {reinterpret_cast<const char*>(sum), sizeof sum};
}

class PyLinear {
 public:
  PyLinear(const py::array& weight, const OptionalArray& bias)
      : linear_(weight.itemsize() == sizeof(double) ? AnyLinear(made<double>(weight, bias))
                                                    : AnyLinear(made<float>(weight, bias))) {}

  void forward(const py::array& x, const py::array& y) const {
    std::visit([&](const auto& linear) { run_forward(linear, x, y); }, linear_);
  }
  void backward(const py::array& x, const py::array& dy, const OptionalArray& dx, const py::array& d_weight,
                const OptionalArray& d_bias) const {
    std::visit([&](const auto& linear) { run_backward(linear, x, dy, dx, d_weight, d_bias); }, linear_);
  }

 private:
  using AnyLinear = std::variant<recurra::Linear<float>, recurra::Linear<double>>;

  template <class T>
  static recurra::Linear<T> made(const py::array& weight, const OptionalArray& bias) {
    return {weight.shape(1), weight.shape(0), data<T>(weight), bias ? data<T>(*bias) : nullptr};
  }
  template <class T>
  static void run_forward(const recurra::Linear<T>& linear, const py::array& x, const py::array& y) {
    const T* from = data<T>(x);
    T* to = data<T>(y);
    const int64_t rows = x.shape(0);
    const py::gil_scoped_release release;
    linear.forward(from, rows, to);
  }
  template <class T>
  static void run_backward(const recurra::Linear<T>& linear, const py::array& x, const py::array& dy, const OptionalArray& dx,
                           const py::array& d_weight, const OptionalArray& d_bias) {
    const T *from = data<T>(x), *gradient = data<T>(dy);
    T *to = dx ? data<T>(*dx) : nullptr, *weight = data<T>(d_weight), *bias = d_bias ? data<T>(*d_bias) : nullptr;
    const int64_t rows = x.shape(0);
    const py::gil_scoped_release release;
    linear.backward(from, gradient, rows, to, weight, bias);
  }

  AnyLinear linear_;
};

recurra::Precision precision_named(const std::string& name) {
  return name == "int8"       ? recurra::Precision::int8
         : name == "bfloat16" ? recurra::Precision::bfloat16
                              : recurra::Precision::full;
}

py::dict cells() {
  py::dict all;
  for (const recurra::CellInfo& cell : recurra::cells()) {
    py::list params;
    for (const auto& p : cell.params) params.append(py::make_tuple(p.name, p.blocks, p.rows, p.cols, p.is_bias));
    all[py::str(cell.name)] = py::dict(py::arg("gates") = cell.gates, py::arg("states") = cell.states,
                                       py::arg("params") = params, py::arg("constants") = cell.constants,
                                       py::arg("projected") = cell.projected, py::arg("unit_range") = cell.unit_range);
  }
  return all;
}

py::dict config() {
  return py::dict(py::arg("isa") = recurra::isa(), py::arg("isa_available") = recurra::available_isas(),
                  py::arg("threads") = recurra::num_threads(), py::arg("compiler") = RECURRA_COMPILER);
}

py::dict limits(int threads) {
  recurra::Limits limits;
  {
    const py::gil_scoped_release release;
    limits = recurra::measure_limits(threads);
  }
  return py::dict(py::arg("fma_f32_gflops") = limits.f32_gflops, py::arg("fma_bf16_gflops") = limits.bf16_gflops,
                  py::arg("dot_int8_gops") = limits.int8_gops, py::arg("read_gbs") = limits.read_gbs,
                  py::arg("threads") = limits.threads, py::arg("read_together_gbs") = limits.read_together_gbs,
                  py::arg("unrest") = limits.unrest);
}

py::dict together(int threads) {
  recurra::Together together;
  {
    const py::gil_scoped_release release;
    together = recurra::measure_together(threads);
  }
  return py::dict(py::arg("gain") = together.gain, py::arg("exchange_ns") = together.exchange_ns);
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() =
      "The compiled engine. It trusts its caller: recurra._arrays has checked and normalised everything, but for what call and "
      "step take.";

  m.def("cells", cells, "The table of cells: name -> gates, states, params, constants, projected, unit_range.");
  m.def("config", config, "What was chosen on this machine.");
  m.def("limits", limits, py::arg("threads"),
        "What this machine can do at best on one thread, and what so many threads read together: GFLOP/s and GB/s. Takes some "
        "seconds.");
  m.def("together", together, py::arg("threads"),
        "What so many threads have of each other just now: their multiply-adds at once, in those of one, and the nanoseconds "
        "until one sees what another has written. Takes about a millisecond.");
  m.def("get_num_threads", recurra::num_threads, "Threads that one call may use.");
  m.def("set_num_threads", recurra::set_num_threads, py::arg("n"), "At least 1; granted up to the CPUs this process may use.");

  py::class_<PyStream>(m, "Stream", "The running state of some sequences.")
      .def("step", &PyStream::step, py::arg("otherwise"),
           "A function (x, out=None) for one step; it hands arrays that it cannot use as they are to `otherwise`.")
      .def("run", &PyStream::run, py::arg("x"), py::arg("out"), "Steps x [T, B, I] to out [T, B, O].")
      .def("get_state", &PyStream::get_state, py::arg("states"), "Writes the states into arrays [L, B, width].")
      .def("set_state", &PyStream::set_state, py::arg("states"), "Reads the states from arrays [L, B, width].")
      .def("reset", &PyStream::reset, py::arg("rows"), "Sets all rows, or the given ones, to zero.");

  py::class_<PyTape>(m, "Tape", "What a forward pass leaves for backward.")
      .def("backward", &PyTape::backward, py::arg("dy"), py::arg("d_final"), py::arg("dx"), py::arg("d_initial"),
           py::arg("params"), py::arg("add"),
           "Writes dx, d_initial and params (nested as in Network), or adds to params; each may be None.")
      .def_property_readonly("nbytes", &PyTape::bytes);

  py::class_<PyLinear>(m, "Linear", "A packed affine map of rows; immutable.")
      .def(py::init<const py::array&, const OptionalArray&>(), py::arg("weight"), py::arg("bias"), "weight [outputs, inputs].")
      .def("forward", &PyLinear::forward, py::arg("x"), py::arg("y"), "Writes y [rows, outputs]; all C-contiguous.")
      .def("backward", &PyLinear::backward, py::arg("x"), py::arg("dy"), py::arg("dx"), py::arg("d_weight"), py::arg("d_bias"),
           "Writes dx unless it is None, adds to d_weight and d_bias.");

  m.def("fingerprint", fingerprint, py::arg("arrays"), py::arg("bytes"),
        "64 bytes that change when the memory at these addresses does.");

  py::class_<PyStepInPlace>(m, "StepInPlace", "One step of one row, from unpacked weights at their addresses.")
      .def(py::init([](std::string cell, const std::string& dtype, int64_t input_size, int64_t hidden_size, int64_t output_size,
                       int layers, int directions, std::vector<double> constants) {
             NetworkConfig config;
             config.cell = std::move(cell);
             config.input_size = input_size;
             config.hidden_size = hidden_size;
             config.output_size = output_size;
             config.layers = layers;
             config.directions = directions;
             config.constants = std::move(constants);
             return PyStepInPlace(dtype, config);
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("output_size"),
           py::arg("layers"), py::arg("directions"), py::arg("constants"))
      .def("run", &PyStepInPlace::run, py::arg("x"), py::arg("params"), py::arg("initial"), py::arg("y"),
           py::arg("final_states"),
           "All are addresses of contiguous numbers; params one after another as in Network, 0 for an absent bias.");

  py::class_<PyNetwork>(m, "Network", "Packed weights of a stack of layers; immutable.")
      .def(py::init([](std::string cell, const std::string& dtype, int64_t input_size, int64_t hidden_size, int64_t output_size,
                       int layers, int directions, const std::vector<std::vector<OptionalArray>>& params,
                       std::vector<double> constants, const std::string& precision, const std::array<double, 4>& regularization,
                       const std::optional<PyNetwork>& former) {
             NetworkConfig config;
             config.cell = std::move(cell);
             config.input_size = input_size;
             config.hidden_size = hidden_size;
             config.output_size = output_size;
             config.layers = layers;
             config.directions = directions;
             config.constants = std::move(constants);
             config.precision = precision_named(precision);
             config.regularization = {regularization[0], regularization[1], regularization[2], regularization[3]};
             return PyNetwork(dtype, config, params, former);
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("output_size"),
           py::arg("layers"), py::arg("directions"), py::arg("params"), py::arg("constants"), py::arg("precision"),
           py::arg("regularization"), py::arg("former"),
           "params[layer * directions + direction] in the order of the cell's table, None for an absent bias.")
      .def("forward", &PyNetwork::forward, py::arg("x"), py::arg("h0"), py::arg("lengths"), py::arg("out"), py::arg("hn"),
           "Runs x [T, B, I]; writes out [T, B, D * O] and the final states hn [L * D, B, width].")
      .def("call", &PyNetwork::call, py::arg("x"), py::arg("out"), py::arg("batch_first"),
           "(output, final state) from a zero state; None, and nothing done, if the arrays are not plain enough to use as they "
           "are.")
      .def("record", &PyNetwork::record, py::arg("x"), py::arg("h0"), py::arg("lengths"), py::arg("out"), py::arg("hn"),
           py::arg("recompute"), py::arg("seed"), "As forward, and returns a tape.")
      .def("stream", &PyNetwork::stream, py::arg("batch"), py::arg("unbatched"), py::arg("threads"))
      .def("get_parameter", &PyNetwork::get_parameter, py::arg("layer"), py::arg("number"), py::arg("out"),
           "Writes params[layer][number] as it was given; no matrix in reduced precision.")
      .def_property_readonly("weight_bytes", &PyNetwork::weight_bytes);
}
