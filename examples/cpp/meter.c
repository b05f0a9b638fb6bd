/* Samples from standard input through a model, one by one: a number a line in, a number a line out.
 *
 *   seq 0 0.01 1 | meter model.safetensors
 */
#include <stdio.h>

#include "recurra.h"

static int fail(const char* text) {
  fprintf(stderr, "meter: %s\n", text);
  return 1;
}

int main(int count, char** arguments) {
  recurra_model* model = NULL;
  recurra_stream* stream = NULL;
  float x, y;
  int made, status = 0;

  if (count != 2) return fail("usage: meter model.safetensors < samples");
  if (recurra_model_load(arguments[1], &model) != RECURRA_OK || recurra_stream_open(model, 1, 1, &stream) != RECURRA_OK)
    status = fail(recurra_error());
  while (!status && scanf("%f", &x) == 1)
    if (recurra_stream_step(stream, &x, 1, &y, 1, &made) != RECURRA_OK)
      status = fail(recurra_error());
    else if (made)
      printf("%.9g\n", y);
  recurra_stream_close(stream);
  recurra_model_free(model);
  return status;
}
