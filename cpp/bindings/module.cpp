// The Python module. It turns arrays into views and nothing else: recurra/_arrays.py has checked and normalised them already,
// except for plain ones, which steps and calls take as they are or else leave to it.
#include <algorithm>
#include <limits>
#include <optional>
#include <variant>

#include "../engine/memory.h"
#include "../engine/noise.h"
#include "arrays.h"
#include "in_place.h"
#include "linear.h"
#include "model.h"
#include "stream.h"

namespace recurra {
namespace bindings {

void define_cuda(py::module_& core);
void define_graph(py::module_& m);
void define_match(py::module_& m);

}  // namespace bindings
}  // namespace recurra

namespace {

using namespace recurra::bindings;
using recurra::Marks;
using recurra::Network;
using recurra::NetworkConfig;
using recurra::Sequence;
using recurra::Stop;
using recurra::Tape;

// ---- noise between networks

template <class T>
void drop_rows(const py::array& x, const recurra::detail::Noise& noise, size_t lane) {
  const Sequence<T> all = sequence<T>("x", x, kAny, kAny, kAny, Use::write);
  const int64_t width = x.shape(2);
  without_gil_if(double(x.size()) > kWorthReleasing, [&] {
    for (int64_t t = 0; t < all.steps; ++t)
      for (int64_t r = 0; r < all.rows; ++r)
        noise.drop_between(all.data + t * all.step_stride + r * all.row_stride, 0, width, lane, r, t);
  });
}

void drop_between(const py::array& x, double rate, uint64_t seed, size_t lane) {
  recurra::detail::Noise::Rates rates;
  rates.dropout = rate;
  const recurra::detail::Noise noise(rates, true, seed);
  py::isinstance<py::array_t<double>>(x) ? drop_rows<double>(x, noise, lane) : drop_rows<float>(x, noise, lane);
}

// ---- tapes

template <class T>
struct Recorded {
  Network<T> network;
  int64_t steps, rows;
  Tape<T> tape;

  void backward(const OptionalArray& dy, const std::vector<OptionalArray>& d_final, const OptionalArray& dx,
                const std::optional<Arrays>& d_initial, const std::vector<std::vector<OptionalArray>>& params, bool add,
                const std::optional<Arrays>& d_reset, const OptionalArray& d_cells, double clip) const {
    const NetworkConfig& c = network.config();
    const auto final_states = states<const T>("d_final", network, d_final, rows, Use::read);
    const auto all = parameters<T>(network.cell(), c, params, Use::write);
    const auto initial = d_initial ? states<T>("d_initial", network, *d_initial, rows, Use::write) : std::vector<T*>();
    const auto reset = d_reset ? states<T>("d_reset", network, *d_reset, rows, Use::write) : std::vector<T*>();
    const auto from = dy ? input<T>("dy", *dy, steps, rows, c.directions * c.output_size) : Sequence<const T>{};
    const auto of_cells =
        d_cells ? input<T>("d_cells", *d_cells, steps, rows, c.directions * c.hidden_size) : Sequence<const T>{};
    const auto to = dx ? sequence<T>("dx", *dx, steps, rows, c.input_size, Use::write) : Sequence<T>{};
    const double work = 2 * network.multiplications_per_step() * double(steps) * double(rows);
    until_signal(std::max(work, kWorthReleasing), [&](const Stop& stop) {
      tape.backward(from, final_states.data(), to, d_initial ? initial.data() : nullptr, all, add, stop,
                    d_reset ? reset.data() : nullptr, of_cells, T(clip));
    });
  }
};

class PyTape {
 public:
  using AnyTape = std::variant<Recorded<float>, Recorded<double>>;
  explicit PyTape(AnyTape tape) : tape_(std::move(tape)) {}

  void backward(const OptionalArray& dy, const std::vector<OptionalArray>& d_final, const OptionalArray& dx,
                const std::optional<Arrays>& d_initial, const std::vector<std::vector<OptionalArray>>& params, bool add,
                const std::optional<Arrays>& d_reset, const OptionalArray& d_cells, double clip) const {
    const auto go_back = [&](const auto& recorded) {
      recorded.backward(dy, d_final, dx, d_initial, params, add, d_reset, d_cells, clip);
    };
    std::visit(go_back, tape_);
  }

