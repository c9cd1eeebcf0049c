"""Each operation as an expression of numpy: for exported files, and to compute what is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rlx.export import numpy_helpers
from rlx.export.ir import Node
from rlx.export.simplify import inside

Say = Callable[[Node, list[str]], str]


def text(value: Any) -> str:
    """A shape or a parameter as source; symbolic sizes by their name."""
    if isinstance(value, (tuple, list)):
        return f"({', '.join(text(v) for v in value)}{',' if len(value) == 1 else ''})"
    return str(int(value)) if isinstance(value, (int, np.integer)) else str(value)


def literal(value: Any, dtype: np.dtype) -> str:
    """A number of exactly this type."""
    if dtype.kind == "b":
        return f"np.bool_({bool(value)})"
    if dtype.kind == "f":
        number = float(value)
        word = "np.nan" if math.isnan(number) else f"{'-' if number < 0 else ''}np.inf" if math.isinf(number) else ""
        return f"np.{dtype.name}({word or str(dtype.type(value))})"
    return f"np.{dtype.name}({int(value)})"


def _call(name: str) -> Say:
    return lambda node, a: f"np.{name}({', '.join(a)})"


def _infix(sign: str) -> Say:
    return lambda node, a: f"{a[0]} {sign} {a[1]}"


def _either(for_floats: str, for_ints: str) -> Say:
    def write(node: Node, a: list[str]) -> str:
        return (for_floats if node.out.real else for_ints).format(*a)

    return write


def _reduce(name: str) -> Say:
    def write(node: Node, a: list[str]) -> str:
        kind = f", dtype=np.{node.out.dtype.name}" if name in ("sum", "prod") else ""
        return f"np.{name}({a[0]}, axis={text(tuple(node.params['axes']))}{kind})"

    return write


def _arg(name: str) -> Say:
    return lambda node, a: f"np.{name}({a[0]}, axis={node.params['axes'][0]}).astype(np.{node.out.dtype.name})"


def _cumulative(name: str) -> Say:
    def write(node: Node, a: list[str]) -> str:
        axis = node.params["axis"]
        flip = (lambda x: f"np.flip({x}, {axis})") if node.params["reverse"] else (lambda x: x)
        kind = f", dtype=np.{node.out.dtype.name}" if name in ("cumsum", "cumprod") else ""
        return flip(f"np.{name}({flip(a[0])}, axis={axis}{kind})")

    return write


def _convert(node: Node, a: list[str]) -> str:
    x, out = node.args[0], node.out
    if out.boolean:
        return f"{a[0]} != 0"
    if x.real and not out.real:
        return f'to_int({a[0]}, "{out.dtype.name}")'
    return f"{a[0]}.astype(np.{out.dtype.name})"


def _select(node: Node, a: list[str]) -> str:
    pred, cases = a[0], a[1:]
    if node.args[0].boolean:
        return f"np.where({pred}, {cases[1]}, {cases[0]})" if len(cases) == 2 else cases[0]
    written = cases[-1]
    for k in reversed(range(len(cases) - 1)):
        written = f"np.where({pred} <= {k}, {cases[k]}, {written})"
    return written


def _broadcast(node: Node, a: list[str]) -> str:
    shape: list[Any] = [1] * len(node.out.shape)
    for axis, n in zip(node.params["broadcast_dimensions"], node.args[0].shape, strict=True):
        shape[axis] = n
    moved = a[0] if tuple(shape) == node.args[0].shape else f"{a[0]}.reshape({text(tuple(shape))})"
    return moved if tuple(shape) == node.out.shape else f"np.broadcast_to({moved}, {text(node.out.shape)})"


def _slice(node: Node, a: list[str]) -> str:
    p, written = node.params, []
    for n, low, high, step in zip(
        node.args[0].shape, p["start_indices"], p["limit_indices"], p["strides"] or [1] * len(node.out.shape), strict=True
    ):
        whole = text(low) == "0" and text(high) == text(n) and step == 1
        written.append(":" if whole else f"{text(low)}:{text(high)}" + (f":{step}" if step != 1 else ""))
    return f"{a[0]}[{', '.join(written)}]"


def _iota(node: Node, a: list[str]) -> str:
    axis, shape = node.params["dimension"], node.out.shape
    line = [n if i == axis else 1 for i, n in enumerate(shape)]
    return (
        f"np.broadcast_to(np.arange({text(shape[axis])}, dtype=np.{node.out.dtype.name}).reshape({text(line)}), {text(shape)})"
    )


def _dot(node: Node, a: list[str]) -> str:
    contract, batch = node.params["dimension_numbers"]
    left, right = node.args
    if not batch[0] and len(right.shape) == 2 and tuple(contract[1]) == (0,) and tuple(contract[0]) == (len(left.shape) - 1,):
        return f"{a[0]} @ {a[1]}"
    return f"dot_general({a[0]}, {a[1]}, {text(contract)}, {text(batch)})"


def windows(node: Node) -> tuple[tuple, tuple]:
    """``slots`` and ``dims`` of a gather or scatter, as `numpy_helpers.places` takes them."""
    d = node.params["dimension_numbers"]
    if node.op == "gather":
        rank, window = len(node.out.shape), tuple(d.offset_dims)
        dims = d.collapsed_slice_dims, d.start_index_map, d.operand_batching_dims, d.start_indices_batching_dims
    else:
        rank, window = len(node.args[2].shape), tuple(d.update_window_dims)
        moved = d.scatter_dims_to_operand_dims
        dims = d.inserted_window_dims, moved, d.operand_batching_dims, d.scatter_indices_batching_dims
    return (window, tuple(i for i in range(rank) if i not in window)), tuple(tuple(axes) for axes in dims)


def filling(node: Node) -> Any:
    """What a window outside holds, or None where it is moved inside."""
    if "FILL" not in str(node.params["mode"]).upper() or (node.op == "gather" and inside(node)):
        return None
    given, out = node.params.get("fill_value"), node.out
    if given is not None:
        return given
    if out.boolean:
        return True
    return math.nan if out.real else np.iinfo(out.dtype).max if out.dtype.kind == "u" else np.iinfo(out.dtype).min


def _gather(node: Node, a: list[str]) -> str:
    slots, dims = windows(node)
    x, index, sizes = node.args[0], node.args[1], tuple(node.params["slice_sizes"])
    fill = filling(node)
    if (
        fill is None
        and dims == ((0,), (0,), (), ())
        and sizes[1:] == x.shape[1:]
        and slots[1] == tuple(range(len(index.shape) - 1))
    ):
        return f"{a[0]}[np.clip({a[1]}[..., 0], 0, {x.shape[0] - 1})]"
    written = "None" if fill is None else literal(fill, node.out.dtype)
    return f"gather({a[0]}, {a[1]}, {text(slots)}, {text(dims)}, {text(sizes)}, {written})"


def _scatter(how: str) -> Say:
    def write(node: Node, a: list[str]) -> str:
        slots, dims = windows(node)
        clip = "CLIP" in str(node.params["mode"]).upper()
        return f'scatter({a[0]}, {a[1]}, {a[2]}, {text(slots)}, {text(dims)}, "{how}", {clip})'

    return write


UNARY = "floor ceil sqrt cbrt exp exp2 log log1p expm1 tanh sin cos tan sinh cosh sign abs"
UNARY_NAMED = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh"}
UNARY_NAMED |= {"atanh": "arctanh", "is_finite": "isfinite"}

OPS: dict[str, Say] = {
    **{name: _call(name) for name in UNARY.split()},
    **{name: _call(there) for name, there in UNARY_NAMED.items()},
    **{name: (lambda node, a: f"{node.op}({a[0]})") for name in ("erf", "erfc")},
    **{name: _infix(sign) for name, sign in {"add": "+", "sub": "-", "mul": "*"}.items()},
    **{name: _infix(sign) for name, sign in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items()},
    **{name: _infix(sign) for name, sign in {"and": "&", "or": "|", "xor": "^"}.items()},
    "div": _either("{0} / {1}", "int_div({0}, {1})"),
    "rem": _either("np.fmod({0}, {1})", "int_rem({0}, {1})"),
    "max": _call("maximum"),
    "min": _call("minimum"),
    "pow": _either("np.power({0}, {1}).astype({0}.dtype)", "np.power({0}, {1})"),
    "atan2": _call("arctan2"),
    "neg": lambda node, a: f"-{a[0]}",
    "not": lambda node, a: f"~{a[0]}",
    "round": lambda node, a: f"np.rint({a[0]})" if int(node.params["rounding_method"]) == 1 else f"round_away({a[0]})",
    "integer_pow": lambda node, a: f"np.square({a[0]})" if node.params["y"] == 2 else f"int_pow({a[0]}, {node.params['y']})",
    "rsqrt": lambda node, a: f"1 / np.sqrt({a[0]})",
    "logistic": lambda node, a: f"1 / (1 + np.exp(-{a[0]}))",
    "convert_element_type": _convert,
    "select_n": _select,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda node, a: f"{a[0]}.reshape({text(node.out.shape)})",
    "transpose": lambda node, a: f"np.transpose({a[0]}, {text(tuple(node.params['permutation']))})",
    "concatenate": lambda node, a: f"np.concatenate(({', '.join(a)},), axis={node.params['dimension']})",
    "slice": _slice,
    "pad": lambda node, a: f"pad({a[0]}, {a[1]}, {text(tuple(node.params['padding_config']))})",
    "rev": lambda node, a: f"np.flip({a[0]}, {text(tuple(node.params['dimensions']))})",
    "iota": _iota,
    "dot_general": _dot,
    **{f"reduce_{name}": _reduce(name) for name in ("sum", "max", "min", "prod")},
    "reduce_and": _reduce("all"),
    "reduce_or": _reduce("any"),
    "argmax": _arg("argmax"),
    "argmin": _arg("argmin"),
    "cumsum": _cumulative("cumsum"),
    "cumprod": _cumulative("cumprod"),
    "cummax": _cumulative("maximum.accumulate"),
    "cummin": _cumulative("minimum.accumulate"),
    "gather": _gather,
    "dynamic_slice": lambda node, a: f"dynamic_slice({a[0]}, {text(a[1:])}, {text(tuple(node.params['slice_sizes']))})",
    "dynamic_update_slice": lambda node, a: f"dynamic_update_slice({a[0]}, {a[1]}, {text(a[2:])})",
    "scatter": _scatter("set"),
    "scatter-add": _scatter("add"),
    "scatter-mul": _scatter("multiply"),
    "scatter-min": _scatter("minimum"),
    "scatter-max": _scatter("maximum"),
}
SUPPORTED = frozenset(OPS)


def expression(node: Node, names: list[str]) -> str:
    """Source of ``node.out`` from the names of its arguments."""
    return OPS[node.op](node, names)


def evaluate(node: Node) -> np.ndarray:
    """``node.out`` where all arguments are known."""
    names = [f"x{i}" for i in range(len(node.args))]
    scope = {"np": np, **numpy_helpers.ALL, **{name: a.const for name, a in zip(names, node.args, strict=True)}}
    with np.errstate(all="ignore"):
        return eval(expression(node, names), scope)  # our own text, of the table above
