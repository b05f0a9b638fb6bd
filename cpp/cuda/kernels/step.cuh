// A step of a stream: a phase's products and its pointwise function in one kernel, the sums in the CPU's order. A block has few
// units, with all their chains, so that many multiprocessors share the weights, and some rows. All threads bring weights and
// what these meet to shared memory, in slices: the next one is on its way while sums go through this one.
#pragma once
#include "cuda/kernels/cell.cuh"

namespace recurra {
namespace cuda {

using Word = V::Word;
// What one load brings.
constexpr int kFour = int(sizeof(Words) / sizeof(Number)), kPiece = int(sizeof(Words) / sizeof(Weight));
struct Numbers {
  Number v[kFour];
};
struct Weights {
  Weight v[kPiece];
};

constexpr int shares(int n, int of) { return (n + of - 1) / of; }

// Sources in a slice of so many lines: shared memory has two slices beside the sums.
constexpr int slice_of(int lines, int sums) {
  int sources = 1024 / int(sizeof(Number));
  while ((2 * lines * (sources + kFour) + sums) * int(sizeof(Number)) > kStepSharedBytes) sources /= 2;
  return sources;
}

// Weights of a column, from `at` on: as memory has them, to be converted when they have come. Behind the last one they are -0,
// and what they meet is +0, which changes no sum: the product is -0.
inline Words weights_at(const Weight* column, int64_t at, int64_t length) {
  if (at < length && length % kPiece == 0) return *reinterpret_cast<const Words*>(column + at);
  Weights to;
  RECURRA_UNROLL
  for (int i = 0; i < kPiece; ++i) to.v[i] = at + i < length ? column[at + i] : narrowed(-Number(0));
  return bits_as<Words>(to);
}

// A number's bits likewise, or a weight's.
template <class T>
inline Word bits_at(const void* from, int64_t at) {
  union {
    Word word;
    T value;
  } to = {0};
  to.value = static_cast<const T*>(from)[at];
  return to.word;
}
template <class T>
inline T value_of(Word word) {
  union {
    Word word;
    T value;
  } from = {word};
  return from.value;
}

// Of a block: its units and rows, and how many it might have.
struct StepPart {
  const int wide, high, first_unit, first_row;
  int units, rows;

  StepPart(const StepArguments& a, int chains, bool few)
      : wide(step_units(chains, few)),
        high(step_rows(few)),
        first_unit(int(blockIdx.x) * wide),
        first_row(int(blockIdx.y) * high) {
    units = a.phase.units - first_unit < wide ? a.phase.units - first_unit : wide;
    rows = a.phase.rows - first_row < high ? a.phase.rows - first_row : high;
  }
  // Its sums begin shared memory.
  Number* sum(int chain, int unit, int row) const {
    return reinterpret_cast<Number*>(shared_memory()) + (chain * wide + unit) * high + row;
  }
};

// A table in four bits a chain: indexed by a thread it would be in memory.
constexpr uint32_t of_chains(const int (&table)[2 * kMaxChains]) {
  uint32_t all = 0;
  for (int c = 0; c < 2 * kMaxChains; ++c) all |= uint32_t(table[c] & 15) << 4 * c;
  return all;
}
inline int of_chain(uint32_t all, int chain) { return int(all << (28 - 4 * chain)) >> 28; }

// All sums of the block.
template <int p, bool few>
struct StepSums {
  static constexpr int kChains = PhaseOf<p>::phase.chains, kInputs = PhaseOf<p>::phase.input.count;
  static constexpr int kUnits = step_units(kChains, few), kColumns = kUnits * kChains, kRows = step_rows(few);
  static constexpr int kSlice = slice_of(kColumns + kRows, kColumns* kRows), kPieces = kSlice / kPiece;
  // Rows of a thread: with many rows a weight that is read is used for as many. Sources that it reads while it adds others.
  static constexpr int kOwnRows = few ? 1 : 4, kAhead = few ? 16 : 4;
  // From line to line: an odd number of loads, which so meet different banks.
  static constexpr int kPitch = kSlice + kFour;
  // With few rows who adds does nothing else, for all wait for it.
  static constexpr int kAdding = few ? shares(kColumns * kRows, 32) * 32 : 0, kLoading = kStepThreads - kAdding;

