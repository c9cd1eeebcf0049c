"""Small truths about nodes: which change nothing, and between which bounds integers lie."""

from __future__ import annotations

import math

import numpy as np

from rlx.export.ir import Node, Value, fixed

Bounds = tuple[float, float]


def known(array: np.ndarray) -> Value:
    """A constant, with its bounds where it is of integers."""
    value = Value(array.shape, array.dtype, array)
    if array.dtype.kind in "iu" and array.size:
        value.low, value.high = int(array.min()), int(array.max())
    return value


def same(node: Node) -> Value | None:
    """The argument that ``node`` gives back as it is, if it does."""
    if not node.args:
        return None
    x, shape, params = node.args[0], node.out.shape, node.params
    if node.op == "select_n":
        broadcast = x.node is not None and x.node.op == "broadcast_in_dim"
        which = x.node.args[0].const if broadcast and x.node is not None else x.const
        if which is None or not which.size or not (which == which.flat[0]).all():
            return None
        return node.args[1 + int(which.flat[0])] if 0 <= int(which.flat[0]) < len(node.args) - 1 else None
    if x.shape != shape:
        return None
    if node.op == "transpose" and tuple(params["permutation"]) == tuple(range(len(shape))):
        return x
    if node.op == "broadcast_in_dim" and tuple(params["broadcast_dimensions"]) == tuple(range(len(shape))):
        return x
    whole = node.op == "slice" and not any(params["start_indices"]) and set(params["strides"] or ()) <= {1}
    return x if whole or node.op == "reshape" else None


def bound(node: Node) -> bool | None:
    """Sets the bounds of ``node.out`` where it is of integers. For a comparison that always goes one way: which."""
    op, args, out = node.op, node.args, node.out
    if op in ("lt", "le", "gt", "ge") and all(_integer(a) for a in args):
        (a, b) = args if op in ("lt", "le") else args[::-1]
        strict = op in ("lt", "gt")
        if a.high < b.low or (not strict and a.high <= b.low):
            return True
        return False if a.low > b.high or (strict and a.low >= b.high) else None
    if _integer(out):
        low, high = _bounds(node)
        info = np.iinfo(out.dtype)
        inside = info.min <= low and high <= info.max  # else it may have wrapped around
        out.low, out.high = (low, high) if inside else (-math.inf, math.inf)
    return None


def _integer(value: Value) -> bool:
    return isinstance(value.dtype, np.dtype) and value.dtype.kind in "iu"


def _bounds(node: Node) -> Bounds:
    op, args = node.op, node.args
    lows, highs = [a.low for a in args], [a.high for a in args]
    if op in ("argmax", "argmin"):
        sizes = [args[0].shape[axis] for axis in node.params["axes"]]
        return (0, math.prod(sizes) - 1) if fixed(tuple(sizes)) else (0, math.inf)
    if op == "iota":
        n = node.out.shape[node.params["dimension"]]
        return (0, n - 1) if fixed((n,)) else (0, math.inf)
    if op == "convert_element_type":
        return (0, 1) if args[0].boolean else (lows[0], highs[0]) if _integer(args[0]) else (-math.inf, math.inf)
    if op in (
        "reshape",
        "broadcast_in_dim",
        "transpose",
        "slice",
        "rev",
        "gather",
        "dynamic_slice",
        "reduce_max",
        "reduce_min",
    ):
        filled = op == "gather" and not inside(node)
        return (-math.inf, math.inf) if filled else (lows[0], highs[0])
    if op in ("concatenate", "dynamic_update_slice"):
        return min(lows), max(highs)
    if op == "select_n":
        return min(lows[1:]), max(highs[1:])
    if op == "add":
        return lows[0] + lows[1], highs[0] + highs[1]
    if op == "sub":
        return lows[0] - highs[1], highs[0] - lows[1]
    if op == "max":
        return max(lows), max(highs)
    if op == "min":
        return min(lows), min(highs)
    return -math.inf, math.inf


def inside(node: Node) -> bool:
    """Whether all indices of a gather are known to lie inside, so that neither clamping nor filling is needed."""
    x, index = node.args
    axes = node.params["dimension_numbers"].start_index_map
    limits = [x.shape[axis] - node.params["slice_sizes"][axis] for axis in axes]
    if not fixed(tuple(limits)) or not limits:
        return not limits
    return index.low >= 0 and index.high <= min(limits)
