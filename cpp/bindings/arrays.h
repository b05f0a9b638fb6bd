// NumPy arrays as the engine's views; and those that need no checks in Python, for calls that shall cost little.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <vector>

#include "recurra/recurra.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

using Arrays = std::vector<py::array>;
using OptionalArray = std::optional<py::array>;
using Int64Array = py::array_t<int64_t>;

template <class T>
T* data(const py::array& array) {
  return static_cast<T*>(const_cast<void*>(array.data()));
}

template <class T>
Sequence<T> sequence(const py::array& array) {
  const auto stride = [&](int axis) { return array.strides(axis) / ptrdiff_t(sizeof(T)); };
  return {data<T>(array), array.shape(0), array.shape(1), stride(0), stride(1)};
}

template <class T>
Sequence<const T> input(const py::array& array) {
  const Sequence<T> s = sequence<T>(array);
  return {s.data, s.steps, s.rows, s.step_stride, s.row_stride};
}

template <class T>
std::vector<T*> pointers(const Arrays& arrays) {
  std::vector<T*> all;
  for (const py::array& a : arrays) all.push_back(data<T>(a));
  return all;
}

// Parameters by layer and direction; null for those that are None.
template <class T>
std::vector<std::vector<T*>> nested(const std::vector<std::vector<OptionalArray>>& params) {
  std::vector<std::vector<T*>> all;
  for (const auto& layer : params) {
    all.emplace_back();
    for (const OptionalArray& array : layer) all.back().push_back(array ? data<T>(*array) : nullptr);
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

// An array to write, and its data; None and null if there is none to be had.
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
