// Every cell over random graphs, and the match-LSTM over random sequences, both types: on three threads against one, and with
// recomputing against without, outputs and gradients to the bit. The hash of all results is the same on every instruction set
// with fused multiply-add, NEON included. Built with sanitizers it also shows stray memory accesses and data races.
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "draws.h"
#include "engine/graph.h"
#include "engine/match.h"

namespace {

using recurra::GraphConfig;
using recurra::GraphRows;
using recurra::Keep;

template <class T>
using Arrays = std::vector<std::vector<T>>;

template <class T>
std::vector<const T*> inputs_of(const Arrays<T>& arrays) {
  std::vector<const T*> pointers;
  for (const auto& array : arrays) pointers.push_back(array.data());
  return pointers;
}

template <class T>
std::vector<T*> outputs_of(Arrays<T>& arrays) {
  std::vector<T*> pointers;
  for (auto& array : arrays) pointers.push_back(array.data());
  return pointers;
}

template <class T>
bool same(const Arrays<T>& a, const Arrays<T>& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!a[i].empty() && std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(T))) return false;
  return true;
}

template <class T>
uint64_t hash_of(const Arrays<T>& arrays) {
  uint64_t hash = 14695981039346656037ull;
  for (const auto& array : arrays)
    for (const T& value : array) {
      unsigned char bytes[sizeof(T)];
      std::memcpy(bytes, &value, sizeof value);
      for (const unsigned char byte : bytes) hash = (hash ^ byte) * 1099511628211ull;
    }
  return hash;
}

// Takes one of the rows before `end` that is still free, or -1.
int64_t take(std::vector<int64_t>& free, int64_t end) {
  const auto usable = std::partition(free.begin(), free.end(), [&](int64_t row) { return row < end; });
  if (usable == free.begin() || random_int(0, 4) == 0) return -1;
  const auto chosen = free.begin() + random_int(0, int(usable - free.begin()) - 1);
  const int64_t row = *chosen;
  free.erase(chosen);
  return row;
}

std::shared_ptr<const GraphRows> random_rows(int slots, bool large) {
  std::vector<int64_t> fronts{random_int(0, 5)};
  for (int f = random_int(1, 6); f > 0; --f) fronts.push_back(fronts.back() + random_int(0, large ? 200 : 9));
  const int64_t rows = fronts.back(), given = fronts.front();
  std::vector<int64_t> free(size_t(rows), 0), source(size_t(rows), -1), before, first, children;
  const auto refill = [&] {
    free.resize(size_t(rows));
    for (int64_t r = 0; r < rows; ++r) free[size_t(r)] = r;
  };
  refill();
  const bool shares = random_int(0, 2) == 0;  // rows of x
  for (int64_t r = given; r < rows; ++r) source[size_t(r)] = shares ? random_int(-1, 4) : take(free, rows);
  const auto walk = [&](const auto& visit) {  // every row, with the first row of its front
    for (int64_t r = 0; r < given; ++r) visit(r, 0);
    for (size_t f = 1; f < fronts.size(); ++f)
      for (int64_t r = fronts[f - 1]; r < fronts[f]; ++r) visit(r, fronts[f - 1]);
  };
  for (int s = 0; s < slots; ++s) {
    refill();
    walk([&](int64_t, int64_t start) { before.push_back(take(free, start)); });
  }
  if (!slots) {
    refill();
    walk([&](int64_t, int64_t start) {
      first.push_back(int64_t(children.size()));
      for (int k = random_int(0, 4); k > 0; --k)
        if (const int64_t child = take(free, start); child >= 0) children.push_back(child);
    });
    first.push_back(int64_t(children.size()));
  }
  return std::make_shared<GraphRows>(fronts, slots, before, source, first, children);
}

// Zero if threads or recomputing change a bit.
template <class T>
uint64_t graph_trial(const char* cell, int slots, bool large) {
  GraphConfig config;
  config.cell = cell;
  config.input_size = random_int(1, 30);
  config.hidden_size = random_int(1, large ? 90 : 40);
  config.slots = slots;
  if (!std::strcmp(cell, "grid")) {
    config.dimensions.assign(size_t(slots), "lstm");
    config.dimensions.back() = slots > 1 ? "tanh" : "lstm";
    for (int d = 0; d < slots; ++d) config.priority.push_back(d == 1), config.residual.push_back(d % 2 == 0);
    config.standard = random_int(0, 1) == 1;
  }
  const recurra::GraphSpec spec = graph_spec(config);
  Arrays<T> params;
  for (int p = 0; p < spec.params.size; ++p) {
    int64_t size = 1;
    for (const int64_t n : graph_shape(spec.params[p], config)) size *= n;
    params.push_back(random_values<T>(size_t(size)));
    for (T& value : params.back()) value *= T(0.4);
  }
  const recurra::GraphNetwork<T> network(config, inputs_of(params));
  const auto rows = random_rows(config.slots, large);
  const size_t states = graph_states(spec).size(), width = size_t(config.hidden_size);
  const auto x = random_values<T>(size_t(rows->inputs * config.input_size));
  Arrays<T> given(states), gradients(states);
  for (size_t s = 0; s < states; ++s) {
    given[s] = random_values<T>(size_t(rows->given) * width);
    gradients[s] = random_values<T>(size_t(rows->rows) * width);
  }
  const auto run = [&](int threads, Keep keep) {
    recurra::set_num_threads(threads);
    Arrays<T> out(states), d_given(given), d_params(params);
    for (auto& array : out) array.resize(size_t(rows->rows) * width);
    std::vector<T> dx(x.size());
    const auto record = network.forward(x.data(), rows->inputs, rows, inputs_of(given), outputs_of(out), keep, {});
    recurra::GraphTape<T>(record).backward(inputs_of(gradients), dx.data(), outputs_of(d_given), outputs_of(d_params), {});
    out.push_back(dx);
    out.insert(out.end(), d_given.begin(), d_given.end());
    out.insert(out.end(), d_params.begin(), d_params.end());
    return out;
  };
  const Arrays<T> one = run(1, Keep::everything);
  const bool agree = same(one, run(3, Keep::everything)) && same(one, run(3, Keep::states));
  if (!agree) std::printf("%s, %d slots, H %d: differs\n", cell, slots, int(config.hidden_size));
  return agree ? hash_of(one) : 0;
}

