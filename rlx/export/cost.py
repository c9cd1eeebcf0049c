"""What one decision costs: operations, and bytes of constants and of the stack."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlx.export.ir import Node, Program

COMPARES = set("eq ne lt le gt ge max min sign select_n reduce_max reduce_min argmax argmin cummax cummin".split())
SUMS = set("add sub mul div neg abs rem integer_pow reduce_sum reduce_prod cumsum cumprod floor ceil round".split())
FUNCTIONS = set(
    "sqrt rsqrt cbrt exp exp2 log log1p expm1 tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh atanh atan2 "
    "pow erf erfc".split()
)


@dataclass(frozen=True)
class Cost:
    """Of one decision."""

    flops: int  # additions, multiplications, divisions; a multiplication that is added counts as two
    comparisons: int  # and choices
    functions: int  # exp, tanh, sqrt, ...
    constants: int  # bytes
    stack: int  # bytes of arrays

    def rows(self) -> list[tuple[str, str]]:
        """Two columns of text."""
        return [
            ("flops", f"{self.flops:,}"),
            ("comparisons", f"{self.comparisons:,}"),
            ("functions", f"{self.functions:,}"),
            ("bytes of constants", f"{self.constants:,}"),
            ("bytes of stack", f"{self.stack:,}"),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>12}" for name, value in rows)


def count(program: Program, constants: int, stack: int) -> Cost:
    """Adds up the operations of a program."""
    flops = comparisons = functions = 0
    for node in program.nodes:
        if node.op in FUNCTIONS:
            functions += node.out.size
        elif node.op in COMPARES:
            comparisons += max(node.out.size, node.args[0].size if node.op != "select_n" else 0)
        else:
            flops += _flops(node)
    return Cost(flops, comparisons, functions, constants, stack)


def _flops(node: Node) -> int:
    if node.op == "dot_general":
        (contract, _), _ = node.params["dimension_numbers"]
        return 2 * node.out.size * math.prod(node.args[0].shape[axis] for axis in contract)
    if node.op == "integer_pow":
        n = abs(node.params["y"])
        return node.out.size * max(n.bit_length() + n.bit_count() - 2 + (node.params["y"] < 0), 0)
    return max(node.out.size, node.args[0].size) if node.op in SUMS and node.out.real else 0
