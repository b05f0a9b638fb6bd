/* recurra in C99, and for every language that calls C: models from files, whole sequences, streams. For C++ there is
 * recurra/recurra.h. This interface stays as it is within a major version: handles are opaque, and functions are only added.
 *
 * Every function but those that free returns a status, checks its pointers and sizes, and changes nothing when it fails;
 * recurra_error() then says what was wrong. Numbers are floats, sequences [steps, rows, features] and contiguous.
 *
 *   recurra_model *model = NULL;
 *   recurra_stream *stream = NULL;
 *   if (recurra_model_load("amplifier.safetensors", &model) != RECURRA_OK ||
 *       recurra_stream_open(model, 1, 1, &stream) != RECURRA_OK)
 *     return fail(recurra_error());
 *   float x[64], y[64];
 *   int64_t made;
 *   while (read_block(x, 64))
 *     if (recurra_stream_run(stream, x, 64, 64, y, 64, &made) == RECURRA_OK)
 *       write_block(y, made);
 *   recurra_stream_close(stream);
 *   recurra_model_free(model);
 */
#ifndef RECURRA_H
#define RECURRA_H
#include <stddef.h>
#include <stdint.h>

#include "recurra/nonblocking.h"

#define RECURRA_VERSION_MAJOR 0
#define RECURRA_VERSION_MINOR 2
#define RECURRA_VERSION_PATCH 0

#if defined(__GNUC__)
#define RECURRA_API __attribute__((visibility("default")))
#else
#define RECURRA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum recurra_status {
  RECURRA_OK = 0,
  RECURRA_INVALID = 1,   /* an argument or a file is not what it has to be */
  RECURRA_NO_MEMORY = 2, /* nothing was allocated */
  RECURRA_IN_USE = 3,    /* another thread is in this stream */
  RECURRA_FAILED = 4     /* anything else */
} recurra_status;

typedef struct recurra_model recurra_model;   /* immutable: any number of threads may use one */
typedef struct recurra_stream recurra_stream; /* one thread at a time */

/* A parameter: "node.parameter", its shape, and values in row-major order, which are copied. */
typedef struct recurra_tensor {
  const char* name;
  const float* values;
  const int64_t* shape;
  size_t axes;
} recurra_tensor;

/* Of the library, as in "0.2.0"; the macros are of the header. */
RECURRA_API const char* recurra_version(void);
/* What was wrong with the last call of this thread that failed. Never null; valid until the next one that fails. */
RECURRA_API const char* recurra_error(void);

/* A model from a file that recurra.Model.save has written, on disk or in memory; from its structure as JSON and its parameters,
 * as the file has them. Models of float64 are refused. The caller frees *model; streams of it stay valid. */
RECURRA_API recurra_status recurra_model_load(const char* path, recurra_model** model);
RECURRA_API recurra_status recurra_model_read(const void* file, size_t bytes, recurra_model** model);
RECURRA_API recurra_status recurra_model_make(const char* structure, const recurra_tensor* tensors, size_t count,
                                              recurra_model** model);
RECURRA_API void recurra_model_free(recurra_model* model); /* null: nothing */

/* Numbers that go in and come out for a row's step. These functions are for models with one input of numbers and one output. */
RECURRA_API recurra_status recurra_model_sizes(const recurra_model* model, size_t* inputs, size_t* outputs);
/* How many steps come out of so many: 1 where the output has no time. */
RECURRA_API recurra_status recurra_model_output_steps(const recurra_model* model, int64_t steps, int64_t* outputs);
/* Whole sequences x [steps, rows, inputs] from zero, or learned, states to y [output steps, rows, outputs]. lengths: valid
 * steps of each row, or null. */
RECURRA_API recurra_status recurra_model_run(const recurra_model* model, const float* x, size_t x_count, int64_t steps,
                                             int64_t rows, const int64_t* lengths, float* y, size_t y_count);

/* A stream of so many rows that advance together. Only here memory is allocated. */
RECURRA_API recurra_status recurra_stream_open(const recurra_model* model, int64_t rows, int threads, recurra_stream** stream);
RECURRA_API void recurra_stream_close(recurra_stream* stream); /* null: nothing */

/* x [rows, inputs] to y [rows, outputs]. *made: whether a frame came out, which a model that strides over time does not do at
 * every step; may be null. Counts are those of the arrays' numbers. */
RECURRA_API recurra_status recurra_stream_step(recurra_stream* stream, const float* x, size_t x_count, float* y, size_t y_count,
                                               int* made) RECURRA_NONBLOCKING;
/* Several: x [steps, rows, inputs], y with room for as many steps as come out, *made. */
RECURRA_API recurra_status recurra_stream_run(recurra_stream* stream, const float* x, size_t x_count, int64_t steps, float* y,
                                              size_t y_count, int64_t* made) RECURRA_NONBLOCKING;

/* To where it began: row `row`, or with -1 all. */
RECURRA_API recurra_status recurra_stream_reset(recurra_stream* stream, int64_t row) RECURRA_NONBLOCKING;
/* All that a stream remembers, as bytes: for one of the same model and rows, on a machine of the same byte order. */
RECURRA_API recurra_status recurra_stream_state_size(const recurra_stream* stream, size_t* bytes);
RECURRA_API recurra_status recurra_stream_get_state(recurra_stream* stream, void* state, size_t bytes) RECURRA_NONBLOCKING;
RECURRA_API recurra_status recurra_stream_set_state(recurra_stream* stream, const void* state,
                                                    size_t bytes) RECURRA_NONBLOCKING;

#ifdef __cplusplus
}
#endif
#endif
