// Which way a call goes through its steps: what a GPU has room for, and what a plan says of it.
#include <algorithm>
#include <cstdio>

#include "choice.h"
#include "engine/model.h"
#include "network.h"
#include "resident.h"

namespace recurra {
namespace cuda {
namespace {

// Compiles its kernel, or finds it; whether the GPU has room for a tile's blocks, those of a grid in each direction.
bool load(Resident& r, const Network::Data& net) {
  const Relaxed relaxed;  // a stream may be capturing
  const Device& device = net.device;
  const Unit unit = resident_unit(cell_number(net.config.cell), net.options.number, r);
  const CUfunction kernel = compiled(device, unit.source, unit.options).function(r.way == Way::backward ? "walk_back" : "walk");
  const Current current(device);
  const unsigned threads = unsigned(r.threads), shared_bytes = unsigned(r.shared_bytes);
  int most = 0;
  check_driver(driver().cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel), "cuFuncGetAttribute");
  if (most < r.threads) return false;
  check_driver(driver().cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, device.shared_bytes),
               "cuFuncSetAttribute");
  if (r.grid) {
    r.tiles = room_for_blocks(device, kernel, threads, shared_bytes) / (r.cluster * net.directions()) * net.directions();
    if (!r.tiles) return false;
  } else if (r.cluster > 1 && !room_for_clusters(kernel, unsigned(r.cluster), threads, shared_bytes)) {
    return false;
  }
  r.kernel = kernel;
  return true;
}

}  // namespace

bool has_products(const Network::Data& net) { return net.weight_size > 2 || net.device.major >= 8; }

std::optional<Resident> resident_of(const Network::Data& net, int64_t rows, Way way, int most_cluster) {
  const NetworkConfig& c = net.config;
  const bool narrow = net.weight_size == 2;
  const int multiprocessors = net.device.multiprocessors;
  if (!has_products(net)) return std::nullopt;
  std::optional<Resident> best;
  double least = 0;
  int ways = 0;
  const auto consider = [&](int blocks, bool grid) {
    for (const int tile : {narrow ? kFragmentRows : 1, kTileRows}) {
      if (tile == kTileRows && !narrow && rows < tile) continue;
      const int own = narrow ? int(std::clamp<int64_t>(rows, 1, tile)) : tile;
      auto found = resident_of(net.spec, net.options.number, c.hidden_size, c.output_size, own, way, blocks, grid, tile);
      if (!found || found->shared_bytes > size_t(net.device.shared_bytes)) continue;
      ++ways;
      found->waves = waves_of(*found, rows, net.directions(), multiprocessors);
      // As a wavefront of ten chunks, whatever the number of steps; else one layer after another.
      const double layers = may_overlap(net, *found, rows) ? 1 + (c.layers - 1) / 10.0 : c.layers,
                   cycles = layers * found->waves * found->cycles;
      if (!best || cycles < least) best = found, least = cycles;
      if (narrow) break;  // half of a fragment's rows take less shared memory, not less time
    }
  };
  most_cluster = std::min({most_cluster, net.device.major >= 9 ? kMostCluster : 1, multiprocessors});
  for (int blocks = 1; blocks <= most_cluster; blocks *= 2) consider(blocks, false);
  for (int blocks = 2; blocks * net.directions() <= multiprocessors; blocks += std::min(blocks, 8)) consider(blocks, true);
  if (best) best->ways = ways;
  return best;
}

