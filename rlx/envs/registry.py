"""Environments by name: ``make("dmc:walker-walk")``."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rlx.types import Env, HostEnv

# prefix -> (module with make(name, **options) and names(), what it is)
_ROOMS = {
    "rlx": ("rlx.envs.control", "device environments written here"),
    "dmc": ("rlx.envs.mujoco", "dm_control tasks on native MuJoCo, CPU threads"),
    "mjx": ("rlx.envs.mjx", "the same tasks on a device"),
    "brax": ("rlx.envs.brax", "brax.envs on a device"),
    "gym": ("rlx.envs.gym", "any Gymnasium id"),
    "hydrogym": ("rlx.envs.hydrogym", "HydroGym's JAX flow, where that is installed"),
}
_own: dict[str, Callable[..., Env | HostEnv]] = {}


def register(name: str, factory: Callable[..., Env | HostEnv]) -> None:
    """Makes ``make(name, **options)`` call ``factory(**options)``. ``name`` is ``prefix:task`` with a prefix of your own."""
    prefix, _, task = name.partition(":")
    if not task or prefix in _ROOMS:
        raise ValueError(f"register: {name!r} must be 'prefix:task' with a prefix other than {', '.join(_ROOMS)}.")
    _own[name] = factory


def names(prefix: str | None = None) -> list[str]:
    """All names, or those with one prefix. Of Gymnasium: those that are installed."""
    if prefix is not None and prefix not in _ROOMS:
        return sorted(n for n in _own if n.startswith(f"{prefix}:"))
    out = sorted(_own) if prefix is None else []
    for p in [prefix] if prefix else _ROOMS:
        out += [f"{p}:{n}" for n in importlib.import_module(_ROOMS[p][0]).names()]
    return out


def make(name: str, *, workers: int | None = None, **options: Any) -> Env | HostEnv:
    """The environment ``prefix:task``.

    Options common to all: ``repeat`` (sim steps per decision, rewards summed) and ``time_limit`` (decisions per episode);
    others are the room's own. ``workers``: processes that step the streams of a host environment, each a slice of them (None:
    threads of this process); pays where an environment spends its time in Python, or is light and there are many cores.

    Raises:
        ValueError: unknown name (with the nearest one), unknown option, or a package that is not installed.
    """
    if workers is not None:
        positive(workers=workers)
        env = make(name, **options)
        if not isinstance(env, HostEnv) or name in _own:
            raise ValueError(f"{name}: workers={workers} is for host environments that rlx makes by name; leave it out.")
        from rlx.envs.workers import spread

        return spread(env, name, options, workers)
    if name in _own:
        return _own[name](**options)
    prefix, _, task = name.partition(":")
    if prefix not in _ROOMS or not task:
        rooms = "; ".join(f"{p}:... ({what})" for p, (_, what) in _ROOMS.items())
        raise ValueError(f"environment {name!r} is unknown. Names are 'prefix:task' with {rooms}.")
    room = importlib.import_module(_ROOMS[prefix][0])
    try:
        env = room.make(task, **options)
    except TypeError as e:
        if "unexpected keyword" not in str(e):
            raise
        raise ValueError(f"{name}: {e}.") from e
    return replace(env, name=name)


def unknown(prefix: str, task: str, known: list[str]) -> ValueError:
    """What rooms raise for a name that they do not have."""
    near = difflib.get_close_matches(task, known, 3, 0.5)
    hint = f" Did you mean {' or '.join(f'{prefix}:{n}' for n in near)}?" if near else f" There are {', '.join(known[:20])}."
    return ValueError(f"environment '{prefix}:{task}' is unknown.{hint}")


def cores() -> int:
    """Cores for the threads of host environments: ``RLX_CORES``, or as many as this process may use."""
    may = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("RLX_CORES") or may)


def positive(**options: int | None) -> None:
    """Raises ValueError for an option that is not a positive whole number (or None)."""
    for name, value in options.items():
        if value is not None and (value < 1 or value != int(value)):
            raise ValueError(f"{name}={value}: give a whole number of at least 1.")