  size_t bytes() const {
    return std::visit([](const auto& recorded) { return recorded.tape.bytes(); }, tape_);
  }

 private:
  AnyTape tape_;
};

// ---- networks

// Marks as Python has them.
struct GivenMarks {
  OptionalArray resets, mask;
  std::optional<Arrays> reset_state;
  bool repeat;
};
using OptionalMarks = std::optional<GivenMarks>;

class PyNetwork {
 public:
  PyNetwork(const std::string& dtype, const NetworkConfig& config, const std::vector<std::vector<OptionalArray>>& params)
      : dtype_(dtype),
        network_(dtype == "float64" ? AnyNetwork(made<double>(config, params)) : AnyNetwork(made<float>(config, params))) {}

  void forward(const py::array& x, const std::optional<Arrays>& h0, const std::optional<Int64Array>& lengths,
               const py::array& out, const Arrays& hn, const OptionalMarks& marks, const OptionalArray& cells) const {
    std::visit([&](const auto& network) { run(network, x, h0, lengths, out, hn, marks, cells); }, network_);
  }

  py::object call(py::handle x, py::handle out, bool batch_first, py::handle resets, py::handle mask, bool repeat) const {
    return std::visit([&](const auto& network) { return called(network, dtype_, x, out, batch_first, {resets, mask, repeat}); },
                      network_);
  }

  PyTape record(const py::array& x, const std::optional<Arrays>& h0, const std::optional<Int64Array>& lengths,
                const py::array& out, const Arrays& hn, bool recompute, const std::optional<uint64_t>& seed,
                const OptionalMarks& marks, const OptionalArray& cells) const {
    const auto record = [&](const auto& network) {
      return recorded(network, x, h0, lengths, out, hn, recompute, seed, marks, cells);
    };
    return std::visit(record, network_);
  }

  PyStream stream(int64_t batch, bool unbatched, int threads, const std::optional<PyLinear>& head) const {
    return std::visit([&](const auto& network) { return made_stream(network, batch, unbatched, threads, head); }, network_);
  }

  void get_parameter(size_t layer, int number, const py::array& out) const {
    std::visit([&](const auto& network) { get(network, layer, number, out); }, network_);
  }

  size_t weight_bytes() const {
    return std::visit([](const auto& network) { return network.weight_bytes(); }, network_);
  }

  template <class T>
  const Network<T>& as() const {
    const auto* network = std::get_if<Network<T>>(&network_);
    if (!network) throw py::type_error("networks: expected the dtype of the model");
    return *network;
  }

 private:
  using AnyNetwork = std::variant<Network<float>, Network<double>>;

  // A call's arrays, checked.
  template <class T>
  struct Call {
    Sequence<const T> x;
    Sequence<T> y;
    std::vector<const T*> initial;
    std::vector<T*> final_states;
    const int64_t* lengths;
    std::vector<const T*> reset_state;
    Marks<T> marks;
    Sequence<T> cells;

    Call(const Network<T>& network, const py::array& given, const std::optional<Arrays>& h0,
         const std::optional<Int64Array>& lengths, const py::array& out, const Arrays& hn, const OptionalMarks& given_marks,
         const OptionalArray& cells)
        : x(input<T>("x", given, kAny, kAny, network.config().input_size)),
          y(sequence<T>("out", out, x.steps, x.rows, network.config().directions * network.config().output_size, Use::write)),
          initial(h0 ? states<const T>("h0", network, *h0, x.rows, Use::read) : std::vector<const T*>()),
          final_states(states<T>("hn", network, hn, x.rows, Use::write)),
          lengths(lengths ? lengths->data() : nullptr),
          cells(cells ? sequence<T>("cells", *cells, x.steps, x.rows,
                                    network.config().directions * network.config().hidden_size, Use::write)
                      : Sequence<T>()) {
      if (lengths) check_count("lengths", size_t(x.rows), size_t(lengths->size()));
      if (!given_marks) return;
      marks.resets = flags("resets", given_marks->resets, x.steps, x.rows);
      marks.mask = flags("mask", given_marks->mask, x.steps, x.rows);
      marks.repeat = given_marks->repeat;
      if (!given_marks->reset_state) return;
      reset_state = states<const T>("reset_state", network, *given_marks->reset_state, x.rows, Use::read);
      marks.reset_state = reset_state.data();
    }
    const T* const* start() const { return initial.empty() ? nullptr : initial.data(); }
  };

