// A small team of threads: they spin for a moment after each job, then park. Started at the first job that wants them, started
// anew in a forked child. There is one team a process; whoever finds it busy computes alone (the bits are the same).
#pragma once
#include <atomic>

namespace recurra {

// Lets `size` workers wait for each other, a few hundred nanoseconds a time.
class Barrier {
 public:
  explicit Barrier(int size = 1) : size_(size) {}
  void wait();

 private:
  const int size_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> round_{0};
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
