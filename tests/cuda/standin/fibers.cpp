// Compiled without sanitizers, since fibers share its state on purpose. What fibers call uses no std template: the linker might
// take another file's instrumented copy.
#include "fibers.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#ifdef STANDIN_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#define TSAN(...) __VA_ARGS__
constexpr bool thread_sanitizer = true;
#else
#define TSAN(...)
constexpr bool thread_sanitizer = false;
#endif
#ifdef STANDIN_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif

namespace standin {
namespace {

constexpr unsigned max_threads = 1024;  // of a block
// ThreadSanitizer has a thread for each of several blocks, so that they race, and keeps them for later launches: to make one
// takes half a millisecond. Each has a stack of its own, which no other thread ever touches.
constexpr unsigned max_fibers = thread_sanitizer ? 2 * max_threads : max_threads;
constexpr size_t stack_bytes = 128 << 10, guard_bytes = 4096;

struct Fiber;
struct Barrier {
  const char* name;
  unsigned mask;      // of a warp's threads
  unsigned expected;  // threads that have not ended
  unsigned arrived;
  Fiber* waiting;
  unsigned phase;
  char sanitizer[2];  // what ThreadSanitizer sees of it, for even and odd phases: who goes on may reach the next one first
};
struct Warp {
  uint64_t given[32];
  unsigned live;         // lanes
  Barrier barriers[33];  // one for each mask that lanes wait with
};
struct Fiber : Thread {
  void* stack_pointer;
  unsigned number;
  Warp* warp;
  Fiber* next;
  void* sanitizer;
};

struct {
  Launch launch;
  Fiber fibers[max_threads];
  Warp warps[max_threads / 32];
  Barrier block;
  Fiber* ready[max_threads];
  unsigned ready_count, live;
  uint64_t seed, random;
  char* stacks;
  void* scheduler;
  void *scheduler_sanitizer, *sanitizers[max_fibers];
  char begun, ended;  // what they release and acquire
  const char* problem;
} state;

uint64_t draw() {
  state.random ^= state.random << 13, state.random ^= state.random >> 7, state.random ^= state.random << 17;
  return state.random >> 20;
}

__attribute__((naked, noinline)) void switch_stack(void**, void*) {  // x86-64
  asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi); mov %rsi, %rsp;"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
Fiber& self() { return *static_cast<Fiber*>(machine.self); }
void to_scheduler() {
  TSAN(__tsan_switch_to_fiber(state.scheduler_sanitizer, __tsan_switch_to_fiber_no_sync);)
  switch_stack(&self().stack_pointer, state.scheduler);
}
void make_ready(Fiber* fiber) { state.ready[state.ready_count++] = fiber; }

void open_if_full(Barrier& barrier) {
  if (barrier.arrived < barrier.expected) return;
  for (Fiber* fiber = barrier.waiting; fiber; fiber = fiber->next) make_ready(fiber);
  barrier.arrived = 0, barrier.waiting = nullptr, ++barrier.phase;
}
void wait(Barrier& barrier) {
  ++barrier.arrived;
  self().next = barrier.waiting, barrier.waiting = &self();
  open_if_full(barrier);
  to_scheduler();
}
void wait_for_memory(Barrier& barrier) {
  [[maybe_unused]] char* const phase = &barrier.sanitizer[barrier.phase % 2];
  TSAN(__tsan_release(phase);)
  wait(barrier);
  TSAN(__tsan_acquire(phase);)
}
Barrier& warp_barrier(unsigned mask) {
  Warp& warp = *self().warp;
  if (!(mask >> self().lane & 1)) state.problem = "a thread is not in the mask that it gave";
  Barrier* found = nullptr;
  for (Barrier& barrier : warp.barriers)
    if (barrier.mask == mask || (!found && !barrier.arrived)) {
      found = &barrier;
      if (barrier.mask == mask) break;
    }
  if (found->mask != mask) *found = {"a warp's barrier, shuffle or vote", mask, 0, 0, nullptr, 0, {}};
  found->expected = unsigned(__builtin_popcount(mask & warp.live));
  return *found;
}
void check_may_meet() {
  if (state.launch.kernel->meets) return;
  std::fprintf(stderr, "stand-in: a barrier in a RECURRA_KERNEL; declare it as RECURRA_BLOCK_KERNEL\n");
  std::abort();
}

void sync_block() {
  check_may_meet();
  wait_for_memory(state.block);
}
void sync_warp(unsigned mask) {
  check_may_meet();
  wait_for_memory(warp_barrier(mask));
}
// Shuffles and votes order no memory.
uint64_t exchange(unsigned mask, uint64_t mine, unsigned from) {
  check_may_meet();
  Warp& warp = *self().warp;
  warp.given[self().lane] = mine;
  wait(warp_barrier(mask));
  const uint64_t given = mask & warp.live & 1u << from ? warp.given[from] : ~uint64_t(0);  // of others it is undefined
  wait(warp_barrier(mask));
  return given;
}
unsigned ballot(unsigned mask, bool mine) {
  check_may_meet();
  Warp& warp = *self().warp;
  warp.given[self().lane] = mine;
  wait(warp_barrier(mask));
  unsigned all = 0;
  for (unsigned lane = 0; lane < 32; ++lane) all |= (mask & warp.live) >> lane & warp.given[lane] & 1 ? 1u << lane : 0;
  wait(warp_barrier(mask));
  return all;
}

// Barriers wait for threads that have not ended.
void end_thread() {
  Fiber& fiber = self();
  --state.live;
  --state.block.expected;
  fiber.warp->live &= ~(1u << fiber.lane);
  if (state.block.arrived) open_if_full(state.block);
  for (Barrier& barrier : fiber.warp->barriers) {
    barrier.expected = unsigned(__builtin_popcount(barrier.mask & fiber.warp->live));
    if (barrier.arrived) open_if_full(barrier);
  }
}
void enter() {
  TSAN(__tsan_acquire(&state.begun);)
  state.launch.kernel->call(state.launch.arguments);
  TSAN(__tsan_release(&state.ended);)
  end_thread();
  to_scheduler();
}

Index at(unsigned i, Index size) { return {i % size.x, i / size.x % size.y, i / size.x / size.y}; }
unsigned count(Index size) { return size.x * size.y * size.z; }

void map_stacks() {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  state.stacks = static_cast<char*>(mmap(nullptr, max_fibers * stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0));
  if (state.stacks == MAP_FAILED) std::abort();
  for (unsigned i = 0; i < max_fibers; ++i) mprotect(state.stacks + i * stack_bytes, guard_bytes, PROT_NONE);
}

std::string deadlock() {
  std::string text = std::to_string(state.live) + " threads of block (" + std::to_string(state.fibers[0].block.x) + ", " +
                     std::to_string(state.fibers[0].block.y) + ", " + std::to_string(state.fibers[0].block.z) +
                     ") wait for ever:";
  const auto tell = [&](const Barrier& barrier) {
    if (!barrier.waiting) return;
    text += " " + std::to_string(barrier.arrived) + " of " + std::to_string(barrier.expected) + " at " + barrier.name +
            ", thread " + std::to_string(barrier.waiting->number) + " among them;";
  };
  tell(state.block);
  for (const Warp& warp : state.warps)
    for (const Barrier& barrier : warp.barriers) tell(barrier);
  // They are given up as they are.
  ASAN(__asan_unpoison_memory_region(state.stacks, max_fibers * stack_bytes);)
  TSAN(for (void*& fiber : state.sanitizers) {
    if (fiber) __tsan_destroy_fiber(fiber);
    fiber = nullptr;
  } munmap(state.stacks, max_fibers * stack_bytes);
       state.stacks = nullptr;)
  return text;
}

// In the fibers from `first` on.
std::string run_fibers(unsigned first, unsigned threads, Index block, unsigned char* shared) {
  if (!state.stacks) map_stacks();
  std::memset(state.warps, 0, sizeof(state.warps));
  state.block = {"__syncthreads", 0, threads, 0, nullptr, 0, {}};
  state.live = threads, state.ready_count = 0;
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = state.fibers[t];
    static_cast<Thread&>(fiber) = {at(t, state.launch.block), block, t % 32, shared};
    void** top = reinterpret_cast<void**>(state.stacks + (first + t + 1) * stack_bytes);
    top[-1] = nullptr, top[-2] = reinterpret_cast<void*>(&enter);
    fiber.stack_pointer = top - 8, fiber.number = t, fiber.warp = &state.warps[t / 32];
    fiber.warp->live |= 1u << t % 32;
    TSAN(void*& sanitizer = state.sanitizers[first + t]; if (!sanitizer) sanitizer = __tsan_create_fiber(0);
         fiber.sanitizer = sanitizer;)
    make_ready(&fiber);
  }
  TSAN(__tsan_release(&state.begun);)
  for (unsigned turn = 0; state.live; ++turn) {
    if (!state.ready_count) return deadlock();
    const unsigned pick = unsigned(state.seed ? draw() : turn) % state.ready_count;
    Fiber* const fiber = state.ready[pick];
    state.ready[pick] = state.ready[--state.ready_count];
    machine.self = fiber;
    TSAN(__tsan_switch_to_fiber(fiber->sanitizer, __tsan_switch_to_fiber_no_sync);)
    switch_stack(&state.scheduler, fiber->stack_pointer);
  }
  return {};
}

void run_calls(unsigned threads, Index block, unsigned char* shared) {
  Thread thread;
  machine.self = &thread;
  const bool backwards = state.seed && draw() % 2;
  for (unsigned t = 0; t < threads; ++t) {
    const unsigned number = backwards ? threads - 1 - t : t;
    thread = {at(number, state.launch.block), block, number % 32, shared};
    state.launch.kernel->call(state.launch.arguments);
  }
}

// A block's shared memory: NaN, and behind it what nobody may touch.
class Shared {
 public:
  explicit Shared(size_t bytes) : bytes_(bytes), data_(new(align) unsigned char[bytes + guard]) {
    std::memset(data_, 0xff, bytes);
    std::memset(data_ + bytes, 0x5a, guard);
    ASAN(__asan_poison_memory_region(data_ + bytes, guard);)
  }
  Shared(Shared&& other) noexcept : bytes_(other.bytes_), data_(other.data_) { other.data_ = nullptr; }
  ~Shared() {
    if (data_) ::operator delete[](data_, align);
  }
  unsigned char* data() { return data_; }
  bool overrun() {
    ASAN(__asan_unpoison_memory_region(data_ + bytes_, guard);)
    for (size_t i = 0; i < guard; ++i)
      if (data_[bytes_ + i] != 0x5a) return true;
    return false;
  }

