// Every function of api.h, which does nothing and succeeds, where fake.cpp does not say otherwise.
#include "../../../cpp/cuda/api.h"

using namespace recurra::cuda;
#define FAKE(symbol, name, ...) \
  extern "C" __attribute__((weak)) int symbol(__VA_ARGS__) { return 0; }
RECURRA_DRIVER_CALLS(FAKE)
RECURRA_NVRTC_CALLS(FAKE)
RECURRA_CUBLAS_CALLS(FAKE)
