// Random calls of the C interface, right and wrong ones: each succeeds, or is refused with a status and a message and leaves
// what it was to write as it was. Arrays have the sizes that are said, so that a sanitizer sees a step too far.
//
//     fuzz_calls [sequences [seed]]
//
// With clang and RECURRA_SANITIZE=address,undefined,fuzzer-no-link it is a target for libFuzzer.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "recurra.h"

namespace {

void expect(bool good, const char* what) {
  if (good) return;
  std::printf("%s\n", what);
  std::abort();
}

// Numbers out of bytes; zeros after their end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}

  bool empty() const { return data_ == end_; }
  size_t below(size_t n) { return next() % n; }
  // Small, mostly; now and then what no array can have.
  int64_t count(int most) {
    static const int64_t strange[] = {-1, INT64_MIN, INT64_MAX, int64_t(1) << 31, int64_t(1) << 61};
    const size_t kind = below(16);
    return kind < 5 ? strange[kind] : int64_t(below(size_t(most) + 1));
  }

 private:
  uint8_t next() { return empty() ? 0 : *data_++; }

  const uint8_t *data_, *const end_;
};

struct Node {
  const char* name;
  std::vector<int64_t> shape;
};

// Structures that stream, stride over time, or need the whole sequence.
struct Structure {
  std::string nodes;
  std::vector<Node> tensors;
};

std::string gru(const char* direction, const char* precision) {
  return std::string(R"({"name":"g","kind":"recurrent","cell":"gru","inputs":["x"],"input_size":2,"hidden_size":5,)") +
         R"("num_layers":1,"proj_size":0,"heads":1,"bias":false,"proj_bias":false,"initial_state":false,"dropout":0,)" +
         R"("recurrent_dropout":0,"zoneout":0,"constants":null,"keep":[],"direction":")" + direction + R"(","precision":)" +
         precision + "}";
}

const std::vector<Structure>& structures() {
  static const std::string linear =
      R"(,{"name":"y","kind":"linear","inputs":["g"],"in_features":5,"out_features":3,"bias":false})";
  static const std::string convolution =
      R"({"name":"y","kind":"conv1d","inputs":["x"],"in_channels":2,"out_channels":3,"kernel_size":4,"stride":3,)"
      R"("dilation":2,"padding":[6,0],"groups":1,"bias":false})";
  static const std::vector<Node> weights{{"g.weight_ih_l0", {15, 2}}, {"g.weight_hh_l0", {15, 5}}, {"y.weight", {3, 5}}};
  static const std::vector<Structure> all{
      {gru("forward", "null") + linear, weights},
      {gru("forward", "\"int8\"") + linear, weights},
      {gru("reverse", "null") + linear, weights},
      {gru("forward", "null") + R"(,{"name":"y","kind":"pool","inputs":["g"],"mode":"mean"})", weights},
      {convolution, {{"y.weight", {3, 2, 4}}}}};
  return all;
}

class Caller {
 public:
  explicit Caller(Bytes bytes) : bytes_(bytes) {}
  ~Caller() {
    for (recurra_stream* stream : streams_) recurra_stream_close(stream);
    for (recurra_model* model : models_) recurra_model_free(model);
  }

  void run() {
    make(), open();
    while (!bytes_.empty()) switch (bytes_.below(10)) {
        case 0: make(); break;
        case 1: open(); break;
        case 2: whole(); break;
        case 3: reset(); break;
        case 4: state(); break;
        case 5: close(); break;
        case 6: sizes(); break;
        default: bytes_.below(2) ? step() : block();
      }
  }

 private:
  // Whether it went well; else it was refused, and says why.
  static bool good(recurra_status status) {
    expect(status >= RECURRA_OK && status <= RECURRA_FAILED, "a status that recurra.h does not know");
    expect(status == RECURRA_OK || *recurra_error(), "refused without a message");
    return status == RECURRA_OK;
  }

