// Cells over graphs: rows in fronts, each row with predecessors in slots or with children. Sequences do not come here.
//
// A front's rows go through the phases of the cell together, a chunk of them at a time: products add to pre-activations in
// memory, then a pointwise function makes states of them. Backward walks the fronts from the last to the first and pulls: a row
// adds up what the rows that it precedes hold for it, slots in order, so that nobody else writes its gradient, and no result
// depends on the split of rows and columns among threads.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "memory.h"
#include "model.h"

namespace recurra {

struct GraphConfig {
  std::string cell;
  int64_t input_size = 0, hidden_size = 0;
  int slots = 0;
  std::vector<std::string> dimensions;  // of "grid"
  std::vector<bool> priority, residual;
  bool standard = false;
};

// The cell's table; std::invalid_argument when there is none.
GraphSpec graph_spec(const GraphConfig& config);
std::vector<std::string> graph_states(const GraphSpec& spec);
std::vector<int64_t> graph_shape(const GraphParam& param, const GraphConfig& config);

// Rows 0 .. fronts[0]-1 are given. before[s * rows + r] and source[r] may be -1. Children instead of slots: those of row r are
// numbers first[r] .. first[r+1]-1 of `children`.
struct GraphRows {
  GraphRows(std::vector<int64_t> fronts, int slots, std::vector<int64_t> before, std::vector<int64_t> source,
            std::vector<int64_t> first, std::vector<int64_t> children);

  const std::vector<int64_t> fronts;
  const int64_t rows, given;
  const int slots;
  const std::vector<int64_t> before, source, first, children;
  std::vector<int64_t> after;           // as before: the row that this one precedes in a slot
  std::vector<int64_t> parent, number;  // of every row: -1 without a parent; its place in `children`
  int64_t inputs = 0;                   // rows that x must have
  std::vector<bool> feeds;              // of rows of x, whether they feed any; empty where each feeds one at the most

  bool lists() const { return !first.empty(); }
  bool shares() const { return !feeds.empty(); }
};

template <class T>
struct GraphModel;
template <class T>
struct GraphRecord;

template <class T>
class GraphTape {
 public:
  explicit GraphTape(std::shared_ptr<const GraphRecord<T>> record) : record_(std::move(record)) {}
  // Pointers to [rows, H] and, for given rows, [given, H], one for each state; those of gradients that come in may be null, and
  // so may dx [inputs given, I] and any of params.
  void backward(const std::vector<const T*>& d_states, T* dx, const std::vector<T*>& d_given, const std::vector<T*>& params,
                const Stop& stop) const;
  double multiplications() const;  // of backward, about
  size_t bytes() const;
  const GraphRows& rows() const;
  int64_t inputs() const;

 private:
  std::shared_ptr<const GraphRecord<T>> record_;
};

enum class Keep { nothing, everything, states };

template <class T>
class GraphNetwork {
 public:
  // params in the order of the cell's table; null for one that is left out.
  GraphNetwork(const GraphConfig& config, const std::vector<const T*>& params);
  // given[i] [given, H] may be null: zero. out[i] [rows, H], null where nobody wants it. Returns a tape unless nothing is
  // kept; x [inputs, I] is copied.
  std::shared_ptr<const GraphRecord<T>> forward(const T* x, int64_t inputs, std::shared_ptr<const GraphRows> rows,
                                                const std::vector<const T*>& given, const std::vector<T*>& out, Keep keep,
                                                const Stop& stop) const;
  double multiplications(int64_t rows) const;  // about
  const GraphConfig& config() const;
  const GraphSpec& spec() const;

 private:
  std::shared_ptr<const GraphModel<T>> model_;
};

}  // namespace recurra
