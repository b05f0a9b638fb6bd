// What it takes to try a GPU without any other library: memory, times, every kernel compiled.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "../cuda/kernel_set.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

// Copies come after all that the legacy stream has been given.
class PyMemory {
 public:
  PyMemory(size_t bytes, int device) : device_(cuda::Device::of(device)), memory_(device_, bytes) {}

  uintptr_t pointer() const { return reinterpret_cast<uintptr_t>(memory_.data()); }
  size_t size() const { return memory_.size(); }

  void write(const py::buffer& from) {
    const py::buffer_info host = contiguous(from);
    const py::gil_scoped_release release;
    const cuda::Current current(device_);
    if (size()) cuda::check_driver(cuda::driver().cuMemcpyHtoD(pointer(), host.ptr, size()), "cuMemcpyHtoD");
  }

  void read(const py::buffer& to) const {
    const py::buffer_info host = contiguous(to);
    if (host.readonly) throw py::value_error("to: expected memory that can be written to");
    const py::gil_scoped_release release;
    const cuda::Current current(device_);
    if (size()) cuda::check_driver(cuda::driver().cuMemcpyDtoH(host.ptr, pointer(), size()), "cuMemcpyDtoH");
  }

 private:
  py::buffer_info contiguous(const py::buffer& buffer) const {
    py::buffer_info info = buffer.request();
    if (!PyBuffer_IsContiguous(info.view(), 'C') || size_t(info.size * info.itemsize) != size())
      throw py::value_error("expected " + std::to_string(size()) + " contiguous bytes, got " +
                            std::to_string(info.size * info.itemsize));
    return info;
  }

  const cuda::Device& device_;
  cuda::Memory memory_;
};

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
  py::class_<PyMemory>(m, "Memory", "Bytes of a GPU, freed with this object.")
      .def(py::init<size_t, int>(), py::arg("size"), py::arg("device"))
      .def_property_readonly("pointer", &PyMemory::pointer)
      .def_property_readonly("size", &PyMemory::size)
      .def("write", &PyMemory::write, py::arg("data"), "From a buffer of the same size, in the order of the legacy stream.")
      .def("read", &PyMemory::read, py::arg("to"), "To a buffer of the same size, in the order of the legacy stream.");
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
      "precompile",
      [](const std::string& source, const std::vector<std::string>& options, int device) {
        return cuda::precompile(cuda::Device::of(device), source, options);
      },
      py::arg("source"), py::arg("options"), py::arg("device"), released,
      "Puts what a GPU needs into the cache on disk; returns whether it was there.");
}

}  // namespace bindings
}  // namespace recurra
