"""What the cells compute, as C: the phases of `cpp/cells/`, each with its products and its function of one unit.

In a unit's statements a0, a1, ... are the chains of products and biases, h[u] is h(t-1), c[u] and so on the other
states, v[0], v[1], ... are the unit's own parameters, and z[u] is what a later phase wants.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from ..activation import CORE_NAMES
from .arithmetic import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Function: TypeAlias = Callable[[str], str]  # of an expression, as an expression

__all__ = ["Blocks", "Phase", "chosen", "clipped", "is_known", "phases_of"]


class Blocks(NamedTuple):
    """Gate blocks of a parameter, from `first` on, and the chain that each of them adds to."""

    name: str
    chains: tuple[int, ...]
    first: int = 0


class Phase(NamedTuple):
    """One recurrent product and one function of each unit; see cpp/cells/cell.h.

    Attributes:
        chains: how many.
        input: the product with x, if there is one.
        source: that with h(t-1) in the first phase, with the result of the phase before in later ones.
        biases: added to the chains in this order; those of a chain that there is not are parameters of the unit's own.
        statements: of one unit.
        result: an expression.
        vectors: how many parameters of its own a unit has.
        unit_range: the result lies in -1..1 where h(t-1) does.
        keeps: names of numbers for later phases.
        projects: there are as many units as the projection has.
    """

    chains: int
    input: Blocks | None
    source: Blocks | None
    biases: tuple[Blocks, ...]
    statements: tuple[str, ...]
    result: str
    vectors: int = 0
    unit_range: bool = False
    keeps: tuple[str, ...] = ()
    projects: bool = False


# A cell that is not among these is refused, not taken for its relative.
_KNOWN = re.compile(
    r"rnn_(tanh|relu|sigmoid|general)"
    r"|lstm(_coupled|_f_from_i)?(_peephole)?(_projected)?(_general)?|gru(_reset_before)?(_write)?(_general)?"
    r"|(lstm|gru)_layer_norm|multiplicative_lstm(_paper(_output)?)?|differential_(0|1|2|01|02|12|012)"
    r"|indrnn_(relu|tanh)|min_(gru|lstm)(_positive)?|sru(_tanh)?|slstm(_exp)?"
)


def is_known(cell: str) -> bool:
    """Whether there is C for it."""
    return _KNOWN.fullmatch(cell) is not None


def phases_of(cell: str, constants: Mapping[str, float]) -> tuple[Phase, ...] | None:
    """Those of a cell that is known, or None for one that has no function of one unit."""
    return None if "layer_norm" in cell else _FAMILIES[cell.partition("_")[0]](cell, constants)


def _gated(count: int, first: int = 0) -> tuple[Blocks, Blocks, tuple[Blocks, ...]]:
    """The products and biases of gates whose input and recurrent sides are added."""
    chains = tuple(range(count))
    biases = Blocks("bias_ih", chains, first), Blocks("bias_hh", chains, first)
    return Blocks("weight_ih", chains, first), Blocks("weight_hh", chains, first), biases


def _own(name: str, chains: int, count: int) -> tuple[Blocks, ...]:
    """Parameters of the unit's own, behind so many chains."""
    return (Blocks(name, tuple(range(chains, chains + count))),) if count else ()


def chosen(constants: Mapping[str, float], letter: str, bound: float = float("inf")) -> Function:
    """The chosen function `letter` of pre-activations within +-bound."""
    function = CORE_NAMES[int(constants[letter])]
    alpha, beta = constants[f"{letter}_alpha"], constants[f"{letter}_beta"]
    return lambda a: _apply(function, alpha, beta, clipped(a, bound))


def _apply(function: str, alpha: float, beta: float, a: str) -> str:
    """An activation of the core of an expression, as an expression."""
    first, second = literal(alpha), literal(beta)
    if function == "scaled_tanh":
        inner = f"rc_tanh({a})" if beta == 1 else f"rc_tanh({second} * {a})"
        return inner if alpha == 1 else f"{first} * {inner}"
    return {
        "affine": f"rc_fma({first}, {a}, {second})",
        "sigmoid": f"rc_sigmoid({a})",
        "thresholded_relu": f"rc_relu({first}, {a})",
        "leaky_relu": f"rc_leaky_relu({first}, {a})",
        "elu": f"rc_elu({first}, {a})",
        "hard_sigmoid": f"rc_max(0.0f, rc_min(1.0f, rc_fma({first}, {a}, {second})))",
        "softsign": f"{a} / (1.0f + rc_abs({a}))",
        "softplus": f"rc_softplus({a})",
    }[function]


def clipped(a: str, bound: float) -> str:
    """Within +-bound, as an expression."""
    return a if bound == float("inf") else f"rc_clip({a}, {literal(bound)})"


def _sigmoid(a: str) -> str:
    return f"rc_sigmoid({a})"


def _tanh(a: str) -> str:
    return f"rc_tanh({a})"