  recurra_model* model() { return models_.empty() || !bytes_.below(16) ? nullptr : models_[bytes_.below(models_.size())]; }
  recurra_stream* stream() { return streams_.empty() || !bytes_.below(16) ? nullptr : streams_[bytes_.below(streams_.size())]; }

  void make() {
    if (models_.size() == 4) return;
    const Structure& structure = structures()[bytes_.below(structures().size())];
    std::string json = R"({"dtype":"float32","batch_first":false,"inputs":[{"name":"x","features":[2],"time":true,)";
    json += R"("integer":false}],"nodes":[)" + structure.nodes + R"(],"outputs":["y"]})";
    std::vector<recurra_tensor> tensors;
    std::vector<std::vector<float>> values;
    values.reserve(structure.tensors.size());
    for (const Node& node : structure.tensors) {
      size_t count = 1;
      for (const int64_t size : node.shape) count *= size_t(size);
      values.emplace_back(count, 0.25f);
      tensors.push_back({node.name, values.back().data(), node.shape.data(), node.shape.size()});
    }
    const size_t given = bytes_.below(8) ? tensors.size() : bytes_.below(tensors.size());
    if (!bytes_.below(16)) json.resize(bytes_.below(json.size()));
    if (!bytes_.below(16)) tensors[0].axes = 1;
    recurra_model* made = nullptr;
    if (good(recurra_model_make(json.c_str(), tensors.data(), given, bytes_.below(32) ? &made : nullptr)))
      models_.push_back(made);
    else
      expect(!made, "a model although none was made");
  }

  void open() {
    if (streams_.size() == 4) return;
    recurra_stream* made = nullptr;
    const int64_t rows = bytes_.count(5);
    const int threads = int(bytes_.below(4)) - 1;
    if (good(recurra_stream_open(model(), rows, threads, bytes_.below(32) ? &made : nullptr)))
      streams_.push_back(made), rows_.push_back(rows);
    else
      expect(!made, "a stream although none was made");
  }

  // Of so many numbers, one less or one more now and then; none if no array has so many.
  size_t count_of(int64_t numbers) {
    const size_t count = numbers >= 0 && numbers < 4096 ? size_t(numbers) : bytes_.below(64);
    const size_t kind = bytes_.below(16);
    return kind == 0 ? count + 1 : kind == 1 && count ? count - 1 : count;
  }

  float* output(size_t count) {
    y_ = std::vector<float>(count, 7.0f);
    return bytes_.below(32) ? y_.data() : nullptr;
  }
  const float* input(size_t count) {
    x_.clear(), x_.shrink_to_fit();
    for (size_t i = 0; i < count; ++i) x_.push_back(float(bytes_.below(9)) - 4);
    return bytes_.below(32) ? x_.data() : nullptr;
  }
  void unwritten() const {
    expect(std::all_of(y_.begin(), y_.end(), [](float y) { return y == 7.0f; }), "written by a call that was refused");
  }

  static int64_t times(int64_t a, int64_t b) { return a >= 0 && a < 4096 && b >= 0 && b < 4096 ? a * b : -1; }

  void whole() {
    recurra_model* const called = model();
    const int64_t steps = bytes_.count(9), rows = bytes_.count(5);
    int64_t made = 0;
    if (!called || !good(recurra_model_output_steps(called, steps, &made))) made = 1;
    std::vector<int64_t> lengths;
    for (int64_t r = 0; r < std::min<int64_t>(rows, 8); ++r) lengths.push_back(bytes_.count(9));
    const int64_t* const given = bytes_.below(2) && times(rows, 1) >= 0 && rows <= 8 ? lengths.data() : nullptr;
    const size_t x_count = count_of(2 * times(steps, rows)), y_count = count_of(width(called) * times(made, rows));
    const float* const x = input(x_count);
    float* const y = output(y_count);
    if (!good(recurra_model_run(called, x, x_count, steps, rows, given, y, y_count))) unwritten();
  }

