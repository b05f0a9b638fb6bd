"""Vectors of units for exported C++: one class template, whose functions are those of `arithmetic`."""

from __future__ import annotations

import re
import textwrap

from .arithmetic import needed

__all__ = ["CLOSING", "functions"]

# Functions that are the same text for a number and for a vector.
_POINTWISE = "abs|clip|normal|power|reduced|exp|sigmoid_inside|tanh_inside|log1p|softplus|relu|leaky_relu|elu|positive"

_OPENING = """\
#if defined(__clang__)
#define RC_UNROLL _Pragma("clang loop unroll_count(16)")
#define RC_UNROLL_COLUMNS _Pragma("clang loop unroll_count(columns > 16 ? 2 : 16)") /* with more it spills */
#else
#define RC_UNROLL _Pragma("GCC unroll 16")
#define RC_UNROLL_COLUMNS RC_UNROLL
#endif
#define RC_INLINE inline __attribute__((always_inline))
#define RC_ALWAYS __attribute__((always_inline))
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__FMA__)
#define RC_AVX512 1
#define RC_LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define RC_LANES 8
#else
#define RC_LANES 4
#endif

template <int L>
struct rc_raw;
#define RC_RAW(L)                                                    \\
    template <>                                                      \\
    struct rc_raw<L> {                                               \\
        typedef float numbers __attribute__((vector_size(4 * L)));   \\
        typedef uint32_t words __attribute__((vector_size(4 * L)));  \\
    }
RC_RAW(4);
RC_RAW(8);
RC_RAW(16);
#undef RC_RAW

/* Numbers of `L` units side by side. Its friends are functions of exported C, with vectors in place of numbers. */
template <int L>
struct rc_vec {
    using raw = typename rc_raw<L>::numbers;
    using words = typename rc_raw<L>::words;
    static constexpr int lanes = L;
    raw v;

    rc_vec() = default;
    RC_INLINE rc_vec(raw r) : v(r) {}
    RC_INLINE rc_vec(float x) : v(x - raw{}) {}

    static RC_INLINE rc_vec load(const float *p)
    {
        rc_vec r;
        __builtin_memcpy(&r.v, p, sizeof r.v);
        return r;
    }
    RC_INLINE void store(float *p) const { __builtin_memcpy(p, &v, sizeof v); }

    friend RC_INLINE rc_vec operator+(rc_vec a, rc_vec b) { return a.v + b.v; }
    friend RC_INLINE rc_vec operator-(rc_vec a, rc_vec b) { return a.v - b.v; }
    friend RC_INLINE rc_vec operator/(rc_vec a, rc_vec b) { return a.v / b.v; }
    friend RC_INLINE rc_vec operator-(rc_vec a) { return -a.v; }
    friend RC_INLINE rc_vec operator*(rc_vec a, rc_vec b)
    {
        raw product = a.v * b.v;
#if defined(RC_AVX512)
        __asm__("" : "+v"(product)); /* no compiler makes one operation of this and a sum */
#elif defined(__FMA__)
        __asm__("" : "+x"(product));
#elif defined(__aarch64__)
        __asm__("" : "+w"(product));
#endif
        return product;
    }
    friend RC_INLINE auto operator<(rc_vec a, rc_vec b)
    {
#if defined(RC_AVX512)
        if constexpr (L == 16) return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
        else if constexpr (L == 8) return _mm256_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
        else return _mm_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
#else
        return a.v < b.v;
#endif
    }
    friend RC_INLINE auto operator>(rc_vec a, rc_vec b) { return b < a; }

    template <class Mask>
    friend RC_INLINE rc_vec rc_pick(Mask first, rc_vec a, rc_vec b)
    {
#if defined(RC_AVX512)
        if constexpr (L == 16) return _mm512_mask_mov_ps(b.v, first, a.v);
        else if constexpr (L == 8) return _mm256_mask_mov_ps(b.v, first, a.v);
        else return _mm_mask_mov_ps(b.v, first, a.v);
#else
        return first ? a.v : b.v;
#endif
    }
    friend RC_INLINE rc_vec rc_min(rc_vec a, rc_vec b) { return rc_pick(a < b, a, b); }
    friend RC_INLINE rc_vec rc_max(rc_vec a, rc_vec b) { return rc_pick(a > b, a, b); }
    friend RC_INLINE rc_vec rc_fma(rc_vec a, rc_vec b, rc_vec c)
    {
#if defined(RC_AVX512)
        if constexpr (L == 16) return _mm512_fmadd_ps(a.v, b.v, c.v);
#endif
#if defined(__FMA__)
        if constexpr (L == 8) return _mm256_fmadd_ps(a.v, b.v, c.v);
        if constexpr (L == 4) return _mm_fmadd_ps(a.v, b.v, c.v);
#elif defined(__aarch64__)
        return vfmaq_f32(c.v, a.v, b.v);
#else
        return a.v * b.v + c.v;
#endif
    }

    static RC_INLINE words rc_bits(rc_vec x) { return (words)x.v; }
    static RC_INLINE rc_vec rc_float(words bits) { return (raw)bits; }

    /* Whether all of them are within +-bound, and none is NaN. */
    static RC_INLINE bool within(rc_vec x, float bound)
    {
        const raw size = (raw)((words)x.v & 0x7fffffffu), most = rc_vec(bound).v;
        (void)most;
#if defined(RC_AVX512)
        if constexpr (L == 16) return !_mm512_cmp_ps_mask(size, most, _CMP_NLE_UQ);
        else if constexpr (L == 8) return !_mm256_cmp_ps_mask(size, most, _CMP_NLE_UQ);
        else return !_mm_cmp_ps_mask(size, most, _CMP_NLE_UQ);
#elif defined(__AVX__)
        if constexpr (L == 8) return !_mm256_movemask_ps(_mm256_cmp_ps(size, most, _CMP_NLE_UQ));
        else return !_mm_movemask_ps(_mm_cmp_ps(size, most, _CMP_NLE_UQ));
#elif defined(__SSE2__)
        return !_mm_movemask_ps(_mm_cmpnle_ps(size, most));
#elif defined(__aarch64__)
        return vmaxvq_f32(size) <= bound;
#else
        for (int i = 0; i < L; ++i)
            if (!(size[i] <= bound)) return false;
        return true;
#endif
    }

"""

