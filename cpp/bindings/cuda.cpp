// The submodule _core.cuda.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "../cuda/compile.h"
#include "cuda_arrays.h"
#include "cuda_network.h"
#include "cuda_try.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

// Opening a library, starting the driver and compiling take a while.
template <class Work>
auto without_gil(Work&& work) {
  const py::gil_scoped_release release;
  return work();
}

using CudaFound = std::vector<std::map<std::string, std::string>>;

inline CudaFound cuda_found() {
  CudaFound all;
  for (const cuda::Found& found : without_gil(cuda::found))
    all.push_back({{"name", found.name}, {"path", found.path}, {"version", found.version}, {"problem", found.problem}});
  return all;
}

inline py::dict cuda_device(int ordinal) {
  const cuda::Device& device = *without_gil([&] { return &cuda::Device::of(ordinal); });
  return py::dict(py::arg("name") = device.name, py::arg("capability") = py::make_tuple(device.major, device.minor),
                  py::arg("multiprocessors") = device.multiprocessors);
}

inline std::pair<py::bytes, std::string> cuda_compile(const std::string& source, const std::vector<std::string>& options,
                                                      const std::string& architecture) {
  const auto [cubin, log] = without_gil([&] { return cuda::compile(source, options, architecture); });
  return {cubin, log};
}

inline py::bytes cuda_cached(const std::string& source, const std::vector<std::string>& options,
                             const std::string& architecture) {
  return without_gil([&] { return cuda::cached(source, options, architecture); });
}

void define_cuda(py::module_& core) {
  py::module_ m = core.def_submodule("cuda", "The GPU. No library of CUDA is opened before it is needed.");
  m.def("found", cuda_found,
        "What there is of driver, nvrtc and cublas: name, path, version, problem; empty where there is none.");
  m.def("device_count", cuda::Device::count, py::call_guard<py::gil_scoped_release>(),
        "How many GPUs there are; 0 without a driver.");
  m.def("device", cuda_device, py::arg("ordinal"), "A GPU's name, compute capability and number of multiprocessors.");
  m.def("set_library_path", cuda::set_library_path, py::arg("library"), py::arg("path"),
        "Where \"nvrtc\" or \"cublas\" is, unless one is loaded already.");
  m.def("cache_folder", cuda::cache_folder, "Where compiled kernels are kept; empty when they are not.");
  m.def("compile", cuda_compile, py::arg("source"), py::arg("options"), py::arg("architecture"),
        "The cubin and the compiler's log. Needs NVRTC and no GPU.");
  m.def("compilations", cuda::compilations, "How often this process has compiled.");
  m.def("cached", cuda_cached, py::arg("source"), py::arg("options"), py::arg("architecture"),
        "The cubin, from the cache on disk or put there.");
  define_cuda_network(m);
  define_cuda_try(m);
  define_cuda_arrays(core);
}

}  // namespace bindings
}  // namespace recurra
