// What the nodes of a model have in common: how they see values in a call and in a stream.
//
// A value is [steps][rows][size], or without time [rows][size]. In a call a node has whole sequences, each with the timing of
// its rows; in a stream it has the next few steps.
#pragma once
#include <algorithm>
#include <cstring>

#include "../engine/arguments.h"
#include "../engine/linear.h"
#include "../engine/memory.h"
#include "../engine/worth.h"
#include "../threads/team.h"
#include "recurra/model.h"

namespace recurra {
namespace detail {

// Steps of a value side by side.
template <class T>
struct Frames {
  const T* data = nullptr;
  const int64_t* integers = nullptr;
  bool constant = false;  // one step, which stands for all
};

// ---- calls

// Of the rows of a sequence.
struct Timing {
  int64_t steps = 0, rows = 0;
  std::vector<int64_t> lengths;       // empty: all steps
  std::vector<uint8_t> mask, resets;  // [steps][rows], as in Marks; empty: all steps are valid, none is reset

  int64_t length(int64_t row) const { return lengths.empty() ? steps : lengths[size_t(row)]; }
  bool valid(int64_t step, int64_t row) const { return mask.empty() || mask[size_t(step * rows + row)]; }
};
using SharedTiming = std::shared_ptr<const Timing>;

// Memory of calls that are over, lent.
class Block {
 public:
  explicit Block(size_t bytes) : memory_(SpareMemory::of_process().take(bytes)) {}
  ~Block() { SpareMemory::of_process().give(std::move(memory_)); }
  Block(const Block&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(static_cast<void*>(memory_.data()));
  }

 private:
  Buffer<char> memory_;
};

template <class T>
struct CallValue {
  Sequence<const T> numbers;
  Sequence<const int64_t> integers;
  SharedTiming timing;            // null: one for each row
  std::shared_ptr<Block> memory;  // null: the caller's
};

template <class T>
struct ModelGraph;

// One call on its way through a model.
template <class T>
class Run {
 public:
  Run(const ModelGraph<T>& graph, const ModelCall<T>& call, const Stop& stop);
  void finish();  // outputs, where they are not in their place yet

  const ModelCall<T>& call;
  const Stop& stop;
  int64_t rows = 0;

  CallValue<T>& operator[](int id) { return values_[size_t(id)]; }
  Frames<T> frames(int id);  // side by side, a copy if need be
  // Memory for a value: the caller's if it goes there.
  T* make(int id, SharedTiming timing);
  Sequence<T> make_sequence(int id, SharedTiming timing);  // whose steps and rows may lie apart
  bool take(int id, int from);  // makes the value in the memory of one that nobody reads any more, if there is such
  void drop_after(int node);    // memory of values whose last reader this was

 private:
  const Sequence<T>* place_of(int id) const;

  const ModelGraph<T>& graph_;
  int node_ = 0;
  std::vector<CallValue<T>> values_;
};

// Divides `count` pieces of so many multiply-adds among threads; work(first, count, rank).
template <class Work>
void share(int64_t count, double multiplications, const Stop& stop, const Work& work) {
  constexpr double kBetweenPolls = 5e8;  // some 10 milliseconds
  const int64_t most = std::max<int64_t>(1, int64_t(kBetweenPolls / std::max(1.0, multiplications)));
  for (int64_t start = 0; start < count; start += most) {
    if (start && stop && stop()) throw Stopped();
    const int64_t all = std::min(most, count - start);
    TeamLease team(double(all) * multiplications < kWorthWaking ? 1 : num_threads());
    auto job = [&](int rank) {
      const Environment environment(backend());
      const int64_t first = all * rank / team.size(), end = all * (rank + 1) / team.size();
      if (first < end) work(start + first, end - first, rank);
    };
    team.run(job);
  }
}

// ---- streams

// A value in a stream.
template <class T>
struct Slot {
  T* data = nullptr;
  const int64_t* integers = nullptr;
  int64_t frames = 0;       // of this run
  bool constant = false;    // without time, from an input without time
  bool so_far = false;      // without time, of the steps until now
  int64_t rate = 1;         // so many steps of the model for one of these
  uint8_t* mask = nullptr;  // [frames][rows]; null: all valid
};

struct StreamSizes {
  int64_t rows, piece;  // piece: the most steps of a run
  int threads;
};

template <class T>
class StreamNode {
 public:
  virtual ~StreamNode() = default;
  virtual void run() = 0;
  virtual int64_t frames(int64_t given) const { return given; }  // that come out of so many
  virtual void reset(const int64_t*, int64_t) {}                 // rows; null: all
  virtual std::vector<ModelState> states() const { return {}; }
  virtual void get_state(size_t, void*) const {}
  virtual void set_state(size_t, const void*) {}
  virtual Stream<T>* stream() { return nullptr; }  // of a recurrent one

