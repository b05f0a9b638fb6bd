// A cell of graphs with packed weights, and what forward and backward over a graph share.
#pragma once
#include <algorithm>
#include <cstring>
#include <utility>

#include "../threads/team.h"
#include "graph.h"
#include "stopper.h"
#include "worth.h"

namespace recurra {

using detail::Buffer;
using detail::Dealer;
using detail::Stopper;

// Rows that go through the phases together: their chains stay in the second-level cache.
constexpr int kGraphRows = 128;

// An odd number of cache lines (of floats), as in weight_gradients.cpp.
inline ptrdiff_t odd_width(ptrdiff_t width) { return ((width + 15) / 16 | 1) * 16; }

template <class T>
struct GraphModel {
  struct Packed {
    Tiles<T> forward, backward;  // tiles of outputs, of inputs
    int64_t inputs = 0, outputs = 0;
  };

  GraphModel(const GraphConfig& config, const std::vector<const T*>& params);

  const GraphConfig config;
  const GraphSpec spec = graph_spec(config);
  const Backend& backend = recurra::backend();
  const Kernels<T>& kernel = kernels<T>(backend);
  const int64_t units = config.hidden_size;
  std::vector<bool> has;                     // of each parameter
  std::vector<std::vector<Packed>> weights;  // [phase][product]; tiles are null where the parameter is left out
  Buffer<T> memory, bias, vectors;
  double multiplications = 0;  // of a row

  int64_t chain_width() const { return spec.chains * units; }
  int64_t source_width(const GraphSource& source) const {
    return source.kind == GraphSource::input ? config.input_size : units;
  }
  int64_t param_width(const GraphParam& param) const {
    return param.columns == Dim::input ? config.input_size : param.column_blocks * units;
  }
  int64_t tiles(int64_t columns) const { return (columns + kernel.lanes - 1) / kernel.lanes; }
  bool peepholes() const { return vectors.size() > 0; }
};

// Which part of rows or columns a worker has.
struct GraphShare {
  int rank = 0, parts = 1;
  int64_t begin(int64_t count) const { return count * rank / parts; }
  int64_t end(int64_t count) const { return count * (rank + 1) / parts; }
};

// Where workers wait for each other; nowhere without a barrier.
struct GraphMeeting {
  Barrier* barrier = nullptr;
  int rank = 0;
  void operator()() const {
    if (barrier) barrier->wait(rank);
  }
};

// The end of a front, where all workers leave a stopped call together: by rank 0's answer, one for even and one for odd fronts,
// because who is slow may still read that of the last.
struct GraphFrontEnd {
  Stopper& stopper;
  Barrier& barrier;
  bool stopped[2] = {};

  bool goes_on(int rank, size_t front) {
    stopper.poll();
    if (rank == 0) stopped[front & 1] = stopper.stopped();
    barrier.wait(rank);
    return !stopped[front & 1];
  }
};

// Calls work(first row, rows, share, sync) for every chunk of rows first .. end-1 that a worker has a part in: many rows are
// divided among workers; of few rows the columns are, and then workers meet wherever `sync` is called.
template <class Work>
void divide_rows(int64_t first, int64_t end, double multiplications, GraphShare worker, GraphFrontEnd& meet, const Work& work) {
  const int64_t count = end - first;
  const bool by_rows = count >= kRowsPerWorker * worker.parts || count > kGraphRows;
  const bool by_columns = !by_rows && multiplications * double(count) >= kWorthBarrier * worker.parts;
  if (by_columns) return work(first, int(count), worker, GraphMeeting{&meet.barrier, worker.rank});
  const int64_t from = by_rows ? first + worker.begin(count) : first;
  const int64_t to = by_rows ? first + worker.end(count) : worker.rank ? first : end;
  for (int64_t row = from; row < to && !meet.stopper.stopped(); row += kGraphRows, meet.stopper.poll())
    work(row, int(std::min<int64_t>(kGraphRows, to - row)), GraphShare{}, GraphMeeting{});
}

template <class T>
struct GraphRecord {
  std::shared_ptr<const GraphModel<T>> model;
  std::shared_ptr<const GraphRows> rows;
  Buffer<char> memory;
  int64_t inputs = 0;
  bool recompute = false;
  const T* x = nullptr;
  Panel<T> states;                    // one more row than there are, of zeros: absent predecessors
  Panel<T> chains;                    // of rows that are not given; after forward, what functions have saved. Null to recompute
  Panel<T> child_chains;              // of every child
  Panel<T> fed;                       // where rows share a row of x: with what that row makes their chains start, else null
  ptrdiff_t* child_states = nullptr;  // offsets of the children's states

