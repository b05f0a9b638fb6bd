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

// Compiles its kernel, or finds it; whether the GPU has room for a cluster of its blocks.
bool load(Resident& r, const Device& device, int cell, Number number) {
  const Relaxed relaxed;  // a stream may be capturing
  const Unit unit = resident_unit(cell, number, r);
  const CUfunction kernel = compiled(device, unit.source, unit.options).function(r.way == Way::backward ? "walk_back" : "walk");
  const Current current(device);
  int most = 0;
  check_driver(driver().cuFuncGetAttribute(&most, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, kernel), "cuFuncGetAttribute");
  if (most < r.threads) return false;
  check_driver(driver().cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, device.shared_bytes),
               "cuFuncSetAttribute");
  if (r.cluster > 1 &&
      !ClusterLaunch({1, 1, unsigned(r.cluster)}, unsigned(r.threads), unsigned(r.shared_bytes), nullptr).has_room(kernel))
    return false;
  r.kernel = kernel;
  return true;
}

}  // namespace

bool has_products(const Network::Data& net) { return net.weight_size > 2 || net.device.major >= 8; }

int most_cluster(const Network::Data& net, Way way) { return way == Way::forward && net.device.major >= 9 ? kMostCluster : 1; }

std::optional<Resident> resident_of(const Network::Data& net, int64_t rows, Way way, int most) {
  const NetworkConfig& c = net.config;
  const bool narrow = net.weight_size == 2;
  if (!has_products(net)) return std::nullopt;
  std::optional<Resident> best;
  int ways = 0;
  most = std::min({most, most_cluster(net, way), net.device.multiprocessors});
  for (int cluster = 1; cluster <= most; cluster *= 2)
    for (const int tile : {1, kTileRows}) {
      if (tile > 1 && (narrow || rows < tile)) continue;
      const int own = narrow ? int(std::clamp<int64_t>(rows, 1, kFragmentRows)) : tile;
      auto found = resident_of(net.spec, net.options.number, c.hidden_size, c.output_size, own, way, cluster);
      if (!found || found->shared_bytes > size_t(net.device.shared_bytes)) continue;
      ++ways;
      found->waves = waves_of(*found, rows, net.directions(), net.device.multiprocessors);
      if (!best || found->waves * found->cycles < best->waves * best->cycles) best = found;
    }
  if (best) best->ways = ways;
  return best;
}

namespace {

void choose_walk(const Network::Data& net, const Plan::Data& plan, Way way, Resident& resident, const char*& why) {
  auto found = resident_of(net, plan.rows, way);
  if (!found) {
    why = net.spec.phases[0].by_rows                     ? "the cell needs whole rows"
          : net.weight_size == 2 && way == Way::backward ? "of 16-bit numbers only forward is one launch"
          : !has_products(net)                           ? "the GPU is older than compute capability 8.0"
          : most_cluster(net, way) == 1                  ? "the recurrent weights do not fit into a block"
                                                         : "the recurrent weights do not fit into a cluster of blocks";
    return;
  }
  if (net.options.walk != Walk::resident) {
    why = should_be_resident(net, plan, *found) ? "a resident one should be faster, by arithmetic that no GPU has shown"
          : plan.steps < kResidentSteps         ? "a short sequence"
                                                : "a resident one is slower, by arithmetic";
    return;
  }
  for (; found; found = resident_of(net, plan.rows, way, found->cluster / 2)) {
    if (load(*found, net.device, cell_number(net.config.cell), net.options.number)) {
      resident = *found;
      return;
    }
    if (found->cluster == 1) throw Error("engine: the GPU has too few registers for a block");
  }
  why = "the GPU has no room for a cluster of so many blocks";
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
         (r.cluster > 1 ? "cluster of " + std::to_string(r.cluster) + " blocks of " : "block of ") + std::to_string(r.threads) +
         " threads, " + all(r.held) + " of " + all(r.places.sources) + " weights a column in registers, " +
         std::to_string(r.shared_bytes) + " bytes of shared memory; " + std::to_string(int64_t(r.cycles)) + shown +
         ", not measured";
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
