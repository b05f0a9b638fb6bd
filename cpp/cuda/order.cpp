#include "order.h"

namespace recurra {
namespace cuda {

namespace {

struct Event {
  CUevent event = nullptr;
  Event() { check_driver(driver().cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), "cuEventCreate"); }
  ~Event() { driver().cuEventDestroy(event); }  // the driver keeps what streams still wait for
  Event(const Event&) = delete;
};

}  // namespace

void wait(const Device& device, CUstream stream, CUstream producer) {
  if (stream == producer) return;
  const Current current(device);
  if (is_capturing(stream) && !is_capturing(producer))
    throw Error("a stream that is being captured cannot wait for one that is not: make it wait before the capture begins");
  const Event event;
  check_driver(driver().cuEventRecord(event.event, producer), "cuEventRecord");
  check_driver(driver().cuStreamWaitEvent(stream, event.event, 0), "cuStreamWaitEvent");
}

}  // namespace cuda
}  // namespace recurra
