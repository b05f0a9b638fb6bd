// Model files that are a little wrong: seeded mutations of right ones, of their bytes, of their header, and of the structure
// inside. Each is a model that runs, or std::invalid_argument, and takes little memory.
//
//     fuzz_model [files [seed]]
//
// With clang and RECURRA_SANITIZE=address,undefined,fuzzer-no-link it is a target for libFuzzer.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <sys/resource.h>
#endif

#include "model/json.h"
#include "model/safetensors.h"
#include "recurra/model.h"

namespace {

using recurra::Model;
using recurra::detail::Json;

// Whether all numbers of a structure are such that a call of a few steps is small.
bool small(const Json& json) {
  if (json.kind() == Json::Kind::number) return json.number("") <= 64;
  if (json.kind() == Json::Kind::array)
    for (const Json& each : json.array(""))
      if (!small(each)) return false;
  if (json.kind() == Json::Kind::object)
    for (const auto& entry : json.object(""))
      if (!small(entry.second)) return false;
  return true;
}

// A model that could be read runs a few steps, whole and streamed.
template <class T>
void run(const Model<T>& model) {
  constexpr int64_t steps = 5, rows = 2;
  const std::vector<int64_t> zeros(size_t(steps * rows), 0);
  std::vector<std::vector<T>> arrays;
  arrays.reserve(model.inputs().size() + 2 * model.outputs().size());
  const auto array = [&](int64_t n, int64_t size) {
    arrays.emplace_back(size_t(n * rows * size), T(0.5));
    return recurra::Sequence<T>{arrays.back().data(), n, rows, ptrdiff_t(rows * size), ptrdiff_t(size)};
  };
  const std::vector<int64_t> all(model.inputs().size(), steps);
  recurra::ModelCall<T> call;
  std::vector<recurra::ModelInput<T>> frames;
  for (const auto& value : model.inputs()) {
    const int64_t n = value.time ? steps : 1;
    recurra::ModelInput<T> input;
    if (value.integer) {
      input.integers = {zeros.data(), n, rows, rows, 1};
    } else {
      const auto given = array(value.time ? steps : 1, value.size());
      input.numbers = {given.data, given.steps, given.rows, given.step_stride, given.row_stride};
    }
    call.inputs.push_back(input);
    if (!value.time) (value.integer ? input.integers.step_stride : input.numbers.step_stride) = 0;  // the same at every step
    if (!value.time) (value.integer ? input.integers.steps : input.numbers.steps) = steps;
    frames.push_back(input);
  }
  for (size_t o = 0; o < model.outputs().size(); ++o) {
    const auto& value = model.outputs()[o];
    call.outputs.push_back(array(value.time ? model.output_steps(o, all) : 1, value.size()));
  }
  model.forward(call);
  try {
    recurra::ModelStream<T> stream(model, rows);
    std::vector<recurra::Sequence<T>> outputs;
    for (size_t o = 0; o < model.outputs().size(); ++o)
      outputs.push_back(array(stream.frames(o, steps), model.outputs()[o].size()));
    stream.run(steps, frames, outputs);
  } catch (const std::invalid_argument&) {  // it needs the whole sequence
  }
}

template <class T>
bool read_as(const std::string& bytes) {
  try {
    const Model<T> model = Model<T>::load(bytes.data(), bytes.size());
    const recurra::detail::Safetensors file = recurra::detail::Safetensors::read(bytes.data(), bytes.size());
    if (small(Json::parse(file.metadata.at("model")))) run(model);
    return true;
  } catch (const std::invalid_argument& error) {
    if (!*error.what()) std::abort();
    return false;
  }
}

bool read(const std::string& bytes) { return read_as<float>(bytes) || read_as<double>(bytes); }

std::mt19937_64 random_engine;

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

size_t below(size_t n) { return size_t(random_engine() % n); }

// A piece of JSON text and the tensors of a file.
struct File {
  std::string structure, header;  // of the tensors, without braces
  std::string data;

