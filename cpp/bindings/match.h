// The core's match-LSTM, behind checks of its arrays.
#pragma once
#include <variant>

#include "../engine/match.h"
#include "calls.h"

namespace recurra {
namespace bindings {

using OptionalLengths = std::optional<Int64Array>;

template <class T>
class CheckedMatch {
 public:
  CheckedMatch(int64_t size, int64_t units, const py::array& weight_state, const py::array& weight_score,
               const std::vector<OptionalArray>& lstm)
      : match_(made(size, units, weight_state, weight_score, lstm)) {}

  int64_t record_size(int64_t steps, int64_t rows) const { return match_.record_size(steps, rows); }

  void forward(const Arrays& arrays, const OptionalArray& record, const OptionalLengths& word_counts,
               const OptionalLengths& lengths, bool reverse) const {
    const MatchCall<T> call = checked(arrays, record, word_counts, lengths, reverse);
    until_signal(match_.multiplications(call.steps, call.rows, call.words),
                 [&](const Stop& stop) { match_.forward(call, stop); });
  }

  void backward(const Arrays& arrays, const OptionalArray& record, const OptionalLengths& word_counts,
                const OptionalLengths& lengths, bool reverse, const Arrays& gradients) const {
    const MatchCall<T> call = checked(arrays, record, word_counts, lengths, reverse);
    check_count("gradients", 7, gradients.size());
    const int64_t B = call.rows, S = call.steps, W = call.words + 1, H = match_.size(), A = match_.units();
    MatchGradients<T> to;
    to.dy = data<T>("dy", gradients[0], {S, B, H}, Layout::whole, Use::read);
    to.d_values = data<T>("d_values", gradients[1], {W, B, H}, Layout::whole, Use::write);
    to.d_keys = data<T>("d_keys", gradients[2], {W, B, A}, Layout::whole, Use::write);
    to.d_chains = data<T>("d_chains", gradients[3], {S, B, A}, Layout::whole, Use::write);
    to.d_joined = data<T>("d_joined", gradients[4], {S, B, 2 * H}, Layout::whole, Use::write);
    to.d_gates = data<T>("d_gates", gradients[5], {S, B, 4 * H}, Layout::whole, Use::write);
    to.d_weight = data<T>("d_weight", gradients[6], {A}, Layout::whole, Use::write);
    until_signal(std::max(2 * match_.multiplications(S, B, call.words), kWorthReleasing),
                 [&](const Stop& stop) { match_.backward(call, to, stop); });
  }

 private:
  static Match<T> made(int64_t H, int64_t A, const py::array& weight_state, const py::array& weight_score,
                       const std::vector<OptionalArray>& lstm) {
    check_count("lstm", 4, lstm.size());
    const T* state = data<T>("weight_state", weight_state, {A, H}, Layout::whole, Use::read);
    const T* score = data<T>("weight_score", weight_score, {A}, Layout::whole, Use::read);
    const std::vector<const T*> cell = {
        optional<T>("weight_ih", lstm[0], {4 * H, 2 * H}, Use::read), optional<T>("weight_hh", lstm[1], {4 * H, H}, Use::read),
        optional<T>("bias_ih", lstm[2], {4 * H}, Use::read), optional<T>("bias_hh", lstm[3], {4 * H}, Use::read)};
    const py::gil_scoped_release release;
    return Match<T>(H, A, state, score, cell);
  }

