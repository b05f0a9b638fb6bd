#include "compile.h"

#include <atomic>
#include <cstdlib>

#include "cache.h"

namespace recurra {
namespace cuda {
namespace {

constexpr nvrtcResult kInvalidOption = 5;

// NVRTC has no standard library. Types as on the host, so that structs of arguments mean the same to both.
const Source standard_headers[] = {
    {"cstddef", "namespace std { using ::size_t; using ::ptrdiff_t; }\n"},
    {"cstdint",
     "typedef signed char int8_t;\ntypedef short int16_t;\ntypedef int int32_t;\ntypedef long int64_t;\n"
     "typedef unsigned char uint8_t;\ntypedef unsigned short uint16_t;\ntypedef unsigned int uint32_t;\n"
     "typedef unsigned long uint64_t;\ntypedef long intptr_t;\ntypedef unsigned long uintptr_t;\n"},
    {"cmath", "// built in\n"},
};

std::vector<Source> headers() {
  std::vector<Source> all(std::begin(standard_headers), std::end(standard_headers));
  all.insert(all.end(), sources, sources + source_count);
  return all;
}

std::vector<std::string> all_options(const std::vector<std::string>& options, const std::string& architecture) {
  std::vector<std::string> all = {"-std=c++17", "-default-device", "--gpu-architecture=" + architecture, "--ptxas-options=-v",
                                  "--diag-suppress=161"};  // pragmas that are GCC's
  all.insert(all.end(), options.begin(), options.end());
  return all;
}

std::string version_of(const Nvrtc& nvrtc) { return std::to_string(nvrtc.major) + "." + std::to_string(nvrtc.minor); }

void check(nvrtcResult status, const char* call) {
  if (status) throw Error(std::string(call) + ": error " + std::to_string(status) + " of NVRTC");
}

class Program {
 public:
  Program(const Nvrtc& nvrtc, const std::string& source) : nvrtc_(nvrtc) {
    std::vector<const char*> texts, names;
    for (const Source& header : headers()) texts.push_back(header.text), names.push_back(header.path);
    check(nvrtc.nvrtcCreateProgram(&program_, source.c_str(), "recurra.cu", int(texts.size()), texts.data(), names.data()),
          "nvrtcCreateProgram");
  }
  ~Program() { nvrtc_.nvrtcDestroyProgram(&program_); }
  Program(const Program&) = delete;

  nvrtcResult compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return nvrtc_.nvrtcCompileProgram(program_, int(pointers.size()), pointers.data());
  }

  std::string log() const {
    std::string log = get(nvrtc_.nvrtcGetProgramLogSize, nvrtc_.nvrtcGetProgramLog, "nvrtcGetProgramLog");
    while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
    return log;
  }
  std::string cubin() const { return get(nvrtc_.nvrtcGetCUBINSize, nvrtc_.nvrtcGetCUBIN, "nvrtcGetCUBIN"); }

 private:
  std::string get(int (*size)(nvrtcProgram, size_t*), int (*copy)(nvrtcProgram, char*), const char* call) const {
    size_t bytes = 0;
    check(size(program_, &bytes), call);
    std::string text(bytes, '\0');
    if (bytes) check(copy(program_, text.data()), call);
    return text;
  }