  std::string bytes(const std::string& head) const {
    std::string text;
    for (int i = 0; i < 8; ++i) text += char(head.size() >> (8 * i) & 0xFF);
    return text + head + data;
  }
  std::string head(const std::string& model) const {
    std::string quoted;
    for (const char c : model) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += c;
    }
    return R"({"__metadata__":{"format":"recurra","version":"1","model":")" + quoted + "\"}" + header + "}";
  }
  // The same in float64.
  File wide() const {
    File other;
    other.structure = structure, other.header = header;
    replace_all(other.structure, "float32", "float64"), replace_all(other.header, "F32", "F64");
    for (size_t i = 0; i < data.size(); i += sizeof(float)) {
      float narrow;
      std::memcpy(&narrow, data.data() + i, sizeof narrow);
      const double value = narrow;
      other.data.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    // Offsets are twice as large.
    const std::string key = "\"data_offsets\":[";
    for (size_t at = other.header.find(key); at != std::string::npos; at = other.header.find(key, at + 1)) {
      const size_t from = at + key.size(), comma = other.header.find(',', from), end = other.header.find(']', from);
      const auto twice = [&](size_t begin) { return std::to_string(2 * std::atol(other.header.c_str() + begin)); };
      other.header.replace(from, end - from, twice(from) + "," + twice(comma + 1));
    }
    return other;
  }
  void tensor(const std::string& name, const std::vector<int>& shape) {
    int count = 1;
    std::string sizes;
    for (const int size : shape) {
      sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
      count *= size;
    }
    const size_t begin = data.size();
    for (int i = 0; i < count; ++i) {
      const float value = float(int(below(200)) - 100) / 200;
      data.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    header += ",\"" + name + R"(":{"dtype":"F32","shape":[)" + sizes + R"(],"data_offsets":[)" + std::to_string(begin) + "," +
              std::to_string(data.size()) + "]}";
  }
};

std::string model_of(const std::string& nodes, const std::string& output, const std::string& inputs) {
  return R"({"inputs":[)" + inputs + R"(],"nodes":[)" + nodes + R"(],"outputs":[")" + output +
         R"("],"dtype":"float32","batch_first":false})";
}

std::string recurrent(const std::string& name, const std::string& input, const std::string& cell, const std::string& more) {
  return R"({"name":")" + name + R"(","inputs":)" + input + R"(,"kind":"recurrent","cell":")" + cell +
         R"(","proj_size":0,"proj_bias":false,"heads":1,"dropout":0.0,"recurrent_dropout":0.0,"zoneout":0.0,"constants":{},)" +
         R"("keep":[],"bias":true,)" + more + "}";
}

const char* const kSequence = R"({"name":"x","features":[4],"time":true,"integer":false})";

