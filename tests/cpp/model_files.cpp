// JSON, safetensors and models in them: what is right is read exactly, and what is not is refused.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <locale>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "model/json.h"
#include "model/safetensors.h"
#include "recurra/model.h"

namespace {

using namespace std::string_literals;
using recurra::detail::Json;
using recurra::detail::Safetensors;

// A process's locale, which numbers of a file must not follow.
struct Commas : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
};

int failed = 0;

void expect(bool right, const std::string& what) {
  if (right) return;
  ++failed;
  std::printf("wrong: %s\n", what.c_str());
}

template <class Work>
void refused(const std::string& what, const char* part, const Work& work) {
  std::string got = "nothing";
  try {
    work();
  } catch (const std::invalid_argument& error) {
    got = error.what();
    if (got.find(part) != std::string::npos) return;
  }
  ++failed;
  std::printf("%s: expected an error with '%s', got '%s'\n", what.c_str(), part, got.c_str());
}

void numbers() {
  for (const double value : {0.0, -0.0, 1.0, -2.5, 1e300, 5e-324, 2.2250738585072011e-308, 0.1, 1.0 / 3, 123456789012345680.0,
                             std::numeric_limits<double>::max(), std::numeric_limits<double>::min()}) {
    char text[64];
    std::snprintf(text, sizeof text, "%.17g", value);
    const double read = Json::parse(text).number("x");
    expect(read == value && std::signbit(read) == std::signbit(value), text);
  }
  expect(Json::parse("9007199254740991").integer("x") == 9007199254740991, "2^53 - 1");
  expect(Json::parse("1.5e1").integer("x") == 15, "15");
  for (const char* text : {"01", "+1", ".5", "1.", "1e", "-", "1e+", "NaN", "Infinity", "0x10", "1_0", "1,5", "--1", ""})
    refused(text, "expected", [&] { Json::parse(text); });
  refused("1e309", "a double can hold", [] { Json::parse("1e309"); });
  for (const char* text : {"9007199254740992", "0.5", "1e300", "\"1\"", "true"})
    refused(text, "x: expected an integer", [&] { Json::parse(text).integer("x"); });
}

void strings() {
  const std::pair<std::string, std::string> same[] = {{R"("")", ""},
                                                      {R"("a\n\"\\\/\b\f\r\t")", "a\n\"\\/\b\f\r\t"},
                                                      {R"("\u0041\u00e9\u20AC")", "A\xC3\xA9\xE2\x82\xAC"},
                                                      {R"("\uD834\uDD1E")", "\xF0\x9D\x84\x9E"},
                                                      {R"("\u0000")", "\0"s},
                                                      {"\"\xF4\x8F\xBF\xBF\xED\x9F\xBF\"", "\xF4\x8F\xBF\xBF\xED\x9F\xBF"}};
  for (const auto& [text, meant] : same) expect(Json::parse(text).string("x") == meant, text);
  for (const std::string& text : {R"("\uD834")"s, R"("\uD834\u0041")"s, R"("\uDD1E")"s, R"("\x")"s, R"("\u00g0")"s, R"("\u12)"s,
                                  "\"a"s, "\"\n\""s, "\"\xC0\x80\""s, "\"\xE0\x80\x80\""s, "\"\xED\xA0\x80\""s,
                                  "\"\xF4\x90\x80\x80\""s, "\"\x80\""s, "\"\xFF\""s, "\"\xE2\x82\""s, "\"\0\""s, "\"\\"s})
    refused(text, "JSON: expected", [&] { Json::parse(text); });
}

