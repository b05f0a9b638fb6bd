// The vector type of one instruction set: GCC and Clang vector extensions, plus what they lack: fma, min and max,
// dot products of narrow numbers.
// Included by kernels.cpp inside the unnamed namespace of an instruction set's own namespace, after <immintrin.h> or
// <arm_neon.h>.

#if defined(__AVX512VNNI__)
#define RECURRA_VECTOR_BYTES 64
#define RECURRA_ACCUMULATORS 24
#elif defined(__AVX2__) && defined(__FMA__)
#define RECURRA_VECTOR_BYTES 32
#define RECURRA_ACCUMULATORS 12
#elif defined(__aarch64__)
#define RECURRA_VECTOR_BYTES 16
#define RECURRA_ACCUMULATORS 24
#else
#define RECURRA_VECTOR_BYTES 16
#define RECURRA_ACCUMULATORS 8
#define RECURRA_FALLBACK true  // for machines without a fused multiply-add: little code rather than fast
#endif
#ifndef RECURRA_FALLBACK
#define RECURRA_FALLBACK false
#endif

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float type __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef int bits __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef unsigned words __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
};

template <>
struct Lanes<double> {
  typedef double type __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef long long bits __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef unsigned long long words __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
};

#define RECURRA_FN RECURRA_INLINE

// Whether fma rounds once. Where it does not, a product on its own may be too small for a normal number.
constexpr bool kFusesProducts = !RECURRA_FALLBACK;

// Whether little code counts for more than the last per cents of speed: activations are called then, and cells share the code
// of their products.
template <class T>
constexpr bool kLittleCode = RECURRA_FALLBACK || sizeof(T) == sizeof(double);

template <class T>
struct Vec {
  using Scalar = T;
  using Raw = typename Lanes<T>::type;
  using Bits = typename Lanes<T>::bits;
  using Words = typename Lanes<T>::words;  // for arithmetic, which those of a NaN may overflow
  static constexpr int lanes = RECURRA_VECTOR_BYTES / sizeof(T);

  Raw v;

  Vec() = default;
  RECURRA_FN Vec(Raw raw) : v(raw) {}
  RECURRA_FN explicit Vec(T x) : v(x - Raw{}) {}

  static RECURRA_FN Vec load(const T* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof(Raw));
    return r;
  }
  // n numbers, none if n < 1, then zeros.
  static RECURRA_FN Vec load(const T* p, ptrdiff_t n) {
    if (n >= lanes) return load(p);
    Vec r(T(0));
#if defined(__AVX512VNNI__)
    if constexpr (sizeof(T) == sizeof(float)) return _mm512_mask_loadu_ps(r.v, first(n), p);
    if constexpr (sizeof(T) == sizeof(double)) return _mm512_mask_loadu_pd(r.v, first(n), p);
#endif
    for (ptrdiff_t i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  RECURRA_FN void store(T* p) const { __builtin_memcpy(p, &v, sizeof(Raw)); }
  // The first n lanes only, none if n < 1.
  RECURRA_FN void store(T* p, ptrdiff_t n) const {
    if (n >= lanes) return store(p);
    if (n == 1) return void(*p = v[0]);  // which, unlike a masked store, a load soon after need not wait for
#if defined(__AVX512VNNI__)
    if constexpr (sizeof(T) == sizeof(float)) return _mm512_mask_storeu_ps(p, first(n), v);
    if constexpr (sizeof(T) == sizeof(double)) return _mm512_mask_storeu_pd(p, first(n), v);
#endif
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = v[i];
  }
#if defined(__AVX512VNNI__)
  static RECURRA_FN __mmask16 first(ptrdiff_t n) { return n > 0 ? __mmask16((1 << n) - 1) : __mmask16(0); }
#endif
  RECURRA_FN Bits bits() const { return (Bits)v; }
  static RECURRA_FN Vec from_bits(Bits b) { return Vec((Raw)b); }
  RECURRA_FN Words words() const { return (Words)v; }
  static RECURRA_FN Vec from_words(Words w) { return Vec((Raw)w); }

  friend RECURRA_FN Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend RECURRA_FN Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend RECURRA_FN Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend RECURRA_FN Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend RECURRA_FN Vec operator-(Vec a) { return -a.v; }
  friend RECURRA_FN Bits operator<(Vec a, Vec b) { return a.v < b.v; }
};

// Keeps v in its register: left alone, GCC reads weights anew for each of two or three rows, and reading becomes the limit.
// With 16 registers there is none to spare.
template <class T>
RECURRA_FN void pin(Vec<T>& v) {
#if defined(__AVX512VNNI__)
  asm("" : "+v"(v.v));
#else
  (void)v;
#endif
}

// a * b + c, rounded once wherever the machine can; the generic x86-64 baseline rounds twice.
#if defined(__AVX512VNNI__)
RECURRA_FN Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
RECURRA_FN Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
#elif defined(__AVX2__) && defined(__FMA__)
RECURRA_FN Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
RECURRA_FN Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
#elif defined(__aarch64__)
RECURRA_FN Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return vfmaq_f32(c.v, a.v, b.v); }
RECURRA_FN Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return vfmaq_f64(c.v, a.v, b.v); }
#else
template <class T>
RECURRA_FN Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return a * b + c;
}
#endif

