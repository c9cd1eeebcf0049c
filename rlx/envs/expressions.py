"""Rewards as text, ``"exp(-norm(pos - [0.1, 0.1]) / 0.05)"``: a small language over named quantities, read with Python's
grammar and nothing of Python behind it. Each part becomes a function of arrays here; what is not in the lists below is refused.

::

    reward = parse("exp(-norm(pos - [0.1, 0.1]) / 0.05) - 0.1 * norm(action) ** 2", quantities(env.spec))
    reward(np, obs, action)          # obs [..., n], action [..., m] -> [...]; jax.numpy as well

Numbers, ``+ - * / **``, comparisons (1 or 0), ``and or not``, ``a if condition else b``, lists of numbers as vectors,
``pos[0]``, and the functions of `FUNCTIONS`. A power is a number of at most 8.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlx.config import nearest
from rlx.types import Array, Leaf, Spec

LONGEST, MOST_PARTS, MOST_POWER, MOST_NUMBER = 500, 200, 8, 1e9
Fn = Callable[[Any, Array, Array], Array]  # (xp, obs, action) -> value


class Quantity(NamedTuple):
    """A value [..., ``size``], or with ``size`` None a number [...], of observations and actions."""

    size: int | None
    of: Fn


def quantities(spec: Spec) -> dict[str, Quantity]:
    """What may be named: ``obs`` and ``action`` whole (a choice is its number); each of their entries by the names of
    `rlx.types.Task`; and ``pos`` of x, y (z), ``vel`` of vx, vy (vz), where these are among them.

    Raises:
        ValueError: observations are no vectors.
    """
    if not isinstance(spec.obs, Leaf) or len(spec.obs.shape) != 1:
        raise ValueError(f"a reward as text is over observations that are vectors; these are {spec.obs}.")
    n, m = spec.obs.shape[0], math.prod(spec.action.shape)
    names = [re.sub(r"\W+", "_", name).strip("_") for name in spec.task.names][: n + m]
    found: dict[str, Quantity] = {"obs": Quantity(n, lambda xp, obs, action: obs)}
    found["action"] = Quantity(m if spec.action.shape else None, lambda xp, obs, action: action)
    for i, name in enumerate(names):
        if name.isidentifier() and name not in found and names.count(name) == 1:
            found[name] = Quantity(None, _entry(i, n)) if i < n or spec.action.shape else found["action"]
    for name, parts in (("pos", ("x", "y", "z")), ("vel", ("vx", "vy", "vz"))):
        there = [names.index(part) for part in parts if part in names[:n]]
        if there and name not in found:
            found[name] = Quantity(len(there), _entries(there))
    return found


def _entry(i: int, n: int) -> Fn:
    return lambda xp, obs, action: obs[..., i] if i < n else action[..., i - n]


def _entries(places: list[int]) -> Fn:
    return lambda xp, obs, action: obs[..., xp.asarray(places)]


def _norm(xp: Any, x: Array) -> Array:
    return xp.sqrt((x**2).sum(-1))


# name -> (how many arguments, the function, what it makes: "same" shape, or a number of vectors)
FUNCTIONS: dict[str, tuple[int, Callable[..., Array], str]] = {
    "abs": (1, lambda xp, x: xp.abs(x), "same"),
    "exp": (1, lambda xp, x: xp.exp(xp.minimum(x, 80.0)), "same"),
    "log": (1, lambda xp, x: xp.log(xp.maximum(x, 1e-30)), "same"),
    "sqrt": (1, lambda xp, x: xp.sqrt(xp.maximum(x, 0.0)), "same"),
    "sin": (1, lambda xp, x: xp.sin(x), "same"),
    "cos": (1, lambda xp, x: xp.cos(x), "same"),
    "tanh": (1, lambda xp, x: xp.tanh(x), "same"),
    "min": (2, lambda xp, a, b: xp.minimum(a, b), "same"),
    "max": (2, lambda xp, a, b: xp.maximum(a, b), "same"),
    "clip": (3, lambda xp, x, low, high: xp.minimum(xp.maximum(x, low), high), "same"),
    "norm": (1, _norm, "number"),
    "sum": (1, lambda xp, x: x.sum(-1), "number"),
    "mean": (1, lambda xp, x: x.mean(-1), "number"),
    "dot": (2, lambda xp, a, b: (a * b).sum(-1), "number"),
}
_OPERATORS: dict[type, Callable[..., Array]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Lt: lambda a, b: 1.0 * (a < b),
    ast.LtE: lambda a, b: 1.0 * (a <= b),
    ast.Gt: lambda a, b: 1.0 * (a > b),
    ast.GtE: lambda a, b: 1.0 * (a >= b),
}


def parse(text: str, known: Mapping[str, Quantity]) -> Fn:
    """The reward that ``text`` says.

    Raises:
        ValueError: it is longer than 500 characters, no expression, or has a part that is not allowed; which one, and what is.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a reward as text has at most {LONGEST} characters; this one has {len(text)}.")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression: {getattr(error, 'msg', error)}.") from None
    if sum(1 for _ in ast.walk(tree)) > MOST_PARTS:
        raise ValueError(f"{text!r} has more than {MOST_PARTS} parts: say it shorter.")
    made = _Compiler(text, known).of(tree.body)
    if made.size is not None:
        raise ValueError(f"{text!r} is a vector of {made.size}; a reward is one number: norm, sum, mean or dot make one.")

    def reward(xp: Any, obs: Array, action: Array) -> Array:
        with np.errstate(all="ignore"):  # what is not finite is for those to refuse who are paid
            return xp.broadcast_to(made.of(xp, _wide(xp, obs), _wide(xp, action)), obs.shape[:-1])

    return reward