  const Nvrtc& nvrtc_;
  nvrtcProgram program_ = nullptr;
};

// With all that the architecture has: what is compiled here is for this GPU alone.
std::string architecture_of(const Device& device) {
  const bool has_variant = device.major == 9 || device.major == 10;
  return "sm_" + std::to_string(device.major) + std::to_string(device.minor) + (has_variant ? "a" : "");
}

std::string key_of(const std::string& source, const std::vector<std::string>& options, const std::string& architecture) {
  Hash hash;
  hash.add(source);
  for (const Source& header : headers()) {
    hash.add(header.path);
    hash.add(header.text);
  }
  for (const std::string& option : all_options(options, architecture)) hash.add(option);
  hash.add(version_of(nvrtc()));
  return hash.hex();
}

// And whether it was in the cache.
std::pair<std::string, bool> found_or_compiled(const std::string& source, const std::vector<std::string>& options,
                                               const std::string& architecture) {
  const std::string folder = cache_folder(), key = key_of(source, options, architecture);
  if (std::optional<std::string> found = load(folder, key)) return {*found, true};
  std::string cubin = compile(source, options, architecture).cubin;
  store(folder, key, cubin);
  return {cubin, false};
}

std::pair<std::string, bool> cubin_for(const Device& device, const std::string& source,
                                       const std::vector<std::string>& options) {
  try {
    return found_or_compiled(source, options, architecture_of(device));
  } catch (const Error& error) {
    throw Error(device.name + ": " + error.what());
  }
}

CUmodule loaded(const Device& device, const std::string& cubin) {
  const Current current(device);
  CUmodule module = nullptr;
  try {
    check_driver(driver().cuModuleLoadData(&module, cubin.data()), "cuModuleLoadData");
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + " (compiled by NVRTC " + version_of(nvrtc()) + " for " + device.name +
                "; the driver must not be older than NVRTC)");
  }
  return module;
}

// What was kept, but the driver does not load, is made anew: a bad cache only costs time.
CUmodule module_for(const Device& device, const std::string& source, const std::vector<std::string>& options) {
  const auto [cubin, kept] = cubin_for(device, source, options);
  try {
    return loaded(device, cubin);
  } catch (const Error&) {
    if (!kept) throw;
  }
  const std::string architecture = architecture_of(device), made = compile(source, options, architecture).cubin;
  store(cache_folder(), key_of(source, options, architecture), made);
  return loaded(device, made);
}

// The modules of the process, newest first.
struct Loaded {
  int ordinal;
  std::string source;
  std::vector<std::string> options;
  Module module;
  const Loaded* older;
};
std::atomic<const Loaded*> newest{nullptr};
std::atomic<int> compilation_count{0};

}  // namespace

CUfunction Module::function(const char* name) const {
  const Current current(*device_);
  CUfunction function = nullptr;
  check_driver(driver().cuModuleGetFunction(&function, module_, name), (std::string("cuModuleGetFunction ") + name).c_str());
  return function;
}

Compiled compile(const std::string& source, const std::vector<std::string>& options, const std::string& architecture) {
  Program program(nvrtc(), source);
  const nvrtcResult status = program.compile(all_options(options, architecture));
  const std::string log = program.log();
  if (status == kInvalidOption && log.find("gpu-architecture") != std::string::npos)
    throw Error("NVRTC " + version_of(nvrtc()) + " cannot compile for " + architecture +
                ": another version may, pip install -U nvidia-cuda-nvrtc");
  if (status)
    throw Error("NVRTC " + version_of(nvrtc()) + ", " + architecture + ": error " + std::to_string(status) + "\n" + log);
  ++compilation_count;
  return {program.cubin(), log};
}

int compilations() { return compilation_count; }

std::string cached(const std::string& source, const std::vector<std::string>& options, const std::string& architecture) {
  return found_or_compiled(source, options, architecture).first;
}

bool precompile(const Device& device, const std::string& source, const std::vector<std::string>& options) {
  return cubin_for(device, source, options).second;
}

// Without a lock: threads that ask for the same at the same time may each compile it, and what they get is the same.
const Module& compiled(const Device& device, const std::string& source, const std::vector<std::string>& options) {
  driver();  // throws in a forked child
  for (const Loaded* module = newest.load(std::memory_order_acquire); module; module = module->older)
    if (module->ordinal == device.ordinal && module->source == source && module->options == options) return module->module;
  auto* made = new Loaded{device.ordinal, source, options, Module(device, module_for(device, source, options)), newest};
  while (!newest.compare_exchange_weak(made->older, made)) {
  }
  return made->module;
}

std::string cache_folder() {
  if (const char* folder = std::getenv("RECURRA_CACHE_DIR")) return folder;
  const char* home = std::getenv("HOME");
#ifdef __APPLE__
  return home && *home ? std::string(home) + "/Library/Caches/recurra" : "";
#else
  const char* caches = std::getenv("XDG_CACHE_HOME");
  if (caches && *caches == '/') return std::string(caches) + "/recurra";  // a relative one is to be ignored, says its standard
  return home && *home ? std::string(home) + "/.cache/recurra" : "";
#endif
}

}  // namespace cuda
}  // namespace recurra
