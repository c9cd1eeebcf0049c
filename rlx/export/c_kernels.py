"""The loops that fill what is kept: one function per kind of operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from rlx.export import c_ops
from rlx.export.c_index import Index, linear
from rlx.export.c_plan import CUMULATIVE, FIRSTS, MOVING, REDUCED, SCATTERS, SHORT, inner_size, leaves
from rlx.export.c_writer import Indices, Writer, operands
from rlx.export.ir import Node, Value
from rlx.export.numpy_ops import filling, windows

WIDE = 8  # results side by side, from which on sums run over them rather than one by one
LANES = 8  # partial sums of a single one


def emit(w: Writer) -> None:
    """All of the law, in order."""
    program = w.program
    for node in program.nodes:
        if node.op in MOVING and not w.plan.holds(node.out):
            _place_once(w, node)
        elif w.plan.holds(node.out):
            KERNELS.get(node.op, _each)(w, node)
    if program.action.node is None:  # the observation itself, or constant
        with w.nest(program.action.shape) as index:
            w.line(f"action[{linear(index, program.action.shape)}] = {w.at(program.action, index)};")


def _place_once(w: Writer, node: Node) -> None:
    """Where a window begins, found before all loops if it is the same for all."""
    lead = () if node.op == "dynamic_slice" else windows(node)[0][1]
    if all(node.out.shape[axis] == 1 for axis in lead):
        w.starts(node, tuple(Index() for _ in lead))


def _each(w: Writer, node: Node) -> None:
    """Element by element."""
    with w.nest(node.out.shape) as index:
        w.store(node.out, index, w.define(node, index))


def _fill(w: Writer, value: Value, text: str) -> None:
    place = w.plan.places[id(value)]
    with w.loop(value.size) as i:
        w.line(f"{place.name}[{i}] = {text};")


def _slot(w: Writer, value: Value, index: Sequence[Index]) -> str:
    return f"{w.plan.places[id(value)].name}[{linear(index, value.shape)}]"


# ------------------------------------------------------------------------------------------------------------------- sums


def _dot(w: Writer, node: Node) -> None:
    """A sum of products: over the results side by side where there are many, else with partial sums."""
    if inner_size(node) <= SHORT:
        return _each(w, node)
    left, right = node.args
    contract, batch = node.params["dimension_numbers"]
    sums = [left.shape[axis] for axis in contract[0]]
    n_batch, n_right = len(batch[0]), len(right.shape) - len(batch[1]) - len(contract[1])
    shape = node.out.shape
    middle = len(shape) - n_right
    inner = range(middle, len(shape)) if math.prod(shape[middle:]) > 1 else range(n_batch, middle)
    outer = [axis for axis in range(len(shape)) if axis not in inner]
    if math.prod(shape[axis] for axis in inner) >= WIDE and w.plan.places[id(node.out)].size > 1:
        return _side_by_side(w, node, outer, list(inner), sums)
    return _one_by_one(w, node, sums)


def _side_by_side(w: Writer, node: Node, outer: list[int], inner: list[int], sums: list[int]) -> None:
    """``out[j] += a[k] * b[k][j]`` for all j, for four k at a time."""
    shape = node.out.shape
    long = max(range(len(sums)), key=lambda k: sums[k])
    whole = sums[long] - sums[long] % 4
    _fill(w, node.out, c_ops.literal(0, node.out.dtype))
    right_moves = inner[0] >= len(shape) - (len(node.args[1].shape) - sum(len(p[1]) for p in node.params["dimension_numbers"]))
    with ExitStack() as stack:
        place: dict[int, Index] = {axis: stack.enter_context(w.loop(shape[axis])) for axis in outer}
        rest = {k: stack.enter_context(w.loop(n)) for k, n in enumerate(sums) if k != long}

        def add(first: Index, count: int) -> None:
            steps = [[{**rest, long: first + u}[k] for k in range(len(sums))] for u in range(count)]
            still = [operands(node, _full(shape, place, {}), step)[0 if right_moves else 1] for step in steps]
            kind = c_ops.ctype(node.out.dtype)
            scales = [w.temp(kind, w.at(node.args[0 if right_moves else 1], index)) for index in still]
            with w.nest([shape[axis] for axis in inner]) as moving:
                index = _full(shape, place, dict(zip(inner, moving, strict=True)))
                parts = []
                for scale, step in zip(scales, steps, strict=True):
                    other = operands(node, index, step)[1 if right_moves else 0]
                    parts.append(f"{scale} * {w.at(node.args[1 if right_moves else 0], other)}")
                w.line(f"{_slot(w, node.out, index)} += {' + '.join(parts)};")

        if whole:
            with w.loop(whole, step=4) as first:
                add(first, 4)
        for k in range(whole, sums[long]):
            add(Index(k), 1)


def _full(shape: Sequence[int], *parts: dict[int, Index]) -> Indices:
    known = {axis: index for part in parts for axis, index in part.items()}
    return tuple(known.get(axis, Index()) for axis in range(len(shape)))


def _one_by_one(w: Writer, node: Node, sums: list[int]) -> None:
    """A few results: each from partial sums, which can run side by side."""
    kind, zero = c_ops.ctype(node.out.dtype), c_ops.literal(0, node.out.dtype)
    long = max(range(len(sums)), key=lambda k: sums[k])
    whole = sums[long] - sums[long] % LANES
    with w.nest(node.out.shape) as index:
        parts = w.new("p")
        w.line(f"{kind} {parts}[{LANES}] = {{{zero}}};")

        def add(at: Index, lane: str) -> None:
            with ExitStack() as inside:
                rest = {k: inside.enter_context(w.loop(n)) for k, n in enumerate(sums) if k != long}
                pair = operands(node, index, [{**rest, long: at}[k] for k in range(len(sums))])
                a, b = (w.at(x, place) for x, place in zip(node.args, pair, strict=True))
                w.line(f"{parts}[{lane}] += {a} * {b};")

        if whole:
            with w.loop(whole, step=LANES) as first, w.loop(LANES) as lane:
                add(first + lane, str(lane))
        for k in range(whole, sums[long]):
            add(Index(k), str(k - whole))
        halves = [f"({parts}[{k}] + {parts}[{k + LANES // 2}])" for k in range(LANES // 2)]
        w.store(node.out, index, " + ".join(halves))


# -------------------------------------------------------------------------------------------------------------- reductions


def _reduce(w: Writer, node: Node) -> None:
    """Over results side by side where they are many and nothing large is read in another order, else one by one."""
    x, axes = node.args[0], [int(axis) for axis in node.params["axes"]]
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    many = math.prod(x.shape[axis] for axis in kept) >= WIDE
    ordered = not kept or max(axes) < min(kept)
    read = leaves(w.program, w.plan, node)
    if many and node.out is not w.program.action and (ordered or all(v.size < x.size for v in read)):
        _fill(w, node.out, _start(node))
        with w.nest([x.shape[axis] for axis in axes]) as over, w.nest([x.shape[axis] for axis in kept]) as place:
            text = w.at(x, _merge(len(x.shape), axes, over, kept, place))
            slot = _slot(w, node.out, place)
            w.line(f"{slot} = {_join(w, node, slot, text)};")
        return
    with w.nest([x.shape[axis] for axis in kept]) as place:
        total = w.new("r")
        w.line(f"{c_ops.ctype(node.out.dtype, single=True)} {total} = {_start(node)};")
        with w.nest([x.shape[axis] for axis in axes]) as over:
            text = w.at(x, _merge(len(x.shape), axes, over, kept, place))
            w.line(f"{total} = {_join(w, node, total, text)};")
        w.store(node.out, place, total)


def _merge(rank: int, axes: list[int], over: Indices, kept: list[int], place: Indices) -> Indices:
    known = dict(zip(axes, over, strict=True)) | dict(zip(kept, place, strict=True))
    return tuple(known[axis] for axis in range(rank))


def _start(node: Node) -> str:
    dtype, what = node.out.dtype, node.op.removeprefix("reduce_").removeprefix("cum")
    if what in ("max", "min"):
        if dtype.kind == "f":
            return c_ops.literal(-math.inf if what == "max" else math.inf, dtype)
        if dtype.kind == "b":
            return "0" if what == "max" else "1"
        return c_ops.literal(getattr(np.iinfo(dtype), "min" if what == "max" else "max"), dtype)
    return c_ops.literal(1 if what in ("prod", "and") else 0, dtype)


def _join(w: Writer, node: Node, total: str, text: str) -> str:
    what, out = node.op.removeprefix("reduce_").removeprefix("cum"), node.out
    if what in ("max", "min") and out.real:
        return f"{w.expressions.helper(what, out.dtype)}({total}, {text})"
    if what in ("max", "min"):
        return f"{total} {'>' if what == 'max' else '<'} {text} ? {total} : {text}"
    return f"{total} {({'sum': '+', 'prod': '*', 'and': '&', 'or': '|'})[what]} {text}"


def _first(w: Writer, node: Node) -> None:
    """The first index of the largest or smallest; of a NaN where there is one."""
    x, axis = node.args[0], int(node.params["axes"][0])
    kept = [k for k in range(len(x.shape)) if k != axis]
    kind = c_ops.ctype(x.dtype, single=True)
    with w.nest([x.shape[k] for k in kept]) as place:
        best, at = w.new("b"), w.new("k")
        zero = w.at(x, _merge(len(x.shape), [axis], (Index(),), kept, place))
        w.line(f"{kind} {best} = {zero};")
        w.line(f"int {at} = 0;")
        if x.shape[axis] > 1:
            with w.loop(x.shape[axis], start=1, step=1) as i:
                text = w.temp(kind, w.at(x, _merge(len(x.shape), [axis], (i,), kept, place)))
                test = f"{text} {'>' if node.op == 'argmax' else '<'} {best}"
                test += f" || ({text} != {text} && {best} == {best})" if x.real else ""
                w.line(f"if ({test}) {{ {best} = {text}; {at} = {i}; }}")
        else:
            w.line(f"(void){best};")
        w.store(node.out, place, at)


def _cumulate(w: Writer, node: Node) -> None:
    x, axis = node.args[0], node.params["axis"]
    kept = [k for k in range(len(x.shape)) if k != axis]
    with w.nest([x.shape[k] for k in kept]) as place:
        total = w.new("r")
        w.line(f"{c_ops.ctype(node.out.dtype, single=True)} {total} = {_start(node)};")
        with w.loop(x.shape[axis], down=bool(node.params["reverse"])) as i:
            index = _merge(len(x.shape), [axis], (i,), kept, place)
            w.line(f"{total} = {_join(w, node, total, w.at(x, index))};")
            w.store(node.out, index, total)


# ------------------------------------------------------------------------------------------------------------------ blocks


def _concatenate(w: Writer, node: Node) -> None:
    axis, offset = node.params["dimension"], 0
    for x in node.args:
        if x.size:
            with w.nest(x.shape) as index:
                moved = tuple(i + offset if k == axis else i for k, i in enumerate(index))
                w.store(node.out, moved, w.at(x, index))
        offset += x.shape[axis]


def _pad(w: Writer, node: Node) -> None:
    x, value = node.args
    _fill(w, node.out, w.at(value, ()))
    config = node.params["padding_config"]
    first, last = [], []
    for n, size, (low, _, interior) in zip(node.out.shape, x.shape, config, strict=True):
        step = interior + 1
        first.append(max(0, -(low // step)))  # the first that stays inside: low + k step >= 0
        last.append(min(size, (n - 1 - low) // step + 1))
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return
    with ExitStack() as stack:
        index = [stack.enter_context(w.loop(b, start=a)) for a, b in zip(first, last, strict=True)]
        moved = tuple(i * (interior + 1) + low for i, (low, _, interior) in zip(index, config, strict=True))
        w.store(node.out, moved, w.at(x, index))


def _copy(w: Writer, node: Node) -> None:
    with w.nest(node.out.shape) as index:
        w.store(node.out, index, w.at(node.args[0], index))


def _update(w: Writer, node: Node) -> None:
    _copy(w, node)
    starts, _ = w.starts(node, ())
    update = node.args[1]
    with w.nest(update.shape) as index:
        moved = tuple(i + starts[axis] if axis in starts else i for axis, i in enumerate(index))
        w.store(node.out, moved, w.at(update, index))


def _scatter(w: Writer, node: Node) -> None:
    _copy(w, node)
    x, _, update = node.args
    (window, lead), (dropped, _, x_batch, _) = windows(node)
    kept = [axis for axis in range(len(x.shape)) if axis not in dropped and axis not in x_batch]
    with w.nest([update.shape[axis] for axis in lead]) as place:
        starts, good = w.starts(node, place)
        with w.nest([update.shape[axis] for axis in window]) as inner:
            found = [Index() for _ in x.shape]
            for axis, i in zip(kept, inner, strict=True):
                found[axis] = i
            for axis, i_axis in zip(x_batch, windows(node)[1][3], strict=True):
                found[axis] = place[i_axis]
            for axis, start in starts.items():
                found[axis] = found[axis] + start
            index = _merge(len(update.shape), list(lead), place, list(window), inner)
            slot, text = _slot(w, node.out, found), w.at(update, index)
            how = {"scatter-add": "cumsum", "scatter-mul": "cumprod", "scatter-max": "cummax", "scatter-min": "cummin"}
            joined = text if node.op == "scatter" else _join(w, Node(how[node.op], (), node.out), slot, text)
            guard = "" if good == "1" or filling(node) is None else f"if {good} "
            w.line(f"{guard}{slot} = {joined};")


KERNELS: dict[str, Callable[[Writer, Node], None]] = {
    "dot_general": _dot,
    **dict.fromkeys(REDUCED, _reduce),
    **dict.fromkeys(FIRSTS, _first),
    **dict.fromkeys(CUMULATIVE, _cumulate),
    **dict.fromkeys(SCATTERS, _scatter),
    "concatenate": _concatenate,
    "pad": _pad,
    "dynamic_update_slice": _update,
}