std::vector<File> samples() {
  std::vector<File> files(3);
  files[0].structure = model_of(
      R"({"name":"c","inputs":["x"],"kind":"conv1d","in_channels":4,"out_channels":6,"kernel_size":3,"stride":2,"dilation":1,)"
      R"("padding":[2,0],"groups":2,"bias":true},{"name":"a","inputs":["c"],"kind":"activation","function":"leaky_relu",)"
      R"("alpha":0.1,"beta":null},)" +
          recurrent(
              "g", R"(["a"])", "gru",
              R"("input_size":6,"hidden_size":6,"num_layers":1,"direction":"forward","initial_state":true,"precision":null)") +
          R"(,{"name":"s","inputs":["a","g"],"kind":"add"},{"name":"n","inputs":["s"],"kind":"layer_norm","features":6,)"
          R"("eps":1e-05,"weight":true,"bias":true},{"name":"p","inputs":["n"],"kind":"pool","mode":"mean"},)"
          R"({"name":"l","inputs":["p"],"kind":"linear","in_features":6,"out_features":2,"bias":true},)"
          R"({"name":"m","inputs":["l"],"kind":"softmax","log":true})",
      "m", kSequence);
  files[0].tensor("c.weight", {6, 2, 3}), files[0].tensor("c.bias", {6});
  files[0].tensor("g.weight_ih_l0", {18, 6}), files[0].tensor("g.weight_hh_l0", {18, 6});
  files[0].tensor("g.bias_ih_l0", {18}), files[0].tensor("g.bias_hh_l0", {18}), files[0].tensor("g.h_0", {1, 6});
  files[0].tensor("n.weight", {6}), files[0].tensor("n.bias", {6});
  files[0].tensor("l.weight", {2, 6}), files[0].tensor("l.bias", {2});

  files[1].structure = model_of(
      R"({"name":"e","inputs":["tokens"],"kind":"embedding","num_embeddings":7,"embedding_dim":4},)"
      R"({"name":"mask","inputs":["e","tokens"],"kind":"mask","value":0.0},)" +
          recurrent("l", R"(["mask"])", "lstm",
                    R"("input_size":4,"hidden_size":5,"num_layers":1,"direction":"bidirectional","initial_state":false,)"
                    R"("precision":"int8")") +
          "," +
          recurrent("d", R"(["x","l:h","l:c"])", "lstm",
                    R"("input_size":4,"hidden_size":10,"num_layers":1,"direction":"forward","initial_state":false,)"
                    R"("precision":null)") +
          R"(,{"name":"v","inputs":["d"],"kind":"select","indices":[9,0,1]},{"name":"r","inputs":["v"],"kind":"reverse"},)"
          R"({"name":"t","inputs":["v","r","v"],"kind":"concatenate"},{"name":"z","inputs":["t"],"kind":"scale","features":9})",
      "z", R"({"name":"tokens","features":[],"time":true,"integer":true},)" + std::string(kSequence));
  files[1].tensor("e.weight", {7, 4});
  for (const char* end : {"", "_reverse"}) {
    files[1].tensor("l.weight_ih_l0" + std::string(end), {20, 4}),
        files[1].tensor("l.weight_hh_l0" + std::string(end), {20, 5});
    files[1].tensor("l.bias_ih_l0" + std::string(end), {20}), files[1].tensor("l.bias_hh_l0" + std::string(end), {20});
  }
  files[1].tensor("d.weight_ih_l0", {40, 4}), files[1].tensor("d.weight_hh_l0", {40, 10});
  files[1].tensor("d.bias_ih_l0", {40}), files[1].tensor("d.bias_hh_l0", {40});
  files[1].tensor("z.weight", {9}), files[1].tensor("z.bias", {9});

  files[2].structure = model_of(
      R"({"name":"q","inputs":["x"],"kind":"reshape","features":[2,8]},{"name":"c","inputs":["q"],"kind":"conv2d",)"
      R"("in_channels":2,"out_channels":3,"kernel_size":[2,3],"stride":[1,2],"dilation":[2,1],"padding":[[2,0],[1,1]],)"
      R"("groups":1,"bias":false},{"name":"m","inputs":["c"],"kind":"max_pool2d","kernel_size":[1,2],"stride":[1,2],)"
      R"("padding":[[0,0],[0,1]]},{"name":"a","inputs":["m"],"kind":"avg_pool2d","kernel_size":[2,1],"stride":[1,1],)"
      R"("padding":[[1,0],[0,0]]},{"name":"d","inputs":["a"],"kind":"dropout","p":0.5},)" +
          recurrent("s", R"(["d"])", "sru",
                    R"("input_size":6,"hidden_size":3,"num_layers":2,"direction":"forward","initial_state":false,)"
                    R"("precision":"bfloat16")") +
          R"(,{"name":"w","inputs":["s","s"],"kind":"multiply"},{"name":"f","inputs":["w"],"kind":"pool","mode":"last"},)"
          R"({"name":"e","inputs":["f"],"kind":"repeat","steps":3})",
      "e", R"({"name":"x","features":[16],"time":true,"integer":false})");
  files[2].tensor("c.weight", {3, 2, 2, 3});
  for (const int inputs : {6, 3}) {
    const std::string end = inputs == 6 ? "_l0" : "_l1";
    files[2].tensor("s.weight_ih" + end, {12, inputs}), files[2].tensor("s.bias_ih" + end, {6});
    files[2].tensor("s.weight_v" + end, {6});
  }
  files.push_back(files[0].wide());
  return files;
}

