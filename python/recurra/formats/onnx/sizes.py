"""Sizes of axes that a file leaves open: polynomials with whole coefficients, for example 2*B*T."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..unsupported import UnsupportedModel

__all__ = ["Extent", "Size", "divided", "product", "same"]


class Size:
    """A size that depends on the time or the batch of a call. Constant ones are plain ints, never of this class."""

    __slots__ = ("terms",)
    terms: dict[tuple[str, ...], int]

    def __init__(self, terms: dict[tuple[str, ...], int]) -> None:
        self.terms = terms

    @staticmethod
    def variable(name: str) -> Size:
        """The size of one axis."""
        return Size({(name,): 1})

    def __add__(self, other: Any) -> Extent:
        terms = dict(self.terms)
        for names, factor in _terms(other).items():
            terms[names] = terms.get(names, 0) + factor
        return _plain(terms)

    def __mul__(self, other: Any) -> Extent:
        terms: dict[tuple[str, ...], int] = {}
        for ours, factor in self.terms.items():
            for theirs, other_factor in _terms(other).items():
                names = tuple(sorted(ours + theirs))
                terms[names] = terms.get(names, 0) + factor * other_factor
        return _plain(terms)

    def __neg__(self) -> Extent:
        return self.__mul__(-1)

    def __sub__(self, other: Any) -> Extent:
        return self.__add__(-other)

    def __rsub__(self, other: Any) -> Extent:
        negative: Any = self.__mul__(-1)
        total: Extent = negative + other
        return total

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Any) -> Extent:
        quotient = divided(self, other)
        if quotient is None:
            raise UnsupportedModel(f"expected a size that does not depend on a call, got {self} / {other}")
        return quotient

    def __int__(self) -> int:
        raise UnsupportedModel(f"expected a size that does not depend on a call, got {self}")

    __index__ = __int__

    def __repr__(self) -> str:
        return " + ".join("*".join(map(str, [f, *n] if f != 1 or not n else n)) for n, f in self.terms.items())


Extent: TypeAlias = int | Size


def _terms(value: Any) -> dict[tuple[str, ...], int]:
    return value.terms if isinstance(value, Size) else {(): int(value)}


def _plain(terms: dict[tuple[str, ...], int]) -> Extent:
    terms = {names: factor for names, factor in terms.items() if factor}
    return terms.get((), 0) if set(terms) <= {()} else Size(terms)


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal at every call.

    Raises:
        UnsupportedModel: they are at some calls.
    """
    difference = a - b
    if not isinstance(difference, Size):
        return bool(difference == 0)
    signs = {factor > 0 for factor in difference.terms.values()}
    if () in difference.terms and len(signs) == 1:
        return False  # of T + 1 and 0, for example
    raise UnsupportedModel(f"expected sizes that do not depend on a call, got a comparison of {a} with {b}")


def product(sizes: Any) -> Extent:
    """Of all sizes."""
    result: Extent = 1
    for size in sizes:
        result = result * size
    return result


def divided(a: Extent, b: Extent) -> Extent | None:
    """a / b where that is whole at every call."""
    if not isinstance(a, Size) and not isinstance(b, Size):
        return a // b if b and a % b == 0 else None
    (names, factor), *more = _terms(b).items() or [((), 0)]
    if more or not factor:
        return None
    quotient = {}
    for ours, ours_factor in _terms(a).items():
        left = list(ours)
        for name in names:
            if name not in left:
                return None
            left.remove(name)
        if ours_factor % factor:
            return None
        quotient[tuple(left)] = ours_factor // factor
    return _plain(quotient)