// The smaller and the larger of a and b; NaN when b is NaN. (With full masks, since GCC 12 warns of the unmasked intrinsics.)
#if defined(__AVX512VNNI__)
RECURRA_FN Vec<float> min(Vec<float> a, Vec<float> b) { return _mm512_mask_min_ps(a.v, 0xffff, a.v, b.v); }
RECURRA_FN Vec<float> max(Vec<float> a, Vec<float> b) { return _mm512_mask_max_ps(a.v, 0xffff, a.v, b.v); }
RECURRA_FN Vec<double> min(Vec<double> a, Vec<double> b) { return _mm512_mask_min_pd(a.v, 0xff, a.v, b.v); }
RECURRA_FN Vec<double> max(Vec<double> a, Vec<double> b) { return _mm512_mask_max_pd(a.v, 0xff, a.v, b.v); }
#elif defined(__AVX2__) && defined(__FMA__)
RECURRA_FN Vec<float> min(Vec<float> a, Vec<float> b) { return _mm256_min_ps(a.v, b.v); }
RECURRA_FN Vec<float> max(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a.v, b.v); }
RECURRA_FN Vec<double> min(Vec<double> a, Vec<double> b) { return _mm256_min_pd(a.v, b.v); }
RECURRA_FN Vec<double> max(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a.v, b.v); }
#else
template <class T>
RECURRA_FN Vec<T> min(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v < b.v ? a.v : b.v);
}
template <class T>
RECURRA_FN Vec<T> max(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v > b.v ? a.v : b.v);
}
#endif

#if defined(__AVX512VNNI__)
RECURRA_FN Vec<float> sqrt(Vec<float> a) { return _mm512_mask_sqrt_ps(a.v, 0xffff, a.v); }
RECURRA_FN Vec<double> sqrt(Vec<double> a) { return _mm512_mask_sqrt_pd(a.v, 0xff, a.v); }
#elif defined(__AVX2__) && defined(__FMA__)
RECURRA_FN Vec<float> sqrt(Vec<float> a) { return _mm256_sqrt_ps(a.v); }
RECURRA_FN Vec<double> sqrt(Vec<double> a) { return _mm256_sqrt_pd(a.v); }
#elif defined(__aarch64__)
RECURRA_FN Vec<float> sqrt(Vec<float> a) { return vsqrtq_f32(a.v); }
RECURRA_FN Vec<double> sqrt(Vec<double> a) { return vsqrtq_f64(a.v); }
#elif defined(__SSE2__)
RECURRA_FN Vec<float> sqrt(Vec<float> a) { return _mm_sqrt_ps(a.v); }
RECURRA_FN Vec<double> sqrt(Vec<double> a) { return _mm_sqrt_pd(a.v); }
#else
template <class T>
RECURRA_FN Vec<T> sqrt(Vec<T> a) {
  for (int i = 0; i < Vec<T>::lanes; ++i) a.v[i] = sizeof(T) == 4 ? __builtin_sqrtf(float(a.v[i])) : __builtin_sqrt(a.v[i]);
  return a;
}
#endif

