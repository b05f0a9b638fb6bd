// Random networks on a GPU, or its stand-in, beside the CPU engine: every cell's outputs, states and gradients on the exact
// engine have the CPU's bits, however it walks through time, and the cublas engine's are near. Both walks leave the same tape,
// and make the same of it. Streams too. network [trials] [steps | resident] [cells]: food for the sanitizers. Where the
// stand-in gives a block little shared memory (RECURRA_STANDIN_SHARED_BYTES), clusters or grids walk.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>

#include "cuda/blas.h"
#include "cuda/resident.h"
#include "engine/model.h"
#include "recurra/cuda.h"
#include "trials.h"

using recurra::NetworkConfig;
namespace cuda = recurra::cuda;

namespace {

bool chance(double p) { return double(generator() >> 11) * 0x1p-53 < p; }

template <class T>
std::vector<T> numbers(int64_t count, double scale = 1) {
  std::vector<T> all(static_cast<size_t>(count));
  for (T& x : all) x = T((double(generator() >> 11) * 0x1p-52 - 1) * scale);
  return all;
}

// A copy in device memory.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& from) : OnDevice(from.size()) {
    const cuda::Current current(cuda::Device::of(0));
    if (count_) cuda::check_driver(cuda::driver().cuMemcpyHtoD(address(), from.data(), count_ * sizeof(T)), "cuMemcpyHtoD");
  }
  explicit OnDevice(size_t count) : memory_(cuda::Device::of(0), std::max<size_t>(count, 1) * sizeof(T)), count_(count) {}
  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  std::vector<T> read() const {
    const cuda::Current current(cuda::Device::of(0));
    std::vector<T> to(count_);
    cuda::check_driver(cuda::driver().cuStreamSynchronize(nullptr), "cuStreamSynchronize");
    if (count_) cuda::check_driver(cuda::driver().cuMemcpyDtoH(to.data(), address(), count_ * sizeof(T)), "cuMemcpyDtoH");
    return to;
  }

 private:
  cuda::CUdeviceptr address() const { return reinterpret_cast<cuda::CUdeviceptr>(memory_.data()); }
  cuda::Memory memory_;
  size_t count_;
};

template <class T>
struct Trial {
  NetworkConfig config;
  int64_t steps, rows;
  std::vector<int64_t> lengths;  // none: all steps
  bool packed, apart;            // apart: the weights, in the caller's memory
  bool training, recompute, seeded, exact, back_fits;
  cuda::Walk walk;
  uint64_t seed = 5;
  int calls = 3;  // the third is replayed from a graph
  const recurra::CellInfo* cell = nullptr;

  int64_t width(const std::string& axis, int layer) const {
    if (axis == "input") return layer ? config.directions * config.output_size : config.input_size;
    if (axis == "head") return config.hidden_size / config.heads;
    return axis == "one" ? 1 : axis == "hidden" ? config.hidden_size : config.output_size;
  }
  int64_t lanes() const { return config.layers * config.directions; }

  void compare(const char* what, const std::vector<T>& got, const std::vector<T>& wanted) const {
    const bool same =
        got.size() == wanted.size() && (got.empty() || !std::memcmp(got.data(), wanted.data(), got.size() * sizeof(T)));
    double worst = 0;
    for (size_t i = 0; i < std::min(got.size(), wanted.size()); ++i) {
      const double off = std::fabs(double(got[i]) - double(wanted[i])) / (1 + std::fabs(double(wanted[i])));
      if (!(off <= worst) && !std::isnan(worst)) worst = off;  // NaN is the worst
    }
    const double allowed = sizeof(T) == 4 ? 2e-5 : 1e-13;
    if (exact ? same : worst <= allowed) return;
    ++failures;
    std::printf("FAILED %s: %s, %s, off by %g (%s%s%s%s%s, T=%ld B=%ld I=%ld H=%ld L=%d D=%d)\n", config.cell.c_str(), what,
                exact ? walk == cuda::Walk::resident ? "resident" : "exact" : "cublas", worst,
                lengths.empty() ? "" : "lengths ", packed ? "packed " : "", apart ? "apart " : "",
                recompute ? "recompute " : "", seeded ? "seed" : "", long(steps), long(rows), long(config.input_size),
                long(config.hidden_size), config.layers, config.directions);
  }

