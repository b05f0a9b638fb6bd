// A step without packed weights; its products are cpu/in_place.h. For one step of one row the schedule of session.cpp comes
// down to a walk over layers, directions and phases.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "../threads/team.h"
#include "model.h"
#include "pack.h"

namespace recurra {

using detail::Buffer;
using detail::Dealer;
using detail::TileUnits;

namespace {

// Number of a parameter in the cell's list, -1 for none.
int number_of(const Spec& spec, const char* name) {
  for (int i = 0; name && i < spec.params.size; ++i)
    if (std::strcmp(name, spec.params[i].name) == 0) return i;
  return -1;
}

constexpr ptrdiff_t kNoOffset = 0;           // of the only row
constexpr double kWorthWakingInPlace = 1e6;  // multiply-adds: they take half as long again as with packed weights

}  // namespace

template <class T>
struct StepInPlace<T>::Plan {
  struct Part {  // a phase
    int input, input_bias, recurrent, recurrent_bias, vectors;
    List<int, 5> rest;
    ptrdiff_t units, source_size;
    int tiles;
    ptrdiff_t header;  // numbers of a tile's biases and vectors
  };
  // What a run works on, in one block.
  struct Scratch {
    T *h, *new_h, *states, *new_states, *result, *kept, *apart, *between[2], *headers;
  };

  explicit Plan(const NetworkConfig& c)
      : config(c),
        number(cell_number(c.cell)),
        spec(spec_of(number)),
        info(cells()[size_t(number)]),
        backend(recurra::backend()) {
    const Regularization& r = config.regularization;
    if (config.precision != Precision::full || config.heads != 1 || r.recurrent_dropout > 0 ||
        std::any_of(std::begin(r.zoneout), std::end(r.zoneout), [](double rate) { return rate > 0; }))
      throw std::invalid_argument("in place: expected full precision, one head and no regularization");
    detail::check_config(config, info);
    const Environment environment(backend);  // rounds the constants
    for (int direction = 0; direction < config.directions; ++direction) {
      const double* from = detail::constants_of(config, spec, direction);
      constants[direction].assign(from, from + spec.constants.size);
    }
    lanes = kernels<T>(backend).lanes;
    hidden = padded(config.hidden_size);
    stride = std::max(hidden, padded(config.output_size));
    ptrdiff_t source = config.output_size;
    for (int p = 0; p < spec.phases.size; ++p) {
      const Phase& phase = spec.phases[p];
      const ptrdiff_t units = phase.units == Dim::output ? config.output_size : config.hidden_size;
      List<int, 5> rest;
      for (; rest.size < phase.rest.size; ++rest.size) rest.item[rest.size] = number_of(spec, phase.rest[rest.size].bias);
      parts.push_back({number_of(spec, phase.input.weight), number_of(spec, phase.input.bias),
                       number_of(spec, phase.recurrent.weight), number_of(spec, phase.recurrent.bias),
                       number_of(spec, phase.vectors), rest, units, source, int(padded(units) / lanes),
                       ptrdiff_t(phase.chains + phase.vector_count) * lanes});
      headers = std::max(headers, parts.back().header * parts.back().tiles);
      source = units;
    }
    for (int layer = 0; layer < config.layers; ++layer)
      for (int p = 0; p < spec.phases.size; ++p)
        multiplications += double(parts[size_t(p)].units) * double(config.directions) *
                           (double(spec.phases[p].input.count) * double(input_size(layer)) +
                            double(spec.phases[p].recurrent.count) * double(parts[size_t(p)].source_size));
  }

  ptrdiff_t padded(ptrdiff_t units) const { return (units + lanes - 1) / lanes * lanes; }
  ptrdiff_t input_size(int layer) const { return layer ? config.directions * config.output_size : config.input_size; }
  ptrdiff_t width(int state) const { return state ? config.hidden_size : config.output_size; }

  // h and the other states of every layer and direction, padded, one lane after another.
  void deal(Dealer& deal, Scratch& s) const {
    const int64_t all = config.layers * config.directions, others = spec.states.size - 1;
    deal.take(s.h, all * stride), deal.take(s.new_h, all * stride);
    deal.take(s.states, all * others * hidden), deal.take(s.new_states, all * others * hidden);
    deal.take(s.result, stride), deal.take(s.kept, spec.kept * hidden);
    deal.take(s.apart, spec.phases[0].by_rows ? spec.phases[0].chains * hidden : 0);
    for (T*& between : s.between) deal.take(between, config.layers > 1 ? config.directions * config.output_size : 0);
    deal.take(s.headers, headers);
  }

  // The tiles' biases and vectors, as in packed weights.
  void make_headers(T* to, const Phase& phase, const Part& part, const T* const* params, int begin, int end) const {
    const auto param = [&](int i) { return i < 0 ? nullptr : params[i]; };
    const Product vectors = {phase.vectors, nullptr, 0, phase.vector_count, {0, 1, 2, 3}};
    for (int t = begin; t < end; ++t) {
      T* tile = to + t * part.header;
      const TileUnits units = {part.units, int64_t(t) * lanes, lanes};
      std::fill_n(tile, part.header, T(0));
      detail::add_bias(tile, param(part.input_bias), phase.input, units);
      detail::add_bias(tile, param(part.recurrent_bias), phase.recurrent, units);
      for (int i = 0; i < phase.rest.size; ++i) detail::add_bias(tile, param(part.rest[i]), phase.rest[i], units);
      if (phase.vectors)
        detail::pack_product(Precision::full, tile + phase.chains * lanes, param(part.vectors), vectors, 1, units);
    }
  }

