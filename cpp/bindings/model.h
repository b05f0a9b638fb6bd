// Whole models and their streams.
#pragma once
#include <variant>

#include "calls.h"
#include "linear.h"
#include "recurra/model.h"
#include "stream.h"

namespace recurra {
namespace bindings {

using OptionalArrays = std::vector<std::optional<Arrays>>;

// Arrays of a call or a run: sequences [steps, rows, size], and [steps, rows] of int64.
template <class T>
ModelInput<T> model_input(const ModelValue& about, const py::array& array) {
  if (!about.integer) return {input<T>(about.name.c_str(), array, kAny, kAny, about.size()), {}};
  if (!py::isinstance<py::array_t<int64_t>>(array) || array.ndim() != 2)
    throw py::value_error(about.name + ": expected int64 [steps, rows]");
  const auto stride = [&](int axis) { return array.strides(axis) / ptrdiff_t(sizeof(int64_t)); };
  return {{}, {static_cast<const int64_t*>(array.data()), array.shape(0), array.shape(1), stride(0), stride(1)}};
}

template <class T>
std::vector<ModelInput<T>> model_inputs(const std::vector<ModelValue>& about, const Arrays& arrays) {
  check_count("inputs", about.size(), arrays.size());
  std::vector<ModelInput<T>> all;
  for (size_t i = 0; i < arrays.size(); ++i) all.push_back(model_input<T>(about[i], arrays[i]));
  return all;
}

template <class T>
std::vector<Sequence<T>> model_outputs(const std::vector<ModelValue>& about, const Arrays& arrays) {
  check_count("outputs", about.size(), arrays.size());
  std::vector<Sequence<T>> all;
  for (size_t k = 0; k < arrays.size(); ++k)
    all.push_back(sequence<T>(about[k].name.c_str(), arrays[k], kAny, kAny, about[k].size(), Use::write));
  return all;
}

// States of recurrent nodes, some of them None.
template <class T>
struct NodeStates {
  std::vector<std::vector<T*>> pointers;
  std::vector<T* const*> lists;

  NodeStates(const char* name, const Model<std::remove_const_t<T>>& model, const OptionalArrays& given, int64_t rows, Use use) {
    if (given.empty()) return;
    check_count(name, model.recurrent().size(), given.size());
    for (size_t k = 0; k < given.size(); ++k)
      pointers.push_back(given[k] ? states<T>(name, model.recurrent()[k].second, *given[k], rows, use) : std::vector<T*>());
    for (const auto& each : pointers) lists.push_back(each.empty() ? nullptr : each.data());
  }
};

template <class T>
class FastModelStream {
 public:
  FastModelStream(const Model<T>& model, int64_t batch, bool unbatched, int threads)
      : model_(model),
        batch_(batch),
        stream_(model, batch, threads),
        dtype_(py::dtype::of<T>()),
        multiplications_(model.multiplications_per_step() * double(batch)) {
    const auto& in = model.inputs();
    const auto& out = model.outputs();
    plain_ = stream_.steps_alone();
    if (!plain_) return;
    input_ = shape(in[0], unbatched), output_ = shape(out[0], unbatched);
    integer_ = in[0].integer;
  }

  // A null object, and nothing done, unless the arrays are exactly what a step can use as they are.
  py::object step(py::handle x, py::handle out) {
    if (integer_) return step_of_integers(x, out);
    const T* from = plain_ ? plain<T>(x, dtype_, input_, false) : nullptr;
    if (!from) return {};
    return stepped(from, output_array<T>(out, dtype_, output_, from, count_of(input_)));
  }

  void run(int64_t steps, const Arrays& inputs, const Arrays& outputs) {
    const auto from = model_inputs<T>(model_.inputs(), inputs);
    const auto to = model_outputs<T>(model_.outputs(), outputs);
    until_signal(multiplications_ * double(steps), [&](const Stop& stop) { stream_.run(steps, from, to, stop); });
  }