  // A sequence as the GPU has it: packed, the rows that run, one after another.
  std::vector<T> arranged(const std::vector<T>& all, int64_t size) const {
    std::vector<T> some;
    for (int64_t i = 0; packed && i < steps * rows; ++i)
      if (i / rows < lengths[size_t(i % rows)]) some.insert(some.end(), all.begin() + i * size, all.begin() + (i + 1) * size);
    return packed ? some : all;
  }

  void run();
  void compare_walks(cuda::Options options, const std::vector<std::vector<const void*>>& params, const OnDevice<T>& x,
                     const std::vector<cuda::Array>& initial, const OnDevice<T>& dy,
                     const std::vector<cuda::Array>& d_final) const;
  void run_stream(const recurra::Network<T>& on_cpu, const cuda::Network& on_gpu) const;
};

template <class T>
using Values = std::vector<std::vector<T>>;

template <class T>
std::vector<T*> pointers(Values<T>& values) {
  std::vector<T*> all;
  for (auto& each : values) all.push_back(each.empty() ? nullptr : each.data());
  return all;
}

template <class T>
std::vector<OnDevice<T>> copies(const Values<T>& values) {
  std::vector<OnDevice<T>> all;
  for (const auto& each : values) all.emplace_back(each);
  return all;
}

template <class T>
void Trial<T>::run() {
  for (const auto& each : recurra::cells())
    if (each.name == config.cell) cell = &each;
  std::vector<Values<T>> params;
  std::vector<std::vector<OnDevice<T>>> device_params;
  std::vector<std::vector<const T*>> given;
  std::vector<std::vector<const void*>> device_given;
  for (int lane = 0; lane < lanes(); ++lane) {
    params.emplace_back();
    // Small enough that no cell, a product of two maps among them, lets a rounding error grow from step to step.
    for (const auto& param : cell->params) {
      const int64_t columns = width(param.cols, lane / config.directions);
      params.back().push_back(
          numbers<T>(param.blocks * width(param.rows, 0) * columns, std::min(0.7, 1.5 / std::sqrt(double(columns)))));
    }
    device_params.push_back(copies(params.back()));
    given.emplace_back();
    device_given.emplace_back();
    for (size_t i = 0; i < cell->params.size(); ++i) {
      const bool absent = cell->params[i].is_bias && chance(0.2);
      given.back().push_back(absent ? nullptr : params.back()[i].data());
      device_given.back().push_back(absent ? nullptr : device_params.back()[i].data());
    }
  }
  const recurra::Network<T> on_cpu(config, given);
  cuda::Options options;
  options.number = sizeof(T) == 4 ? cuda::Number::f32 : cuda::Number::f64;
  options.engine = exact ? cuda::Engine::exact : cuda::Engine::cublas;
  options.walk = walk;
  cuda::Network on_gpu(config, options);
  on_gpu.set_parameters(device_given, nullptr);
  if (config.directions == 1 && rows) run_stream(on_cpu, on_gpu);
  if (apart) on_gpu = cuda::Network(config, options);  // which has none
  const OnDevice<char> memory(apart ? on_gpu.weight_bytes() : 0);
  const void* const weights = apart ? memory.data() : nullptr;
  if (apart) on_gpu.pack(device_given, memory.data(), nullptr);

  const int64_t in = config.input_size, out = config.directions * config.output_size;
  std::vector<T> x = numbers<T>(steps * rows * in), y(size_t(steps * rows * out)), dy = numbers<T>(steps * rows * out),
                 dx(x.size());
  Values<T> initial, final_states, d_final, d_initial;
  for (const auto& [name, axis] : cell->states) {
    initial.push_back(numbers<T>(lanes() * rows * width(axis, 0)));
    d_final.push_back(numbers<T>(lanes() * rows * width(axis, 0)));
    final_states.emplace_back(initial.back().size());
    d_initial.emplace_back(initial.back().size());
    for (T& value : initial.back())
      if (name == "n") value += 2;  // which divides
  }
  std::vector<Values<T>> gradients = params;
  const std::vector<T*> from = pointers(initial), to = pointers(final_states), dfrom = pointers(d_final),
                        dto = pointers(d_initial);
  const int64_t* valid = lengths.empty() ? nullptr : lengths.data();
  const recurra::Sequence<const T> xs = {x.data(), steps, rows, rows * in, in};
  if (training) {
    const auto tape = on_cpu.record(xs, from.data(), valid, {y.data(), steps, rows, rows * out, out}, to.data(), recompute,
                                    seeded ? &seed : nullptr);
    std::vector<std::vector<T*>> all;
    for (auto& lane : gradients) all.push_back(pointers(lane));
    tape.backward({dy.data(), steps, rows, rows * out, out}, dfrom.data(), {dx.data(), steps, rows, rows * in, in}, dto.data(),
                  all, false);
  } else {
    on_cpu.forward(xs, from.data(), valid, {y.data(), steps, rows, rows * out, out}, to.data());
  }

  const OnDevice<T> gx(arranged(x, in)), gy(arranged(y, out).size()), gdy(arranged(dy, out)), gdx(arranged(dx, in).size());
  const auto gi = copies(initial), gf = copies(final_states), gdf = copies(d_final), gdi = copies(d_initial);
  const auto arrays = [&](const std::vector<OnDevice<T>>& states) {
    std::vector<cuda::Array> all;
    for (size_t s = 0; s < states.size(); ++s) {
      const int64_t size = width(cell->states[s].second, 0);
      all.push_back({states[s].data(), rows * size, size, 1});
    }
    return all;
  };
  const auto sequence = [&](const OnDevice<T>& a, int64_t size) { return cuda::Array{a.data(), rows * size, size, 1}; };
  const cuda::Plan plan = on_gpu.plan(steps, rows, {valid, false, training, recompute, packed});
  const OnDevice<char> workspace(plan.workspace_bytes()), back(plan.backward_workspace_bytes()), tape(plan.tape_bytes());
  std::vector<std::vector<OnDevice<T>>> device_gradients;
  std::vector<std::vector<void*>> all;
  for (const auto& lane : params) {
    device_gradients.push_back(copies(lane));
    all.emplace_back();
    for (const auto& each : device_gradients.back()) all.back().push_back(each.data());
  }
  if (walk == cuda::Walk::resident && training && calls > 1)
    compare_walks(options, device_given, gx, arrays(gi), gdy, arrays(gdf));
  for (int again = 0; again < calls; ++again) {
    on_gpu.forward(plan, sequence(gx, in), arrays(gi).data(), nullptr, sequence(gy, out), arrays(gf).data(),
                   seeded ? &seed : nullptr, training ? tape.data() : nullptr, workspace.data(), nullptr, weights);
    if (training)
      on_gpu.backward(plan, sequence(gdy, out), arrays(gdf).data(), sequence(gdx, in), arrays(gdi).data(), all, false, seeded,
                      tape.data(), back.data(), nullptr, weights);
  }
  const int64_t total = lengths.empty() ? steps * rows : std::accumulate(lengths.begin(), lengths.end(), int64_t(0));
  const bool resident = walk == cuda::Walk::resident && total;
  const auto told = [&](const char* what) { return plan.explain().find(what) != std::string::npos; };
  shared += told("rows a cluster") || told("rows a grid");
  if (told("exact, resident") != resident || told("backward, resident") != (resident && training && back_fits)) {
    ++failures;
    std::printf("FAILED %s: %s\n", config.cell.c_str(), plan.explain().c_str());
  }
  compare("y", gy.read(), arranged(y, out));
  for (size_t s = 0; s < gf.size(); ++s) compare("final state", gf[s].read(), final_states[s]);
  if (!training) return;
  compare("dx", gdx.read(), arranged(dx, in));
  for (size_t s = 0; s < gdi.size(); ++s) compare("initial state's gradient", gdi[s].read(), d_initial[s]);
  for (size_t lane = 0; lane < params.size(); ++lane)
    for (size_t i = 0; i < params[lane].size(); ++i)
      compare(cell->params[i].name.c_str(), device_gradients[lane][i].read(), gradients[lane][i]);
}

