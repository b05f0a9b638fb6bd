// Device memory: host memory with guards around it, filled with NaN, or a test's own that it has registered.
#include <cstring>

#include "standin.h"

namespace standin {
namespace {

constexpr size_t memory_bytes = size_t(16) << 30;  // of a GPU

std::string text(const void* pointer) { return std::to_string(reinterpret_cast<uintptr_t>(pointer)); }
const char* at(CUdeviceptr pointer) { return reinterpret_cast<const char*>(pointer); }

void insert(char* data, size_t bytes, int ordinal, bool registered) {
  state().memory[reinterpret_cast<uintptr_t>(data)] = {{}, data, bytes, ordinal, registered, 0, {}};
}

size_t live_bytes(int ordinal) {
  size_t sum = 0;
  for (const auto& [address, allocation] : state().memory)
    if (allocation.ordinal == ordinal && !allocation.registered) sum += allocation.bytes;
  return sum;
}

CUresult check_guards(const Allocation& allocation) {
  if (allocation.registered || guards_intact(allocation.data, allocation.bytes)) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_ILLEGAL_ADDRESS, "something wrote past an end of the allocation of " +
                                              std::to_string(allocation.bytes) + " bytes at " + text(allocation.data));
}

// Synchronous copies go through the legacy stream.
CUresult find_copy_stream(const char* call, const void* device, size_t bytes, Stream*& stream) {
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  if (const CUresult error = refuse_while_capturing(call)) return error;
  if (const CUresult error = find_stream_for_work(nullptr, stream)) return error;
  const Allocation* const allocation = allocation_of(device);
  if (bytes && (!allocation || !inside(device, bytes, allocation->ordinal)))
    return fail(CUDA_ERROR_INVALID_VALUE, std::string(call) + ": not " + std::to_string(bytes) + " bytes of device memory");
  return CUDA_SUCCESS;
}

}  // namespace

Allocation* allocation_of(const void* pointer) {
  auto& all = state().memory;
  auto next = all.upper_bound(reinterpret_cast<uintptr_t>(pointer));
  if (next == all.begin()) return nullptr;
  Allocation& allocation = std::prev(next)->second;
  return static_cast<const char*>(pointer) < allocation.data + allocation.bytes ? &allocation : nullptr;
}

bool inside(const void* pointer, size_t bytes, int ordinal) {
  if (!bytes) return true;
  const Allocation* const allocation = allocation_of(pointer);
  return allocation && allocation->ordinal == ordinal &&
         bytes <= size_t(allocation->data + allocation->bytes - static_cast<const char*>(pointer));
}

CUresult check_guards() {
  for (const auto& [address, allocation] : state().memory)
    if (const CUresult error = check_guards(allocation)) return error;
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  const Lock lock;
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  if (const CUresult error = refuse_while_capturing("cuMemAlloc")) return error;
  if (!pointer || !bytes) return fail(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc: no bytes");
  if (bytes > memory_bytes - live_bytes(ordinal)) return CUDA_ERROR_OUT_OF_MEMORY;
  char* const data = guarded_new(bytes);
  insert(data, bytes, ordinal, false);
  *pointer = reinterpret_cast<CUdeviceptr>(data);
  ++state().allocations;
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuMemFree_v2(CUdeviceptr pointer) {
  const Lock lock;
  if (const CUresult error = refuse_while_capturing("cuMemFree")) return error;
  if (!pointer) return CUDA_SUCCESS;
  const Allocation* const allocation = allocation_of(at(pointer));
  if (!allocation || allocation->registered || allocation->data != at(pointer))
    return fail(CUDA_ERROR_INVALID_VALUE, "cuMemFree: not a pointer of cuMemAlloc, or freed before");
  const CUresult error = check_guards(*allocation);
  guarded_delete(allocation->data, allocation->bytes);
  state().memory.erase(uintptr_t(pointer));
  return error;
}

// From pageable memory it may return before the bytes have arrived: only the legacy stream, and what waits for it, comes after.
STANDIN_EXPORT int cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_copy_stream("cuMemcpyHtoD", at(to), bytes, stream)) return error;
  const auto run = [=] { return std::memcpy(reinterpret_cast<void*>(to), from, bytes), CUDA_SUCCESS; };
  return submit(*stream, {"cuMemcpyHtoD", stream->ordinal, {{at(to), bytes, Access::write}}, run});
}

