// What a call's rows run: their order, the times that masked ones skip, and what befalls them between their steps.
#pragma once
#include "row_order.h"

namespace recurra {
namespace detail {

// Something that befalls a row between two of its steps: its states are reset, or a masked time passes, whose output is h as
// it is.
struct Event {
  static constexpr int64_t kReset = -1;
  int row;
  int64_t time;  // that is masked, or kReset

  bool resets() const { return time == kReset; }
};

// The events of one direction: those at `position` come when so many of the row's steps are done.
class Events {
 public:
  struct Range {
    const Event *first, *last;
    const Event* begin() const { return first; }
    const Event* end() const { return last; }
  };
  struct Placed {
    int64_t position;
    Event event;
  };

  Events() = default;
  // Of each row in the order in which they come.
  Events(const std::vector<Placed>& placed, int64_t steps) {
    if (placed.empty()) return;
    starts_.resize(size_t(steps) + 2);
    events_.resize(placed.size());
    for (const Placed& p : placed) ++starts_[size_t(p.position)];
    std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());  // where positions end, and then, where they begin
    for (size_t i = placed.size(); i-- > 0;) events_[size_t(--starts_[size_t(placed[i].position)])] = placed[i].event;
  }

  // Those of some of the rows, by their numbers among these.
  template <class Share>
  Events of(const Share& share) const {
    Events some;
    if (!any()) return some;
    some.starts_.assign(1, 0);
    for (size_t position = 0; position + 1 < starts_.size(); ++position) {
      for (const Event& event : at(int64_t(position)))
        if (const int r = share.place_of(event.row); r >= 0) some.events_.push_back({r, event.time});
      some.starts_.push_back(int64_t(some.events_.size()));
    }
    return some;
  }

  bool any() const { return !events_.empty(); }
  bool any(int64_t position) const { return any() && starts_[size_t(position)] < starts_[size_t(position) + 1]; }
  Range at(int64_t position) const {
    return {events_.data() + starts_[size_t(position)], events_.data() + starts_[size_t(position) + 1]};
  }

 private:
  std::vector<int64_t> starts_;
  std::vector<Event> events_;
};

// The rows of a call whose steps may be marked: a masked time is no step of its row, and a row's steps then follow each other
// wherever they lie.
struct Schedule : RowOrder {
  using Flags = Sequence<const uint8_t>;

  std::vector<int64_t> all_times;      // of all steps of all rows; none where each row's are 0, 1, 2, ...
  std::vector<const int64_t*> times;   // of row r, in it
  std::vector<int64_t> repeats_until;  // masked times of row r before it have h as their output; none: theirs are zeros
  Events events[2];                    // forwards, and in reverse
  bool resets = false;

  Schedule(int64_t rows, int64_t all_steps, const int64_t* given, const Flags& reset, const Flags& mask, bool repeat,
           const NetworkConfig& config)
      : Schedule(rows, all_steps, given, reset, mask, repeat, config, Valid(rows, all_steps, given, mask)) {}
  Schedule(Schedule&&) = default;  // the tables' memory moves along

 private:
  // The times of valid steps, by rows of the caller.
  struct Valid {
    std::vector<int64_t> counts, times;
    bool gaps = false;

    Valid(int64_t rows, int64_t all_steps, const int64_t* given, const Flags& mask) {
      if (!mask.data) return;
      times.reserve(size_t(rows * all_steps));
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t end = given ? given[row] : all_steps;
        expect(end >= 0 && end <= all_steps, "lengths: expected 0 to the number of steps");
        const size_t begin = times.size();
        for (int64_t t = 0; t < end; ++t)
          if (flag(mask, t, row)) times.push_back(t);
        counts.push_back(int64_t(times.size() - begin));
        gaps = gaps || (counts.back() && times.back() >= counts.back());
      }
    }
  };

  Schedule(int64_t rows, int64_t all_steps, const int64_t* given, const Flags& reset, const Flags& mask, bool repeat,
           const NetworkConfig& config, Valid valid)
      : RowOrder(rows, all_steps, mask.data ? valid.counts.data() : given) {
    if (!mask.data && !reset.data) return;
    if (valid.gaps) {
      all_times = std::move(valid.times);
      std::vector<int64_t> starts(valid.counts.size());
      std::partial_sum(valid.counts.begin(), valid.counts.end() - 1, starts.begin() + 1);
      for (const int64_t row : order) times.push_back(all_times.data() + starts[size_t(row)]);
    }
    const auto limit = [&](int64_t row) { return given ? given[row] : all_steps; };
    repeat = repeat && mask.data;
    for (const int64_t row : order)
      if (repeat) repeats_until.push_back(limit(row));
    for (const bool reverse : {false, true})
      if (config.directions == 2 || reverse == config.reverse) find_events(reset, mask, repeat, reverse, limit);
  }

  static bool flag(const Flags& flags, int64_t t, int64_t row) {
    return flags.data[t * flags.step_stride + row * flags.row_stride] != 0;
  }

  template <class Limit>
  void find_events(const Flags& reset, const Flags& mask, bool repeat, bool reverse, const Limit& limit) {
    std::vector<Events::Placed> placed;
    for (size_t r = 0; r < order.size(); ++r) {
      const int64_t row = order[r], all = limit(row);
      int64_t done = 0;
      const auto place = [&](int64_t time) { placed.push_back({done, {int(r), time}}); };
      for (int64_t i = 0; i < all; ++i) {
        const int64_t t = reverse ? all - 1 - i : i;
        const bool resets_here = reset.data && flag(reset, t, row);
        if (resets_here && !reverse) place(Event::kReset);
        if (!mask.data || flag(mask, t, row))
          ++done;
        else if (repeat)
          place(t);
        if (resets_here && reverse && t) place(Event::kReset);  // what came before time 0 would be another sequence
        resets = resets || resets_here;
      }
    }
    events[reverse] = Events(placed, steps);
  }
};

// use(t) for each of `all` times at which a row has no step.
template <class Use>
void each_skipped(const int64_t* times, int64_t length, int64_t all, const Use& use) {
  int64_t t = times ? 0 : length;
  for (int64_t step = 0; times && step < length; ++step, ++t)
    for (; t < times[step]; ++t) use(t);
  for (; t < all; ++t) use(t);
}

}  // namespace detail
}  // namespace recurra