// What both walks leave of a call in training, to the byte, and what they make of it backward, also of lengths that only the
// GPU knows, and with a clip.
template <class T>
void Trial<T>::compare_walks(cuda::Options options, const std::vector<std::vector<const void*>>& params, const OnDevice<T>& x,
                             const std::vector<cuda::Array>& initial, const OnDevice<T>& dy,
                             const std::vector<cuda::Array>& d_final) const {
  const int64_t in = config.input_size, out = config.directions * config.output_size;
  const OnDevice<int32_t> on_device(std::vector<int32_t>(lengths.begin(), lengths.end()));
  const bool cells = cell->states.size() > 1;
  const OnDevice<T> d_cells(numbers<T>(steps * rows * config.directions * config.hidden_size));
  for (const bool known : {true, false}) {
    if (!known && (lengths.empty() || packed)) continue;
    std::vector<char> tapes[2];
    std::vector<T> ys[2], gradients[2];
    for (const bool resident : {false, true}) {
      options.walk = resident ? cuda::Walk::resident : cuda::Walk::steps;
      cuda::Network network(config, options);
      network.set_parameters(params, nullptr);
      const cuda::Plan plan = network.plan(
          steps, rows, {known && !lengths.empty() ? lengths.data() : nullptr, !known, true, recompute, packed, cells});
      const OnDevice<char> workspace(plan.workspace_bytes()), back(plan.backward_workspace_bytes()),
          tape(std::vector<char>(plan.tape_bytes()));
      const OnDevice<T> y(size_t(steps * rows * out)), dx(std::vector<T>(size_t(steps * rows * in)));
      network.forward(plan, {x.data(), rows * in, in}, initial.data(), known ? nullptr : on_device.data(),
                      {y.data(), rows * out, out}, nullptr, seeded ? &seed : nullptr, tape.data(), workspace.data(), nullptr);
      tapes[resident] = tape.read();
      ys[resident] = y.read();
      std::vector<OnDevice<T>> made;
      std::vector<std::vector<void*>> all;
      for (int lane = 0; lane < lanes(); ++lane) {
        all.emplace_back();
        for (const auto& param : cell->params) {
          made.emplace_back(size_t(param.blocks * width(param.rows, 0) * width(param.cols, lane / config.directions)));
          all.back().push_back(made.back().data());
        }
      }
      std::vector<cuda::Array> d_initial;
      for (const auto& [name, axis] : cell->states) {
        made.emplace_back(size_t(lanes() * rows * width(axis, 0)));
        d_initial.push_back({made.back().data(), rows * width(axis, 0), width(axis, 0), 1});
      }
      const int64_t wide = config.directions * config.hidden_size;
      network.backward(plan, {dy.data(), rows * out, out}, d_final.data(), {dx.data(), rows * in, in}, d_initial.data(), all,
                       false, seeded, tape.data(), back.data(), nullptr, nullptr,
                       {cells ? d_cells.data() : nullptr, rows * wide, wide}, steps > 3 ? 0.3 : 1e30);
      gradients[resident] = dx.read();
      for (const auto& each : made) {
        const std::vector<T> one = each.read();
        gradients[resident].insert(gradients[resident].end(), one.begin(), one.end());
      }
    }
    if (!packed) compare("y of both walks", ys[1], ys[0]);
    compare(known ? "gradients of both walks" : "gradients of both walks, lengths unknown", gradients[1], gradients[0]);
    if (tapes[0] == tapes[1]) continue;
    ++failures;
    std::printf("FAILED %s: tapes differ, %s lengths, T=%ld B=%ld H=%ld\n", config.cell.c_str(), known ? "known" : "unknown",
                long(steps), long(rows), long(config.hidden_size));
  }
}

