// Some rows on their way through a network: their states and the workspace of the time loop, sized once. A call of a layer is a
// session that lives as long as the call; a stream is a session that stays.
#pragma once
#include <memory>

#include "../cpu/team.h"
#include "record.h"

namespace recurra {
namespace detail {

// The workers of one session. When a layer has two directions and there are two workers or more, each direction has half of
// them and they never wait for each other within a layer.
struct Crew {
  Crew(int size, int directions);
  struct Group {
    int first, size;
    Barrier barrier;
    Group(int first, int size) : first(first), size(size), barrier(size) {}
  };
  const int size;
  const bool side_by_side;
  Barrier all;
  Group groups[2];  // all workers in groups[0] when not side by side

  Group& group_of(int direction) { return groups[side_by_side ? direction : 0]; }
};

// Which rows of the caller's arrays a session holds. Row r of the session is row order[r] of the caller (r itself when null)
// and runs lengths[r] steps (all of them when null). Longest first, so that the rows of any step are 0 .. n-1.
struct RowPlan {
  int rows = 0;
  const int64_t* order = nullptr;
  const int64_t* lengths = nullptr;

  int64_t source(int r) const { return order ? order[r] : r; }
  int64_t length(int r, int64_t steps) const { return lengths ? lengths[r] : steps; }
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

  // Every worker of the crew calls it once.
  void run(Crew& crew, int worker, Sequence<const T> x, Sequence<T> y, const RowPlan& plan);
  void ran(int64_t steps) { parity_ ^= int(steps & 1); }  // to be called once after run when the session goes on

  // Arrays [layers * directions, total_rows, width], one per state.
  void load(const T* const* states, const RowPlan& plan, int64_t total_rows);
  void store(T* const* states, const RowPlan& plan, int64_t total_rows, int64_t steps) const;
  void clear_row(int row);

 private:
  // h is kept twice: a step reads h(t-1) from one and writes h(t) to the other. A session that records has its states there.
  struct Lane {
    Panel<T> h[2];
    Panel<T> states;
  };
  struct Place {
    Panel<T> h, states;
  };
  // What a layer needs while it runs, one for each direction.
  struct Scratch {
    Panel<T> result;  // of the first of two phases
    Panel<T> kept;
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
    const Scratch* scratch;
    Sequence<const T> x;
    Sequence<T> y;
    bool reverse;
    int64_t first;
    Offsets offsets;
    Reduced reduced;
    Masked masked;
    PhaseCall<T>* calls;
    const int64_t* rows;  // numbers that the caller gives to rows; null: as they are
    int rank, size;
    Barrier* barrier;

    // Alone without a division, which a stream would make four times a step.
    int begin(int tiles) const { return size == 1 ? 0 : int(int64_t(tiles) * rank / size); }
    int end(int tiles) const { return size == 1 ? tiles : int(int64_t(tiles) * (rank + 1) / size); }
  };

  void size(int64_t steps);
  void deal(int64_t batch);
  Place before(size_t lane, int64_t step) const;  // the states before a step
  Panel<T> saved(size_t lane, int64_t step) const;
  Panel<T> phase_result(const Pass& pass, int64_t step) const;
  void run_pass(const Pass& pass, const RowPlan& plan, int64_t steps, const int64_t* x_order, const int64_t* y_order);
  void keep_inputs(const Pass& pass, const RowPlan& plan, int64_t from, int64_t to) const;
  void chunk_of_inputs(const Pass& pass, const RowPlan& plan, int64_t from, int64_t to) const;
  void prepare(const Pass& pass) const;
  void run_step(const Pass& pass, int64_t step, int rows, ptrdiff_t before_row) const;
  Rows<const T> masked(const Pass& pass, const Panel<T>& h, int rows) const;
  void keep_old_states(const Pass& pass, const PhaseCall<T>& call) const;
  void zone_out(const Pass& pass, const PhaseCall<T>& call, const Place& now, int64_t step, size_t p) const;
  void drop_between(const Pass& pass, const RowPlan& plan, int64_t steps) const;
  Reduced reduced_of(int worker) const;
  Operand<T> operand(Rows<const T> rows, int count, int64_t size, bool unit_range, const Panel<char>& reduced,
                     float* scale) const;
  ptrdiff_t state_width() const { return ptrdiff_t(model_->spec->states.size - 1) * hidden_; }

  std::shared_ptr<const Model<T>> model_;
  int rows_, workers_;
  Record<T>* record_ = nullptr;
  RowShare share_;  // of the record
  Noise noise_;
  ptrdiff_t reduced_stride_ = 0;  // bytes of a reduced row; 0 in full precision
  ptrdiff_t hidden_, stride_;     // padded widths: of the other states, of h and of phase results
  int64_t chunk_, span_;          // steps whose input product is made at once; steps a layer runs before the next layer does
  int parity_ = 0;
  Buffer<char> memory_;  // all of the following
  ptrdiff_t* offsets_;
  char* reduced_ = nullptr;
  float* scales_ = nullptr;
  Masked masked_;             // of all workers
  std::vector<Calls> calls_;  // [worker]
  std::vector<Lane> lanes_;   // [layer * directions + direction]
  Scratch scratch_[2];
  Panel<T> between_[2];  // sequences on their way from layer to layer
};

}  // namespace detail
}  // namespace recurra
