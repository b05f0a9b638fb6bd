// How a long call is stopped before its end.
#pragma once
#include <atomic>
#include <chrono>
#include <thread>

#include "recurra/recurra.h"

namespace recurra {
namespace detail {

// The calling thread asks now and then; a worker that finds the call stopped skips its work but still waits at every barrier,
// so that workers need not agree on the moment.
class Stopper {
 public:
  explicit Stopper(const Stop& ask) : ask_(ask), asked_(ask ? Clock::now() : Clock::time_point()) {}

  // Does nothing on threads other than the caller's, on which its function may depend.
  void poll() {
    if (!ask_ || stopped() || std::this_thread::get_id() != caller_) return;
    const auto now = Clock::now();
    if (now - asked_ < std::chrono::milliseconds(20)) return;
    asked_ = now;
    if (ask_()) stopped_.store(true, std::memory_order_relaxed);
  }
  void check() const {
    if (stopped()) throw Stopped();
  }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  const Stop& ask_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point asked_;
  std::atomic<bool> stopped_{false};
};

}  // namespace detail
}  // namespace recurra
