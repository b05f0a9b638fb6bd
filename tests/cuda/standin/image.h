// A compiled program: this and a shared object.
#pragma once
#include <cstddef>

namespace standin {

struct Image {
  char magic[16] = "recurra standin";
  char build[48] = {};  // which compiler, options and emulator
  size_t bytes = 0;     // of the object
  int architecture = 0;
  bool flush = false;
};

}  // namespace standin
