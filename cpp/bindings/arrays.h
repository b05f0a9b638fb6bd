// NumPy arrays as the engine's views; and those that need no checks in Python, for calls that must be cheap.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "recurra/recurra.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

using Arrays = std::vector<py::array>;
using OptionalArray = std::optional<py::array>;
using Int64Array = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

// ---- arrays that Python has checked and normalised. What the engine relies on is checked again here: objects may have been
// tampered with on the way, and a wrong array must not become a wrong address.

enum class Use { read, write };
enum class Layout { whole, rows };  // C-contiguous, or the last axis only

constexpr int64_t kAny = -1;  // size of an axis

[[noreturn]] inline void refuse(const std::string& name, const py::array& array, const char* dtype,
                                const std::vector<int64_t>& shape, Layout layout, Use use) {
  const auto listed = [](const auto* sizes, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += (i ? ", " : "") + (sizes[i] == kAny ? "any" : std::to_string(sizes[i]));
    return "[" + text + "]";
  };
  throw py::value_error(name + ": expected a " + (use == Use::write ? "writeable " : "") + dtype + " array of shape " +
                        listed(shape.data(), shape.size()) + (layout == Layout::whole ? ", C-contiguous" : "") + ", got " +
                        py::str(array.dtype()).cast<std::string>() + " " + listed(array.shape(), size_t(array.ndim())));
}

template <class T>
T* data(const std::string& name, const py::array& array, const std::vector<int64_t>& shape, Layout layout, Use use) {
  using namespace py::detail;
  const auto* proxy = array_proxy(array.ptr());
  const int needed = npy_api::NPY_ARRAY_ALIGNED_ | (layout == Layout::whole ? npy_api::NPY_ARRAY_C_CONTIGUOUS_ : 0) |
                     (use == Use::write ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  bool good = (proxy->flags & needed) == needed && size_t(proxy->nd) == shape.size() && py::isinstance<py::array_t<T>>(array);
  for (size_t i = 0; good && i < shape.size(); ++i) good = shape[i] == kAny || shape[i] == proxy->dimensions[i];
  if (good && layout == Layout::rows && proxy->dimensions[proxy->nd - 1] > 1 && array.size())
    good = proxy->strides[proxy->nd - 1] == ptrdiff_t(sizeof(T));
  if (!good) refuse(name, array, sizeof(T) == sizeof(double) ? "float64" : "float32", shape, layout, use);
  return static_cast<T*>(static_cast<void*>(proxy->data));
}

// [steps, rows, width].
template <class T>
Sequence<T> sequence(const char* name, const py::array& array, int64_t steps, int64_t rows, int64_t width, Use use) {
  T* first = data<T>(name, array, {steps, rows, width}, Layout::rows, use);
  const auto stride = [&](int axis) { return array.strides(axis) / ptrdiff_t(sizeof(T)); };
  return {first, array.shape(0), array.shape(1), stride(0), stride(1)};
}

template <class T>
Sequence<const T> input(const char* name, const py::array& array, int64_t steps, int64_t rows, int64_t width) {
  const Sequence<T> s = sequence<T>(name, array, steps, rows, width, Use::read);
  return {s.data, s.steps, s.rows, s.step_stride, s.row_stride};
}

// Booleans [steps, rows].
inline Sequence<const uint8_t> flags(const char* name, const OptionalArray& array, int64_t steps, int64_t rows) {
  if (!array) return {};
  if (!py::isinstance<py::array_t<bool>>(*array) || array->ndim() != 2 || array->shape(0) != steps || array->shape(1) != rows)
    throw py::value_error(std::string(name) + ": expected bool [" + std::to_string(steps) + ", " + std::to_string(rows) + "]");
  return {static_cast<const uint8_t*>(array->data()), steps, rows, array->strides(0), array->strides(1)};
}

template <class T>
T* optional(const char* name, const OptionalArray& array, const std::vector<int64_t>& shape, Use use) {
  return array ? data<T>(name, *array, shape, Layout::whole, use) : nullptr;
}

inline void check_count(const char* name, size_t wanted, size_t got) {
  if (wanted != got)
    throw py::value_error(std::string(name) + ": expected " + std::to_string(wanted) + ", got " + std::to_string(got));
}

// The size of an axis that the cell's table names, for one layer and direction.
inline int64_t size_of(const std::string& axis, const NetworkConfig& c, int lane) {
  if (axis == "input") return lane < c.directions ? c.input_size : c.directions * c.output_size;
  if (axis == "head") return c.hidden_size / std::max<int64_t>(c.heads, 1);
  return axis == "hidden" ? c.hidden_size : c.output_size;
}

// States [layers * directions, rows, width], one array each.
template <class T, class Array>
std::vector<T*> states(const char* name, const Network<std::remove_const_t<T>>& network, const std::vector<Array>& arrays,
                       int64_t rows, Use use) {
  const NetworkConfig& c = network.config();
  const auto& described = network.cell().states;
  check_count(name, described.size(), arrays.size());
  std::vector<T*> all;
  for (size_t s = 0; s < arrays.size(); ++s)
    all.push_back(optional<std::remove_const_t<T>>(name, arrays[s],
                                                   {c.layers * c.directions, rows, size_of(described[s].second, c, 0)}, use));
  return all;
}

// One parameter; null if it is None.
template <class T>
T* parameter(const recurra::ParamInfo& param, const NetworkConfig& c, size_t lane, const OptionalArray& array, Use use) {
  const int64_t rows = param.blocks * size_of(param.rows, c, int(lane));
  std::vector<int64_t> shape{rows};
  if (param.cols != "one") shape.push_back(size_of(param.cols, c, int(lane)));
  return optional<T>(param.name.c_str(), array, shape, use);
}

// Parameters by layer and direction.
template <class T>
std::vector<std::vector<T*>> parameters(const recurra::CellInfo& cell, const NetworkConfig& c,
                                        const std::vector<std::vector<OptionalArray>>& params, Use use) {
  std::vector<std::vector<T*>> all;
  for (const auto& lane : params) {
    check_count("params", cell.params.size(), lane.size());
    all.emplace_back();
    for (size_t i = 0; i < lane.size(); ++i)
      all.back().push_back(parameter<std::remove_const_t<T>>(cell.params[i], c, all.size() - 1, lane[i], use));
  }
  return all;
}

// ---- plain arrays: native, aligned, C-contiguous, of exactly our dtype, and no subclass

struct Shape {
  int dims;
  std::array<Py_intptr_t, 3> size;  // -1: any
};

// The data of a plain array of this shape, writeable if it is to be written; else null.
template <class T>
T* plain(py::handle object, const py::dtype& dtype, const Shape& shape, bool to_write) {
  using namespace py::detail;
  if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(npy_api::get().PyArray_Type_)) return nullptr;
  const PyArray_Proxy* array = array_proxy(object.ptr());
  const int needed =
      npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_ | (to_write ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  if (array->descr != dtype.ptr() || (array->flags & needed) != needed || array->nd != shape.dims) return nullptr;
  for (int i = 0; i < shape.dims; ++i)
    if (shape.size[i] >= 0 && array->dimensions[i] != shape.size[i]) return nullptr;
  return static_cast<T*>(static_cast<void*>(array->data));
}

// Of a plain array.
inline Shape shape_of(py::handle array) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  Shape shape{proxy->nd, {}};
  std::copy(proxy->dimensions, proxy->dimensions + shape.dims, shape.size.begin());
  return shape;
}

