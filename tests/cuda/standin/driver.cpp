// Errors, devices, contexts, modules, launches, counters.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fibers.h"
#include "image.h"
#include "standin.h"

namespace standin {
namespace {

constexpr int max_devices = 8;
constexpr int shared_bytes = 48 << 10;  // of a block

struct Context {
  int ordinal;
} contexts[max_devices] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
thread_local std::vector<int> current;

CUresult check_ready(const char* call) {
  return state().initialised ? CUDA_SUCCESS : fail(CUDA_ERROR_NOT_INITIALIZED, std::string(call) + " before cuInit");
}
CUresult check_device(const char* call, int ordinal) {
  if (const CUresult error = check_ready(call)) return error;
  if (ordinal >= 0 && ordinal < device_count()) return CUDA_SUCCESS;
  return fail(CUDA_ERROR_INVALID_DEVICE, std::string(call) + ": no GPU " + std::to_string(ordinal));
}

}  // namespace

State& state() {
  static State& all = *new State;
  return all;
}

CUresult fail(CUresult error, const std::string& what) {
  std::fprintf(stderr, "stand-in: %s (error %d)\n", what.c_str(), error);
  ++state().errors;
  return error;
}

static int setting(const char* name, int otherwise) {
  const char* const value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

// Of a block whose function asks for it.
static int most_shared_bytes() { return setting("RECURRA_STANDIN_SHARED_BYTES", 227 << 10); }
static int capability() { return setting("RECURRA_STANDIN_CAPABILITY", 90); }
static int multiprocessors() { return setting("RECURRA_STANDIN_MULTIPROCESSORS", 132); }

int device_count() { return std::min(setting("RECURRA_STANDIN_GPUS", 1), max_devices); }

CUresult current_device(int& ordinal) {
  if (const CUresult error = check_ready("a call")) return error;
  if (current.empty()) return fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current");
  ordinal = current.back();
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuInit(unsigned flags) {
  const Lock lock;
  if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuInit: flags");
  if (device_count() == 0) return CUDA_ERROR_NO_DEVICE;
  static const pid_t process = getpid();
  if (getpid() != process) return CUDA_ERROR_NOT_INITIALIZED;  // in a child forked since
  state().initialised = true;
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }

static const char* error_text(CUresult error, bool name) {
  switch (error) {
    case CUDA_SUCCESS: return name ? "CUDA_SUCCESS" : "no error";
    case CUDA_ERROR_OUT_OF_MEMORY: return name ? "CUDA_ERROR_OUT_OF_MEMORY" : "out of memory";
    case CUDA_ERROR_NO_DEVICE: return name ? "CUDA_ERROR_NO_DEVICE" : "no CUDA-capable device is detected";
#define STANDIN_TEXT(symbol, value, text) \
  case value: return name ? "CUDA_ERROR_" #symbol : text;
      STANDIN_ERRORS(STANDIN_TEXT)
#undef STANDIN_TEXT
  }
  return nullptr;
}
STANDIN_EXPORT int cuGetErrorName(CUresult error, const char** text) {
  return (*text = error_text(error, true)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
STANDIN_EXPORT int cuGetErrorString(CUresult error, const char** text) {
  return (*text = error_text(error, false)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ---- devices and contexts ---------------------------------------------------------------------------------------------------
STANDIN_EXPORT int cuDeviceGetCount(int* count) {
  const Lock lock;
  *count = device_count();
  return check_ready("cuDeviceGetCount");
}

STANDIN_EXPORT int cuDeviceGet(CUdevice* device, int ordinal) {
  const Lock lock;
  *device = ordinal;
  return check_device("cuDeviceGet", ordinal);
}

STANDIN_EXPORT int cuDeviceGetName(char* name, int size, CUdevice device) {
  const Lock lock;
  std::snprintf(name, size_t(size), "stand-in");
  return check_device("cuDeviceGetName", device);
}

STANDIN_EXPORT int cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  const Lock lock;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = multiprocessors(); break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = most_shared_bytes(); break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = capability() / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = capability() % 10; break;
    default: return fail(CUDA_ERROR_INVALID_VALUE, "cuDeviceGetAttribute: attribute " + std::to_string(attribute));
  }
  return check_device("cuDeviceGetAttribute", device);
}

STANDIN_EXPORT int cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  const Lock lock;
  if (const CUresult error = check_device("cuDevicePrimaryCtxRetain", device)) return error;
  *context = reinterpret_cast<CUcontext>(&contexts[device]);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuCtxPushCurrent_v2(CUcontext context) {
  const Lock lock;
  const Context* const pushed = reinterpret_cast<Context*>(context);
  if (!state().initialised || pushed < contexts || pushed >= contexts + device_count())
    return fail(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPushCurrent: no context");
  current.push_back(pushed->ordinal);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuCtxPopCurrent_v2(CUcontext* context) {
  const Lock lock;
  if (current.empty()) return fail(CUDA_ERROR_INVALID_CONTEXT, "cuCtxPopCurrent: no context is current");
  if (context) *context = reinterpret_cast<CUcontext>(&contexts[current.back()]);
  current.pop_back();
  return CUDA_SUCCESS;
}

// ---- modules ----------------------------------------------------------------------------------------------------------------
// The image is loaded from memory, and stays: sanitizers read its lines when they report.
STANDIN_EXPORT int cuModuleLoadData(CUmodule* module, const void* image) {
  const Lock lock;
  int ordinal;
  if (const CUresult error = current_device(ordinal)) return error;
  if (const CUresult error = refuse_while_capturing("cuModuleLoadData")) return error;
  Image header;
  std::memcpy(&header, image, sizeof(header));
  if (std::memcmp(header.magic, Image{}.magic, sizeof(header.magic)))
    return fail(CUDA_ERROR_INVALID_IMAGE, "cuModuleLoadData: no image of the stand-in's NVRTC");
  if (std::strcmp(header.build, STANDIN_BUILD))
    return fail(CUDA_ERROR_INVALID_IMAGE, "cuModuleLoadData: the image is of another build of the stand-in");
  if (header.architecture != capability())
    return fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "cuModuleLoadData: the image is for sm_" + std::to_string(header.architecture));

  const int file = memfd_create("kernel", MFD_CLOEXEC);
  const char* const object = static_cast<const char*>(image) + sizeof(header);
  if (file < 0 || write(file, object, header.bytes) != ssize_t(header.bytes)) std::abort();
  void* const library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return fail(CUDA_ERROR_INVALID_IMAGE, std::string("cuModuleLoadData: ") + dlerror());
  *static_cast<Machine**>(dlsym(library, "recurra_machine")) = &machine;
  *module = state().modules.add(std::make_unique<Module>(Module{library, ordinal, header.flush, {}}));
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
  const Lock lock;
  Module* const module = state().modules.find(handle);
  if (!module) return fail(CUDA_ERROR_INVALID_HANDLE, "cuModuleGetFunction: no module");
  const auto* const kernel = static_cast<const Kernel*>(dlsym(module->library, (std::string(name) + "_kernel").c_str()));
  if (!kernel) return fail(CUDA_ERROR_NOT_FOUND, std::string("cuModuleGetFunction: no kernel ") + name);
  Function& found = module->functions.try_emplace(name, Function{kernel, name, module, shared_bytes}).first->second;
  *function = reinterpret_cast<CUfunction>(&found);
  state().functions.insert(*function);
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuFuncGetAttribute(int* value, int attribute, CUfunction function) {
  const Lock lock;
  if (!state().functions.count(function)) return fail(CUDA_ERROR_INVALID_HANDLE, "cuFuncGetAttribute: no function");
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
    return fail(CUDA_ERROR_INVALID_VALUE, "cuFuncGetAttribute: attribute " + std::to_string(attribute));
  return *value = 1024, CUDA_SUCCESS;
}

STANDIN_EXPORT int cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  const Lock lock;
  if (!state().functions.count(function)) return fail(CUDA_ERROR_INVALID_HANDLE, "cuFuncSetAttribute: no function");
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || value > most_shared_bytes())
    return fail(CUDA_ERROR_INVALID_VALUE, "cuFuncSetAttribute: attribute " + std::to_string(attribute));
  reinterpret_cast<Function*>(function)->shared_bytes = value;
  return CUDA_SUCCESS;
}

// ---- launches ---------------------------------------------------------------------------------------------------------------
CUresult kernel_work(const CUDA_KERNEL_NODE_PARAMS& p, int ordinal, Work& work, const Together& together) {
  if (!state().functions.count(p.func)) return fail(CUDA_ERROR_INVALID_HANDLE, "a launch of no function");
  const Function& function = *reinterpret_cast<Function*>(p.func);
  if (function.module->ordinal != ordinal)
    return fail(CUDA_ERROR_INVALID_CONTEXT, function.name + ": its module belongs to another context than the current one");
  const uint64_t threads = uint64_t(p.blockDimX) * p.blockDimY * p.blockDimZ;
  if (!p.gridDimX || !p.gridDimY || !p.gridDimZ || p.gridDimX > 0x7fffffff || p.gridDimY > 65535 || p.gridDimZ > 65535 ||
      !threads || threads > 1024 || p.blockDimZ > 64 || p.sharedMemBytes > unsigned(function.shared_bytes) || !p.kernelParams ||
      p.extra)
    return fail(CUDA_ERROR_INVALID_VALUE, function.name + ": grid " + std::to_string(p.gridDimX) + " x " +
                                              std::to_string(p.gridDimY) + " x " + std::to_string(p.gridDimZ) + ", block of " +
                                              std::to_string(threads) + " threads, " + std::to_string(p.sharedMemBytes) +
                                              " bytes of shared memory, or no arguments");
  const Index cluster = together.cooperative ? Index{p.gridDimX, p.gridDimY, p.gridDimZ} : together.cluster;
  const uint64_t blocks = uint64_t(cluster.x) * cluster.y * cluster.z;
  if (together.cooperative && blocks > uint64_t(multiprocessors()))
    return fail(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, function.name + ": " + std::to_string(blocks) + " blocks together");
  if (!together.cooperative && (!blocks || blocks > 8 || p.gridDimX % cluster.x || p.gridDimY % cluster.y ||
                                p.gridDimZ % cluster.z || (blocks > 1 && capability() < 90)))
    return fail(CUDA_ERROR_INVALID_CLUSTER_SIZE, function.name + ": clusters of " + std::to_string(blocks) + " blocks");
  const size_t words = (function.kernel->argument_bytes + 7) / 8;
  auto arguments = std::make_shared<std::vector<uint64_t>>(words + 8);  // the launch's own copy, aligned to 64 bytes
  const size_t first = (64 - reinterpret_cast<uintptr_t>(arguments->data()) % 64) % 64 / 8;
  std::memcpy(arguments->data() + first, p.kernelParams[0], function.kernel->argument_bytes);
  work = {function.name, ordinal, {}, {}};
  for (size_t i = 0; i < words; ++i) {
    const void* const pointer = reinterpret_cast<const void*>((*arguments)[first + i]);
    work.touches.push_back({pointer, 0, Access::unknown});
  }
  const Launch launch{function.kernel,
                      arguments->data() + first,
                      {p.gridDimX, p.gridDimY, p.gridDimZ},
                      {p.blockDimX, p.blockDimY, p.blockDimZ},
                      cluster,
                      together.cooperative,
                      p.sharedMemBytes,
                      function.module->flush};
  work.run = [launch, arguments, name = function.name] {
    const std::string problem = run(launch);
    return problem.empty() ? CUDA_SUCCESS : fail(CUDA_ERROR_LAUNCH_FAILED, name + ": " + problem);
  };
  return CUDA_SUCCESS;
}

static CUresult launch(const CUDA_KERNEL_NODE_PARAMS& all, CUstream handle, const Together& together) {
  Stream* stream;
  if (const CUresult error = find_stream_for_work(handle, stream)) return error;
  Work work;
  if (const CUresult error = kernel_work(all, stream->ordinal, work, together)) return error;
  ++state().launches;
  return submit(*stream, std::move(work));
}

STANDIN_EXPORT int cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                  unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream handle, void** parameters,
                                  void** extra) {
  const Lock lock;
  const CUDA_KERNEL_NODE_PARAMS all = {function, grid_x,       grid_y,     grid_z, block_x, block_y,
                                       block_z,  shared_bytes, parameters, extra,  nullptr, nullptr};
  return launch(all, handle, {});
}

static CUresult together_of(const CUlaunchConfig& config, Together& together) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      together.cooperative = attribute.value.cooperative;
    } else if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      const auto& size = attribute.value.clusterDim;
      together.cluster = {size.x, size.y, size.z};
    } else {
      return fail(CUDA_ERROR_INVALID_VALUE, "a launch's attribute " + std::to_string(attribute.id));
    }
  }
  return CUDA_SUCCESS;
}

