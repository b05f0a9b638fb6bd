// A network on a GPU: its weights, its kernels, and what a call of one shape needs.
#pragma once
#include <list>
#include <mutex>
#include <vector>

#include "blas.h"
#include "engine/model.h"
#include "kernel_set.h"
#include "kernels/arguments.h"
#include "kernels/slots.h"
#include "recurra/cuda.h"
#include "resident.h"

namespace recurra {
namespace cuda {

// Divides memory up; nothing is nowhere. Without a base it only counts.
struct Dealer {
  char* base = nullptr;
  size_t used = 0;
  char* take(int64_t count, size_t size) {
    char* const at = base && count ? base + used : nullptr;
    used += (size_t(count) * size + 255) / 256 * 256;
    return at;
  }
};

// Rows of numbers or weights, one matrix a direction.
inline Rows deal_rows(Dealer& deal, int directions, int64_t rows, int64_t width, size_t size) {
  return {deal.take(directions * rows * width, size), width, rows * width};
}

// The same from row `first` and column `column` on.
inline Rows from(const Rows& rows, int64_t first, int64_t column, size_t size) {
  Rows part = rows;
  if (rows.data) part.data = static_cast<char*>(rows.data) + (first * rows.row + column) * int64_t(size);
  return part;
}

// One direction alone.
inline Rows of_direction(const Rows& rows, int direction, size_t size) {
  Rows one = rows;
  if (rows.data) one.data = static_cast<char*>(rows.data) + direction * rows.direction * int64_t(size);
  return one;
}

// Packed weights of one phase of a layer, of both directions, or gradients of the same shape.
struct PhaseWeights {
  Rows input;      // [slot * units + unit][input size]
  Rows recurrent;  // [block * units + unit][source size]
  Rows sums;       // numbers [slot * units + unit], the biases, then [vector * units + unit]: one row a direction
};

using Weights = std::vector<std::vector<PhaseWeights>>;  // [layer][phase]

struct PhaseShape {
  int units = 0;
  int64_t inputs = 0, sources = 0;  // numbers that the two products read
  int columns = 0;                  // (chains + vectors) * units
};

struct Plan::Data {
  PlanOptions options;
  Engine engine = Engine::exact;
  int64_t all_steps = 0;  // of the caller's arrays
  int64_t steps = 0;      // of the longest row
  int64_t rows = 0, total = 0;
  // Rows are sorted, the longest first, where the host knows lengths that differ; empty otherwise.
  std::vector<int32_t> order, lengths;
  std::vector<int32_t> segments;  // of PlanOptions
  std::vector<int64_t> starts;
  int64_t chunk_steps = 1, backward_steps = 1, block_steps = 1;
  size_t workspace = 0, backward_workspace = 0, tape = 0;
  uint64_t number = 0;  // one for each plan of the process, for graphs that were made from it
  // Forward and backward: with a kernel where all steps of a layer are one launch, or why they are not.
  Resident resident, resident_back;
  const char *why = "", *why_back = "";
  bool wavefront = false, wavefront_back = false;  // over layers, of chunks of steps

  bool keeps_states() const { return options.training || options.cells; }  // those of every step, beside h
  int64_t at(int64_t step) const { return starts.empty() ? step * rows : starts[size_t(step)]; }
  int64_t before(int64_t step) const { return step ? rows + at(step - 1) : 0; }
  int64_t active(int64_t step) const { return at(step + 1) - at(step); }
};

// Call graphs that have been captured: of a plan with its workspace, tape and weights at the same addresses.
struct Graph {
  uint64_t plan;
  int kind;  // forward or backward, and what else decides about its launches
  double clip;
  const void *workspace, *tape, *weights;
  CUgraphExec exec;  // null: seen once
};

struct Network::Data {
  NetworkConfig config;
  Options options;
  const Device& device;
  const Spec& spec;
  const CellInfo& info;
  KernelSet kernels;
  size_t number_size, weight_size;
  size_t weight_bytes = 0;
  Memory memory;    // of the weights of set_parameters
  Weights weights;  // there
  // What arithmetic said of the latest plan, forward and backward: a call with lengths makes a plan each time.
  struct Chosen {
    int64_t rows = -1;
    std::optional<Resident> resident;
  };
  mutable Chosen chosen[2];
  mutable std::mutex chosen_lock;
  std::mutex graphs_lock;
  std::list<Graph> graphs;  // the latest first
  CUstream capture_stream = nullptr;
  // Of each layer while a wavefront is captured, under the lock of graphs: the first has the capture's stream.
  struct Lane {
    CUstream stream;
    CUevent reached;  // how far the layer is
  };
  std::vector<Lane> lanes;
  CUstream stream_of_lane(size_t i);  // made when it is asked for first

  Data(const NetworkConfig& config, const Options& options);
  ~Data();

  int directions() const { return config.directions; }
  bool runs_back() const { return directions() == 2 || config.reverse; }  // in its last direction
  int phases() const { return spec.phases.size; }
  // Of the directions from `first` on.
  void set_constants(double (&to)[2][kMaxConstants], int first = 0) const;
  int64_t widest() const { return std::max(config.hidden_size, config.output_size); }
  int states() const { return spec.states.size - 1; }  // after h
  int64_t input_size(int layer) const { return layer ? config.directions * config.output_size : config.input_size; }
  PhaseShape shape(int layer, int phase) const;
  // Whether recurrent products read something else than h itself.
  bool has_source(bool training) const {
    return number_size != weight_size || (training && config.regularization.recurrent_dropout > 0);
  }
  // One direction's h is what the layer above reads, unless dropout changes it, products read another type or its rows are
  // backwards in time.
  bool reads_h_below(int layer, bool training) const {
    return layer && !runs_back() && number_size == weight_size && !(training && config.regularization.dropout > 0);
  }
  std::vector<PhaseWeights> deal_weights(Dealer& deal, int layer, size_t size) const;
  // Weights that lie at `base`; null: the network's own. std::invalid_argument if it has none.
  Weights weights_at(const void* base) const;
};

// Of a call of so many rows: of the tiles that fit, by a block, a cluster of up to so many or blocks of a grid, those that
// should take least time.
std::optional<Resident> resident_of(const Network::Data& net, int64_t rows, Way way, int most_cluster = kMostCluster);
bool has_products(const Network::Data& net);  // of 16-bit numbers, which a kernel of all steps needs for them
// Sets the plan's `resident...` and `why...`; compiles.
void choose_walk(const Network::Data& net, Plan::Data& plan);
// Whether layers go on as a wavefront, and the steps of its chunks.
void choose_wavefront(const Network::Data& net, Plan::Data& plan);

}  // namespace cuda
}  // namespace recurra
