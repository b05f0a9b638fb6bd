// Models from files: docs/formats.md.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <list>
#include <set>

#include "recurra/model.h"
#include "safetensors.h"

namespace recurra {
namespace detail {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("model: " + what); }

const std::string& entry(const Safetensors& file, const char* key) {
  const auto found = file.metadata.find(key);
  if (found == file.metadata.end()) refuse(std::string("expected a file of recurra, with '") + key + "' in its metadata");
  return found->second;
}

std::vector<char> contents(const std::string& path) {
  std::error_code error;
  const auto name = std::filesystem::u8path(path);
  const bool plain = std::filesystem::is_regular_file(name, error);
  const auto size = plain ? std::filesystem::file_size(name, error) : 0;
  std::ifstream file(name, std::ios::binary);
  if (!plain || error || !file) refuse("there is no file that can be read at '" + path + "'");
  std::vector<char> bytes(size);
  if (!file.read(bytes.data(), std::streamsize(size))) refuse("'" + path + "' cannot be read to its end");
  return bytes;
}

}  // namespace
}  // namespace detail

template <class T>
Model<T> Model<T>::load(const void* memory, size_t bytes) {
  using namespace detail;
  const Safetensors file = Safetensors::read(static_cast<const char*>(memory), bytes);
  if (entry(file, "format") != "recurra") refuse("expected a file of recurra, got one of '" + entry(file, "format") + "'");
  if (entry(file, "version") != "1") refuse("expected version 1, got '" + entry(file, "version") + "'");

  const std::string wanted = sizeof(T) == sizeof(float) ? "F32" : "F64";
  std::list<std::vector<T>> aligned;
  std::set<std::string> used;
  ModelParameters<T> parameters;
  parameters.tensor = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) refuse("there is no tensor '" + name + "'");
    const Tensor& tensor = found->second;
    if (tensor.dtype != wanted) refuse("tensor '" + name + "': expected " + wanted + ", got " + tensor.dtype);
    if (tensor.shape != shape) refuse("tensor '" + name + "': its shape is not that of the layer");
    used.insert(name);
    if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(T) == 0) return reinterpret_cast<const T*>(tensor.data);
    aligned.emplace_back(size_t(tensor.count));
    std::memcpy(aligned.back().data(), tensor.data, size_t(tensor.count) * sizeof(T));
    return static_cast<const T*>(aligned.back().data());
  };
  const Model model(entry(file, "model"), parameters);
  if (used.size() != file.tensors.size()) refuse("there are tensors that no node has");
  return model;
}

template <class T>
Model<T> Model<T>::load(const std::string& path) {
  const std::vector<char> bytes = detail::contents(path);
  return load(bytes.data(), bytes.size());
}

template Model<float> Model<float>::load(const void*, size_t);
template Model<double> Model<double>::load(const void*, size_t);
template Model<float> Model<float>::load(const std::string&);
template Model<double> Model<double>::load(const std::string&);

}  // namespace recurra