STANDIN_EXPORT int cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void** parameters, void** extra) {
  const Lock lock;
  Together together;
  if (const CUresult error = together_of(*c, together)) return error;
  const CUDA_KERNEL_NODE_PARAMS all = {function,     c->gridDimX,       c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY,
                                       c->blockDimZ, c->sharedMemBytes, parameters,  extra,       nullptr,      nullptr};
  return launch(all, c->hStream, together);
}

// As if a multiprocessor had room for one block.
STANDIN_EXPORT int cuOccupancyMaxActiveClusters(int* clusters, CUfunction function, const CUlaunchConfig* config) {
  const Lock lock;
  Together together;
  if (const CUresult error = together_of(*config, together)) return error;
  if (!state().functions.count(function)) return fail(CUDA_ERROR_INVALID_HANDLE, "cuOccupancyMaxActiveClusters: no function");
  if (config->sharedMemBytes > unsigned(reinterpret_cast<Function*>(function)->shared_bytes))
    return fail(CUDA_ERROR_INVALID_VALUE, "cuOccupancyMaxActiveClusters: more shared memory than the function has asked for");
  const Index& cluster = together.cluster;
  return *clusters = multiprocessors() / int(cluster.x * cluster.y * cluster.z), CUDA_SUCCESS;
}

