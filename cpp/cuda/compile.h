// Kernels are compiled by NVRTC for the GPU at hand, from sources that are part of this library, and kept in a cache on disk.
#pragma once
#include <string>
#include <vector>

#include "device.h"

namespace recurra {
namespace cuda {

// A compiled translation unit, loaded on one device. Immutable.
class Module {
 public:
  CUfunction function(const char* name) const;  // of an extern "C" kernel

 private:
  friend const Module& compiled(const Device&, const std::string&, const std::vector<std::string>&);
  Module(const Device& device, CUmodule module) : device_(&device), module_(module) {}
  const Device* device_;
  CUmodule module_;
};

// The module of a translation unit, `source`, which may include the sources that this library carries by their paths below
// cpp/ ("cells/lstm.h", "cpu/math.h", "cuda/kernels/cell.cuh", "engine/noise.h"). Options of the architecture and of the
// language are added to the given ones. Kept for the process; any number of threads may ask. Throws Error with the compiler's
// log.
const Module& compiled(const Device& device, const std::string& source, const std::vector<std::string>& options);

// The compiler alone, for checks and for `precompile` without a GPU: the cubin and the log (-Xptxas -v).
struct Compiled {
  std::string cubin, log;
};
Compiled compile(const std::string& source, const std::vector<std::string>& options, const std::string& architecture);
int compilations();  // so far, of the process

// The cubin alone, from the cache on disk when it is there; put there when it is not. Needs no GPU either.
std::string cached(const std::string& source, const std::vector<std::string>& options, const std::string& architecture);

// Sees to it that the cache on disk has what `compiled` will look for; returns whether it was there.
bool precompile(const Device& device, const std::string& source, const std::vector<std::string>& options);

// The folder of the cache: RECURRA_CACHE_DIR, or recurra/ in XDG_CACHE_HOME or ~/.cache (macOS: ~/Library/Caches). Empty when
// there is to be none, by RECURRA_CACHE_DIR="" or for want of a home.
std::string cache_folder();

// The sources that this library carries: path below cpp/ and text. Made by CMake from the files.
struct Source {
  const char* path;
  const char* text;  // whose #include "..." name such paths
};
extern const Source sources[];
extern const int source_count;

}  // namespace cuda
}  // namespace recurra
