#include "safetensors.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "json.h"

namespace recurra {
namespace detail {
namespace {

constexpr uint64_t kLargestHeader = 8 << 20;  // bounds what its tree takes

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("safetensors: " + what); }

int64_t bytes_of(const std::string& name, const std::string& dtype) {
  static constexpr std::pair<const char*, int64_t> sizes[] = {{"BOOL", 1}, {"U8", 1},   {"I8", 1},  {"U16", 2}, {"I16", 2},
                                                              {"F16", 2},  {"BF16", 2}, {"U32", 4}, {"I32", 4}, {"F32", 4},
                                                              {"U64", 8},  {"I64", 8},  {"F64", 8}};
  for (const auto& [known, bytes] : sizes)
    if (dtype == known) return bytes;
  refuse(name + ": expected a known dtype, got " + dtype);
}

// Where its data lie, from the start of all data, which are `room` bytes.
std::pair<int64_t, int64_t> read_tensor(const std::string& name, const Json& json, int64_t room, Tensor& tensor) {
  tensor.dtype = json.at("dtype").string("dtype");
  const int64_t bytes_each = bytes_of(name, tensor.dtype);
  int64_t count = 1;
  for (const Json& entry : json.at("shape").array("shape")) {
    const int64_t size = entry.integer("shape");
    if (size < 0) refuse(name + ": expected sizes of 0 and more");
    tensor.shape.push_back(size);
    // A product that passes what is there stays there, rather than overflow; an empty array may have any other sizes.
    count = size && count > room / size ? room + 1 : count * size;
  }
  const Json::Array& offsets = json.at("data_offsets").array("data_offsets");
  if (offsets.size() != 2) refuse(name + ": expected two data_offsets");
  const int64_t begin = offsets[0].integer("data_offsets"), end = offsets[1].integer("data_offsets");
  if (begin < 0 || end < begin || end > room) refuse(name + ": its data lie outside the file");
  if (count > room || end - begin != count * bytes_each) refuse(name + ": expected as many bytes as dtype and shape need");
  tensor.count = count;
  return {begin, end};
}

}  // namespace

Safetensors Safetensors::read(const char* memory, size_t bytes) {
  if (bytes < 8) refuse("expected a header's length, got " + std::to_string(bytes) + " bytes");
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<unsigned char>(memory[i]);
  if (header > bytes - 8) refuse("the header is longer than the file");
  if (header > kLargestHeader) refuse("the header is longer than 8 MiB");
  const Json json = Json::parse({memory + 8, size_t(header)});
  const char* const data = memory + 8 + header;
  const int64_t room = int64_t(bytes - 8 - header);

  Safetensors file;
  std::vector<std::pair<int64_t, int64_t>> places;
  for (const auto& [name, value] : json.object("safetensors header")) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.object("__metadata__")) file.metadata[key] = text.string("__metadata__");
      continue;
    }
    Tensor& tensor = file.tensors[name];
    places.push_back(read_tensor(name, value, room, tensor));
    tensor.data = data + places.back().first;
  }
  std::sort(places.begin(), places.end());
  int64_t end = 0;
  for (const auto& place : places) {
    if (place.first != end) refuse("the tensors' data overlap, or leave a gap");
    end = place.second;
  }
  if (end != room) refuse("bytes follow the last tensor");
  return file;
}

}  // namespace detail
}  // namespace recurra
