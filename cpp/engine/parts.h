// Which blocks of which parameters a phase has, and which of its chains they add to: for whoever hands parameters out, or their
// gradients.
#pragma once
#include <cstring>
#include <initializer_list>

#include "../cells/cell.h"

namespace recurra {
namespace detail {

struct Part {
  enum class Kind { input, recurrent, bias, vectors };
  Kind kind;
  int param;                    // in the cell's list
  int first, count;             // blocks of the parameter
  int chain[kMaxVectors] = {};  // that each adds to; of vectors, which are gathered behind the chains: chains + v
};

// use(part) for each part of a phase.
template <class Use>
void each_part(const Spec& spec, const Phase& phase, const Use& use) {
  const auto part = [&](Part::Kind kind, const char* name, int first, int count, const auto& chain) {
    for (int i = 0; name && i < spec.params.size; ++i) {
      if (std::strcmp(name, spec.params[i].name) != 0) continue;
      Part found{kind, i, first, count};
      for (int g = 0; g < count; ++g) found.chain[g] = chain(g);
      use(found);
    }
  };
  const auto of = [](const Product& product) { return [&product](int g) { return product.chain[g]; }; };
  const Product &input = phase.input, &recurrent = phase.recurrent;
  part(Part::Kind::input, input.weight, input.first, input.count, of(input));
  part(Part::Kind::recurrent, recurrent.weight, recurrent.first, recurrent.count, of(recurrent));
  for (const Product* product : {&input, &recurrent})
    part(Part::Kind::bias, product->bias, product->first, product->count, of(*product));
  for (int i = 0; i < phase.rest.size; ++i)
    part(Part::Kind::bias, phase.rest[i].bias, phase.rest[i].first, phase.rest[i].count, of(phase.rest[i]));
  part(Part::Kind::vectors, phase.vectors, 0, phase.vector_count, [&](int v) { return phase.chains + v; });
}

}  // namespace detail
}  // namespace recurra
