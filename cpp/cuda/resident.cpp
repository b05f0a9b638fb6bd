#include "resident.h"

#include <algorithm>
#include <utility>

#include "choice.h"
#include "engine/model.h"

namespace recurra {
namespace cuda {
namespace {

int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t shares(int64_t n, int64_t of) { return of ? (n + of - 1) / of : 0; }

// Beyond these a block has fewer than 128 registers a thread.
constexpr int64_t kMostThreads = 512;
// A multiprocessor's quarter has 16384 registers, and every fourth warp; a thread has 255 at most, and multiples of 8.
int64_t registers_of(int64_t threads) { return std::min<int64_t>(255, 16384 / (32 * shares(threads, 128)) / 8 * 8); }
// What a thread needs beside weights and sums, found by compiling: addresses, and what the cell computes with. More for a
// second phase, or forward for one by rows; in float more where constants choose functions, which brings the code of all of
// them; backward in float more for each constant, each vector that is not of rows, and for every row but the first, whose
// numbers the compiler loads far ahead, and no more weights in a thread of a grid, or of a phase by rows, than kFewWeights, or
// ptxas spills for sm_80; forward in double more for every state beyond an LSTM's, where several blocks share rows.
constexpr int64_t kOwnRegisters = 80, kBackRegisters = 96, kPhaseRegisters = 8, kRowRegisters = 16, kConstantRegisters = 12,
                  kChoiceRegisters = 16, kStateRegisters = 16, kFewWeights = 104;
// With so many threads or fewer each has as many registers as it may: backward, columns do not need more, nor do units.
constexpr int64_t kManyRegisters = 256;

// As kernels/resident_rows.cuh.
constexpr int64_t kSums = 2;

struct Sizes {
  int64_t units, sources, columns, passes;  // of a block, which has all sources
};

Sizes sizes_of(const Spec& spec, int p, int64_t hidden, int64_t output, Way way, int cluster) {
  const auto width = [&](Dim dim) { return dim == Dim::output ? output : hidden; };
  const Phase& phase = spec.phases[p];
  const int64_t all = width(phase.units), units = shares(all, cluster), blocks = phase.recurrent.count,
                read = p ? width(spec.phases[p - 1].units) : output, made = blocks * units;
  if (way == Way::backward) return {units, blocks * all, blocks ? shares(read, cluster) : 0, 0};
  return {units, read, made, recurrent_slot(phase) * units};
}

// What a step backward reads of the tape and of the layer above, for a unit: at most.
int64_t given_of(const Spec& spec, int p) {
  const Phase& phase = spec.phases[p];
  const int last = spec.phases.size - 1;
  return (phase.units == Dim::hidden ? spec.saved : 0) + (phase.units == spec.phases[last].units) + (p == last) +
         (phase.sets_states ? spec.states.size : 0);
}

// A phase by rows divides a block's threads evenly among the rows of its tile.
int64_t threads_multiple(const Spec& spec, int rows) { return spec.phases[0].by_rows ? std::max(kParts * rows, 32) : 32; }

// Registers that are no weights', and without which weights are read from memory instead.
int64_t spare_of(const Spec& spec, Way way, int cluster) {
  int64_t constants = spec.constants.size;
  // One alone is a clip, which costs registers where a thread has to know where its columns are among all, too.
  if (way != Way::backward) return constants > (cluster > 1 ? 0 : 1) ? kChoiceRegisters : 0;
  for (int p = 0; p < spec.phases.size; ++p) constants += spec.phases[p].by_rows ? 0 : spec.phases[p].vector_count;
  return constants * kConstantRegisters;
}

// What threads and registers have of the columns of a phase's weights; whether that suffices.
bool share_out_columns(Resident& r, const Spec& spec, Number number, const Sizes* wide, const Sizes* own) {
  const int phases = spec.phases.size, rows = r.rows, cluster = r.cluster;
  const bool back = r.way == Way::backward;
  const int64_t words = int64_t(number_bytes(number) / 4);
  const bool by_rows = spec.phases[0].by_rows;
  int64_t widest = 0, most_columns = 0,
          taken = (back ? kBackRegisters : kOwnRegisters) + (phases - 1 + (by_rows && !back)) * kPhaseRegisters;
  if (back && words == 1) taken += (rows - 1) * kRowRegisters;
  if (!back && words == 2 && cluster > 1) taken += std::max(spec.states.size - 2, 0) * kStateRegisters;
  for (int p = 0; p < phases; ++p) widest = std::max(widest, wide[p].columns || back ? wide[p].columns : wide[p].units);
  const int64_t each = widest <= (back || cluster > 1 ? kManyRegisters : 128) ? 1 : 2;
  const auto threads_of = [&](const Sizes* sizes) {
    int64_t most = 0;
    for (int p = 0; p < phases; ++p) {
      const Sizes& s = sizes[p];
      most = std::max(most, shares(s.columns || back ? s.columns : s.units, each));
      if (back) most = std::max(most, std::min(s.units * rows, kManyRegisters));
    }
    return rounded(most, threads_multiple(spec, rows));
  };
  if (threads_of(wide) > kMostThreads) return false;
  r.most_threads = int(threads_of(wide));
  r.threads = int(threads_of(own));
  for (int p = 0; p < phases; ++p) {
    const auto of_thread = [&](const auto& count) {
      return int(std::max(shares(count(wide[p]), r.most_threads), shares(count(own[p]), r.threads)));
    };
    r.columns[p] = of_thread([](const Sizes& s) { return s.columns; });
    r.others[p] = of_thread([&](const Sizes& s) { return back ? s.units * rows : s.passes; });
    most_columns = std::max<int64_t>(most_columns, r.columns[p]);
    // Chains of the next step; or an item's numbers, its unit and its row.
    taken += back ? r.others[p] * (words * given_of(spec, p) + 2) : words * rows * (r.columns[p] + r.others[p]);
    if (cluster > 1) taken += std::max(r.columns[p], r.others[p]);  // where they are among all
  }
  taken += words * rows * most_columns;
  int64_t left = registers_of(r.most_threads) - taken;
  if (left < 0) return false;
  left = std::max<int64_t>(left - (words == 1 ? spare_of(spec, r.way, cluster) : 0), 0);
  if (back && (r.grid || by_rows)) left = std::min(left, kFewWeights * words);
  for (int p = 0; p < phases; ++p) {
    if (!r.columns[p]) continue;
    r.held[p] = int(std::clamp<int64_t>(left / (words * r.columns[p]) / 4 * 4, 0, wide[p].sources));
    left -= words * r.columns[p] * r.held[p];
  }
  return true;
}

// Tiles of 16-bit weights (kernels/fragments.cuh) are shared out among so many warps, whose threads have 255 registers each. Of
// these a thread needs some of its own, found by compiling, and for each column the next step's two numbers, a bias and where
// it is among all, or backward for each unit of a row its numbers; more where there are very many, backward several or those
// of a phase by rows.
constexpr int64_t kMostWarps = 8, kTileColumns = 16, kSlab = 32, kFragmentRegisters = 88, kOfColumn = 5, kPastTen = 40,
                  kPastTwoBack = 8;

// Sizes of a phase in tiles and slabs.
struct Tiles {
  int64_t count, slabs, in_memory, warps;
};
Tiles tiles_of(const Resident& r, const Sizes& s, int p) {
  const int64_t count = shares(s.columns, kTileColumns), slabs = shares(s.sources, kSlab);
  return {count, slabs, count * std::max<int64_t>(slabs - r.held[p] / kSlab, 0), std::min<int64_t>(count, r.threads / 32)};
}

// What threads and registers have of it; whether that suffices.
bool share_out_tiles(Resident& r, const Spec& spec, const Sizes* sizes) {
  const int phases = spec.phases.size;
  const bool back = r.way == Way::backward;
  int64_t warps = 1, most = 0;
  int64_t taken = kFragmentRegisters + (phases - 1 + (back && spec.phases[0].by_rows ? 2 : 0)) * kPhaseRegisters;
  for (int p = 0; p < phases; ++p)
    warps = std::max({warps, shares(sizes[p].columns, kTileColumns), shares(sizes[p].units * kFragmentRows, 32)});
  warps = std::min(rounded(warps, threads_multiple(spec, kFragmentRows) / 32), kMostWarps);
  r.threads = r.most_threads = int(warps * 32);
  const auto of_thread = [&](int64_t columns) { return 2 * shares(shares(columns, kTileColumns), warps); };
  for (int p = 0; p < phases; ++p) {
    r.columns[p] = int(of_thread(sizes[p].columns));
    r.others[p] = int(back ? shares(sizes[p].units * kFragmentRows, r.threads) : of_thread(sizes[p].passes));
    taken += back ? r.others[p] * (given_of(spec, p) + 2) : kOfColumn * (r.columns[p] + r.others[p]);
    most = std::max(most, of_thread(sizes[p].columns));
  }
  taken += 2 * most * (most == 2 ? 2 : 1) + (most > 10 ? kPastTen : 0) + (back && most > 2 ? kPastTwoBack : 0);  // sums
  int64_t left = registers_of(r.threads) - taken;
  if (left < 0) return false;
  left = std::max<int64_t>(left - (back ? 1 : phases) * spare_of(spec, r.way, 1), 0);
  for (int p = 0; p < phases; ++p) {
    if (!r.columns[p]) continue;
    r.held[p] = int(std::min(left / (4 * r.columns[p]), sizes[p].sources / kSlab) * kSlab);
    left -= 4 * r.columns[p] * (r.held[p] / kSlab);
  }
  return true;
}

// Cycles of a product by the tensor cores. Weights of a slab in shared memory come in 8 cycles.
double product_cycles(const Resident& r, const Sizes& s, int p) {
  const Tiles t = tiles_of(r, s, p);
  const double products = double(2 * t.slabs);
  const double issued = kTensorCycles * products * double(r.columns[p] / 2 * shares(t.warps, 4));
  return std::max(
      {issued, kTensorLatencyCycles * products / (r.columns[p] == 2 ? 2 : 1), double(4 * t.warps * t.slabs + 8 * t.in_memory)});
}

// How often a phase by rows takes means, one or two at a time: of both products, then of their squares; if there is a cell
// beside h, of it too; backward once more for each of the three.
int means_of(const Spec& spec, Way way) {
  if (!spec.phases[0].by_rows) return 0;
  const int cells = spec.states.size - 1;
  return 2 + 2 * cells + (way == Way::backward ? 2 + cells : 0);
}

// Cycles of a phase's step on a multiprocessor. A load brings 128 bytes in a cycle, also where all threads get the same; in
// double every multiply-add is followed by four operations on integers that make subnormal numbers zero.
double cycles_of(const Spec& spec, int64_t hidden, const Resident& r, const Sizes& s, int p, Number number, int rows) {
  const bool wide = number == Number::f64;
  const double words = wide ? 2 : 1, sums = double(s.columns * s.sources * rows);
  const double warps = double(shares(std::min<int64_t>(s.columns, r.threads), 32));
  const double in_memory = double(s.columns * std::max<int64_t>(s.sources - r.held[p], 0));
  const double issued = sums * (wide ? 5.0 / 64 : 1.0 / 128), chained = double(s.columns ? s.sources : 0) * (wide ? 24 : 4);
  const double loaded = warps * double(s.sources * rows) * words + in_memory * words / 32;
  const double items = double(shares(s.units * rows, r.threads));
  const auto exchange = [&](double bytes) {
    return r.grid ? kGridCycles + kMemoryCycles + bytes / kMemoryBytes : r.cluster > 1 ? kExchangeCycles : 0;
  };
  const double mean = (wide ? kWideMeanCycles : kMeanCycles) + double(shares(hidden, kParts)) * (wide ? 24 : 4) +
                      exchange(double(kSums * hidden * rows * int64_t(number_bytes(number))));
  return (weight_bytes(number) == 2 ? product_cycles(r, s, p) : std::max({issued, chained, loaded})) +
         (wide ? kWideStepCycles : kStepCycles) + kUnitCycles * items +
         exchange(double(s.sources * rows * int64_t(weight_bytes(number)))) + means_of(spec, r.way) * mean;
}

}  // namespace

std::optional<Resident> resident_of(const Spec& spec, Number number, int64_t hidden, int64_t output, int rows, Way way,
                                    int cluster, bool grid) {
  const int phases = spec.phases.size;
  const bool back = way == Way::backward, narrow = weight_bytes(number) == 2, by_rows = spec.phases[0].by_rows;
  Resident r;
  r.way = way;
  r.rows = narrow ? kFragmentRows : rows;
  r.cluster = cluster;
  r.grid = grid;

  // The kernel, for sizes that are multiples of 32.
  Sizes wide[kMaxPhases], own[kMaxPhases];
  for (int p = 0; p < phases; ++p) {
    wide[p] = sizes_of(spec, p, rounded(hidden, 32), rounded(output, 32), way, cluster);
    own[p] = sizes_of(spec, p, hidden, output, way, cluster);
  }
  if (!(narrow ? share_out_tiles(r, spec, wide) : share_out_columns(r, spec, number, wide, own))) return std::nullopt;

  // The launch.
  int64_t at = 0, sums = 0;
  const auto take = [&](int64_t count) { return int(std::exchange(at, at + rounded(count, 4))); };
  const auto take_sources = [&](int64_t count, int64_t held) {
    const int64_t size = r.rows * (narrow ? (shares(std::max(count, held), kSlab) | 1) * kSlab / 2 : rounded(count, 4));
    if (grid) r.place = std::max(r.place, int(narrow ? 2 * size : size));
    return take(size);
  };
  WalkPlaces& places = r.places;
  for (int p = 0; p < phases; ++p) {
    const Sizes& s = own[p];
    if (back)
      sums = p ? sums : phases > 1 ? s.units : 0;
    else
      sums = std::max(sums, s.units * spec.phases[p].chains);
    places.sources[p] = int(s.sources);
    places.source_at[p] = take_sources(s.sources, r.held[p]);
    places.weights_at[p] = take(narrow ? tiles_of(r, s, p).in_memory * kTileColumns * kSlab / 2
                                       : s.columns * std::max<int64_t>(rounded(s.sources, 4) - r.held[p], 0));
    r.weights += s.columns * s.sources * cluster;
    r.cycles += cycles_of(spec, hidden, r, s, p, number, std::min(rows, r.rows));
  }
  if (cluster > 1 && phases == 1 && !grid) places.source_at[1] = take_sources(places.sources[0], r.held[0]);
  // Of fragments, the columns of two rows further on lie 8 banks further on.
  const auto row_of = [&](int64_t units) { return int(narrow ? rounded(units, 8) + 4 : units); };
  places.sums_row = row_of(sums);
  places.sums_at = take(r.rows * places.sums_row);
  const int64_t widest = shares(std::max(hidden, output), cluster);
  places.held_row = back ? row_of(widest) : int(widest);
  places.held_at = take(r.rows * places.held_row * (spec.states.size + spec.kept));
  if (by_rows) {
    places.values_row = int(rounded(hidden, 4));
    const int64_t values = kSums * r.rows * places.values_row;
    places.values_at = take(grid ? values : 2 * values);
    if (grid) r.place += int(narrow ? 2 * values : values);
  }
  r.shared_bytes = size_t(at) * number_bytes(number);
  return r;
}

Unit resident_unit(int cell, Number number, const Resident& r) {
  const bool two = spec_of(cell).phases.size > 1;
  const auto list = [&](const char* name, const int(&of)[kMaxPhases]) {
    return std::string("#define RECURRA_") + name + " " + std::to_string(of[0]) + (two ? ", " + std::to_string(of[1]) : "") +
           "\n";
  };
  const bool back = r.way == Way::backward;
  return cell_unit(cell, number, back ? "resident_backward.cuh" : "resident.cuh",
                   "#define RECURRA_ROWS " + std::to_string(r.rows) + "\n#define RECURRA_THREADS " +
                       std::to_string(r.most_threads) + "\n" + list("COLUMNS", r.columns) +
                       list(back ? "ITEMS" : "PASSES", r.others) + list("HELD", r.held) + "#define RECURRA_CLUSTER " +
                       std::to_string(r.cluster) + "\n#define RECURRA_GRID " + std::to_string(int(r.grid)) + "\n");
}

}  // namespace cuda
}  // namespace recurra
