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

constexpr unsigned max_blocks = 144;  // of a cluster, or a grid that runs together
// ThreadSanitizer has a thread for each of several blocks, so that they race, and keeps them for later launches: to make one
// takes half a millisecond. Each has a stack of its own, which no other thread ever touches.
constexpr unsigned max_fibers = thread_sanitizer ? 2048 : 16384;
constexpr unsigned max_warps = max_fibers / 32 + max_blocks;
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
  Barrier* block_barrier;
  Warp* warp;
  Fiber* next;
  void* sanitizer;
};

struct {
  Launch launch;
  Fiber fibers[max_fibers];
  Warp warps[max_warps];
  // Words of a warp's lanes, at even and odd meetings: who goes on may reach the next one first. Kernels read them, so that
  // nothing that ThreadSanitizer sees may write them.
  uint32_t collected[max_warps][2][32][6];
  Barrier blocks[max_blocks], cluster;
  unsigned char* shared[max_blocks];
  unsigned blocks_count, warps_count;
  Fiber* ready[max_fibers];
  unsigned ready_count, live;
  uint64_t seed, random;
  bool others_first;  // whoever was ready last does not go on
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
bool take_others_first() {
  const bool before = state.others_first;
  state.others_first = false;
  return before;
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
  wait_for_memory(*self().block_barrier);
}
void sync_cluster() {
  check_may_meet();
  if (state.launch.cooperative) state.problem = "a cluster's barrier in a grid of none";
  wait_for_memory(state.cluster);
}
// Another block may not have begun, or have ended, where nothing holds the cluster together.
unsigned char* shared_of(unsigned rank) {
  if (rank >= state.blocks_count || state.launch.cooperative)
    state.problem = "a block that the cluster has not";
  else if (rank != self().rank && (!state.cluster.phase || !state.blocks[rank].expected))
    state.problem = "shared memory of a block that may not have begun, or has ended";
  return state.shared[rank < state.blocks_count ? rank : 0];
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
const uint32_t (*collect(const uint32_t* mine))[6] {
  check_may_meet();
  Warp& warp = *self().warp;
  if (warp.live != ~0u) state.problem = "a product of fragments by less than a warp";
  Barrier& barrier = warp_barrier(~0u);
  uint32_t(*const all)[6] = state.collected[&warp - state.warps][barrier.phase % 2];
  for (int i = 0; i < 6; ++i) all[self().lane][i] = mine[i];
  wait(barrier);
  return all;
}
void yield() {
  state.others_first = true;
  make_ready(&self());
  to_scheduler();
}
void give_up() { state.problem = "a kernel has waited for too long"; }
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
void leave(Barrier& barrier) {
  --barrier.expected;
  if (barrier.arrived) open_if_full(barrier);
}
void end_thread() {
  Fiber& fiber = self();
  --state.live;
  fiber.warp->live &= ~(1u << fiber.lane);
  leave(*fiber.block_barrier);
  leave(state.cluster);
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
Index sum(Index a, Index b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }

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
  tell(state.cluster);
  for (unsigned b = 0; b < state.blocks_count; ++b) tell(state.blocks[b]);
  for (unsigned w = 0; w < state.warps_count; ++w)
    for (const Barrier& barrier : state.warps[w].barriers) tell(barrier);
  // They are given up as they are.
  ASAN(__asan_unpoison_memory_region(state.stacks, max_fibers * stack_bytes);)
  TSAN(for (void*& fiber : state.sanitizers) {
    if (fiber) __tsan_destroy_fiber(fiber);
    fiber = nullptr;
  } munmap(state.stacks, max_fibers * stack_bytes);
       state.stacks = nullptr;)
  return text;
}

// The blocks of a cluster from block `origin` on, in the fibers from `first` on.
std::string run_fibers(unsigned first, unsigned threads, Index origin) {
  if (!state.stacks) map_stacks();
  const unsigned warps = (threads + 31) / 32;
  state.warps_count = state.blocks_count * warps;
  std::memset(state.warps, 0, state.warps_count * sizeof(Warp));
  state.live = state.blocks_count * threads, state.ready_count = 0;
  state.cluster = {"a cluster's barrier", 0, state.live, 0, nullptr, 0, {}};
  for (unsigned i = 0; i < state.live; ++i) {
    const unsigned rank = i / threads, t = i % threads;
    if (!t) state.blocks[rank] = {"__syncthreads", 0, threads, 0, nullptr, 0, {}};
    Fiber& fiber = state.fibers[i];
    static_cast<Thread&>(fiber) = {at(t, state.launch.block), sum(origin, at(rank, state.launch.cluster)), t % 32,
                                   state.shared[rank], rank};
    void** top = reinterpret_cast<void**>(state.stacks + (first + i + 1) * stack_bytes);
    top[-1] = nullptr, top[-2] = reinterpret_cast<void*>(&enter);
    fiber.stack_pointer = top - 8, fiber.number = t, fiber.block_barrier = &state.blocks[rank];
    fiber.warp = &state.warps[rank * warps + t / 32];
    fiber.warp->live |= 1u << t % 32;
    TSAN(void*& sanitizer = state.sanitizers[first + i]; if (!sanitizer) sanitizer = __tsan_create_fiber(0);
         fiber.sanitizer = sanitizer;)
    make_ready(&fiber);
  }
  TSAN(__tsan_release(&state.begun);)
  // In random order, or one warp as far as it comes before the others, as on a GPU.
  const bool eager = state.seed && draw() % 2;
  for (unsigned turn = 0; state.live; ++turn) {
    if (!state.ready_count) return deadlock();
    const bool last = eager && !take_others_first();
    const unsigned pick = last ? state.ready_count - 1 : unsigned(state.seed ? draw() : turn) % state.ready_count;
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
    thread = {at(number, state.launch.block), block, number % 32, shared, 0};
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

Machine machine = {nullptr, {}, {}, sync_block, sync_warp, exchange, ballot, sync_cluster, shared_of, collect, yield, give_up};

std::string run(const Launch& launch) {
  if (count(launch.cluster) * count(launch.block) > max_fibers) return "more threads that run together than the stand-in has";
  static uint64_t launches = 0;
  const char* const seed = std::getenv("RECURRA_STANDIN_SEED");
  state.seed = seed ? std::strtoull(seed, nullptr, 10) : 1;
  state.random = (state.seed + 1) * 0x9e3779b97f4a7c15u + ++launches * 0xbf58476d1ce4e5b9u;
  state.launch = launch, state.problem = nullptr;
  machine.block_dim = launch.block, machine.grid_dim = launch.grid;
  TSAN(state.scheduler_sanitizer = __tsan_get_current_fiber();)
  const unsigned csr = _mm_getcsr();
  if (launch.flush) _mm_setcsr(csr | 0x8040);  // FTZ, DAZ

  const Index c = launch.cluster, clusters = {launch.grid.x / c.x, launch.grid.y / c.y, launch.grid.z / c.z};
  const unsigned threads = count(launch.block), fibers = count(c) * threads;
  const unsigned first = state.seed ? unsigned(draw()) % count(clusters) : 0;
  state.blocks_count = count(c);
  std::vector<Shared> shared;  // to ThreadSanitizer, memory that is freed has been written
  std::string problem;
  for (unsigned i = 0; i < count(clusters) && problem.empty(); ++i) {
    const Index cluster = at((first + i) % count(clusters), clusters),
                origin = {cluster.x * c.x, cluster.y * c.y, cluster.z * c.z};
    if (!thread_sanitizer) shared.clear();
    for (unsigned rank = 0; rank < state.blocks_count; ++rank)
      state.shared[rank] = shared.emplace_back(launch.shared_bytes).data();
    if (launch.kernel->meets || thread_sanitizer || state.blocks_count > 1)
      problem = run_fibers(thread_sanitizer ? i % (max_fibers / fibers) * fibers : 0, threads, origin);
    else
      run_calls(threads, origin, state.shared[0]);
    for (auto own = shared.end() - state.blocks_count; own != shared.end(); ++own)
      if (own->overrun() && problem.empty()) problem = "shared memory was written past its end";
    if (problem.empty() && state.problem) problem = state.problem;
  }
  _mm_setcsr(csr);
  TSAN(__tsan_acquire(&state.ended);)
  return problem;
}

}  // namespace standin
