// The core's affine map, behind checks of its arrays.
#pragma once
#include <variant>

#include "arrays.h"

namespace recurra {
namespace bindings {

template <class T>
class CheckedLinear {
 public:
  CheckedLinear(const py::array& weight, const OptionalArray& bias)
      : inputs_(weight.ndim() == 2 ? weight.shape(1) : kAny),
        outputs_(weight.ndim() == 2 ? weight.shape(0) : kAny),
        linear_(inputs_, outputs_, data<T>("weight", weight, {outputs_, inputs_}, Layout::whole, Use::read),
                optional<T>("bias", bias, {outputs_}, Use::read)) {}

  void forward(const py::array& x, const py::array& y) const {
    const T* from = data<T>("x", x, {kAny, inputs_}, Layout::whole, Use::read);
    const int64_t rows = x.shape(0);
    T* to = data<T>("y", y, {rows, outputs_}, Layout::whole, Use::write);
    const py::gil_scoped_release release;
    linear_.forward(from, rows, to);
  }

  void backward(const py::array& x, const py::array& dy, const OptionalArray& dx, const py::array& d_weight,
                const OptionalArray& d_bias) const {
    const T* from = data<T>("x", x, {kAny, inputs_}, Layout::whole, Use::read);
    const int64_t rows = x.shape(0);
    const T* gradient = data<T>("dy", dy, {rows, outputs_}, Layout::whole, Use::read);
    T* to = optional<T>("dx", dx, {rows, inputs_}, Use::write);
    T* weight = data<T>("d_weight", d_weight, {outputs_, inputs_}, Layout::whole, Use::write);
    T* bias = optional<T>("d_bias", d_bias, {outputs_}, Use::write);
    const py::gil_scoped_release release;
    linear_.backward(from, gradient, rows, to, weight, bias);
  }

  const Linear<T>& linear() const { return linear_; }

 private:
  int64_t inputs_, outputs_;
  Linear<T> linear_;
};

class PyLinear {
 public:
  PyLinear(const py::array& weight, const OptionalArray& bias)
      : linear_(weight.itemsize() == sizeof(double) ? AnyLinear(CheckedLinear<double>(weight, bias))
                                                    : AnyLinear(CheckedLinear<float>(weight, bias))) {}

  void forward(const py::array& x, const py::array& y) const {
    std::visit([&](const auto& linear) { linear.forward(x, y); }, linear_);
  }
  void backward(const py::array& x, const py::array& dy, const OptionalArray& dx, const py::array& d_weight,
                const OptionalArray& d_bias) const {
    std::visit([&](const auto& linear) { linear.backward(x, dy, dx, d_weight, d_bias); }, linear_);
  }

  template <class T>
  const Linear<T>* as() const {
    const auto* checked = std::get_if<CheckedLinear<T>>(&linear_);
    if (!checked) throw py::type_error("head: expected the dtype of the network");
    return &checked->linear();
  }

 private:
  using AnyLinear = std::variant<CheckedLinear<float>, CheckedLinear<double>>;
  AnyLinear linear_;
};

}  // namespace bindings
}  // namespace recurra
