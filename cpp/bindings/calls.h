// How long work is done: without the GIL, and watching for signals.
#pragma once
#include "arrays.h"

namespace recurra {
namespace bindings {

// Below this many multiply-adds (some 10 microseconds) releasing the GIL can only add latency: taking it back may have to wait
// for another thread's switch interval.
constexpr double kWorthReleasing = 5e5;

template <class Work>
void without_gil_if(bool worth, Work&& work) {
  if (!worth) return work();
  const py::gil_scoped_release release;
  work();
}

// Python runs signal handlers in its main thread alone. Another one would wait for the GIL for nothing, and a daemon's would be
// ended there at exit, within the engine.
inline bool in_main_thread() {
  const py::object main = py::module_::import("threading").attr("main_thread")();
  return main.attr("ident").cast<unsigned long>() == PyThread_get_thread_ident();
}

// Ctrl-C ends a call that takes longer than a moment with a KeyboardInterrupt. work(stop) passes `stop` to the engine.
template <class Work>
void until_signal(double multiplications, Work&& work) {
  constexpr double kWorthWatching = 1e9;  // some 20 milliseconds
  Stop stop;
  if (multiplications > kWorthWatching && in_main_thread())
    stop = [] {
      const py::gil_scoped_acquire acquire;
      return PyErr_CheckSignals() != 0;
    };
  try {
    without_gil_if(multiplications > kWorthReleasing, [&] { work(stop); });
  } catch (const Stopped&) {
    throw py::error_already_set();
  }
}

}  // namespace bindings
}  // namespace recurra