  template <class T>
  static Network<T> made(const NetworkConfig& config, const std::vector<std::vector<OptionalArray>>& params) {
    const auto& all_cells = recurra::cells();
    const auto cell = std::find_if(all_cells.begin(), all_cells.end(), [&](const auto& c) { return c.name == config.cell; });
    if (cell == all_cells.end()) throw py::value_error("cell: there is no cell named '" + config.cell + "'");
    const auto all = parameters<const T>(*cell, config, params, Use::read);
    const py::gil_scoped_release release;
    return Network<T>(config, all);
  }

  template <class T>
  static PyStream made_stream(const Network<T>& network, int64_t batch, bool unbatched, int threads,
                              const std::optional<PyLinear>& head) {
    return PyStream(FastStream<T>(network, batch, unbatched, threads, head ? head->as<T>() : nullptr));
  }

  template <class T>
  static void get(const Network<T>& network, size_t layer, int number, const py::array& out) {
    const NetworkConfig& c = network.config();
    const auto& params = network.cell().params;
    if (layer >= size_t(c.layers * c.directions) || number < 0 || number >= int(params.size()))
      throw py::index_error("get_parameter: there is no such layer or parameter");
    T* to = parameter<T>(params[size_t(number)], c, layer, out, Use::write);
    const py::gil_scoped_release release;
    network.get_parameter(layer, number, to);
  }

  template <class T>
  static void run(const Network<T>& network, const py::array& x, const std::optional<Arrays>& h0,
                  const std::optional<Int64Array>& lengths, const py::array& out, const Arrays& hn, const OptionalMarks& marks,
                  const OptionalArray& cells) {
    const Call<T> call(network, x, h0, lengths, out, hn, marks, cells);
    const double work = network.multiplications_per_step() * double(call.x.steps) * double(call.x.rows);
    until_signal(work, [&](const Stop& stop) {
      network.forward(call.x, call.start(), call.lengths, call.y, call.final_states.data(), stop, call.marks, call.cells);
    });
  }

  template <class T>
  static PyTape recorded(const Network<T>& network, const py::array& x, const std::optional<Arrays>& h0,
                         const std::optional<Int64Array>& lengths, const py::array& out, const Arrays& hn, bool recompute,
                         const std::optional<uint64_t>& seed, const OptionalMarks& marks, const OptionalArray& cells) {
    const Call<T> call(network, x, h0, lengths, out, hn, marks, cells);
    const double work = network.multiplications_per_step() * double(call.x.steps) * double(call.x.rows);
    std::optional<Tape<T>> tape;
    until_signal(work, [&](const Stop& stop) {
      tape = network.record(call.x, call.start(), call.lengths, call.y, call.final_states.data(), recompute,
                            seed ? &*seed : nullptr, stop, call.marks, call.cells);
    });
    return PyTape(Recorded<T>{network, call.x.steps, call.x.rows, std::move(*tape)});
  }

  struct PlainMarks {
    py::handle resets, mask;
    bool repeat;
  };

  // Flags of a call as they are, copied: what the engine reads twice must not change.
  struct CopiedFlags {
    std::vector<uint8_t> copy;
    Sequence<const uint8_t> view;
    bool plain = true;

    CopiedFlags(py::handle flags, const Shape& shape, int64_t steps, int64_t rows, bool batch_first) {
      if (flags.is_none()) return;
      const bool* from = recurra::bindings::plain<bool>(flags, py::dtype::of<bool>(), shape, false);
      plain = from != nullptr;
      if (!from) return;
      copy.assign(from, from + steps * rows);
      view = {copy.data(), steps, rows, batch_first ? 1 : rows, batch_first ? steps : 1};
    }
  };

