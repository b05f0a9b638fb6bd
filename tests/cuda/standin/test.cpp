// standin_test [fault NAME]: shows the rules of the stand-in, each with a fault that breaks it.
#include "test.h"

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#define STANDIN_POINTER(symbol, name, ...) int (*name)(__VA_ARGS__) = nullptr;
RECURRA_DRIVER_CALLS(STANDIN_POINTER)
RECURRA_NVRTC_CALLS(STANDIN_POINTER)
RECURRA_CUBLAS_CALLS(STANDIN_POINTER)
#undef STANDIN_POINTER
int (*standin_register)(void* pointer, size_t bytes, int ordinal) = nullptr;
int (*standin_unregister)(void* pointer) = nullptr;

static void* library = nullptr;
template <class T>
static void find(T*& pointer, const std::string& symbol) {
  pointer = reinterpret_cast<T*>(dlsym(library, symbol.c_str()));
  if (!pointer) std::fprintf(stderr, "no symbol %s\n", symbol.c_str()), std::exit(1);
}

uint64_t count(const char* name) {
  uint64_t (*function)();
  find(function, std::string("standin_") + name);
  return function();
}
void reset_counts() {
  void (*function)();
  find(function, "standin_reset_counts");
  function();
}

CUcontext context_of(int ordinal) {
  CUcontext context;
  CHECK_IS(cuDevicePrimaryCtxRetain(&context, ordinal), 0);
  return context;
}
CUstream new_stream(unsigned flags) {
  CUstream stream;
  CHECK_IS(cuStreamCreate(&stream, flags), 0);
  return stream;
}
CUevent new_event() {
  CUevent event;
  CHECK_IS(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), 0);
  return event;
}

Compiled compile(const std::string& source, std::vector<std::string> options, const Headers& headers) {
  bool has_architecture = false;
  for (const std::string& option : options) has_architecture |= option.find("sm_") != std::string::npos;
  if (!has_architecture) options.push_back("--gpu-architecture=sm_90a");
  std::vector<const char*> words, names, texts;
  for (const std::string& option : options) words.push_back(option.c_str());
  for (const auto& [name, text] : headers) names.push_back(name.c_str()), texts.push_back(text.c_str());
  nvrtcProgram program;
  Compiled result;
  CHECK_IS(nvrtcCreateProgram(&program, source.c_str(), "test.cu", int(names.size()), texts.data(), names.data()), 0);
  result.status = nvrtcCompileProgram(program, int(words.size()), words.data());
  size_t bytes;
  CHECK_IS(nvrtcGetProgramLogSize(program, &bytes), 0);
  result.log.resize(bytes);
  CHECK_IS(nvrtcGetProgramLog(program, result.log.data()), 0);
  if (!result.status) {
    CHECK_IS(nvrtcGetCUBINSize(program, &bytes), 0);
    result.cubin.resize(bytes);
    CHECK_IS(nvrtcGetCUBIN(program, result.cubin.data()), 0);
  }
  CHECK_IS(nvrtcDestroyProgram(&program), 0);
  return result;
}

CUfunction kernel(const std::string& source, const char* name, const std::vector<std::string>& options) {
  const Compiled compiled = compile(source, options);
  if (compiled.status) std::fprintf(stderr, "%s\n", compiled.log.c_str());
  CHECK_IS(compiled.status, 0);
  CUmodule module;
  CUfunction function;
  CHECK_IS(cuModuleLoadData(&module, compiled.cubin.data()), 0);
  CHECK_IS(cuModuleGetFunction(&function, module, name), 0);
  return function;
}

int main(int count, char** words) {
  setenv("RECURRA_STANDIN_GPUS", "2", 1);
  for (const char* name : {"libcuda.so.1", "libnvrtc.so.13", "libcublas.so.13"}) {
    void* const opened = dlopen((STANDIN_FOLDER "/" + std::string(name)).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!opened) std::fprintf(stderr, "%s\n", dlerror());
    CHECK(opened && (!library || opened == library));
    library = opened;
  }
#define STANDIN_FIND(symbol, name, ...) find(name, #symbol);
  RECURRA_DRIVER_CALLS(STANDIN_FIND)
  RECURRA_NVRTC_CALLS(STANDIN_FIND)
  RECURRA_CUBLAS_CALLS(STANDIN_FIND)
#undef STANDIN_FIND
  find(standin_register, "standin_register");
  find(standin_unregister, "standin_unregister");

  int devices;
  CHECK(cuDeviceGetCount(&devices) != 0);  // before cuInit
  CHECK_IS(cuInit(0), 0);
  CHECK_IS(cuDeviceGetCount(&devices), 0);
  CHECK_IS(devices, 2);
  CUstream stream;
  CHECK_IS(cuStreamCreate(&stream, 0), 201);  // no context
  int status = 0;
  if (const pid_t child = fork())
    waitpid(child, &status, 0);
  else
    _exit(cuInit(0));
  CHECK_IS(WEXITSTATUS(status), 3);  // CUDA does not survive a fork
  CHECK_IS(cuCtxPushCurrent(context_of(0)), 0);
  reset_counts();
  if (count == 3) {
    run_fault(words[2]);
  } else {
    test_kernels();
    test_compiler();
    test_memory();
    test_order();
    test_capture();
    test_graphs();
    test_cublas();
  }
  std::puts("passed");
}
