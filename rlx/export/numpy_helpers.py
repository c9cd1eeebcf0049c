"""What numpy lacks. The functions that an exported file uses are copied into it, so each needs only numpy, math and its
neighbours named in `NEEDS`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any


def dot_general(a: Array, b: Array, contract: tuple, batch: tuple) -> Array:
    """Sums over the axes ``contract`` of both; the result has the axes ``batch``, then what is left of a, then of b."""
    (ca, cb), (ba, bb) = contract, batch
    fa = [i for i in range(a.ndim) if i not in ca and i not in ba]
    fb = [i for i in range(b.ndim) if i not in cb and i not in bb]
    lead = tuple(a.shape[i] for i in ba)
    left, right = tuple(a.shape[i] for i in fa), tuple(b.shape[i] for i in fb)
    inner = math.prod(a.shape[i] for i in ca)
    a = np.transpose(a, (*ba, *fa, *ca)).reshape(*lead, math.prod(left), inner)
    b = np.transpose(b, (*bb, *cb, *fb)).reshape(*lead, inner, math.prod(right))
    return np.matmul(a, b).reshape(*lead, *left, *right)


def places(index: Array, x_shape: tuple, slots: tuple, dims: tuple, sizes: tuple) -> tuple:
    """Of a gather or scatter: an index array per axis of x, that fit each other; and where all of a window lies inside.

    ``slots`` = (window axes, batch axes) of the result. ``dims`` = (axes of x that windows lack, axes of x that the index
    moves along, batching axes of x, batching axes of the index).
    """
    (window, lead), (dropped, moved, x_batch, i_batch) = slots, dims
    rank = len(window) + len(lead)

    def at(values: Array, axes: tuple) -> Array:
        shape = [1] * rank
        for axis, n in zip(axes, values.shape):  # noqa: B905
            shape[axis] = n
        return values.reshape(shape)

    kept = [d for d in range(len(x_shape)) if d not in dropped and d not in x_batch]
    found = [np.zeros([1] * rank, np.int64) for _ in x_shape]
    for axis, d in zip(window, kept):  # noqa: B905
        found[d] = at(np.arange(sizes[d]), (axis,))
    for d, i in zip(x_batch, i_batch):  # noqa: B905
        found[d] = at(np.arange(index.shape[i]), (lead[i],))
    inside: Array = np.ones([1] * rank, bool)
    for k, d in enumerate(moved):
        start, last = at(index[..., k].astype(np.int64), lead), x_shape[d] - sizes[d]
        inside = inside & (start >= 0) & (start <= last)
        found[d] = found[d] + np.clip(start, 0, last)
    return tuple(found), inside


def gather(x: Array, index: Array, slots: tuple, dims: tuple, sizes: tuple, fill: Any) -> Array:
    """Windows of ``x``. Those that reach outside are moved inside, or hold ``fill`` where it is not None."""
    found, inside = places(index, x.shape, slots, dims, sizes)
    taken = x[found]
    return taken if fill is None else np.where(inside, taken, x.dtype.type(fill))


def scatter(x: Array, index: Array, update: Array, slots: tuple, dims: tuple, how: str, clip: bool) -> Array:
    """``x`` with windows of ``update`` set, added, ... Those that reach outside are moved inside or left out."""
    (window, _), (dropped, _, x_batch, _) = slots, dims
    kept = iter(window)
    sizes = tuple(1 if d in dropped or d in x_batch else update.shape[next(kept)] for d in range(x.ndim))
    found, inside = places(index, x.shape, slots, dims, sizes)
    x = np.array(x)
    there = np.broadcast_to(inside | clip, update.shape)
    found = tuple(np.broadcast_to(f, update.shape)[there] for f in found)
    if how == "set":
        x[found] = update[there]
    else:
        getattr(np, how).at(x, found, update[there])
    return x


def dynamic_slice(x: Array, starts: tuple, sizes: tuple) -> Array:
    at = [int(np.clip(s, 0, n - size)) for s, n, size in zip(starts, x.shape, sizes)]  # noqa: B905
    return x[tuple(slice(s, s + size) for s, size in zip(at, sizes))]  # noqa: B905


def dynamic_update_slice(x: Array, update: Array, starts: tuple) -> Array:
    x = np.array(x)
    at = [int(np.clip(s, 0, n - size)) for s, n, size in zip(starts, x.shape, update.shape)]  # noqa: B905
    x[tuple(slice(s, s + size) for s, size in zip(at, update.shape))] = update  # noqa: B905
    return x


def pad(x: Array, value: Array, config: tuple) -> Array:
    """``config`` = (low, high, interior) per axis; negative numbers cut."""
    for axis, (low, high, interior) in enumerate(config):
        n = x.shape[axis]
        wide = n + max(n - 1, 0) * interior
        shape = list(x.shape)
        shape[axis] = max(low, 0) + wide + max(high, 0)
        out = np.full(shape, value, x.dtype)
        lead = (slice(None),) * axis
        out[(*lead, slice(max(low, 0), max(low, 0) + wide, interior + 1))] = x
        x = out[(*lead, slice(max(-low, 0), shape[axis] - max(-high, 0)))]
    return x


def int_pow(x: Array, n: int) -> Array:
    """``x`` to the power of a number: by repeated squaring."""
    result, square = None, x
    left = abs(n)
    while left:
        if left & 1:
            result = square if result is None else result * square
        left >>= 1
        square = square * square if left else square
    result = np.ones_like(x) if result is None else result
    return result if n >= 0 else 1 / result


def int_div(a: Array, b: Array) -> Array:
    """Integers, rounded towards zero; -1 where b is 0."""
    safe = np.where(b == 0, 1, b)
    q = np.floor_divide(a, safe)
    q = q + ((q < 0) & (q * safe != a))
    return np.where(b == 0, -1, q).astype(a.dtype)


def int_rem(a: Array, b: Array) -> Array:
    """Integers, with the sign of a; a where b is 0."""
    return np.where(b == 0, a, np.fmod(a, np.where(b == 0, 1, b))).astype(a.dtype)


def to_int(x: Array, dtype: str) -> Array:
    """Towards zero; beyond the range its end, and 0 for what is no number."""
    info = np.iinfo(dtype)
    x = np.trunc(np.where(np.isnan(x), 0, x))
    below, above = x <= float(info.min), x >= float(info.max)
    whole = np.where(below | above, 0, x).astype(dtype)
    return np.where(above, info.max, np.where(below, info.min, whole)).astype(dtype)


def round_away(x: Array) -> Array:
    """To the nearest whole number, halves away from zero."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole).astype(x.dtype)


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


def erfc(x: Array) -> Array:
    return np.vectorize(math.erfc, otypes=[np.float64])(x).astype(x.dtype)


ALL: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (dot_general, places, gather, scatter, dynamic_slice, dynamic_update_slice, pad)
}
ALL |= {f.__name__: f for f in (int_pow, int_div, int_rem, to_int, round_away, erf, erfc)}
NEEDS = {"gather": ("places",), "scatter": ("places",)}


def source(names: set[str]) -> str:
    """The text of the helpers ``names`` and of those that they need."""
    wanted = names.union(*(NEEDS.get(name, ()) for name in names)) if names else set()
    return "\n\n\n".join(inspect.getsource(ALL[name]).rstrip() for name in ALL if name in wanted)
