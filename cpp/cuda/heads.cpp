#include <algorithm>
#include <climits>
#include <stdexcept>
#include <tuple>

#include "blas.h"
#include "choice.h"
#include "grids.h"
#include "kernel_set.h"
#include "kernels/arguments.h"
#include "recurra/cuda.h"

namespace recurra {
namespace cuda {
namespace {

void clear(void* data, size_t bytes, CUstream stream) {
  check_driver(driver().cuMemsetD8Async(reinterpret_cast<CUdeviceptr>(data), 0, bytes, stream), "cuMemsetD8Async");
}

}  // namespace

struct Linear::Data {
  int64_t inputs, outputs;
  Options options;
  const Device& device;
  HeadKernels kernels;
  Engine engine;
  Memory memory;
  char *weight, *bias;  // weights, numbers

  Data(int64_t inputs, int64_t outputs, const Options& options);
  // Numbers that a product makes first where the result is to be rounded, then cuBLAS's own memory.
  size_t sums_bytes(int64_t rows) const {
    return (size_t(rows * std::max(inputs, outputs)) * number_bytes(options.number) + 255) / 256 * 256;
  }
  Blas blas(void* workspace, int64_t rows, CUstream stream) const {
    return Blas(device, stream, static_cast<char*>(workspace) + sums_bytes(rows), options.allow_tf32);
  }
};

Linear::Data::Data(int64_t i, int64_t o, const Options& given)
    : inputs(i), outputs(o), options(given), device(Device::of(given.device)) {
  for (const auto& [name, size] : {std::pair{"inputs", i}, {"outputs", o}})
    if (size < 1 || size > INT_MAX)
      throw std::invalid_argument(std::string(name) + ": expected 1 to 2^31 - 1, got " + std::to_string(size));
  if (options.engine == Engine::exact && weight_bytes(options.number) == 2)
    throw std::invalid_argument("engine: exact is for float32 and float64");
  engine = engine_of(options, std::max(i, o));
  kernels = head_kernels_of(device, options.number);
  const size_t bytes = (size_t(i * o) * weight_bytes(options.number) + 255) / 256 * 256;
  memory = Memory(device, bytes + size_t(o) * number_bytes(options.number));
  weight = memory.data();
  bias = weight + bytes;
  if (engine == Engine::cublas) Blas::prepare(device);
}

Linear::Linear(int64_t inputs, int64_t outputs, const Options& options)
    : data_(std::make_shared<Data>(inputs, outputs, options)) {}

void Linear::set_parameters(const void* weight, const void* bias, StreamHandle handle) {
  const Data& d = *data_;
  if (!weight) throw std::invalid_argument("weight: expected values, got null");
  const Current current(d.device);
  const CUstream stream = static_cast<CUstream>(handle);
  ParameterArguments a{};
  a.columns = d.inputs;
  a.units = int(d.outputs);
  a.count = 1;
  a.parameter = const_cast<void*>(weight);
  a.packed = d.weight;
  launch_rows(d.kernels.pack_weights, a.columns, a.units, 1, stream, a);
  clear(d.bias, size_t(d.outputs) * number_bytes(d.options.number), stream);
  if (!bias) return;
  a.columns = 1;
  a.parameter = const_cast<void*>(bias);
  a.packed = d.bias;
  launch_rows(d.kernels.pack_sums, 1, a.units, 1, stream, a);
}

size_t Linear::workspace_bytes(int64_t rows) const {
  return data_->engine == Engine::exact ? 0 : data_->sums_bytes(rows) + Blas::workspace_bytes;
}

void Linear::forward(const void* x, int64_t rows, void* y, void* workspace, StreamHandle handle) const {
  const Data& d = *data_;
  if (!rows) return;
  const Current current(d.device);
  const CUstream stream = static_cast<CUstream>(handle);
  if (d.engine == Engine::exact) {
    const AffineArguments a = {int(rows), int(d.inputs), int(d.outputs), x, d.weight, d.bias, y};
    return launch_tiles(d.kernels.affine, rows, d.outputs, 1, number_bytes(d.options.number), stream, a);
  }
  d.blas(workspace, rows, stream)
      .gemm({rows, d.outputs, d.inputs, {x, d.inputs, 0}, {d.weight, d.inputs, 0}, false, true, {workspace, d.outputs, 0}},
            d.options.number);
  launch_rows(d.kernels.finish_affine, d.outputs, rows, 1, stream, FinishArguments{rows, d.outputs, workspace, d.bias, y});
}

void Linear::backward(const void* x, const void* dy, int64_t rows, void* dx, void* d_weight, void* d_bias, bool add,
                      void* workspace, StreamHandle handle) const {
  const Data& d = *data_;
  const Current current(d.device);
  const CUstream stream = static_cast<CUstream>(handle);
  const auto rows_of = [](const void* data, int64_t width) { return Rows{const_cast<void*>(data), width, 0}; };
  const Outer outer = {rows, std::max<int64_t>(rows, 1), nullptr, 1, add, rows_of(dy, d.outputs), rows_of(d_weight, d.inputs)};
  if (d.engine == Engine::exact) {
    if (dx) {
      ProductArguments a{};
      a.m = int(rows);
      a.n = int(d.inputs);
      a.segments = 1;
      a.length = int(d.outputs);
      a.a = rows_of(dy, d.outputs);
      a.b = d.weight;
      a.b_k = d.inputs;
      a.b_n = 1;
      a.out = rows_of(dx, d.inputs);
      launch_tiles(d.kernels.ordered_product, rows, d.inputs, 1, number_bytes(d.options.number), stream, a);
    }
    launch_tiles(d.kernels.ordered_outer, d.outputs, d.inputs, 1, number_bytes(d.options.number), stream,
                 OuterArguments{int(d.outputs), int(d.inputs), outer, rows_of(x, d.inputs)});
  } else {
    const Blas blas = d.blas(workspace, rows, stream);
    if (dx && rows) {
      blas.gemm(
          {rows, d.inputs, d.outputs, {dy, d.outputs, 0}, {d.weight, d.inputs, 0}, false, false, {workspace, d.inputs, 0}},
          d.options.number);
      launch_rows(d.kernels.finish_affine, d.inputs, rows, 1, stream, FinishArguments{rows, d.inputs, workspace, nullptr, dx});
    }
    blas.gemm({d.outputs,
               d.inputs,
               rows,
               {dy, d.outputs, 0},
               {x, d.inputs, 0},
               true,
               false,
               {d_weight, d.inputs, 0},
               add ? 1.0f : 0.0f},
              d.options.number);
  }
  if (!d_bias) return;
  SumArguments sums{d.outputs, outer};
  sums.outer.out = rows_of(d_bias, d.outputs);
  if (d.engine == Engine::exact)
    launch_rows(d.kernels.column_sums, d.outputs, 1, 1, stream, sums);
  else
    launch_sums(d.kernels.parallel_sums, d.outputs, 1, number_bytes(d.options.number), stream, sums);
}

void load_rows(const Options& options) { head_kernels_of(Device::of(options.device), options.number); }

void take_rows(const Options& options, const void* table, int64_t rows, int64_t columns, const void* indices, bool wide,
               int64_t count, void* out, StreamHandle stream) {
  const Device& device = Device::of(options.device);
  const Current current(device);
  const TableArguments a = {count, rows, columns, indices, wide, const_cast<void*>(table), out};
  launch_rows(head_kernels_of(device, options.number).take_rows, columns, count, 1, static_cast<CUstream>(stream), a);
}

void put_rows(const Options& options, void* table, int64_t rows, int64_t columns, const void* indices, bool wide, int64_t count,
              const void* from, StreamHandle stream) {
  const Device& device = Device::of(options.device);
  const Current current(device);
  const TableArguments a = {count, rows, columns, indices, wide, table, const_cast<void*>(from)};
  launch_rows(head_kernels_of(device, options.number).put_rows, columns, count, 1, static_cast<CUstream>(stream), a);
}

void add_rows(const Options& options, void* table, int64_t rows, int64_t columns, const void* indices, bool wide, int64_t count,
              const void* from, bool add, StreamHandle handle) {
  const Device& device = Device::of(options.device);
  const Current current(device);
  const CUstream stream = static_cast<CUstream>(handle);
  if (!add) clear(table, size_t(rows * columns) * number_bytes(options.number), stream);
  if (!count) return;
  const TableArguments a = {count, rows, columns, indices, wide, table, const_cast<void*>(from)};
  int64_t blocks = 1;
  while (blocks < std::min<int64_t>({rows, count, 256})) blocks *= 2;
  launch_rows(head_kernels_of(device, options.number).add_rows, columns, blocks, 1, stream, a);
}

void make_contiguous(const Options& options, int number_size, const std::vector<int64_t>& shape,
                     const std::vector<int64_t>& strides, const void* from, void* to, StreamHandle stream) {
  if (shape.size() != strides.size()) throw std::invalid_argument("strides: expected one for each axis");
  if (number_size != 2 && number_size != 4 && number_size != 8)
    throw std::invalid_argument("number_size: expected 2, 4 or 8, got " + std::to_string(number_size));
  std::vector<std::pair<int64_t, int64_t>> axes;  // size and stride; a merged one's is that of its last axis
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == 1) continue;
    if (!axes.empty() && axes.back().second == shape[i] * strides[i])
      axes.back() = {axes.back().first * shape[i], strides[i]};
    else
      axes.emplace_back(shape[i], strides[i]);
  }
  if (axes.empty()) axes.emplace_back(1, 1);
  ContiguousArguments a{};
  std::tie(a.columns, a.column_stride) = axes.back();
  axes.pop_back();
  if (axes.size() > kMaxAxes)
    throw std::invalid_argument("strides: expected at most " + std::to_string(kMaxAxes) + " axes that cannot be merged, got " +
                                std::to_string(axes.size() + 1));
  a.rows = 1;
  for (const auto& [size, stride] : axes) {
    a.shape[a.axes] = size;
    a.strides[a.axes++] = stride;
    a.rows *= size;
  }
  a.size = number_size;
  a.from = from;
  a.to = to;
  const Device& device = Device::of(options.device);
  const Current current(device);
  launch_rows(head_kernels_of(device, options.number).make_contiguous, a.columns, a.rows, 1, static_cast<CUstream>(stream), a);
}

}  // namespace cuda
}  // namespace recurra
