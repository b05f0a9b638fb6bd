#include <recurra/model.h>
#include <cstdio>

int main(int, char** arguments) {
  const auto model = recurra::Model<float>::load(arguments[1]);
  recurra::ModelStream<float> stream(model, /*rows=*/1);
  for (float x, y; std::scanf("%f", &x) == 1;)
    if (stream.step(&x, &y)) std::printf("%.9g\n", y);
}