  // From zero states. Python asks before it makes arrays that may be too large for the machine.
  template <class T>
  static py::object called(const Network<T>& network, const py::dtype& dtype, py::handle x, py::handle out, bool batch_first,
                           const PlainMarks& given) {
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
    const Shape of_flags{batched ? 2 : 1, {shape.size[0], shape.size[1], 1}};
    const CopiedFlags resets(given.resets, of_flags, steps, rows, batch_first),
        mask(given.mask, of_flags, steps, rows, batch_first);
    if (!resets.plain || !mask.plain) return py::none();
    const Marks<T> marks{resets.view, nullptr, mask.view, given.repeat};
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
    until_signal(work,
                 [&](const Stop& stop) { network.forward(read, nullptr, nullptr, written, final_states.data(), stop, marks); });
    return py::make_tuple(y, states.size() == 1 ? py::object(states[0]) : py::tuple(states));
  }

  py::dtype dtype_;
  AnyNetwork network_;
};

recurra::Precision precision_named(const std::string& name) {
  return name == "int8"       ? recurra::Precision::int8
         : name == "bfloat16" ? recurra::Precision::bfloat16
                              : recurra::Precision::full;
}

NetworkConfig config_of(const std::string& cell, int64_t input_size, int64_t hidden_size, int64_t output_size, int layers,
                        int directions, const std::vector<double>& constants) {
  NetworkConfig config;
  config.cell = cell;
  config.input_size = input_size;
  config.hidden_size = hidden_size;
  config.output_size = output_size;
  config.layers = layers;
  config.directions = directions;
  config.constants = constants;
  return config;
}

py::dict cells() {
  py::dict all;
  for (const recurra::CellInfo& cell : recurra::cells()) {
    py::list params;
    for (const auto& p : cell.params) params.append(py::make_tuple(p.name, p.blocks, p.rows, p.cols, p.is_bias));
    all[py::str(cell.name)] = py::dict(
        py::arg("gates") = cell.gates, py::arg("states") = cell.states, py::arg("params") = params,
        py::arg("constants") = cell.constants, py::arg("projected") = cell.projected, py::arg("unit_range") = cell.unit_range,
        py::arg("recurrent_product") = cell.recurrent_product, py::arg("has_heads") = cell.has_heads);
  }
  return all;
}

py::dict config() {
  return py::dict(py::arg("isa") = recurra::isa(), py::arg("isa_available") = recurra::available_isas(),
                  py::arg("threads") = recurra::num_threads(), py::arg("compiler") = RECURRA_COMPILER);
}

py::dict limits(int threads, const std::vector<int>& sizes_kib) {
  recurra::Limits limits;
  {
    const py::gil_scoped_release release;
    limits = recurra::measure_limits(threads, sizes_kib);
  }
  return py::dict(py::arg("fma_f32_gflops") = limits.f32_gflops, py::arg("fma_bf16_gflops") = limits.bf16_gflops,
                  py::arg("dot_int8_gops") = limits.int8_gops, py::arg("read_gbs") = limits.read_gbs,
                  py::arg("threads") = limits.threads, py::arg("read_together_gbs") = limits.read_together_gbs);
}

py::dict together(int threads) {
  recurra::Together together;
  {
    const py::gil_scoped_release release;
    together = recurra::measure_together(threads);
  }
  return py::dict(py::arg("gain") = together.gain, py::arg("exchange_ns") = together.exchange_ns);
}

const char* const kNoSubinterpreter =
    "recurra cannot be imported in a subinterpreter, since NumPy does not support them; import it in the main interpreter, "
    "or in a process of its own";

bool in_main_interpreter() { return PyInterpreterState_Get() == PyInterpreterState_Main(); }

}  // namespace

// What Python calls. Before 3.12 pybind11 would wait for ever in a subinterpreter, for the lock that its own thread holds.
extern "C" PYBIND11_EXPORT PyObject* PyInit_engine();
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (in_main_interpreter()) return PyInit_engine();
  PyErr_SetString(PyExc_ImportError, kNoSubinterpreter);
  return nullptr;
}

