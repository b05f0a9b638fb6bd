// A match-LSTM: an LSTM over the words of one sequence (the hypothesis) that at every step also reads what attention finds in
// another (the premise). S. Wang, J. Jiang, NAACL 2016, arXiv 1512.08849. For every row, with states h and c of zero at first:
//
//   score_j = w . tanh(key_j + query_k + W_m h(k-1)),  alpha = softmax(score),  a_k = the sum over j of alpha_j value_j
//   h(k), c(k) = LSTM([a_k; q_k], h(k-1), c(k-1))
//
// Products that do not wait for a step, those of keys and queries, and the sums of gradients over rows are the caller's.
#pragma once
#include "model.h"

namespace recurra {

// The arrays of a call, contiguous. T steps of B rows, M words of a premise and after them the NULL word, whose value is zero.
// Rows have words of their own number and NULL, and steps of their own number.
template <class T>
struct MatchCall {
  int64_t steps = 0, rows = 0, words = 0;  // words: M
  const int64_t* word_counts = nullptr;    // [B], 0 .. M; null: M
  const int64_t* lengths = nullptr;        // [B], 0 .. T; null: T
  bool reverse = false;                    // from the last step of each row to its first
  const T* values = nullptr;               // [M + 1, B, H]
  const T* keys = nullptr;                 // [M + 1, B, A]
  const T* queries = nullptr;              // [T, B, A]
  T* joined = nullptr;                     // [T, B, 2H]: a_k, written by forward, then q_k
  T* y = nullptr;                          // [T, B, H], h
  T* alpha = nullptr;                      // [T, B, M + 1]
  T* record = nullptr;                     // Match::record_size numbers for backward; null: none is to come
};

// Of a MatchCall, contiguous too. Backward writes the words and steps of each row only.
template <class T>
struct MatchGradients {
  const T* dy = nullptr;  // [T, B, H]
  T* d_values = nullptr;  // [M + 1, B, H]; only what comes through a_k
  T* d_keys = nullptr;    // [M + 1, B, A]
  T* d_chains = nullptr;  // [T, B, A]: of the query and of W_m h(k-1)
  T* d_joined = nullptr;  // [T, B, 2H]
  T* d_gates = nullptr;   // [T, B, 4H]: of the LSTM's chains
  T* d_weight = nullptr;  // [A]: of w
};

// Immutable.
template <class T>
class Match {
 public:
  // weight_state is W_m [A, H], weight_score w [A]; lstm: weight_ih [4H, 2H], weight_hh [4H, H], bias_ih and bias_hh, which may
  // be null.
  Match(int64_t size, int64_t units, const T* weight_state, const T* weight_score, const std::vector<const T*>& lstm);

  int64_t size() const { return size_; }
  int64_t units() const { return units_; }
  int64_t record_size(int64_t steps, int64_t rows) const;
  double multiplications(int64_t steps, int64_t rows, int64_t words) const;  // about
  // Arrays of values and keys at padded words, and of steps past a row's length, are not read, and what is there not written.
  void forward(const MatchCall<T>& call, const Stop& stop) const;
  void backward(const MatchCall<T>& call, const MatchGradients<T>& gradients, const Stop& stop) const;

 private:
  struct Places;
  class Walk;
  void run(const MatchCall<T>& call, const MatchGradients<T>* gradients, const Stop& stop) const;

  int64_t size_, units_, filled_size_, filled_units_;
  std::shared_ptr<const detail::Model<T>> lstm_;
  Linear<T> state_map_;
  std::vector<T> weight_score_;  // filled up
};

}  // namespace recurra