namespace {

std::optional<Resident> known_resident_of(const Network::Data& net, int64_t rows, Way way) {
  const std::lock_guard<std::mutex> lock(net.chosen_lock);
  Network::Data::Chosen& latest = net.chosen[way == Way::backward];
  if (latest.rows != rows) latest = {rows, resident_of(net, rows, way)};
  return latest.resident;
}

void choose_walk(const Network::Data& net, const Plan::Data& plan, Way way, Resident& resident, const char*& why) {
  auto found = known_resident_of(net, plan.rows, way);
  if (!found) {
    why = has_products(net) ? "the recurrent weights do not fit into all multiprocessors"
                            : "the GPU is older than compute capability 8.0";
    return;
  }
  if (net.options.walk != Walk::resident) {
    why = should_be_resident(net, plan, *found) ? "a resident one should be faster, by arithmetic that no GPU has shown"
          : plan.steps < kResidentSteps         ? "a short sequence"
                                                : "a resident one is slower, by arithmetic";
    return;
  }
  for (; found; found = resident_of(net, plan.rows, way, found->cluster / 2)) {
    if (load(*found, net)) {
      resident = *found;
      const int64_t tiles = (plan.rows + resident.rows - 1) / resident.rows;
      resident.tiles = int(std::min<int64_t>(resident.tiles, tiles * net.directions()));
      return;
    }
    if (found->cluster == 1) throw Error("engine: the GPU has too few registers for a block");
    if (found->grid) break;
  }
  why = "the GPU has no room for so many blocks at the same time";
}

std::string explained(const Resident& r, const char* why) {
  if (!r.kernel) return std::string(": a product and a pointwise kernel for each phase of a step") + (*why ? "; " : "") + why;
  const auto all = [&](const int(&of)[kMaxPhases]) {
    return std::to_string(of[0]) + (r.places.sources[1] ? " and " + std::to_string(of[1]) : "");
  };
  char shown[99];
  std::snprintf(shown, sizeof shown, " cycles (%.2f us) a step, waves: %.0f; the least of %d ways by arithmetic",
                r.cycles / kCyclesOfMicrosecond, r.waves, r.ways);
  return ", resident: one launch for all steps of a layer; " + std::to_string(r.rows) + " rows a " +
         (r.cluster > 1 ? (r.grid ? "grid of " : "cluster of ") + std::to_string(r.cluster) + " blocks of " : "block of ") +
         std::to_string(r.threads) + " threads, " + all(r.held) + " of " + all(r.places.sources) +
         " weights a column in registers, " + std::to_string(r.shared_bytes) + " bytes of shared memory; " +
         std::to_string(int64_t(r.cycles)) + shown + ", not measured";
}

}  // namespace

void choose_walk(const Network::Data& net, Plan::Data& plan) {
  plan.resident = plan.resident_back = {};
  plan.why = plan.why_back = "";
  if (net.options.walk == Walk::steps || !plan.total || (plan.engine == Engine::cublas && net.weight_size > 2)) return;
  choose_walk(net, plan, Way::forward, plan.resident, plan.why);
  if (plan.options.training) choose_walk(net, plan, Way::backward, plan.resident_back, plan.why_back);
}

void choose_wavefront(const Network::Data& net, Plan::Data& plan) {
  const auto choose = [&](const Resident& resident, int64_t& steps, int64_t multiple, bool& wavefront) {
    if (!resident.kernel || !plan.starts.empty()) return;  // of sorted rows no graph is made, which has the lanes
    const int64_t each = wavefront_steps(net, resident, plan.steps, plan.rows, multiple);
    wavefront = each < plan.steps;
    if (wavefront) steps = std::min(steps, each);
  };
  choose(plan.resident, plan.chunk_steps, 1, plan.wavefront);
  choose(plan.resident_back, plan.backward_steps, plan.engine == Engine::exact ? plan.block_steps : 1, plan.wavefront_back);
}

std::string Plan::explain() const {
  const Data& plan = *data_;
  const auto all = [](const Resident& resident, const char* why, bool wavefront, int64_t steps) {
    return explained(resident, why) +
           (wavefront ? "; layers in a wavefront of " + std::to_string(steps) + " steps a chunk" : "");
  };
  return (plan.engine == Engine::cublas ? "cublas" : "exact") + all(plan.resident, plan.why, plan.wavefront, plan.chunk_steps) +
         (plan.options.training
              ? "; backward" + all(plan.resident_back, plan.why_back, plan.wavefront_back, plan.backward_steps)
              : "");
}

}  // namespace cuda
}  // namespace recurra
