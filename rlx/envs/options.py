"""Options that environments share, and what is said of wrong ones."""

from __future__ import annotations

import difflib
import os
from typing import Any


def positive(**options: int | None) -> None:
    """Raises ValueError for an option that is not a positive whole number (or None)."""
    for name, value in options.items():
        if value is not None and (value < 1 or value != int(value)):
            raise ValueError(f"{name}={value}: give a whole number of at least 1.")


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
