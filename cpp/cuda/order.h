// The order of work on different streams.
#pragma once
#include "device.h"

namespace recurra {
namespace cuda {

// What is put on `stream` from now on runs after all that `producer` has been given; the caller waits for neither. Throws
// Error, and leaves both streams as they are, when `stream` is being captured and `producer` is not.
void wait(const Device& device, CUstream stream, CUstream producer);

}  // namespace cuda
}  // namespace recurra
