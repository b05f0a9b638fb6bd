// A .wav through a model as a plug-in would do it: block by block, one stream a channel, nothing allocated in between.
//
//   play model.safetensors in.wav out.wav
//
// The model takes one number a sample and gives one. Reads 16-bit and 32-bit float samples, writes 32-bit float.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra/model.h"

namespace {

constexpr int64_t kBlock = 64;  // samples, as a sound card hands them over
constexpr int kMostChannels = 16;

struct Wav {
  uint32_t rate = 0;
  int channels = 0;
  std::vector<float> samples;  // [time, channel]
};

template <class T>
T number(const std::vector<char>& bytes, size_t at) {
  T value;
  if (at + sizeof value > bytes.size()) throw std::runtime_error("the file ends too early");
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

Wav read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be opened");
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 12 || std::memcmp(bytes.data(), "RIFF", 4) || std::memcmp(bytes.data() + 8, "WAVE", 4))
    throw std::runtime_error(std::string(path) + ": expected a .wav");
  Wav wav;
  int format = 0, bits = 0;
  for (size_t at = 12; at + 8 <= bytes.size();) {
    const std::string name(bytes.data() + at, 4);
    const size_t size = number<uint32_t>(bytes, at + 4), begin = at + 8;
    if (name == "fmt ") {
      format = number<uint16_t>(bytes, begin);
      wav.channels = number<uint16_t>(bytes, begin + 2);
      wav.rate = number<uint32_t>(bytes, begin + 4);
      bits = number<uint16_t>(bytes, begin + 14);
    } else if (name == "data") {
      const bool whole = format == 1 && bits == 16;
      if (!whole && !(format == 3 && bits == 32)) throw std::runtime_error("expected samples of 16 bits or 32-bit floats");
      for (size_t i = begin; i + size_t(bits / 8) <= begin + size; i += size_t(bits / 8))
        wav.samples.push_back(whole ? float(number<int16_t>(bytes, i)) / 32768 : number<float>(bytes, i));
    }
    at = begin + size + size % 2;
  }
  if (!wav.channels || !wav.rate) throw std::runtime_error(std::string(path) + ": expected a .wav with samples");
  return wav;
}

void write(const char* path, const Wav& wav) {
  std::ofstream file(path, std::ios::binary);
  const auto put = [&](auto value) { file.write(reinterpret_cast<const char*>(&value), sizeof value); };
  const uint32_t data = uint32_t(wav.samples.size() * sizeof(float)), frame = uint32_t(wav.channels) * 4;
  file.write("RIFF", 4), put(uint32_t(36 + data)), file.write("WAVEfmt ", 8), put(uint32_t(16));
  put(uint16_t(3)), put(uint16_t(wav.channels)), put(wav.rate), put(wav.rate * frame), put(uint16_t(frame)), put(uint16_t(32));
  file.write("data", 4), put(data), file.write(reinterpret_cast<const char*>(wav.samples.data()), std::streamsize(data));
  if (!file) throw std::runtime_error(std::string(path) + ": cannot be written");
}

void run(const char* model_path, const char* in, const char* out) {
  const auto model = recurra::Model<float>::load(model_path);
  Wav wav = read(in);
  if (wav.channels > kMostChannels) throw std::runtime_error("expected at most 16 channels");
  recurra::ModelStream<float> stream(model, wav.channels);  // the channels advance together

  const auto begin = std::chrono::steady_clock::now();
  const int64_t frames = int64_t(wav.samples.size()) / wav.channels;
  std::vector<recurra::ModelInput<float>> x(1);
  std::vector<recurra::Sequence<float>> y(1);
  for (int64_t first = 0; first < frames; first += kBlock) {
    const int64_t count = std::min(kBlock, frames - first);
    float* block = wav.samples.data() + first * wav.channels;
    float made[kBlock * kMostChannels];
    x[0].numbers = {block, count, wav.channels, wav.channels, 1};
    y[0] = {made, count, wav.channels, wav.channels, 1};
    stream.run(count, x, y);
    std::memcpy(block, made, size_t(count * wav.channels) * sizeof(float));
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  write(out, wav);
  std::printf("%.2f s of audio in %.4f s: %.0f times faster than real time\n", double(frames) / wav.rate, took.count(),
              double(frames) / wav.rate / took.count());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) return std::fprintf(stderr, "usage: play model.safetensors in.wav out.wav\n"), 2;
  try {
    run(arguments[1], arguments[2], arguments[3]);
    return 0;
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "play: %s\n", error.what()), 1;
  }
}