// Likewise.
template <class T>
uint64_t match_trial(bool large) {
  const int64_t size = random_int(1, 40), units = random_int(1, 40);
  recurra::MatchCall<T> call;
  call.steps = random_int(1, 12), call.rows = random_int(1, large ? 40 : 5), call.words = random_int(0, 30);
  call.reverse = random_int(0, 1) == 1;
  const auto state = random_values<T>(size_t(units * size)), score = random_values<T>(size_t(units));
  const Arrays<T> lstm = {random_values<T>(size_t(8 * size * size)), random_values<T>(size_t(4 * size * size)),
                          random_values<T>(size_t(4 * size)), random_values<T>(size_t(4 * size))};
  const recurra::Match<T> match(size, units, state.data(), score.data(), inputs_of(lstm));
  std::vector<int64_t> counts, lengths;
  for (int64_t r = 0; r < call.rows; ++r)
    counts.push_back(random_int(0, int(call.words))), lengths.push_back(random_int(0, int(call.steps)));
  call.word_counts = counts.data(), call.lengths = lengths.data();
  const size_t places = size_t((call.words + 1) * call.rows), moments = size_t(call.steps * call.rows);
  auto values = random_values<T>(places * size_t(size));
  std::fill(values.end() - call.rows * size, values.end(), T(0));  // NULL
  const auto keys = random_values<T>(places * size_t(units)), queries = random_values<T>(moments * size_t(units));
  const auto words = random_values<T>(moments * size_t(2 * size)), dy = random_values<T>(moments * size_t(size));
  call.values = values.data(), call.keys = keys.data(), call.queries = queries.data();
  const auto run = [&](int threads) {
    recurra::set_num_threads(threads);
    Arrays<T> out = {words,
                     std::vector<T>(moments * size_t(size)),
                     std::vector<T>(moments * size_t(call.words + 1)),
                     std::vector<T>(places * size_t(size)),
                     std::vector<T>(places * size_t(units)),
                     std::vector<T>(moments * size_t(units)),
                     std::vector<T>(moments * size_t(2 * size)),
                     std::vector<T>(moments * size_t(4 * size)),
                     std::vector<T>(size_t(units))};
    std::vector<T> record(size_t(match.record_size(call.steps, call.rows)));
    recurra::MatchCall<T> mine = call;
    mine.joined = out[0].data(), mine.y = out[1].data(), mine.alpha = out[2].data(), mine.record = record.data();
    match.forward(mine, {});
    match.backward(mine, {dy.data(), out[3].data(), out[4].data(), out[5].data(), out[6].data(), out[7].data(), out[8].data()},
                   {});
    return out;
  };
  const Arrays<T> one = run(1);
  const bool agree = same(one, run(3));
  if (!agree) std::printf("match-LSTM, H %d: differs\n", int(size));
  return agree ? hash_of(one) : 0;
}

}  // namespace

// With any argument, no large trials: for emulators.
int main(int argc, char**) {
  random_engine.seed(11);
  struct {
    const char* cell;
    int least, most;  // slots
  } constexpr cells[] = {{"child_sum_tree", 0, 0}, {"nary_tree", 1, 4},     {"s_lstm_tree", 1, 4},  {"mdlstm", 1, 4},
                         {"mdlstm_halved", 1, 4},  {"mdlstm_stable", 1, 4}, {"mdlstm_leaky", 1, 4}, {"mdlstm_leakylp", 1, 4},
                         {"grid", 1, 4},           {"time_frequency", 2, 2}};
  int trials = 0, failed = 0;
  uint64_t sum = 0;
  const auto count = [&](uint64_t hash) {
    ++trials;
    failed += hash == 0;
    sum = sum * 31 + hash;
  };
  for (const auto& cell : cells)
    for (int slots = cell.least; slots <= cell.most; ++slots) {
      count(graph_trial<float>(cell.cell, slots, false));
      count(graph_trial<double>(cell.cell, slots, false));
    }
  for (int n = 0; n < 5; ++n) count(match_trial<float>(false)), count(match_trial<double>(false));
  if (argc == 1) {
    for (const auto& cell : cells) count(graph_trial<float>(cell.cell, cell.most, true));
    count(match_trial<float>(true));
  }
  std::printf("%s: %d trials, %d failed, hash %016llx\n", recurra::isa().c_str(), trials, failed, (unsigned long long)sum);
  return failed ? 1 : 0;
}