STANDIN_EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads,
                                                               size_t shared_bytes) {
  const Lock lock;
  if (!state().functions.count(function) || threads < 1)
    return fail(CUDA_ERROR_INVALID_HANDLE, "cuOccupancyMaxActiveBlocksPerMultiprocessor: no function, or no threads");
  if (shared_bytes > size_t(reinterpret_cast<Function*>(function)->shared_bytes)) return *blocks = 0, CUDA_SUCCESS;
  return *blocks = setting("RECURRA_STANDIN_ACTIVE_BLOCKS", 1), CUDA_SUCCESS;
}

// ---- counters, for tests ----------------------------------------------------------------------------------------------------
#define STANDIN_COUNTER(name)                \
  STANDIN_EXPORT uint64_t standin_##name() { \
    const Lock lock;                         \
    return state().name;                     \
  }
STANDIN_COUNTS(STANDIN_COUNTER)
#define STANDIN_RESET(name) state().name = 0;
STANDIN_EXPORT void standin_reset_counts() {
  const Lock lock;
  STANDIN_COUNTS(STANDIN_RESET)
}

#define STANDIN_LIVE(name)                        \
  STANDIN_EXPORT uint64_t standin_live_##name() { \
    const Lock lock;                              \
    return state().name.all().size();             \
  }
STANDIN_LIVE(streams)
STANDIN_LIVE(events)
STANDIN_LIVE(graphs)
STANDIN_LIVE(execs)

}  // namespace standin
