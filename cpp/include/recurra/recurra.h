// recurra: recurrent networks on CPU. The C++ face of the engine; the Python module is one client of it.
//
// Arrays are plain memory: sequences [steps, rows, features] whose last axis is contiguous, states [layers * directions, rows,
// width] wholly contiguous, parameters row-major. What can be checked is, and refused by a
// std::invalid_argument that names it; that memory is as large as it has to be is the caller's duty.
//
// A layer with a Linear head, one frame after another; load() returns weights as torch.nn.GRU and torch.nn.Linear name them:
//
//   recurra::NetworkConfig config;
//   config.cell = "gru";
//   config.input_size = 12;
//   config.hidden_size = config.output_size = 64;
//
//   const std::vector<float> w_ih = load("weight_ih_l0"), w_hh = load("weight_hh_l0");  // [3 * 64, 12], [3 * 64, 64]
//   const std::vector<float> b_ih = load("bias_ih_l0"), b_hh = load("bias_hh_l0");      // [3 * 64]
//   const recurra::Network<float> network(config, {{w_ih.data(), w_hh.data(), b_ih.data(), b_hh.data()}});
//
//   const std::vector<float> weight = load("weight"), bias = load("bias");  // [9, 64], [9]
//   const recurra::Linear<float> head(64, 9, weight.data(), bias.data());
//
//   recurra::Stream<float> stream(network, /*rows=*/1, /*threads=*/1, &head);
//   float x[12], y[9];
//   while (read_frame(x)) {
//     stream.step(x, y);
//     write_frame(y);
//   }
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra/nonblocking.h"

namespace recurra {

// ---- what there is

struct ParamInfo {
  std::string name;
  int blocks;        // shape [blocks * rows, cols], or [blocks * rows] when cols is "one"
  std::string rows;  // "hidden" or "output"
  std::string cols;  // "input", "hidden", "output", "head" or "one"; "head": hidden_size / heads, block diagonal
  bool is_bias;
};

struct CellInfo {
  std::string name;
  std::string gates;  // one letter per gate block, in packed order
  std::vector<ParamInfo> params;
  std::vector<std::pair<std::string, std::string>> states;  // name, width ("hidden" or "output"); the first is h
  std::vector<std::pair<std::string, double>> constants;    // name, default
  bool unit_range;                                          // h stays in -1 .. 1
  bool projected;                                           // h is narrower than the other states
  bool recurrent_product;                                   // of h with a matrix
  bool has_heads;                                           // that matrix is block diagonal
};

const std::vector<CellInfo>& cells();

// Names of the activation functions of cells/activation.h; a constant that chooses one (f, g or h) is its index here.
const std::vector<std::string>& activations();

// The instruction set in use ("avx512bf16", "avx512", "avx2", "neonbf16", "neondot", "neon", "generic"), chosen at the first
// call of anything that computes. RECURRA_ISA forces one; std::runtime_error when this machine lacks it.
std::string isa();
std::vector<std::string> available_isas();

// Threads that one call may use, the caller's own included: RECURRA_NUM_THREADS, or as many as the CPUs this process may
// run on, which is also the most that set_num_threads grants.
int num_threads();
void set_num_threads(int threads);

// Memory of workspaces and tapes that are gone is kept for later ones: at most 128 MiB, for the whole process. This gives it
// back to the system, and with glibc whatever else is free on the heap.
void release_memory();

// What this machine can do at best, for benchmarks: with one thread, unless noted otherwise. A multiply-add counts as two
// operations.
struct Limits {
  double f32_gflops = 0;
  double bf16_gflops = 0;                                 // of dot products; 0 where the machine has no instruction for them
  double int8_gops = 0;                                   // likewise
  std::vector<std::pair<int, double>> read_gbs;           // KiB read again and again, GB/s
  int threads = 1;                                        // those that read together
  std::vector<std::pair<int, double>> read_together_gbs;  // KiB and GB/s of all of them; none if one was asked for
};
// Of at most num_threads(), one if the team is busy. Takes some seconds and 128 MiB; or, where sizes in KiB are named, some
// milliseconds for reading blocks of those sizes alone, and briefly: what the machine can do just now.
Limits measure_limits(int threads, const std::vector<int>& sizes_kib = {});

// What several threads gain from each other just now: a virtual machine's cores may be two threads of one core, or far apart,
// and that changes from second to second.
struct Together {
  double gain = 1;         // multiply-adds of all at once, in those of one alone; the best of several bursts
  double exchange_ns = 0;  // until one sees what another has written: half a round trip
};
Together measure_together(int threads);  // of at most num_threads(); about a millisecond; {} when the team of threads is busy

// ---- networks

// How the weights are stored. bfloat16 and int8 are for float only: bfloat16 rounds vectors as it rounds weights and adds their
// products as floats; int8 has a scale per unit, takes h with a fixed scale where it lies in -1 .. 1 and other vectors with a
// scale per row, and sums products in 32 bits: of vectors of up to 133,144 numbers.
enum class Precision { full, bfloat16, int8 };

// Probabilities, 0 .. 1.
struct Regularization {
  double dropout = 0;  // in training: that a number passed from layer to layer becomes 0
  double recurrent_dropout =
      0;                   // in training: that a number of h(t-1) counts as 0 in recurrent products, in all steps of a row
  double zoneout[4] = {};  // by state: that a unit keeps its old value in a step; outside of training, the old one's share
};

struct NetworkConfig {
  std::string cell;
  int64_t input_size = 0;
  int64_t hidden_size = 0;
  int64_t output_size = 0;  // width of h: the projection's size for a projected cell, else hidden_size
  int layers = 1;
  int directions = 1;             // 2: every layer runs both ways, outputs side by side
  bool reverse = false;           // the only direction runs from a row's last step to its first
  std::vector<double> constants;  // as CellInfo::constants; or those for each direction, one list after the other
  Precision precision = Precision::full;
  Regularization regularization;
  std::vector<int> kept;  // layers, from 0, that are in full precision whatever `precision` says
  int64_t heads = 1;      // of a cell that has them: parts of h, of equal size, that recurrent products keep apart
};

template <class T>
struct Sequence {
  T* data = nullptr;
  int64_t steps = 0;
  int64_t rows = 0;
  ptrdiff_t step_stride = 0;  // in elements, any sign
  ptrdiff_t row_stride = 0;
};

// A long call asks it now and then, on the thread that made the call, and is given up when the answer is true: it then throws
// Stopped, or else what the function itself has thrown, and what it was to write is undefined.
using Stop = std::function<bool()>;

struct Stopped : std::runtime_error {
  Stopped() : std::runtime_error("the call was stopped") {}
};

// What befalls single steps of a call. Flags [steps, rows] are 0 or not; those past a row's length are not looked at.
template <class T>
struct Marks {
  // Before a marked step, in the direction that time has, the row's states become those of reset_state, [layers * directions,
  // rows, width of state s] as `initial`, null: zeros; no gradient crosses. The reverse direction stops for it on its way from
  // the marked step to the one before. data == null: none.
  Sequence<const uint8_t> resets;
  const T* const* reset_state = nullptr;
  // A step whose flag is 0 leaves the states as they are, and nothing is computed. data == null: none does.
  Sequence<const uint8_t> mask;
  bool repeat = true;  // the output of such a step is h as it is: the last output; else zeros
};

namespace detail {
template <class T>
struct Model;
template <class T>
class Affine;
}  // namespace detail

template <class T>
class Match;
template <class T>
class Stream;
template <class T>
class Tape;

// Packed weights of a stack of recurrent layers. Immutable: any number of threads may run one network at once. Copies share the
// weights. T is float or double.
template <class T>
class Network {
 public:
  // params[layer * directions + direction][i] is parameter i of the cell's list; a bias may be null.
  Network(const NetworkConfig& config, const std::vector<std::vector<const T*>>& params);