template <class T>
void Trial<T>::run_stream(const recurra::Network<T>& on_cpu, const cuda::Network& on_gpu) const {
  Trial all = *this;
  all.exact = true;  // whatever the network's engine
  recurra::Stream<T> cpu(on_cpu, rows);
  cuda::Stream gpu(on_gpu, rows);
  for (int step = 0; step < 3; ++step) {
    const std::vector<T> x = numbers<T>(rows * config.input_size);
    std::vector<T> y(size_t(rows * config.output_size));
    const OnDevice<T> gx(x), gy(y.size());
    cpu.step(x.data(), y.data());
    gpu.step({gx.data(), 0, config.input_size, 1}, {gy.data(), 0, config.output_size, 1}, nullptr);
    all.compare("stream", gy.read(), y);
  }
}

template <class T>
void trial(const recurra::CellInfo& cell, bool exact, double residents) {
  Trial<T> t;
  t.config.cell = cell.name;
  t.config.input_size = draw(1, 20);
  // More weights than registers hold, now and then.
  t.config.hidden_size = residents > 0 && chance(0.1) ? draw(57, 72) : draw(2, 40);
  if (cell.has_heads) t.config.heads = draw(1, 5), t.config.hidden_size *= t.config.heads;
  t.config.output_size = cell.projected ? draw(1, t.config.hidden_size - 1) : t.config.hidden_size;
  t.config.layers = int(draw(1, 2));
  t.config.directions = int(draw(1, 2));
  for (int64_t d = 0; d < (chance(0.5) ? t.config.directions : 1); ++d)
    for (const auto& [name, value] : cell.constants) {
      const double bounded[] = {1, 2, 6, 7};  // of recurra::activations()
      t.config.constants.push_back(chance(0.5) ? value : name.size() == 1 ? bounded[draw(0, 3)] : 0.4);
    }
  if (chance(0.4)) t.config.regularization = {0.3, cell.recurrent_product ? 0.2 : 0, {0.1, 0.2, 0.2, 0.3}};
  t.steps = draw(0, 6);
  t.rows = chance(0.2) ? draw(60, 70) : draw(0, 5);
  for (int64_t r = 0; r < t.rows && t.steps % 2; ++r) t.lengths.push_back(draw(0, t.steps));
  t.packed = !t.lengths.empty() && t.config.input_size % 2;
  if (t.packed) std::sort(t.lengths.begin(), t.lengths.end(), std::greater<int64_t>());
  t.apart = t.config.hidden_size % 2;
  t.training = chance(0.7);
  t.recompute = t.training && chance(0.3);
  t.seeded = t.training && chance(0.5);
  t.exact = exact;
  // Those that fit: many wide heads do not.
  const auto fits_way = [&](cuda::Way way) {
    return t.config.hidden_size <= 72 && fits(t.config, sizeof(T) == 4 ? cuda::Number::f32 : cuda::Number::f64, way);
  };
  t.back_fits = fits_way(cuda::Way::backward);
  t.walk = residents > 0 && exact && fits_way(cuda::Way::forward) && chance(residents) ? cuda::Walk::resident
           : exact                                                                     ? cuda::Walk::steps
                                                                                       : cuda::Walk::automatic;
  t.run();
}