  void reset(const std::optional<Int64Array>& rows) {
    stream_.reset(rows ? rows->data() : nullptr, rows ? rows->size() : batch_);
  }
  const Network<T>& network(size_t node) const {
    if (node >= model_.recurrent().size()) throw py::index_error("node: there is none of this number");
    return model_.recurrent()[node].second;
  }
  void get_recurrent(size_t node, const Arrays& arrays) const {
    stream_.get_state(node, states<T>("states", network(node), arrays, batch_, Use::write).data());
  }
  void set_recurrent(size_t node, const Arrays& arrays) {
    stream_.set_state(node, states<const T>("states", network(node), arrays, batch_, Use::read).data());
  }
  void reset_recurrent(size_t node, const std::optional<Int64Array>& rows, const Arrays& given) {
    const int64_t count = rows ? rows->size() : batch_;
    const bool alike = !given.empty() && given.front().ndim() == 3 && given.front().shape(1) == 1;
    stream_.reset_state(node, rows ? rows->data() : nullptr, count,
                        states<const T>("states", network(node), given, alike ? 1 : count, Use::read).data(), alike);
  }
  py::list states_of() const {
    py::list all;
    for (const ModelState& state : stream_.states())
      all.append(py::make_tuple(state.name, py::tuple(py::cast(state.shape)), state.integer));
    return all;
  }
  void get_state(size_t number, const py::array& array) const { stream_.get_state(number, place(number, array, Use::write)); }
  void set_state(size_t number, const py::array& array) { stream_.set_state(number, place(number, array, Use::read)); }
  int64_t frames(size_t output, int64_t steps) const { return stream_.frames(output, steps); }

 private:
  Shape shape(const ModelValue& value, bool unbatched) const {
    Shape all{0, {}};
    if (!unbatched) all.size[size_t(all.dims++)] = batch_;
    for (const int64_t size : value.features) all.size[size_t(all.dims++)] = size;
    return all;
  }
  // [batch] of int64, or an int without a batch axis; one that is out of range is left to Python.
  py::object step_of_integers(py::handle x, py::handle out) {
    const int64_t* from = nullptr;
    int64_t one = 0;
    if (plain_ && input_.dims) {
      from = plain<int64_t>(x, indices_, input_, false);
    } else if (plain_ && PyLong_CheckExact(x.ptr())) {
      int overflow = 0;
      one = PyLong_AsLongLongAndOverflow(x.ptr(), &overflow);
      from = overflow ? nullptr : &one;
    }
    if (!from) return {};
    try {
      return stepped(from, output_array<T>(out, dtype_, output_, nullptr, 0));
    } catch (const std::invalid_argument&) {
      return {};
    }
  }

  template <class U>
  py::object stepped(const U* from, Output<T> output) {
    if (!output.data) return {};
    bool made = false;
    without_gil_if(multiplications_ > kWorthReleasing, [&] { made = stream_.step(from, output.data); });
    return made ? std::move(output.array) : py::none();
  }

  void* place(size_t number, const py::array& array, Use use) const {
    if (number >= stream_.states().size()) throw py::index_error("state: there is none of this number");
    const ModelState& state = stream_.states()[number];
    if (!state.integer) return data<T>(state.name, array, state.shape, Layout::whole, use);
    if (!py::isinstance<py::array_t<int64_t, py::array::c_style>>(array) || size_t(array.ndim()) != state.shape.size() ||
        !std::equal(state.shape.begin(), state.shape.end(), array.shape()) || (use == Use::write && !array.writeable()))
      refuse(state.name, array, "int64", state.shape, Layout::whole, use);
    return const_cast<void*>(array.data());
  }

  Model<T> model_;
  int64_t batch_;
  ModelStream<T> stream_;
  py::dtype dtype_, indices_ = py::dtype::of<int64_t>();
  Shape input_, output_;
  bool plain_ = false, integer_ = false;
  double multiplications_;
};

using AnyModelStream = std::variant<FastModelStream<float>, FastModelStream<double>>;

class PyModelStream {
 public:
  template <class T>
  explicit PyModelStream(FastModelStream<T> stream) : stream_(std::make_shared<AnyModelStream>(std::move(stream))) {}

  py::object step(py::object otherwise) const {
    static PyMethodDef method = step_method<AnyModelStream>(
        "step($self, /, x, out=None, *, resets=None, mask=None)\n--\n\nAdvance the model by one step.");
    return step_of(method, stream_, std::move(otherwise));
  }
  // method(arguments...) of whichever stream it is.
  template <class... Arguments, class Method>
  static auto call(const Method& method) {
    return [method](const PyModelStream& self, Arguments... arguments) {
      return std::visit([&](auto& s) { return method(s, arguments...); }, *self.stream_);
    };
  }

