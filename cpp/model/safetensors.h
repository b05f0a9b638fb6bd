// The safetensors format: eight bytes with the length of a JSON header, little end first, the header, the data. Read from
// memory that may hold anything; what does not follow the format is refused by a std::invalid_argument.
// https://github.com/huggingface/safetensors#format
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace recurra {
namespace detail {

struct Tensor {
  std::string dtype;  // "F32", "F64", "F16", "BF16", "I64", ...
  std::vector<int64_t> shape;
  int64_t count = 0;           // the product of the shape
  const char* data = nullptr;  // of the memory that was read, at any alignment
};

struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, Tensor> tensors;

  static Safetensors read(const char* memory, size_t bytes);
};

}  // namespace detail
}  // namespace recurra