 private:
  static constexpr size_t guard = 128;
  static constexpr std::align_val_t align{128};
  size_t bytes_;
  unsigned char* data_;
};

}  // namespace

Machine machine = {nullptr, {}, {}, sync_block, sync_warp, exchange, ballot};

std::string run(const Launch& launch) {
  static uint64_t launches = 0;
  const char* const seed = std::getenv("RECURRA_STANDIN_SEED");
  state.seed = seed ? std::strtoull(seed, nullptr, 10) : 1;
  state.random = (state.seed + 1) * 0x9e3779b97f4a7c15u + ++launches * 0xbf58476d1ce4e5b9u;
  state.launch = launch, state.problem = nullptr;
  machine.block_dim = launch.block, machine.grid_dim = launch.grid;
  TSAN(state.scheduler_sanitizer = __tsan_get_current_fiber();)
  const unsigned csr = _mm_getcsr();
  if (launch.flush) _mm_setcsr(csr | 0x8040);  // FTZ, DAZ

  const unsigned blocks = count(launch.grid), threads = count(launch.block);
  const unsigned first = state.seed ? unsigned(draw()) % blocks : 0;
  std::vector<Shared> shared;  // to ThreadSanitizer, memory that is freed has been written
  std::string problem;
  for (unsigned i = 0; i < blocks && problem.empty(); ++i) {
    const Index block = at((first + i) % blocks, launch.grid);
    if (!thread_sanitizer) shared.clear();
    shared.emplace_back(launch.shared_bytes);
    if (launch.kernel->meets || thread_sanitizer)
      problem = run_fibers(thread_sanitizer ? i % (max_fibers / threads) * threads : 0, threads, block, shared.back().data());
    else
      run_calls(threads, block, shared.back().data());
    if (problem.empty() && shared.back().overrun()) problem = "shared memory was written past its end";
    if (problem.empty() && state.problem) problem = state.problem;
  }
  _mm_setcsr(csr);
  TSAN(__tsan_acquire(&state.ended);)
  return problem;
}

}  // namespace standin