def _rnn(cell: str, constants: Mapping[str, float]) -> tuple[Phase, ...]:
    use = {"rnn_tanh": _tanh, "rnn_sigmoid": _sigmoid, "rnn_relu": lambda a: f"rc_relu(0.0f, {a})"}.get(cell)
    use = use or chosen(constants, "f", constants["clip"])
    within = cell in ("rnn_tanh", "rnn_sigmoid")
    return (Phase(1, *_gated(1), (), use("a0"), unit_range=within),)


def _lstm(cell: str, constants: Mapping[str, float]) -> tuple[Phase, ...]:
    general = "general" in cell
    f: Function = _sigmoid
    g: Function = _tanh
    h: Function = _tanh
    if general:
        f, g = (chosen(constants, letter, constants["clip"]) for letter in "fg")
        h = chosen(constants, "h")
    i_from_f, f_from_i, peephole = "coupled" in cell, "f_from_i" in cell, "peephole" in cell
    gates = 3 if i_from_f or f_from_i else 4

    def peep(gate: int, which: int, c: str) -> str:
        return f"rc_fma(v[{which}], {c}, a{gate})" if peephole else f"a{gate}"

    def declare(name: str, value: str) -> str:
        return f"const float {name} = {value};"

    if gates == 4:
        statements = [declare("ai", peep(0, 0, "c[u]")), declare("af", peep(1, 1, "c[u]"))]
        statements += [declare("i", f("ai")), declare("f", f("af"))]
    else:
        own, other = ("f", "i") if i_from_f else ("i", "f")
        statements = [declare(f"a{own}", peep(0, 0, "c[u]")), declare(own, f(f"a{own}"))]
        plain = not general or CORE_NAMES[int(constants["f"])] == "sigmoid"
        statements.append(declare(other, f(f"-a{own}") if plain else f"1.0f - {own}"))
    statements.append(declare("g", g(f"a{gates - 2}")))
    statements.append(f"c[u] = {clipped('rc_fma(f, c[u], i * g)', constants['cell_clip'])};")
    statements += [declare("ao", peep(gates - 1, gates - 2, "c[u]")), declare("o", f("ao"))]
    count = gates - 1 if peephole else 0
    weight_ih, weight_hh, biases = _gated(gates)
    biases = (*biases, *_own("weight_peep", gates, count))
    result = f"o * {_factor(h('c[u]'))}"
    phase = Phase(gates, weight_ih, weight_hh, biases, tuple(statements), result, count, not general)
    if "projected" not in cell:
        return (phase,)
    return phase, Phase(1, None, Blocks("weight_hr", (0,)), (Blocks("bias_hr", (0,)),), (), "a0", projects=True)


def _factor(expression: str) -> str:
    """An expression as a factor of a product."""
    return f"({expression})" if " " in expression else expression


def _update(cell: str, z: str) -> str:
    """fma(z, p, (1 - z) q): see gru.h."""
    return f"rc_fma({z}, n, (1.0f - {z}) * h[u])" if "write" in cell else f"rc_fma({z}, h[u], (1.0f - {z}) * n)"


def _gru(cell: str, constants: Mapping[str, float]) -> tuple[Phase, ...]:
    within = "general" not in cell
    f: Function = _sigmoid
    g: Function = _tanh
    if not within:
        f, g = (chosen(constants, letter, constants["clip"]) for letter in "fg")
    gates = f"const float r = {f('a0')}, z = {f('a1')};"
    if "before" not in cell:
        source = Blocks("weight_hh", (0, 1, 3))
        biases = Blocks("bias_ih", (0, 1, 2)), Blocks("bias_hh", (0, 1, 3))
        statements = (gates, "const float an = rc_fma(r, a3, a2);", f"const float n = {g('an')};")
        return (Phase(4, Blocks("weight_ih", (0, 1, 2)), source, biases, statements, _update(cell, "z"), 0, within),)
    reset = Phase(2, *_gated(2), (f"const float r = {f('a0')};", f"z[u] = {f('a1')};"), "r * h[u]", 0, within, ("z",))
    return reset, Phase(1, *_gated(1, 2), (f"const float n = {g('a0')};",), _update(cell, "z[u]"), 0, within)