PYBIND11_MODULE(engine, m, py::mod_gil_not_used()) {
  // From 3.13 on Python calls PyInit__core in the main interpreter for all others too.
  if (!in_main_interpreter()) throw py::import_error(kNoSubinterpreter);
  m.doc() =
      "The compiled engine. recurra._arrays has checked and normalised everything, but for what call and step take; what comes "
      "here all the same and does not fit is refused.";

  m.def("cells", cells,
        "The table of cells: name -> gates, states, params, constants, projected, unit_range, recurrent_product, has_heads.");
  m.def("activations", recurra::activations, "Names of activation functions; a constant that chooses one is its index here.");
  m.def("config", config, "What was chosen on this machine.");
  m.def("limits", limits, py::arg("threads"), py::arg("sizes_kib") = std::vector<int>(),
        "What this machine can do at best on one thread, and what so many threads read together: GFLOP/s and GB/s. Takes some "
        "seconds, or milliseconds where the sizes of the blocks to be read are named: just now.");
  m.def("together", together, py::arg("threads"),
        "What so many threads have of each other just now: their multiply-adds at once, in those of one, and the nanoseconds "
        "until one sees what another has written. Takes about a millisecond.");
  m.def("get_num_threads", recurra::num_threads, "Threads that one call may use.");
  m.def("set_num_threads", recurra::set_num_threads, py::arg("n"), "At least 1; granted up to the CPUs this process may use.");

  m.def("limit_memory", recurra::detail::limit_memory, py::arg("bytes"),
        "MemoryError where a call, tape, stream or network would take more than that together with all others.");
  m.def("release_memory", recurra::release_memory, py::call_guard<py::gil_scoped_release>(),
        "Gives back to the system the memory that calls and tapes have left for those to come, at most 128 MiB, and with glibc "
        "what is free on its heap. No result depends on it; the next large call has new pages to fetch.");

  py::class_<PyStream>(m, "Stream", "The running state of some sequences.")
      .def("step", &PyStream::step, py::arg("otherwise"),
           "A function (x, out=None) for one step; it hands arrays that it cannot use as they are to `otherwise`.")
      .def("run", &PyStream::run, py::arg("x"), py::arg("out"), "Steps x [T, B, I] to out [T, B, O].")
      .def("get_state", &PyStream::get_state, py::arg("states"), "Writes the states into arrays [L, B, width].")
      .def("set_state", &PyStream::set_state, py::arg("states"), "Reads the states from arrays [L, B, width].")
      .def("reset", &PyStream::reset, py::arg("rows"), py::arg("states") = py::none(),
           "Sets all rows, or the given ones, to zero or to states [L, rows, width]; or all to [L, 1, width].");

  py::class_<GivenMarks>(m, "Marks", "What befalls steps of a call.")
      .def(
          py::init<OptionalArray, OptionalArray, std::optional<Arrays>, bool>(), py::arg("resets"), py::arg("mask"),
          py::arg("reset_state"), py::arg("repeat"),
          "Booleans [T, B] and the state [L * D, B, width] of resets; None: no resets, all steps valid, zeros. repeat: whether "
          "masked steps have the last output, else zeros.")
      .def_readonly("resets", &GivenMarks::resets)
      .def_readonly("mask", &GivenMarks::mask)
      .def_readonly("reset_state", &GivenMarks::reset_state)
      .def_readonly("repeat", &GivenMarks::repeat);

  py::class_<PyTape>(m, "Tape", "What a forward pass leaves for backward.")
      .def("backward", &PyTape::backward, py::arg("dy"), py::arg("d_final"), py::arg("dx"), py::arg("d_initial"),
           py::arg("params"), py::arg("add"), py::arg("d_reset") = py::none(), py::arg("d_cells") = py::none(),
           py::arg("clip") = std::numeric_limits<double>::infinity(),
           "Writes dx, d_initial and params (nested as in Network), or adds to params; adds to d_reset, the gradient of the "
           "state that rows are reset to; each may be None.")
      .def_property_readonly("nbytes", &PyTape::bytes);

  py::class_<PyLinear>(m, "Linear", "A packed affine map of rows; immutable.")
      .def(py::init<const py::array&, const OptionalArray&>(), py::arg("weight"), py::arg("bias"), "weight [outputs, inputs].")
      .def("forward", &PyLinear::forward, py::arg("x"), py::arg("y"), "Writes y [rows, outputs]; all C-contiguous.")
      .def("backward", &PyLinear::backward, py::arg("x"), py::arg("dy"), py::arg("dx"), py::arg("d_weight"), py::arg("d_bias"),
           "Writes dx unless it is None, adds to d_weight and d_bias.");

  define_match(m);

  m.def("drop_between", drop_between, py::arg("x"), py::arg("rate"), py::arg("seed"), py::arg("lane"),
        "In place: what training leaves out of x [T, B, size] on its way from layer `lane` to the next.");

  m.def("fingerprint", fingerprint_of, py::arg("arrays"), py::arg("bytes"),
        "64 bytes that change when the memory at these addresses does.");

  py::class_<PyStepInPlace>(m, "StepInPlace", "One step of one row, from unpacked weights at their addresses.")
      .def(py::init([](const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size,
                       int64_t output_size, int layers, int directions, const std::vector<double>& constants) {
             return PyStepInPlace(dtype, config_of(cell, input_size, hidden_size, output_size, layers, directions, constants));
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("output_size"),
           py::arg("layers"), py::arg("directions"), py::arg("constants"))
      .def("run", &PyStepInPlace::run, py::arg("x"), py::arg("params"), py::arg("initial"), py::arg("y"),
           py::arg("final_states"),
           "All are addresses of contiguous numbers; params one after another as in Network, 0 for an absent bias.");

  py::class_<PyNetwork>(m, "Network", "Packed weights of a stack of layers; immutable.")
      .def(py::init([](const std::string& cell, const std::string& dtype, int64_t input_size, int64_t hidden_size,
                       int64_t output_size, int layers, int directions, const std::vector<std::vector<OptionalArray>>& params,
                       const std::vector<double>& constants, const std::string& precision, std::vector<int> kept,
                       const std::array<double, 6>& regularization, bool reverse, int64_t heads) {
             NetworkConfig config = config_of(cell, input_size, hidden_size, output_size, layers, directions, constants);
             config.precision = precision_named(precision);
             config.kept = std::move(kept);
             config.reverse = reverse;
             config.heads = heads;
             config.regularization = {regularization[0],
                                      regularization[1],
                                      {regularization[2], regularization[3], regularization[4], regularization[5]}};
             return PyNetwork(dtype, config, params);
           }),
           py::arg("cell"), py::arg("dtype"), py::arg("input_size"), py::arg("hidden_size"), py::arg("output_size"),
           py::arg("layers"), py::arg("directions"), py::arg("params"), py::arg("constants"), py::arg("precision"),
           py::arg("kept"), py::arg("regularization"), py::arg("reverse") = false, py::arg("heads") = 1,
           "params[layer * directions + direction] in the order of the cell's table, None for an absent bias.")
      .def("forward", &PyNetwork::forward, py::arg("x"), py::arg("h0"), py::arg("lengths"), py::arg("out"), py::arg("hn"),
           py::arg("marks") = py::none(), py::arg("cells") = py::none(),
           "Runs x [T, B, I]; writes out [T, B, D * O], the final states hn [L * D, B, width] and, unless it is None, the last "
           "layer's second state of every step, cells [T, B, D * H].")
      .def("call", &PyNetwork::call, py::arg("x"), py::arg("out"), py::arg("batch_first"), py::arg("resets") = py::none(),
           py::arg("mask") = py::none(), py::arg("repeat") = true,
           "(output, final state) from a zero state; None, and nothing done, if the arrays are not plain enough to use as they "
           "are.")
      .def("record", &PyNetwork::record, py::arg("x"), py::arg("h0"), py::arg("lengths"), py::arg("out"), py::arg("hn"),
           py::arg("recompute"), py::arg("seed"), py::arg("marks") = py::none(), py::arg("cells") = py::none(),
           "As forward, and returns a tape.")
      .def("stream", &PyNetwork::stream, py::arg("batch"), py::arg("unbatched"), py::arg("threads"), py::arg("head").none(true),
           "head: of every step's output, a Linear of the same dtype, or None.")
      .def("get_parameter", &PyNetwork::get_parameter, py::arg("layer"), py::arg("number"), py::arg("out"),
           "Writes params[layer][number] as it was given; no matrix in reduced precision.")
      .def_property_readonly("weight_bytes", &PyNetwork::weight_bytes);

  define_model<PyNetwork>(m);
  define_graph(m);
  define_cuda(m);
}