 private:
  std::shared_ptr<AnyModelStream> stream_;
};

template <class PyNetwork>
class PyModel {
 public:
  PyModel(const std::string& dtype, const std::string& structure, const std::map<std::string, PyNetwork>& networks,
          const std::map<std::string, PyLinear>& linears, const std::map<std::string, py::array>& tensors)
      : model_(dtype == "float64" ? AnyModel(made<double>(structure, networks, linears, tensors))
                                  : AnyModel(made<float>(structure, networks, linears, tensors))) {}

  void forward(const Arrays& inputs, const Arrays& outputs, const std::optional<Int64Array>& lengths,
               const OptionalArray& resets, const OptionalArray& mask, bool repeat, const OptionalArrays& initial,
               const OptionalArrays& reset_state, const OptionalArrays& final_states) const {
    std::visit(
        [&](const auto& model) {
          run(model, inputs, outputs, lengths, resets, mask, repeat, initial, reset_state, final_states);
        },
        model_);
  }
  int64_t output_steps(size_t output, const std::vector<int64_t>& steps) const {
    return std::visit([&](const auto& model) { return model.output_steps(output, steps); }, model_);
  }
  std::vector<std::string> recurrent() const {
    std::vector<std::string> names;
    const auto list = [&](const auto& model) {
      for (const auto& node : model.recurrent()) names.push_back(node.first);
    };
    std::visit(list, model_);
    return names;
  }
  double multiplications() const {
    return std::visit([](const auto& model) { return model.multiplications_per_step(); }, model_);
  }
  PyModelStream stream(int64_t batch, bool unbatched, int threads) const {
    return std::visit([&](const auto& model) { return made_stream(model, batch, unbatched, threads); }, model_);
  }

 private:
  using AnyModel = std::variant<Model<float>, Model<double>>;

  template <class T>
  static PyModelStream made_stream(const Model<T>& model, int64_t batch, bool unbatched, int threads) {
    return PyModelStream(FastModelStream<T>(model, batch, unbatched, threads));
  }

  template <class T>
  static Model<T> made(const std::string& structure, const std::map<std::string, PyNetwork>& networks,
                       const std::map<std::string, PyLinear>& linears, const std::map<std::string, py::array>& tensors) {
    ModelParameters<T> parameters;
    for (const auto& [name, network] : networks) parameters.networks.emplace(name, network.template as<T>());
    for (const auto& [name, linear] : linears) parameters.linears.emplace(name, *linear.template as<T>());
    parameters.tensor = [&](const std::string& name, const std::vector<int64_t>& shape) -> const T* {
      const auto found = tensors.find(name);
      if (found == tensors.end()) throw std::invalid_argument("parameters: there is no '" + name + "'");
      return data<T>(name, found->second, shape, Layout::whole, Use::read);
    };
    return Model<T>(structure, parameters);
  }

  template <class T>
  static void run(const Model<T>& model, const Arrays& inputs, const Arrays& outputs, const std::optional<Int64Array>& lengths,
                  const OptionalArray& resets, const OptionalArray& mask, bool repeat, const OptionalArrays& initial,
                  const OptionalArrays& reset_state, const OptionalArrays& final_states) {
    ModelCall<T> call;
    call.inputs = model_inputs<T>(model.inputs(), inputs);
    call.outputs = model_outputs<T>(model.outputs(), outputs);
    int64_t rows = 0;
    double frames = 0;
    for (const py::array& array : inputs) rows = array.shape(1), frames = std::max(frames, double(array.shape(0)));
    if (lengths) check_count("lengths", size_t(rows), size_t(lengths->size()));
    call.lengths = lengths ? lengths->data() : nullptr;
    call.marks.resets = flags("resets", resets, resets ? resets->shape(0) : 0, rows);
    call.marks.mask = flags("mask", mask, mask ? mask->shape(0) : 0, rows);
    call.marks.repeat = repeat;
    const NodeStates<const T> from("initial", model, initial, rows, Use::read);
    const NodeStates<const T> fresh("reset_state", model, reset_state, rows, Use::read);
    const NodeStates<T> to("final_states", model, final_states, rows, Use::write);
    call.initial = from.lists, call.reset_state = fresh.lists, call.final_states = to.lists;
    const double work = model.multiplications_per_step() * frames * double(rows);
    until_signal(work, [&](const Stop& stop) { model.forward(call, stop); });
  }

