"""Configuration as frozen dataclasses: one source for flags, notebooks and the JSON record in the run folder.

Every field has a default. A field made by `traced` holds a number that fills the compiled program (a learning rate, a
discount, a coefficient) and may be swept without compiling anew; every other field shapes the program::

    @dataclass(frozen=True)
    class Config:
        hidden: tuple[int, ...] = size((256, 256), least=1)  # widths: static
        actor_lr: float = traced(3e-4, least=0, help="Adam's step size for the actor.")

Bounds stand where the field is declared; `check` holds a config to them. A class says in ``RENAMED`` what its fields were
called before (``{"lr": "actor_lr"}``), so that an old name is answered with the new one. Names are dotted through nested
configs (``agent.actor_lr``); on the command line hyphens and underscores are the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import numbers
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar, Union

import tyro

from rlx.config.fields import budget, check, faults, hint, leaves, nearest, renamed, size, tell_bounds, traced

__all__ = [
    "apply",
    "budget",
    "check",
    "check_values",
    "compose",
    "from_json",
    "hint",
    "hyper",
    "nearest",
    "parse",
    "renamed",
    "replace",
    "size",
    "static",
    "stop",
    "to_json",
    "traced",
]

T = TypeVar("T")
Presets = Mapping[str, Mapping[str, Any]]  # overrides by dotted field name, by preset name


def hyper(config: Any) -> dict[str, float]:
    """The traced values by dotted name: what `rlx.types.Agent.hyper` holds."""
    return {name: float(value) for name, (value, is_traced) in leaves(config) if is_traced}


def static(config: Any) -> dict[str, Any]:
    """All other values by dotted name: two configs that agree here run the same compiled program."""
    return {name: value for name, (value, is_traced) in leaves(config) if not is_traced}


def replace(config: T, changes: Mapping[str, Any] | None = None, /, **more: Any) -> T:
    """A copy with fields changed, by dotted name: ``replace(config, {"agent.hidden": (64, 64)}, seed=1)``.

    Raises:
        ValueError: the name is unknown (the nearest is given) or the value is not of the field's type.
    """
    return _replace(config, {**(changes or {}), **more}, "")


def check_values(config: Any, name: str, values: Iterable[Any]) -> None:
    """Raises ValueError where one of ``values`` cannot be that of the field ``name``: another type, or out of its bounds."""
    for value in values:
        check(replace(config, {name: value}))


def compose(own: Presets | None = None, /, **parts: Presets) -> dict[str, dict[str, Any]]:
    """The presets of a config and of its parts as one table; those of one name apply together.

    ``compose({"debug": {"episodes": 1}}, agent={"debug": {"batch": 8}})`` is
    ``{"debug": {"episodes": 1, "agent.batch": 8}}``.
    """
    table = {name: dict(changes) for name, changes in (own or {}).items()}
    for part, presets in parts.items():
        for name, changes in presets.items():
            table.setdefault(name, {}).update({f"{part}.{field}": value for field, value in changes.items()})
    return table


def apply(config: T, presets: Presets, names: Iterable[str]) -> T:
    """``config`` under presets, in order: later ones win.

    Raises:
        ValueError: there is no preset of that name, or it sets an unknown field.
    """
    for name in names:
        if name not in presets:
            raise ValueError(f"unknown preset {name!r}.{nearest(name, presets)}")
        try:
            config = replace(config, presets[name])
        except ValueError as error:
            raise ValueError(f"preset {name!r}: {error}") from None
    return config


def to_json(config: Any) -> str:
    """The resolved config as JSON text that `from_json` reads back equal."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(entry) for entry in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)  # JSON has no word for it
        return value

    return json.dumps(plain(config), indent=2, allow_nan=False) + "\n"


def from_json(cls: type[T] | T, text: str) -> T:
    """The config written by `to_json`. Fields that the text lacks keep the defaults of ``cls`` (a class, or a config; the
    latter also says which kind of config stands in a field that may hold several).

    Raises:
        ValueError: the text is not a JSON object, or holds an unknown field or a value of another type.
    """
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"a config is a JSON object, this is {type(record).__name__}")
    return replace(_default(cls), record)


def parse(
    cls: type[T] | T,
    argv: Sequence[str] | None = None,
    presets: Presets | None = None,
    prog: str | None = None,
    description: str = "",
) -> T:
    """The config that a command line asks for: defaults of ``cls`` (a class, or a config to start from), then each
    ``--preset`` in order, then flags.

    ``argv`` leaves the program's name out; None means the process's own. Bad input, a value out of bounds too, ends the process
    with one message on stderr, naming the nearest valid flag, and exit code 2; ``--help`` with 0.
    """
    presets = presets or {}
    first = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False, usage=f"{prog or '%(prog)s'} [OPTIONS]")
    first.add_argument("--preset", action="append", default=[])
    given = sys.argv[1:] if argv is None else list(argv)
    if "--" in given:
        stop("'--' alone says nothing here: a flag is --NAME VALUE, and --help has them all.")
    chosen, flags = first.parse_known_args(given)
    try:
        config = apply(_default(cls), presets, chosen.preset)
        _refuse_old_names(config, flags)
        tell_bounds(config)
        with_words = functools.partial(tyro.cli, type(config), prog=prog, description=_describe(description, presets))
        config = with_words(args=_bools(config, flags), default=config)
    except ValueError as error:
        stop(str(error))
    wrong = [f"{_flag(name)} {what}" for name, what in faults(config)]
    if wrong:
        stop("; ".join(wrong))
    return config