STANDIN_EXPORT int cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_copy_stream("cuMemcpyDtoH", at(from), bytes, stream)) return error;
  const auto run = [=] { return std::memcpy(to, at(from), bytes), CUDA_SUCCESS; };
  if (const CUresult error = submit(*stream, {"cuMemcpyDtoH", stream->ordinal, {{at(from), bytes, Access::read}}, run}))
    return error;
  join(state().host, stream->clock);
  return check_guards();
}

STANDIN_EXPORT int cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_stream_for_work(handle, stream)) return error;
  if (!inside(at(to), bytes, stream->ordinal) || !inside(at(from), bytes, stream->ordinal))
    return fail(CUDA_ERROR_INVALID_VALUE, "cuMemcpyDtoDAsync: not " + std::to_string(bytes) + " bytes of this GPU's memory");
  const auto run = [=] { return std::memmove(reinterpret_cast<void*>(to), at(from), bytes), CUDA_SUCCESS; };
  return submit(*stream,
                {"cuMemcpyDtoDAsync", stream->ordinal, {{at(from), bytes, Access::read}, {at(to), bytes, Access::write}}, run});
}

STANDIN_EXPORT int cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, size_t bytes, CUstream handle) {
  const Lock lock;
  Stream* stream;
  if (const CUresult error = find_stream_for_work(handle, stream)) return error;
  if (!bytes || !inside(at(pointer), bytes, stream->ordinal))  // what a driver does with no bytes is not documented
    return fail(CUDA_ERROR_INVALID_VALUE, "cuMemsetD8Async: not " + std::to_string(bytes) + " bytes of this GPU's memory");
  const auto run = [=] { return std::memset(reinterpret_cast<void*>(pointer), value, bytes), CUDA_SUCCESS; };
  return submit(*stream, {"cuMemsetD8Async", stream->ordinal, {{at(pointer), bytes, Access::write}}, run});
}

STANDIN_EXPORT int cuPointerGetAttribute(void* value, int attribute, CUdeviceptr pointer) {
  const Lock lock;
  if (!state().initialised) return fail(CUDA_ERROR_NOT_INITIALIZED, "cuPointerGetAttribute before cuInit");
  const Allocation* const allocation = allocation_of(at(pointer));
  if (!allocation) return CUDA_ERROR_INVALID_VALUE;  // a question, not an error
  if (attribute == CU_POINTER_ATTRIBUTE_MEMORY_TYPE)
    *static_cast<unsigned*>(value) = 2;  // CU_MEMORYTYPE_DEVICE
  else if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
    *static_cast<int*>(value) = allocation->ordinal;
  else
    return fail(CUDA_ERROR_INVALID_VALUE, "cuPointerGetAttribute: attribute " + std::to_string(attribute));
  return CUDA_SUCCESS;
}

// ---- for tests --------------------------------------------------------------------------------------------------------------
STANDIN_EXPORT int standin_register(void* pointer, size_t bytes, int ordinal) {
  const Lock lock;
  char* const data = static_cast<char*>(pointer);
  if (!bytes) return CUDA_SUCCESS;
  if (ordinal < 0 || ordinal >= device_count() || allocation_of(data) || allocation_of(data + bytes - 1))
    return fail(CUDA_ERROR_INVALID_VALUE, "standin_register: no such GPU, or known memory");
  insert(data, bytes, ordinal, true);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int standin_unregister(void* pointer) {
  const Lock lock;
  const auto found = state().memory.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == state().memory.end() || !found->second.registered)
    return fail(CUDA_ERROR_INVALID_VALUE, "standin_unregister: not registered");
  state().memory.erase(found);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT uint64_t standin_live_allocations() {
  const Lock lock;
  uint64_t count = 0;
  for (const auto& [address, allocation] : state().memory) count += !allocation.registered;
  return count;
}

STANDIN_EXPORT uint64_t standin_live_bytes() {
  const Lock lock;
  size_t sum = 0;
  for (int ordinal = 0; ordinal < device_count(); ++ordinal) sum += live_bytes(ordinal);
  return sum;
}

}  // namespace standin
