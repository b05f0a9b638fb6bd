// What tests/test_cuda_host.py and bench/gpu_step.py take for driver, NVRTC and cuBLAS: one GPU that computes nothing, and a
// compiler whose cubin is its options and the source. FAKE_... in the environment say what they are like.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "../../../cpp/cuda/api.h"

using namespace recurra::cuda;

namespace {

int number(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

int copied(const std::string& text, char* to) {
  std::memcpy(to, text.data(), text.size());
  return 0;
}

int sized(const std::string& text, size_t* bytes) {
  *bytes = text.size();
  return 0;
}

}  // namespace

struct recurra::cuda::nvrtcProgram_st {
  std::string source, cubin, log;
};

extern "C" {
int cuInit(unsigned) { return number("FAKE_INIT", 0); }
int cuDriverGetVersion(int* version) { return *version = number("FAKE_DRIVER", 13000), 0; }
int cuGetErrorName(CUresult error, const char** text) {
  return *text = error == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR", 0;
}
int cuGetErrorString(CUresult, const char** text) { return *text = "so says the fake", 0; }
int cuDeviceGetCount(int* count) { return *count = number("FAKE_GPUS", 1), 0; }
int cuDeviceGetName(char* name, int, CUdevice) { return std::strcpy(name, "Fake GPU"), 0; }
int cuDeviceGetAttribute(int* value, int attribute, CUdevice) {
  return *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 132, 0;
}
int cuMemAlloc_v2(CUdeviceptr* memory, size_t bytes) { return *memory = CUdeviceptr(std::malloc(bytes)), 0; }
int cuMemFree_v2(CUdeviceptr memory) { return std::free(reinterpret_cast<void*>(memory)), 0; }

int nvrtcVersion(int* major, int* minor) { return *major = number("FAKE_NVRTC", 13), *minor = 1, 0; }
int nvrtcCreateProgram(nvrtcProgram* program, const char* source, const char*, int, const char* const*, const char* const*) {
  return *program = new nvrtcProgram_st{source, "", ""}, 0;
}
int nvrtcCompileProgram(nvrtcProgram program, int count, const char* const* options) {
  if (const char* path = std::getenv("FAKE_LOG")) std::ofstream(path, std::ios::app) << "compiled\n";
  for (int i = 0; i < count; ++i) program->cubin += std::string(options[i]) + "\n";
  program->cubin += program->source;
  if (const char* more = std::getenv("FAKE_MORE")) program->cubin += more;
  if (program->cubin.find("sm_999") != std::string::npos) {
    program->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
    return 5;
  }
  if (program->source.find("wrong") != std::string::npos) {
    program->log = "recurra.cu(1): error: this is wrong\n";
    return 6;
  }
  return 0;
}
int nvrtcGetProgramLogSize(nvrtcProgram program, size_t* bytes) { return sized(program->log, bytes); }
int nvrtcGetProgramLog(nvrtcProgram program, char* log) { return copied(program->log, log); }
int nvrtcGetCUBINSize(nvrtcProgram program, size_t* bytes) { return sized(program->cubin, bytes); }
int nvrtcGetCUBIN(nvrtcProgram program, char* cubin) { return copied(program->cubin, cubin); }
int nvrtcDestroyProgram(nvrtcProgram* program) { return delete *program, 0; }

int cublasGetVersion_v2(cublasHandle, int* version) { return *version = 130201, 0; }
}
