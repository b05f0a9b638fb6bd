// Compiled kernels on disk, each in a file of its own that is named after all that it depends on.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace recurra {
namespace cuda {

// 128 bits of a sequence of texts: two streams of SplitMix64's finaliser (G. Steele et al., OOPSLA 2014). It keeps apart what
// is different by chance, not what somebody has made to look alike.
class Hash {
 public:
  void add(const std::string& text);  // also its length: "a", "bc" is not "ab", "c"
  std::string hex() const;            // 32 digits

 private:
  void add(uint64_t word);
  uint64_t a_ = 0x9e3779b97f4a7c15u, b_ = 0xd1b54a32d192ed03u;
};

// What `store` has put under this key, unless the file is damaged or there is none. An empty folder has nothing.
std::optional<std::string> load(const std::string& folder, const std::string& key);

// Any number of processes may store the same. When it cannot be written, nothing happens: the next process compiles again.
void store(const std::string& folder, const std::string& key, const std::string& content);

}  // namespace cuda
}  // namespace recurra
