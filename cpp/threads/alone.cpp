// In place of team.cpp, in a build without threads.
#include <stdexcept>
#include <string>

#include "recurra/recurra.h"
#include "team.h"

namespace recurra {

void Barrier::wait(int) {}

TeamLease::TeamLease(int) {}
TeamLease::~TeamLease() = default;

void TeamLease::run(void (*call)(void*, int), void* job) { call(job, 0); }

int num_threads() { return 1; }

void set_num_threads(int threads) {
  if (threads < 1) throw std::invalid_argument("num_threads: expected at least 1, got " + std::to_string(threads));
}

}  // namespace recurra
