// Backpropagation through time over a record.
#pragma once
#include "../threads/team.h"
#include "regularizer.h"
#include "stopper.h"
#include "weight_gradients.h"

namespace recurra {
namespace detail {

// Rows of a chunk: enough that reading and writing a weight's gradient once per chunk is cheap next to its multiply-adds.
constexpr int64_t kGradientRows = 256;

// Gradients that come in and go out; any may be null. They are written, or with `add` those of parameters added to.
template <class T>
struct Gradients {
  Sequence<const T> dy, d_cells;
  const T* const* d_final = nullptr;
  Sequence<T> dx;
  T* const* d_initial = nullptr;
  T* const* d_reset = nullptr;  // always added to
  const std::vector<std::vector<T*>>* params = nullptr;
  bool add = false;
  T clip;  // of what a step hands to the one before
};

// One backward pass. Steps are walked in chunks from the last to the first; a chunk's rows are multiplied with the weights
// together. The sums of weight gradients run over the chunks from the last to the first, and within a chunk over its rows in
// ascending order, which depends on T, B and the lengths only.
template <class T>
class Bptt {
 public:
  Bptt(const Record<T>& record, const Gradients<T>& gradients, int workers, Stopper& stopper);
  ~Bptt();
  void run(int worker);  // every worker calls it once

 private:
  enum class Split { rows, tiles, none };  // how the time loop is divided among workers
  struct Pass {
    size_t lane;
    bool reverse;
    const PackedLayer<T>* packed;
    const TransposedLayer<T>* transposed;
    const Track<T>* track;
    Sequence<const T> x, dy, d_cells;
    Sequence<T> dx;
    const int64_t *x_order, *y_order;
  };
  struct Chunk {
    int64_t from, to;
    int rows;
  };
  // A worker's tables of offsets.
  struct Tables {
    ptrdiff_t *dy, *own;                       // of a step's rows
    ptrdiff_t *chunk_x, *chunk_h, *chunk_own;  // of a chunk's rows
  };

  void deal();
  Pass pass_of(int layer, int direction);
  void run_pass(const Pass& pass, int worker);
  void begin(const Pass& pass, int worker);
  void gather(const Pass& pass, const Chunk& chunk, int worker);
  void recompute(const Pass& pass, const Chunk& chunk, int worker);
  void gather_result(const Pass& pass, const Chunk& chunk, int worker);
  void time_loop(const Pass& pass, const Chunk& chunk, int worker);
  void step(const Pass& pass, const Chunk& chunk, int64_t step, int worker);
  void between_steps(const Pass& pass, int64_t position, int worker);
  void drop_between(int layer, int worker);
  void add_cells(const Pass& pass, const BackwardCall<T>& call, int64_t step, const RowShare& rows) const;
  void clip(int rows, int worker);
  void product(const Pass& pass, size_t p, const Blocks<T>& da, const Panel<T>& out, int rows, int worker);
  void input_gradients(const Pass& pass, const Chunk& chunk, int worker);
  void weight_gradients(const Pass& pass, const Chunk& chunk, int worker);
  void finish(const Pass& pass, int worker);
  void clear_padding(int worker);

  // The rows whose steps a worker walks: some of them, or, together with all other workers, all.
  RowShare rows_of(int worker) const {
    if (split_ != Split::rows) return RowShare(record_.rows());
    return RowShare(record_.rows(), record_.lengths.empty(), worker, workers_);
  }
  bool walks(int worker) const { return split_ == Split::rows || worker == 0; }  // by itself: no other worker has its rows
  int64_t share(int64_t count, int worker) const { return count * worker / workers_; }
  // Where row r's step lies in a sequence, which the reverse direction reads from the row's last step on.
  template <class S>
  ptrdiff_t offset(const Pass& pass, const S& sequence, const int64_t* order, int r, int64_t step) const {
    const int64_t t = pass.reverse ? record_.length(r) - 1 - step : step;
    return (order ? order[r] : r) * sequence.row_stride + t * sequence.step_stride;
  }
  // The same in an array of the caller's, when there is an order: its rows may lie at times of their own.
  template <class S>
  ptrdiff_t outer_offset(const Pass& pass, const S& sequence, const int64_t* order, int r, int64_t step) const {
    if (!order || record_.times.empty()) return offset(pass, sequence, order, r, step);
    const int64_t t = record_.times[size_t(r)][pass.reverse ? record_.length(r) - 1 - step : step];
    return order[r] * sequence.row_stride + t * sequence.step_stride;
  }
  Tables tables(int worker) const;

  const Record<T>& record_;
  const Gradients<T>& gradients_;
  const Model<T>& model_;
  const int workers_, cell_;
  Split split_;
  bool same_tiles_;  // a worker's units are the same in all phases: what its products make, only its own next phase reads
  Barrier barrier_;
  Stopper& stopper_;
  bool given_up_ = false;  // written before the last barrier of a chunk, read after it
  const Regularizer<T> regularizer_;
  WeightGradients<T> weights_;
  int64_t chunk_steps_;
  int chunk_rows_;

  Buffer<char> memory_;
  std::vector<Blocks<T>> da_;       // [phase], rows of the chunk: gradients of chains, and shares of the vectors'
  Blocks<T> x_, h_, first_result_;  // rows of the chunk: inputs, h(t-1), results of the first of two phases
  Panel<T> states_, saved_, kept_, apart_, result_[2];  // likewise, to recompute
  Panel<T> d_h_, d_states_, d_kept_, d_result_;         // running gradients
  Panel<T> masked_h_;                                   // h(t-1) of the chunk after variational dropout
  Panel<T> mask_, d_masked_;                            // of h(t-1), a row each; the gradient of h(t-1) so masked
  Place<T> past_;                                       // gradients that bypass a step, in zoneout
  Panel<T> between_[2];                                 // gradients on their way from layer to layer
  ptrdiff_t* tables_ = nullptr;
};

}  // namespace detail
}  // namespace recurra