RECURRA_FN Vec<float> to_float(Vec<float>::Bits integers) { return __builtin_convertvector(integers, Vec<float>::Raw); }

// The lowest byte of each.
RECURRA_FN void lowest_bytes(int8_t (&out)[Vec<float>::lanes], Vec<float>::Bits integers) {
#if defined(__aarch64__)  // which GCC takes from the vector one by one
  const int16x8_t halves = vuzp1q_s16((int16x8_t)integers, (int16x8_t)integers);
  const int8x16_t bytes = vuzp1q_s8((int8x16_t)halves, (int8x16_t)halves);
  __builtin_memcpy(out, &bytes, sizeof out);
#else
  for (int lane = 0; lane < Vec<float>::lanes; ++lane) out[lane] = int8_t(integers[lane]);
#endif
}

// Four int8 numbers of a row, to be multiplied with the four weights in each word of a vector and added to `sum`.
#if defined(__AVX512VNNI__)
struct FourBytes {
  // The instruction takes one side unsigned, so x + 128 is multiplied, and sums start at -128 times the sum of the weights.
  static constexpr bool shifted = true;
  __m512i x;
  RECURRA_FN explicit FourBytes(int word) : x(_mm512_set1_epi32(word ^ int(0x80808080))) {}
  RECURRA_FN Vec<float>::Bits dot(Vec<float>::Bits sum, Vec<float>::Bits weights) const {
    return (Vec<float>::Bits)_mm512_dpbusd_epi32((__m512i)sum, x, (__m512i)weights);
  }
};
#elif defined(__AVX2__)
struct FourBytes {
  // |x| (w sign(x)) stays within int16 for pairs (2 * 127 * 127 < 2^15): nothing saturates.
  static constexpr bool shifted = false;
  __m256i x, size;
  RECURRA_FN explicit FourBytes(int word) : x(_mm256_set1_epi32(word)), size(_mm256_abs_epi8(x)) {}
  RECURRA_FN Vec<float>::Bits dot(Vec<float>::Bits sum, Vec<float>::Bits weights) const {
    const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8((__m256i)weights, x));
    return sum + (Vec<float>::Bits)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
};
#elif defined(__aarch64__)
struct FourBytes {
  // Products of two pairs, then of each four: a pair stays within int16, and nothing saturates.
  static constexpr bool shifted = false;
  int8x16_t x;
  RECURRA_FN explicit FourBytes(int word) : x((int8x16_t)vdupq_n_s32(word)) {}
  RECURRA_FN Vec<float>::Bits dot(Vec<float>::Bits sum, Vec<float>::Bits weights) const {
    const int8x16_t w = (int8x16_t)weights;
    const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x));
    return (Vec<float>::Bits)vpadalq_s16((int32x4_t)sum, pairs);
  }
};
#else
struct FourBytes {
  static constexpr bool shifted = false;
  int x[4];
  RECURRA_FN explicit FourBytes(int word) {
    for (int i = 0; i < 4; ++i) x[i] = int8_t(word >> 8 * i);
  }
  RECURRA_FN Vec<float>::Bits dot(Vec<float>::Bits sum, Vec<float>::Bits weights) const {
    for (int i = 0; i < 4; ++i) sum += ((weights << (24 - 8 * i)) >> 24) * x[i];
    return sum;
  }
};
#endif

#if defined(__AVX512VNNI__)
// Two bfloat16 numbers of a row, to be multiplied with the two weights in each word of a vector and added to `sum`: the upper
// pair's product first, then the lower's, each addition rounded once. For machines with AVX512_BF16, which not all that run
// this file have; hence not by an intrinsic.
struct TwoHalves {
  __m512i x;
  RECURRA_FN explicit TwoHalves(int word) : x(_mm512_set1_epi32(word)) {}
  friend RECURRA_FN Vec<float> fma(TwoHalves a, Vec<float> weights, Vec<float> sum) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(a.x), "v"(weights.v));
    return sum;
  }
};
#endif

