"""Fields of configs: what a number may be, stands where the field is declared, and so does what it was called before."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import io
import math
import numbers
import textwrap
import tokenize
import types
from collections.abc import Iterable
from typing import Any

WHOLE = 2**31 - 1  # the largest whole number: counts and shapes of compiled programs are int32


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number may be. NaN is in no bounds; a whole number is an int32 where ``most`` says nothing else."""

    least: float | None = None
    most: float | None = None
    above: float | None = None  # the open bounds
    below: float | None = None
    finite: bool = True

    def hold(self, value: float) -> bool:
        """Whether ``value`` is within them."""
        return (
            value == value
            and not self._is_no_int32(value)
            and (not self.finite or abs(value) < math.inf)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def _is_no_int32(self, value: float) -> bool:
        return self.most is None and isinstance(value, numbers.Integral) and abs(value) > WHOLE

    def refusal(self, value: float) -> str:
        """``"must be at least 1, got 0"``"""
        if self._is_no_int32(value):
            return f"must be between -{WHOLE:_} and {WHOLE:_}, got {value}"
        finite = "finite" if self.finite and not abs(value) < math.inf else ""
        return f"must be {' and '.join(filter(None, [finite, str(self)])) or 'a number'}, got {value}"

    def __str__(self) -> str:
        given = {"at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        return " and ".join(f"{word} {bound:,}".replace(",", "_") for word, bound in given.items() if bound is not None)


def traced(
    default: float,
    help: str = "",
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> Any:
    """A dataclass field whose value is a traced hyper-parameter, marked ``[traced]`` in ``--help``. Bounds as in `size`."""
    return _field(default, help, Bounds(least, most, above, below, finite), traced=True)


def size(
    default: Any,
    help: str = "",
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
    budget: bool = False,
) -> Any:
    """A dataclass field of a static number, or of a tuple of them (each is bounded), or None where its type allows that.

    ``least`` and ``most`` are closed bounds, ``above`` and ``below`` open ones; infinity needs ``finite=False``. Without
    ``help`` a comment behind the field says what it is, as for fields that have no bounds. ``budget``: it says how long a run
    is and nothing else, so a run may go on with a larger one.
    """
    return _field(default, help, Bounds(least, most, above, below, finite), traced=False, budget=budget)


def check(config: Any, who: str = "") -> None:
    """Holds all fields, nested ones too, to the bounds that they were declared with.

    Raises:
        ValueError: names ``who``, and each field with its value and its bounds.
    """
    found = [f"{name} {what}" for name, what in faults(config)]
    if found:
        raise ValueError(f"{who}{': ' if who else ''}{'; '.join(found)}.")


def hint(config: Any, name: str) -> str:
    """What to say of a dotted ``name`` that ``config`` does not have: what it is called now, or what is nearest. Starts with a
    space."""
    new = renamed(config, name)
    every = {leaf for leaf, _ in leaves(config)} | {field.name for field in dataclasses.fields(config)}
    return f" It is called {new!r} now." if new else nearest(name, every)


def renamed(config: Any, name: str) -> str | None:
    """The dotted name that the field had when it was called ``name`` before; None where it never was."""
    part, _, rest = name.partition(".")
    for cls in type(config).__mro__:
        if name in vars(cls).get("RENAMED", {}):
            return vars(cls)["RENAMED"][name]
    inner = getattr(config, part, None)
    new = renamed(inner, rest) if rest and dataclasses.is_dataclass(inner) else None
    return f"{part}.{new}" if new else None


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest allowed ones, or all where none is near. Starts with a space."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(name, allowed, n=3, cutoff=0.6)
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    return f" Allowed: {', '.join(allowed)}." if allowed else " There are none."


def budget(config: Any, prefix: str = "") -> dict[str, float]:
    """The fields that say how long a run is, by dotted name."""
    found: dict[str, float] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= budget(value, f"{prefix}{field.name}.")
        elif field.metadata.get("budget"):
            found[prefix + field.name] = value
    return found


def leaves(config: Any, prefix: str = "") -> Iterable[tuple[str, tuple[Any, bool]]]:
    """Dotted name, value, and whether it is traced, of each field that is no config itself."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, (value, field.metadata.get("traced", False))


def _field(default: Any, help: str, bounds: Bounds, traced: bool, budget: bool = False) -> Any:
    for _, number in numbers_in("", default):
        if not bounds.hold(number):
            raise ValueError(f"a default {bounds.refusal(number)}.")
    marks = ", ".join(filter(None, ["traced" if traced else "", str(bounds)]))
    metadata = {"traced": traced, "budget": budget, "bounds": bounds, "marks": f"[{marks}]" if marks else ""}
    return dataclasses.field(
        default=default, metadata={**metadata, "help": f"{help} {metadata['marks']}".strip() if help else None}
    )


def numbers_in(name: str, value: Any) -> Iterable[tuple[str, float]]:
    """The numbers in a field's value by name: itself, or the entries of a tuple."""
    if isinstance(value, (tuple, list)):
        for i, entry in enumerate(value):
            yield from numbers_in(f"{name}[{i}]", entry)
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        yield name, value  # type: ignore[misc]


def faults(config: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Dotted name, and ``"must be at least 1, got 0"``, of each number that is out of its bounds."""
    for field in dataclasses.fields(config):
        value, bounds = getattr(config, field.name), field.metadata.get("bounds")
        if dataclasses.is_dataclass(value):
            yield from faults(value, f"{prefix}{field.name}.")
        elif bounds is not None:
            for name, number in numbers_in(prefix + field.name, value):
                if not bounds.hold(number):
                    yield name, bounds.refusal(number)


def tell_bounds(config: Any) -> None:
    """Puts bounds behind the comments that ``--help`` reads: tyro takes the one or the other."""
    for value in vars(config).values():
        if dataclasses.is_dataclass(value):
            tell_bounds(value)
    untold = [f for f in dataclasses.fields(config) if f.metadata.get("marks") and f.metadata.get("help") is None]
    comments = _comments(type(config)) if untold else {}
    for field in untold:
        words = f"{comments.get(field.name, '')} {field.metadata['marks']}".strip()
        field.metadata = types.MappingProxyType({**field.metadata, "help": words})


def _comments(cls: type) -> dict[str, str]:
    """The comment at the end of each field's statement, by field."""
    found: dict[str, str] = {}
    for kind in reversed(cls.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(kind)) if dataclasses.is_dataclass(kind) else ""
        except (OSError, TypeError):  # a class that was not written in a file
            continue
        line: list[tokenize.TokenInfo] = []
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                line.append(token)
            if token.type == tokenize.NEWLINE:
                code = [t for t in line if t.type != tokenize.COMMENT]
                comments = [t.string[1:].strip() for t in line if t.type == tokenize.COMMENT and t.start > code[0].start]
                if len(code) > 1 and code[1].string == ":" and comments:
                    found[code[0].string] = " ".join(comments)
                line = []
    return found
