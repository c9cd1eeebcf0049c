"""Indices of arrays in C: sums of loop variables times numbers; and the tables of constants that they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlx.export import c_ops
from rlx.export.ir import Value

LINE = 118


@dataclass(frozen=True)
class Index:
    """``start + sum(times * name)``."""

    start: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Index | int) -> Index:
        other = other if isinstance(other, Index) else Index(int(other))
        terms = dict(self.terms)
        for name, times in other.terms:
            terms[name] = terms.get(name, 0) + times
        return Index(self.start + other.start, tuple((n, t) for n, t in terms.items() if t))

    def __mul__(self, factor: int) -> Index:
        terms = tuple((n, t * int(factor)) for n, t in self.terms) if factor else ()
        return Index(self.start * int(factor), terms)

    def __str__(self) -> str:
        written = ""
        for name, times in self.terms:
            part = name if abs(times) == 1 else f"{abs(times)} * {name}"
            written += (" - " if times < 0 else " + ") + part if written else ("-" if times < 0 else "") + part
        if not written:
            return str(self.start)
        return written + (f" {'-' if self.start < 0 else '+'} {abs(self.start)}" if self.start else "")

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.terms}


def linear(index: Sequence[Index], shape: Sequence[int]) -> Index:
    """Where an element lies in memory, row by row."""
    found = Index()
    for i, n in zip(index, shape, strict=True):
        found = found * n + (i if n != 1 else i * 0)
    return found


@dataclass(eq=False)
class Tables:
    """Constant arrays as ``static const`` tables.

    Axes along which nothing changes are dropped, and the rest laid out as the loops that read them run.
    """

    prefix: str
    texts: list[str] = field(default_factory=list)
    stored: int = 0  # bytes
    _names: dict[tuple[bytes, str], str] = field(default_factory=dict)
    _orders: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _packed: dict[int, tuple[np.ndarray, list[int]]] = field(default_factory=dict)
    _alive: list[Value] = field(default_factory=list)  # so that an id stays that of its value

    def read(self, value: Value, index: Sequence[Index], loops: Sequence[str]) -> str:
        """The element of a constant at ``index``, inside ``loops``, the outermost first."""
        array, axes = self._pack(value)
        used = [index[axis] for axis in axes]
        if not axes:
            return c_ops.literal(array.flat[0], array.dtype)
        if all(not i.terms for i in used):
            return c_ops.literal(array[tuple(i.start for i in used)], array.dtype)
        line = self._line(array)
        if line is not None:
            return f"({used[0] * line[1] + line[0]})"
        depth = {name: k for k, name in enumerate(loops)}  # what is computed first, then what is written out, then loops
        order = tuple(sorted(range(len(axes)), key=lambda k: (max((depth.get(n, -2) for n in used[k].names), default=-1), k)))
        if array.nbytes > 4096:  # one copy of what is large
            order = self._orders.setdefault(id(value), order)
        name = self._name(np.ascontiguousarray(np.transpose(array, order)))
        return f"{name}[{linear([used[k] for k in order], [array.shape[k] for k in order])}]"

    def _pack(self, value: Value) -> tuple[np.ndarray, list[int]]:
        """Without the axes along which nothing changes; and the axes that are left."""
        if id(value) not in self._packed:
            array, axes = value.const, []
            assert array is not None
            for axis in range(array.ndim):
                first = array.take([0], axis)
                if array.shape[axis] > 1 and not np.array_equal(array, np.broadcast_to(first, array.shape), _nan(array)):
                    axes.append(axis)
                else:
                    array = first
            self._packed[id(value)] = array.reshape([array.shape[axis] for axis in axes]), axes
            self._alive.append(value)
        return self._packed[id(value)]

    def _line(self, array: np.ndarray) -> tuple[int, int] | None:
        """Start and step of integers that go up evenly: they need no table."""
        if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) < 2:
            return None
        steps = np.diff(array.astype(np.int64))
        return (int(array[0]), int(steps[0])) if (steps == steps[0]).all() else None

    def _name(self, array: np.ndarray) -> str:
        key = (array.tobytes(), array.dtype.str)
        if key not in self._names:
            self._names[key] = name = f"{self.prefix}_t{len(self._names)}"
            self.stored += array.nbytes
            shape = " x ".join(str(n) for n in array.shape)
            kind = c_ops.ctype(array.dtype)
            numbers = _lines([c_ops.literal(x, array.dtype).strip("()") for x in array.reshape(-1)])
            self.texts.append(f"/* {shape} */\nstatic const {kind} {name}[{array.size}] = {{\n{numbers}\n}};\n")
        return self._names[key]


def _nan(array: np.ndarray) -> Any:
    return array.dtype.kind == "f"


def _lines(words: list[str]) -> str:
    lines, line = [], " "
    for word in words:
        if len(line) + len(word) + 2 > LINE:
            lines.append(line)
            line = " "
        line += f" {word},"
    return "\n".join([*lines, line])