void trees() {
  const Json json = Json::parse(" {\"a\": [1, [], {}, null, true, false], \"b\" : {\"c\":\"d\"} }\n");
  expect(json.object("x").size() == 2 && json.at("a").array("a").size() == 6, "sizes");
  expect(json.at("a").array("a")[4].boolean("x") && !json.at("a").array("a")[5].boolean("x"), "booleans");
  expect(json.at("b").at("c").string("c") == "d" && !json.find("c"), "keys");
  refused("a missing key", "z: expected a value", [&] { json.at("z"); });
  refused("another kind", "a: expected a string", [&] { json.at("a").string("a"); });
  for (const char* text : {"{\"a\":1,\"a\":2}", "[1,]", "[,1]", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "[1 2]", "[1] 2",
                           "nul", "truefalse", "[", "{", "}", "'a'", "\xEF\xBB\xBF{}"})
    refused(text, "JSON: expected", [&] { Json::parse(text); });
  const auto nested = [](size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  expect(Json::parse(nested(65)).kind() == Json::Kind::array, "64 levels in one");
  refused("66 levels", "64 levels", [&] { Json::parse(nested(66)); });
  refused("a million levels", "64 levels", [&] { Json::parse(nested(1000000)); });
}

// A file with this header and so many bytes of data.
std::string file(const std::string& header, size_t data) {
  std::string text;
  for (int i = 0; i < 8; ++i) text += char(header.size() >> (8 * i) & 0xFF);
  return text + header + std::string(data, '\x01');
}

void refused_file(const std::string& header, size_t data, const char* part) {
  const std::string text = file(header, data);
  refused(header, part, [&] { Safetensors::read(text.data(), text.size()); });
}

void tensors() {
  const std::string text = file(
      R"({"__metadata__":{"format":"x"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},)"
      R"("a":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"c":{"dtype":"I64","shape":[9007199254740991,9007199254740991,0],"data_offsets":[2,2]}}  )",
      10);
  const Safetensors read = Safetensors::read(text.data(), text.size());
  expect(read.metadata.at("format") == "x" && read.tensors.size() == 3, "what there is");
  const auto& b = read.tensors.at("b");
  expect(b.dtype == "F32" && b.shape == std::vector<int64_t>{2, 1} && b.count == 2 && b.data == text.data() + text.size() - 8,
         "b");
  expect(read.tensors.at("a").count == 1 && read.tensors.at("c").count == 0, "counts");
  for (size_t size = 0; size < text.size(); ++size) refused("cut", "", [&] { Safetensors::read(text.data(), size); });
  const std::string longer = text + "x";
  refused("more", "bytes follow", [&] { Safetensors::read(longer.data(), longer.size()); });

  const std::string a = R"({"a":{"dtype":"F32","shape":)";
  refused_file("[]", 0, "expected an object");
  refused_file(a + R"([1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "overlap");
  refused_file(a + R"([1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", 6, "overlap");
  refused_file(a + R"([1],"data_offsets":[4,8]}})", 8, "gap");
  refused_file(a + R"([1],"data_offsets":[0,4]}})", 3, "outside");
  refused_file(a + R"([1],"data_offsets":[4,0]}})", 4, "outside");
  refused_file(a + R"([1],"data_offsets":[-4,0]}})", 4, "outside");
  refused_file(a + R"([2],"data_offsets":[0,4]}})", 4, "as many bytes");
  refused_file(a + R"([-1],"data_offsets":[0,4]}})", 4, "sizes of 0");
  refused_file(a + R"([4294967296,4294967296,4294967296],"data_offsets":[0,0]}})", 0, "as many bytes");
  refused_file(a + R"([0.5],"data_offsets":[0,4]}})", 4, "integer");
  refused_file(a + R"([1],"data_offsets":[0,4,4]}})", 4, "two data_offsets");
  refused_file(a + R"([1]}})", 4, "data_offsets: expected a value");
  refused_file(R"({"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}})", 4, "a known dtype");
  refused_file(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}})", 4, "only once");
  refused_file(R"({"__metadata__":{"a":1}})", 0, "expected a string");
  std::string vast(64, '\xFF');
  refused("a length near 2^64", "longer than the file", [&] { Safetensors::read(vast.data(), vast.size()); });
  refused_file("{}" + std::string(9 << 20, ' '), 0, "8 MiB");
}

// A GRU 3 -> 4 and a Linear 4 -> 2, as Python's Model.save writes them.
constexpr int kInputs = 3, kHidden = 4, kOutputs = 2;
const char* const kModel =
    R"({"inputs":[{"name":"x","features":[3],"time":true,"integer":false}],"nodes":[{"name":"gru","inputs":["x"],)"
    R"("kind":"recurrent","cell":"gru","input_size":3,"hidden_size":4,"num_layers":1,"bias":true,"direction":"forward",)"
    R"("proj_size":0,"proj_bias":false,"heads":1,"initial_state":false,"dropout":0.0,"recurrent_dropout":0.0,"zoneout":0.0,)"
    R"("constants":{},"precision":null,"keep":[]},{"name":"out","inputs":["gru"],"kind":"linear","in_features":4,)"
    R"("out_features":2,"bias":true}],"outputs":["out"],"dtype":"float32","batch_first":false})";

struct Part {
  const char* name;
  const char* shape;
  std::vector<float> values;
};

std::vector<Part> parts() {
  std::vector<Part> all = {{"gru.weight_ih_l0", "[12,3]", std::vector<float>(12 * 3)},
                           {"gru.weight_hh_l0", "[12,4]", std::vector<float>(12 * 4)},
                           {"gru.bias_ih_l0", "[12]", std::vector<float>(12)},
                           {"gru.bias_hh_l0", "[12]", std::vector<float>(12)},
                           {"out.weight", "[2,4]", std::vector<float>(8)},
                           {"out.bias", "[2]", std::vector<float>(2)}};
  int n = 0;
  for (Part& part : all)
    for (float& value : part.values) value = std::sin(float(++n));
  return all;
}

