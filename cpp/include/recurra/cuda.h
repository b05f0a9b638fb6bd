// recurra on NVIDIA GPUs: the same networks on arrays in device memory. Nothing of CUDA is needed to build this: driver, NVRTC
// and cuBLAS are opened at first use, and cuda::Unavailable is thrown where one is missing.
//
// Work is put on the caller's stream and nothing waits for it. No call allocates device memory once a network has been made: a
// Plan says how much workspace a call needs, and the caller provides it. So calls can be captured in a CUDA graph.
//
// A layer over whole sequences; to_device() and allocate() return device memory, `stream` is a cudaStream_t:
//
//   recurra::NetworkConfig config;
//   config.cell = "lstm";
//   config.input_size = 12;
//   config.hidden_size = config.output_size = 64;
//   config.constants = {INFINITY};  // cell_clip
//   recurra::cuda::Network network(config, {});
//
//   const float *w_ih = to_device("weight_ih_l0"), *w_hh = to_device("weight_hh_l0");  // [4 * 64, 12], [4 * 64, 64]
//   const float *b_ih = to_device("bias_ih_l0"), *b_hh = to_device("bias_hh_l0");      // [4 * 64]
//   network.set_parameters({{w_ih, w_hh, b_ih, b_hh}}, stream);
//
//   const int64_t steps = 100, rows = 8;
//   const recurra::cuda::Plan plan = network.plan(steps, rows);
//   const recurra::cuda::Array x = {to_device("x"), rows * 12, 12};  // [100, 8, 12]
//   const recurra::cuda::Array y = {allocate(steps * rows * 64 * sizeof(float)), rows * 64, 64};  // [100, 8, 64]
//   const recurra::cuda::Array final_states[] = {{allocate(rows * 64 * sizeof(float)), rows * 64, 64},   // h
//                                                {allocate(rows * 64 * sizeof(float)), rows * 64, 64}};  // c
//   void* workspace = allocate(plan.workspace_bytes());
//   network.forward(plan, x, nullptr, nullptr, y, final_states, nullptr, nullptr, workspace, stream);
//   show(y, final_states[0], final_states[1]);
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra.h"

namespace recurra {
namespace cuda {

// A library, a GPU or a function of a library that is not there. The message says how to mend it.
struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Something the driver, NVRTC or cuBLAS refused: the call, its error's name and text.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using StreamHandle = void*;  // a CUstream or cudaStream_t

enum class Number { f32, f64, f16, bf16 };

// exact: the CPU's bits, of f32 and f64. cublas: products by cuBLAS, with other bits, the same ones every time. automatic: what
// is fastest.
enum class Engine { automatic, exact, cublas };

// How the exact engine walks through time, which changes no bit of its. steps: launches for every step. resident: one launch
// for all steps of a layer, and one backward, whose recurrent weights stay on the chip, of as many multiprocessors as should
// be fastest; steps for the way for which they do not fit, std::invalid_argument where they fit neither. automatic: steps,
// until a GPU has shown that the other is faster, as arithmetic says. Of f16 and bf16 the cublas engine has a resident walk
// too, by the tensor cores, with compute capability 8.0 or more.
enum class Walk { automatic, steps, resident };

struct Options {
  int device = 0;
  // Of inputs, outputs and states. With f16 and bf16 weights, and the vectors they are multiplied with, are rounded to 16 bits;
  // sums and states inside a call are f32, and so are parameters and their gradients.
  Number number = Number::f32;
  Engine engine = Engine::automatic;
  bool allow_tf32 = false;
  Walk walk = Walk::automatic;
};

// An array in device memory: a sequence, whose outer axis is steps, or states, whose outer axis is layers * directions. Strides
// are in elements, of any sign. The network's number type.
struct Array {
  void* data = nullptr;
  int64_t outer = 0, row = 0, column = 1;
};

// What a call of one shape needs. Immutable and cheap to copy.
class Plan {
 public:
  size_t workspace_bytes() const;           // of forward
  size_t backward_workspace_bytes() const;  // of backward
  size_t tape_bytes() const;                // 0 unless it is for training
  Engine engine() const;
  std::string explain() const;  // how the engine walks through time, and why
  struct Data;

 private:
  friend class Network;
  friend class Stream;
  std::shared_ptr<const Data> data_;
};

struct PlanOptions {
  const int64_t* lengths = nullptr;  // of each row, in host memory: rows of padded steps are then not computed
  bool device_lengths = false;       // or they are given to the call, int32 in device memory: then all rows are
  bool training = false;
  bool recompute = false;
  // Sequences are the rows of all steps, one after another, as far as each has not ended: Array::row and column count. lengths
  // must fall.
  bool packed = false;
  bool cells = false;  // the last layer's second state after every step, or its gradient, may be asked for
  // Where rows are segments of sequences: of each row its sequence's number, and how many steps of that are before and after
  // it. Dropout and zoneout leave out what they would of the sequences.
  const int32_t* segments = nullptr;
};

// Weights of a stack of recurrent layers on a GPU. Any number of threads may use it at once, on streams of their own.
class Network {
 public:
  // std::invalid_argument, Unavailable, std::bad_alloc.
  Network(const NetworkConfig& config, const Options& options);

  // params[layer * directions + direction][i] is parameter i of the cell's list, contiguous in device memory, f64 for f64 and
  // f32 otherwise; a bias may be null. Read in the stream's order; calls on other streams must be ordered after it. The first
  // time it allocates.
  void set_parameters(const std::vector<std::vector<const void*>>& params, StreamHandle stream);
  // The same, to weight_bytes() of the caller's memory, for the calls that are given it.
  void pack(const std::vector<std::vector<const void*>>& params, void* weights, StreamHandle stream) const;