  void step() {
    recurra_stream* const stepped = stream();
    const int64_t rows = rows_of(stepped);
    const size_t x_count = count_of(2 * rows), y_count = count_of(width_of(stepped) * rows);
    const float* const x = input(x_count);
    float* const y = output(y_count);
    int made = 0;
    if (!good(recurra_stream_step(stepped, x, x_count, y, y_count, bytes_.below(2) ? &made : nullptr))) unwritten();
  }

  void block() {
    recurra_stream* const stepped = stream();
    const int64_t rows = rows_of(stepped), steps = bytes_.count(70);
    const size_t x_count = count_of(2 * times(steps, rows)), y_count = count_of(width_of(stepped) * times(steps, rows));
    const float* const x = input(x_count);
    float* const y = output(y_count);
    int64_t made = 0;
    if (!good(recurra_stream_run(stepped, x, x_count, steps, y, y_count, bytes_.below(2) ? &made : nullptr))) unwritten();
  }

  void reset() { good(recurra_stream_reset(stream(), bytes_.count(5))); }

  // Any bytes, or what a stream remembers.
  void state() {
    recurra_stream* const stream_of = stream();
    size_t size = 0;
    good(recurra_stream_state_size(stream_of, bytes_.below(16) ? &size : nullptr));
    size = count_of(int64_t(size));
    std::vector<char> state(size);
    const bool kept = good(recurra_stream_get_state(stream_of, bytes_.below(16) ? state.data() : nullptr, size));
    if (!kept || bytes_.below(2))
      for (char& byte : state) byte = char(bytes_.below(256));
    good(recurra_stream_set_state(stream(), bytes_.below(16) ? state.data() : nullptr, size));
  }

  void close() {
    if (bytes_.below(4)) return;
    if (bytes_.below(2)) {
      if (models_.empty()) return;
      const size_t at = bytes_.below(models_.size());
      recurra_model_free(models_[at]);  // streams of it go on
      models_.erase(models_.begin() + ptrdiff_t(at));
    } else if (!streams_.empty()) {
      const size_t at = bytes_.below(streams_.size());
      recurra_stream_close(streams_[at]);
      streams_.erase(streams_.begin() + ptrdiff_t(at)), rows_.erase(rows_.begin() + ptrdiff_t(at));
    }
  }

  void sizes() {
    size_t inputs = 7, outputs = 7;
    if (good(recurra_model_sizes(model(), bytes_.below(16) ? &inputs : nullptr, bytes_.below(16) ? &outputs : nullptr)))
      expect(inputs == 2 && (outputs == 3 || outputs == 5), "sizes of another model");
    else
      expect(inputs == 7 && outputs == 7, "sizes written by a call that was refused");
  }

  static int64_t width(recurra_model* of) {
    size_t inputs = 0, outputs = 3;
    if (of) good(recurra_model_sizes(of, &inputs, &outputs));
    return int64_t(outputs);
  }
  // A stream does not say them; most have 3 outputs, and the rest are refused.
  int64_t width_of(recurra_stream*) { return bytes_.below(4) ? 3 : 5; }
  int64_t rows_of(recurra_stream* of) const {
    for (size_t i = 0; i < streams_.size(); ++i)
      if (streams_[i] == of) return rows_[i];
    return 1;
  }

  Bytes bytes_;
  std::vector<recurra_model*> models_;
  std::vector<recurra_stream*> streams_;
  std::vector<int64_t> rows_;
  std::vector<float> x_, y_;
};

}  // namespace

#ifdef RECURRA_LIBFUZZER

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Caller({data, size}).run();
  return 0;
}

#else

int main(int argc, char** argv) {
  const long count = argc > 1 ? std::atol(argv[1]) : 3000;
  std::mt19937_64 random(argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1);
  for (long i = 0; i < count; ++i) {
    std::vector<uint8_t> bytes(200 + random() % 3000);
    for (uint8_t& byte : bytes) byte = uint8_t(random());
    Caller({bytes.data(), bytes.size()}).run();
  }
  std::printf("%ld sequences of calls\n", count);
}

#endif