  std::vector<const Slot<T>*> in;
  Slot<T>* out = nullptr;
};

// ---- nodes

template <class T>
class Node {
 public:
  virtual ~Node() = default;
  virtual double multiplications() const { return 0; }          // about: of a step of a row
  virtual int64_t steps(int64_t given) const { return given; }  // that come out of so many
  virtual void call(Run<T>& run) const = 0;
  // With its slots set as far as they are known: it sets what its own are like.
  virtual std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                                std::vector<Slot<T>*> out) const = 0;

  virtual bool aliases() const { return false; }  // whether the result lies in an input's memory

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::invalid_argument("layers: node '" + name + "': " + what);
  }

  std::string name;
  std::vector<int> inputs, outputs;  // numbers of values; a recurrent node's final states come after its output
};

// One whose result for a step of a row depends on nothing else.
template <class T>
class Plain : public Node<T> {
 public:
  // Of positions first .. first + count - 1, a position being a row of a step.
  virtual void apply(const Frames<T>* in, int64_t first, int64_t count, int64_t rows, T* out) const = 0;
  virtual bool in_place() const { return false; }  // whether the result may take the place of the first input

  void call(Run<T>& run) const override;
  std::unique_ptr<StreamNode<T>> stream(const StreamSizes& sizes, std::vector<const Slot<T>*> in,
                                        std::vector<Slot<T>*> out) const override;
};

// The timing of several inputs, of which those without time count for every step.
template <class T>
SharedTiming common_timing(const Node<T>& node, Run<T>& run);

// Says of the slot what follows from its inputs.
template <class T>
void describe(const Node<T>& node, const std::vector<const Slot<T>*>& in, Slot<T>& out);

// An affine map, without threads of its own.
template <class T>
class Affine {
 public:
  explicit Affine(const Linear<T>& linear) : weights_(linear.weights_) {}
  int64_t inputs() const { return weights_->inputs; }
  int64_t outputs() const { return weights_->outputs; }
  void run(const Panel<const T>& x, int64_t rows, const Panel<T>& y) const { weights_->run(weights_->affine(x, rows, y)); }

 private:
  std::shared_ptr<const typename Linear<T>::Weights> weights_;
};

// A model as it is run. A value's number is that of its memory: nodes that change nothing have none of their own.
template <class T>
struct ModelGraph {
  struct Stored {
    int64_t size = 0;
    bool time = true, integer = false;
    int64_t limit = INT64_MAX;  // integers are below
    int readers = 0, last_reader = -1;
    bool output = false;
  };

  ModelGraph(std::string_view structure, const ModelParameters<T>& parameters);

  std::vector<ModelValue> inputs, outputs;  // an input's number is its place
  std::vector<int> output_values;
  std::vector<std::unique_ptr<Node<T>>> nodes;
  std::vector<Stored> values;
  std::vector<std::pair<std::string, Network<T>>> recurrent;
  std::vector<int> recurrent_nodes;
  bool batch_first = false;
  double multiplications = 0;

  void check_integers(size_t input, const Sequence<const int64_t>& x, const int64_t* lengths) const;
};

}  // namespace detail
}  // namespace recurra
