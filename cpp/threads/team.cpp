#include "team.h"

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpus.h"
#include "recurra/recurra.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace recurra {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for `done` by spinning; on a crowded machine the thread waited for may need this very CPU, so yield now and then.
template <class Done>
void spin_until(Done done) {
  for (int i = 1; !done(); ++i) {
    if (i % 1024)
      pause();
    else
      std::this_thread::yield();
  }
}

// The CPU that this thread is on, or -1.
int this_cpu() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves this thread to another CPU than `taken`, if it may use one. A kernel that looks for an idle CPU only among those that
// share a cache can leave a thread on the CPU of the one that woke it, and the two then take turns for milliseconds.
void leave_cpu(int taken) {
#if defined(__linux__)
  cpu_set_t allowed, others;
  if (taken < 0 || sched_getcpu() != taken || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  others = allowed;
  CPU_CLR(taken, &others);
  if (CPU_COUNT(&others) && sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
#else
  (void)taken;
#endif
}

class Team {
 public:
  void grow(int threads) {
    while (threads_ < threads) {
      // Never joined: at exit they are parked and touch nothing that is torn down (the team itself is never freed).
      std::thread([this, rank = threads_ + 1, seen = ticket_.load(), caller = this_cpu()] {
        leave_cpu(caller);
        serve(rank, seen);
      }).detach();
      ++threads_;
    }
  }

  void run(int size, void (*call)(void*, int), void* job) {
    call_ = call;
    job_ = job;
    pending_.store(size - 1, std::memory_order_relaxed);
    // The size travels inside the ticket: a worker that sleeps through a job it has no part in cannot mistake the next one.
    ticket_.store(((ticket_.load(std::memory_order_relaxed) >> 16) + 1) << 16 | uint64_t(size));
    if (sleepers_.load() > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
        caller_cpu_ = this_cpu();
        wake_.notify_all();
      }
      // A worker that was woken on this very CPU must run once to leave it; else it would wait for this thread's whole share.
      std::this_thread::yield();
    }
    call(job, 0);
    spin_until([this] { return pending_.load(std::memory_order_acquire) == 0; });
  }

 private:
  void serve(int rank, uint64_t seen) {
    for (;;) {
      seen = next_ticket(seen);
      if (rank < int(seen & 0xffff)) {
        call_(job_, rank);
        pending_.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  uint64_t next_ticket(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      const uint64_t ticket = ticket_.load(std::memory_order_acquire);
      if (ticket != seen) return ticket;
      pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    ++sleepers_;
    wake_.wait(lock, [this, seen] { return ticket_.load() != seen; });
    --sleepers_;
    const int caller = caller_cpu_;
    lock.unlock();
    leave_cpu(caller);
    return ticket_.load();
  }

  static constexpr int kSpins = 2000;  // some 30 to 100 microseconds: about what waking a parked thread costs

  int threads_ = 0;
  void (*call_)(void*, int) = nullptr;
  void* job_ = nullptr;
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> pending_{0};
  std::atomic<int> sleepers_{0};
  int caller_cpu_ = -1;  // of the last one who woke somebody; guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
};

Team* team = nullptr;  // made and used only by the holder of `busy`
std::atomic<bool> busy{false};

// A forked child has none of its parent's threads, and `busy` may have been set at that moment by one that is gone.
void forget_team() {
  team = nullptr;
  busy.store(false);
}

int threads_at_start() {
  const char* asked = std::getenv("RECURRA_NUM_THREADS");
  if (!asked || !*asked) return usable_cpus();
  char* end = nullptr;
  const long n = std::strtol(asked, &end, 10);
  if (*end || n < 1)
    throw std::runtime_error(std::string("RECURRA_NUM_THREADS: expected a number from 1, got '") + asked + "'");
  return int(std::min<long>(n, usable_cpus()));
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{threads_at_start()};
  return count;
}

}  // namespace

void Barrier::wait(int rank) {
  const unsigned round = workers_[rank].round.load(std::memory_order_relaxed) + 1;
  workers_[rank].round.store(round, std::memory_order_release);
  for (int other = 0; other < size_; ++other)  // one that has arrived already may be a round ahead
    spin_until([&] { return int(workers_[other].round.load(std::memory_order_acquire) - round) >= 0; });
}

TeamLease::TeamLease(int wanted) {
  if (wanted < 2 || busy.exchange(true)) return;
  try {
    if (!team) {
#if defined(__unix__) || defined(__APPLE__)
      static const int registered = pthread_atfork(nullptr, nullptr, forget_team);
      (void)registered;
#endif
      team = new Team;
    }
    team->grow(wanted - 1);
    size_ = wanted;
  } catch (...) {  // no thread could be started: compute alone
    busy.store(false);
  }
}

TeamLease::~TeamLease() {
  if (size_ > 1) busy.store(false);
}

void TeamLease::run(void (*call)(void*, int), void* job) {
  if (size_ > 1)
    team->run(size_, call, job);
  else
    call(job, 0);
}

int num_threads() { return thread_count().load(); }

void set_num_threads(int threads) {
  if (threads < 1) throw std::invalid_argument("num_threads: expected at least 1, got " + std::to_string(threads));
  thread_count().store(std::min(threads, usable_cpus()));
}

}  // namespace recurra
