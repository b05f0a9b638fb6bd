#include "kernel_set.h"

#include <iterator>

#include "engine/model.h"

namespace recurra {
namespace cuda {
namespace {

struct CellType {
  const char *name, *type;
};
constexpr CellType cell_types[] = {
#define RECURRA_CELL(name, ...) {#name, #__VA_ARGS__},
#include "../cells/cells.def"
};

const char* number_of(Number number) { return number == Number::f64 ? "double" : "float"; }

const char* weight_of(Number number) {
  constexpr const char* names[] = {"float", "double", "half", "bf16"};
  return names[int(number)];
}

// No product and sum become one multiply-add but where the source says so; in float subnormal numbers are zero, division is
// IEEE's.
std::vector<std::string> options_of(Number number) {
  if (number == Number::f64) return {"-fmad=false"};
  return {"-fmad=false", "-ftz=true", "-prec-div=true", "-prec-sqrt=true"};
}

Unit unit_of(const std::string& name, Number number, const std::string& definitions, const std::string& file) {
  return {name,
          std::string("#define RECURRA_NUMBER ") + number_of(number) + "\n#define RECURRA_WEIGHT " + weight_of(number) + "\n" +
              definitions + "#include \"cuda/kernels/" + file + "\"\n",
          options_of(number)};
}

}  // namespace

Unit cell_unit(int cell, Number number) {
  const std::string phases = std::to_string(spec_of(cell).phases.size);
  const auto [name, type] = cell_types[cell];
  return unit_of(name, number, std::string("#define RECURRA_CELL_TYPE ") + type + "\n#define RECURRA_PHASES " + phases + "\n",
                 "cell.cuh");
}

Unit product_unit(Number number) { return unit_of("product", number, "", "product.cuh"); }

Unit rows_unit(Number number) { return unit_of("rows", number, "", "rows.cuh"); }

std::vector<Unit> units(Number number) {
  std::vector<Unit> all = {product_unit(number), rows_unit(number)};
  for (size_t cell = 0; cell < std::size(cell_types); ++cell) all.push_back(cell_unit(int(cell), number));
  return all;
}

KernelSet kernels_of(const Device& device, int cell, Number number) {
  const auto module_of = [&](const Unit& unit) -> const Module& { return compiled(device, unit.source, unit.options); };
  KernelSet all;
  const Module& phases = module_of(cell_unit(cell, number));
  for (int p = 0; p < spec_of(cell).phases.size; ++p) {
    all.forward[p] = phases.function(("forward_" + std::to_string(p)).c_str());
    all.backward[p] = phases.function(("backward_" + std::to_string(p)).c_str());
  }
#define RECURRA_FUNCTION(name) all.name = module.function(#name);
  {
    const Module& module = module_of(product_unit(number));
    RECURRA_FUNCTION(ordered_product)
    RECURRA_FUNCTION(ordered_outer)
    RECURRA_FUNCTION(column_sums)
  }
  {
    const Module& module = module_of(rows_unit(number));
    RECURRA_FUNCTION(fill_reversed)
    RECURRA_FUNCTION(read_input)
    RECURRA_FUNCTION(read_gradient)
    RECURRA_FUNCTION(write_output)
    RECURRA_FUNCTION(pass_on)
    RECURRA_FUNCTION(divide_gradient)
    RECURRA_FUNCTION(reverse_rows)
    RECURRA_FUNCTION(add_reversed)
    RECURRA_FUNCTION(read_state)
    RECURRA_FUNCTION(write_state)
    RECURRA_FUNCTION(draw_masks)
    RECURRA_FUNCTION(make_source)
    RECURRA_FUNCTION(add_masked)
    RECURRA_FUNCTION(gather_previous)
    RECURRA_FUNCTION(pack_weights)
    RECURRA_FUNCTION(pack_sums)
    RECURRA_FUNCTION(give_gradient)
    RECURRA_FUNCTION(upload)
  }
#undef RECURRA_FUNCTION
  return all;
}

}  // namespace cuda
}  // namespace recurra
