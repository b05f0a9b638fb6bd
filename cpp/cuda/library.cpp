#include "library.h"

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>

namespace recurra {
namespace cuda {
namespace {

constexpr int kOldestDriver = 12000;  // CUDA 12.0: the second version of the calls on nodes of graphs

constexpr CUresult kNotInitialized = 3;  // what cuInit says in a child forked after its parent's cuInit
constexpr const char* kForked =
    "CUDA cannot be used in a process that was forked after its parent had begun to use it: start the process with "
    "multiprocessing's \"spawn\" (multiprocessing.get_context(\"spawn\"))";

// No lock is taken anywhere here, since a child forked meanwhile would find it held for ever: threads that come at the same
// time each open the library, which the system counts, and the first table is kept.

std::atomic<bool> started{false};  // cuInit was called
std::atomic<bool> forked{false};   // in a child, and its parent had called it
std::atomic<int> driver_version{0};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] {
  if (started) forked = true;
});

struct Path {
  std::string text;
  const Path* older;  // so that what another thread may be reading stays
};

struct Library {
  const char* name;
  const char* called;
  std::vector<std::string> files;  // newest first
  const char* package;
  std::atomic<const Path*> path{nullptr};
};

// Never destroyed: at exit other threads may still be here.
Library& driver_library = *new Library{"driver", "an NVIDIA driver", {"libcuda.so.1"}, nullptr, {}};
Library& nvrtc_library = *new Library{"nvrtc", "NVRTC", {"libnvrtc.so.13", "libnvrtc.so.12"}, "nvidia-cuda-nvrtc", {}};
Library& cublas_library = *new Library{"cublas", "cuBLAS", {"libcublas.so.13", "libcublas.so.12"}, "nvidia-cublas", {}};

std::string missing(const Library& library) {
#ifdef __APPLE__
  return std::string("CUDA needs ") + library.called + ", and there is none for macOS";
#else
  std::string files;
  for (const std::string& file : library.files) files += (files.empty() ? "" : " or ") + file;
  const std::string what = std::string("CUDA needs ") + library.called + " (" + files + "), which was not found";
  if (!library.package) return what + ": install the driver of the GPU";
  const int version = driver_version;  // without suffix the packages are of CUDA 13, which needs a driver of CUDA 13
  return what + ": pip install " + library.package + (version && version < 13000 ? "-cu12" : "");
#endif
}

// Of a file that was asked for: it must be fit for use when it is there.
void* open_asked(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return nullptr;
  if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
  throw Unavailable("CUDA: cannot load " + path + ": " + dlerror());
}

// Two copies of a library in one process would be a waste of its memory and the GPU's: so what CuPy or PyTorch has loaded
// comes before any path but that of the environment.
void* open(const Library& library) {
  void* handle = nullptr;
  if (const char* folder = std::getenv("RECURRA_CUDA_LIBRARIES"); folder && *folder)
    for (const std::string& file : library.files)
      if ((handle = open_asked(std::string(folder) + "/" + file))) return handle;
  for (const std::string& file : library.files)
    if ((handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD))) return handle;
  if (const Path* path = library.path)
    if ((handle = open_asked(path->text))) return handle;
  for (const char* folder : {"", "/usr/local/cuda/lib64/"})
    for (const std::string& file : library.files)
      if ((handle = dlopen((folder + file).c_str(), RTLD_NOW | RTLD_LOCAL))) return handle;
  throw Unavailable(missing(library));
}

template <class Function>
void resolve(const Library& library, void* handle, const char* symbol, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, symbol));
  if (!function)
    throw Unavailable(std::string("CUDA: ") + library.called + " has no function " + symbol + ", a newer one is needed: " +
                      (library.package ? std::string("pip install -U ") + library.package : "install a newer driver"));
}