  // y [steps, rows, directions * output_size] and final_states[s] [layers * directions, rows, width of state s] are written;
  // initial[s] likewise is read; initial == null starts from zeros. lengths [rows] may be null: all rows run x.steps steps.
  // cells [steps, rows, directions * hidden_size] (data may be null): the last layer's second state after every step.
  void forward(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y, T* const* final_states,
               const Stop& stop = {}, const Marks<T>& marks = {}, Sequence<T> cells = {}) const;

  // The same with a tape for backward, which holds a copy of x. recompute: of the rest only the states, and backward computes
  // what else it needs again, with the same bits. seed: of what is left out at random; null: nothing is. Full precision only.
  Tape<T> record(Sequence<const T> x, const T* const* initial, const int64_t* lengths, Sequence<T> y, T* const* final_states,
                 bool recompute, const uint64_t* seed, const Stop& stop = {}, const Marks<T>& marks = {},
                 Sequence<T> cells = {}) const;

  // Parameter i of the cell's list, params[layer][i], out of the packed weights: the bits that were given. A bias that was null
  // leaves `out` as it is. Matrices in reduced precision cannot be read back: std::logic_error.
  void get_parameter(size_t layer, int i, T* out) const;

  const NetworkConfig& config() const;
  const CellInfo& cell() const;
  size_t weight_bytes() const;
  double multiplications_per_step() const;  // about: of one row, all layers and directions, padding counted

