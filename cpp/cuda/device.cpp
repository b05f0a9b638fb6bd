#include "device.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>

namespace recurra {
namespace cuda {
namespace {

constexpr CUresult kInvalidValue = 1;
constexpr unsigned kDeviceMemory = 2;  // CU_MEMORYTYPE_DEVICE

// Kept for the life of the process: at its end the driver may be gone before any destructor of ours.
std::atomic<const Device*> devices[Device::most];

int attribute(CUdevice device, int which) {
  int value = 0;
  check_driver(driver().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

std::unique_ptr<const Device> made(int ordinal) {
  auto device = std::make_unique<Device>();
  CUdevice handle = 0;
  char name[256] = "";
  check_driver(driver().cuDeviceGet(&handle, ordinal), "cuDeviceGet");
  check_driver(driver().cuDeviceGetName(name, sizeof name, handle), "cuDeviceGetName");
  device->ordinal = ordinal;
  device->name = name;
  device->major = attribute(handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  device->minor = attribute(handle, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  device->multiprocessors = attribute(handle, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  device->shared_bytes = attribute(handle, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  check_driver(driver().cuDevicePrimaryCtxRetain(&device->context, handle), "cuDevicePrimaryCtxRetain");
  return device;
}

int counted() {
  int count = 0;
  check_driver(driver().cuDeviceGetCount(&count), "cuDeviceGetCount");
  return std::min(count, Device::most);
}

}  // namespace

const Device& Device::of(int ordinal) {
  driver();  // throws in a forked child
  const Device* device = ordinal < 0 || ordinal >= most ? nullptr : devices[ordinal].load(std::memory_order_acquire);
  if (device) return *device;
  const int count = counted();
  if (ordinal < 0 || ordinal >= count)
    throw std::invalid_argument("device: there " +
                                (count == 1 ? std::string("is 1 GPU") : "are " + std::to_string(count) + " GPUs") +
                                ", counted from 0; got cuda:" + std::to_string(ordinal));
  auto first = made(ordinal);  // without a lock, as in library.cpp
  if (devices[ordinal].compare_exchange_strong(device, first.get(), std::memory_order_acq_rel)) return *first.release();
  return *device;
}

int Device::count() {
  try {
    return counted();
  } catch (const Unavailable&) {
    return 0;
  }
}

Current::Current(const Device& device) { check_driver(driver().cuCtxPushCurrent(device.context), "cuCtxPushCurrent"); }

Current::~Current() {
  CUcontext context;
  driver().cuCtxPopCurrent(&context);
}

Relaxed::Relaxed() { check_driver(driver().cuThreadExchangeStreamCaptureMode(&mode_), "cuThreadExchangeStreamCaptureMode"); }
Relaxed::~Relaxed() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }

Memory::Memory(const Device& device, size_t bytes) : device_(&device), size_(bytes) {
  if (!bytes) return;
  const Current current(device);
  CUdeviceptr pointer = 0;
  const CUresult status = driver().cuMemAlloc(&pointer, bytes);
  if (status == CUDA_ERROR_OUT_OF_MEMORY) throw std::bad_alloc();
  check_driver(status, "cuMemAlloc");
  data_ = reinterpret_cast<char*>(pointer);
}

Memory::~Memory() {
  if (data_) release(*device_, [&] { driver().cuMemFree(reinterpret_cast<CUdeviceptr>(data_)); });
}

Memory::Memory(Memory&& other) noexcept { *this = std::move(other); }

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

JointLaunch::JointLaunch(Grid grid, unsigned threads, unsigned shared_bytes, CUstream stream, bool cooperative) {
  attribute.id = cooperative ? CU_LAUNCH_ATTRIBUTE_COOPERATIVE : CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  if (cooperative)
    attribute.value.cooperative = 1;
  else
    attribute.value.clusterDim = {1, 1, grid.z};
  config = {grid.x, grid.y, grid.z, threads, 1, 1, shared_bytes, stream, &attribute, 1};
}

int room_for_clusters(CUfunction kernel, unsigned blocks, unsigned threads, unsigned shared_bytes) {
  const JointLaunch one({1, 1, blocks}, threads, shared_bytes, nullptr, false);
  int clusters = 0;
  check_driver(driver().cuOccupancyMaxActiveClusters(&clusters, kernel, &one.config), "cuOccupancyMaxActiveClusters");
  return clusters;
}

int room_for_blocks(const Device& device, CUfunction kernel, unsigned threads, unsigned shared_bytes) {
  int blocks = 0;
  check_driver(driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, int(threads), shared_bytes),
               "cuOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks * device.multiprocessors;
}

void JointLaunch::run(CUfunction kernel, const void* arguments) const {
  void* parameters[] = {const_cast<void*>(arguments)};
  check_driver(driver().cuLaunchKernelEx(&config, kernel, parameters, nullptr), "cuLaunchKernelEx");
}

bool is_capturing(CUstream stream) {
  int status = CU_STREAM_CAPTURE_STATUS_NONE;
  check_driver(driver().cuStreamIsCapturing(stream, &status), "cuStreamIsCapturing");
  return status != CU_STREAM_CAPTURE_STATUS_NONE;
}

namespace {

CUdeviceptr address(const void* pointer) { return reinterpret_cast<CUdeviceptr>(pointer); }

}  // namespace

void read(const Device& device, const void* from, void* to, size_t bytes) {
  const Current current(device);
  if (bytes) check_driver(driver().cuMemcpyDtoH(to, address(from), bytes), "cuMemcpyDtoH");
}

void write(const Device& device, const void* from, void* to, size_t bytes) {
  if (!bytes) return;
  const Current current(device);
  check_driver(driver().cuMemcpyHtoD(address(to), from, bytes), "cuMemcpyHtoD");
  check_driver(driver().cuStreamSynchronize(nullptr), "cuStreamSynchronize");  // pageable memory may arrive later
}

void synchronize(const Device& device, CUstream stream) {
  const Current current(device);
  check_driver(driver().cuStreamSynchronize(stream), "cuStreamSynchronize");
}

void copy(const Device& device, const void* from, void* to, size_t bytes, CUstream stream) {
  const Current current(device);
  if (bytes) check_driver(driver().cuMemcpyDtoDAsync(address(to), address(from), bytes, stream), "cuMemcpyDtoDAsync");
}

int device_of(const void* pointer) {
  unsigned type = 0;
  const CUresult status = driver().cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address(pointer));
  if (status == kInvalidValue || (status == CUDA_SUCCESS && type != kDeviceMemory))
    return -1;  // memory that CUDA does not know
  check_driver(status, "cuPointerGetAttribute");
  int ordinal = -1;
  check_driver(driver().cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address(pointer)),
               "cuPointerGetAttribute");
  return ordinal;
}

}  // namespace cuda
}  // namespace recurra
