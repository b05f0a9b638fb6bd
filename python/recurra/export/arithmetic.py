"""The engine's arithmetic in C99: functions that exported code may call, each with what it needs.

They repeat `cpp/cpu/math.h`, `affine.h`, `pointwise.h` and `weights.h` operation by operation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["FUNCTIONS", "literal", "needed"]


def literal(value: float | np.floating[Any]) -> str:
    """A float32 as a C99 constant that is exact; numbers too small to be normal count as zero."""
    number = np.float32(value)
    if np.isnan(number):
        return "NAN"
    if np.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    if abs(number) < np.finfo(np.float32).tiny:
        return "-0.0f" if np.signbit(number) else "0.0f"
    if number == np.rint(number) and abs(number) < 1e4:
        return f"{float(number):.1f}f"
    mantissa, exponent = float(number).hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}f"


def _polynomial(name: str, x: str, square: str, coefficients: Iterable[float]) -> str:
    """Statements of a polynomial by fused multiply-adds, the highest power first: one term, then pairs of them."""
    first, *rest = map(literal, coefficients)
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return "\n".join(
        [f"    float {name} = {first};"]
        + [f"    {name} = rc_fma({name}, {square}, rc_fma({x}, {high}, {low}));" for high, low in pairs]
    )


# Of cpp/cpu/math.h, where each is explained.
_Q = [1.3882508098085455983e-3, 8.3665154035698447143e-3, 4.1667199879079572634e-2, 0.16666543656878698613]
_Q += [0.49999998154461999735]
_L = [0.23233564550884759835, 0.21704531964135016566, 0.28592499111789097226, 0.39999703222809303994]
_L += [0.66666667331171788623]
_LOG2_E, _LN2_HIGH = literal(1.44269504088896340736), literal(0.693359375)
_LN2_LOW, _MINUS_LN2_LOW = literal(-2.12194440e-4), literal(2.12194440e-4)
_MINUS_LN2 = literal(-0.69314718055994530942)

_FMA = """\
/* a * b + c, rounded once. Without an instruction for it: the product is exact in double, and the sum is rounded to
 * odd, so that rounding it again to float rounds right (S. Boldo, G. Melquiond, IEEE Trans. Computers 57, 2008). */
#if defined(__FP_FAST_FMAF) || defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA) || \\
    (defined(__riscv_flen) && __riscv_flen >= 32)
static inline float rc_fma(float a, float b, float c)
{
#if defined(__GNUC__)
    return __builtin_fmaf(a, b, c);
#else
    return fmaf(a, b, c);
#endif
}
#else
static float rc_fma(float a, float b, float c)
{
    const double product = (double)a * (double)b, other = (double)c;
    double sum = product + other;
    const double part = sum - product, error = (product - (sum - part)) + (other - part);
    if (sum - sum == 0.0 && (error < 0.0 || error > 0.0)) {
        uint64_t bits;
        memcpy(&bits, &sum, sizeof bits);
        if (!(bits & 1u)) bits = (error > 0.0) == (sum > 0.0) ? bits + 1u : bits - 1u;
        memcpy(&sum, &bits, sizeof sum);
    }
    return (float)sum;
}
#endif"""

