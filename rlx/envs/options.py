"""Options that environments share, and what is said of wrong ones."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

OWN_FLAGS = ("repeat", "time_limit")


class NoPhysics(ValueError):
    """The environment has no state of physics to store."""

    def __init__(self, name: str, why: str):
        super().__init__(f"{name} cannot store its physics: {why}. Leave physics=true out.")


def positive(**options: int | None) -> None:
    """Raises ValueError for an option that is not a positive whole number (or None)."""
    for name, value in options.items():
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if value is not None and not (whole and value >= 1):
            raise ValueError(f"{name}={value!r}: give a whole number of at least 1.")


def dm_control_suite() -> Any:
    """The module `dm_control.suite`.

    Raises:
        ValueError: it cannot be imported. From Python 3.13 on a plain ``pip install`` of rlx leaves dm_control out: it requires
            labmaze, which has no wheels there and which only its mazes import.
    """
    try:
        from dm_control import suite
    except ImportError as error:
        raise ValueError(
            f"This environment needs dm_control ({error}): pip install --no-deps 'dm_control>=1.0.49,<1.0.50' (without its "
            "requirements, since labmaze has no wheels for Python 3.13 and later; rlx has brought the others)."
        ) from error
    return suite


def parsed(words: Iterable[str], flag: str = "--env-option") -> dict[str, Any]:
    """Options of an environment as a command line gives them, ``name=value``, each behind ``flag``; of a name that comes twice
    the later one. Values are JSON (``2``, ``true``, ``[-1, 1]``, ``{"place": "last"}``), and words where they are none.

    Raises:
        ValueError: a word of another form, or an option that has a flag of its own.
    """
    out = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise ValueError(f"{flag} {word!r} is no option: give NAME=VALUE, such as env_name=reach-v3 or penalty=0.5.")
        if name in OWN_FLAGS:
            raise ValueError(f"{flag} {word!r}: {name} has a flag of its own, --{name.replace('_', '-')}.")
        try:
            out[name] = json.loads(value, parse_constant=str)
        except (ValueError, RecursionError):
            out[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return out


def written(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The inverse of `parsed`."""
    return tuple(f"{name}={json.dumps(value)}" for name, value in options.items())


def cores() -> int:
    """Cores for the threads of host environments: ``RLX_CORES``, or as many as this process may use."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("RLX_CORES") or str(may)
    if not given.isdecimal() or not int(given):
        raise ValueError(f"RLX_CORES={given!r} is no number of cores: give one from 1 on, or leave it out for {may}.")
    return int(given)


def unknown(prefix: str, task: str, known: list[str]) -> ValueError:
    """The error for a name that a room does not have, with the nearest ones."""
    near = difflib.get_close_matches(task, known, 3, 0.5)
    hint = f" Did you mean {' or '.join(f'{prefix}:{n}' for n in near)}?" if near else f" There are {', '.join(known[:20])}."
    return ValueError(f"environment '{prefix}:{task}' is unknown.{hint}")