  GraphRecord(std::shared_ptr<const GraphModel<T>> model, std::shared_ptr<const GraphRows> rows, int64_t inputs, Keep keep);
  ~GraphRecord() { detail::SpareMemory::of_process().give(std::move(memory)); }
  GraphRecord(const GraphRecord&) = delete;
};

// One chunk's way through the phases.
template <class T>
struct GraphStep {
  const GraphRecord<T>& record;
  int64_t first;
  int count;
  Panel<T> chains, child_chains;  // of the chunk
  Panel<T> states;                // where its states go
  T* sums;                        // [kGraphRows, H], this worker's own
  Stopper& stopper;

  void forward(GraphShare share, const GraphMeeting& sync) const;

  GraphCall<T> call(const GraphPhase& phase, GraphShare share, ptrdiff_t (&before)[kMaxSlots][kGraphRows]) const;

 private:
  // Whether the first product makes all chains of all rows, so that these can begin with the bias.
  bool begins() const;
  void product(const GraphProduct& product, const typename GraphModel<T>::Packed& packed, GraphShare share,
               const GraphMeeting& sync, const T* start) const;
};

// The sum of the children's h of row r.
template <class T>
void sum_children(const GraphRecord<T>& record, int64_t row, T* sum) {
  const int64_t units = record.model->units;
  std::fill_n(sum, units, T(0));
  for (int64_t k = record.rows->first[size_t(row)]; k < record.rows->first[size_t(row) + 1]; ++k) {
    const T* h = record.states.base + record.child_states[k];
    for (int64_t u = 0; u < units; ++u) sum[u] += h[u];
  }
}

// Adds products to `out`, or to the same numbers for all rows, `start`.
template <class T>
void run_gathered(const GraphModel<T>& model, const Tiles<T>& tiles, int64_t inputs, GraphShare share, int rows,
                  const Rows<const T>& x, const Rows<T>& out, const T* start = nullptr) {
  static constexpr ptrdiff_t nowhere_else[kGraphRows] = {};
  GatheredCall<T> call;
  call.tiles = tiles;
  call.tile_begin = int(share.begin(model.tiles(tiles.units)));
  call.tile_end = int(share.end(model.tiles(tiles.units)));
  call.rows = rows;
  call.inputs = inputs;
  call.x = x;
  call.start = start ? Rows<const T>{start, nowhere_else} : Rows<const T>{out.base, out.offset};
  call.out = out;
  if (rows && call.tile_begin < call.tile_end) model.kernel.gathered(call);
}

// The products of rows of x that several rows share, after the bias.
template <class T>
void feed(const GraphRecord<T>& record, GraphShare worker) {
  const GraphModel<T>& model = *record.model;
  const int64_t inputs = record.rows->inputs, end = worker.end(inputs);
  ptrdiff_t from[kGraphRows], to[kGraphRows];
  for (int64_t first = worker.begin(inputs); first < end; first += kGraphRows) {
    const int count = int(std::min<int64_t>(kGraphRows, end - first));
    for (int r = 0; r < count; ++r) {
      std::copy_n(model.bias.data(), model.chain_width(), record.fed[first + r]);
      from[r] = (first + r) * model.config.input_size;
      to[r] = r * record.fed.stride;
    }
    for (int p = 0; p < model.spec.phases.size; ++p)
      for (int i = 0; i < model.spec.phases[p].products.size; ++i) {
        const GraphProduct& product = model.spec.phases[p].products[i];
        const auto& packed = model.weights[size_t(p)][size_t(i)];
        if (product.source.kind == GraphSource::input && packed.outputs)
          run_gathered<T>(model, packed.forward, packed.inputs, GraphShare{}, count, {record.x, from},
                          {record.fed[first] + product.chain * model.units, to});
      }
  }
}

template <class T>
bool GraphStep<T>::begins() const {
  const GraphModel<T>& model = *record.model;
  const auto& products = model.spec.phases[0].products;
  if (record.fed.base || !products.size || products[0].source.kind != GraphSource::input) return false;
  const int64_t* const source = record.rows->source.data() + first;
  return model.weights[0][0].outputs == model.chain_width() && std::find(source, source + count, -1) == source + count;
}

template <class T>
void GraphStep<T>::product(const GraphProduct& product, const typename GraphModel<T>::Packed& packed, GraphShare share,
                           const GraphMeeting& sync, const T* start) const {
  const GraphModel<T>& model = *record.model;
  const GraphRows& rows = *record.rows;
  const GraphSource& source = product.source;
  const int64_t units = model.units, at = product.chain * units;
  ptrdiff_t from[kGraphRows], to[kGraphRows];
  if (source.kind == GraphSource::child) {
    const int64_t begin = rows.first[size_t(first)], end = rows.first[size_t(first + count)];
    for (int64_t r = share.begin(count); r < share.end(count); ++r)
      for (int64_t k = rows.first[size_t(first + r)]; k < rows.first[size_t(first + r) + 1]; ++k)
        std::copy_n(chains[r] + at, units, child_chains[k - begin]);
    sync();
    for (int64_t k = begin; k < end && !stopper.stopped(); k += kGraphRows, stopper.poll()) {
      const int some = int(std::min<int64_t>(kGraphRows, end - k));
      for (int i = 0; i < some; ++i) to[i] = (k - begin + i) * child_chains.stride;
      run_gathered<T>(model, packed.forward, packed.inputs, share, some, {record.states.base, record.child_states + k},
                      {child_chains.base, to});
    }
    return;
  }
  const T* base = record.states.base + source.state * units;
  int found = 0;
  for (int r = 0; r < count; ++r) {
    const size_t row = size_t(first + r);
    int64_t offset = -1;
    switch (source.kind) {
      case GraphSource::input: offset = rows.source[row] < 0 ? -1 : rows.source[row] * model.config.input_size; break;
      case GraphSource::before: {
        const int64_t q = rows.before[size_t(source.slot * rows.rows) + row];
        offset = q < 0 ? -1 : q * record.states.stride;
        break;
      }
      case GraphSource::own: offset = r * states.stride; break;
      default: offset = rows.first[row] == rows.first[row + 1] ? -1 : r * units;
    }
    if (offset < 0) continue;
    if (source.kind == GraphSource::sum) sum_children(record, int64_t(row), sums + r * units);
    from[found] = offset;
    to[found++] = r * chains.stride;
  }
  if (source.kind == GraphSource::input) base = record.x;
  if (source.kind == GraphSource::own) base = states.base + source.state * units;
  if (source.kind == GraphSource::sum) base = sums;
  run_gathered<T>(model, packed.forward, packed.inputs, share, found, {base, from}, {chains.base + at, to}, start);
}

template <class T>
GraphCall<T> GraphStep<T>::call(const GraphPhase& phase, GraphShare share, ptrdiff_t (&before)[kMaxSlots][kGraphRows]) const {
  const GraphModel<T>& model = *record.model;
  const GraphRows& rows = *record.rows;
  GraphCall<T> call;
  call.rows = count;
  call.units = model.units;
  call.begin = std::min<int64_t>(model.units, share.begin(model.tiles(model.units)) * model.kernel.lanes);
  call.end = std::min<int64_t>(model.units, share.end(model.tiles(model.units)) * model.kernel.lanes);
  call.slots = model.spec.slots;
  call.memories = model.spec.memories;
  call.option = phase.option;
  call.scale = T(model.spec.scale);
  call.vectors = model.peepholes() ? model.vectors.data() : nullptr;
  call.chains = {chains.base + phase.chain * model.units, chains.stride};
  for (int s = 0; s < rows.slots; ++s) {
    for (int r = 0; r < count; ++r) {
      const int64_t q = rows.before[size_t(s * rows.rows + first + r)];
      before[s][r] = (q < 0 ? rows.rows : q) * record.states.stride;
    }
    call.before[s] = {record.states.base, before[s]};
  }
  call.states = states;
  if (rows.lists()) {
    call.first = rows.first.data() + first;
    call.child_states = {record.states.base, record.child_states + *call.first};
    call.child_chains = child_chains;
  }
  return call;
}

template <class T>
void GraphStep<T>::forward(GraphShare share, const GraphMeeting& sync) const {
  const GraphModel<T>& model = *record.model;
  const T* start = begins() ? model.bias.data() : nullptr;
  for (int64_t r = share.begin(count); !start && r < share.end(count); ++r) {
    const int64_t source = record.fed.base ? record.rows->source[size_t(first + r)] : -1;
    std::copy_n(source < 0 ? model.bias.data() : record.fed[source], model.chain_width(), chains[r]);
  }
  sync();
  ptrdiff_t before[kMaxSlots][kGraphRows];
  for (int p = 0; p < model.spec.phases.size; ++p) {
    const GraphPhase& phase = model.spec.phases[p];
    for (int i = 0; i < phase.products.size; ++i) {
      const auto& packed = model.weights[size_t(p)][size_t(i)];
      const bool is_done = record.fed.base && phase.products[i].source.kind == GraphSource::input;
      if (packed.outputs && !is_done) product(phase.products[i], packed, share, sync, std::exchange(start, nullptr));
      sync();
    }
    const GraphCall<T> call = this->call(phase, share, before);
    if (call.begin < call.end) model.kernel.graph[int(phase.function)](call);
    sync();
  }
}

}  // namespace recurra