# The functions that most cells wait for. What their general forms do for arguments that hardly come costs 5 to 12
# cycles, unless it stands behind a branch.
_OWN = (
    """\
friend RC_INLINE rc_vec rc_sigmoid(rc_vec x)
{
    return __builtin_expect(within(x, 87.0f), 1) ? rc_sigmoid_inside(x) : sigmoid_of_any(x);
}
static __attribute__((noinline, cold)) rc_vec sigmoid_of_any(rc_vec x)
{
    return rc_normal(rc_sigmoid_inside(rc_clip(x, 87.5f)));
}
""",
    """\
friend RC_INLINE rc_vec rc_tanh(rc_vec x)
{
    const rc_vec minus_size = rc_float(rc_bits(x) | 0x80000000u);
    return __builtin_expect(within(x, 40.0f), 1) ? rc_tanh_inside(x, minus_size) : tanh_of_any(x, minus_size);
}
static __attribute__((noinline, cold)) rc_vec tanh_of_any(rc_vec x, rc_vec minus_size)
{
    return rc_tanh_inside(x, rc_max(-10.0f, minus_size));
}
""",
)

_PRODUCTS = """\
/* Tables of units lie in tiles of 16, the last one of W: [tile][numbers][unit]. Number i of unit u. */
template <int W, int numbers>
RC_INLINE const float *rc_unit(const float *table, int u, int i = 0)
{
    return table + (u & ~15) * numbers + i * W + (u & 15);
}

/* How far behind that of vector 0 the numbers of vector n lie. */
template <int L, int numbers>
constexpr int rc_apart(int n)
{
    return n * L / 16 * 16 * numbers + n * L % 16;
}

/* Chains begin with numbers of the table, or with zero. */
template <int W, class V, int N, int C>
RC_INLINE void rc_begin(V (&a)[N][C], const float *table, int u)
{
    RC_UNROLL
    for (int n = 0; n < N; ++n)
        RC_UNROLL
        for (int c = 0; c < C; ++c)
            a[n][c] = table ? V::load(rc_unit<W, C>(table, u, c) + rc_apart<V::lanes, C>(n)) : V(0.0f);
}

/* For each weight of a table [tile][k][gate][unit] a multiply-add to the gate's chain, k ascending. */
template <int W, int columns, int... chain, class V, int N, int C>
RC_INLINE void rc_product(V (&a)[N][C], const float *table, int u, const float *x)
{
    constexpr int gates = int(sizeof...(chain)), to[] = {chain...};
    table = rc_unit<W, columns * gates>(table, u);
    RC_UNROLL_COLUMNS
    for (int k = 0; k < columns; ++k) {
        const V value(x[k]);
        RC_UNROLL
        for (int n = 0; n < N; ++n)
            RC_UNROLL
            for (int g = 0; g < gates; ++g) {
                const float *weight = table + rc_apart<V::lanes, columns * gates>(n) + (k * gates + g) * W;
                a[n][to[g]] = rc_fma(value, V::load(weight), a[n][to[g]]);
            }
    }
}

/* N vectors of units side by side, of a tile of W or several of 16. */
template <int L, int n, int w>
struct rc_block {
    using V = rc_vec<L>;
    static constexpr int N = n, W = w;
};

/* A layer of up to 16 units waits for one operation after another, and 8 lanes wait less; larger ones read weights. */
constexpr int rc_lanes(int units)
{
    return units <= 16 && RC_LANES > 8 ? 8 : RC_LANES;
}

/* Enough chains to hide the time of a multiply-add, and no more than there are registers for. Fewer, but as many as
 * read a vector a cycle, if a block's weights then stay in a cache of 48 KiB until the next step begins with them;
 * `weights`: how many a unit has, 0 where what other layers read comes in between. */
constexpr int rc_side_by_side(int lanes, int units, int chains, int gates, int weights)
{
#if defined(RC_AVX512)
    const int n = gates > 3 ? 2 : gates > 1 ? 4 : 8;
#elif defined(__aarch64__)
    const int n = chains > 2 ? 4 : 8;
#else
    const int n = chains > 2 ? 2 : chains > 1 ? 4 : 8;
#endif
    const int most = chains + gates > 0 && n * lanes > units ? units / lanes : n;
    for (int few = most; few * lanes * gates >= 64; few /= 2)
        if (few * lanes * weights <= 13000) return few; /* a little more than fits: most of it stays */
    return most;
}

template <int L, int N, int units, class Run>
RC_INLINE void rc_blocks(bool back, int begin, const Run &run)
{
    constexpr int width = N * L, rest = units % width, whole = units - rest;
    for (int u = 0; u < whole; u += width) run(rc_block<L, N, 16>(), begin + (back ? units - width - u : u));
    constexpr int fewer = rest / L < N / 2 ? rest / L : N / 2;
    if constexpr (rest > 0) rc_blocks<L, fewer, rest>(back, back ? begin : begin + whole, run);
}

/* run(block, unit) for all units; the order alternates, so that a step begins with weights that are still near. Where
 * all are, it does not: a step can begin before the last units of the one before are done, but not before the first. */
template <int units, int chains, int gates, int weights, class Run>
RC_INLINE void rc_units(bool back, const Run &run)
{
    constexpr int lanes = rc_lanes(units), full = units / 16 * 16, rest = units - full;
    constexpr int width = rest > 8 ? 16 : rest > 4 ? 8 : 4, narrow = width < lanes ? width : lanes;
    constexpr bool stay = weights > 0 && units * weights <= (RC_LANES > 8 ? 12000 : 8000); /* of 48 KiB or 32 */
    constexpr int side_by_side = rc_side_by_side(lanes, full, chains, gates, weights);
    if constexpr (full > 0) rc_blocks<lanes, side_by_side, full>(back && !stay, 0, run);
    if constexpr (rest > 0) run(rc_block<narrow, width / narrow, width>(), full);
}

/* Whether that is one block, which may write over what it has read. */
template <int units, int chains, int gates, int weights>
constexpr bool rc_at_once()
{
    constexpr int lanes = rc_lanes(units);
    return units < 16 || (units % 16 == 0 && rc_side_by_side(lanes, units, chains, gates, weights) * lanes == units);
}

/* y = weight x + bias, each sum in four parts, a quarter of the inputs each: a block of outputs. */
template <class B, int inputs, int outputs>
RC_INLINE void rc_affine_block(int u, const float *weight, const float *bias, const float *x, float *y)
{
    using V = typename B::V;
    constexpr int quarter = (inputs + 3) / 4;
    V a[B::N][4];
    weight = rc_unit<B::W, inputs>(weight, u);
    RC_UNROLL
    for (int n = 0; n < B::N; ++n) {
        a[n][0] = bias ? V::load(rc_unit<B::W, 1>(bias, u) + rc_apart<V::lanes, 1>(n)) : V(0.0f);
        a[n][1] = a[n][2] = a[n][3] = V(0.0f);
    }
    RC_UNROLL
    for (int i = 0; i < quarter; ++i)
        RC_UNROLL
        for (int p = 0; p < 4; ++p) {
            const int k = p * quarter + i;
            if (k >= inputs) continue;
            const V value(x[k]);
            RC_UNROLL
            for (int n = 0; n < B::N; ++n)
                a[n][p] = rc_fma(value, V::load(weight + rc_apart<V::lanes, inputs>(n) + k * B::W), a[n][p]);
        }
    RC_UNROLL
    for (int n = 0; n < B::N; ++n, u += V::lanes) {
        const V sum = (a[n][0] + a[n][1]) + (a[n][2] + a[n][3]);
        const int left = outputs - u, count = left < V::lanes ? left : V::lanes;
        if (count > 0) __builtin_memcpy(y + u, &sum.v, size_t(count) * sizeof(float));
    }
}

template <int inputs, int outputs>
RC_INLINE void rc_affine(const float *weight, const float *bias, const float *x, float *y)
{
    rc_units<outputs, 4, 4, 0>(false, [&](auto block, int u) {
        rc_affine_block<decltype(block), inputs, outputs>(u, weight, bias, x, y);
    });
}

/* The same of up to three outputs, the weights [output][input]. */
template <int inputs, int outputs>
RC_INLINE void rc_affine_of_few(const float *weight, const float *bias, const float *x, float *y)
{
    constexpr int quarter = (inputs + 3) / 4;
    for (int o = 0; o < outputs; ++o, weight += inputs) {
        float a[4] = {bias ? bias[o] : 0.0f, 0.0f, 0.0f, 0.0f};
        RC_UNROLL
        for (int i = 0; i < quarter; ++i)
            RC_UNROLL
            for (int p = 0; p < 4; ++p)
                if (p * quarter + i < inputs) a[p] = rc_fma(x[p * quarter + i], weight[p * quarter + i], a[p]);
        y[o] = (a[0] + a[1]) + (a[2] + a[3]);
    }
}
"""

