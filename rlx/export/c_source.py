"""A policy as C99: a header and a source file that need <math.h> alone."""

from __future__ import annotations

import keyword
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.export import c_kernels, law
from rlx.export.c_ops import ctype, literal
from rlx.export.c_plan import SUPPORTED, plan
from rlx.export.c_writer import Writer
from rlx.export.cost import Cost, count
from rlx.export.ir import Program

RESERVED = set(
    "auto break case char const continue default do double else enum extern float for goto if inline int long main register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while".split()
)


@dataclass(frozen=True)
class Code:
    """C of one law."""

    name: str
    header: str
    source: str
    sizes: tuple[int, int]  # of observation and action
    real: str  # "float" or "double"
    cost: Cost


def to_c(policy: Any, folder: str | os.PathLike, name: str = "policy", dtype: str = "float32") -> tuple[Path, Path]:
    """Writes the deterministic law of ``policy`` as ``folder/name.h`` and ``folder/name.c``; gives both paths.

    ``void NAME_act(const T *obs, T *action)`` computes one action from one observation, T being float or double as ``dtype``
    says. No memory is allocated, nothing but ``action`` and the stack is written, all loops have fixed bounds. The action is in
    the environment's own units; NAME_LOW and NAME_HIGH in the header bound it.

    Raises:
        ValueError: the policy is not a memoryless, deterministic law from one vector to another, it uses an operation that
            is not known here, ``name`` cannot be the name of a C function, or ``dtype`` is unknown.
    """
    made = code(policy, name, dtype)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.h", folder / f"{name}.c"
    for path, text in zip(paths, (made.header, made.source), strict=True):
        path.write_text(text)
    return paths


def code(policy: Any, name: str = "policy", dtype: str = "float32") -> Code:
    """What `to_c` writes."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in RESERVED or keyword.iskeyword(name):
        raise ValueError(f"name={name!r} cannot name a C function; give letters, digits and _, a letter first.")
    found = law.law_of(policy)
    program = law.traced(found, dtype, SUPPORTED)
    made = plan(program)
    w = Writer(program, made, name)
    c_kernels.emit(w)
    stack = sum(block.size * _width(block.dtype) for block in made.blocks)
    cost = count(program, w.tables.stored, stack)
    real = ctype(program.real)
    blocks = [f"    {block.dtype} {block.name}[{block.size}];" for block in made.blocks]
    unused = ["    (void)obs;"] if not any("obs[" in line for line in w.lines) else []
    body = "\n".join([*blocks, *unused, *w.lines])
    helpers = "\n".join(w.expressions.helpers.values())
    source = "\n".join(
        part
        for part in (
            f"/* {_about(program, found, name, cost)} */",
            f'#include <math.h>\n\n#include "{name}.h"\n',
            _assumption(name),
            helpers + "\n" if helpers else "",
            *w.tables.texts,
            f"void {name}_act(const {real} *restrict obs, {real} *restrict action)\n{{\n{body}\n}}\n",
        )
        if part
    )
    return Code(name, _header(program, found, name, cost), source, program.sizes, real, cost)


def cost(policy: Any, dtype: str = "float32") -> Cost:
    """What one decision of ``policy`` costs as the C of `to_c` takes it; print it for a table.

    Raises:
        ValueError: as `to_c`.
    """
    return code(policy, dtype=dtype).cost


def _width(kind: str) -> int:
    return {"double": 8, "long long": 8, "unsigned long long": 8, "float": 4, "int": 4, "unsigned int": 4}.get(
        kind, 2 if "short" in kind else 1
    )


def _assumption(name: str) -> str:
    return f"typedef char {name}_needs_an_int_of_32_bits[sizeof(int) >= 4 ? 1 : -1];\n"


def _about(program: Program, found: law.Law, name: str, cost: Cost) -> str:
    n, m = program.sizes
    return "\n".join(
        [
            f"{name}: the deterministic law of a policy ({program.name}), written by rlx.export.",
            f"   obs [{n}] -> action [{m}], {program.real.name}; {found.range()}",
            f"   {cost.flops} additions and multiplications, {cost.comparisons} comparisons, {cost.functions} calls of math.h",
            f"   {cost.constants} bytes of tables, {cost.stack} bytes of arrays on the stack",
            "   No state, no allocation; loops have fixed bounds. NaN goes through: do not compile with -ffast-math.",
        ]
    )


def _bounds(program: Program, found: law.Law, upper: str) -> str:
    """Of an action, as initialisers of an array: ``const float low[NAME_ACTION] = NAME_LOW;``."""
    if found.low is None or found.high is None:
        return ""
    written = lambda x: ", ".join(literal(v, program.real) for v in x.astype(program.real))
    return f"#define {upper}_LOW {{{written(found.low)}}}\n#define {upper}_HIGH {{{written(found.high)}}}\n"


def _header(program: Program, found: law.Law, name: str, cost: Cost) -> str:
    n, m = program.sizes
    real, upper = ctype(program.real), name.upper()
    return f"""/* {_about(program, found, name, cost)} */
#ifndef {upper}_H
#define {upper}_H

#define {upper}_OBS {n}
#define {upper}_ACTION {m}
{_bounds(program, found, upper)}
#ifdef __cplusplus
extern "C" {{
#define {upper}_RESTRICT
#else
#define {upper}_RESTRICT restrict
#endif

/* action [{m}] of obs [{n}]; the two must not overlap. */
void {name}_act(const {real} *{upper}_RESTRICT obs, {real} *{upper}_RESTRICT action);

#ifdef __cplusplus
}}
#endif
#endif
"""
