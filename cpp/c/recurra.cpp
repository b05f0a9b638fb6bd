// The C interface, on the C++ one: checks what C cannot, and turns exceptions into statuses.
#include "recurra.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "recurra/model.h"

namespace {

using recurra::Model;
using recurra::ModelCall;
using recurra::ModelStream;
using recurra::ModelValue;
using recurra::Sequence;

thread_local char message[512] = "";

recurra_status fail(recurra_status status, const char* text) {
  std::snprintf(message, sizeof message, "%s", text);
  return status;
}

template <class Work>
recurra_status guarded(const Work& work) {
  try {
    work();
    return RECURRA_OK;
  } catch (const std::invalid_argument& error) {
    return fail(RECURRA_INVALID, error.what());
  } catch (const std::bad_alloc&) {
    return fail(RECURRA_NO_MEMORY, "not enough memory");
  } catch (const std::exception& error) {
    const bool in_use = std::strstr(error.what(), "in use by another thread") != nullptr;
    return fail(in_use ? RECURRA_IN_USE : RECURRA_FAILED, error.what());
  } catch (...) {
    return fail(RECURRA_FAILED, "unknown error");
  }
}

[[noreturn]] void refuse(const char* name, const std::string& expected) {
  throw std::invalid_argument(std::string(name) + ": expected " + expected);
}

template <class T>
T* present(const char* name, T* pointer) {
  if (!pointer) refuse(name, "a pointer, got null");
  return pointer;
}

int64_t at_least(const char* name, int64_t value, int64_t least) {
  if (value < least) refuse(name, "at least " + std::to_string(least) + ", got " + std::to_string(value));
  return value;
}

// `name`, an array of `count` numbers, must have `steps` times `rows` times `size`, or with `room` at least so many.
template <class T>
T* sized(const char* name, T* data, size_t count, int64_t steps, int64_t rows, int64_t size, bool room = false) {
  const auto most_rows = std::numeric_limits<int64_t>::max() / int64_t(sizeof(float)) / std::max<int64_t>(size, 1);
  if (rows > most_rows || (rows && steps > most_rows / rows)) refuse(name, "fewer numbers than memory can hold");
  const size_t wanted = size_t(steps * rows * size);
  if (room ? count < wanted : count != wanted)
    refuse(name, (room ? "room for " : "") + std::to_string(wanted) + " numbers, got " + std::to_string(count));
  return wanted ? present(name, data) : data;
}

const ModelValue& only(const char* what, const std::vector<ModelValue>& values) {
  if (values.size() != 1 || values[0].integer)
    throw std::invalid_argument(std::string("model: expected one ") + what + " of numbers, got " +
                                (values.size() == 1 ? "integers" : std::to_string(values.size())));
  return values[0];
}

int64_t input_size(const Model<float>& model) { return only("input", model.inputs()).size(); }
int64_t output_size(const Model<float>& model) { return only("output", model.outputs()).size(); }

Sequence<float> sequence(float* data, int64_t steps, int64_t rows, int64_t size) {
  return {data, steps, rows, ptrdiff_t(rows * size), ptrdiff_t(size)};
}
Sequence<const float> sequence(const float* data, int64_t steps, int64_t rows, int64_t size) {
  return {data, steps, rows, ptrdiff_t(rows * size), ptrdiff_t(size)};
}

}  // namespace

struct recurra_model {
  Model<float> model;
};

struct recurra_stream {
  // One node's states, or one of the others.
  struct Part {
    size_t number;
    bool recurrent;
    std::vector<size_t> bytes;  // of each array
  };

  recurra_stream(const Model<float>& the_model, int64_t the_rows, int threads)
      : stream(the_model, the_rows, threads),
        rows(the_rows),
        inputs(input_size(the_model)),
        outputs(output_size(the_model)),
        xs(1),
        ys(1) {
    for (size_t i = 0; i < the_model.recurrent().size(); ++i) {
      const auto& network = the_model.recurrent()[i].second;
      const auto& config = network.config();
      Part part{i, true, {}};
      for (const auto& state : network.cell().states) {
        const int64_t width = state.second == "hidden" ? config.hidden_size : config.output_size;
        part.bytes.push_back(size_t(config.layers * rows * width) * sizeof(float));
      }
      parts.push_back(part);
    }
    for (size_t i = 0; i < stream.states().size(); ++i) {
      size_t bytes = stream.states()[i].integer ? sizeof(int64_t) : sizeof(float);
      for (const int64_t axis : stream.states()[i].shape) bytes *= size_t(axis);
      parts.push_back({i, false, {bytes}});
    }
    for (const Part& part : parts)
      for (const size_t bytes : part.bytes) state_bytes += padded(bytes), pointers.reserve(part.bytes.size());
    memory.resize(state_bytes / sizeof(int64_t));
  }

