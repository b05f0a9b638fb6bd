// Activations and softmax of values between layers, ActivationCall and SoftmaxCall. Included by kernels.cpp after rows.h, in
// the same namespace.

template <class T>
void activation(const ActivationCall<T>& call) {
  const Chosen<Vec<T>> chosen(call.function, Vec<T>(call.alpha), Vec<T>(call.beta), Vec<T>(T(__builtin_inf())));
  for (ptrdiff_t i = 0; i < call.count; i += Vec<T>::lanes)
    activate(chosen, Vec<T>::load(call.x + i, call.count - i)).store(call.y + i, call.count - i);
}

// log(x) of a number not below 1: of x = 2^n (1 + u). Of NaN, NaN.
template <class T>
T log_above_one(T x) {
  if (x != x) return x;
  using C = Constants<T>;
  using Int = typename C::Int;
  Int bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const Vec<T> n(T((bits >> C::mantissa_bits) - C::exponent_bias));
  const Int of_one = Int(C::exponent_bias) << C::mantissa_bits, mantissa = (Int(1) << C::mantissa_bits) - 1;
  bits = (bits & mantissa) | of_one;
  __builtin_memcpy(&x, &bits, sizeof x);
  const Vec<T> u = Vec<T>(x) - Vec<T>(1);
  return fma(n, Vec<T>(C::ln2_hi), fma(n, Vec<T>(C::ln2_lo), log1p_of_unit(u))).v[0];
}

template <class T>
__attribute__((noinline)) void softmax_of_row(const T* x, T* y, ptrdiff_t size, bool log) {
  constexpr int U = Vec<T>::lanes;
  T most = x[0];
  for (ptrdiff_t i = 1; i < size; ++i) most = most < x[i] ? x[i] : most;
  Parts<T> sum;
  sum.add(size, [&](ptrdiff_t at, Vec<T> part) {
    if (at >= size) return part;
    Vec<T> e = exp(Vec<T>::load(x + at, size - at) - Vec<T>(most));
    if (size - at < U) e = only(e, size - at);
    if (!log) e.store(y + at, size - at);
    return part + e;
  });
  const T total = sum.total();
  const Vec<T> by(log ? log_above_one(total) : total);
  for (ptrdiff_t i = 0; i < size; i += U) {
    const Vec<T> v = Vec<T>::load((log ? x : y) + i, size - i);
    (log ? v - Vec<T>(most) - by : v / by).store(y + i, size - i);
  }
}

template <class T>
void softmax(const SoftmaxCall<T>& call) {
  for (ptrdiff_t r = 0; r < call.rows; ++r) softmax_of_row(call.x + r * call.size, call.y + r * call.size, call.size, call.log);
}
