// When threads pay: below these, in multiply-adds, another thread costs more than it saves. Waking a parked worker takes some
// 30 us, a barrier some 0.1 us when nobody is late, and a core does 20 to 60 thousand multiply-adds a microsecond.
#pragma once
#include <cstdint>

namespace recurra {

constexpr double kWorthWaking = 2e6;          // of a call
constexpr double kWorthWakingBackward = 2e7;  // of a backward pass, whose workers meet at four barriers at least
constexpr double kWorthBarrier = 3e4;         // of a worker's share of a step
constexpr int64_t kRowsPerWorker = 8;         // from which rows are divided among workers, and no worker waits for another

// Forward of a network whose weights exceed any second-level cache divides rows only from more of them on, if every worker has
// enough units: when these are divided, each worker reads a part of the weights (LSTM B = 32, H = 512 to 1024 2 to 9 % faster,
// bench/NOTES.md).
constexpr double kWide = 1 << 20;  // words of packed weights
constexpr int64_t kRowsPerWorkerOfWide = 24;
constexpr int64_t kUnitsPerWorkerOfWide = 128;

constexpr int64_t kWorthPacking = 1 << 18;  // words of a layer's packed weights: one thread takes some 100 us

}  // namespace recurra
