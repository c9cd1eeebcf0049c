"""What is kept in memory on the way from observation to action in C, and what is computed where it is read.

Views (broadcasts, slices, rows of a table) are never copied. Element-wise results are computed inside the one loop that
reads them; they are kept where several loops, or one of them several times, read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlx.export import c_ops
from rlx.export.ir import Node, Program, Shape, Value

VIEWS = {"reshape", "broadcast_in_dim", "transpose", "slice", "rev"}
MOVING = {"gather", "dynamic_slice"}  # views at a place that is computed
REDUCED = {f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or")}
FIRSTS = {"argmax", "argmin"}
CUMULATIVE = {"cumsum", "cumprod", "cummax", "cummin"}
SCATTERS = {"scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"}
REWRITTEN = {"pad", "dynamic_update_slice", *SCATTERS}  # filled first, then written into
BLOCKS = {"concatenate", *REWRITTEN, *REDUCED, *FIRSTS, *CUMULATIVE}
SUPPORTED = frozenset([*c_ops.ELEMENTWISE, *VIEWS, *MOVING, *BLOCKS, "dot_general", "iota"])
SHORT = 16  # sums of so few products are written out


@dataclass(eq=False)
class Place:
    """Where a kept value is: a scalar or a block of ``size`` elements."""

    name: str
    size: int
    dtype: str
    scalar: bool


@dataclass(eq=False)
class Plan:
    kept: set[int] = field(default_factory=set)  # ids of values
    places: dict[int, Place] = field(default_factory=dict)
    blocks: list[Place] = field(default_factory=list)

    def holds(self, value: Value) -> bool:
        return id(value) in self.kept


def inner_size(node: Node) -> int:
    """Products per element of a dot_general."""
    axes = node.params["dimension_numbers"][0][0]
    size = 1
    for axis in axes:
        size *= node.args[0].shape[axis]
    return size


def groups(inside: Shape, outside: Shape) -> list[tuple[list[int], list[int]]]:
    """The axes of two shapes of one size, cut into the shortest runs of equal size."""
    found, i, j = [], 0, 0
    while i < len(inside) or j < len(outside):
        ins: list[int] = []
        outs: list[int] = []
        a, b = 1, 1
        while a != b or not (ins or outs):
            if j >= len(outside) or (a < b and i < len(inside)) or (a == b and i < len(inside) and not ins):
                a, i = a * inside[i], i + 1
                ins.append(i - 1)
            else:
                b, j = b * outside[j], j + 1
                outs.append(j - 1)
        found.append((ins, outs))
    return found


def straight(node: Node) -> bool:
    """A reshape in which each axis read is a run of axes made: its index needs no division."""
    x = node.args[0].shape
    return 0 in x or all(sum(x[i] != 1 for i in ins) <= 1 for ins, _ in groups(x, node.out.shape))


def plan(program: Program) -> Plan:
    """Decides what is kept, and where."""
    made = Plan()
    users: dict[int, list[Node]] = {}
    for node in program.nodes:
        for a in node.args:
            users.setdefault(id(a), []).append(node)
    roots: dict[int, set[int]] = {}
    flat: set[int] = set()  # read in the order of memory
    frequent: set[int] = set()  # views whose elements are read more than once
    made.kept.add(id(program.action))
    for node in reversed(program.nodes):
        out = node.out
        reading = users.get(id(out), [])
        found: set[int] = set()
        often = False
        for user in reading:
            found |= {id(user.out)} if made.holds(user.out) else roots[id(user.out)]
            often = often or _reads_often(user, out) or id(user.out) in frequent
        view = node.op in VIEWS or node.op in MOVING or node.op == "iota"
        if view and often:
            frequent.add(id(out))
        if id(out) not in made.kept:
            if node.op == "reshape" and (id(out) in flat or not straight(node)):
                flat.add(id(node.args[0]))
            elif id(out) in flat or (not view and _keeps(node, often or len(found) > 1)):
                made.kept.add(id(out))
        elif node.op == "reshape" and not straight(node):
            flat.add(id(node.args[0]))
        if any(user.op in MOVING | SCATTERS and _fetched(user, out) for user in reading) and node.op not in VIEWS:
            made.kept.add(id(out))
        roots[id(out)] = found
    _allot(program, made)
    return made


def _keeps(node: Node, shared: bool) -> bool:
    if node.op in BLOCKS:
        return True
    if node.op == "dot_general" and inner_size(node) > SHORT:
        return True
    return shared or node.out.size == 1


def _reads_often(user: Node, value: Value) -> bool:
    """Whether elements of ``value`` are read more than once to make ``user``."""
    if user.op == "dot_general" or user.op in MOVING or user.op in SCATTERS:
        return True
    if user.op == "broadcast_in_dim" or user.op in c_ops.ELEMENTWISE:
        return user.out.size > value.size
    return user.op in ("pad", "dynamic_update_slice") and value is not user.args[0]


def _fetched(user: Node, value: Value) -> bool:
    """Whether ``user`` needs ``value`` in memory: indices, and what is read at a computed place."""
    return any(a is value for a in user.args)


def leaves(program: Program, made: Plan, node: Node) -> Iterator[Value]:
    """The kept values that are read to make ``node``."""
    stack, seen = list(node.args), set()
    while stack:
        value = stack.pop()
        if id(value) in seen or value.node is None or value.const is not None:
            continue
        seen.add(id(value))
        if made.holds(value):
            yield value
        else:
            stack.extend(value.node.args)


def _allot(program: Program, made: Plan) -> None:
    """Gives each kept value its place; blocks are used again once nobody reads them any more."""
    last: dict[int, int] = {}
    for i, node in enumerate(program.nodes):
        for value in leaves(program, made, node):
            if made.holds(node.out) or node.op in MOVING:
                last[id(value)] = max(last.get(id(value), i), i)
    busy: list[tuple[int, Place]] = []  # until which node, which block
    for i, node in enumerate(program.nodes):
        value = node.out
        if not made.holds(value):
            continue
        kind = c_ops.ctype(value.dtype)
        if value is program.action:
            made.places[id(value)] = Place("action", value.size, kind, False)
        elif value.size == 1 and node.op not in REWRITTEN:
            made.places[id(value)] = Place(f"s{i}", 1, c_ops.ctype(value.dtype, single=True), True)
        else:
            busy_now = {id(block) for until, block in busy if until >= i}
            free = [b for b in made.blocks if id(b) not in busy_now and b.dtype == kind]
            fits = sorted((b for b in free if b.size >= value.size), key=lambda b: b.size)
            block = (fits or sorted(free, key=lambda b: -b.size) or [Place(f"w{len(made.blocks)}", 0, kind, False)])[0]
            if block.size == 0:
                made.blocks.append(block)
            block.size = max(block.size, value.size)
            made.places[id(value)] = block
            busy.append((last.get(id(value), i), block))
