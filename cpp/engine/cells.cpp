// The table of cells, as data: for the engine and for whoever asks what there is.
#include <iterator>
#include <stdexcept>

#include "model.h"

namespace recurra {
namespace {

struct Named {
  const char* name;
  Spec spec;
};

constexpr Named table[] = {
#define RECURRA_CELL(name, ...) {#name, __VA_ARGS__::spec()},
#include "cells/cells.def"
};

std::string text(Dim dim) {
  const char* names[] = {"one", "input", "hidden", "output", "head"};
  return names[int(dim)];
}

std::vector<CellInfo> describe() {
  std::vector<CellInfo> all;
  for (const Named& entry : table) {
    CellInfo info{entry.name, entry.spec.gates, {}, {}, {}, false, false, false, false};
    for (int i = 0; i < entry.spec.params.size; ++i) {
      const Param& p = entry.spec.params[i];
      info.params.push_back({p.name, p.blocks, text(p.rows), text(p.cols), p.is_bias});
      info.has_heads = info.has_heads || p.cols == Dim::head;
    }
    for (int i = 0; i < entry.spec.states.size; ++i) {
      const State& s = entry.spec.states[i];
      info.states.emplace_back(s.name, text(s.width));
    }
    for (int i = 0; i < entry.spec.constants.size; ++i) {
      const Constant& c = entry.spec.constants[i];
      info.constants.emplace_back(c.name, c.value);
    }
    // A last phase that computes `output` units makes h a projection.
    const Phase& last = entry.spec.phases[entry.spec.phases.size - 1];
    info.projected = last.units == Dim::output;
    info.unit_range = last.unit_range;
    info.recurrent_product = entry.spec.phases[0].recurrent.count > 0;
    all.push_back(info);
  }
  return all;
}

}  // namespace

const std::vector<CellInfo>& cells() {
  static const std::vector<CellInfo> all = describe();
  return all;
}

const std::vector<std::string>& activations() {
  static const std::vector<std::string> all(std::begin(kActivations), std::end(kActivations));
  return all;
}

const Spec& spec_of(int cell) { return table[cell].spec; }

int cell_number(const std::string& name) {
  for (int i = 0; i < kCells; ++i)
    if (name == table[i].name) return i;
  throw std::invalid_argument("cell: there is no cell named '" + name + "'");
}

}  // namespace recurra