std::string own_file(const std::string& version = "1", const std::string& model = kModel, const std::string& more = "",
                     const std::string& dtype = "F32") {
  std::string quoted, header, data;
  for (const char c : model) (c == '"' ? quoted += '\\' : quoted) += c;
  header = R"({"__metadata__":{"format":"recurra","version":")" + version + R"(","model":")" + quoted + "\"}";
  for (const Part& part : parts()) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(part.values.data()), part.values.size() * sizeof(float));
    header += ",\"" + std::string(part.name) + R"(":{"dtype":")" + dtype + R"(","shape":)" + part.shape +
              R"(,"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(data.size()) + "]}";
  }
  std::string whole = file(header + more + "}", 0);
  return whole + data;
}

std::string changed(const std::string& from, const std::string& to) {
  std::string model = kModel;
  return model.replace(model.find(from), from.size(), to);
}

// What the model gives for a few steps of two rows.
std::vector<float> run(const recurra::Model<float>& model, const std::vector<float>& x, int64_t steps, int64_t rows) {
  std::vector<float> y(size_t(steps * rows * kOutputs));
  recurra::ModelCall<float> call;
  call.inputs.emplace_back();
  call.inputs[0].numbers = {x.data(), steps, rows, ptrdiff_t(rows * kInputs), kInputs};
  call.outputs.push_back({y.data(), steps, rows, ptrdiff_t(rows * kOutputs), kOutputs});
  model.forward(call);
  return y;
}

void models() {
  using recurra::Model;
  constexpr int64_t steps = 7, rows = 2;
  std::vector<float> x(steps * rows * kInputs), h(steps * rows * kHidden), last(rows * kHidden), y(steps * rows * kOutputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::cos(float(i));
  const std::vector<Part> all = parts();
  recurra::NetworkConfig config;
  config.cell = "gru", config.input_size = kInputs, config.hidden_size = config.output_size = kHidden;
  const recurra::Network<float> network(
      config, {{all[0].values.data(), all[1].values.data(), all[2].values.data(), all[3].values.data()}});
  float* finals[] = {last.data()};
  network.forward({x.data(), steps, rows, rows * kInputs, kInputs}, nullptr, nullptr,
                  {h.data(), steps, rows, rows * kHidden, kHidden}, finals);
  recurra::Linear<float>(kHidden, kOutputs, all[4].values.data(), all[5].values.data())
      .forward(h.data(), steps * rows, y.data());
  const auto same = [&](const Model<float>& model) {
    return std::memcmp(run(model, x, steps, rows).data(), y.data(), y.size() * sizeof(float)) == 0;
  };

  const std::string text = own_file();
  expect(same(Model<float>::load(text.data(), text.size())), "the bits of its layers");
  const std::string shifted = "x" + text;
  expect(same(Model<float>::load(shifted.data() + 1, text.size())), "data at an odd place");

  const std::string path = "model_files.safetensors";
  std::ofstream(path, std::ios::binary) << text;
  expect(same(Model<float>::load(path)), "from a file");
  std::ofstream(path, std::ios::binary) << text.substr(0, text.size() - 1);
  refused("a file that is cut off", "outside the file", [&] { Model<float>::load(path); });
  std::remove(path.c_str());
  refused("no file", "no file that can be read at 'model_files.safetensors'", [&] { Model<float>::load(path); });
  refused("a folder", "no file that can be read", [] { Model<float>::load("."); });

  const auto refused_model = [](const std::string& bytes, const char* part) {
    refused(part, part, [&] { Model<float>::load(bytes.data(), bytes.size()); });
  };
  refused("another type", "expected float64", [&] { Model<double>::load(text.data(), text.size()); });
  refused_model(own_file("2"), "expected version 1, got '2'");
  refused_model(file("{}", 0), "'format' in its metadata");
  refused_model(own_file("1", "{}"), "expected");
  refused_model(own_file("1", "{"), "JSON: expected");
  refused_model(own_file("1", kModel, R"(,"out.more":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})"), "no node has");
  refused_model(own_file("1", kModel, "", "I32"), "expected F32, got I32");
  refused_model(own_file("1", changed(R"("hidden_size":4)", R"("hidden_size":5)")), "gru.weight_ih_l0': its shape");
  refused_model(own_file("1", changed(R"("hidden_size":4)", R"("hidden_size":2147483647)")), "gru.weight_ih_l0': its shape");
  refused_model(own_file("1", changed(R"("num_layers":1)", R"("num_layers":2147483647)")), "no tensor 'gru.weight_ih_l1'");
  refused_model(own_file("1", changed(R"("name":"out")", R"("name":"in")")), "no tensor 'in.weight'");
  refused_model(own_file("1", changed(R"("kind":"linear")", R"("kind":"pickle")")), "pickle");
  refused_model(own_file("1", changed(R"("in_features":4)", R"("in_features":4.5)")),
                "node 'out': in_features: expected an integer");
}

}  // namespace

int main() {
  std::locale::global(std::locale(std::locale(), new Commas));
  numbers(), strings(), trees(), tensors(), models();
  if (!failed) std::printf("model files: all as they should\n");
  return failed != 0;
}
