// One thread at a time.
#pragma once
#include <atomic>
#include <stdexcept>

namespace recurra {
namespace detail {

// Refuses a second thread without a lock.
class InUse {
 public:
  explicit InUse(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true, std::memory_order_acquire)) throw std::runtime_error("stream: in use by another thread");
  }
  ~InUse() { busy_.store(false, std::memory_order_release); }
  InUse(const InUse&) = delete;

 private:
  std::atomic<bool>& busy_;
};

}  // namespace detail
}  // namespace recurra
