"""Objects that stay as they were made."""

from __future__ import annotations


class Fixed:
    """A layer or head: only its constructor sets attributes, through __dict__, and load_state_dict the parameters. So
    attributes always describe what the core has packed, and many threads may use it at once."""

    def __setattr__(self, name: str, value: object) -> None:
        kind = type(self).__name__
        raise AttributeError(f"{kind} is fixed, cannot set {name!r}; to change parameters, use load_state_dict")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)