  MatchCall<T> checked(const Arrays& arrays, const OptionalArray& record, const OptionalLengths& word_counts,
                       const OptionalLengths& lengths, bool reverse) const {
    check_count("arrays", 6, arrays.size());
    const int64_t H = match_.size(), A = match_.units();
    MatchCall<T> call;
    call.values = data<T>("values", arrays[0], {kAny, kAny, H}, Layout::whole, Use::read);
    const int64_t W = arrays[0].shape(0), B = arrays[0].shape(1);
    if (!W) throw py::value_error("values: expected the NULL word at least");
    call.keys = data<T>("keys", arrays[1], {W, B, A}, Layout::whole, Use::read);
    call.queries = data<T>("queries", arrays[2], {kAny, B, A}, Layout::whole, Use::read);
    const int64_t S = arrays[2].shape(0);
    call.joined = data<T>("joined", arrays[3], {S, B, 2 * H}, Layout::whole, Use::write);
    call.y = data<T>("y", arrays[4], {S, B, H}, Layout::whole, Use::write);
    call.alpha = data<T>("alpha", arrays[5], {S, B, W}, Layout::whole, Use::write);
    call.record = optional<T>("record", record, {match_.record_size(S, B)}, Use::write);
    call.steps = S, call.rows = B, call.words = W - 1;
    call.reverse = reverse;
    call.word_counts = counts("word_counts", word_counts, B, call.words);
    call.lengths = counts("lengths", lengths, B, S);
    return call;
  }

  static const int64_t* counts(const char* name, const OptionalLengths& given, int64_t rows, int64_t most) {
    if (!given) return nullptr;
    check_count(name, size_t(rows), size_t(given->size()));
    for (int64_t r = 0; r < rows; ++r)
      if (given->data()[r] < 0 || given->data()[r] > most) throw py::value_error(std::string(name) + ": out of range");
    return given->data();
  }

  Match<T> match_;
};

class PyMatch {
 public:
  PyMatch(const std::string& dtype, int64_t size, int64_t units, const py::array& weight_state, const py::array& weight_score,
          const std::vector<OptionalArray>& lstm)
      : match_(dtype == "float64" ? AnyMatch(CheckedMatch<double>(size, units, weight_state, weight_score, lstm))
                                  : AnyMatch(CheckedMatch<float>(size, units, weight_state, weight_score, lstm))) {}

  int64_t record_size(int64_t steps, int64_t rows) const {
    return std::visit([&](const auto& match) { return match.record_size(steps, rows); }, match_);
  }
  void forward(const Arrays& arrays, const OptionalArray& record, const OptionalLengths& word_counts,
               const OptionalLengths& lengths, bool reverse) const {
    std::visit([&](const auto& match) { match.forward(arrays, record, word_counts, lengths, reverse); }, match_);
  }
  void backward(const Arrays& arrays, const OptionalArray& record, const OptionalLengths& word_counts,
                const OptionalLengths& lengths, bool reverse, const Arrays& gradients) const {
    std::visit([&](const auto& match) { match.backward(arrays, record, word_counts, lengths, reverse, gradients); }, match_);
  }

 private:
  using AnyMatch = std::variant<CheckedMatch<float>, CheckedMatch<double>>;
  AnyMatch match_;
};

inline void define_match(py::module_& m) {
  py::class_<PyMatch>(m, "Match", "A match-LSTM between two sequences of states, one direction; immutable.")
      .def(py::init<const std::string&, int64_t, int64_t, const py::array&, const py::array&,
                    const std::vector<OptionalArray>&>(),
           py::arg("dtype"), py::arg("size"), py::arg("units"), py::arg("weight_state"), py::arg("weight_score"),
           py::arg("lstm"), "lstm: weight_ih, weight_hh, bias_ih, bias_hh, None for an absent bias.")
      .def("record_size", &PyMatch::record_size, py::arg("steps"), py::arg("rows"), "Numbers of a record.")
      .def("forward", &PyMatch::forward, py::arg("arrays"), py::arg("record"), py::arg("word_counts"), py::arg("lengths"),
           py::arg("reverse"),
           "arrays: values [M+1, B, H], keys [M+1, B, A], queries [T, B, A], joined [T, B, 2H], y [T, B, H], "
           "alpha [T, B, M+1]. Writes y, alpha, the first halves of joined and, unless it is None, record.")
      .def("backward", &PyMatch::backward, py::arg("arrays"), py::arg("record"), py::arg("word_counts"), py::arg("lengths"),
           py::arg("reverse"), py::arg("gradients"),
           "arrays as of forward; gradients: dy, d_values, d_keys, d_chains, d_joined, d_gates, d_weight, zeros at first.");
}

}  // namespace bindings
}  // namespace recurra
