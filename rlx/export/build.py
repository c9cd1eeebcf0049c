"""From a jaxpr to a `Program`: calls are inlined, operations made few, what is known is computed, what is unused dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rlx.export import numpy_ops, simplify
from rlx.export.ir import Node, Program, Value, fixed, label, needed, real_dtype

# Calls by the parameter that holds what they call.
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
INLINED = {
    *("jit pjit closed_call core_call remat checkpoint remat2 custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr".split()),
    "custom_lin",
}
SAME = {"copy", "copy_p", "stop_gradient", "optimization_barrier", "reduce_precision", "sharding_constraint", "pvary"}
UNROLLED = 64  # steps of a scan that are written out


def program(fn: Callable[..., Any], specs: Sequence[Any], name: str, dtype: str, supported: Collection[str]) -> Program:
    """``fn(obs, ...) -> action`` traced at ``specs`` and made flat, with all floats in ``dtype``.

    Raises:
        ValueError: it cannot be traced, its result is not one array [W, m], or an operation is not in ``supported`` (which,
            empty, leaves that unchecked).
    """
    try:
        closed = jax.make_jaxpr(fn)(*specs)
    except (TypeError, jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        raise ValueError(f"the law of {name} cannot be traced by JAX: {str(error).splitlines()[0]}") from error
    builder = Builder(real_dtype(dtype))
    inputs = tuple(builder.empty(v.aval) for v in closed.jaxpr.invars)
    outs = builder.run(closed.jaxpr, closed.consts, inputs)
    if len(outs) != 1 or len(outs[0].shape) != 2 or not outs[0].real:
        found = ", ".join(f"{v.dtype}{list(v.shape)}" for v in outs)
        raise ValueError(f"the law of {name} must give one action [W, m] of floats; it gives {found}.")
    made = Program(label(name), inputs, outs[0], needed(outs[0]), builder.real)
    if supported:
        _check(made, supported)
    return made


def _check(made: Program, supported: Collection[str]) -> None:
    for node in made.nodes:
        if node.op in supported and all(isinstance(v.dtype, np.dtype) and v.dtype.kind != "c" for v in (node.out, *node.args)):
            continue
        if node.op.startswith("random_"):
            raise ValueError(f"the law of {made.name} draws random numbers ({node.op}); an exported law is deterministic.")
        why = {
            "while": "its number of steps is not known; lax.fori_loop with fixed bounds is a scan",
            "scan": f"only those of at most {UNROLLED} steps are written out",
        }.get(node.op, "write the law without it, or teach rlx/export/numpy_ops.py and c_ops.py to write it")
        raise ValueError(
            f"export cannot write the operation {node.op!r} that the law of {made.name} uses: {why}. "
            "The format stablehlo takes every law."
        )


class Builder:
    """Makes values and nodes; floats become ``real``."""

    def __init__(self, real: np.dtype):
        self.real = real
        self.made: dict[tuple, tuple[Value, tuple[Value, ...]]] = {}  # what is computed once need not be again
        self.numbers: dict[tuple, Value] = {}

    # ---------------------------------------------------------------------------------------------------------- values

    def empty(self, aval: Any) -> Value:
        return Value(tuple(aval.shape), self.dtype(aval.dtype))

    def dtype(self, dtype: Any) -> Any:
        if jnp.issubdtype(dtype, np.floating):
            return self.real
        return dtype if jnp.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype)

    def const(self, x: Any) -> Value:
        if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
            return self.empty(x)
        array = np.asarray(x)
        array = np.asarray(array, self.dtype(array.dtype))
        return self.once(array)

    def once(self, array: np.ndarray) -> Value:
        """A constant; small ones that are alike are one."""
        if array.nbytes > 64:
            return simplify.known(array)
        key = array.tobytes(), array.dtype.str, array.shape
        return self.numbers.setdefault(key, simplify.known(array))

    # ------------------------------------------------------------------------------------------------------------ jaxprs

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Value]) -> list[Value]:
        """The results of ``jaxpr`` on ``args``."""
        env: dict[Any, Value] = dict(zip(jaxpr.invars, args, strict=True))
        env |= {v: c if isinstance(c, Value) else self.const(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> Value:
            literal = isinstance(atom, core.Literal)
            return self.const(np.asarray(atom.val, atom.aval.dtype)) if literal else env[atom]

        for eqn in jaxpr.eqns:
            outs = self.equation(eqn.primitive.name, [read(a) for a in eqn.invars], [v.aval for v in eqn.outvars], eqn.params)
            env |= dict(zip(eqn.outvars, outs, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def closed(self, jaxpr: Any, args: Sequence[Value]) -> list[Value]:
        inner, consts = (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
        return self.run(inner, consts, args)

    def equation(self, op: str, args: list[Value], avals: list[Any], params: dict[str, Any]) -> list[Value]:
        if op in INLINED:
            return self.closed(next(params[key] for key in CALLS if key in params), args)
        if op in SAME:
            return args
        if op == "cond":
            return self.cond(args, params["branches"])
        if op == "scan" and params["length"] <= UNROLLED:
            return self.scan(args, params)
        if op == "platform_index":
            on = [names is None or "cpu" in names for names in params["platforms"]]
            return [self.const(np.int32(on.index(True)))]
        if op == "split":
            return self.split(args[0], params)
        if op == "unstack":
            return [self.row(args[0], i, params["axis"]) for i in range(len(avals))]
        outs = [self.empty(aval) for aval in avals]
        if len(outs) > 1:
            for out in outs:
                out.node = Node(op, tuple(args), out, params)
            return outs
        return [self.lower(op, args, outs[0], params)]

    def cond(self, args: list[Value], branches: Sequence[Any]) -> list[Value]:
        """Both branches, then a choice: they have no effects."""
        index, operands = args[0], args[1:]
        if index.const is not None:
            return self.closed(branches[int(np.clip(int(index.const), 0, len(branches) - 1))], operands)
        results = [self.closed(branch, operands) for branch in branches]
        if len(branches) == 2 and not index.boolean:
            index = self.add("ne", (index, self.const(np.zeros((), index.dtype))), (), np.dtype(bool))
        elif len(branches) > 2:
            limit = self.const(np.asarray(len(branches) - 1, index.dtype))
            index = self.add("max", (index, self.const(np.zeros((), index.dtype))), (), index.dtype)
            index = self.add("min", (index, limit), (), index.dtype)
        return [self.add("select_n", (index, *cases), cases[0].shape, cases[0].dtype) for cases in zip(*results, strict=True)]

    def scan(self, args: list[Value], params: dict[str, Any]) -> list[Value]:
        if "num_consts" in params:
            fixed_, carried = params["num_consts"], params["num_carry"]
        else:  # jax 0.11 keeps trees of what is fixed, carried, and gone through
            fixed_, carried = (len(list(part)) for part in params["ft_in"].unpack()[:2])
        consts, carry, xs = args[:fixed_], args[fixed_ : fixed_ + carried], args[fixed_ + carried :]
        steps = range(params["length"])
        rows: list[list[Value]] = []
        for i in reversed(steps) if params["reverse"] else steps:
            outs = self.closed(params["jaxpr"], [*consts, *carry, *(self.row(x, i) for x in xs)])
            carry, ys = outs[:carried], outs[carried:]
            rows.append(ys)
        rows = rows[::-1] if params["reverse"] else rows
        return [*carry, *(self.stack(column) for column in zip(*rows, strict=True))]

    def row(self, x: Value, i: int, axis: int = 0) -> Value:
        return self.reshape(self.cut(x, axis, i, i + 1), (*x.shape[:axis], *x.shape[axis + 1 :]))

    def stack(self, rows: Sequence[Value], axis: int = 0) -> Value:
        before, after = rows[0].shape[:axis], rows[0].shape[axis:]
        parts = tuple(self.reshape(r, (*before, 1, *after)) for r in rows)
        return self.add("concatenate", parts, (*before, len(rows), *after), rows[0].dtype, {"dimension": axis})

    def split(self, x: Value, params: dict[str, Any]) -> list[Value]:
        ends = np.cumsum([int(n) for n in params["sizes"]])
        return [self.cut(x, params["axis"], int(end - n), int(end)) for n, end in zip(params["sizes"], ends, strict=True)]

    # ------------------------------------------------------------------------------------------------------------- nodes

    def reshape(self, x: Value, shape: tuple[Any, ...]) -> Value:
        return self.add("reshape", (x,), shape, x.dtype)

    def cut(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """``x[start:stop]`` along ``axis``."""
        starts, stops = [0] * len(x.shape), list(x.shape)
        starts[axis], stops[axis] = start, stop
        shape = tuple(stops[i] - starts[i] for i in range(len(stops)))
        return self.add("slice", (x,), shape, x.dtype, _window(starts, stops))

    def lower(self, op: str, args: list[Value], out: Value, params: dict[str, Any]) -> Value:
        """One equation, in the operations that are written."""
        if op in ("squeeze", "expand_dims", "reshape"):
            return self.reshape(args[0], out.shape)
        if op == "square":
            return self.add("integer_pow", tuple(args), out.shape, out.dtype, {"y": 2})
        if op == "clamp":
            low, x, high = args
            return self.add("min", (self.add("max", (x, low), out.shape, out.dtype), high), out.shape, out.dtype)
        if op == "convert_element_type" and args[0].dtype == out.dtype:
            return args[0]
        if op in ("le_to", "lt_to", "eq_to"):
            return self.ordered(op[:2], args, out)
        if op == "stack":
            return self.stack(args, params["axis"])
        if op == "tile":
            pairs = tuple(n for pair in zip(params["reps"], args[0].shape, strict=True) for n in pair)
            axes = {"shape": pairs, "broadcast_dimensions": tuple(range(1, len(pairs), 2))}
            return self.reshape(self.add("broadcast_in_dim", (args[0],), pairs, out.dtype, axes), out.shape)
        if op == "scatter-sub":
            minus = self.add("neg", (args[2],), args[2].shape, args[2].dtype)
            return self.add("scatter-add", (*args[:2], minus), out.shape, out.dtype, params)
        if op == "gather":
            return self.gather(args[0], args[1], out, params)
        if op in ("dynamic_slice", "dynamic_update_slice"):
            args = self.placed(args, len(args) - len(out.shape), out if op == "dynamic_slice" else args[1])
        return self.add("add" if op == "add_any" else op, tuple(args), out.shape, out.dtype, params)

    def ordered(self, op: str, args: list[Value], out: Value) -> Value:
        """A comparison in which NaN equals itself and is above all else."""
        plain = self.add(op, tuple(args), out.shape, out.dtype)
        if not args[0].real:
            return plain
        a, b = (self.add("ne", (x, x), x.shape, out.dtype) for x in args)
        if op == "lt":
            b = self.add("and", (b, self.add("not", (a,), a.shape, out.dtype)), out.shape, out.dtype)
        elif op == "eq":
            b = self.add("and", (a, b), out.shape, out.dtype)
        return self.add("or", (plain, b), out.shape, out.dtype)

    def placed(self, args: list[Value], first: int, window: Value) -> list[Value]:
        """The arguments of a move of ``window``, with its starts from number ``first`` on: 0 where it cannot move."""
        room = zip(args[first:], args[0].shape, window.shape, strict=True)
        return [*args[:first], *(self.const(np.zeros((), at.dtype)) if n == size else at for at, n, size in room)]

    def gather(self, x: Value, index: Value, out: Value, params: dict[str, Any]) -> Value:
        """In its plainest form: an index moves only along axes where it can, and windows of one element lack that axis."""
        d, sizes = params["dimension_numbers"], tuple(params["slice_sizes"])
        filled = "FILL" in str(params["mode"]).upper()
        free = [k for k, axis in enumerate(d.start_index_map) if x.shape[axis] == sizes[axis] and not filled]
        if len(free) == len(d.start_index_map) or (index.const is not None and index.const.ndim == 1):
            whole = self.still(x, index, params, free)
            if whole is not None and not d.operand_batching_dims and len(index.shape) == 1:
                return self.reshape(whole, out.shape)
        if len(free) == len(d.start_index_map) and fixed(index.shape):  # nothing moves
            index = self.const(np.zeros(index.shape, index.dtype))
        kept = [k for k in range(len(d.start_index_map)) if k not in free] or [0]
        if len(kept) < len(d.start_index_map) and len(kept) == kept[-1] - kept[0] + 1:
            index = self.cut(index, len(index.shape) - 1, kept[0], kept[-1] + 1)
            d = d._replace(start_index_map=tuple(d.start_index_map[k] for k in kept))
        windows = [axis for axis in range(len(x.shape)) if axis not in (*d.collapsed_slice_dims, *d.operand_batching_dims)]
        single = [axis for axis in d.start_index_map if axis in windows and sizes[axis] == 1]
        at = [d.offset_dims[windows.index(axis)] for axis in single]
        left = [axis for axis in range(len(out.shape)) if axis not in at]
        d = d._replace(
            offset_dims=tuple(left.index(axis) for axis in d.offset_dims if axis not in at),
            collapsed_slice_dims=tuple(sorted((*d.collapsed_slice_dims, *single))),
        )
        shape = tuple(out.shape[axis] for axis in left)
        return self.reshape(self.add("gather", (x, index), shape, out.dtype, {**params, "dimension_numbers": d}), out.shape)

    def still(self, x: Value, index: Value, params: dict[str, Any], free: list[int]) -> Value | None:
        """A gather at one known place inside is a slice."""
        starts, sizes = [0] * len(x.shape), tuple(params["slice_sizes"])
        for k, axis in enumerate(params["dimension_numbers"].start_index_map):
            if k in free:
                continue
            assert index.const is not None
            starts[axis] = int(index.const[k])
            if not fixed((x.shape[axis],)) or not 0 <= starts[axis] <= x.shape[axis] - sizes[axis]:
                return None
        stops = tuple(start + n for start, n in zip(starts, sizes, strict=True))
        return self.add("slice", (x,), sizes, x.dtype, _window(starts, stops))

    def add(
        self, op: str, args: tuple[Value, ...], shape: tuple[Any, ...], dtype: Any, params: dict[str, Any] | None = None
    ) -> Value:
        """The value of ``op``: an older one where nothing changes, a constant where all is known, else of a new node."""
        key = op, tuple(id(a) for a in args), tuple(str(n) for n in shape), str(dtype), repr(params)
        if key not in self.made:  # the arguments are held too, so that their ids stay theirs
            self.made[key] = self._add(Node(op, args, Value(tuple(shape), dtype), params or {})), args
        return self.made[key][0]

    def _add(self, node: Node) -> Value:
        op, args, out = node.op, node.args, node.out
        same = simplify.same(node)
        if same is not None and same.shape == out.shape:
            return same
        if same is not None:
            axes = tuple(range(len(same.shape)))
            return self.add("broadcast_in_dim", (same,), out.shape, out.dtype, {"broadcast_dimensions": axes})
        if op == "reshape" and args[0].node is not None and args[0].node.op == "reshape":
            return self.add("reshape", args[0].node.args, out.shape, out.dtype)
        if op == "slice" and args[0].node is not None and args[0].node.op == "concatenate":
            part = self._part(node, args[0].node)
            if part is not None:
                return part
        if all(a.const is not None for a in args) and fixed(out.shape) and op in numpy_ops.SUPPORTED:
            return self.once(np.asarray(numpy_ops.evaluate(node), out.dtype).reshape(out.shape))
        out.node = node
        truth = simplify.bound(node)
        if truth is None:
            return out
        whole = {"shape": out.shape, "broadcast_dimensions": ()}
        return self.add("broadcast_in_dim", (self.once(np.asarray(truth)),), out.shape, out.dtype, whole)

    def _part(self, node: Node, joined: Node) -> Value | None:
        """A slice of joined arrays that lies in one of them."""
        axis, offset = joined.params["dimension"], 0
        starts, stops = list(node.params["start_indices"]), list(node.params["limit_indices"])
        if set(node.params["strides"] or ()) - {1} or not fixed((starts[axis], stops[axis])):
            return None
        for part in joined.args:
            n = part.shape[axis]
            if not fixed((n,)):
                return None
            if offset <= starts[axis] and stops[axis] <= offset + n:
                starts[axis], stops[axis] = starts[axis] - offset, stops[axis] - offset
                return self.add("slice", (part,), node.out.shape, part.dtype, _window(starts, stops))
            offset += n
        return None


def _window(starts: Sequence[Any], stops: Sequence[Any]) -> dict[str, Any]:
    return {"start_indices": tuple(starts), "limit_indices": tuple(stops), "strides": None}
