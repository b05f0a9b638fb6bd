// Every CPU kernel. This file is compiled once per instruction set, with RECURRA_ISA naming it. Everything in it has internal
// linkage except the tables at the end: a shared inline function compiled here for AVX-512 could otherwise be the copy the
// linker keeps for all callers (tests/cpp/symbols.cmake checks the object files).
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// What GCC and Clang have different names for: code for size rather than speed, and a function without copies.
#ifdef __clang__
#define RECURRA_FOR_SIZE minsize
#define RECURRA_ONE_COPY noinline
#else
#define RECURRA_FOR_SIZE optimize("Os")
#define RECURRA_ONE_COPY noinline, noclone
#endif
// Products take most of the time.
#define RECURRA_SMALL __attribute__((noinline, flatten, RECURRA_FOR_SIZE))
#include "../engine/backend.h"
#include "cells/graph/cells.def"

#ifdef __FAST_MATH__
#error "fast-math reorders sums: results would depend on the compiler"
#endif

#define RECURRA_QUOTE_(x) #x
#define RECURRA_QUOTE(x) RECURRA_QUOTE_(x)

namespace recurra {
namespace RECURRA_ISA {
namespace {

#include "simd.h"
//
#include "math.h"
//
#include "parts.h"
//
#include "weights.h"
//
#include "tile.h"
//
#include "affine.h"
//
#include "in_place.h"
//
#include "fingerprint.h"
//
#include "backward.h"
//
#include "rows.h"
//
#include "pointwise.h"
//
#include "attention.h"
//
#include "graph.h"

// Subnormal numbers count as zero: on many machines each one costs a hundred cycles, so that a fading signal would
// be slower than a loud one. Rounding is to nearest, whatever the caller has set.
unsigned long enter() {
#if defined(__x86_64__)
  const unsigned saved = _mm_getcsr();
  if ((saved & ~0x3fu) != 0x9fc0) _mm_setcsr(0x9fc0);  // flush to zero, denormals are zero, all exceptions masked
  return saved;
#elif defined(__aarch64__)
  unsigned long saved;
  asm volatile("mrs %0, fpcr" : "=r"(saved));
  asm volatile("msr fpcr, %0" : : "r"(1ul << 24));  // FZ
  return saved;
#else
  return 0;  // subnormal numbers stay; sigmoid then ends at 1e-38 (1e-308) and not at 0
#endif
}

void leave(unsigned long saved) {
#if defined(__x86_64__)
  if ((unsigned(saved) & ~0x3fu) != 0x9fc0) _mm_setcsr(unsigned(saved));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(saved));
#else
  (void)saved;
#endif
}

// What the kernels take for granted.
constexpr bool well_formed(const Phase& phase) {
  for (int g = 0; g < phase.input.count; ++g)
    if (phase.input.chain[g] != g) return false;
  for (int g = 0; g < phase.recurrent.count; ++g)
    if (phase.recurrent.chain[g] >= phase.chains) return false;
  if (!phase.recurrent.count && phase.input.count != phase.chains) return false;
  if (phase.by_rows && (phase.input.count != phase.recurrent.count || 2 * phase.input.count != phase.chains)) return false;
  return (phase.by_rows || phase.chains <= kMaxChains) && phase.input.count <= phase.chains &&
         phase.vector_count <= kMaxVectors;
}

template <class P, class T, class W>
constexpr void (*run_of())(const PhaseCall<T>&) {
  if constexpr (P::phase.by_rows)
    return sweep_by_rows<P::phase.input.count, T, W>;
  else if constexpr (!P::phase.recurrent.count)
    return sweep_inputs<P::phase.input.count, T, W>;
  else if constexpr (P::phase.shares_code || kLittleCode<T>)
    return sweep<FormBlock<FormOf<P>, T, W>, PhaseCall<T>>;
  else
    return sweep<PhaseBlock<P, T, W>, PhaseCall<T>>;
}

template <class W, class T, class... P>
constexpr void set_phases(KernelTable<T>& k, int cell, Pointwise<P...>) {
  static_assert((well_formed(P::phase) && ...), "a cell's phase breaks the contract of cells/cell.h");
  int phase = 0;
  ((k.phase[cell][phase++] = run_of<P, T, W>()), ...);
}

// What a build leaves out, `included` being false, stays null in the tables.
template <bool included, class W, class T>
constexpr KernelTable<T> table_of() {
  KernelTable<T> k;
  if constexpr (included) {
    int cell = 0;
#define RECURRA_CELL(name, ...) set_phases<W>(k, cell++, __VA_ARGS__::Phases());
#include "cells/cells.def"
    k.input_product[1] = sweep<InputBlock<1, T, W>, InputCall<T>>;
    k.input_product[2] = sweep<InputBlock<2, T, W>, InputCall<T>>;
    k.input_product[3] = sweep<InputBlock<3, T, W>, InputCall<T>>;
    k.input_product[4] = sweep<InputBlock<4, T, W>, InputCall<T>>;
  }
  return k;
}

template <bool training, class P, class T>
constexpr void set_phase(Kernels<T>& k, int cell, int phase) {
  if constexpr (P::phase.by_rows) {
    k.in_place[cell][phase] = by_rows_in_place<P, T>;
    k.finish[cell][phase][0] = k.finish[cell][phase][1] = forward_rows<P, T>;
    if constexpr (training) k.backward[cell][phase] = backward_rows<P, T>;
  } else {
    k.in_place[cell][phase] = step_in_place<FormOf<P>, T>;
    k.finish[cell][phase][0] = finish<P, false, T>;
    if constexpr (training) k.finish[cell][phase][1] = finish<P, true, T>;
    if constexpr (training) k.backward[cell][phase] = backward<P, T>;
  }
}

template <bool training, class T, class... P>
constexpr void set_cell(Kernels<T>& k, int cell, Pointwise<P...>) {
  int phase = 0;
  (set_phase<training, P>(k, cell, phase++), ...);
}

template <bool training, class T>
constexpr void set_all(Kernels<T>& k) {
  k.lanes = Vec<T>::lanes;
  int cell = 0;
#define RECURRA_CELL(name, ...) set_cell<training>(k, cell++, __VA_ARGS__::Phases());
#include "cells/cells.def"
  k.affine = sweep<AffineBlock<T>, AffineCall<T>>;
  k.activation = activation<T>;
  k.softmax = softmax<T>;
  if constexpr (training) k.transposed = sweep<TransposedBlock<T>, TransposedCall<T>>;
  if constexpr (training) k.outer = outer<T>;
}

template <bool training, class T>
constexpr void set_graphs(Kernels<T>& k) {
  k.attention = attention<T>;
  k.gathered = sweep<GatheredBlock<T>, GatheredCall<T>>;
  if constexpr (training) k.attention_backward = attention_backward<T>;
#define RECURRA_GRAPH_FUNCTION(name, ...) set_graph<training, GraphFunction::name, __VA_ARGS__>(k);
#include "cells/graph/cells.def"
}

template <bool included, bool training, bool graphs, class T>
constexpr Kernels<T> full_kernels() {
  Kernels<T> k;
  k.by_precision[0] = table_of<included, FullWeights, T>();
  if constexpr (included) set_all<training>(k);
  if constexpr (included && graphs) set_graphs<training>(k);
  return k;
}

template <class Bfloat16, class Int8>
constexpr Backend backend(const char* name) {
  constexpr bool training = RECURRA_TRAINING, graphs = RECURRA_GRAPHS;
  Kernels<float> k = full_kernels<true, training, graphs, float>();
  k.by_precision[1] = table_of<RECURRA_BFLOAT16, Bfloat16, float>();
  k.by_precision[2] = table_of<RECURRA_INT8, Int8, float>();
  using Number = typename Bfloat16::Number;
  return {name,
          k,
          full_kernels<RECURRA_DOUBLE, training, graphs, double>(),
          {nullptr, round_rows<Number>, quantise},
          {0, sizeof(Number), 1},
          fingerprint,
          enter,
          leave};
}

}  // namespace

extern const Backend table;
// constexpr: a run-time initialiser would execute this instruction set on machines that lack it.
constexpr Backend table = backend<Bfloat16Weights, Int8Weights>(RECURRA_QUOTE(RECURRA_ISA));
#if defined(__AVX512VNNI__)
extern const Backend table_bf16;
constexpr Backend table_bf16 = backend<Bfloat16Pairs, Int8Weights>("avx512bf16");
#elif defined(__aarch64__)
extern const Backend table_dot, table_bf16;
using Int8Dots = Int8Products<DotBytes, DotLane>;
constexpr Backend table_dot = backend<Bfloat16Weights, Int8Dots>("neondot");
constexpr Backend table_bf16 = backend<Bfloat16Pairs, Int8Dots>("neonbf16");
#endif

}  // namespace RECURRA_ISA
}  // namespace recurra