def stop(message: str) -> NoReturn:
    """Ends the process for bad input: one message on stderr, exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


# ---------------------------------------------------------------------------------------------------------- inner workings


def _default(cls: Any) -> Any:
    if not isinstance(cls, type):
        return cls
    bare = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        raise TypeError(f"{cls.__name__}: every config field has a default, {', '.join(bare)} has none")
    return cls()


def _flag(name: str) -> str:
    """The flag of a dotted field name; of ``hidden[1]`` that of ``hidden``."""
    return "--" + name.partition("[")[0].replace("_", "-")


def _refuse_old_names(config: Any, flags: Sequence[str]) -> None:
    for flag in flags:
        word = flag.partition("=")[0]
        new = renamed(config, word[2:].replace("-", "_")) if word.startswith("--") else None
        if new:
            raise ValueError(f"{word} is called {_flag(new)} now.")


def _replace(config: Any, changes: Mapping[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(type(config))
    fields = {field.name for field in dataclasses.fields(config) if field.init}
    done: dict[str, Any] = {}
    for dotted, value in changes.items():
        name, _, rest = dotted.replace("-", "_").partition(".")
        if name not in fields:
            new = renamed(config, dotted.replace("-", "_"))
            every = {prefix + leaf for leaf, _ in leaves(config)} | {prefix + field for field in fields}
            say = f" It is called {prefix + new!r} now." if new else nearest(prefix + dotted, every)
            raise ValueError(f"unknown field {prefix + dotted!r} of {type(config).__name__}.{say}")
        old = done.get(name, getattr(config, name))
        nested = dataclasses.is_dataclass(old)
        if rest and not nested:
            raise ValueError(f"{prefix + name} is a value, it has no field {rest!r}")
        if nested and (rest or isinstance(value, Mapping)):
            done[name] = _replace(old, {rest: value} if rest else value, f"{prefix}{name}.")
        else:
            done[name] = _cast(value, hints[name], prefix + name)
    return dataclasses.replace(config, **done)


def _cast(value: Any, kind: Any, name: str) -> Any:
    """``value`` as an instance of the annotation ``kind``. Lists become tuples, whole numbers become floats, and a
    text where any number of them may be is the one there is."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    wrong = ValueError(f"{name} is {value!r} ({type(value).__name__}), it must be {_words(kind)}")
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _cast_any(value, args, name, wrong)
    if origin is Literal:
        if not any(value == word and type(value) is type(word) for word in args):
            raise ValueError(f"{wrong}.{nearest(value, map(str, args))}" if isinstance(value, str) else str(wrong))
        return value
    if args == (str, ...) and isinstance(value, str):
        return (value,) if value else ()
    if origin is tuple and isinstance(value, (tuple, list)):
        kinds = args[:1] * len(value) if args[-1:] == (...,) else args
        if len(kinds) != len(value):
            raise wrong
        return tuple(_cast(entry, each, f"{name}[{i}]") for i, (entry, each) in enumerate(zip(value, kinds, strict=True)))
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _replace(_default(kind), value, f"{name}.")
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {_cast(key, args[0], name): _cast(entry, args[1], f"{name}[{key!r}]") for key, entry in value.items()}
    if kind in (int, float) and isinstance(value, {int: numbers.Integral, float: numbers.Real}[kind]):
        if not isinstance(value, bool):
            return kind(value)
    elif kind is float and value in ("inf", "-inf", "nan"):
        return float(value)
    elif isinstance(kind, type) and kind is not int and isinstance(value, kind):
        return value
    elif kind is types.NoneType and value is None:
        return None
    raise wrong


def _cast_any(value: Any, kinds: Sequence[Any], name: str, wrong: ValueError) -> Any:
    exact = [kind for kind in kinds if type(value) is kind]  # 1 stays an int under float | int
    for kind in [*exact, *kinds]:
        try:
            return _cast(value, kind, name)
        except ValueError:
            continue
    raise wrong


def _words(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, args))
    if kind is types.NoneType:
        return "None"
    return str(kind) if origin else getattr(kind, "__name__", str(kind))


def _bools(config: Any, flags: Sequence[str]) -> list[str]:
    """Turns ``--x False`` and ``--x=False`` into ``--no-x``, which tyro knows. Of ``--x --no-x`` the last one wins."""
    bools = {name for name, (value, _) in leaves(config) if isinstance(value, bool)}
    out: list[str] = []
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals and out and flag.lower() in ("true", "false"):
            name, value = out[-1], flag
        if name.startswith("--") and name[2:].replace("-", "_") in bools and value.lower() in ("true", "false"):
            stem, _, last = name[2:].rpartition(".")
            out.append(f"--{stem + '.' if stem else ''}{'' if value.lower() == 'true' else 'no-'}{last}")
        else:
            out.append(flag)
    return out


def _describe(description: str, presets: Presets) -> str:
    if not presets:
        return description
    lines = [f"  --preset {name}: {', '.join(f'{k}={v}' for k, v in changes.items())}" for name, changes in presets.items()]
    return "\n".join([description, "", "Presets; several stack, later ones win, flags win over all:", *lines]).strip()