// More steps than the gradients of their chains are in memory at a time.
void several_chunks(cuda::Walk walk) {
  Trial<float> t;
  t.config.cell = "gru";
  t.config.input_size = 2;
  t.config.hidden_size = t.config.output_size = 8;
  t.config.directions = 2;
  t.steps = 2070;
  t.rows = 256;
  t.packed = t.apart = t.recompute = t.seeded = false;
  t.training = t.exact = t.back_fits = true;
  t.walk = walk;
  t.calls = 1;
  t.run();
}

// A tape for a plan that has none, and none for one that has.
void wrong_tapes() {
  NetworkConfig config;
  config.cell = "gru";
  config.input_size = config.hidden_size = config.output_size = 3;
  const cuda::Network network(config, {});
  const OnDevice<float> x(6), y(6), tape(6);
  for (const bool training : {false, true}) {
    const cuda::Plan plan = network.plan(2, 1, {nullptr, false, training});
    try {
      network.forward(plan, {x.data(), 3, 3}, nullptr, nullptr, {y.data(), 3, 3}, nullptr, nullptr,
                      training ? nullptr : tape.data(), nullptr, nullptr);
    } catch (const std::invalid_argument& error) {
      if (std::string(error.what()).rfind("tape: ", 0) == 0) continue;
    }
    ++failures;
    std::printf("FAILED: a tape is not refused\n");
  }
}

