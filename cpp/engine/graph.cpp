#include "graph.h"

#include "arguments.h"
#include "graph_model.h"
#include "transpose.h"

namespace recurra {

using detail::expect;
using detail::SpareMemory;

template <class T>
GraphModel<T>::GraphModel(const GraphConfig& the_config, const std::vector<const T*>& params) : config(the_config) {
  expect(int(params.size()) == spec.params.size, "params: expected those of the cell's table");
  const int64_t lanes = kernel.lanes;
  for (int p = 0; p < spec.params.size; ++p) {
    expect(params[size_t(p)] || spec.params[p].optional, "params: expected all that are not optional");
    has.push_back(params[size_t(p)] != nullptr);
  }
  bias = Buffer<T>(size_t(chain_width()));
  for (int b = 0; b < spec.biases.size; ++b) {
    const GraphBias& part = spec.biases[b];
    if (has[size_t(part.param)]) std::copy_n(params[size_t(part.param)], part.count * units, bias.data() + part.chain * units);
  }
  if (spec.vectors >= 0 && has[size_t(spec.vectors)]) {
    vectors = Buffer<T>(size_t(spec.vector_count * units));
    std::copy_n(params[size_t(spec.vectors)], spec.vector_count * units, vectors.data());
  }
  for (const bool counting : {true, false}) {
    int64_t used = 0;
    weights.assign(size_t(spec.phases.size), {});
    for (int p = 0; p < spec.phases.size; ++p)
      for (int i = 0; i < spec.phases[p].products.size; ++i) {
        const GraphProduct& product = spec.phases[p].products[i];
        Packed packed;
        const T* param = params[size_t(product.param)];
        if (param && source_width(product.source)) {
          packed.inputs = source_width(product.source);
          packed.outputs = product.count * units;
          const int64_t width = param_width(spec.params[product.param]);
          const T* weight = param + product.row * units * width + product.column * units;
          packed.forward.size = packed.inputs * lanes;
          packed.forward.units = int(packed.outputs);
          packed.backward.size = packed.outputs * lanes;
          packed.backward.units = int(packed.inputs);
          T* to = memory.data() + used;
          packed.forward.base = to;
          used += tiles(packed.outputs) * packed.forward.size;
          T* back = memory.data() + used;
          packed.backward.base = back;
          used += tiles(packed.inputs) * packed.backward.size;
          for (int64_t o = 0; !counting && o < packed.outputs; o += lanes)
            detail::transpose(to + o * packed.inputs, lanes, weight + o * width, width, std::min(lanes, packed.outputs - o),
                              packed.inputs);
          for (int64_t t = 0; !counting && t < packed.inputs; t += lanes)
            for (int64_t o = 0; o < packed.outputs; ++o)
              std::copy_n(weight + o * width + t, std::min(lanes, packed.inputs - t),
                          back + (t / lanes * packed.outputs + o) * lanes);
        }
        weights[size_t(p)].push_back(packed);
      }
    if (counting) {
      multiplications = double(used) / 2;
      memory = Buffer<T>(size_t(used));
    }
  }
}

template <class T>
GraphNetwork<T>::GraphNetwork(const GraphConfig& config, const std::vector<const T*>& params)
    : model_(std::make_shared<GraphModel<T>>(config, params)) {}

template <class T>
const GraphConfig& GraphNetwork<T>::config() const {
  return model_->config;
}

template <class T>
const GraphSpec& GraphNetwork<T>::spec() const {
  return model_->spec;
}

template <class T>
double GraphNetwork<T>::multiplications(int64_t rows) const {
  return model_->multiplications * double(rows);
}

template <class T>
GraphRecord<T>::GraphRecord(std::shared_ptr<const GraphModel<T>> the_model, std::shared_ptr<const GraphRows> the_rows,
                            int64_t the_inputs, Keep keep)
    : model(std::move(the_model)), rows(std::move(the_rows)), inputs(the_inputs), recompute(keep == Keep::states) {
  const int64_t units = model->units, children = int64_t(rows->children.size());
  T* copy = nullptr;
  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory.data()};
    deal.panel(states, odd_width(model->spec.states * units), rows->rows + 1);
    deal.take(child_states, children);
    if (keep != Keep::nothing) deal.take(copy, inputs * model->config.input_size);
    if (keep == Keep::everything) {
      deal.panel(chains, odd_width(model->chain_width()), rows->rows - rows->given);
      deal.panel(child_chains, odd_width(units), children);
    }
    if (rows->shares()) deal.panel(fed, odd_width(model->chain_width()), rows->inputs);
    if (counting) memory = SpareMemory::of_process().take(deal.used);
  }
  std::fill_n(states[rows->rows], states.stride, T(0));
  for (int64_t k = 0; k < children; ++k) child_states[k] = rows->children[size_t(k)] * states.stride;
  x = copy;
}

