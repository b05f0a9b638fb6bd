// The gradients of the parameters of one layer and direction: summed up chunk by chunk, then written to the caller's arrays.
#pragma once
#include "parts.h"
#include "record.h"

namespace recurra {
namespace detail {

template <class T>
class WeightGradients {
 public:
  // A chunk's rows: what a phase's weights were multiplied with, and the gradients of its chains.
  struct Rows {
    Blocks<T> input, source;
    Blocks<T> da;  // [chains + vectors][width] a row
    int count;
    bool first;  // of the chunks that are summed up
  };

  // params[lane][i] may be null; with `add` gradients are added to its contents. Null `params`: none are wanted.
  WeightGradients(const Model<T>& model, const std::vector<std::vector<T*>>* params, bool add, int workers);
  void deal(Dealer& deal, int64_t input, ptrdiff_t source);

  bool wanted() const { return params_; }
  ptrdiff_t width(size_t phase) const { return phases_[phase].width; }  // units, padded
  // Numbers in a row of da: the chains' gradients, then the row's shares of the vectors'.
  ptrdiff_t columns(size_t phase) const;

  void sum(const PackedLayer<T>& layer, size_t phase, const Rows& rows, int worker) const;
  void hand_out(const PackedLayer<T>& layer, size_t lane, int worker) const;

 private:
  struct Phase {
    ptrdiff_t width = 0;
    Panel<T> d_input;      // [gate][width] rows: gradient of the input weights
    Panel<T> d_recurrent;  // likewise
    Panel<T> d_sums;       // one row: da, summed over rows
  };
  void meet_heads(const Product& product, const Rows& rows, const Phase& phase, int worker) const;
  // The rows of `d` for each block of a weight, each from its head's first column on; the sums over da for each block of a bias
  // or of vectors.
  void give_weights(T* out, const Part& part, const Panel<T>& d, ptrdiff_t width, const Heads& heads, int64_t columns,
                    int worker) const;
  void give_sums(T* out, const Part& part, const Phase& phase, int units) const;
  int64_t share(int64_t count, int worker) const { return count * worker / workers_; }

  const Model<T>& model_;
  const std::vector<std::vector<T*>>* params_;
  const bool add_;
  const int workers_;
  std::vector<Phase> phases_;
  T* one_ = nullptr;
};

}  // namespace detail
}  // namespace recurra