# A multiply-add where the processor has none rounds twice here: exactness would cost ten times the speed.
_FMA = """\
static inline float rc_fma(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}"""

CLOSING = """\
#undef RC_UNROLL
#undef RC_UNROLL_COLUMNS
#undef RC_INLINE
#undef RC_ALWAYS
#undef RC_AVX512
#undef RC_LANES
"""


def functions(code: str, with_vectors: bool) -> str:
    """What the code calls: functions of numbers, and vectors of units with theirs."""
    text = code
    if with_vectors:
        wanted = "\n".join(f"rc_{name}" for name in ("fma", "sigmoid_inside", "tanh_inside", "clip", "normal"))
        text += wanted
    parts = [_FMA if "rc_fma(float a, float b, float c)" in each else each for each in needed(text)]
    if with_vectors:
        parts += [_vector(needed(text)), _PRODUCTS]
    return "\n\n".join(parts)


def _vector(bodies: list[str]) -> str:
    pointwise = re.compile(rf"^(static [\w ]+|struct) rc_({_POINTWISE})\b", re.MULTILINE)
    own = [_friend(each) for each in bodies if pointwise.search(each)]
    return _OPENING + "\n".join(textwrap.indent(each, "    ") for each in [*own, *_OWN]) + "};"


def _friend(body: str) -> str:
    """A function of numbers as one of vectors."""
    body = re.sub(r"^static (.*?)(\brc_\w+)\(", r"friend RC_INLINE \1\2(", body, flags=re.MULTILINE)
    return re.sub(r"\bfloat\b", "rc_vec", body.replace("const int far", "const auto far"))