// How a multiply-add takes a lane of a vector for its factor: sum + x[lane] * w, `w` being weights of the i-th lane in order.
struct NoLane {
  static constexpr bool there = false;
};
#if defined(__aarch64__)
struct FullLane {
  static constexpr bool there = true;
  static constexpr int per_word = 1;  // lanes
  template <int i, class T>
  static RECURRA_FN Vec<T> weight(const T* words, ptrdiff_t stride) {
    return Vec<T>::load(words + i * stride);
  }
  template <int i>
  static RECURRA_FN Vec<float> add(Vec<float> sum, Vec<float> x, Vec<float> w) {
    return vfmaq_laneq_f32(sum.v, w.v, x.v, i);
  }
  template <int i>
  static RECURRA_FN Vec<double> add(Vec<double> sum, Vec<double> x, Vec<double> w) {
    return vfmaq_laneq_f64(sum.v, w.v, x.v, i);
  }
};

// Words of two bfloat16 numbers, x being float32: the upper first.
struct WidenedLane {
  static constexpr bool there = true;
  static constexpr int per_word = 2;
  template <int i>
  static RECURRA_FN Vec<float> weight(const float* words, ptrdiff_t stride) {
    const auto word = Vec<float>::load(words + i / 2 * stride).bits();
    return Vec<float>::from_bits(i % 2 ? word << 16 : word & int(0xffff0000));
  }
  template <int i>
  static RECURRA_FN Vec<float> add(Vec<float> sum, Vec<float> x, Vec<float> w) {
    return vfmaq_laneq_f32(sum.v, w.v, x.v, i ^ 1);
  }
};

// The same where x are words as well, the upper product first, each addition rounded once. For machines with FEAT_BF16, which
// not all that run this file have; hence not by an intrinsic. (bfdot, bfmmla round otherwise.)
struct HalvesLane : FullLane {
  template <int i>
  static RECURRA_FN Vec<float> add(Vec<float> sum, Vec<float> x, Vec<float> w) {
    asm(".arch armv8.2-a+bf16\n\tbfmlalt %0.4s, %1.8h, %2.h[%c3]" : "+w"(sum.v) : "w"(w.v), "x"(x.v), "i"(2 * i + 1));
    asm(".arch armv8.2-a+bf16\n\tbfmlalb %0.4s, %1.8h, %2.h[%c3]" : "+w"(sum.v) : "w"(w.v), "x"(x.v), "i"(2 * i));
    return sum;
  }
};
struct TwoHalves {
  Vec<float> x;
  RECURRA_FN explicit TwoHalves(int word) : x(Vec<float>::from_bits(Vec<float>::Bits{word})) {}
  friend RECURRA_FN Vec<float> fma(TwoHalves a, Vec<float> weights, Vec<float> sum) {
    return HalvesLane::add<0>(sum, a.x, weights);
  }
};

// Words of four int8 numbers, for machines with FEAT_DotProd.
struct DotLane : FullLane {
  template <int i>
  static RECURRA_FN Vec<float>::Bits add(Vec<float>::Bits sum, Vec<float> x, Vec<float> w) {
    asm(".arch armv8.2-a+dotprod\n\tsdot %0.4s, %1.16b, %2.4b[%c3]" : "+w"(sum) : "w"(w.v), "w"(x.v), "i"(i));
    return sum;
  }
};
struct DotBytes {
  static constexpr bool shifted = false;
  Vec<float> x;
  RECURRA_FN explicit DotBytes(int word) : x(Vec<float>::from_bits(Vec<float>::Bits{word})) {}
  RECURRA_FN Vec<float>::Bits dot(Vec<float>::Bits sum, Vec<float>::Bits weights) const {
    return DotLane::add<0>(sum, x, Vec<float>::from_bits(weights));
  }
};

// Has GCC read what `from` points to after the sum is made, or it reads all that it can see first, and sums go to the stack.
template <class T, class V>
RECURRA_FN void read_after(const T*& from, V& sum) {
  asm("" : "+r"(from), "+w"(sum));
}
template <class T>
RECURRA_FN void read_after(const T*& from, Vec<T>& sum) {
  asm("" : "+r"(from), "+w"(sum.v));
}
#else
using FullLane = NoLane;
using WidenedLane = NoLane;
using HalvesLane = NoLane;
#endif

template <class T>
RECURRA_FN Vec<T> select(typename Vec<T>::Bits mask, Vec<T> yes, Vec<T> no) {
  return Vec<T>(mask ? yes.v : no.v);
}
