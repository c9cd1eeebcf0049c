"""The five booleans of a row as the bits of one byte: one array to write and to gather instead of five."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.types import Array, Row

TERMINATED, TRUNCATED, FIRST, VALID = 1, 2, 4, 8
LAST = 16  # the border of an episode: stays where it is when `relabel` changes what terminated
NAMES = ("terminated", "truncated", "first", "valid")  # the fields of a row that are kept as bits


def pack(row: Row) -> Array:
    """uint8 of the shape of ``row.reward``."""
    bits = zip((row.terminated, row.truncated, row.first, row.valid, row.last), (1, 2, 4, 8, 16), strict=True)
    return sum(x.astype(np.uint8) * np.uint8(bit) for x, bit in bits)


def has(flags: Array, bit: int) -> Array:
    """Whether ``bit`` is set."""
    return (flags & np.uint8(bit)) > 0


def put(flags: Array, bit: int, on: Array) -> Array:
    """``flags`` with ``bit`` as ``on`` says."""
    return (flags & np.uint8(255 - bit)) | on.astype(np.uint8) * np.uint8(bit)


def unpack(flags: Array) -> dict[str, Array]:
    """The fields of a row, bool, by name."""
    return {name: has(flags, 1 << i) for i, name in enumerate(NAMES)}


def without(row: Row) -> Row:
    """What is stored besides the bits."""
    nothing: Any = ()
    return row._replace(**dict.fromkeys(NAMES, nothing))
