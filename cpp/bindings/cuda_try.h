// To try a GPU: every kernel compiled, times.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "../cuda/resident.h"
#include "../engine/model.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

// The time between two points of a stream.
class PyTimer {
 public:
  explicit PyTimer(int device) : device_(cuda::Device::of(device)) {
    const cuda::Current current(device_);
    for (cuda::CUevent& event : events_)
      cuda::check_driver(cuda::driver().cuEventCreate(&event, cuda::CU_EVENT_DEFAULT), "cuEventCreate");
  }
  PyTimer(const PyTimer&) = delete;
  ~PyTimer() {
    try {
      const cuda::Current current(device_);
      for (const cuda::CUevent event : events_) cuda::driver().cuEventDestroy(event);
    } catch (const std::exception&) {  // as in device.cpp
    }
  }

  void start(uintptr_t stream) { record(0, stream); }
  void stop(uintptr_t stream) { record(1, stream); }

  double microseconds() const {
    const cuda::Current current(device_);
    float milliseconds = 0;
    cuda::check_driver(cuda::driver().cuEventSynchronize(events_[1]), "cuEventSynchronize");
    cuda::check_driver(cuda::driver().cuEventElapsedTime(&milliseconds, events_[0], events_[1]), "cuEventElapsedTime");
    return 1e3 * double(milliseconds);
  }

 private:
  void record(int i, uintptr_t stream) {
    const cuda::Current current(device_);
    cuda::check_driver(cuda::driver().cuEventRecord(events_[i], reinterpret_cast<cuda::CUstream>(stream)), "cuEventRecord");
  }

  const cuda::Device& device_;
  cuda::CUevent events_[2] = {};
};

inline void define_cuda_try(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  py::class_<PyTimer>(m, "Timer", "The time between two points of a stream, by events.")
      .def(py::init<int>(), py::arg("device"))
      .def("start", &PyTimer::start, py::arg("stream"))
      .def("stop", &PyTimer::stop, py::arg("stream"))
      .def_property_readonly("microseconds", py::cpp_function(&PyTimer::microseconds, released),
                             "From start to stop; waits for the latter.");
  m.def(
      "units",
      [](const std::string& dtype) {
        std::vector<std::tuple<std::string, std::string, std::vector<std::string>>> all;
        for (const auto& unit : cuda::units(number_of(dtype))) all.emplace_back(unit.name, unit.source, unit.options);
        return all;
      },
      py::arg("dtype"), "What is compiled for networks of a dtype: (name, source, options), the name a cell's or another.");
  m.def(
      "resident_unit",
      [](const std::string& cell, const std::string& dtype, int64_t hidden, int64_t output, int rows, bool backward,
         int cluster, bool grid, int fragment_rows) {
        const int number = cell_number(cell);
        if (cluster < 1 || cluster > (grid ? 1024 : cuda::kMostCluster))
          throw py::value_error("cluster: expected 1 to 8 blocks, of a grid 1024");
        const auto found = cuda::resident_of(spec_of(number), number_of(dtype), hidden, output, rows,
                                             backward ? cuda::Way::backward : cuda::Way::forward, cluster, grid, fragment_rows);
        if (!found) throw py::value_error("hidden: expected one that fits into a block, of a cell that does");
        const cuda::Unit unit = cuda::resident_unit(number, number_of(dtype), *found);
        const int* const sources = found->places.sources;
        return std::make_tuple(unit.source, unit.options, found->threads, found->shared_bytes, found->cycles,
                               std::vector<int>(sources, sources + spec_of(number).phases.size));
      },
      py::arg("cell"), py::arg("dtype"), py::arg("hidden"), py::arg("output"), py::arg("rows"), py::arg("backward") = false,
      py::arg("cluster") = 1, py::arg("grid") = false, py::arg("fragment_rows") = cuda::kFragmentRows,
      "The kernel of all steps at once, of so many rows a block, or a cluster or grid of them: (source, options, threads, "
      "bytes of shared memory, cycles a step by arithmetic, numbers that a product of each phase sums up).");
  m.def(
      "precompile",
      [](const std::string& source, const std::vector<std::string>& options, int device) {
        return cuda::precompile(cuda::Device::of(device), source, options);
      },
      py::arg("source"), py::arg("options"), py::arg("device"), released,
      "Puts what a GPU needs into the cache on disk; returns whether it was there.");
}

}  // namespace bindings
}  // namespace recurra
