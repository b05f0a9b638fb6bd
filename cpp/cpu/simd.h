// The vector type of one instruction set: GCC and Clang vector extensions, plus the two things they lack (fma, broadcast).
// Included by kernels.cpp inside the unnamed namespace of an instruction set's own namespace, after <immintrin.h> or
// <arm_neon.h>.

#if defined(__AVX512F__)
#define RECURRA_VECTOR_BYTES 64
#define RECURRA_REGISTERS 32
#elif defined(__AVX2__) && defined(__FMA__)
#define RECURRA_VECTOR_BYTES 32
#define RECURRA_REGISTERS 16
#elif defined(__aarch64__)
#define RECURRA_VECTOR_BYTES 16
#define RECURRA_REGISTERS 32
#else
#define RECURRA_VECTOR_BYTES 16
#define RECURRA_REGISTERS 16
#endif

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  typedef float type __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef int bits __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
};

template <>
struct Lanes<double> {
  typedef double type __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
  typedef long long bits __attribute__((vector_size(RECURRA_VECTOR_BYTES)));
};

#define RECURRA_FN RECURRA_INLINE

template <class T>
struct Vec {
  using Scalar = T;
  using Raw = typename Lanes<T>::type;
  using Bits = typename Lanes<T>::bits;
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
  RECURRA_FN void store(T* p) const { __builtin_memcpy(p, &v, sizeof(Raw)); }
  // The first n lanes only.
  RECURRA_FN void store(T* p, ptrdiff_t n) const {
    if (n >= lanes) return store(p);
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = v[i];
  }
  RECURRA_FN Bits bits() const { return (Bits)v; }
  static RECURRA_FN Vec from_bits(Bits b) { return Vec((Raw)b); }

  friend RECURRA_FN Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  friend RECURRA_FN Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  friend RECURRA_FN Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  friend RECURRA_FN Vec operator/(Vec a, Vec b) { return a.v / b.v; }
  friend RECURRA_FN Vec operator-(Vec a) { return -a.v; }
  friend RECURRA_FN Bits operator<(Vec a, Vec b) { return a.v < b.v; }
};

// a * b + c, rounded once wherever the machine can; the generic x86-64 baseline rounds twice.
#if defined(__AVX512F__)
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

template <class T>
RECURRA_FN Vec<T> select(typename Vec<T>::Bits mask, Vec<T> yes, Vec<T> no) {
  return Vec<T>(mask ? yes.v : no.v);
}
