// A small team of threads: they spin for a moment after each job, then park. Started at the first job that wants them, and
// again in a forked child. There is one team per process; a caller that finds it busy computes alone (the bits are the same).
#pragma once
#include <atomic>
#include <memory>

namespace recurra {

// Lets `size` workers wait for each other. Each announces its round in a cache line of its own and reads all the others': a
// line travels once from core to core, where a shared counter would take two trips.
class Barrier {
 public:
  explicit Barrier(int size) : size_(size), workers_(new Worker[size_t(size)]) {}
  void wait(int rank);

 private:
  struct alignas(64) Worker {
    std::atomic<unsigned> round{0};
  };
  const int size_;
  std::unique_ptr<Worker[]> workers_;  // not const: GCC 10 wants to move it
};

class TeamLease {
 public:
  explicit TeamLease(int wanted);  // up to `wanted` workers, the caller among them
  ~TeamLease();
  TeamLease(const TeamLease&) = delete;

  int size() const { return size_; }

  // job(rank) runs once for every rank 0 .. size-1, at the same time; rank 0 on this thread. It must not throw.
  template <class Job>
  void run(Job& job) {
    run([](void* j, int rank) { (*static_cast<Job*>(j))(rank); }, &job);
  }

 private:
  void run(void (*call)(void*, int), void* job);
  int size_ = 1;
};

}  // namespace recurra