// Numbers and words that mean something else.
const char* const kStrange[] = {
    "0",     "-1",    "1",    "2",     "3",           "255",      "2147483647", "2147483648",  "9007199254740991",
    "1e308", "1e999", "-0.0", "0.5",   "NaN",         "null",     "true",       "false",       "[]",
    "{}",    "\"\"",  "[[]]", "\"x\"", "\"\\u0000\"", "\"\xFF\"", "[1,2,3]",    "\"forward\"", "\"int8\""};

// Where a number, a word or a string of a text begins and ends, from some place on.
bool token(const std::string& text, size_t& begin, size_t& end) {
  const std::string_view plain = "0123456789+-.eEtrufalsn";
  for (begin = below(text.size()); begin < text.size(); ++begin) {
    end = begin + 1;
    if (text[begin] == '"') {
      while (end < text.size() && text[end] != '"') ++end;
      end = std::min(end + 1, text.size());
      return true;
    }
    if (plain.find(text[begin]) == plain.npos) continue;
    while (end < text.size() && plain.find(text[end]) != plain.npos) ++end;
    return true;
  }
  return false;
}

void mutate(std::string& text) {
  for (size_t changes = 1 + below(3); changes-- > 0 && !text.empty();) {
    const size_t at = below(text.size()), length = 1 + below(std::min<size_t>(text.size() - at, 1u << below(8)));
    size_t begin, end, other, other_end;
    switch (below(9)) {
      case 0: text[at] = char(text[at] ^ 1 << below(8)); break;
      case 1: text[at] = char(below(256)); break;
      case 2: text.erase(at, length); break;
      case 3: text.insert(below(text.size() + 1), text.substr(at, length)); break;
      case 4: text.resize(at); break;
      case 5:
      case 6:
        if (token(text, begin, end)) text.replace(begin, end - begin, kStrange[below(std::size(kStrange))]);
        break;
      default:
        if (token(text, begin, end) && token(text, other, other_end))
          text.replace(begin, end - begin, text.substr(other, other_end - other));
    }
  }
}

}  // namespace

#ifdef RECURRA_LIBFUZZER

extern "C" {

size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t most);

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  read(std::string(reinterpret_cast<const char*>(data), size));
  return 0;
}

// Two times of three a change of the header with its length put right, so that it gets past that; of what is no file, a sample.
size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t most, unsigned seed) {
  random_engine.seed(seed);
  uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, data, 8);
  const auto put = [&](const std::string& bytes) {
    size = std::min(bytes.size(), most);
    std::memcpy(data, bytes.data(), size);
    return size;
  };
  if (size < 8 || length > size - 8) {
    const std::vector<File> files = samples();
    const File& file = files[below(files.size())];
    return put(file.bytes(file.head(file.structure)));
  }
  std::string head(reinterpret_cast<const char*>(data) + 8, length);
  File file;
  file.data.assign(reinterpret_cast<const char*>(data) + 8 + length, size - 8 - length);
  switch (below(3)) {
    case 0: return LLVMFuzzerMutate(data, size, most);
    case 1: mutate(head); break;
    default:
      head.resize(2 * length + 16);
      head.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t*>(head.data()), length, head.size()));
  }
  return put(file.bytes(head));
}
}

#else

int main(int argc, char** argv) {
  const long count = argc > 1 ? std::atol(argv[1]) : 20000;
  random_engine.seed(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit little{rlim_t(1) << 30, rlim_t(1) << 30};  // more throws std::bad_alloc, which nothing here catches
  setrlimit(RLIMIT_AS, &little);
#endif
  const std::vector<File> files = samples();
  for (const File& file : files)
    if (!read(file.bytes(file.head(file.structure)))) return std::printf("a right file is refused\n"), 1;
  long good = 0;
  for (long i = 0; i < count; ++i) {
    const File& file = files[below(files.size())];
    std::string text = file.structure;
    const size_t what = below(3);
    if (what == 0) mutate(text);
    text = file.head(text);
    if (what == 1) mutate(text);
    text = file.bytes(text);
    if (what == 2) mutate(text);
    good += read(text);
  }
  std::printf("%ld files, of which %ld are models\n", count, good);
  return good == 0;
}

#endif
