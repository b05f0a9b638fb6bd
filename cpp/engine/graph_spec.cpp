// What a graph is made of, checked: the cell and its sizes, and the rows. Compiled small, for none of it takes long.
#include <algorithm>
#include <stdexcept>

#include "arguments.h"
#include "cells/graph/cells.def"
#include "graph.h"

namespace recurra {

using detail::expect;

namespace {

[[maybe_unused]] SlotOptions slot_options(const GraphConfig& config) {
  const size_t slots = size_t(config.slots);
  expect(config.dimensions.size() == slots && config.priority.size() == slots && config.residual.size() == slots,
         "dimensions, priority, residual: expected one a slot");
  SlotOptions options;
  options.standard = config.standard;
  for (size_t d = 0; d < slots; ++d) {
    const auto* name = std::find(std::begin(kGridDimensions), std::end(kGridDimensions), config.dimensions[d]);
    expect(name != std::end(kGridDimensions), "dimensions: expected 'lstm', 'identity', 'tanh' or 'relu'");
    options.kinds[d] = GridDimension(name - kGridDimensions);
    options.priority[d] = config.priority[d];
    options.residual[d] = config.residual[d];
  }
  return options;
}

}  // namespace

GraphSpec graph_spec(const GraphConfig& config) {
  [[maybe_unused]] const int n = config.slots;
  expect(config.hidden_size >= 1 && config.hidden_size <= 1 << 24, "hidden_size: expected 1 to 2^24");
  expect(config.input_size >= 0 && config.input_size <= 1 << 24, "input_size: expected 0 to 2^24");
#define RECURRA_GRAPH_CELL(name, fewest, most, ...)                                               \
  if (config.cell == #name) {                                                                     \
    expect(n >= fewest && n <= most, "slots: expected " #fewest " to " #most " for '" #name "'"); \
    return __VA_ARGS__;                                                                           \
  }
#include "cells/graph/cells.def"
  throw std::invalid_argument("cell: there is none of this name");
}

std::vector<std::string> graph_states(const GraphSpec& spec) {
  std::vector<std::string> names{"h"};
  if (spec.differences) {
    for (int n = 0; n + 1 < spec.states; ++n) names.push_back("d" + std::to_string(n));
    return names;
  }
  if (!spec.states_of_slots) return {"h", "c"};
  names.clear();
  for (const char* letter : {"h_", "m_"})
    for (int d = 1; d <= spec.slots; ++d) names.push_back(letter + std::to_string(d));
  return names;
}

std::vector<int64_t> graph_shape(const GraphParam& param, const GraphConfig& config) {
  std::vector<int64_t> shape{param.rows * config.hidden_size};
  if (param.leading) shape.insert(shape.begin(), param.leading);
  if (param.columns == Dim::input) shape.push_back(config.input_size);
  if (param.columns == Dim::hidden) shape.push_back(param.column_blocks * config.hidden_size);
  return shape;
}

// ---- graphs

GraphRows::GraphRows(std::vector<int64_t> the_fronts, int the_slots, std::vector<int64_t> the_before,
                     std::vector<int64_t> the_source, std::vector<int64_t> the_first, std::vector<int64_t> the_children)
    : fronts(std::move(the_fronts)),
      rows(fronts.empty() ? -1 : fronts.back()),
      given(fronts.empty() ? -1 : fronts.front()),
      slots(the_slots),
      before(std::move(the_before)),
      source(std::move(the_source)),
      first(std::move(the_first)),
      children(std::move(the_children)) {
  expect(given >= 0 && rows <= INT32_MAX && std::is_sorted(fronts.begin(), fronts.end()), "fronts: expected ascending numbers");
  expect(slots >= 0 && slots <= kMaxSlots && int64_t(before.size()) == slots * rows,
         "before: expected 0 to 4 slots of all rows");
  expect(int64_t(source.size()) == rows, "source: expected one number a row");
  expect(lists() != (slots > 0), "before, children: expected one of them");
  std::vector<int64_t> start(size_t(rows), 0);  // of each row's front
  for (size_t f = 0; f + 1 < fronts.size(); ++f) std::fill(start.begin() + fronts[f], start.begin() + fronts[f + 1], fronts[f]);
  after.assign(before.size(), -1);
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == -1) continue;
    const size_t row = i % size_t(rows), slot = i - row;
    expect(before[i] >= 0 && before[i] < start[row], "before: expected rows of earlier fronts");
    int64_t& next = after[slot + size_t(before[i])];
    expect(next < 0, "before: expected a row to precede one row in a slot");
    next = int64_t(row);
  }
  for (const int64_t from : source) {
    expect(from >= -1, "source: expected -1 or a row of x");
    inputs = std::max(inputs, from + 1);
  }
  std::vector<int64_t> fed(source);
  std::sort(fed.begin(), fed.end());
  if (std::adjacent_find(std::upper_bound(fed.begin(), fed.end(), -1), fed.end()) != fed.end()) {
    feeds.assign(size_t(inputs), false);
    for (const int64_t from : source)
      if (from >= 0) feeds[size_t(from)] = true;
  }
  if (!lists()) return;
  expect(int64_t(first.size()) == rows + 1 && first.front() == 0 && first.back() == int64_t(children.size()) &&
             std::is_sorted(first.begin(), first.end()),
         "children: expected ascending places");
  parent.assign(size_t(rows), -1);
  number.assign(size_t(rows), -1);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = first[size_t(row)]; k < first[size_t(row) + 1]; ++k) {
      const int64_t child = children[size_t(k)];
      expect(child >= 0 && child < start[size_t(row)], "children: expected rows of earlier fronts");
      expect(parent[size_t(child)] < 0, "children: expected one parent");
      parent[size_t(child)] = row;
      number[size_t(child)] = k;
    }
}

}  // namespace recurra