  static size_t padded(size_t bytes) { return (bytes + 7) / 8 * 8; }

  // Calls visit(part, pointers to its arrays in `memory`).
  template <class Visit>
  void each_part(const Visit& visit) {
    char* at = reinterpret_cast<char*>(memory.data());
    for (const Part& part : parts) {
      pointers.clear();
      for (const size_t bytes : part.bytes) pointers.push_back(reinterpret_cast<float*>(at)), at += padded(bytes);
      visit(part, pointers.data());
    }
  }

  ModelStream<float> stream;
  int64_t rows, inputs, outputs;
  std::vector<recurra::ModelInput<float>> xs;
  std::vector<Sequence<float>> ys;
  std::vector<Part> parts;
  size_t state_bytes = 0;
  std::vector<int64_t> memory;  // for states on their way
  std::vector<float*> pointers;
};

extern "C" {

#define RECURRA_TEXT_(x) #x
#define RECURRA_TEXT(x) RECURRA_TEXT_(x)

const char* recurra_version(void) {
  return RECURRA_TEXT(RECURRA_VERSION_MAJOR) "." RECURRA_TEXT(RECURRA_VERSION_MINOR) "." RECURRA_TEXT(RECURRA_VERSION_PATCH);
}

const char* recurra_error(void) { return message; }

recurra_status recurra_model_load(const char* path, recurra_model** model) {
  return guarded([&] {
    *present("model", model) = nullptr;
    *model = new recurra_model{Model<float>::load(present("path", path))};
  });
}

recurra_status recurra_model_read(const void* file, size_t bytes, recurra_model** model) {
  return guarded([&] {
    *present("model", model) = nullptr;
    *model = new recurra_model{Model<float>::load(present("file", file), bytes)};
  });
}

recurra_status recurra_model_make(const char* structure, const recurra_tensor* tensors, size_t count, recurra_model** model) {
  return guarded([&] {
    *present("model", model) = nullptr;
    if (count) present("tensors", tensors);
    recurra::ModelParameters<float> parameters;
    parameters.tensor = [&](const std::string& name, const std::vector<int64_t>& shape) {
      for (size_t i = 0; i < count; ++i) {
        const recurra_tensor& tensor = tensors[i];
        if (name != present("tensors: name", tensor.name)) continue;
        if (tensor.axes) present("tensors: shape", tensor.shape);
        if (std::vector<int64_t>(tensor.shape, tensor.shape + tensor.axes) != shape)
          throw std::invalid_argument("tensors: " + name + ": its shape does not fit the structure");
        return present("tensors: values", tensor.values);
      }
      throw std::invalid_argument("tensors: expected one named " + name + ", got none");
    };
    *model = new recurra_model{Model<float>(present("structure", structure), parameters)};
  });
}

void recurra_model_free(recurra_model* model) { delete model; }

recurra_status recurra_model_sizes(const recurra_model* model, size_t* inputs, size_t* outputs) {
  return guarded([&] {
    const int64_t in = input_size(present("model", model)->model), out = output_size(model->model);
    present("inputs", inputs), present("outputs", outputs);
    *inputs = size_t(in), *outputs = size_t(out);
  });
}

recurra_status recurra_model_output_steps(const recurra_model* model, int64_t steps, int64_t* outputs) {
  return guarded([&] {
    only("output", present("model", model)->model.outputs());
    *present("outputs", outputs) = model->model.output_steps(0, {at_least("steps", steps, 0)});
  });
}

recurra_status recurra_model_run(const recurra_model* model, const float* x, size_t x_count, int64_t steps, int64_t rows,
                                 const int64_t* lengths, float* y, size_t y_count) {
  return guarded([&] {
    const Model<float>& m = present("model", model)->model;
    const int64_t inputs = input_size(m), outputs = output_size(m);
    at_least("rows", rows, 0), at_least("steps", steps, 0);
    const int64_t out_steps = m.output_steps(0, {steps});
    ModelCall<float> call;
    call.inputs.resize(1);
    call.inputs[0].numbers = sequence(sized("x", x, x_count, steps, rows, inputs), steps, rows, inputs);
    call.outputs = {sequence(sized("y", y, y_count, out_steps, rows, outputs), out_steps, rows, outputs)};
    call.lengths = lengths;
    m.forward(call);
  });
}

recurra_status recurra_stream_open(const recurra_model* model, int64_t rows, int threads, recurra_stream** stream) {
  return guarded([&] {
    *present("stream", stream) = nullptr;
    present("model", model);
    at_least("rows", rows, 1), at_least("threads", threads, 1);
    *stream = new recurra_stream(model->model, rows, threads);
  });
}

void recurra_stream_close(recurra_stream* stream) { delete stream; }

recurra_status recurra_stream_step(recurra_stream* stream, const float* x, size_t x_count, float* y, size_t y_count,
                                   int* made) {
  return guarded([&] {
    recurra_stream& s = *present("stream", stream);
    sized("x", x, x_count, 1, s.rows, s.inputs), sized("y", y, y_count, 1, s.rows, s.outputs);
    const bool came = s.stream.step(x, y);
    if (made) *made = came;
  });
}

recurra_status recurra_stream_run(recurra_stream* stream, const float* x, size_t x_count, int64_t steps, float* y,
                                  size_t y_count, int64_t* made) {
  return guarded([&] {
    recurra_stream& s = *present("stream", stream);
    at_least("steps", steps, 0);
    const int64_t frames = s.stream.frames(0, steps);
    s.xs[0].numbers = sequence(sized("x", x, x_count, steps, s.rows, s.inputs), steps, s.rows, s.inputs);
    s.ys[0] = sequence(sized("y", y, y_count, frames, s.rows, s.outputs, true), frames, s.rows, s.outputs);
    s.stream.run(steps, s.xs, s.ys);
    if (made) *made = frames;
  });
}

recurra_status recurra_stream_reset(recurra_stream* stream, int64_t row) {
  return guarded([&] {
    recurra_stream& s = *present("stream", stream);
    if (at_least("row", row, -1) >= s.rows)
      refuse("row", "-1 to " + std::to_string(s.rows - 1) + ", got " + std::to_string(row));
    row < 0 ? s.stream.reset(nullptr, s.rows) : s.stream.reset(&row, 1);
  });
}

recurra_status recurra_stream_state_size(const recurra_stream* stream, size_t* bytes) {
  return guarded([&] { *present("bytes", bytes) = present("stream", stream)->state_bytes; });
}

recurra_status recurra_stream_get_state(recurra_stream* stream, void* state, size_t bytes) {
  return guarded([&] {
    recurra_stream& s = *present("stream", stream);
    if (bytes != s.state_bytes) refuse("bytes", std::to_string(s.state_bytes) + ", got " + std::to_string(bytes));
    if (bytes) present("state", state);
    s.each_part([&](const recurra_stream::Part& part, float* const* to) {
      part.recurrent ? s.stream.get_state(part.number, to) : s.stream.get_state(part.number, static_cast<void*>(to[0]));
    });
    std::memcpy(state, s.memory.data(), bytes);
  });
}

recurra_status recurra_stream_set_state(recurra_stream* stream, const void* state, size_t bytes) {
  return guarded([&] {
    recurra_stream& s = *present("stream", stream);
    if (bytes != s.state_bytes) refuse("bytes", std::to_string(s.state_bytes) + ", got " + std::to_string(bytes));
    if (bytes) std::memcpy(s.memory.data(), present("state", state), bytes);
    s.each_part([&](const recurra_stream::Part& part, float* const* from) {
      part.recurrent ? s.stream.set_state(part.number, from)
                     : s.stream.set_state(part.number, static_cast<const void*>(from[0]));
    });
  });
}

}  // extern "C"
