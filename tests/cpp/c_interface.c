/* The C interface, compiled as C99: wrong calls are refused by status and message and change nothing; a stream goes on from its
 * state; blocks have the bits of steps and of whole sequences. The argument is a file of one input and one output of a number.
 */
#include <stdio.h>
#include <string.h>

#include "recurra.h"

static int failed = 0;

static void refused(int line, recurra_status status, recurra_status wanted, const char* text) {
  if (status == wanted && strncmp(recurra_error(), text, strlen(text)) == 0) return;
  ++failed;
  printf("line %d: expected status %d and '%s...', got %d and '%s'\n", line, (int)wanted, text, (int)status, recurra_error());
}

static void expect(int line, int good) {
  if (good) return;
  ++failed;
  printf("line %d: %s\n", line, recurra_error());
}

#define REFUSED(call, text) refused(__LINE__, (call), RECURRA_INVALID, text)
#define OK(call) expect(__LINE__, (call) == RECURRA_OK)

static const char structure[] =
    "{\"dtype\": \"float32\", \"batch_first\": false, \"outputs\": [\"out\"], \"inputs\": [{\"name\": \"x\", \"features\": "
    "[1], "
    "\"time\": true, \"integer\": false}], \"nodes\": [{\"name\": \"out\", \"kind\": \"linear\", \"inputs\": [\"x\"], "
    "\"in_features\": %d, \"out_features\": 1, \"bias\": false}]}";

static void made_from_tensors(void) {
  const float weight[1] = {3};
  const int64_t shape[2] = {1, 1}, other[2] = {2, 1};
  recurra_tensor tensor = {"out.weight", weight, shape, 2};
  recurra_model* model = NULL;
  char text[sizeof structure + 8];
  const float x[2] = {1, -2};
  float y[2];
  snprintf(text, sizeof text, structure, -1);
  REFUSED(recurra_model_make(text, &tensor, 1, &model), "");
  snprintf(text, sizeof text, structure, 1);
  REFUSED(recurra_model_make(NULL, &tensor, 1, &model), "structure: expected a pointer, got null");
  REFUSED(recurra_model_make("{", &tensor, 1, &model), "");
  REFUSED(recurra_model_make(text, NULL, 1, &model), "tensors: expected a pointer, got null");
  REFUSED(recurra_model_make(text, &tensor, 0, &model), "layers: node 'out': tensors: expected one named out.weight, got none");
  REFUSED(recurra_model_make(text, &tensor, 1, NULL), "model: expected a pointer, got null");
  tensor.shape = other;
  REFUSED(recurra_model_make(text, &tensor, 1, &model), "layers: node 'out': tensors: out.weight: its shape");
  tensor.shape = shape, tensor.values = NULL;
  REFUSED(recurra_model_make(text, &tensor, 1, &model), "layers: node 'out': tensors: values: expected a pointer, got null");
  expect(__LINE__, model == NULL);
  tensor.values = weight;
  OK(recurra_model_make(text, &tensor, 1, &model));
  OK(recurra_model_run(model, x, 2, 2, 1, NULL, y, 2));
  expect(__LINE__, y[0] == 3 && y[1] == -6);
  recurra_model_free(model);
}

static void models(const char* path, recurra_model** model) {
  size_t inputs = 0, outputs = 0;
  int64_t steps = 0;
  float x[4] = {0}, y[4];
  const int64_t lengths[1] = {9};
  REFUSED(recurra_model_load(NULL, model), "path: expected a pointer, got null");
  REFUSED(recurra_model_load("no such file", model), "model: there is no file");
  REFUSED(recurra_model_read(NULL, 3, model), "file: expected a pointer, got null");
  REFUSED(recurra_model_read("abc", 3, model), "");
  expect(__LINE__, *model == NULL);
  REFUSED(recurra_model_sizes(NULL, &inputs, &outputs), "model: expected a pointer, got null");
  OK(recurra_model_load(path, model));
  REFUSED(recurra_model_sizes(*model, NULL, &outputs), "inputs: expected a pointer, got null");
  OK(recurra_model_sizes(*model, &inputs, &outputs));
  expect(__LINE__, inputs == 1 && outputs == 1);
  REFUSED(recurra_model_output_steps(*model, -1, &steps), "steps: expected at least 0, got -1");
  OK(recurra_model_output_steps(*model, 4, &steps));
  expect(__LINE__, steps == 4);
  REFUSED(recurra_model_run(*model, x, 3, 4, 1, NULL, y, 4), "x: expected 4 numbers, got 3");
  REFUSED(recurra_model_run(*model, x, 4, 4, 1, NULL, y, 5), "y: expected 4 numbers, got 5");
  REFUSED(recurra_model_run(*model, NULL, 4, 4, 1, NULL, y, 4), "x: expected a pointer, got null");
  REFUSED(recurra_model_run(*model, x, 4, 4, -1, NULL, y, 4), "rows: expected at least 0, got -1");
  REFUSED(recurra_model_run(*model, x, 4, INT64_MAX, 1, NULL, y, 4), "steps: expected 0 to 2^40, got 9223372036854775807");
  REFUSED(recurra_model_run(*model, x, 4, INT64_C(1) << 40, INT64_MAX, NULL, y, 4), "x: expected fewer numbers");
  REFUSED(recurra_model_run(*model, x, 4, 4, 1, lengths, y, 4), "lengths");
}