def _wide(xp: Any, x: Array) -> Array:
    """Bytes and halves as float32: differences of bytes would go round at 0, and squares of halves end at 65 504."""
    return x if x.dtype in (np.float32, np.float64) else xp.asarray(x, np.float32)


class _Compiler:
    """Turns each kind of part into a `Quantity`; a kind without a method is refused."""

    def __init__(self, text: str, known: Mapping[str, Quantity]) -> None:
        self.text, self.known = text, known

    def refuse(self, node: ast.AST, why: str) -> ValueError:
        return ValueError(f"{ast.unparse(node)!r} in {self.text!r}: {why}")

    def of(self, node: ast.AST) -> Quantity:
        method = getattr(self, type(node).__name__.lower(), None)
        if method is None:
            reasons = {"Attribute": "attributes are not allowed", "Lambda": "functions of one's own are not allowed"}
            raise self.refuse(node, f"{reasons.get(type(node).__name__, 'this is not allowed')} in a reward.")
        return method(node)

    def constant(self, node: ast.Constant) -> Quantity:
        value = node.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST_NUMBER:
            raise self.refuse(node, f"numbers of at most {MOST_NUMBER:.0e} only.")
        return Quantity(None, lambda xp, obs, action: xp.asarray(float(value)))

    def name(self, node: ast.Name) -> Quantity:
        if node.id not in self.known:
            hint = f" {node.id} is a function: call it." if node.id in FUNCTIONS else nearest(node.id, self.known)
            raise self.refuse(node, f"there is no such quantity.{hint}")
        return self.known[node.id]

    def list(self, node: ast.List) -> Quantity:
        parts = [self.of(part) for part in node.elts]
        if not parts or any(part.size is not None for part in parts):
            raise self.refuse(node, "a vector is a list of numbers.")
        lead = lambda xp, obs, values: [xp.broadcast_to(v, obs.shape[:-1]) for v in values]
        stacked = lambda xp, obs, action: xp.stack(lead(xp, obs, [p.of(xp, obs, action) for p in parts]), -1)
        return Quantity(len(parts), stacked)

    tuple = list

    def subscript(self, node: ast.Subscript) -> Quantity:
        value, place = self.of(node.value), node.slice
        if value.size is None or not isinstance(place, ast.Constant) or type(place.value) is not int:
            raise self.refuse(node, "only a vector has entries, by a whole number: pos[0].")
        if not 0 <= place.value < value.size:
            raise self.refuse(node, f"the vector has {value.size} entries, counted from 0.")
        return Quantity(None, lambda xp, obs, action: value.of(xp, obs, action)[..., place.value])

    def unaryop(self, node: ast.UnaryOp) -> Quantity:
        value = self.of(node.operand)
        if isinstance(node.op, ast.Invert):
            raise self.refuse(node, "write not, for conditions.")
        signs = {ast.USub: lambda x: -x, ast.UAdd: lambda x: x, ast.Not: lambda x: 1.0 * (x == 0)}
        return Quantity(value.size, lambda xp, obs, action: signs[type(node.op)](value.of(xp, obs, action)))

    def binop(self, node: ast.BinOp) -> Quantity:
        if isinstance(node.op, ast.Pow):
            power = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
            number = power.value if isinstance(power, ast.Constant) else None
            if not isinstance(number, (int, float)) or isinstance(number, bool) or abs(number) > MOST_POWER:
                raise self.refuse(node, f"a power is a number of at most {MOST_POWER}.")
            return self.joined(node, [node.left, node.right], lambda xp, a, b: a**b)
        operator = _OPERATORS.get(type(node.op))
        if operator is None:
            raise self.refuse(node, "operators are + - * / **.")
        return self.joined(node, [node.left, node.right], lambda xp, a, b: operator(a, b))

    def compare(self, node: ast.Compare) -> Quantity:
        kinds, parts = [_OPERATORS.get(type(op)) for op in node.ops], [node.left, *node.comparators]
        if any(kind is None for kind in kinds):
            raise self.refuse(node, "comparisons are < <= > >=.")

        def all_of(xp: Any, *values: Array) -> Array:
            out = 1.0
            for kind, a, b in zip(kinds, values, values[1:], strict=False):
                out = out * kind(a, b)  # type: ignore[misc]
            return out  # type: ignore[return-value]

        return self.joined(node, parts, all_of)

    def boolop(self, node: ast.BoolOp) -> Quantity:
        both = isinstance(node.op, ast.And)

        def met(xp: Any, *values: Array) -> Array:
            held = [1.0 * (value != 0) for value in values]
            out = held[0]
            for value in held[1:]:
                out = out * value if both else xp.maximum(out, value)
            return out

        return self.joined(node, node.values, met)

    def ifexp(self, node: ast.IfExp) -> Quantity:
        return self.joined(node, [node.test, node.body, node.orelse], lambda xp, test, a, b: xp.where(test != 0, a, b))

    def call(self, node: ast.Call) -> Quantity:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name is None:
            self.of(node.func)  # which says what is wrong with it
            raise self.refuse(node, "only functions by name are called.")
        if name not in FUNCTIONS:
            raise self.refuse(node, f"there is no function {name!r} here.{nearest(name, FUNCTIONS)}")
        count, fn, makes = FUNCTIONS[name]
        if node.keywords or len(node.args) != count or any(isinstance(arg, ast.Starred) for arg in node.args):
            raise self.refuse(node, f"{name} takes {count} argument{'s' if count > 1 else ''}.")
        joined = self.joined(node, node.args, fn)
        if makes == "same":
            return joined
        if joined.size is None:
            raise self.refuse(node, f"{name} is of a vector, this is a number.")
        return Quantity(None, joined.of)

    def joined(self, node: ast.AST, parts: Any, fn: Callable[..., Array]) -> Quantity:
        """``fn`` of the parts, numbers brought to the size of vectors."""
        made = [self.of(part) for part in parts]
        sizes = {one.size for one in made if one.size is not None}
        if len(sizes) > 1:
            raise self.refuse(node, f"vectors of {' and '.join(map(str, sorted(sizes)))} do not go together.")
        size = sizes.pop() if sizes else None

        def value(xp: Any, obs: Array, action: Array) -> Array:
            found = [one.of(xp, obs, action) for one in made]
            wide = [v[..., None] if size is not None and one.size is None else v for v, one in zip(found, made, strict=True)]
            return fn(xp, *wide)

        return Quantity(size, value)
