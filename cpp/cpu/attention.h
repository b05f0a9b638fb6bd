// The attention of a row, AttentionCall. Included by kernels.cpp after pointwise.h, in the same namespace.

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
  softmax_of_row(call.alpha, call.alpha, call.words, false);
  for (int j = call.words; j % kParts; ++j) call.alpha[j] = 0;
  for (ptrdiff_t at = 0; at < call.size; at += U) {
    Vec<T> sum(0);
    for (int j = 0; j < call.words; ++j) sum = fma(Vec<T>(call.alpha[j]), Vec<T>::load(call.values + j * call.size + at), sum);
    sum.store(call.context + at);
  }
}

template <class T>
void attention_backward(const AttentionCall<T>& call) {
  constexpr int U = Vec<T>::lanes;
  const int filled = (call.words + kParts - 1) / kParts * kParts;
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
