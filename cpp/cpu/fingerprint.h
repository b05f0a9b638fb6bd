// A sum over memory by which a change is noticed. Eight lanes of 64 bits, each stripe of 64 bytes added as XXH3 does (Y.
// Collet, xxHash): the product of a word's two halves, after a key that differs from stripe to stripe, and the word itself to
// its neighbour's lane, so that a change of one number is never missed; any other is with a chance of about 2^-64. Lanes are
// scrambled, one to one, after every 16 stripes, so that places count.
// Included by kernels.cpp, in the same namespace.

typedef unsigned long long Stripe __attribute__((vector_size(64)));

constexpr int kStripes = 16;  // between scrambles

struct FingerprintKeys {
  unsigned long long key[kStripes + 8] = {};
  constexpr FingerprintKeys() {
    for (int i = 0; i < kStripes + 8; ++i) {  // SplitMix64
      unsigned long long z = 0x9e3779b97f4a7c15u * (unsigned(i) + 1);
      z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
      z = (z ^ z >> 27) * 0x94d049bb133111ebu;
      key[i] = z ^ z >> 31;
    }
  }
};
constexpr FingerprintKeys fingerprint_keys;

// By reference: as a value, a vector that is wider than the machine's has no fixed way to be returned.
RECURRA_FN void load_stripe(Stripe& stripe, const void* from) { __builtin_memcpy(&stripe, from, sizeof stripe); }

// Each word's lower half times its upper half.
RECURRA_FN void multiply_halves(Stripe& words) {
#if defined(__AVX512VNNI__)
  words = (Stripe)_mm512_maskz_mul_epu32(0xff, (__m512i)words, (__m512i)(words >> 32));
#elif defined(__AVX2__)
  __m256i part[2];
  __builtin_memcpy(part, &words, sizeof words);
  for (__m256i& p : part) p = _mm256_mul_epu32(p, _mm256_srli_epi64(p, 32));
  load_stripe(words, part);
#elif defined(__x86_64__)
  __m128i part[4];
  __builtin_memcpy(part, &words, sizeof words);
  for (__m128i& p : part) p = _mm_mul_epu32(p, _mm_srli_epi64(p, 32));
  load_stripe(words, part);
#else
  words = (words & 0xffffffffu) * (words >> 32);
#endif
}

RECURRA_FN void add_stripe(Stripe& sum, const void* from, int number) {
  Stripe data, key;
  load_stripe(data, from);
  load_stripe(key, fingerprint_keys.key + number);
#if defined(__clang__)
  sum += __builtin_shufflevector(data, data, 1, 0, 3, 2, 5, 4, 7, 6);
#else
  sum += __builtin_shuffle(data, Stripe{1, 0, 3, 2, 5, 4, 7, 6});
#endif
  data ^= key;
  multiply_halves(data);
  sum += data;
}

RECURRA_FN void scramble(Stripe& sum) {
  Stripe key;
  load_stripe(key, fingerprint_keys.key + 8);
  sum = ((sum ^ sum >> 47) ^ key) * 0x9e3779b1u;
}

// Adds to sum[8].
void fingerprint(const char* from, ptrdiff_t bytes, unsigned long long* out) {
  Stripe sum;
  load_stripe(sum, out);
  for (; bytes >= 64 * kStripes; from += 64 * kStripes, bytes -= 64 * kStripes) {
#pragma GCC unroll 16
    for (int i = 0; i < kStripes; ++i) {
      __builtin_prefetch(from + 64 * i + 2048);
      add_stripe(sum, from + 64 * i, i);
    }
    scramble(sum);
  }
  for (int i = 0; bytes > 0; from += 64, bytes -= 64, ++i) {
    char last[64] = {};
    __builtin_memcpy(last, from, size_t(bytes < 64 ? bytes : 64));
    add_stripe(sum, last, i);
  }
  scramble(sum);
  __builtin_memcpy(out, &sum, sizeof sum);
}
