"""
The compiled engine. It trusts its caller: Python has checked and normalised everything.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["Network", "Stream", "cells", "config", "get_num_threads", "set_num_threads"]

class Network:
    def __init__(
        self,
        cell: str,
        dtype: str,
        input_size: int,
        hidden_size: int,
        output_size: int,
        layers: int,
        directions: int,
        params: list[list[numpy.typing.NDArray[typing.Any] | None]],
        constants: list[float],
    ) -> None: ...
    def forward(
        self,
        x: numpy.typing.NDArray[typing.Any],
        h0: list[numpy.typing.NDArray[typing.Any]] | None,
        lengths: numpy.typing.NDArray[numpy.int64] | None,
        out: numpy.typing.NDArray[typing.Any],
        hn: list[numpy.typing.NDArray[typing.Any]],
    ) -> None: ...
    def stream(self, batch: int, unbatched: bool) -> Stream: ...
    @property
    def weight_bytes(self) -> int: ...

class Stream:
    def get_state(self, states: list[numpy.typing.NDArray[typing.Any]]) -> None: ...
    def reset(self, rows: numpy.typing.NDArray[numpy.int64] | None) -> None: ...
    def run(self, x: numpy.typing.NDArray[typing.Any], out: numpy.typing.NDArray[typing.Any]) -> None: ...
    def set_state(self, states: list[numpy.typing.NDArray[typing.Any]]) -> None: ...
    def step(self, x: typing.Any, out: typing.Any) -> numpy.typing.NDArray[typing.Any] | None: ...

def cells() -> dict[str, dict[str, typing.Any]]: ...
def config() -> dict[str, object]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