template <class Table, class Make>
const Table& kept(std::atomic<const Table*>& slot, Make&& make) {
  const Table* table = slot.load(std::memory_order_acquire);
  if (table) return *table;
  std::unique_ptr<const Table> made = make();
  if (slot.compare_exchange_strong(table, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *table;
}

std::atomic<const Driver*> driver_table{nullptr};
std::atomic<const Nvrtc*> nvrtc_table{nullptr};
std::atomic<const Cublas*> cublas_table{nullptr};

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

std::string described(const Driver& driver, CUresult status, const char* call) {
  const char *name = nullptr, *text = nullptr;
  driver.cuGetErrorName(status, &name);
  driver.cuGetErrorString(status, &text);
  return std::string(call) + ": " + (name ? name : std::to_string(status)) + (text ? std::string(", ") + text : "");
}

void initialise(const Driver& driver) {
  started = true;
  const CUresult status = driver.cuInit(0);
  if (status == CUDA_SUCCESS) return;
  started = false;
  if (status == CUDA_ERROR_NO_DEVICE)
    throw Unavailable("CUDA: the NVIDIA driver finds no GPU that this process may use (" + described(driver, status, "cuInit") +
                      ")");
  if (status == kNotInitialized) throw Error(kForked);
  throw Error(described(driver, status, "cuInit"));
}

// The version first: an old driver also lacks functions.
int version_of_driver(void* handle) {
  int (*version_function)(int*) = nullptr;
  resolve(driver_library, handle, "cuDriverGetVersion", version_function);
  int version = 0;
  version_function(&version);
  return version;
}

std::unique_ptr<const Driver> open_driver() {
  void* handle = open(driver_library);
  const int version = version_of_driver(handle);
  if (version < kOldestDriver)
    throw Unavailable("CUDA: the NVIDIA driver is for CUDA " + version_text(version) + ", and " + version_text(kOldestDriver) +
                      " or later is needed: install a newer driver");
  driver_version = version;
  auto table = std::make_unique<Driver>();
#define RECURRA_RESOLVE(symbol, name, ...) resolve(driver_library, handle, #symbol, table->name);
  RECURRA_DRIVER_CALLS(RECURRA_RESOLVE)
#undef RECURRA_RESOLVE
  initialise(*table);
  return table;
}

std::unique_ptr<const Nvrtc> open_nvrtc() {
  void* handle = open(nvrtc_library);
  auto table = std::make_unique<Nvrtc>();
#define RECURRA_RESOLVE(symbol, name, ...) resolve(nvrtc_library, handle, #symbol, table->name);
  RECURRA_NVRTC_CALLS(RECURRA_RESOLVE)
#undef RECURRA_RESOLVE
  table->nvrtcVersion(&table->major, &table->minor);
  return table;
}

std::unique_ptr<const Cublas> open_cublas() {
  void* handle = open(cublas_library);
  auto table = std::make_unique<Cublas>();
#define RECURRA_RESOLVE(symbol, name, ...) resolve(cublas_library, handle, #symbol, table->name);
  RECURRA_CUBLAS_CALLS(RECURRA_RESOLVE)
#undef RECURRA_RESOLVE
  return table;
}

// For `found`: where it is and its version, whether it can be used or not.
Found described(const Library& library, const char* symbol, std::string (*version)(void*), void (*use)()) {
  Found found;
  found.name = library.name;
  try {
    void* handle = open(library);
    void* function = nullptr;
    resolve(library, handle, symbol, function);
    Dl_info info{};
    if (dladdr(function, &info)) found.path = info.dli_fname;
    found.version = version(handle);
    use();
  } catch (const std::exception& error) {
    found.problem = error.what();
  }
  return found;
}

}  // namespace

const Driver& driver() {
  if (forked) throw Error(kForked);
  return kept(driver_table, open_driver);
}

const Nvrtc& nvrtc() { return kept(nvrtc_table, open_nvrtc); }
const Cublas& cublas() { return kept(cublas_table, open_cublas); }

void set_library_path(const std::string& library, const std::string& path) {
  for (Library* known : {&nvrtc_library, &cublas_library}) {
    if (library != known->name) continue;
    const Path* last = known->path;
    if (last && last->text == path) return;
    auto* newest = new Path{path, last};
    while (!known->path.compare_exchange_weak(newest->older, newest)) {
    }
    return;
  }
  throw std::invalid_argument("set_library_path: library must be \"nvrtc\" or \"cublas\", got \"" + library + "\"");
}

std::vector<Found> found() {
  return {described(
              driver_library, "cuDriverGetVersion", [](void* handle) { return version_text(version_of_driver(handle)); },
              [] { driver(); }),
          described(
              nvrtc_library, "nvrtcVersion",
              [](void*) { return std::to_string(nvrtc().major) + "." + std::to_string(nvrtc().minor); }, [] { nvrtc(); }),
          described(
              cublas_library, "cublasGetVersion_v2",
              [](void*) {
                int version = 0;  // 130201 is 13.2.1
                cublas().cublasGetVersion(nullptr, &version);
                return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
                       std::to_string(version % 100);
              },
              [] { cublas(); })};
}

void check_driver(CUresult status, const char* call) {
  if (status != CUDA_SUCCESS) throw Error(described(driver(), status, call));
}

void check_cublas(cublasStatus status, const char* call) {
  if (!status) return;
  const char* name = "unknown error";
  switch (status) {
    case 1: name = "CUBLAS_STATUS_NOT_INITIALIZED"; break;
    case 3: name = "CUBLAS_STATUS_ALLOC_FAILED"; break;
    case 7: name = "CUBLAS_STATUS_INVALID_VALUE"; break;
    case 8: name = "CUBLAS_STATUS_ARCH_MISMATCH"; break;
    case 11: name = "CUBLAS_STATUS_MAPPING_ERROR"; break;
    case 13: name = "CUBLAS_STATUS_EXECUTION_FAILED"; break;
    case 14: name = "CUBLAS_STATUS_INTERNAL_ERROR"; break;
    case 15: name = "CUBLAS_STATUS_NOT_SUPPORTED"; break;
  }
  throw Error(std::string(call) + ": " + name + " (" + std::to_string(status) + ")");
}

}  // namespace cuda
}  // namespace recurra