  const StepArguments& a;
  const StepPart& part;
  const int loader = int(threadIdx.x) - kAdding;
  const int input_slices = kInputs ? int((a.inputs + kSlice - 1) / kSlice) : 0;
  Words weights[shares(kColumns * kPieces, kLoading)];
  Word words[shares(kRows * kSlice, kLoading)];

  static constexpr Places kPlaces = places_of(PhaseOf<p>::phase);
  static constexpr uint32_t kSlots = of_chains(kPlaces.slot), kBlocks = of_chains(kPlaces.block);

  // Where a chain's weights are among those of a product, or -1.
  int gate(int chain, bool recurrent) const {
    return recurrent ? of_chain(kBlocks, chain) : chain < kInputs ? of_chain(kSlots, chain) : -1;
  }
  bool is_recurrent(int s) const { return s >= input_slices; }
  int64_t first_of(int s) const { return int64_t(is_recurrent(s) ? s - input_slices : s) * kSlice; }
  int64_t length_of(int s) const { return is_recurrent(s) ? a.sources : a.inputs; }
  // Whether what a product reads are weights, or numbers, which it rounds.
  bool reads_weights(int s) const { return is_recurrent(s) ? p > 0 : a.x_is_weight != 0; }
  // Columns of weights, then rows.
  Number* line(int s, int i) const { return part.sum(kChains, 0, 0) + (s % 2 * (kColumns + kRows) + i) * kPitch; }

  __forceinline__ void fetch(int s) {
    const bool recurrent = is_recurrent(s);
    const int64_t first = first_of(s), length = length_of(s);
    const Weight* const all = static_cast<const Weight*>(recurrent ? a.recurrent : a.input);
    RECURRA_UNROLL
    for (int i = 0; i < int(sizeof weights / sizeof *weights); ++i) {
      const int n = loader + i * kLoading, column = n / kPieces, unit = column % kUnits;
      const int g = column < kColumns ? gate(column / kUnits, recurrent) : -1;
      if (g >= 0 && unit < part.units)
        weights[i] = weights_at(all + (int64_t(g) * a.phase.units + part.first_unit + unit) * length,
                                first + n % kPieces * kPiece, length);
    }
    const Rows& before = p > 0 ? a.source : a.phase.h_before;
    const void* const from = recurrent ? before.data : a.x.data;
    const int64_t row_stride = recurrent ? before.row : a.x.row, stride = recurrent ? 1 : a.x.column;
    RECURRA_UNROLL
    for (int i = 0; i < int(sizeof words / sizeof *words); ++i) {
      const int n = loader + i * kLoading, row = n / kSlice;
      const int64_t k = first + n % kSlice, at = (part.first_row + row) * row_stride + k * stride;
      words[i] = row >= part.rows || k >= length ? 0 : reads_weights(s) ? bits_at<Weight>(from, at) : bits_at<Number>(from, at);
    }
  }

  __forceinline__ void put(int s) const {
    RECURRA_UNROLL
    for (int i = 0; i < int(sizeof weights / sizeof *weights); ++i) {
      const int n = loader + i * kLoading, column = n / kPieces;
      const Weights from = bits_as<Weights>(weights[i]);
      Words* const at = reinterpret_cast<Words*>(line(s, column) + n % kPieces * kPiece);
      RECURRA_UNROLL
      for (int j = 0; j < kPiece / kFour && column < kColumns; ++j) {
        Numbers to;
        RECURRA_UNROLL
        for (int k = 0; k < kFour; ++k) to.v[k] = flushed(widened(from.v[j * kFour + k]));
        at[j] = bits_as<Words>(to);
      }
    }
    RECURRA_UNROLL
    for (int i = 0; i < int(sizeof words / sizeof *words); ++i) {
      const int n = loader + i * kLoading, row = n / kSlice;
      const Weight weight = reads_weights(s) ? value_of<Weight>(words[i]) : narrowed(value_of<Number>(words[i]));
      if (row < part.rows) line(s, kColumns + row)[n % kSlice] = flushed(widened(weight));
    }
  }