# In an order in which each stands behind what it calls.
FUNCTIONS: dict[str, str] = {
    "rc_fma": _FMA,
    "rc_bits": """\
static uint32_t rc_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}""",
    "rc_float": """\
static float rc_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}""",
    "rc_abs": """\
static float rc_abs(float x)
{
    return rc_float(rc_bits(x) & 0x7fffffffu);
}""",
    "rc_min": """\
/* NaN where b is NaN; so is rc_max. */
static float rc_min(float a, float b)
{
    return a < b ? a : b;
}""",
    "rc_max": """\
static float rc_max(float a, float b)
{
    return a > b ? a : b;
}""",
    "rc_clip": """\
static float rc_clip(float x, float bound)
{
    return rc_max(-bound, rc_min(bound, x));
}""",
    "rc_pick": """\
static float rc_pick(int first, float a, float b)
{
    return first ? a : b;
}""",
    "rc_normal": """\
/* x, or 0 where it is too small for a normal number. */
static float rc_normal(float x)
{
    return rc_pick(x < 0x1p-126f, 0.0f, x);
}""",
    "rc_power": """\
/* 2^n and p of an exponential 2^n (1 + p). */
struct rc_power {
    float scale, p;
};""",
    "rc_reduced": f"""\
/* exp(2 x) or exp(-x). */
static struct rc_power rc_reduced(float x, int twice)
{{
    const float magic = 12583039.0f; /* 1.5 * 2^23, which leaves a whole number in the low bits, and 127 */
    const float rounded = rc_fma(x, twice ? {literal(2 * 1.44269504088896340736)} : -{_LOG2_E}, magic);
    const float n = rounded - magic;
    const float r = twice ? rc_fma(n, {_MINUS_LN2}, x + x) : rc_fma(n, {_MINUS_LN2_LOW}, rc_fma(n, -{_LN2_HIGH}, -x));
    const float square = r * r;
    struct rc_power e;
{_polynomial("q", "r", "square", _Q)}
    e.scale = rc_float(rc_bits(rounded) << 23);
    e.p = rc_fma(square, q, r);
    return e;
}}""",
    "rc_exp": """\
static float rc_exp(float x)
{
    const struct rc_power e = rc_reduced(rc_clip(-x, 87.5f), 0);
    return rc_normal(rc_fma(e.scale, e.p, e.scale));
}""",
    "rc_sigmoid_inside": """\
/* The sigmoid of |x| <= 87.5. */
static float rc_sigmoid_inside(float x)
{
    const struct rc_power e = rc_reduced(x, 0);
    const float inverse = rc_float((254u << 23) - rc_bits(e.scale));
    return 1.0f / rc_fma(e.scale, e.p + inverse, e.scale);
}""",
    "rc_sigmoid": """\
static float rc_sigmoid(float x)
{
    return rc_normal(rc_sigmoid_inside(rc_clip(x, 87.5f)));
}""",
    "rc_tanh_inside": f"""\
/* tanh(x), where t is -|x|, or less far from zero if |x| > 10; |t| <= 43. */
static float rc_tanh_inside(float x, float t)
{{
    const int far = t < {literal(-0.87)};
    const struct rc_power e = rc_reduced(t, 1);
    const float minus = -e.scale;
    const float numerator = rc_fma(rc_pick(far, minus + minus, minus), e.p, minus + rc_pick(far, minus, 1.0f));
    const float quotient = numerator / rc_fma(e.scale, e.p, 1.0f + e.scale);
    return rc_float(rc_bits(rc_pick(far, 1.0f + quotient, quotient)) | (rc_bits(x) & 0x80000000u));
}}""",
    "rc_tanh": """\
static float rc_tanh(float x)
{
    return rc_tanh_inside(x, rc_max(-10.0f, rc_float(rc_bits(x) | 0x80000000u)));
}""",
    "rc_log1p": f"""\
/* log(1 + u) for 0 <= u <= 1. */
static float rc_log1p(float u)
{{
    const float half_square = u * u * 0.5f, s = u / (2.0f + u), w = s * s, square = w * w;
{_polynomial("l", "w", "square", _L)}
    return u - (half_square - s * (half_square + w * l));
}}""",
    "rc_softplus": """\
static float rc_softplus(float x)
{
    return rc_max(0.0f, x) + rc_log1p(rc_exp(-rc_abs(x)));
}""",
    "rc_relu": """\
static float rc_relu(float threshold, float x)
{
    return rc_pick(x < threshold, 0.0f, x);
}""",
    "rc_leaky_relu": """\
static float rc_leaky_relu(float slope, float x)
{
    return rc_pick(x < 0.0f, slope * x, x);
}""",
    "rc_elu": """\
static float rc_elu(float alpha, float x)
{
    const struct rc_power e = rc_reduced(rc_min(87.5f, -rc_min(0.0f, x)), 0);
    return rc_pick(x < 0.0f, alpha * rc_fma(e.scale, e.p, e.scale - 1.0f), x);
}""",
    "rc_positive": """\
/* x + 1/2 for x > 0, sigmoid(x) below: what makes minGRU and minLSTM positive. */
static float rc_positive(float x)
{
    return rc_pick(x > 0.0f, x + 0.5f, rc_sigmoid(x));
}""",
    "rc_total": """\
/* A sum over units is of 16 parts, unit u in part u mod 16, of which the second half is then added to the first. */
static float rc_total(float part[16])
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) part[i] = part[i] + part[i + half];
    return part[0];
}""",
    "rc_log_above_one": f"""\
/* log(x) for x >= 1, and NaN for NaN. */
static float rc_log_above_one(float x)
{{
    if (x != x) return x;
    const uint32_t bits = rc_bits(x);
    const float n = (float)((int32_t)(bits >> 23) - 127);
    const float u = rc_float((bits & 0x007fffffu) | 0x3f800000u) - 1.0f;
    return rc_fma(n, {_LN2_HIGH}, rc_fma(n, {_LN2_LOW}, rc_log1p(u)));
}}""",
    "rc_exponentials": """\
/* y = exp(x - the largest x); their sum. y may be x. */
static float rc_exponentials(const float *x, float *y, int size, float *largest)
{
    float part[16] = {0.0f}, most = x[0];
    for (int i = 1; i < size; ++i) most = most < x[i] ? x[i] : most;
    *largest = most;
    for (int i = 0; i < size; ++i) {
        const float e = rc_exp(x[i] - most);
        part[i % 16] = part[i % 16] + e;
        if (y) y[i] = e;
    }
    return rc_total(part);
}""",
    "rc_softmax": """\
static void rc_softmax(const float *x, float *y, int size)
{
    float most;
    const float total = rc_exponentials(x, y, size, &most);
    for (int i = 0; i < size; ++i) y[i] = y[i] / total;
}""",
    "rc_log_softmax": """\
static void rc_log_softmax(const float *x, float *y, int size)
{
    float most;
    const float log_total = rc_log_above_one(rc_exponentials(x, 0, size, &most));
    for (int i = 0; i < size; ++i) y[i] = x[i] - most - log_total;
}""",
    "rc_normalised": """\
/* (x - mean) / sqrt(variance + eps) * weight + bias, where there are any; 0 if squares overflow. y may be x. */
static int rc_normalised(const float *x, float *y, int size, float eps, const float *weight, const float *bias)
{
    float part[16] = {0.0f}, square[16] = {0.0f};
    for (int i = 0; i < size; ++i) part[i % 16] = part[i % 16] + x[i];
    const float mean = rc_total(part) / (float)size;
    for (int i = 0; i < size; ++i) square[i % 16] = square[i % 16] + (x[i] - mean) * (x[i] - mean);
    const float squares = rc_total(square);
    if (!(squares <= FLT_MAX)) return 0;
    const float scale = 1.0f / sqrtf(squares / (float)size + eps);
    for (int i = 0; i < size; ++i) {
        const float normed = (x[i] - mean) * scale;
        y[i] = (weight ? normed * weight[i] : normed) + (bias ? bias[i] : 0.0f);
    }
    return 1;
}""",
    "rc_layer_norm": """\
/* As rc_normalised; numbers whose squares overflow are made smaller first. y may be x. */
static void rc_layer_norm(const float *x, float *y, int size, float eps, const float *weight, const float *bias)
{
    if (rc_normalised(x, y, size, eps, weight, bias)) return;
    for (int i = 0; i < size; ++i) y[i] = x[i] * 0x1p-100f;
    if (rc_normalised(y, y, size, FLT_MIN, weight, bias)) return;
    for (int i = 0; i < size; ++i) y[i] = rc_float(0x7fc00000u);
}""",
    "rc_norm": """\
/* Mean and 1 / sqrt(variance + 1e-5) over the n numbers of each of `units` units, values[unit][n]. */
struct rc_norm {
    float mean, scale;
};

static struct rc_norm rc_norm(const float *values, int units, int n)
{
    struct rc_norm norm;
    float part[16] = {0.0f}, square[16] = {0.0f};
    for (int u = 0; u < units; ++u) {
        float all = 0.0f;
        for (int k = 0; k < n; ++k) all = all + values[u * n + k];
        part[u % 16] = part[u % 16] + all;
    }
    norm.mean = rc_total(part) / (float)(n * units);
    for (int u = 0; u < units; ++u) {
        float all = 0.0f;
        for (int k = 0; k < n; ++k) all = rc_fma(values[u * n + k] - norm.mean, values[u * n + k] - norm.mean, all);
        square[u % 16] = square[u % 16] + all;
    }
    norm.scale = 1.0f / sqrtf(rc_total(square) / (float)(n * units) + 1e-5f);
    return norm;
}""",
    "rc_linear": """\
/* y = weight[outputs][inputs] x + bias, each sum in four parts, a quarter of the inputs each. y must not be x. */
static void rc_linear(int inputs, int outputs, const float *weight, const float *bias, const float *x, float *y)
{
    const int quarter = (inputs + 3) / 4;
    for (int o = 0; o < outputs; ++o, weight += inputs) {
        float part[4] = {0.0f};
        if (bias) part[0] = bias[o];
        for (int p = 0; p < 4; ++p) {
            const int end = (p + 1) * quarter < inputs ? (p + 1) * quarter : inputs;
            float sum = part[p];
            for (int k = p * quarter; k < end; ++k) sum = rc_fma(x[k], weight[k], sum);
            part[p] = sum;
        }
        y[o] = (part[0] + part[1]) + (part[2] + part[3]);
    }
}""",
    "rc_quantise": """\
/* x as scale * q with whole numbers q in -127 .. 127; returns the scale: range / 127, where range is the largest |x| if
 * it is not given. The scale is NaN where x has NaN or infinity, and so are the sums then. */
static float rc_quantise(const float *x, int size, float range, int8_t *q)
{
    float most = 0.0f, strange = 0.0f;
    for (int k = 0; k < size; ++k) {
        most = rc_max(rc_abs(x[k]), most);
        strange = strange + (x[k] - x[k]);
    }
    if (!(strange >= 0.0f)) {
        for (int k = 0; k < size; ++k) q[k] = 0;
        return NAN;
    }
    if (!(range > 0.0f)) range = most;
    const float magic = 12582912.0f, inverse = range > 0.0f ? 127.0f / range : 0.0f;
    for (int k = 0; k < size; ++k)
        q[k] = (int8_t)((int32_t)rc_bits(rc_clip(x[k] * inverse, 127.0f) + magic) - (int32_t)rc_bits(magic));
    return range / 127.0f;
}""",
}


def needed(text: str) -> list[str]:
    """The functions that C code calls, and those that these call, in an order that C takes."""
    found: set[str] = set()
    new = {text}
    while new:
        code = "\n".join(re.sub(r"/\*.*?\*/", "", each, flags=re.DOTALL) for each in new)
        names = set(re.findall(r"\brc_\w+", code)) & set(FUNCTIONS)
        new = {FUNCTIONS[name] for name in names - found}
        found |= names
    return [body for name, body in FUNCTIONS.items() if name in found]
