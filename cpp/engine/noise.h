// What training leaves out at random: dropout between layers, variational dropout of h (Y. Gal, Z. Ghahramani, arXiv
// 1512.05287) and zoneout (D. Krueger et al., arXiv 1606.01305). Every draw is a hash of a seed and of its place, so backward
// draws it again instead of storing it, and it depends neither on the batch's order nor on threads nor on the device. GPU
// kernels include this file: it uses no standard library.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cells/cell.h"

namespace recurra {
namespace detail {

// Of one row in one place: whether number i is left out.
struct Draw {
  uint64_t key, threshold;

  // The finaliser of SplitMix64 (G. Steele et al., OOPSLA 2014).
  static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  bool operator()(int64_t i) const { return mix(key + uint64_t(i) * 0x9e3779b97f4a7c15u) >> 11 < threshold; }
};

class Noise {
 public:
  struct Rates {  // recurra::Regularization
    double dropout = 0, recurrent_dropout = 0, zoneout[kMaxStates] = {};
  };

  Noise() = default;
  Noise(const Rates& rates, bool trains, uint64_t seed) : rates_(rates), trains_(trains), seed_(seed) {}

  bool drops_between() const { return trains_ && rates_.dropout > 0; }
  bool drops_recurrent() const { return trains_ && rates_.recurrent_dropout > 0; }
  bool zones_out(int state) const { return rate(state) > 0; }

  // Number i of a row on its way from layer to layer is multiplied by 0 or 1 / (1 - dropout).
  Draw between(size_t lane, int64_t caller_row, int64_t t) const {
    return draw(Kind::between, lane, caller_row, t, rates_.dropout);
  }
  template <class T>
  T dropped(const Draw& hit, int64_t i, T x) const {
    return hit(i) ? T(0) : x * T(1 / (1 - rates_.dropout));
  }

  // The mask of a sequence's h, the same at every step.
  Draw recurrent(size_t lane, int64_t caller_row) const {
    return draw(Kind::recurrent, lane, caller_row, 0, rates_.recurrent_dropout);
  }
  template <class T>
  T mask(const Draw& hit, int64_t i) const {
    return hit(i) ? T(0) : T(1 / (1 - rates_.recurrent_dropout));
  }

  // Some units of a state keep their old value; outside of training, all keep that share of it.
  Draw zoneout(int state, size_t lane, int64_t caller_row, int64_t step) const {
    return draw(Kind(int(Kind::zoneout) + state), lane, caller_row, step, rate(state));
  }
  template <class T>
  T zoned(const Draw& hit, int state, int64_t i, T now, T old) const {
    const T share = T(rate(state));
    if (!trains_) return share * old + (T(1) - share) * now;
    return hit(i) ? old : now;
  }
  // How much of the state's gradient bypasses the step; the rest reaches the cell.
  template <class T>
  T kept(const Draw& hit, int state, int64_t i) const {
    return !trains_ ? T(rate(state)) : hit(i) ? T(1) : T(0);
  }

  // The same for numbers of a row, from begin to end - 1.
  template <class T>
  void drop_between(T* row, int64_t begin, int64_t end, size_t lane, int64_t caller_row, int64_t t) const {
    const Draw hit = between(lane, caller_row, t);
    for (int64_t i = begin; i < end; ++i) row[i] = dropped(hit, i, row[i]);
  }
  template <class T>
  void recurrent_mask(T* row, int64_t size, size_t lane, int64_t caller_row) const {
    const Draw hit = recurrent(lane, caller_row);
    for (int64_t i = 0; i < size; ++i) row[i] = mask<T>(hit, i);
  }
  template <class T>
  void zone_out(T* now, const T* old, int64_t begin, int64_t end, int state, size_t lane, int64_t caller_row,
                int64_t step) const {
    const Draw hit = zoneout(state, lane, caller_row, step);
    for (int64_t i = begin; i < end; ++i) now[i] = zoned(hit, state, i, now[i], old[i]);
  }
  template <class T>
  void zone_out_backward(T* d, T* past, int64_t begin, int64_t end, int state, size_t lane, int64_t caller_row,
                         int64_t step) const {
    const Draw hit = zoneout(state, lane, caller_row, step);
    for (int64_t i = begin; i < end; ++i) {
      const T share = kept<T>(hit, state, i);
      past[i] = share * d[i];
      d[i] = (1 - share) * d[i];
    }
  }

 private:
  enum class Kind : uint64_t { between, recurrent, zoneout };  // zoneout + s: of state s

  Draw draw(Kind kind, size_t lane, int64_t row, int64_t step, double rate) const {
    const auto join = [](uint64_t key, uint64_t part) { return Draw::mix(key ^ Draw::mix(part + 0x632be59bd9b4e019u)); };
    const uint64_t key = Draw::mix(seed_ + 0x9e3779b97f4a7c15u * (uint64_t(kind) + 1));
    return {join(join(join(key, lane), uint64_t(row)), uint64_t(step)), uint64_t(rate * 9007199254740992.0)};  // 2^53
  }
  double rate(int state) const { return rates_.zoneout[state]; }

  Rates rates_;
  bool trains_ = false;
  uint64_t seed_ = 0;
};

}  // namespace detail
}  // namespace recurra
