// What Python needs to read other libraries' CUDA arrays: DLPack capsules, the GPU that a pointer belongs to, streams in order.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "../cuda/order.h"

namespace recurra {
namespace bindings {

namespace py = pybind11;

// ---- DLPack 1 and what was there before: github.com/dmlc/dlpack, include/dlpack/dlpack.h

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; null for C-contiguous ones
  uint64_t byte_offset;
};

struct DLManagedTensor {
  static constexpr const char *name = "dltensor", *used = "used_dltensor";
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

struct DLManagedTensorVersioned {
  static constexpr const char *name = "dltensor_versioned", *used = "used_dltensor_versioned";
  uint32_t major, minor;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};

// The array of a capsule, which is used up; its memory is given back when this object dies.
class PyDLPack {
 public:
  explicit PyDLPack(const py::capsule& capsule) {
    if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensorVersioned::name)) {
      const auto* managed = capsule.get_pointer<DLManagedTensorVersioned>();
      if (managed->major != 1)  // of other versions nothing is known but where the version stands
        throw py::value_error("expected DLPack 1, got version " + std::to_string(managed->major));
      readonly = managed->flags & 1;
      take<DLManagedTensorVersioned>(capsule);
    } else if (PyCapsule_IsValid(capsule.ptr(), DLManagedTensor::name)) {
      take<DLManagedTensor>(capsule);
    } else {
      throw py::value_error("expected a DLPack capsule that has not been used");
    }
  }

  PyDLPack(const PyDLPack&) = delete;

  ~PyDLPack() {
    const py::error_scope kept;
    release_(managed_);
  }

  uintptr_t pointer = 0;
  py::tuple shape;
  py::object strides;  // None for a C-contiguous array
  std::string dtype;
  int64_t item_size = 0;
  bool readonly = false;       // before DLPack 1 nobody could tell
  std::pair<int, int> device;  // type and number

 private:
  // What may fail comes first: until it is renamed the capsule gives its memory back itself.
  template <class Managed>
  void take(const py::capsule& capsule) {
    auto* managed = capsule.get_pointer<Managed>();
    read(managed->tensor);
    if (PyCapsule_SetName(capsule.ptr(), Managed::used)) throw py::error_already_set();
    managed_ = managed;
    release_ = [](void* used) {
      auto* tensor = static_cast<Managed*>(used);
      if (tensor->deleter) tensor->deleter(tensor);
    };
  }

  void read(const DLTensor& tensor) {
    if (tensor.ndim < 0 || (tensor.ndim && !tensor.shape)) throw py::value_error("expected a shape");
    const auto axes = [&](const int64_t* values) {
      py::tuple all(tensor.ndim);
      for (int i = 0; i < tensor.ndim; ++i) all[i] = values[i];
      return all;
    };
    shape = axes(tensor.shape);
    if (std::any_of(tensor.shape, tensor.shape + tensor.ndim, [](int64_t size) { return size < 0; }))
      throw py::value_error("expected sizes that are not negative, got " + py::repr(shape).cast<std::string>());
    strides = tensor.strides ? py::object(axes(tensor.strides)) : py::none();
    static const char* const kinds[] = {"int", "uint", "float", "opaque", "bfloat", "complex", "bool"};
    dtype = tensor.code < 7 ? kinds[tensor.code] : "DLPack dtype " + std::to_string(tensor.code) + " of bits ";
    if (dtype != "bool") dtype += std::to_string(tensor.bits);
    if (tensor.lanes != 1) dtype += " x " + std::to_string(tensor.lanes);
    item_size = std::max(1, tensor.bits * tensor.lanes / 8);
    pointer = tensor.data ? reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset : 0;
    device = {tensor.device_type, tensor.device_id};
  }

  void* managed_ = nullptr;
  void (*release_)(void*) = nullptr;
};

// Device memory of this package's own, between calls: parameters as the caller gave them.
class PyCudaMemory {
 public:
  PyCudaMemory(int device, size_t bytes) : device_(cuda::Device::of(device)), memory_(device_, bytes) {}

  uintptr_t pointer() const { return reinterpret_cast<uintptr_t>(memory_.data()); }
  size_t bytes() const { return memory_.size(); }