// Other threads may have all handles of cuBLAS when a call is captured, in which none can be made.
void capture_without_a_handle() {
  NetworkConfig config;
  config.cell = "gru";
  config.input_size = config.hidden_size = config.output_size = 3;
  cuda::Options options;
  options.engine = cuda::Engine::cublas;
  cuda::Network network(config, options);
  const OnDevice<float> weights(numbers<float>(27)), x(numbers<float>(6)), y(6);
  network.set_parameters({{weights.data(), weights.data(), nullptr, nullptr}}, nullptr);
  const cuda::Plan plan = network.plan(2, 1);
  const OnDevice<char> workspace(plan.workspace_bytes()), theirs(cuda::Blas::workspace_bytes);
  const auto call = [&] {
    network.forward(plan, {x.data(), 3, 3}, nullptr, nullptr, {y.data(), 3, 3}, nullptr, nullptr, nullptr, workspace.data(),
                    nullptr);
  };
  const cuda::Blas first(cuda::Device::of(0), nullptr, theirs.data(), false);
  call();
  const cuda::Blas second(cuda::Device::of(0), nullptr, theirs.data(), false);
  try {
    call();
  } catch (const cuda::Error& error) {
    ++failures;
    std::printf("FAILED: %s\n", error.what());
  }
}

}  // namespace

int main(int count, char** arguments) {
  const int trials = count > 1 ? std::atoi(arguments[1]) : 3;
  int done = 0;
  wrong_tapes();
  capture_without_a_handle();
  std::vector<std::string> names(arguments + std::min(count, 2), arguments + count);
  const int enough = std::getenv("RECURRA_STANDIN_FAULT") ? 1 : 20;  // failures
  double residents = 0.7;                                            // of trials on the exact engine
  if (!names.empty() && (names[0] == "steps" || names[0] == "resident")) {
    residents = names[0] == "steps" ? 0 : 1;
    names.erase(names.begin());
  }
  if (names.empty()) several_chunks(residents > 0 ? cuda::Walk::resident : cuda::Walk::steps);
  for (const recurra::CellInfo& cell : recurra::cells()) {
    if (!names.empty() && std::find(names.begin(), names.end(), cell.name) == names.end()) continue;
    for (int i = 0; i < trials && failures < enough; ++i, done += 2) {
      try {
        i % 2 ? trial<double>(cell, true, residents) : trial<float>(cell, true, residents);
        i % 2 ? trial<float>(cell, false, 0) : trial<double>(cell, false, 0);
      } catch (const cuda::Error& error) {
        ++failures;
        std::printf("FAILED %s: %s\n", cell.name.c_str(), error.what());
      }
    }
  }
  if (little_memory && !shared) ++failures, std::printf("no blocks that share\n");
  std::printf("%s: %d trials, %d failed\n", cuda::Device::of(0).name.c_str(), done, failures);
  return failures != 0;
}