inline int64_t count_of(const Shape& shape) {
  int64_t count = 1;
  for (int i = 0; i < shape.dims; ++i) count *= shape.size[i];
  return count;
}

// An array to write, and its data; None and null if there is none.
template <class T>
struct Output {
  py::object array;
  T* data;
};

template <class T>
Output<T> new_array(const py::dtype& dtype, const Shape& shape) {
  const auto& api = py::detail::npy_api::get();
  PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, dtype.inc_ref().ptr(), shape.dims, shape.size.data(), nullptr,
                                              nullptr, 0, nullptr);
  if (!array) {  // no memory: Python tries again, and says for what
    PyErr_Clear();
    return {py::none(), nullptr};
  }
  return {py::reinterpret_steal<py::object>(array), static_cast<T*>(static_cast<void*>(py::detail::array_proxy(array)->data))};
}

// The caller's `out` unless it is not plain or overlaps the input, or a new array where that is None.
template <class T>
Output<T> output_array(py::handle out, const py::dtype& dtype, const Shape& shape, const T* input, int64_t input_count) {
  if (out.is_none()) return new_array<T>(dtype, shape);
  T* to = plain<T>(out, dtype, shape, true);
  const std::less<const T*> before;
  if (!to || (before(input, to + count_of(shape)) && before(to, input + input_count))) return {py::none(), nullptr};
  return {py::reinterpret_borrow<py::object>(out), to};
}

}  // namespace bindings
}  // namespace recurra
