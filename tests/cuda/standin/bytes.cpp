// Memory of the stand-in's GPUs seen from outside their programs: compiled without sanitizers.
#include <cstring>
#include <new>

#include "standin.h"
#ifdef STANDIN_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif

namespace standin {
namespace {

constexpr size_t guard = 256;  // before and behind; the driver aligns to that too
constexpr std::align_val_t align{guard};
constexpr unsigned char guard_byte = 0x5a;

bool intact(const char* data) {
  for (size_t i = 0; i < guard; ++i)
    if (static_cast<unsigned char>(data[i]) != guard_byte) return false;
  return true;
}

// Not where the lower half of an address would be a small number: what pads an int among a kernel's arguments is what was left
// on the stack, and with the upper half of some pointer both would read as such an address.
char* plain_new(size_t bytes) {
  char* const data = static_cast<char*>(::operator new(bytes, align));
  const auto half = [](const char* address) { return reinterpret_cast<uintptr_t>(address) >> 32; };
  if (half(data - (1 << 20)) == half(data + bytes)) return data;
  char* const other = plain_new(bytes);  // before the first is free again
  ::operator delete(data, align);
  return other;
}

}  // namespace

char* guarded_new(size_t bytes) {
  char* const data = plain_new(bytes + 2 * guard) + guard;
  std::memset(data - guard, guard_byte, guard);
  std::memset(data, 0xff, bytes);  // NaN
  std::memset(data + bytes, guard_byte, guard);
  ASAN(__asan_poison_memory_region(data - guard, guard); __asan_poison_memory_region(data + bytes, guard);)
  return data;
}

void guarded_delete(char* data, size_t bytes) {
  ASAN(__asan_unpoison_memory_region(data - guard, bytes + 2 * guard);)
  std::memset(data, 0xff, bytes);
  ::operator delete(data - guard, align);
}

bool guards_intact(const char* data, size_t bytes) { return intact(data - guard) && intact(data + bytes); }

uint64_t hash_bytes(const char* data, size_t bytes) {
  uint64_t lanes[4] = {1, 2, 3, 4};
  size_t i = 0;
  for (; i + 32 <= bytes; i += 32)
    for (size_t lane = 0; lane < 4; ++lane) {
      uint64_t word;
      std::memcpy(&word, data + i + 8 * lane, 8);
      lanes[lane] = (lanes[lane] ^ word) * 0x9e3779b97f4a7c15u;
      lanes[lane] ^= lanes[lane] >> 32;
    }
  for (; i < bytes; ++i) lanes[0] = (lanes[0] ^ static_cast<unsigned char>(data[i])) * 0x9e3779b97f4a7c15u;
  return lanes[0] ^ lanes[1] * 3 ^ lanes[2] * 5 ^ lanes[3] * 7;
}

}  // namespace standin
