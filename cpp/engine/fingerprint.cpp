// The sum over a caller's arrays by which a change is noticed; its inner loop is cpu/fingerprint.h.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../threads/team.h"
#include "backend.h"
#include "recurra/recurra.h"

namespace recurra {
namespace {

constexpr size_t kPiece = 256 << 10;               // bytes
constexpr size_t kWorthSharing = size_t(4) << 20;  // bytes: one thread takes some 50 us

struct Piece {
  const char* from;
  size_t bytes;
  unsigned long long sum[8];
};

}  // namespace

void fingerprint(const void* const* arrays, const size_t* bytes, size_t count, uint64_t* sum) {
  std::vector<Piece> pieces;
  size_t all = 0;
  for (size_t i = 0; i < count; all += bytes[i], ++i)
    for (size_t at = 0; at < bytes[i]; at += kPiece)
      pieces.push_back({static_cast<const char*>(arrays[i]) + at, std::min(kPiece, bytes[i] - at), {}});
  const auto add = backend().fingerprint;
  TeamLease team(all < kWorthSharing ? 1 : num_threads());
  auto job = [&](int rank) {
    for (size_t i = size_t(rank); i < pieces.size(); i += size_t(team.size()))
      add(pieces[i].from, ptrdiff_t(pieces[i].bytes), pieces[i].sum);
  };
  team.run(job);
  unsigned long long total[8] = {};
  for (const Piece& piece : pieces) add(reinterpret_cast<const char*>(piece.sum), sizeof piece.sum, total);
  std::memcpy(sum, total, sizeof total);
}

}  // namespace recurra
