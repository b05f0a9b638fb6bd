// One call of a network: launches on a stream, products by the engine of the plan, memory.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "engine/record.h"
#include "grids.h"
#include "network.h"

namespace recurra {
namespace cuda {

// The format of a caller's arrays.
inline int format_of(Number number) { return int(number); }  // Format and Number have one order

inline const void* advanced(const void* pointer, int64_t count, size_t size) {
  return static_cast<const char*>(pointer) + count * int64_t(size);
}

// Launches of a network's kernels on a stream.
struct Launcher {
  const Network::Data& net;
  CUstream stream;

  template <class Arguments>
  void run(CUfunction kernel, int64_t columns, int64_t rows, int64_t rest, const Arguments& arguments,
           int64_t of_rest = 1) const {
    launch_rows(kernel, columns, rows, rest, stream, arguments, of_rest);
  }
  // The pointwise function of a phase, or that of its rows.
  template <class Arguments>
  void phase(CUfunction kernel, int p, int directions, const Arguments& a) const {
    if (net.spec.phases[p].by_rows) return launch_by_rows(kernel, a.rows, directions, stream, a);
    run(kernel, a.units, a.rows, directions, a);
  }
  void parameter(CUfunction kernel, const ParameterArguments& a) const {
    run(kernel, a.columns, int64_t(a.count) * a.units, 1, a);
  }
  void zero(void* data, int64_t count, size_t size) const;
  void upload(const void* from, void* to, size_t bytes) const;  // host memory, in the launches themselves
};

// What blocks of a grid exchange, of a launch.
struct Exchanged {
  char *data = nullptr, *arrived = nullptr;
};
inline Exchanged deal_exchange(Dealer& deal, const Resident& r, size_t weight_size) {
  return {deal.take(int64_t(r.tiles) * 2 * r.place, weight_size), deal.take(r.tiles, sizeof(unsigned))};
}

// All steps: tiles of a grid come in groups, one after another.
template <class Arguments>
void launch_walk(const Launcher& launcher, const Resident& r, int64_t rows, int directions, const Exchanged& memory,
                 Arguments& a) {
  const int64_t tiles = (rows + r.rows - 1) / r.rows, together = r.grid ? std::max(r.tiles / directions, 1) : tiles;
  const unsigned threads = unsigned(r.threads), shared_bytes = unsigned(r.shared_bytes);
  static_cast<Exchange&>(a) = {memory.data, reinterpret_cast<unsigned*>(memory.arrived), r.place, 0};
  for (int64_t first = 0; first < tiles; first += together) {
    const Grid grid = {unsigned(std::min(tiles - first, together)), unsigned(directions), unsigned(r.cluster)};
    a.first_row = int(first * r.rows);
    if (r.grid) launcher.zero(a.arrived, r.tiles, sizeof(unsigned));
    if (r.cluster > 1)
      JointLaunch(grid, threads, shared_bytes, launcher.stream, r.grid).run(r.kernel, &a);
    else
      launch(r.kernel, grid, {threads, 1, 1}, launcher.stream, a, shared_bytes);
  }
}

// use(i, arguments, whether it is a matrix) for each part of parameter i that phase p of a layer and direction has: where its
// blocks lie in packed weights, whose matrices have numbers of `matrix_size` bytes, or in gradients, where those are numbers. A
// bias may be part of several.
void each_parameter(const Network::Data& net, int layer, int p, int direction, const PhaseWeights& packed, size_t matrix_size,
                    const std::function<void(int, ParameterArguments, bool)>& use);

// Products of a layer, of so many directions.
struct Products {
  const Launcher& launch;
  Engine engine;
  const Blas* blas;  // of the cublas engine
  int directions;