  // One layer and direction, by worker `rank` of `size`.
  void pass(const Scratch& s, int layer, int lane, const T* x, const T* const* params, T* y, int rank, int size,
            Barrier& barrier) const {
    const ptrdiff_t others = (spec.states.size - 1) * hidden;
    for (int p = 0; p < spec.phases.size; ++p) {
      const Phase& phase = spec.phases[p];
      const Part& part = parts[size_t(p)];
      const bool last = p == spec.phases.size - 1;
      InPlaceCall<T> given;
      PhaseCall<T>& call = given.phase;
      call.tile_begin = part.tiles * rank / size;
      call.tile_end = part.tiles * (rank + 1) / size;
      make_headers(s.headers, phase, part, params, call.tile_begin, call.tile_end);
      const auto blocks = [&](int i, const Product& product, ptrdiff_t columns) {
        return i < 0 ? nullptr : params[i] + product.first * part.units * columns;
      };
      given.input = blocks(part.input, phase.input, input_size(layer));
      given.recurrent = blocks(part.recurrent, phase.recurrent, part.source_size);
      call.tiles.base = s.headers;
      call.tiles.size = part.header;
      call.tiles.input_size = input_size(layer);
      call.tiles.source_size = part.source_size;
      call.tiles.units = int(part.units);
      call.finish = kernels<T>(backend).finish[number][p][0];
      call.rows = 1;
      call.x.rows = {x, &kNoOffset};
      call.h = {s.h + lane * stride, &kNoOffset};
      call.source.rows = {p ? s.result : s.h + lane * stride, &kNoOffset};
      call.states = {s.states + lane * others, 0};
      call.new_states = {s.new_states + lane * others, 0};
      call.kept = {s.kept, 0};
      call.apart = {s.apart, 0};
      call.shared = size > 1;
      call.padded = hidden;
      call.constants = constants[lane % config.directions].data();
      call.result = {last ? s.new_h + lane * stride : s.result, 0};
      if (last) call.y = {y, &kNoOffset};
      kernels<T>(backend).in_place[number][p](given);
      if (size > 1) barrier.wait(rank);
      if (!phase.by_rows || !call.shared) continue;
      if (rank == 0) call.finish(call, 0, 1, 0, 0, nullptr);
      barrier.wait(rank);
    }
  }

  void copy_states(const Scratch& s, const T* const* initial, T* const* final_states) const {
    const ptrdiff_t others = (spec.states.size - 1) * hidden;
    for (int lane = 0; lane < config.layers * config.directions; ++lane)
      for (int i = 0; i < spec.states.size; ++i) {
        const auto place = [&](T* h, T* rest) { return i ? rest + lane * others + (i - 1) * hidden : h + lane * stride; };
        if (initial) std::memcpy(place(s.h, s.states), initial[i] + lane * width(i), size_t(width(i)) * sizeof(T));
        if (final_states)
          std::memcpy(final_states[i] + lane * width(i), place(s.new_h, s.new_states), size_t(width(i)) * sizeof(T));
      }
  }

  NetworkConfig config;
  int number;
  const Spec& spec;
  const CellInfo& info;
  const Backend& backend;
  int lanes = 0;
  ptrdiff_t hidden = 0, stride = 0, headers = 0;
  double multiplications = 0;
  std::vector<T> constants[2];  // by direction
  std::vector<Part> parts;
};

template <class T>
StepInPlace<T>::StepInPlace(const NetworkConfig& config) : plan_(std::make_shared<Plan>(config)) {}

template <class T>
void StepInPlace<T>::run(const T* x, const T* const* params, const T* const* initial, T* y, T* const* final_states) const {
  const Plan& plan = *plan_;
  const NetworkConfig& c = plan.config;
  typename Plan::Scratch scratch{};
  Dealer counting;
  plan.deal(counting, scratch);
  const Buffer<char> memory(counting.used);
  Dealer dealing{memory.data()};
  plan.deal(dealing, scratch);
  plan.copy_states(scratch, initial, nullptr);

  TeamLease team(plan.multiplications < kWorthWakingInPlace ? 1 : num_threads());
  Barrier barrier(team.size());
  auto job = [&](int rank) {
    const Environment environment(plan.backend);
    for (int layer = 0; layer < c.layers; ++layer)
      for (int d = 0; d < c.directions; ++d) {
        const int lane = layer * c.directions + d;
        const T* from = layer ? scratch.between[(layer - 1) & 1] : x;
        T* to = layer == c.layers - 1 ? y : scratch.between[layer & 1];
        plan.pass(scratch, layer, lane, from, params + lane * plan.spec.params.size, to + d * c.output_size, rank, team.size(),
                  barrier);
      }
  };
  team.run(job);
  plan.copy_states(scratch, nullptr, final_states);
}

template <class T>
double StepInPlace<T>::multiplications() const {
  return plan_->multiplications;
}

template <class T>
const CellInfo& StepInPlace<T>::cell() const {
  return plan_->info;
}

template class StepInPlace<float>;
template class StepInPlace<double>;

}  // namespace recurra