static void streams(const recurra_model* model) {
  recurra_stream* stream = NULL;
  float x[6] = {0, 0.5f, 1, -1, 0.25f, 0.75f}, whole[6], y[6], again[6];
  char state[256];
  size_t bytes = 0;
  int64_t made = 0;
  int came = 0;
  REFUSED(recurra_stream_open(NULL, 1, 1, &stream), "model: expected a pointer, got null");
  REFUSED(recurra_stream_open(model, 0, 1, &stream), "rows: expected at least 1, got 0");
  REFUSED(recurra_stream_open(model, 1, 0, &stream), "threads: expected at least 1, got 0");
  REFUSED(recurra_stream_open(model, 1, 1, NULL), "stream: expected a pointer, got null");
  expect(__LINE__, stream == NULL);
  OK(recurra_stream_open(model, 1, 1, &stream));
  OK(recurra_model_run(model, x, 6, 6, 1, NULL, whole, 6));
  OK(recurra_stream_step(stream, x, 1, y, 1, &came));
  expect(__LINE__, came == 1);
  REFUSED(recurra_stream_step(stream, x, 2, y, 1, NULL), "x: expected 1 numbers, got 2");
  REFUSED(recurra_stream_step(stream, x, 1, NULL, 1, NULL), "y: expected a pointer, got null");
  REFUSED(recurra_stream_step(NULL, x, 1, y, 1, NULL), "stream: expected a pointer, got null");
  REFUSED(recurra_stream_run(stream, x + 1, 5, 5, y + 1, 4, &made), "y: expected room for 5 numbers, got 4");
  OK(recurra_stream_state_size(stream, &bytes));
  expect(__LINE__, bytes > 0 && bytes <= sizeof state);
  REFUSED(recurra_stream_get_state(stream, state, bytes - 1), "bytes: expected ");
  REFUSED(recurra_stream_set_state(stream, NULL, bytes), "state: expected a pointer, got null");
  OK(recurra_stream_get_state(stream, state, bytes));
  OK(recurra_stream_run(stream, x + 1, 5, 5, y + 1, 5, &made));
  expect(__LINE__, made == 5 && memcmp(y, whole, sizeof y) == 0);
  OK(recurra_stream_set_state(stream, state, bytes));
  OK(recurra_stream_run(stream, x + 1, 5, 5, again + 1, 5, NULL));
  expect(__LINE__, memcmp(again + 1, whole + 1, 5 * sizeof(float)) == 0);
  REFUSED(recurra_stream_reset(stream, 1), "row: expected -1 to 0, got 1");
  OK(recurra_stream_reset(stream, -1));
  OK(recurra_stream_run(stream, x, 6, 6, again, 6, &made));
  expect(__LINE__, memcmp(again, whole, sizeof whole) == 0);
  recurra_stream_close(stream);
}

int main(int count, char** arguments) {
  recurra_model* model = NULL;
  char version[16];
  if (count != 2) return 2;
  snprintf(version, sizeof version, "%d.%d.%d", RECURRA_VERSION_MAJOR, RECURRA_VERSION_MINOR, RECURRA_VERSION_PATCH);
  expect(__LINE__, strcmp(recurra_version(), version) == 0 && strcmp(version, EXPECTED_VERSION) == 0);
  made_from_tensors();
  models(arguments[1], &model);
  streams(model);
  recurra_model_free(model);
  recurra_model_free(NULL);
  recurra_stream_close(NULL);
  printf("%d failed\n", failed);
  return failed != 0;
}
