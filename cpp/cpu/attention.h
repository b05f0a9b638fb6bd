// The attention of a row, AttentionCall. Included by kernels.cpp after math.h, in the same namespace. What a sum over units
// depends on is the number of its parts, never that of the lanes which hold them.

template <class T>
struct Parts {
  static constexpr int vectors = kAttentionParts / Vec<T>::lanes;
  static_assert(vectors * Vec<T>::lanes == kAttentionParts, "a part is a lane");
  Vec<T> part[vectors];

  RECURRA_FN Parts() {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) part[v] = Vec<T>(0);
  }
  // term(at, sum) is sum with the terms of the vector at `at` added.
  template <class Term>
  RECURRA_FN void add(ptrdiff_t size, const Term& term) {
    for (ptrdiff_t i = 0; i < size; i += kAttentionParts)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) part[v] = term(i + v * Vec<T>::lanes, part[v]);
  }
  RECURRA_FN T total() const {
    T sum[kAttentionParts];
    for (int v = 0; v < vectors; ++v) part[v].store(sum + v * Vec<T>::lanes);
    for (int half = kAttentionParts / 2; half; half /= 2)
      for (int i = 0; i < half; ++i) sum[i] = sum[i] + sum[i + half];
    return sum[0];
  }
};

// exp(-x) for x >= 0.
template <class T>
RECURRA_FN Vec<T> exp_minus(Vec<T> x) {
  const ReducedExp<T> e = reduced_exp<-1>(clip(x, Vec<T>(Constants<T>::sigmoid_limit)));
  return fma(e.scale, e.p, e.scale);
}

// Scores to their softmax, in place.
template <class T>
void softmax(T* alpha, int words) {
  constexpr int U = Vec<T>::lanes;
  const int filled = (words + kAttentionParts - 1) / kAttentionParts * kAttentionParts;
  T most = alpha[0];
  for (int j = 1; j < words; ++j) most = most < alpha[j] ? alpha[j] : most;
  for (int j = words; j < filled; ++j) alpha[j] = most;
  for (int j = 0; j < filled; j += U) exp_minus(Vec<T>(most) - Vec<T>::load(alpha + j)).store(alpha + j);
  for (int j = words; j < filled; ++j) alpha[j] = 0;
  Parts<T> sum;
  sum.add(filled, [&](ptrdiff_t at, Vec<T> part) { return part + Vec<T>::load(alpha + at); });
  const Vec<T> total(sum.total());
  for (int j = 0; j < filled; j += U) (Vec<T>::load(alpha + j) / total).store(alpha + j);
}

template <class T>
void attention(const AttentionCall<T>& call) {
  constexpr int U = Vec<T>::lanes;
  for (int j = 0; j < call.words; ++j) {
    const T* const key = call.keys + j * call.units;
    Parts<T> score;
    score.add(call.units, [&](ptrdiff_t at, Vec<T> part) {
      return fma(Vec<T>::load(call.weight + at), tanh(Vec<T>::load(key + at) + Vec<T>::load(call.query + at)), part);
    });
    call.alpha[j] = score.total();
  }
  softmax(call.alpha, call.words);
  for (ptrdiff_t at = 0; at < call.size; at += U) {
    Vec<T> sum(0);
    for (int j = 0; j < call.words; ++j) sum = fma(Vec<T>(call.alpha[j]), Vec<T>::load(call.values + j * call.size + at), sum);
    sum.store(call.context + at);
  }
}

template <class T>
void attention_backward(const AttentionCall<T>& call) {
  constexpr int U = Vec<T>::lanes;
  const int filled = (call.words + kAttentionParts - 1) / kAttentionParts * kAttentionParts;
  for (int j = 0; j < call.words; ++j) {
    const T* const value = call.values + j * call.size;
    Parts<T> d_alpha;
    d_alpha.add(call.size, [&](ptrdiff_t at, Vec<T> part) {
      return fma(Vec<T>::load(call.context + at), Vec<T>::load(value + at), part);
    });
    call.d_score[j] = d_alpha.total();
    for (ptrdiff_t at = 0; at < call.size; at += U) {
      T* const to = call.d_values + j * call.size + at;
      fma(Vec<T>(call.alpha[j]), Vec<T>::load(call.context + at), Vec<T>::load(to)).store(to);
    }
  }
  for (int j = call.words; j < filled; ++j) call.d_score[j] = 0;
  Parts<T> expected;
  expected.add(filled, [&](ptrdiff_t at, Vec<T> part) {
    return fma(Vec<T>::load(call.alpha + at), Vec<T>::load(call.d_score + at), part);
  });
  const Vec<T> mean(expected.total());
  for (int j = 0; j < filled; j += U)
    (Vec<T>::load(call.alpha + j) * (Vec<T>::load(call.d_score + j) - mean)).store(call.d_score + j);

  for (ptrdiff_t at = 0; at < call.units; at += U) {
    const Vec<T> one(1), weight = Vec<T>::load(call.weight + at), query = Vec<T>::load(call.query + at);
    Vec<T> d_weight = Vec<T>::load(call.d_weight + at), d_query(0);
    for (int j = 0; j < call.words; ++j) {
      T* const d_key = call.d_keys + j * call.units + at;
      const Vec<T> e = tanh(Vec<T>::load(call.keys + j * call.units + at) + query), d_score(call.d_score[j]);
      const Vec<T> d = d_score * weight * ((one - e) * (one + e));
      d_weight = fma(d_score, e, d_weight);
      d_query = d_query + d;
      (Vec<T>::load(d_key) + d).store(d_key);
    }
    d_query.store(call.d_query + at);
    d_weight.store(call.d_weight + at);
  }
}
