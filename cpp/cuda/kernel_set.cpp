#include "kernel_set.h"

#include <atomic>
#include <iterator>
#include <memory>

#include "engine/model.h"

namespace recurra {
namespace cuda {
namespace {

struct CellType {
  const char *name, *type;
};
constexpr CellType cell_types[] = {
#define RECURRA_CELL(name, ...) {#name, #__VA_ARGS__},
#include "cells/cells.def"
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

Unit cell_unit(int cell, Number number, const char* file, const std::string& more) {
  const Spec& spec = spec_of(cell);
  const bool by_rows = spec.phases[0].by_rows;
  const auto [name, type] = cell_types[cell];
  return unit_of(name, number,
                 std::string("#define RECURRA_CELL_TYPE ") + type + "\n#define RECURRA_PHASES " +
                     std::to_string(spec.phases.size) + "\n#define RECURRA_BY_ROWS " + (by_rows ? "1" : "0") + "\n" + more,
                 file      ? file
                 : by_rows ? "by_rows.cuh"
                           : "step.cuh");
}

Unit product_unit(Number number) { return unit_of("product", number, "", "product.cuh"); }

Unit rows_unit(Number number) { return unit_of("rows", number, "", "rows.cuh"); }

Unit heads_unit(Number number) { return unit_of("heads", number, "", "heads.cuh"); }

std::vector<Unit> units(Number number) {
  std::vector<Unit> all = {product_unit(number), rows_unit(number), heads_unit(number)};
  for (size_t cell = 0; cell < std::size(cell_types); ++cell) all.push_back(cell_unit(int(cell), number));
  return all;
}

namespace {

const Module& module_of(const Device& device, const Unit& unit) { return compiled(device, unit.source, unit.options); }

#define RECURRA_FUNCTION(name) all.name = module.function(#name);

void set_row_kernels(RowKernels& all, const Device& device, Number number) {
  {
    const Module& module = module_of(device, product_unit(number));
    RECURRA_FUNCTION(ordered_product)
    RECURRA_FUNCTION(ordered_outer)
    RECURRA_FUNCTION(column_sums)
    RECURRA_FUNCTION(parallel_sums)
  }
  const Module& module = module_of(device, rows_unit(number));
  RECURRA_FUNCTION(read_lengths)
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
  RECURRA_FUNCTION(clear_rows)
  RECURRA_FUNCTION(clip_rows)
  RECURRA_FUNCTION(pack_weights)
  RECURRA_FUNCTION(pack_sums)
  RECURRA_FUNCTION(give_gradient)
  RECURRA_FUNCTION(upload)
}

}  // namespace

KernelSet kernels_of(const Device& device, int cell, Number number) {
  KernelSet all;
  set_row_kernels(all, device, number);
  const Module& phases = module_of(device, cell_unit(cell, number));
  for (int p = 0; p < spec_of(cell).phases.size; ++p) {
    const std::string n = std::to_string(p);
    all.forward[p] = phases.function(("forward_" + n).c_str());
    all.backward[p] = phases.function(("backward_" + n).c_str());
    all.step[p] = phases.function(("step_" + n).c_str());
  }
  if (spec_of(cell).phases[0].by_rows) all.step[1] = phases.function("step_1");
  return all;
}

namespace {

std::atomic<const HeadKernels*> head_kernels[Device::most][4];

HeadKernels made_head_kernels(const Device& device, Number number) {
  HeadKernels all;
  set_row_kernels(all, device, number);
  const Module& module = module_of(device, heads_unit(number));
  RECURRA_FUNCTION(affine)
  RECURRA_FUNCTION(finish_affine)
  RECURRA_FUNCTION(take_rows)
  RECURRA_FUNCTION(put_rows)
  RECURRA_FUNCTION(add_rows)
  RECURRA_FUNCTION(make_contiguous)
  return all;
}
#undef RECURRA_FUNCTION

}  // namespace

const HeadKernels& head_kernels_of(const Device& device, Number number) {
  driver();  // throws in a forked child
  auto& kept = head_kernels[device.ordinal][int(number)];
  const HeadKernels* all = kept.load(std::memory_order_acquire);
  if (all) return *all;
  auto made = std::make_unique<const HeadKernels>(made_head_kernels(device, number));  // without a lock, as in library.cpp
  if (kept.compare_exchange_strong(all, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *all;
}

}  // namespace cuda
}  // namespace recurra