  // Some of a column's weights, and what they meet of each row.
  struct Sources {
    Number v[1 + kOwnRows][kAhead];
    void read(const Number* column, const Number* row) {
      RECURRA_UNROLL
      for (int i = 0; i < (1 + kOwnRows) * kAhead; i += kFour) {
        const int k = i % kAhead, r = i / kAhead;
        const Numbers four = bits_as<Numbers>(*reinterpret_cast<const Words*>((r ? row + (r - 1) * kPitch : column) + k));
        RECURRA_UNROLL
        for (int j = 0; j < kFour; ++j) v[r][k + j] = four.v[j];
      }
    }
    void add_to(V (&sum)[kOwnRows]) const {
      RECURRA_UNROLL
      for (int i = 0; i < kAhead * kOwnRows; ++i) {
        V& s = sum[i % kOwnRows];
        s = fma(V(v[1 + i % kOwnRows][i / kOwnRows]), V(v[0][i / kOwnRows]), s);
      }
    }
  };

  __forceinline__ void make() {
    const int column = int(threadIdx.x) % kColumns, chain = column / kUnits, unit = column % kUnits;
    const int row = int(threadIdx.x) / kColumns * kOwnRows;
    const bool mine = unit < part.units && row < part.rows;
    V sum[kOwnRows];
    if (mine) {
      const int64_t at = int64_t(of_chain(kSlots, chain)) * a.phase.units + part.first_unit + unit;
      RECURRA_UNROLL
      for (int r = 0; r < kOwnRows; ++r) sum[r] = V::load(static_cast<const Number*>(a.phase.bias) + at);
    }
    const int slices = input_slices + (PhaseOf<p>::phase.recurrent.count ? int((a.sources + kSlice - 1) / kSlice) : 0);
    for (int s = -1; s < slices; ++s) {
      if (s >= 0 && loader >= 0) put(s);
      __syncthreads();  // until the slice is there, and the one before has been read
      if (s + 1 < slices && loader >= 0) fetch(s + 1);
      if (s < 0 || !mine || gate(chain, is_recurrent(s)) < 0) continue;
      const int64_t left = length_of(s) - first_of(s);
      const int count = left < kSlice ? int(left) : kSlice;
      const Number *const w = line(s, column), *const v = line(s, kColumns + row);
      Sources now, next;
      now.read(w, v);
      for (int k = kAhead; k < count; k += kAhead) {
        next.read(w + k, v + k);
        now.add_to(sum);
        now = next;
      }
      now.add_to(sum);
    }
    RECURRA_UNROLL
    for (int r = 0; r < kOwnRows; ++r)
      if (mine && row + r < part.rows) *part.sum(chain, unit, row + r) = sum[r].v;
  }
};

// use(unit, row, the sum of a chain) for all units and rows of the block.
template <int p, class Use>
inline void each_sum(const StepArguments& a, const Use& use) {
  constexpr int chains = PhaseOf<p>::phase.chains;
  const bool few = a.phase.rows <= kFewRows;
  const StepPart part(a, chains, few);
  if (few)
    StepSums<p, true>{a, part}.make();
  else
    StepSums<p, false>{a, part}.make();
  __syncthreads();  // until the block's sums are there
  for (int n = int(threadIdx.x); n < part.units * part.rows; n += kStepThreads) {
    const int unit = n % part.units, row = n / part.units;
    use(part.first_unit + unit, part.first_row + row, [&](int chain) { return V(*part.sum(chain, unit, row)); });
  }
}

// What the last phase makes goes to the caller too.
inline void give(const StepArguments& a, int64_t row, int unit, V h) {
  if (a.y.data) static_cast<Weight*>(a.y.data)[row * a.y.row + unit * a.y.column] = narrowed(h.v);
}

template <int p>
inline void step_phase(const StepArguments& a) {
  each_sum<p>(a, [&](int unit, int row, const auto& sum) {
    constexpr int chains = PhaseOf<p>::phase.chains;
    V all[chains];
    RECURRA_UNROLL
    for (int c = 0; c < chains; ++c) all[c] = sum(c);
    const V h = finish_unit<p>(a.phase, Here{unit, row, 0}, all);
    if (p == kLast) give(a, row, unit, h);
  });
}

#if !RECURRA_BY_ROWS
RECURRA_BLOCK_KERNEL(step_0, StepArguments) { step_phase<0>(a); }
#if RECURRA_PHASES > 1
RECURRA_BLOCK_KERNEL(step_1, StepArguments) { step_phase<1>(a); }
#endif
#endif

}  // namespace cuda
}  // namespace recurra
