// Block-diagonal weights: the units of a head meet those of the same head only. A product leaves out the zeros that a dense
// matrix would have, which changes no bit, since a multiply-add with zero does not.
#pragma once
#include <cstdint>
#include <vector>

namespace recurra {
namespace detail {

// Units begin .. end-1.
struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

struct Heads {
  int64_t units, count;

  int64_t size() const { return units / count; }
  Span of(int64_t unit) const { return {unit / size() * size(), (unit / size() + 1) * size()}; }
  // What units first .. first + number - 1 meet, outwards to multiples of `step`.
  Span around(int64_t first, int64_t number, int64_t step) const {
    const int64_t last = (first + number < units ? first + number : units) - 1;
    const int64_t end = (of(last).end + step - 1) / step * step;
    return {of(first).begin / step * step, end < units ? end : units};
  }
};

// Tiles that meet the same units.
struct HeadTiles {
  int begin, end;
  Span meet;
};

// So many units meet the same ones, as they are a multiple of lanes on every machine: an infinite number then reaches the same
// units everywhere, as NaN.
template <class T>
constexpr int kHeadGroup = 64 / int(sizeof(T));
constexpr int64_t kHeadStep = 4;  // units in a word of reduced weights

// All tiles of `lanes` units; what they meet begins and ends at multiples of `step`.
inline std::vector<HeadTiles> head_tiles(const Heads& heads, int lanes, int group, int64_t step) {
  std::vector<HeadTiles> all;
  for (int64_t first = 0; first < heads.units; first += group) {
    const Span meet = heads.around(first, group, step);
    const int64_t stop = first + group < heads.units ? first + group : heads.units;
    const int begin = int(first / lanes), end = int((stop + lanes - 1) / lanes);
    if (!all.empty() && all.back().meet.begin == meet.begin && all.back().meet.end == meet.end)
      all.back().end = end;
    else
      all.push_back({begin, end, meet});
  }
  return all;
}

// The most units that a tile meets.
inline int64_t most_met(const std::vector<HeadTiles>& all) {
  int64_t most = 0;
  for (const HeadTiles& tiles : all) most = tiles.meet.size() > most ? tiles.meet.size() : most;
  return most;
}

// use(part of the call's tiles, the units they meet).
template <class Call, class Use>
void each_head_tiles(const std::vector<HeadTiles>& all, Call call, const Use& use) {
  const int begin = call.tile_begin, end = call.tile_end;
  for (const HeadTiles& tiles : all) {
    call.tile_begin = begin > tiles.begin ? begin : tiles.begin;
    call.tile_end = end < tiles.end ? end : tiles.end;
    if (call.tile_begin < call.tile_end) use(call, tiles.meet);
  }
}

}  // namespace detail
}  // namespace recurra
