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

// Compiles its kernel, or finds it; whether the GPU has room for a tile's blocks, of all directions if they are no cluster.
bool load(Resident& r, const Device& device, int cell, Number number, int directions) {
  const Relaxed relaxed;  // a stream may be capturing
  const Unit unit = resident_unit(cell, number, r);
  const CUfunction kernel = compiled(device, unit.source, unit.options).function(r.way == Way::backward ? "walk_back" : "walk");
  const Current current(device);
  int most = 0;
  check_driver(driver().cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel), "cuFuncGetAttribute");
  if (most < r.threads) return false;
  check_driver(driver().cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, device.shared_bytes),
               "cuFuncSetAttribute");
  const unsigned threads = unsigned(r.threads), shared_bytes = unsigned(r.shared_bytes);
  if (r.grid)
    r.tiles = room_for_blocks(device, kernel, threads, shared_bytes) / r.cluster / directions * directions;
  else
    r.tiles = r.cluster > 1 ? room_for_clusters(kernel, unsigned(r.cluster), threads, shared_bytes) : 1;
  if (r.tiles < 1) return false;
  r.kernel = kernel;
  return true;
}

}  // namespace

bool has_products(const Network::Data& net) { return net.weight_size > 2 || net.device.major >= 8; }

int most_cluster(const Network::Data& net, Way way) { return way == Way::forward && net.device.major >= 9 ? kMostCluster : 1; }

// Blocks of a grid: as many for each tile as make the call short.
static std::optional<Resident> grid_of(const Network::Data& net, int64_t rows) {
  const NetworkConfig& c = net.config;
  const int lanes = net.directions(), multiprocessors = net.device.multiprocessors;
  std::optional<Resident> best;
  double least = 0;
  for (int blocks = 2; blocks * lanes <= multiprocessors; blocks += std::min(blocks, 8))
    for (const int tile : {kTileRows, 1}) {
      auto found = resident_of(net.spec, net.options.number, c.hidden_size, c.output_size, tile, Way::forward, blocks, true);
      if (!found || found->shared_bytes > size_t(net.device.shared_bytes)) continue;
      const int64_t tiles = (rows + found->rows - 1) / found->rows, together = multiprocessors / (blocks * lanes);
      const double cycles = found->cycles * double((tiles + together - 1) / together);
      if (best && cycles >= least) continue;
      best = found;
      least = cycles;
    }
  return best;
}

std::optional<Resident> resident_of(const Network::Data& net, int64_t rows, Way way) {
  const NetworkConfig& c = net.config;
  const bool narrow = net.weight_size == 2;
  if (!has_products(net)) return std::nullopt;
  const int fewest = narrow ? int(std::clamp<int64_t>(rows, 1, kFragmentRows)) : 1;
  for (int cluster = 1; cluster <= most_cluster(net, way); cluster *= 2)
    for (const int tile : {kTileRows, fewest}) {
      if (tile != fewest && (narrow || rows * net.directions() * cluster <= net.device.multiprocessors)) continue;
      auto found = resident_of(net.spec, net.options.number, c.hidden_size, c.output_size, tile, way, cluster);
      if (found && found->shared_bytes <= size_t(net.device.shared_bytes)) return found;
    }
  return way == Way::forward ? grid_of(net, rows) : std::nullopt;
}

namespace {

void choose_walk(const Network::Data& net, const Plan::Data& plan, Way way, Resident& resident, const char*& why) {
  auto found = resident_of(net, plan.rows, way);
  if (!found) {
    why = net.spec.phases[0].by_rows                     ? "the cell needs whole rows"
          : net.weight_size == 2 && way == Way::backward ? "of 16-bit numbers only forward is one launch"
          : !has_products(net)                           ? "the GPU is older than compute capability 8.0"
          : way == Way::backward                         ? "the recurrent weights do not fit into a block"
                                                         : "the recurrent weights do not fit into all multiprocessors";
    return;
  }
  if (net.options.walk != Walk::resident) {
    why = should_be_resident(net, plan, *found) ? "a resident one should be faster, by arithmetic that no GPU has shown"
          : plan.steps < kResidentSteps         ? "a short sequence"
                                                : "a resident one is slower, by arithmetic";
    return;
  }
  if (load(*found, net.device, cell_number(net.config.cell), net.options.number, net.directions())) {
    resident = *found;
    resident.tiles = int(std::min<int64_t>(resident.tiles, (plan.rows + resident.rows - 1) / resident.rows * net.directions()));
  } else if (found->cluster > 1) {
    why = found->grid ? "the GPU has no room for so many blocks at the same time"
                      : "the GPU has no room for a cluster of so many blocks";
  } else {
    throw Error("engine: the GPU has too few registers for a block");
  }
}

std::string explained(const Resident& r, const char* why) {
  if (!r.kernel) return std::string(": a product and a pointwise kernel for each phase of a step") + (*why ? "; " : "") + why;
  const auto all = [&](const int(&of)[kMaxPhases]) {
    return std::to_string(of[0]) + (r.places.sources[1] ? " and " + std::to_string(of[1]) : "");
  };
  char shown[32];
  std::snprintf(shown, sizeof shown, "%.2f", r.cycles / kCyclesOfMicrosecond);
  return ", resident: one launch for all steps of a layer; " + std::to_string(r.rows) + " rows a " +
         (r.cluster > 1 ? (r.grid ? "grid of " : "cluster of ") + std::to_string(r.cluster) + " blocks of " : "block of ") +
         std::to_string(r.threads) + " threads, " + all(r.held) + " of " + all(r.places.sources) +
         " weights a column in registers, " + std::to_string(r.shared_bytes) + " bytes of shared memory; " +
         std::to_string(int64_t(r.cycles)) + " cycles (" + shown + " us) a step by arithmetic, not measured";
}

}  // namespace

void choose_walk(const Network::Data& net, Plan::Data& plan) {
  plan.resident = plan.resident_back = {};
  plan.why = plan.why_back = "";
  if (net.options.walk == Walk::steps || !plan.total || (plan.engine == Engine::cublas && net.weight_size > 2)) return;
  choose_walk(net, plan, Way::forward, plan.resident, plan.why);
  if (plan.options.training) choose_walk(net, plan, Way::backward, plan.resident_back, plan.why_back);
}

std::string Plan::explain() const {
  const Data& plan = *data_;
  return (plan.engine == Engine::cublas ? "cublas" : "exact") + explained(plan.resident, plan.why) +
         (plan.options.training ? "; backward" + explained(plan.resident_back, plan.why_back) : "");
}

}  // namespace cuda
}  // namespace recurra