  Plan plan(int64_t steps, int64_t rows, const PlanOptions& options = {}) const;

  // x [steps, rows, input_size], y [steps, rows, directions * output_size]; initial and final_states [layers * directions,
  // rows, width of the state], one array for each state. initial may be null: zeros; final_states may, too. lengths: int32
  // [rows] in device memory if the plan is for device_lengths. seed: of what is left out at random in training; null: nothing
  // is. tape: as many bytes as the plan says, for backward. x, y and states may not overlap. weights: made by pack; null:
  // those of set_parameters. cells [steps, rows, directions * hidden_size] if the plan is for them; data may be null.
  void forward(const Plan& plan, const Array& x, const Array* initial, const int32_t* lengths, const Array& y,
               const Array* final_states, const uint64_t* seed, void* tape, void* workspace, StreamHandle stream,
               const void* weights = nullptr, const Array& cells = {}) const;

  // From dy (like y; data may be null) and d_final (like final_states; null, or data null for some) to dx (like x; data may be
  // null), d_initial (may be null) and parameters' gradients, contiguous: written, or with `add` added to, unless null. seeded:
  // whether forward was given a seed. d_cells: like cells; data may be null. clip: what a step hands to the one before it, the
  // gradients of all states, is brought into -clip .. clip.
  void backward(const Plan& plan, const Array& dy, const Array* d_final, const Array& dx, const Array* d_initial,
                const std::vector<std::vector<void*>>& params, bool add, bool seeded, const void* tape, void* workspace,
                StreamHandle stream, const void* weights = nullptr, const Array& d_cells = {},
                double clip = std::numeric_limits<double>::infinity()) const;

  const NetworkConfig& config() const;
  const CellInfo& cell() const;
  const Options& options() const;
  size_t weight_bytes() const;
  struct Data;

 private:
  friend class Stream;
  std::shared_ptr<Data> data_;
};

// The states of some sequences that arrive piece by piece, in device memory. The bits are those of the exact engine, whatever
// the network's: of a step alone, of f16 and bf16 too. After construction nothing is allocated, and a step is one launch. One
// thread at a time; work on another stream than the last must be ordered after it. One direction only.
class Stream {
 public:
  Stream(const Network& network, int64_t rows);
  ~Stream();
  Stream(Stream&&) noexcept;

  // x [rows, input_size], y [rows, output_size]: `row` and `column` of the arrays count.
  void step(const Array& x, const Array& y, StreamHandle stream);
  // Several, as Network::forward with a plan of the same rows.
  void run(const Plan& plan, const Array& x, const Array& y, void* workspace, StreamHandle stream);
  // One array for each state, [layers, rows, width].
  void get_state(const Array* states, StreamHandle stream) const;
  void set_state(const Array* states, StreamHandle stream);
  void reset(StreamHandle stream);  // all rows to zero
  // Some rows to zero; or to states [layers, count, width], whose `row` may be 0: to one for all.
  void reset(const int64_t* rows, int64_t count, StreamHandle stream, const Array* states = nullptr);

 private:
  struct Live;
  std::unique_ptr<Live> live_;
};

// y = x W^T + b for many rows. All arrays are contiguous, of the number type; parameters and their gradients are f64 for f64
// and f32 otherwise. The exact engine has the CPU's bits.
class Linear {
 public:
  Linear(int64_t inputs, int64_t outputs, const Options& options);

  void set_parameters(const void* weight, const void* bias, StreamHandle stream);  // W [outputs, inputs]; bias may be null
  size_t workspace_bytes(int64_t rows) const;                                      // of forward, and of backward
  void forward(const void* x, int64_t rows, void* y, void* workspace, StreamHandle stream) const;
  // Writes dx unless it is null; writes or adds to d_weight and, unless it is null, d_bias.
  void backward(const void* x, const void* dy, int64_t rows, void* dx, void* d_weight, void* d_bias, bool add, void* workspace,
                StreamHandle stream) const;
  struct Data;

 private:
  std::shared_ptr<Data> data_;
};

// Compiles and loads what take_rows, put_rows, add_rows and make_contiguous need, which else they do when they are first
// called: that cannot be captured.
void load_rows(const Options& options);

// Rows of a table [rows, columns] by their indices, int32 or (`wide`) int64. An index that is none gives NaN; where rows are
// put, at different indices, it is left out. The table and its gradient, which is written or, with `add`, added to, in the
// order of the indices, are f64 for f64 and f32 otherwise.
void take_rows(const Options& options, const void* table, int64_t rows, int64_t columns, const void* indices, bool wide,
               int64_t count, void* out, StreamHandle stream);
void put_rows(const Options& options, void* table, int64_t rows, int64_t columns, const void* indices, bool wide, int64_t count,
              const void* from, StreamHandle stream);
void add_rows(const Options& options, void* table, int64_t rows, int64_t columns, const void* indices, bool wide, int64_t count,
              const void* from, bool add, StreamHandle stream);

// A copy, contiguous in C order, of an array of numbers of 2, 4 or 8 bytes. Strides are in elements; axes that cannot be merged
// may be 9.
void make_contiguous(const Options& options, int number_size, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides, const void* from, void* to, StreamHandle stream);

}  // namespace cuda
}  // namespace recurra