template <class T>
std::shared_ptr<const GraphRecord<T>> GraphNetwork<T>::forward(const T* x, int64_t inputs,
                                                               std::shared_ptr<const GraphRows> rows,
                                                               const std::vector<const T*>& given, const std::vector<T*>& out,
                                                               Keep keep, const Stop& stop) const {
  const GraphModel<T>& model = *model_;
  const int states = model.spec.states;
  expect(rows->lists() == (model.spec.slots == 0) && rows->slots == model.spec.slots, "graph: expected the slots of the cell");
  expect(inputs >= rows->inputs, "x: expected as many rows as the graph's sources say");
  expect(int(given.size()) == states && int(out.size()) == states, "given, out: expected one array a state");
  auto record = std::make_shared<GraphRecord<T>>(model_, rows, inputs, keep);
  if (record->x)
    std::copy_n(x, inputs * model.config.input_size, const_cast<T*>(record->x));
  else
    record->x = x;
  const int64_t units = model.units;
  TeamLease team(model.multiplications * double(rows->rows) < kWorthWaking ? 1 : num_threads());
  Barrier barrier(team.size());
  Stopper stopper(stop);
  GraphFrontEnd front_end{stopper, barrier};
  // What is not kept: every worker's chains, those of a chunk; few rows whose columns are divided have them in common.
  Panel<T> chains, child_chains;
  T* sums = nullptr;
  int64_t most_children = 0;
  for (int64_t r = 0; rows->lists() && r < rows->rows; r += 1)
    most_children = std::max(most_children, rows->first[size_t(std::min(rows->rows, r + kGraphRows))] - rows->first[size_t(r)]);
  const bool spare = keep != Keep::everything;
  Buffer<char> memory;
  for (const bool counting : {true, false}) {
    Dealer deal{counting ? nullptr : memory.data()};
    deal.take(sums, rows->lists() ? team.size() * kGraphRows * units : 0);
    deal.panel(chains, odd_width(model.chain_width()), spare ? team.size() * kGraphRows : 0);
    deal.panel(child_chains, odd_width(units), spare ? team.size() * most_children : 0);
    if (counting) memory = SpareMemory::of_process().take(deal.used);
  }
  auto job = [&](int rank) {
    const Environment environment(model.backend);
    const GraphShare worker{rank, team.size()};
    for (int64_t r = worker.begin(rows->given); r < worker.end(rows->given); ++r)
      for (int i = 0; i < states; ++i) {
        T* to = record->states[r] + i * units;
        if (given[size_t(i)])
          std::copy_n(given[size_t(i)] + r * units, units, to);
        else
          std::fill_n(to, units, T(0));
      }
    if (rows->shares()) feed(*record, worker);
    barrier.wait(rank);
    for (size_t f = 0; f + 1 < rows->fronts.size(); ++f) {
      divide_rows(rows->fronts[f], rows->fronts[f + 1], model.multiplications, worker, front_end,
                  [&](int64_t first, int count, GraphShare share, const GraphMeeting& sync) {
                    GraphStep<T> step{*record, first, count, {}, {}, {}, sums + rank * kGraphRows * units, stopper};
                    const int64_t own = share.parts > 1 ? 0 : rank;
                    step.chains = spare ? Panel<T>{chains[own * kGraphRows], chains.stride}
                                        : Panel<T>{record->chains[first - rows->given], record->chains.stride};
                    if (rows->lists())
                      step.child_chains =
                          spare ? Panel<T>{child_chains[own * most_children], child_chains.stride}
                                : Panel<T>{record->child_chains[rows->first[size_t(first)]], record->child_chains.stride};
                    step.states = {record->states[first], record->states.stride};
                    step.forward(share, sync);
                  });
      if (!front_end.goes_on(rank, f)) return;
    }
    for (int i = 0; i < states; ++i)
      for (int64_t r = worker.begin(rows->rows); out[size_t(i)] && r < worker.end(rows->rows); ++r)
        std::copy_n(record->states[r] + i * units, units, out[size_t(i)] + r * units);
  };
  team.run(job);
  SpareMemory::of_process().give(std::move(memory));
  stopper.check();
  return keep == Keep::nothing ? nullptr : record;
}

template struct GraphModel<float>;
template struct GraphModel<double>;
template struct GraphRecord<float>;
template struct GraphRecord<double>;
template class GraphNetwork<float>;
template class GraphNetwork<double>;

}  // namespace recurra