 private:
  friend class Stream<T>;
  std::shared_ptr<const detail::Model<T>> model_;
};

namespace detail {
template <class T>
struct Record;
}  // namespace detail

// What Network::record leaves behind. backward may be called any number of times, and by several threads.
template <class T>
class Tape {
 public:
  // From dy (like y; data may be null) and d_final (like final_states; null, or null for some states) to dx (like x; data may
  // be null), d_initial (may be null) and the parameters: params[layer * directions + direction][i] is written, or with `add`
  // added to, unless it is null. To d_reset, the gradient of Marks::reset_state, is always added; it may be null. d_cells: like
  // cells; data may be null. clip: what a step hands to the one before it, the gradients of all states, is brought into
  // -clip .. clip. Results depend neither on threads nor on the instruction set.
  void backward(Sequence<const T> dy, const T* const* d_final, Sequence<T> dx, T* const* d_initial,
                const std::vector<std::vector<T*>>& params, bool add, const Stop& stop = {}, T* const* d_reset = nullptr,
                Sequence<const T> d_cells = {}, T clip = std::numeric_limits<T>::infinity()) const;
  size_t bytes() const;  // of the tape

 private:
  friend class Network<T>;
  explicit Tape(std::shared_ptr<const detail::Record<T>> record) : record_(std::move(record)) {}
  std::shared_ptr<const detail::Record<T>> record_;
};

// y = x W^T + b for many rows, W [outputs, inputs]: each y is the sum of four chains over ascending inputs, a quarter each, of
// which the first begins at the bias: (0 + 1) + (2 + 3). All arrays are contiguous. Immutable.
template <class T>
class Linear {
 public:
  Linear(int64_t inputs, int64_t outputs, const T* weight, const T* bias);  // bias may be null

  int64_t inputs() const;
  int64_t outputs() const;
  void forward(const T* x, int64_t rows, T* y) const;
  // Writes dx unless it is null; adds to d_weight and, unless it is null, d_bias, summing over rows in ascending order.
  void backward(const T* x, const T* dy, int64_t rows, T* dx, T* d_weight, T* d_bias) const;

 private:
  friend class Stream<T>;
  friend class Match<T>;
  friend class detail::Affine<T>;
  struct Weights;
  std::shared_ptr<const Weights> weights_;
};

// One step of one row of a stack whose weights stay where the caller keeps them, and may change between steps: nothing is
// packed, and each is read once. The bits are those of Network::forward over one step. Full precision, no regularization.
// Immutable.
template <class T>
class StepInPlace {
 public:
  explicit StepInPlace(const NetworkConfig& config);

  // params[(layer * directions + direction) * n + i] is parameter i of the cell's n, a bias may be null; x [input_size],
  // y [directions * output_size]; initial[s] and final_states[s] [layers * directions, width of state s], initial may be null.
  void run(const T* x, const T* const* params, const T* const* initial, T* y, T* const* final_states) const;
  double multiplications() const;  // about
  const CellInfo& cell() const;

 private:
  struct Plan;
  std::shared_ptr<const Plan> plan_;
};

// A sum over arrays, 512 bits in sum[8], by which a change of any is noticed: of one number always, of more with a chance to be
// missed of about 2^-64. It depends on the instruction set.
void fingerprint(const void* const* arrays, const size_t* bytes, size_t count, uint64_t* sum);

// The states of some sequences that arrive piece by piece. After construction nothing is allocated or locked and no system
// call is made. One thread at a time: a second one gets std::runtime_error. One direction only, forward in time.
template <class T>
class Stream {
 public:
  // A head maps the last layer's h in every step: y then has its outputs in place of output_size. It may be destroyed
  // afterwards.
  // Steps of some microseconds and more may use up to `threads` threads (and num_threads()). Those that wait for a step
  // longer than a moment sleep, and waking them is a system call: with one thread, the default, no step makes any.
  Stream(const Network<T>& network, int64_t rows, int threads = 1, const Linear<T>* head = nullptr);
  ~Stream();
  Stream(Stream&&) noexcept;

  void step(const T* x, T* y) RECURRA_NONBLOCKING;  // x [rows, input_size], y [rows, output_size]
  void run(Sequence<const T> x, Sequence<T> y) RECURRA_NONBLOCKING;
  void run(Sequence<const T> x, Sequence<T> y,
           const Stop& stop);                                  // a stopped one leaves the states as they were, copied before
  void get_state(T* const* states) const RECURRA_NONBLOCKING;  // [layers, rows, width], one array per state
  void set_state(const T* const* states) RECURRA_NONBLOCKING;
  void reset() RECURRA_NONBLOCKING;  // all rows to zero
  // Some rows (null: all, in order) to zero; or to states [layers, count, width], or with `alike` all to [layers, 1, width].
  void reset(const int64_t* rows, int64_t count, const T* const* states = nullptr, bool alike = false) RECURRA_NONBLOCKING;

 private:
  struct Live;
  std::unique_ptr<Live> live_;
};

}  // namespace recurra
