"""A policy as a flat list of array operations: what is between a jaxpr and source code.

All floats have one type (`Program.real`). What is known when the program is built stands in `Value.const`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES = ("float32", "float64")
LONGEST_LABEL = 80
Shape = tuple[Any, ...]  # of int, or of a symbolic size where the batch is one


@dataclass(eq=False)
class Value:
    """An array. ``low`` and ``high`` bound an integer, which proves that an index lies inside."""

    shape: Shape
    dtype: Any  # a numpy dtype; a key's dtype where it is one
    const: np.ndarray | None = None
    node: Node | None = None
    low: float = -math.inf
    high: float = math.inf

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def real(self) -> bool:
        return isinstance(self.dtype, np.dtype) and self.dtype.kind == "f"

    @property
    def boolean(self) -> bool:
        return isinstance(self.dtype, np.dtype) and self.dtype.kind == "b"


@dataclass(eq=False)
class Node:
    """``out = op(*args)``; ``op`` and ``params`` are named as in JAX, after `rlx.export.build` made them few."""

    op: str
    args: tuple[Value, ...]
    out: Value
    params: dict[str, Any] = field(default_factory=dict)


def label(name: str) -> str:
    """``name`` as text that neither ends a comment or a docstring nor begins an escape: one line of plain characters."""
    plain = "".join(c if " " <= c <= "~" else "?" for c in name)
    for code, text in (("\\", "|"), ('"', "'"), ("*/", "* |"), ("/*", "| *")):
        plain = plain.replace(code, text)
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 3] + "..."


@dataclass(frozen=True, eq=False)
class Program:
    """``action [W, m] = f(obs [W, n])`` as nodes in order, each of which is needed."""

    name: str  # goes into comments of what is written: see `label`
    inputs: tuple[Value, ...]  # the first is obs
    action: Value
    nodes: tuple[Node, ...]
    real: np.dtype

    @property
    def obs(self) -> Value:
        return self.inputs[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """n, m."""
        return self.obs.shape[1], self.action.shape[1]

    def constants(self) -> Iterator[Value]:
        """Each constant that a node or the action reads, once."""
        seen: set[int] = set()
        for value in [*(a for node in self.nodes for a in node.args), self.action]:
            if value.const is not None and id(value) not in seen:
                seen.add(id(value))
                yield value


def needed(action: Value) -> tuple[Node, ...]:
    """What ``action`` depends on, in an order in which it can be computed."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Value, bool]] = [(action, False)]
    while stack:
        value, ready = stack.pop()
        if value.node is None or value.const is not None:
            continue
        if ready:
            order.append(value.node)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((a, False) for a in reversed(value.node.args))
    return tuple(order)


def fixed(shape: Shape) -> bool:
    """Whether all sizes are numbers."""
    return all(isinstance(n, (int, np.integer)) for n in shape)


def real_dtype(dtype: str) -> np.dtype:
    """The numpy type of all floats of a program.

    Raises:
        ValueError: it is none of `DTYPES`.
    """
    if str(dtype) not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is unknown; give one of {', '.join(DTYPES)}.")
    return np.dtype(dtype)
