// What is drawn for random networks: the same every time.
#pragma once
#include <cstddef>
#include <random>
#include <vector>

inline std::mt19937 random_engine(7);

inline int random_int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_engine); }

template <class T>
std::vector<T> random_values(size_t count) {
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<T> values(count);
  for (T& v : values) v = T(uniform(random_engine));
  return values;
}
