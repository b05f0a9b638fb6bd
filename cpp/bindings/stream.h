// Streams, and how a step gets into the core.
#pragma once
#include <variant>

#include "calls.h"
#include "linear.h"

namespace recurra {
namespace bindings {

template <class T>
class FastStream {
 public:
  FastStream(const Network<T>& network, int64_t batch, bool unbatched, int threads, const Linear<T>* head)
      : network_(network),
        batch_(batch),
        outputs_(head ? head->outputs() : network.config().output_size),
        stream_(network, batch, threads, head),
        dtype_(py::dtype::of<T>()),
        input_(row_or_rows(batch, network.config().input_size, unbatched)),
        output_(row_or_rows(batch, outputs_, unbatched)),
        multiplications_(network.multiplications_per_step() * double(batch)) {}

  // A null object, and nothing done, unless the arrays are exactly what a step can use as they are.
  py::object step(py::handle x, py::handle out) {
    const T* from = plain<T>(x, dtype_, input_, false);
    if (!from) return {};
    auto [result, to] = output_array<T>(out, dtype_, output_, from, count_of(input_));
    if (!to) return {};
    without_gil_if(multiplications_ > kWorthReleasing, [&, to = to] { stream_.step(from, to); });
    return result;
  }

  void run(const py::array& x, const py::array& out) {
    const auto from = input<T>("x", x, kAny, batch_, network_.config().input_size);
    const auto to = sequence<T>("out", out, from.steps, batch_, outputs_, Use::write);
    until_signal(multiplications_ * double(from.steps), [&](const Stop& stop) { stream_.run(from, to, stop); });
  }

  void get_state(const Arrays& arrays) const {
    stream_.get_state(states<T>("states", network_, arrays, batch_, Use::write).data());
  }
  void set_state(const Arrays& arrays) {
    stream_.set_state(states<const T>("states", network_, arrays, batch_, Use::read).data());
  }
  void reset(const std::optional<Int64Array>& rows, const std::optional<Arrays>& given) {
    const int64_t count = rows ? rows->size() : batch_;
    const int64_t* const which = rows ? rows->data() : nullptr;
    if (!given) return stream_.reset(which, count);
    const bool alike = !given->empty() && given->front().ndim() == 3 && given->front().shape(1) == 1;
    stream_.reset(which, count, states<const T>("states", network_, *given, alike ? 1 : count, Use::read).data(), alike);
  }

 private:
  static Shape row_or_rows(int64_t batch, int64_t size, bool unbatched) {
    return unbatched ? Shape{1, {Py_intptr_t(size)}} : Shape{2, {Py_intptr_t(batch), Py_intptr_t(size)}};
  }

  Network<T> network_;  // as cheap as a pointer
  int64_t batch_, outputs_;
  Stream<T> stream_;
  py::dtype dtype_;
  Shape input_, output_;
  double multiplications_;
};

using AnyStream = std::variant<FastStream<float>, FastStream<double>>;

// What a step function works on: any of several kinds of streams. `otherwise` is called, with the same arguments, when they are
// not plain arrays.
template <class AnyStream>
struct Stepping {
  std::shared_ptr<AnyStream> stream;
  py::object otherwise;
};

// step(x, out) as a plain C function: pybind11's dispatcher would cost as much as the arithmetic of a small step. A null object
// from the stream's own step says that arrays are not plain; None is a result.
template <class AnyStream>
PyObject* call_step(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  try {
    const auto& stepping = *static_cast<Stepping<AnyStream>*>(PyCapsule_GetPointer(capsule, nullptr));
    const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
    const bool names_out = named == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "out") == 0;
    if (count >= 1 && count + named <= 2 && (!named || names_out)) {
      const py::handle x = arguments[0], out = count + named == 2 ? arguments[1] : Py_None;
      py::object result = std::visit([&](auto& s) { return s.step(x, out); }, *stepping.stream);
      if (result) return result.release().ptr();
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

template <class AnyStream>
PyMethodDef step_method(const char* text) {
  const auto function = reinterpret_cast<void (*)()>(call_step<AnyStream>);
  return {"step", reinterpret_cast<PyCFunction>(function), METH_FASTCALL | METH_KEYWORDS, text};
}

// A step function of this stream; `method` must stay.
template <class AnyStream>
py::object step_of(PyMethodDef& method, const std::shared_ptr<AnyStream>& stream, py::object otherwise) {
  const py::capsule capsule(new Stepping<AnyStream>{stream, std::move(otherwise)},
                            [](void* owned) { delete static_cast<Stepping<AnyStream>*>(owned); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&method, capsule.ptr()));
}

class PyStream {
 public:
  template <class T>
  explicit PyStream(FastStream<T> stream) : stream_(std::make_shared<AnyStream>(std::move(stream))) {}

  py::object step(py::object otherwise) const {
    static PyMethodDef method = step_method<AnyStream>(
        "step($self, /, x, out=None, *, resets=None, reset_state=None, mask=None, masked_output='previous')\n--\n\n"
        "Advance all layers by one step.");
    return step_of(method, stream_, std::move(otherwise));
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
  void reset(const std::optional<Int64Array>& rows, const std::optional<Arrays>& states) {
    std::visit([&](auto& s) { s.reset(rows, states); }, *stream_);
  }

 private:
  std::shared_ptr<AnyStream> stream_;
};

}  // namespace bindings
}  // namespace recurra
