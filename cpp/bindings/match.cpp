// The core's match-LSTM, behind checks of its arrays.
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
    const int64_t B = call.rows, S = call.steps, W = call.words + 1, H = match_.size(), A = match_.units();
    const auto all = pointers("gradients", gradients,
                              {{"dy", {S, B, H}, Use::read},
                               {"d_values", {W, B, H}, Use::write},
                               {"d_keys", {W, B, A}, Use::write},
                               {"d_chains", {S, B, A}, Use::write},
                               {"d_joined", {S, B, 2 * H}, Use::write},
                               {"d_gates", {S, B, 4 * H}, Use::write},
                               {"d_weight", {A}, Use::write}});
    const MatchGradients<T> to = {all[0], all[1], all[2], all[3], all[4], all[5], all[6]};
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
    if (arrays.size() != 6 || arrays[0].ndim() != 3 || arrays[2].ndim() != 3 || !arrays[0].shape(0))
      throw py::value_error("values, queries: expected six arrays, three axes, and the NULL word at least");
    const int64_t W = arrays[0].shape(0), B = arrays[0].shape(1), S = arrays[2].shape(0), H = match_.size(), A = match_.units();
    const auto all = pointers("arrays", arrays,
                              {{"values", {W, B, H}, Use::read},
                               {"keys", {W, B, A}, Use::read},
                               {"queries", {S, B, A}, Use::read},
                               {"joined", {S, B, 2 * H}, Use::write},
                               {"y", {S, B, H}, Use::write},
                               {"alpha", {S, B, W}, Use::write}});
    MatchCall<T> call;
    call.values = all[0], call.keys = all[1], call.queries = all[2], call.joined = all[3], call.y = all[4], call.alpha = all[5];
    call.record = optional<T>("record", record, {match_.record_size(S, B)}, Use::write);
    call.steps = S, call.rows = B, call.words = W - 1;
    call.reverse = reverse;
    call.word_counts = counts("word_counts", word_counts, B, call.words);
    call.lengths = counts("lengths", lengths, B, S);
    return call;
  }

  struct Expected {
    const char* name;
    std::vector<int64_t> shape;
    Use use;
  };
  static std::vector<T*> pointers(const char* title, const Arrays& arrays, const std::vector<Expected>& expected) {
    check_count(title, expected.size(), arrays.size());
    std::vector<T*> all;
    for (size_t i = 0; i < arrays.size(); ++i)
      all.push_back(data<T>(expected[i].name, arrays[i], expected[i].shape, Layout::whole, expected[i].use));
    return all;
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

void define_match(py::module_& m) {
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
