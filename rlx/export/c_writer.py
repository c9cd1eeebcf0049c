"""Reading and writing elements in C: loops, temporaries, and where an element of a view comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rlx.export import c_ops
from rlx.export.c_index import Index, Tables, linear
from rlx.export.c_plan import Plan, groups, straight
from rlx.export.ir import Node, Program, Value
from rlx.export.numpy_ops import filling, windows
from rlx.export.simplify import inside

Indices = tuple[Index, ...]


class Writer:
    """Lines of one C function."""

    def __init__(self, program: Program, plan: Plan, prefix: str):
        self.program, self.plan = program, plan
        self.expressions = c_ops.Expressions(program.real)
        self.tables = Tables(prefix)
        self.lines: list[str] = []
        self.loops: list[str] = []
        self.known: dict[tuple, str] = {}  # temporaries in reach
        self.count = 0

    # -------------------------------------------------------------------------------------------------------- statements

    def line(self, text: str) -> None:
        self.lines.append("    " * (len(self.loops) + 1) + text)

    def new(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    @contextmanager
    def loop(self, size: int, start: int = 0, step: int = 1, down: bool = False) -> Iterator[Index]:
        """A loop over ``start``, ``start + step``, ... below ``size``; none where there is but one turn."""
        if size - start == 1 and step == 1:
            yield Index(start)
            return
        i = self.new("i")
        head = f"int {i} = {size - 1}; {i} >= {start}; {i}--" if down else f"int {i} = {start}; {i} < {size}; {i}++"
        head = head if step == 1 else f"int {i} = {start}; {i} + {step} <= {size}; {i} += {step}"
        self.line(f"for ({head}) {{")
        self.loops.append(i)
        outer = dict(self.known)
        yield Index(0, ((i, 1),))
        self.known = outer
        self.loops.pop()
        self.line("}")

    @contextmanager
    def nest(self, sizes: Sequence[int]) -> Iterator[Indices]:
        """Loops inside each other."""
        if not sizes:
            yield ()
            return
        with self.loop(sizes[0]) as first, self.nest(sizes[1:]) as rest:
            yield (first, *rest)

    def temp(self, kind: str, text: str) -> str:
        name = self.new("t")
        self.line(f"const {kind} {name} = {bare(text)};")
        return name

    def store(self, value: Value, index: Sequence[Index], text: str) -> None:
        """Writes an element of a kept value."""
        place = self.plan.places[id(value)]
        if place.scalar and text.isidentifier():
            place.name = text
        elif place.scalar:
            self.line(f"const {place.dtype} {place.name} = {text};")
        else:
            self.line(f"{place.name}[{linear(index, value.shape)}] = {text};")

    # ---------------------------------------------------------------------------------------------------------- elements

    def at(self, value: Value, index: Sequence[Index]) -> str:
        """An element, as an expression without side effects."""
        if value.const is not None:
            return self.tables.read(value, index, self.loops)
        if value is self.program.obs:
            return f"obs[{linear(index, value.shape)}]"
        if self.plan.holds(value):
            place = self.plan.places[id(value)]
            return place.name if place.scalar else f"{place.name}[{linear(index, value.shape)}]"
        assert value.node is not None
        return self.define(value.node, tuple(index))

    def define(self, node: Node, index: Indices) -> str:
        """An element of ``node.out``, computed here."""
        if node.op in ("gather", "dynamic_slice"):
            return self._moved(node, index)
        if node.op == "reshape" and not straight(node):
            return self._flat(node.args[0], linear(index, node.out.shape))
        if node.op in INDEX:
            return self.at(node.args[0], INDEX[node.op](node, index))
        if node.op == "iota":
            return f"({index[node.params['dimension']]})"
        key = (id(node.out), index)
        if key not in self.known:
            if node.op == "dot_general":
                text = self._sum(node, index)
            else:
                text = self.expressions.write(node, [self.at(a, broadcast_index(a, index)) for a in node.args])
            self.known[key] = self.temp(c_ops.ctype(node.out.dtype, single=True), text)
        return self.known[key]

    def _flat(self, value: Value, place: Index) -> str:
        """The element at a place in memory."""
        if value is self.program.obs:
            return f"obs[{place}]"
        if not self.plan.holds(value):
            assert value.node is not None and value.node.op == "reshape"
            return self._flat(value.node.args[0], place)
        block = self.plan.places[id(value)]
        return block.name if block.scalar else f"{block.name}[{place}]"

    def _sum(self, node: Node, index: Indices) -> str:
        """A short sum of products, written out."""
        parts = []
        for left, right in products(node, index):
            parts.append(f"{self.at(node.args[0], left)} * {self.at(node.args[1], right)}")
        return " + ".join(parts) or c_ops.literal(0, node.out.dtype)

    # ------------------------------------------------------------------------------------------- views at computed places

    def _moved(self, node: Node, index: Indices) -> str:
        x = node.args[0]
        if node.op == "dynamic_slice":
            starts, _ = self.starts(node, ())
            return self.at(x, tuple(i + starts.get(axis, 0) for axis, i in enumerate(index)))
        (window, lead), (dropped, _, x_batch, i_batch) = windows(node)
        kept = [axis for axis in range(len(x.shape)) if axis not in dropped and axis not in x_batch]
        place = tuple(index[axis] for axis in lead)
        starts, good = self.starts(node, place)
        found = [Index() for _ in x.shape]
        for axis, out_axis in zip(kept, window, strict=True):
            found[axis] = index[out_axis]
        for axis, i_axis in zip(x_batch, i_batch, strict=True):
            found[axis] = place[i_axis]
        for axis, start in starts.items():
            found[axis] = found[axis] + start
        taken = self.at(x, found)
        fill = filling(node)
        return taken if fill is None else f"({good} ? {taken} : {c_ops.literal(fill, node.out.dtype)})"

    def starts(self, node: Node, place: Indices) -> tuple[dict[int, Index], str]:
        """Where a window begins, by axis of what it is cut from, clamped; and whether it had to be: not, if "1"."""
        x = node.args[0]
        if node.op in ("dynamic_slice", "dynamic_update_slice"):
            first = 1 if node.op == "dynamic_slice" else 2
            sizes = node.params["slice_sizes"] if first == 1 else node.args[1].shape
            moved: list[tuple[int, Value, Indices]] = [(axis, node.args[first + axis], ()) for axis in range(len(x.shape))]
            sure = False
        else:
            index, (_, (_, axes, _, _)) = node.args[1], windows(node)
            sizes = node.params["slice_sizes"] if node.op == "gather" else window_sizes(node)
            moved = [(axis, index, (*place, Index(k))) for k, axis in enumerate(axes)]
            sure = node.op == "gather" and inside(node)
        found, tests = {}, []
        for axis, value, at in moved:
            key = (id(node), axis, at)
            limit = x.shape[axis] - sizes[axis]
            if limit == 0 and (node.op.startswith("dynamic") or filling(node) is None):
                continue
            certain = sure or (value.low >= 0 and value.high <= limit)
            if key not in self.known:
                self.known[key] = self._start(self.at(value, at), value.dtype.name, limit, certain)
            raw, name = self.known[key].split("|")
            found[axis] = Index(0, ((name, 1),)) if not name.isdigit() else Index(int(name))
            tests += [] if certain else [f"{raw} == {name}"]
        return found, "(" + " && ".join(tests) + ")" if tests else "1"

    def _start(self, text: str, kind: str, limit: int, certain: bool) -> str:
        if text.isdigit():
            return f"{text}|{min(int(text), limit)}"
        raw = text if text.isidentifier() and kind == "int32" else self.temp("int", f"(int){text}")
        if certain:
            return f"{raw}|{raw}"
        return f"{raw}|{self.temp('int', f'{raw} < 0 ? 0 : {raw} > {limit} ? {limit} : {raw}')}"


def broadcast_index(value: Value, index: Indices) -> Indices:
    """Where an element-wise operation reads ``value``: its axes of size 1 are read all along."""
    return tuple(i if n != 1 else Index() for i, n in zip(index, value.shape, strict=True)) if value.shape else ()


def bare(text: str) -> str:
    """Without parentheses around the whole."""
    if not text.startswith("("):
        return text
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[1:-1] if i == len(text) - 1 else text
    return text


def window_sizes(node: Node) -> list[int]:
    """Of a scatter, by axis of what is written to."""
    (window, _), (dropped, _, x_batch, _) = windows(node)
    kept = iter(window)
    n = len(node.args[0].shape)
    return [1 if axis in dropped or axis in x_batch else node.args[2].shape[next(kept)] for axis in range(n)]


def products(node: Node, index: Indices) -> Iterator[tuple[Indices, Indices]]:
    """The pairs of elements that a short dot_general adds up."""
    (contract, _), _ = node.params["dimension_numbers"]
    total = [0] * len(contract)
    sizes = [node.args[0].shape[axis] for axis in contract]
    count = 1
    for n in sizes:
        count *= n
    for flat in range(count):
        for k in reversed(range(len(sizes))):
            flat, total[k] = divmod(flat, sizes[k])
        yield operands(node, index, [Index(k) for k in total])


def operands(node: Node, index: Indices, inner: Sequence[Index]) -> tuple[Indices, Indices]:
    """The indices of both factors of a dot_general, from that of the result and those along the sums."""
    contract, batch = node.params["dimension_numbers"]
    free = iter(index[len(batch[0]) :])
    found = []
    for x, sums, shared in zip(node.args, contract, batch, strict=True):
        place: list[Index] = []
        for axis in range(len(x.shape)):
            if axis in sums:
                place.append(inner[list(sums).index(axis)])
            else:
                place.append(index[list(shared).index(axis)] if axis in shared else next(free))
        found.append(tuple(place))
    return found[0], found[1]


def _broadcast(node: Node, index: Indices) -> Indices:
    axes, x = node.params["broadcast_dimensions"], node.args[0]
    return tuple(index[axis] if n != 1 else Index() for axis, n in zip(axes, x.shape, strict=True))


def _reshape(node: Node, index: Indices) -> Indices:
    x = node.args[0].shape
    found = [Index() for _ in x]
    for ins, outs in groups(x, node.out.shape):
        for axis in ins:
            if x[axis] != 1:
                found[axis] = linear([index[k] for k in outs], [node.out.shape[k] for k in outs])
    return tuple(found)


def _slice(node: Node, index: Indices) -> Indices:
    steps = node.params["strides"] or [1] * len(index)
    return tuple(i * step + start for i, start, step in zip(index, node.params["start_indices"], steps, strict=True))


def _transpose(node: Node, index: Indices) -> Indices:
    found = [Index() for _ in index]
    for axis, source in enumerate(node.params["permutation"]):
        found[source] = index[axis]
    return tuple(found)


def _reverse(node: Node, index: Indices) -> Indices:
    axes = node.params["dimensions"]
    return tuple(i * -1 + (n - 1) if axis in axes else i for axis, (i, n) in enumerate(zip(index, node.out.shape, strict=True)))


INDEX = {"broadcast_in_dim": _broadcast, "reshape": _reshape, "slice": _slice, "transpose": _transpose, "rev": _reverse}