def _multiplicative(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    at_output = cell.endswith("paper_output")
    factors = Phase(2, Blocks("weight_mx", (0,)), Blocks("weight_mh", (1,)), (), (), "a0 * a1")
    statements = [
        "const float i = rc_sigmoid(a0), f = rc_sigmoid(a1), o = rc_sigmoid(a3);",
        f"const float g = {'a2' if 'paper' in cell else 'rc_tanh(a2)'};",
        "c[u] = rc_fma(f, c[u], i * g);",
    ]
    result = "o * rc_tanh(c[u])"
    if "paper" in cell:
        result = "rc_tanh(rc_fma(c[u], o, v[0]))" if at_output else "rc_tanh(c[u] * o)"
    weights = Blocks("weight_ih", (0, 1, 2, 3)), Blocks("weight_hh", (0, 1, 2, 3))
    biases = (Blocks("bias_ih", (0, 1, 4 if at_output else 2, 3)),)
    return factors, Phase(4, *weights, biases, tuple(statements), result, int(at_output), True)


def _differential(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    orders = [int(digit) for digit in cell.rpartition("_")[2]]
    statements = ["float ai = a0, af = a1, ao = a3;"]
    for k, n in enumerate(orders):
        statements.append(f"ai = rc_fma(v[{3 * k}], d{n}[u], ai), af = rc_fma(v[{3 * k + 1}], d{n}[u], af);")
    statements += [
        "const float i = rc_sigmoid(ai), f = rc_sigmoid(af), g = rc_tanh(a2);",
        "const float new0 = rc_fma(f, d0[u], i * g);",
        *(f"const float new{n} = new{n - 1} - d{n - 1}[u];" for n in range(1, orders[-1] + 1)),
        *(f"ao = rc_fma(v[{3 * k + 2}], new{n}, ao);" for k, n in enumerate(orders)),
        *(f"d{n}[u] = new{n};" for n in range(orders[-1] + 1)),
    ]
    count, (weight_ih, weight_hh, biases) = 3 * len(orders), _gated(4)
    biases = (*biases, *_own("weight_dos", 4, count))
    result = "rc_sigmoid(ao) * rc_tanh(new0)"
    return (Phase(4, weight_ih, weight_hh, biases, tuple(statements), result, count, True),)


def _inputs(count: int) -> tuple[Blocks, None, tuple[Blocks, ...]]:
    """Products and biases of gates that see no other unit."""
    chains = tuple(range(count))
    return Blocks("weight_ih", chains), None, (Blocks("bias_ih", chains),)


def _indrnn(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    a = "rc_fma(v[0], h[u], a0)"
    result = f"rc_tanh({a})" if cell.endswith("tanh") else f"rc_relu(0.0f, {a})"
    weight_ih, none, biases = _inputs(1)
    return (Phase(1, weight_ih, none, (*biases, *_own("weight_u", 1, 1)), (), result, 1),)


def _min(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    lstm, positive = cell.startswith("min_lstm"), cell.endswith("positive")
    candidate = "a2" if lstm else "a1"
    n = f"const float n = {f'rc_positive({candidate})' if positive else candidate};"
    if not lstm:
        update = ("const float z = rc_sigmoid(a0), kept = rc_sigmoid(-a0);", n)
        return (Phase(2, *_inputs(2), update, "rc_fma(z, n, kept * h[u])"),)
    statements = (
        "const float f = rc_sigmoid(a0), i = rc_sigmoid(a1), sum = f + i;",
        n,
        f"const int tiny = sum < {literal(1e-30)};",
        "const float p = tiny ? rc_sigmoid(a0 - a1) : f / sum, q = tiny ? rc_sigmoid(a1 - a0) : i / sum;",
    )
    return (Phase(3, *_inputs(3), statements, "rc_fma(p, h[u], q * n)"),)


def _sru(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    statements = (
        "const float f = rc_sigmoid(rc_fma(v[0], c[u], a1)), r = rc_sigmoid(rc_fma(v[1], c[u], a2));",
        "c[u] = rc_fma(f, c[u], (1.0f - f) * a0);",
    )
    g = "rc_tanh(c[u])" if cell.endswith("tanh") else "c[u]"
    biases = (Blocks("bias_ih", (1, 2)), *_own("weight_v", 4, 2))
    result = f"rc_fma(r, {g}, (1.0f - r) * a3)"
    return (Phase(4, Blocks("weight_ih", (0, 1, 2, 3)), None, biases, statements, result, 2),)


def _slstm(cell: str, _: Mapping[str, float]) -> tuple[Phase, ...]:
    log_f = "a1" if cell.endswith("exp") else "-rc_softplus(-a1)"
    statements = (
        f"const float before = m[u] + {_factor(log_f)};",
        "const float most = n[u] < 0.0f || n[u] > 0.0f ? rc_max(a0, before) : a0;",
        "const float i = rc_exp(a0 - most), f = rc_exp(before - most), z = rc_tanh(a2), o = rc_sigmoid(a3);",
        "c[u] = rc_fma(f, c[u], i * z), n[u] = rc_fma(f, n[u], i), m[u] = most;",
    )
    return (Phase(4, *_gated(4), statements, "o * (c[u] / n[u])"),)


_FAMILIES: dict[str, Callable[[str, Mapping[str, float]], tuple[Phase, ...]]] = {
    "rnn": _rnn,
    "lstm": _lstm,
    "gru": _gru,
    "multiplicative": _multiplicative,
    "differential": _differential,
    "indrnn": _indrnn,
    "min": _min,
    "sru": _sru,
    "slstm": _slstm,
}
