// Matrices transposed, four rows and columns at a time in registers: between a caller's weights, packed tiles and
// tiles for backward. A plain loop over single numbers takes three times as long (bench/NOTES.md).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace recurra {
namespace detail {

typedef float Four __attribute__((vector_size(16)));
typedef int32_t Lanes4 __attribute__((vector_size(16)));

// Lanes of a (0 to 3) and b (4 to 7).
template <int i, int j, int k, int l>
inline Four chosen(Four a, Four b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, i, j, k, l);
#else
  return __builtin_shuffle(a, b, Lanes4{i, j, k, l});
#endif
}

inline void transpose_four(float* out, ptrdiff_t out_stride, const float* in, ptrdiff_t in_stride) {
  Four a, b, c, d;
  std::memcpy(&a, in, sizeof a);
  std::memcpy(&b, in + in_stride, sizeof b);
  std::memcpy(&c, in + 2 * in_stride, sizeof c);
  std::memcpy(&d, in + 3 * in_stride, sizeof d);
  const Four ab = chosen<0, 4, 1, 5>(a, b), ab2 = chosen<2, 6, 3, 7>(a, b);
  const Four cd = chosen<0, 4, 1, 5>(c, d), cd2 = chosen<2, 6, 3, 7>(c, d);
  const Four turned[4] = {chosen<0, 1, 4, 5>(ab, cd), chosen<2, 3, 6, 7>(ab, cd), chosen<0, 1, 4, 5>(ab2, cd2),
                          chosen<2, 3, 6, 7>(ab2, cd2)};
  for (int i = 0; i < 4; ++i) std::memcpy(out + i * out_stride, &turned[i], sizeof turned[i]);
}

inline void transpose_four(double* out, ptrdiff_t out_stride, const double* in, ptrdiff_t in_stride) {
  for (int c = 0; c < 4; ++c)
    for (int r = 0; r < 4; ++r) out[c * out_stride + r] = in[r * in_stride + c];
}

// out[c * out_stride + r] = in[r * in_stride + c].
template <class T>
void transpose(T* out, ptrdiff_t out_stride, const T* in, ptrdiff_t in_stride, int64_t rows, int64_t columns) {
  for (int64_t c = 0; c < columns; c += 4)
    for (int64_t r = 0; r < rows; r += 4) {
      if (c + 4 <= columns && r + 4 <= rows) {
        transpose_four(out + c * out_stride + r, out_stride, in + r * in_stride + c, in_stride);
        continue;
      }
      for (int64_t j = c; j < std::min(columns, c + 4); ++j)
        for (int64_t i = r; i < std::min(rows, r + 4); ++i) out[j * out_stride + i] = in[i * in_stride + j];
    }
}

}  // namespace detail
}  // namespace recurra
