#include "cache.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace recurra {
namespace cuda {
namespace {

uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

std::string path_of(const std::string& folder, const std::string& key) { return folder + "/" + key + ".cubin"; }

// A file begins with the key and the content's hash, and is as long as the content and these.
std::string header_of(const std::string& key, const std::string& content) {
  Hash hash;
  hash.add(content);
  return "recurra " + key + " " + hash.hex() + "\n";
}

bool write_all(int file, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = write(file, text.data() + done, text.size() - done);
    if (count <= 0) return false;
    done += size_t(count);
  }
  return true;
}

}  // namespace

void Hash::add(uint64_t word) {
  a_ = mix(a_ ^ word) + 0x9e3779b97f4a7c15u;
  b_ = mix(b_ + word) ^ 0xd1b54a32d192ed03u;
}

void Hash::add(const std::string& text) {
  add(uint64_t(text.size()));
  for (size_t i = 0; i < text.size(); i += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + i, std::min(sizeof word, text.size() - i));
    add(word);
  }
}

std::string Hash::hex() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(a_), static_cast<unsigned long long>(b_));
  return text;
}

std::optional<std::string> load(const std::string& folder, const std::string& key) {
  if (folder.empty()) return {};
  std::ifstream file(path_of(folder, key), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t end = text.find('\n');
  if (!file || end == std::string::npos) return {};
  std::string content = text.substr(end + 1);
  if (text.compare(0, end + 1, header_of(key, content)) != 0) return {};
  return content;
}

// A name of its own and then the right one, so that nobody reads half a file.
void store(const std::string& folder, const std::string& key, const std::string& content) {
  if (folder.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  std::string name = path_of(folder, key) + ".XXXXXX";
  const int file = mkstemp(name.data());
  if (file < 0) return;
  bool written = write_all(file, header_of(key, content)) && write_all(file, content);
  written = close(file) == 0 && written;
  if (!written || std::rename(name.c_str(), path_of(folder, key).c_str()) != 0) unlink(name.c_str());
}

}  // namespace cuda
}  // namespace recurra
