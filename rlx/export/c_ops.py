"""Element-wise operations as C expressions, the functions that C lacks, and its types and literals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rlx.export.ir import Node, Value

TYPES = {
    "bool": "unsigned char",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned int",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float32": "float",
    "float64": "double",
}
Say = Callable[[Node, list[str]], str]


def ctype(dtype: np.dtype, single: bool = False) -> str:
    """The type of an element; truth values on their own are ``int``."""
    return "int" if single and dtype.kind == "b" else TYPES[dtype.name]


def literal(value: Any, dtype: np.dtype) -> str:
    """A number of exactly this type."""
    if dtype.kind == "b":
        return "1" if value else "0"
    if dtype.kind == "f":
        number = float(value)
        if math.isnan(number):
            return "NAN"
        if math.isinf(number):
            return "INFINITY" if number > 0 else "(-INFINITY)"
        written = str(dtype.type(value)) + ("f" if dtype.name == "float32" else "")
        return f"({written})" if written.startswith("-") else written
    number, suffix = int(value), {"int64": "LL", "uint64": "ULL", "uint32": "u"}.get(dtype.name, "")
    if number < 0:
        return f"(-{-number - 1}{suffix} - 1)" if number == np.iinfo(dtype).min else f"(-{-number}{suffix})"
    return f"{number}{suffix}"


# What C lacks: T is the type, S the suffix of its functions, N a number in the name.
HELPERS = {
    "max": "static T NAME(T a, T b) { return a > b || a != a ? a : b; }",
    "min": "static T NAME(T a, T b) { return a < b || a != a ? a : b; }",
    "above": "static T NAME(T x, T low) { return x <= low ? low : x; }  /* low is a number */",
    "below": "static T NAME(T x, T high) { return x >= high ? high : x; }  /* high is a number */",
    "sign": "static T NAME(T x) { return x > 0 ? 1 : x < 0 ? -1 : x; }",
    "abs": "static T NAME(T x) { return x < 0 ? -x : x; }",
    "div": "static T NAME(T a, T b) { return b ? (T)(a / b) : (T)-1; }",
    "rem": "static T NAME(T a, T b) { return b ? (T)(a % b) : a; }",
    "logistic": "static T NAME(T x) { return 1 / (1 + expS(-x)); }",
    "exp2": "static T NAME(T x) { return exp2S(x); }",
}


class Expressions:
    """Says element-wise nodes in C, and remembers the functions that this takes."""

    def __init__(self, real: np.dtype):
        self.real = real
        self.f = "f" if real.name == "float32" else ""
        self.helpers: dict[str, str] = {}

    def helper(self, what: str, dtype: np.dtype) -> str:
        """The name of a function of `HELPERS` for this type."""
        name = what + ("_real" if dtype.kind == "f" else f"_{dtype.name}")
        written = HELPERS[what].replace("NAME", name).replace("expS", f"exp{self.f}").replace("exp2S", f"exp2{self.f}")
        self.helpers[name] = written.replace("T ", f"{ctype(dtype)} ").replace("(T)", f"({ctype(dtype)})")
        return name

    def power(self, n: int, dtype: np.dtype) -> str:
        """The name of the function that raises to the power of ``n`` by repeated squaring."""
        name = f"pow_{'m' if n < 0 else ''}{abs(n)}" + ("_real" if dtype.kind == "f" else f"_{dtype.name}")
        steps: list[str] = []
        factors: list[str] = []
        square, left = "x", abs(n)
        while left:
            if left & 1:
                factors.append(square)
            left >>= 1
            if left:
                new = f"x{2 ** (len(steps) + 1)}"
                steps.append(f"const {ctype(dtype)} {new} = {square} * {square};")
                square = new
        whole = " * ".join(factors) or "1"
        whole = f"1 / ({whole})" if n < 0 else whole
        body = " ".join([*steps, f"return {whole};"])
        unused = " (void)x;" if not factors else ""
        self.helpers[name] = f"static {ctype(dtype)} {name}({ctype(dtype)} x) {{{unused} {body} }}"
        return name

    def to_integer(self, dtype: np.dtype) -> str:
        """The name of the function from a real to an integer: towards zero, the ends of the range beyond it, 0 for NaN."""
        info, real, kind = np.iinfo(dtype), ctype(self.real), ctype(dtype)
        name = f"to_{dtype.name}"
        low, high = (literal(self.real.type(end), self.real) for end in (info.min, info.max))
        ends = literal(info.min, dtype), literal(info.max, dtype)
        test = f"x != x ? 0 : x <= {low} ? {ends[0]} : x >= {high} ? {ends[1]} : ({kind})x"
        self.helpers[name] = f"static {kind} {name}({real} x) {{ return {test}; }}"
        return name

    def write(self, node: Node, args: list[str]) -> str:
        """The value of ``node`` at one place, from those of its arguments.

        Raises:
            ValueError: the operation is written for reals only, and these are integers.
        """
        op, out = node.op, node.out
        if op in INFIX:
            return f"({args[0]} {INFIX[op]} {args[1]})"
        if op in FUNCTIONS and out.real:
            return f"{FUNCTIONS[op]}{self.f}({', '.join(args)})"
        if op in ("max", "min"):
            return self._extreme(node, args)
        if op in ("sign", "abs", "rem") or (op == "div" and not out.real):
            if op in ("rem", "abs") and out.real:
                return f"{'fmod' if op == 'rem' else 'fabs'}{self.f}({', '.join(args)})"
            return f"{self.helper(op, out.dtype)}({', '.join(args)})"
        if op in SPECIAL:
            return SPECIAL[op](self, node, args)
        raise ValueError(f"export writes {op!r} in C for floats only, not for {out.dtype.name}.")

    def _extreme(self, node: Node, args: list[str]) -> str:
        if node.out.boolean:
            return f"({args[0]} {'|' if node.op == 'max' else '&'} {args[1]})"
        for known, other in ((1, 0), (0, 1)):
            array = node.args[known].const
            if array is not None and node.out.real and not np.isnan(array).any():
                which = "above" if node.op == "max" else "below"
                return f"{self.helper(which, node.out.dtype)}({args[other]}, {args[known]})"
        if node.out.real:
            return f"{self.helper(node.op, node.out.dtype)}({args[0]}, {args[1]})"
        sign = ">" if node.op == "max" else "<"
        return f"({args[0]} {sign} {args[1]} ? {args[0]} : {args[1]})"


def _select(self: Expressions, node: Node, a: list[str]) -> str:
    pred, cases = a[0], a[1:]
    if len(cases) == 1:
        return cases[0]
    if node.args[0].boolean:
        return f"({pred} ? {cases[1]} : {cases[0]})"
    written = cases[-1]
    for k in reversed(range(len(cases) - 1)):
        written = f"({pred} <= {k} ? {cases[k]} : {written})"
    return written


def _convert(self: Expressions, node: Node, a: list[str]) -> str:
    x, out = node.args[0], node.out
    if out.boolean:
        return f"({a[0]} != 0)"
    if x.real and not out.real:
        return f"{self.to_integer(out.dtype)}({a[0]})"
    return f"({ctype(out.dtype)}){a[0]}"


def _round(self: Expressions, node: Node, a: list[str]) -> str:
    return f"{'rint' if int(node.params['rounding_method']) == 1 else 'round'}{self.f}({a[0]})"


def _pow(self: Expressions, node: Node, a: list[str]) -> str:
    if not node.out.real:
        raise ValueError(f"export writes 'pow' in C for floats only, not for {node.out.dtype.name}.")
    return f"pow{self.f}({a[0]}, {a[1] if node.args[1].real else f'({ctype(self.real)}){a[1]}'})"


INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
INFIX |= {"and": "&", "or": "|", "xor": "^"}
FUNCTIONS = {name: name for name in "floor ceil sqrt cbrt exp log log1p expm1 tanh sin cos tan atan2 erf erfc".split()}
FUNCTIONS |= {name: name for name in "exp2 asin acos atan sinh cosh asinh acosh atanh".split()}
SPECIAL: dict[str, Callable[[Expressions, Node, list[str]], str]] = {
    "div": lambda self, node, a: f"({a[0]} / {a[1]})",
    "neg": lambda self, node, a: f"(-{a[0]})",
    "not": lambda self, node, a: f"(!{a[0]})" if node.out.boolean else f"(~{a[0]})",
    "rsqrt": lambda self, node, a: f"(1 / sqrt{self.f}({a[0]}))",
    "logistic": lambda self, node, a: f"{self.helper('logistic', node.out.dtype)}({a[0]})",
    "is_finite": lambda self, node, a: f"(isfinite({a[0]}) != 0)",
    "integer_pow": lambda self, node, a: f"{self.power(node.params['y'], node.out.dtype)}({a[0]})",
    "round": _round,
    "pow": _pow,
    "select_n": _select,
    "convert_element_type": _convert,
}
ELEMENTWISE = frozenset([*INFIX, *FUNCTIONS, *SPECIAL, "max", "min", "sign", "abs", "rem"])


def uniform(value: Value) -> bool:
    return value.const is not None and value.const.size > 0 and bool((value.const == value.const.flat[0]).all())
