// Some rows on their way through a network: their states and the workspace of the time loop, sized once. A call of a layer is a
// session that lives as long as the call; a stream is a session that stays.
#pragma once
#include <memory>

#include "../threads/team.h"
#include "regularizer.h"
#include "stopper.h"

namespace recurra {
namespace detail {

// The workers of one session. When a layer has two directions and there are two workers or more, each direction has half of
// them and they never wait for each other within a layer.
struct Crew {
  Crew(int size, int directions);
  struct Group {
    int first, size;
    Barrier barrier;
    // What its first worker finds at the start of every other chunk, for all to read at the end: in between is a barrier, and
    // another before it is written again.
    bool stopped[2] = {};
    Group(int first, int size) : first(first), size(size), barrier(size) {}
  };
  const int size;
  const bool side_by_side;
  Barrier all;
  Group groups[2];  // all workers in groups[0] when not side by side

  Group& group_of(int direction) { return groups[side_by_side ? direction : 0]; }
};

template <class T>
class Session {
 public:
  // `steps` is the longest run expected: longer ones work, in pieces. With two directions it must be the longest.
  Session(std::shared_ptr<const Model<T>> model, int rows, int64_t steps, int workers);
  // A session that records these rows.
  Session(Record<T>& record, const RowShare& share, int workers);
  ~Session();

  const Model<T>& model() const { return *model_; }
  States<T>& states() { return states_; }
  const States<T>& states() const { return states_; }

  // Every worker of the crew calls it once.
  void run(Crew& crew, int worker, Sequence<const T> x, Sequence<T> y, const RowPlan& plan, Stopper& stopper,
           const T* const* reset_state = nullptr, Sequence<T> cells = {});

  // One step of all rows, x [rows, input_size] and y [rows, output_size] contiguous; y may be null. It is the same calls every
  // time but for x, y and the side of h, so they are made ready once. Inside an Environment. Returns the last layer's h,
  // padded.
  void make_ready();
  bool ready() const { return !ready_[0].empty(); }
  Panel<const T> step(const T* x, T* y);

 private:
  // What a layer needs while it runs, one for each direction.
  struct Scratch {
    Panel<T> kept, apart;
    Panel<T> old_states;               // before the step, for zoneout
    Panel<T> before[kMaxPhases] = {};  // bias plus input product of the chunk's steps
  };
  // A worker's own, for variational dropout.
  struct Masked {
    Panel<T> mask, h;
  };
  struct Offsets {
    ptrdiff_t *own, *result, *masked, *x, *y, *chunk;
  };
  // A worker's own copies of rows in the form that reduced weights want.
  struct Reduced {
    Panel<char> x, source;
    float *x_scale, *source_scale;
  };
  // A worker's own. They stay: clearing them at every step takes 8 ns, and most of them changes with the layer only.
  struct alignas(64) Calls {
    PhaseCall<T> phase[kMaxPhases];
  };
  // The steps of one layer and direction, from step `first` on.
  struct Pass {
    const PackedLayer<T>* layer;
    size_t lane;
    int direction;
    bool reverse;
    const Scratch* scratch;
    Sequence<const T> x;
    Sequence<T> y, cells;
    int64_t first;
    Offsets offsets;
    Reduced reduced;
    Masked masked;
    PhaseCall<T>* calls;
    const RowPlan* plan;
    const T* const* reset_state;
    int64_t x_rows;  // of the caller
    bool first_layer, last_layer;
    CallerRows rows;
    int rank, size;
    Crew::Group* group;
    Stopper* stopper;
    int64_t chunks = 0;     // that are over, of all passes
    bool given_up = false;  // as all workers of the group agree

    // Whether rows of the caller's arrays lie at times of their own.
    bool scatters_x() const { return plan->times && first_layer; }
    bool scatters_y() const { return plan->times && last_layer; }
    // Alone without a division, which a stream would make four times a step.
    int begin(int tiles) const { return size == 1 ? 0 : int(int64_t(tiles) * rank / size); }
    int end(int tiles) const { return size == 1 ? tiles : int(int64_t(tiles) * (rank + 1) / size); }
  };
  struct Ready {
    PhaseCall<T> call;
    void (*run)(const PhaseCall<T>&);
  };

  void size(int64_t steps);
  void deal(int64_t batch);
  Sequence<T> between(int layer, int64_t steps) const;  // what a layer hands to the next
  Offsets offsets_of(int worker) const;
  Masked masked_of(int worker) const;
  Reduced reduced_of(int worker) const;
  void run_pass(Pass& pass, int64_t steps);
  void between_steps(const Pass& pass, int64_t position);
  int64_t number_of(const Pass& pass, int row, int64_t step) const;
  template <class S>
  void locate(const Pass& pass, const S& sequence, ptrdiff_t* offsets, int64_t step, int rows) const;
  void keep_inputs(const Pass& pass, int64_t from, int64_t to) const;
  void chunk_of_inputs(const Pass& pass, int64_t from, int64_t to) const;
  void prepare(const PackedLayer<T>& layer, size_t p, const Scratch& scratch, PhaseCall<T>& call) const;
  void run_step(const Pass& pass, int64_t step, int rows, ptrdiff_t before_row) const;
  void copy_cells(const Pass& pass, int64_t step, int rows) const;
  Rows<const T> masked(const Pass& pass, const Panel<T>& h, int rows) const;
  void drop_between(const Pass& pass, int64_t steps) const;
  Operand<T> operand(Precision precision, Rows<const T> rows, int count, int64_t size, bool unit_range,
                     const Panel<char>& reduced, float* scale) const;

  std::shared_ptr<const Model<T>> model_;
  int rows_, workers_;
  Record<T>* record_ = nullptr;
  RowShare share_;  // of the record
  States<T> states_;
  Regularizer<T> regularizer_;
  ptrdiff_t reduced_stride_ = 0;  // bytes of a reduced row; 0 in full precision
  int64_t chunk_, span_;          // steps whose input product is made at once; steps a layer runs before the next layer does
  Buffer<char> memory_;           // all of the following
  ptrdiff_t* offsets_;
  char* reduced_ = nullptr;
  float* scales_ = nullptr;
  Masked masked_;             // of all workers
  std::vector<Calls> calls_;  // [worker]
  Scratch scratch_[2];
  Panel<T> between_[2];                   // sequences on their way from layer to layer
  std::vector<Ready> ready_[2];           // [side of h]: of each layer and phase
  size_t ready_first_ = 0;                // so many are of the first layer
  size_t ready_last_ = 0;                 // from here on they are of the last layer's last phase
  std::vector<ptrdiff_t> ready_offsets_;  // of the rows of h, x and y
};

}  // namespace detail
}  // namespace recurra
