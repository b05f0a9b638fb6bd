// For callers that hold no arrays but addresses, and keep alive what lies there.
#pragma once
#include <variant>

#include "calls.h"

namespace recurra {
namespace bindings {

using Addresses = std::vector<uintptr_t>;

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

inline py::bytes fingerprint_of(const Addresses& arrays, const std::vector<size_t>& bytes) {
  if (arrays.size() != bytes.size()) throw std::invalid_argument("fingerprint: expected as many sizes as arrays");
  uint64_t sum[8];
  {
    const py::gil_scoped_release release;
    recurra::fingerprint(reinterpret_cast<const void* const*>(arrays.data()), bytes.data(), arrays.size(), sum);
  }
  return {reinterpret_cast<const char*>(sum), sizeof sum};
}

}  // namespace bindings
}  // namespace recurra
