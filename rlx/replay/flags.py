"""The five booleans of a row as the bits of one byte: one array to write and to gather instead of five."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Row

TERMINATED, TRUNCATED, FIRST, VALID = 1, 2, 4, 8
LAST = 16  # the border of an episode: stays where it is when `relabel` changes what terminated
NAMES = ("terminated", "truncated", "first", "valid")  # the fields of a row that are kept as bits


def pack(row: Row) -> Array:
    """uint8 of the shape of ``row.reward``."""
    xp = np if isinstance(row.reward, np.ndarray) else jnp
    bit = lambda on, bits: xp.where(on, np.uint8(bits), np.uint8(0))
    ended = bit(row.terminated, TERMINATED | LAST) | bit(row.truncated, TRUNCATED | LAST)
    return ended | bit(row.first, FIRST) | bit(row.valid, VALID)


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