  AnyModel model_;
};

template <class PyNetwork>
void define_model(py::module_& m) {
  using Rows = const std::optional<Int64Array>&;
  py::class_<PyModelStream>(m, "ModelStream", "The running state of some sequences on their way through a model.")
      .def("step", &PyModelStream::step, py::arg("otherwise"), "As of Stream; None from it: a stride waits for more steps.")
      .def("run",
           PyModelStream::call<int64_t, const Arrays&, const Arrays&>(
               [](auto& s, int64_t steps, const Arrays& x, const Arrays& y) { s.run(steps, x, y); }),
           py::arg("steps"), py::arg("inputs"), py::arg("outputs"), "Steps inputs [T, B, size] to outputs.")
      .def("frames", PyModelStream::call<size_t, int64_t>([](auto& s, size_t k, int64_t steps) { return s.frames(k, steps); }),
           py::arg("output"), py::arg("steps"), "How many come out of the next so many steps.")
      .def("reset", PyModelStream::call<Rows>([](auto& s, Rows rows) { s.reset(rows); }), py::arg("rows"),
           "All rows, or the given ones, to where they began.")
      .def("get_recurrent",
           PyModelStream::call<size_t, const Arrays&>([](auto& s, size_t node, const Arrays& a) { s.get_recurrent(node, a); }),
           py::arg("node"), py::arg("states"), "Writes the states of a recurrent node.")
      .def("set_recurrent",
           PyModelStream::call<size_t, const Arrays&>([](auto& s, size_t node, const Arrays& a) { s.set_recurrent(node, a); }),
           py::arg("node"), py::arg("states"), "Reads them.")
      .def("reset_recurrent",
           PyModelStream::call<size_t, Rows, const Arrays&>(
               [](auto& s, size_t node, Rows rows, const Arrays& a) { s.reset_recurrent(node, rows, a); }),
           py::arg("node"), py::arg("rows"), py::arg("states"), "Sets those of some rows, as of Stream.")
      .def("states", PyModelStream::call<>([](auto& s) { return s.states_of(); }),
           "Name, shape and whether it is int64, of all states but those of recurrent nodes.")
      .def("get_state",
           PyModelStream::call<size_t, const py::array&>([](auto& s, size_t i, const py::array& a) { s.get_state(i, a); }),
           py::arg("number"), py::arg("array"), "Writes one of them.")
      .def("set_state",
           PyModelStream::call<size_t, const py::array&>([](auto& s, size_t i, const py::array& a) { s.set_state(i, a); }),
           py::arg("number"), py::arg("array"), "Reads it.");

  using Any = PyModel<PyNetwork>;
  py::class_<Any>(m, "Model", "Layers in a chain or a small graph; immutable.")
      .def(py::init<const std::string&, const std::string&, const std::map<std::string, PyNetwork>&,
                    const std::map<std::string, PyLinear>&, const std::map<std::string, py::array>&>(),
           py::arg("dtype"), py::arg("structure"), py::arg("networks"), py::arg("linears"), py::arg("tensors"),
           "structure: JSON; packed layers by node, whose weights are shared; other parameters as \"node.parameter\".")
      .def("forward", &Any::forward, py::arg("inputs"), py::arg("outputs"), py::arg("lengths"), py::arg("resets"),
           py::arg("mask"), py::arg("repeat"), py::arg("initial"), py::arg("reset_state"), py::arg("final_states"),
           "Runs inputs [T, B, size], or [T, B] of int64, with T = 1 for those without time, and writes outputs. States by "
           "recurrent node, None for some, or none at all.")
      .def("output_steps", &Any::output_steps, py::arg("output"), py::arg("steps"), "Of an output, for so many of each input.")
      .def("recurrent", &Any::recurrent, "Names of the recurrent nodes, in the order of states.")
      .def_property_readonly("multiplications", &Any::multiplications, "About: of one row's step.")
      .def("stream", &Any::stream, py::arg("batch"), py::arg("unbatched"), py::arg("threads"), "A stream of it.");
}

}  // namespace bindings
}  // namespace recurra
