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

template <class T>
RECURRA_FN Vec<T> select(typename Vec<T>::Bits mask, Vec<T> yes, Vec<T> no) {
  return Vec<T>(mask ? yes.v : no.v);
}
