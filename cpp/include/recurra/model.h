// Whole models: recurrent layers with what stands before, between and behind them. What the kinds of nodes compute is said in
// python/recurra/model; the structure is what recurra.Model.structure holds, as JSON text.
//
// A file that recurra.Model.save has written, one frame after another:
//
//   const auto model = recurra::Model<float>::load("denoiser.safetensors");
//   recurra::ModelStream<float> stream(model, /*rows=*/1);
//   while (read_frame(x))
//     if (stream.step(x, y)) write_frame(y);
#pragma once
#include <map>
#include <string_view>

#include "recurra.h"

namespace recurra {

// What flows into a model or out of it, but for its numbers.
struct ModelValue {
  std::string name;
  std::vector<int64_t> features;  // of a row's step: [F], [channels, width], or [] for one integer
  bool time = true;               // one for each step, or one for each row
  bool integer = false;

  int64_t size() const {
    int64_t all = 1;
    for (const int64_t f : features) all *= f;
    return all;
  }
};

// Where a model takes its parameters from.
template <class T>
struct ModelParameters {
  // "node.parameter", of this shape; throws where there is none such.
  std::function<const T*(const std::string& name, const std::vector<int64_t>& shape)> tensor;
  // By node: those that are packed already, whose weights the model shares.
  std::map<std::string, Network<T>> networks;
  std::map<std::string, Linear<T>> linears;
};

// An input, [steps, rows, size], whose last axis is contiguous. One without time has 1 step. Integers where the model says so.
template <class T>
struct ModelInput {
  Sequence<const T> numbers;
  Sequence<const int64_t> integers;
};

// Arrays of states are as of Network: [layers * directions, rows, width]. Lists by recurrent node, in the order of
// Model::recurrent(), are empty, or hold null for some nodes.
template <class T>
struct ModelCall {
  std::vector<ModelInput<T>> inputs;
  std::vector<Sequence<T>> outputs;  // written, with the steps that output_steps says; one without time has 1
  const int64_t* lengths = nullptr;  // [rows] of all inputs with time; null: all steps
  Marks<T> marks;                    // but for reset_state
  std::vector<const T* const*> initial, reset_state;
  std::vector<T* const*> final_states;
};

namespace detail {
template <class T>
struct ModelGraph;
}  // namespace detail

template <class T>
class ModelStream;

// Immutable: any number of threads may run one model at once. Copies share the weights. T is float or double.
template <class T>
class Model {
 public:
  // std::invalid_argument where the structure is not one, naming the node.
  Model(std::string_view structure, const ModelParameters<T>& parameters);

  // From a file that Python's Model.save has written, or from its contents. std::invalid_argument says what is wrong: the file
  // cannot be read, is damaged, of a later version, or of the other type.
  static Model load(const std::string& path);
  static Model load(const void* memory, size_t bytes);

  const std::vector<ModelValue>& inputs() const;
  const std::vector<ModelValue>& outputs() const;
  const std::vector<std::pair<std::string, Network<T>>>& recurrent() const;  // by name of the node
  bool batch_first() const;                                                  // what the structure says of Python's calls
  // Of an output where each input has so many; also of a row, for its lengths.
  int64_t output_steps(size_t output, const std::vector<int64_t>& steps) const;
  double multiplications_per_step() const;  // about: of one row

  void forward(const ModelCall<T>& call, const Stop& stop = {}) const;

 private:
  friend class ModelStream<T>;
  std::shared_ptr<const detail::ModelGraph<T>> graph_;
};

// What a node of a stream holds from step to step; of a recurrent one its states, see Stream.
struct ModelState {
  std::string name;            // "node:window", "node:pool", "node:position"
  std::vector<int64_t> shape;  // whose rows are the axis before the last one
  bool integer = false;        // int64_t in place of T
};

// A model that is fed as the data arrive. After construction a step allocates nothing, locks nothing and makes no system call
// (with one thread). One thread at a time: a second one gets std::runtime_error.
template <class T>
class ModelStream {
 public:
  // std::invalid_argument names a node that needs the whole sequence.
  ModelStream(const Model<T>& model, int64_t rows, int threads = 1);
  ~ModelStream();
  ModelStream(ModelStream&&) noexcept;

  // Of a model with one input, which has time, and one output: x [rows, size], y [rows, size]. Whether a frame came out: a
  // stride may wait for more steps.
  bool step(const T* x, T* y) RECURRA_NONBLOCKING;
  bool step(const int64_t* x, T* y) RECURRA_NONBLOCKING;  // x [rows], where the input holds integers
  bool steps_alone() const;                               // whether it is such a model; its output is none of its inputs
  // Any inputs, of so many steps, and outputs with room for frames(output, steps); one without time has a step for each here.
  void run(int64_t steps, const std::vector<ModelInput<T>>& inputs,
           const std::vector<Sequence<T>>& outputs) RECURRA_NONBLOCKING;
  void run(int64_t steps, const std::vector<ModelInput<T>>& inputs, const std::vector<Sequence<T>>& outputs,
           const Stop& stop);                          // a stopped one leaves the states as they were, copied before
  int64_t frames(size_t output, int64_t steps) const;  // that come out of the next so many steps

  // Some rows (null: all, in order) to where they began: zeros, or what was learned.
  void reset(const int64_t* rows, int64_t count) RECURRA_NONBLOCKING;
  // A recurrent node's, by its number in Model::recurrent(), as of Stream.
  void get_state(size_t node, T* const* states) const RECURRA_NONBLOCKING;
  void set_state(size_t node, const T* const* states) RECURRA_NONBLOCKING;
  void reset_state(size_t node, const int64_t* rows, int64_t count, const T* const* states, bool alike) RECURRA_NONBLOCKING;
  // All others', in this order.
  const std::vector<ModelState>& states() const;
  void get_state(size_t state, void* to) const RECURRA_NONBLOCKING;
  void set_state(size_t state, const void* from) RECURRA_NONBLOCKING;

 private:
  struct Live;
  std::unique_ptr<Live> live_;
};

}  // namespace recurra
