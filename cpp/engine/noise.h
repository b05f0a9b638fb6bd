// What training leaves out at random: dropout between layers, variational dropout of h (Y. Gal, Z. Ghahramani, arXiv
// 1512.05287) and zoneout (D. Krueger et al., arXiv 1606.01305). Every draw is a hash of a seed and of its place, so backward
// draws it again instead of storing it, and it depends neither on the batch's order nor on threads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "recurra/recurra.h"

namespace recurra {
namespace detail {

class Noise {
 public:
  enum class Kind : uint64_t { between, recurrent, zoneout_h, zoneout_c };

  Noise() = default;
  Noise(const Regularization& rates, const uint64_t* seed) : rates_(rates), trains_(seed), seed_(seed ? *seed : 0) {}

  bool drops_between() const { return trains_ && rates_.dropout > 0; }
  bool drops_recurrent() const { return trains_ && rates_.recurrent_dropout > 0; }
  bool zones_out(int state) const { return rate(state) > 0; }

  // Multiplies numbers of a row on its way from layer to layer by 0 or 1 / (1 - dropout).
  template <class T>
  void drop_between(T* row, int64_t begin, int64_t end, size_t lane, int64_t caller_row, int64_t t) const {
    const Draw hit = draw(Kind::between, lane, caller_row, t, rates_.dropout);
    const T scale = T(1 / (1 - rates_.dropout));
    for (int64_t i = begin; i < end; ++i) row[i] = hit(i) ? T(0) : row[i] * scale;
  }

  // The mask of a sequence's h, the same at every step.
  template <class T>
  void recurrent_mask(T* row, int64_t size, size_t lane, int64_t caller_row) const {
    const Draw hit = draw(Kind::recurrent, lane, caller_row, 0, rates_.recurrent_dropout);
    const T scale = T(1 / (1 - rates_.recurrent_dropout));
    for (int64_t i = 0; i < size; ++i) row[i] = hit(i) ? T(0) : scale;
  }

  // Some units of a state keep their old value; without a seed, all keep that share of it.
  template <class T>
  void zone_out(T* now, const T* old, int64_t begin, int64_t end, int state, size_t lane, int64_t caller_row,
                int64_t step) const {
    const Draw hit = zoneout(state, lane, caller_row, step);
    const T share = T(rate(state));
    for (int64_t i = begin; i < end; ++i) {
      if (!trains_)
        now[i] = share * old[i] + (1 - share) * now[i];
      else if (hit(i))
        now[i] = old[i];
    }
  }

  // Its gradient: d, of the state after the step, is divided into what bypasses the step and what reaches the cell.
  template <class T>
  void zone_out_backward(T* d, T* past, int64_t begin, int64_t end, int state, size_t lane, int64_t caller_row,
                         int64_t step) const {
    const Draw hit = zoneout(state, lane, caller_row, step);
    const T share = T(rate(state));
    for (int64_t i = begin; i < end; ++i) {
      const T kept = !trains_ ? share : hit(i) ? T(1) : T(0);
      past[i] = kept * d[i];
      d[i] = (1 - kept) * d[i];
    }
  }

 private:
  // The finaliser of SplitMix64 (G. Steele et al., OOPSLA 2014).
  static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  struct Draw {
    uint64_t key, threshold;
    bool operator()(int64_t i) const { return mix(key + uint64_t(i) * 0x9e3779b97f4a7c15u) >> 11 < threshold; }
  };
  Draw draw(Kind kind, size_t lane, int64_t row, int64_t step, double rate) const {
    uint64_t key = mix(seed_ + 0x9e3779b97f4a7c15u * (uint64_t(kind) + 1));
    for (const uint64_t part : {uint64_t(lane), uint64_t(row), uint64_t(step)})
      key = mix(key ^ mix(part + 0x632be59bd9b4e019u));
    return {key, uint64_t(rate * 9007199254740992.0)};  // 2^53
  }
  Draw zoneout(int state, size_t lane, int64_t row, int64_t step) const {
    return draw(state ? Kind::zoneout_c : Kind::zoneout_h, lane, row, step, rate(state));
  }
  double rate(int state) const { return state ? rates_.zoneout_c : rates_.zoneout_h; }

  Regularization rates_;
  bool trains_ = false;
  uint64_t seed_ = 0;
};

}  // namespace detail
}  // namespace recurra