  void read(size_t offset, const py::array& to) const {
    char* const from = checked(offset, size_t(to.nbytes()));
    void* const data = contiguous(to) ? const_cast<py::array&>(to).mutable_data() : nullptr;
    const py::gil_scoped_release released;
    cuda::read(device_, from, data, size_t(to.nbytes()));
  }

  void write(size_t offset, const py::array& from) const {
    char* const to = checked(offset, size_t(from.nbytes()));
    const void* const data = contiguous(from) ? from.data() : nullptr;
    const py::gil_scoped_release released;
    cuda::write(device_, data, to, size_t(from.nbytes()));
  }

  void copy(size_t offset, uintptr_t from, size_t bytes, uintptr_t stream) const {
    cuda::copy(device_, reinterpret_cast<const void*>(from), checked(offset, bytes), bytes,
               reinterpret_cast<cuda::CUstream>(stream));
  }

 private:
  char* checked(size_t offset, size_t bytes) const {
    if (offset > memory_.size() || bytes > memory_.size() - offset) throw py::value_error("expected a part of the memory");
    return memory_.data() + offset;
  }
  static bool contiguous(const py::array& array) {
    if (!(array.flags() & py::array::c_style)) throw py::value_error("expected a C-contiguous array");
    return true;
  }

  const cuda::Device& device_;
  cuda::Memory memory_;
};

inline void define_cuda_arrays(py::module_& core) {
  py::module_ m = core.def_submodule("cuda");
  py::class_<PyDLPack>(m, "DLPack", "The array of a DLPack capsule, which is used up.")
      .def(py::init<const py::capsule&>(), py::arg("capsule"))
      .def_readonly("pointer", &PyDLPack::pointer)
      .def_readonly("shape", &PyDLPack::shape)
      .def_readonly("strides", &PyDLPack::strides, "In elements; None for a C-contiguous array.")
      .def_readonly("dtype", &PyDLPack::dtype)
      .def_readonly("item_size", &PyDLPack::item_size)
      .def_readonly("readonly", &PyDLPack::readonly)
      .def_property_readonly(
          "device", [](const PyDLPack& array) { return py::make_tuple(array.device.first, array.device.second); },
          "DLPack's device type, and number.");
  py::class_<PyCudaMemory>(m, "Memory", "Memory of a GPU, allocated and freed at once.")
      .def(py::init<int, size_t>(), py::arg("device"), py::arg("bytes"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("pointer", &PyCudaMemory::pointer)
      .def_property_readonly("bytes", &PyCudaMemory::bytes)
      .def("read", &PyCudaMemory::read, py::arg("offset"), py::arg("to"), "Into a C-contiguous array, which waits.")
      .def("write", &PyCudaMemory::write, py::arg("offset"), py::arg("array"), "From a C-contiguous array, which waits.")
      .def("copy", &PyCudaMemory::copy, py::arg("offset"), py::arg("pointer"), py::arg("bytes"), py::arg("stream"),
           py::call_guard<py::gil_scoped_release>(), "From memory of the same GPU, in a stream's order.");
  m.def(
      "synchronize",
      [](int device, uintptr_t stream) {
        cuda::synchronize(cuda::Device::of(device), reinterpret_cast<cuda::CUstream>(stream));
      },
      py::arg("device"), py::arg("stream"), py::call_guard<py::gil_scoped_release>(), "Waits for a stream; not for calls.");
  m.def(
      "device_of", [](uintptr_t pointer) { return cuda::device_of(reinterpret_cast<const void*>(pointer)); },
      py::arg("pointer"), "The number of the GPU that the memory belongs to, -1 if it is of none.");
  m.def(
      "wait",
      [](uintptr_t stream, uintptr_t producer, int device) {
        const auto handle = [](uintptr_t value) { return reinterpret_cast<cuda::CUstream>(value); };
        cuda::wait(cuda::Device::of(device), handle(stream), handle(producer));
      },
      py::arg("stream"), py::arg("producer"), py::arg("device"), "Makes a stream wait for what another has been given so far.");
}

}  // namespace bindings
}  // namespace recurra
