// How a long call is stopped before its end.
#pragma once
#include <atomic>
#include <cfenv>
#include <chrono>
#include <exception>
#include <thread>

#include "recurra/recurra.h"

namespace recurra {
namespace detail {

// The calling thread asks now and then. A worker that finds the call stopped skips its work but still waits at every barrier,
// until those who share barriers leave together, at the end of a chunk.
class Stopper {
 public:
  explicit Stopper(const Stop& ask) : ask_(ask) {
    if (!ask_) return;
    asked_ = Clock::now();
    std::fegetenv(&environment_);
  }

  // Does nothing on threads other than the caller's, on which its function may depend.
  void poll() {
    if (!ask_ || stopped() || std::this_thread::get_id() != caller_) return;
    const auto now = Clock::now();
    if (now - asked_ < std::chrono::milliseconds(50)) return;
    asked_ = now;
    if (answer()) stopped_.store(true, std::memory_order_relaxed);
  }
  void check() const {
    if (thrown_) std::rethrow_exception(thrown_);
    if (stopped()) throw Stopped();
  }
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;

  // The caller's function computes as its author expects, not as kernels do. What it throws waits until no worker is left.
  bool answer() noexcept {
    std::fenv_t kernels;
    std::fegetenv(&kernels);
    std::fesetenv(&environment_);
    bool stop = true;
    try {
      stop = ask_();
    } catch (...) {
      thrown_ = std::current_exception();
    }
    std::fesetenv(&kernels);
    return stop;
  }

  const Stop& ask_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Clock::time_point asked_;
  std::fenv_t environment_;    // of the caller
  std::exception_ptr thrown_;  // by his function
  std::atomic<bool> stopped_{false};
};

}  // namespace detail
}  // namespace recurra
