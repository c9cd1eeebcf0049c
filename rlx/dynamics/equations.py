"""Sparse models in words: text for people, LaTeX for papers, Python and C for programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rlx.dynamics.dictionary import Dictionary
from rlx.dynamics.sparse_model import SparseModel

Format = Literal["text", "latex", "python", "c"]


def equations(
    model: SparseModel,
    names: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    fmt: Format = "text",
    digits: int = 4,
    deviations: bool = False,
) -> str:
    """The aggregate's equations, one line per output.

    ``names``: of the variables, z0, z1, ... if not given. ``targets``: of the outputs; if not given, they are the next values
    of the variables, or their time derivatives where the model is continuous. ``deviations`` adds to each coefficient its
    standard deviation over the members (text and LaTeX).
    Python is a function of numbers or arrays, C one of doubles.

    Raises:
        ValueError: unknown format, a wrong number of names, or for Python and C names that are no identifiers.
    """
    if fmt not in ("text", "latex", "python", "c"):
        raise ValueError(f"fmt={fmt!r} is unknown; give 'text', 'latex', 'python' or 'c'.")
    coef = np.asarray(model.coef, np.float64)
    std = np.asarray(model.members, np.float64).std(0) if deviations else None
    given = list(names) if names is not None else [f"z{i}" for i in range(model.library.variables)]
    outputs = list(targets) if targets is not None else _outputs(given, len(coef), fmt, model.continuous)
    if len(outputs) != len(coef):
        raise ValueError(f"this model has {len(coef)} outputs; {len(outputs)} names were given: {outputs}.")
    if fmt in ("python", "c"):
        return _code(coef, model.library, given, outputs, fmt)
    style = {"power": "{}^{}", "times": " "} if fmt == "text" else {"power": "{}^{{{}}}", "times": r" \, "}
    terms = model.library.names(given, **style)
    lines = []
    for k, name in enumerate(outputs):
        parts = [
            (coef[k, j] < 0, _number(abs(coef[k, j]), digits, fmt, None if std is None else std[k, j]), terms[j])
            for j in np.flatnonzero(coef[k])
        ]
        lines.append((name, _sum(parts, style["times"])))
    if fmt == "latex":
        return "\\begin{aligned}\n" + " \\\\\n".join(f"{a} &= {b}" for a, b in lines) + "\n\\end{aligned}"
    width = max(len(a) for a, _ in lines)
    return "\n".join(f"{a:{width}} = {b}" for a, b in lines)


def _outputs(given: list[str], outputs: int, fmt: str, continuous: bool) -> list[str]:
    following = {"text": "{}'", "latex": "{}_{{k+1}}", "python": "next_{}", "c": "next_{}"}
    derivative = {"text": "d{}/dt", "latex": r"\dot{{{}}}", "python": "d{}_dt", "c": "d{}_dt"}
    form = (derivative if continuous else following)[fmt]
    return [form.format(name) for name in given[:outputs]]


def _number(value: float, digits: int, fmt: str, deviation: float | None) -> str:
    text = f"{value:.{digits}g}"
    if fmt == "latex" and "e" in text:
        base, power = text.split("e")
        text = rf"{base} \cdot 10^{{{int(power)}}}"
    if deviation is None:
        return text
    return f"({text} +- {deviation:.1g})" if fmt == "text" else rf"({text} \pm {deviation:.1g})"


def _sum(parts: list[tuple[bool, str, str]], times: str) -> str:
    """Signed terms in a row; a coefficient of 1 is left out, a term 1 too."""
    out = ""
    for minus, number, term in parts:
        word = number if term == "1" else term if number == "1" else f"{number}{times}{term}"
        out += f" {'-' if minus else '+'} {word}" if out else f"{'-' if minus else ''}{word}"
    return out or "0"


def _code(coef: np.ndarray, library: Dictionary, given: list[str], outputs: list[str], fmt: str) -> str:
    odd = [n for n in (*given, *outputs) if not re.fullmatch(r"[A-Za-z_]\w*", n)]
    if odd:
        raise ValueError(f"names in {fmt} must be identifiers; {odd} are not.")
    sums = []
    for row in coef:
        parts = []
        for j in np.flatnonzero(row):
            factors = [given[i] for i in library.factors[j]]
            parts.append((row[j] < 0, " * ".join([repr(float(abs(row[j]))), *factors]), "1"))
        sums.append(_sum(parts, " * ") if parts else "0.0")
    if fmt == "python":
        body = [f"    {name} = {text}" for name, text in zip(outputs, sums, strict=True)]
        return "\n".join([f"def model({', '.join(given)}):", *body, f"    return {', '.join(outputs)}"]) + "\n"
    body = [f"    out[{k}] = {text};  /* {name} */" for k, (name, text) in enumerate(zip(outputs, sums, strict=True))]
    return "\n".join([f"void model({', '.join(f'double {n}' for n in given)}, double *out)", "{", *body, "}"]) + "\n"
