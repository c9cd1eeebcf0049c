"""A policy as one Python file that needs numpy alone."""

from __future__ import annotations

import base64
import math
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx.export import law, numpy_helpers, numpy_ops
from rlx.export.ir import Program, Value

BATCH = "B"  # the name of the number of rows, in the trace and in the file
ROOM = 4_000_000  # elements of the largest array on the way
_SIZE = re.compile(r"[\dB+\-* ,()]*")


def to_numpy(policy: Any, path: str | os.PathLike, dtype: str = "float32") -> Path:
    """Writes the deterministic law of ``policy`` as a Python file; gives its path.

    The file holds ``act(obs) -> action`` for one observation [n] or a batch [W, n], and ``OBS`` and ``ACTION``, their sizes,
    and ``LOW`` and ``HIGH`` [m], between which actions are: in the environment's own units.
    It imports numpy and the standard library; its arrays stand in it as text. ``dtype`` is what it computes and gives.

    Raises:
        ValueError: the policy is not a memoryless, deterministic law from one vector to another, it uses an operation that
            is not known here, or ``dtype`` is unknown.
    """
    path = Path(path)
    if path.suffix != ".py":
        raise ValueError(f"the file is Python source, its name ends in .py; got {path.name!r}.")
    written = source(policy, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written)
    return path


def source(policy: Any, dtype: str = "float32") -> str:
    """The text that `to_numpy` writes."""
    found = law.law_of(policy)
    program = _any_batch(found, dtype)
    if program is None:
        return _file(law.traced(found, dtype, numpy_ops.SUPPORTED), found, many=False)
    return _file(program, found, many=True)


def _any_batch(found: law.Law, dtype: str) -> Program | None:
    """The program for any number of rows; None where the law cannot be traced so, or needs a size that is no plain formula."""
    try:
        (rows,) = jax.export.symbolic_shape(BATCH)
        program = law.traced(found, dtype, numpy_ops.SUPPORTED, rows)
        sizes = [n for node in program.nodes for value in (node.out, *node.args) for n in value.shape]
        return program if all(_SIZE.fullmatch(str(n)) for n in sizes) else None
    except Exception:  # whatever the law's code makes of a size without a value
        law.traced(found, dtype, numpy_ops.SUPPORTED)  # says what is wrong, where it is the law itself
        return None


def _file(program: Program, found: law.Law, many: bool) -> str:
    n, m = program.sizes
    constants, names = _constants(program)
    body = _body(program, names)
    used = {name for name in numpy_helpers.ALL if re.search(rf"(?<![.\w]){name}\(", body)}
    helpers = numpy_helpers.source(used).replace("  # noqa: B905", "").replace(": Array", "").replace(") -> Array:", "):")
    helpers = helpers.replace(": Any", "").replace(") -> tuple:", "):")
    needs = "import base64\n" + ("import math\n" if "math." in helpers else "") + "\nimport numpy as np\n"
    rows = max(1, ROOM // _largest(program)) if many else 1
    kind = program.real.name
    parts = [
        f'"""{_about(program, found)}"""\n\n{needs}',
        f"OBS, ACTION = {n}, {m}\n{_bounds(program, found)}ROWS = {rows}  # at a time, so that they fit into memory\n",
        constants,
        f"\n{helpers}\n" if helpers else "",
        f'''
def act(obs):
    """The action [{m}] of one observation [{n}], or the actions [W, {m}] of a batch [W, {n}], in {kind}."""
    x = np.asarray(obs, np.{kind})
    if x.shape[-1:] != (OBS,) or x.ndim > 2:
        raise ValueError(f"an observation has shape ({{OBS}},), or a batch of them (W, {{OBS}}); got {{x.shape}}.")
    if x.ndim == 1:
        return act(x[None])[0]
    if not len(x):
        return np.zeros((0, ACTION), np.{kind})
    with np.errstate(all="ignore"):
        return np.concatenate([_law(x[i : i + ROWS]) for i in range(0, len(x), ROWS)])
''',
        f"\ndef _law(obs):\n{textwrap.indent(body, '    ')}\n",
    ]
    return "\n".join(part for part in parts if part)


def _bounds(program: Program, found: law.Law) -> str:
    if found.low is None or found.high is None:
        return ""
    written = lambda x: f"np.array({x.astype(program.real).tolist()}, np.{program.real.name})"
    return f"LOW, HIGH = {written(found.low)}, {written(found.high)}  # of an action\n"


def _largest(program: Program) -> int:
    """Elements per row of the largest array on the way."""
    sizes = [[int(eval(str(n), {BATCH: 1})) for n in node.out.shape] for node in program.nodes]
    return max((math.prod(shape) for shape in sizes), default=1)


def _about(program: Program, found: law.Law) -> str:
    n, m = program.sizes
    stored = sum(v.const.nbytes for v in program.constants() if v.const is not None)
    return (
        f"The deterministic law of a policy ({program.name}), written by rlx.export.\n\n"
        f"act(obs) gives the action, {m} numbers, for an observation of {n} numbers, or for a batch of them:\n"
        f"{found.range()}.\n"
        f"{program.real.name} throughout; {stored} bytes of constants; numpy is all that is needed.\n"
    )


def _constants(program: Program) -> tuple[str, dict[int, str]]:
    """Source of the arrays, and by id of a value the name or literal that stands for it."""
    lines: list[str] = []
    names: dict[int, str] = {}
    stored: dict[tuple[bytes, str, tuple], str] = {}
    for value in program.constants():
        array = value.const
        assert array is not None
        if array.size and (array.tobytes() == np.full_like(array, array.flat[0]).tobytes()):
            number = numpy_ops.literal(array.flat[0], array.dtype)
            names[id(value)] = number if array.ndim == 0 else f"np.full({numpy_ops.text(array.shape)}, {number})"
            continue
        key = (array.tobytes(), array.dtype.str, array.shape)
        if key not in stored:
            stored[key] = f"C{len(stored)}"
            lines.append(_array(stored[key], array))
        names[id(value)] = stored[key]
    return "\n".join(lines), names


def _array(name: str, array: np.ndarray) -> str:
    plain = array.astype(array.dtype.newbyteorder("<"))
    words = textwrap.wrap(base64.b64encode(plain.tobytes()).decode(), 116)
    written = "\n".join(f'    "{word}"' for word in words)
    shape = numpy_ops.text(array.shape)
    return (
        f'{name} = np.frombuffer(base64.b64decode(\n{written}\n), "{plain.dtype.str}").reshape({shape})  # {array.dtype.name}'
    )


def _body(program: Program, names: dict[int, str]) -> str:
    """A line for each node."""
    lines = []
    symbolic = any(not isinstance(n, int) for node in program.nodes for n in node.out.shape)
    if symbolic:
        lines.append(f"{BATCH} = len(obs)")
    names = {**names, id(program.obs): "obs"}
    for i, node in enumerate(program.nodes):
        names[id(node.out)] = f"v{i}"
        lines.append(f"v{i} = {numpy_ops.expression(node, [names[id(a)] for a in node.args])}")
    lines.append(f"return {_result(program.action, names, symbolic)}")
    return "\n".join(lines)


def _result(action: Value, names: dict[int, str], symbolic: bool) -> str:
    name = names[id(action)]
    return f"np.array({name})" if action.node is None or action.node.op in ("broadcast_in_dim", "slice") else name