  // out[m] = x[m] W^T of a phase; with the bias, where chains are to begin with it.
  void input(const PhaseWeights& weights, const Phase& phase, const PhaseShape& shape, const Rows& x, int64_t m,
             const Rows& out) const;
  // out[m] = source[m] R^T; of the exact engine the whole chain, which begins with the input's row m, or with the bias.
  void recurrent(const PhaseWeights& weights, const Phase& phase, const PhaseShape& shape, const Rows& source, int64_t m,
                 const Rows& input, const Rows& out) const;
  // out[m] = da[m] R, or that is added.
  void to_source(const PhaseWeights& weights, const Phase& phase, const PhaseShape& shape, const Rows& da, int64_t m, bool add,
                 const Rows& out) const;
  // out[out_rows[m]] = da[m] W, or that is added. One direction.
  void to_input(const PhaseWeights& weights, const Phase& phase, const PhaseShape& shape, const Rows& da, int64_t m, bool add,
                const int* out_rows, const Rows& out) const;
  // Gradients of weights: out = da^T x over rows, or that is added: `count` chains from slot `slot` on.
  void outer(const Outer& order, const PhaseShape& shape, const Rows& da, int slot, int count, const Rows& x, int64_t columns,
             int64_t rows, bool add, const Rows& out) const;
};

// What kernels must know of a call, in device memory.
struct Header {
  char *seed = nullptr, *starts = nullptr, *lengths = nullptr, *order = nullptr, *reversed = nullptr, *segments = nullptr;
};

// What a layer leaves behind, for backward or for the layer above.
struct LayerRows {
  Rows h, states;     // row before(s) + r: before step s. Without a tape, states has one row for each of a step
  Rows source;        // likewise: what recurrent products read, if not h itself
  Rows saved;         // row at(s) + r: what the cell saved
  Rows result;        // likewise: what the first of two phases returned
  char* x = nullptr;  // input rows, in time; null: h of the layer below
};

struct Tape {
  Header header;
  std::vector<LayerRows> layers;
};

Tape deal_tape(Dealer& deal, const Network::Data& net, const Plan::Data& plan);

struct Call {
  const Network::Data& net;
  const Plan::Data& plan;
  Launcher launch;
  Header header;
  const Weights& weights;
  bool draws;  // whether there is a seed

  Steps steps() const;
  // A sequence of the caller's.
  Strided sequence(const Array& array) const {
    return {array.data, array.outer, array.row, array.column, format_of(net.options.number), plan.options.packed};
  }
  Seeded seeded(int layer, int first_direction = 0) const;
  bool drops_recurrent() const { return draws && net.config.regularization.recurrent_dropout > 0; }
  // Rows that a layer reads: its own, or h of the layer below.
  const void* input_rows(const std::vector<LayerRows>& layers, int layer) const;
  bool reads_h_below(int layer) const { return net.reads_h_below(layer, plan.options.training); }
  void write_header(const uint64_t* seed, const int32_t* lengths) const;
  // States of all layers and directions: to or from rows of ours that are contiguous, in the order of rows.
  void state(CUfunction kernel, const Array& array, int format, void* rows, int64_t width) const;
};

// Memory that a plan needs; sets its sizes.
void measure(const Network::Data& net, Plan::Data& plan);
size_t forward_bytes(const Network::Data& net, const Plan::Data& plan);
size_t backward_bytes(const Network::Data& net, const Plan::Data& plan);

// Where a layer's launches go. cuBLAS is null on the exact engine.
struct Lane {
  CUstream stream;
  const Blas* blas;
};

// body(lanes), or the graph that it was when it last ran at these addresses. A graph has as many lanes as there is memory for
// cuBLAS, `blas_memory`, null on the exact engine; else there is one, the call's stream. `kind` and `clip` tell bodies with
// other launches apart; `steps`, of all layers, are launched one by one.
void replay(Network::Data& net, const Plan::Data& plan, int kind, double clip, const void* workspace, const void* tape,
            const void* weights, const std::vector<void*>& blas_memory, int64_t steps, CUstream stream,
            const std::function<void(const std::vector<Lane>&)>& body);

// run(i, chunk) for each chunk of each layer, i counting in the order in which layers feed each other: one after another, or,
// in a lane each, as a wavefront: a layer begins a chunk when the one before has ended it.
void run_layers(const Network::Data& net, const std::vector<Lane>& lanes, int64_t chunks,
                const std::function<void(int, int64_t)>& run);
inline int64_t chunks_of(int64_t steps, int64_t chunk_steps) {
  return std::max<int64_t>((steps + chunk_steps - 1) / chunk_steps, 1);
}

void run_forward(Network::Data& net, const Plan::Data& plan, const Array& x, const Array* initial, const int32_t* lengths,
                 const Array& y, const Array* final_states, int state_format, const uint64_t* seed, void* tape, void* workspace,
                 CUstream stream, const void* weights, const Array& cells = {});
void run_backward(Network::Data& net, const Plan::Data& plan, const Array& dy, const Array* d_final, const Array& dx,
                  const Array* d_initial, const std::vector<std::vector<void*>>& params, bool add, bool seeded,
                  const void* tape, void* workspace, CUstream stream, const void* weights, const Array& d_cells, double clip);

}  // namespace cuda
}  // namespace recurra
