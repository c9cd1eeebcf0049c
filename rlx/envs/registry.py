"""Environments by name: ``make("dmc:walker-walk")``."""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from rlx import plugins
from rlx.envs import border, camera
from rlx.envs.options import OWN_FLAGS, NoPhysics, positive
from rlx.envs.workers import in_processes
from rlx.envs.wrappers import on_host
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
PHYSICAL = ("rlx", "dmc", "gym")  # rooms whose environments can store the state of their physics
ENTRY_POINTS = "rlx.envs"  # the group in which installed packages declare prefixes: the module registers names on import
_registered: dict[str, Callable[..., Env | HostEnv]] = {}
_homes: dict[str, str] = {}  # the module that registered a name


def register(name: str, make: Callable[..., Env | HostEnv]) -> None:
    """From now on ``rlx.envs.make(name, **options)``, and so every command, calls ``make(**options)``.

    ``name`` is ``prefix:task`` with a prefix of your own; registering a name again replaces what it meant. Commands give
    ``repeat`` and ``time_limit`` where their flags are used, so ``make`` should take both (`rlx.envs.plant` does; elsewhere use
    `rlx.envs.wrappers`). Register in a module: ``rlx train sac --import my_module --env mine:acrobot`` imports it first.

    Raises:
        ValueError: no such name, or a prefix that rlx itself uses.
    """
    prefix, _, task = name.partition(":")
    if not prefix or not task or prefix in _ROOMS:
        raise ValueError(f"register: {name!r} must be 'prefix:task' with a prefix other than {', '.join(_ROOMS)}.")
    _registered[name] = make
    _homes[name] = sys._getframe(1).f_globals.get("__name__", "__main__")


def names(prefix: str | None = None) -> list[str]:
    """All names, or those with one prefix. Of Gymnasium: those that are installed."""
    for declared in plugins.entry_names(ENTRY_POINTS):
        if prefix in (None, declared):
            _import_entry(declared)
    if prefix is not None and prefix not in _ROOMS:
        return sorted(n for n in _registered if n.startswith(f"{prefix}:"))
    out = sorted(_registered) if prefix is None else []
    for p in [prefix] if prefix else _ROOMS:
        out += [f"{p}:{n}" for n in importlib.import_module(_ROOMS[p][0]).names()]
    return out


def _import_entry(prefix: str) -> None:
    """A package that is broken must not take the others with it."""
    try:
        plugins.entry(ENTRY_POINTS, prefix)
    except ValueError as error:
        warnings.warn(str(error), stacklevel=3)


def make(
    name: str, /, *, workers: int | None = None, physics: bool = False, pixels: str | None = None, **options: Any
) -> Env | HostEnv:
    """The environment ``prefix:task``.

    Options common to all: ``repeat`` (sim steps per decision, rewards summed) and ``time_limit`` (decisions per episode);
    others are the room's own. ``workers``: processes that step the streams of a host environment, each a slice of them (None:
    threads of this process); pays where an environment spends its time in Python, or is light and there are many cores. They
    import what ``--import`` named and the module that registered the environment.

    ``physics``: ``info["physics"]`` is the state of the physics at each row, float32 [P], from which any reward can be computed
    later; all else keeps its bits. MuJoCo's is (qpos, qvel, act), as in ExoRL, and an episode's goal where a task has one; of
    ``rlx:`` it is the plant's state, its arrays one after another.

    ``pixels``: "sdf" or "gl": the observation is {"pixels": uint8 [H, W, C], "state": what it was}; with it go the options of
    `rlx.envs.camera.Pixels`, such as ``image=64`` and ``distractor="video"``.

    Raises:
        ValueError: unknown name (with the nearest one), unknown option, or a package that is not installed; `NoPhysics` where
            there is no state to store.
    """
    if not isinstance(physics, bool):
        raise ValueError(f"{name}: physics={physics!r}; give true or false.")
    if physics:
        if name in _registered or name.partition(":")[0] not in PHYSICAL:
            raise NoPhysics(name, f"only {', '.join(f'{p}:' for p in PHYSICAL)} environments do")
        options["physics"] = True
    if workers is not None:
        positive(workers=workers)
        options |= {} if pixels is None else {"pixels": pixels}
        env = make(name, **options)
        home = _homes.get(name)
        if not isinstance(env, HostEnv) or home == "__main__":
            why = "what __main__ has registered, no other process can: register it in a module" if home else "it is none"
            raise ValueError(f"{name}: workers={workers} is for environments on the host, and {why}; or leave workers out.")
        return in_processes(env, name, options, workers, [*plugins.imported, *([home] if home else [])])
    if pixels is not None:
        return _with_pixels(name, pixels, options)
    try:
        env = _made_outside(name, options) if name in _registered else _in_room(name, options)
        if isinstance(env, Env) and name.startswith("rlx:") and options.keys() - set(OWN_FLAGS):
            _move_once(env)
    except Exception as e:
        if isinstance(e, ValueError) or not options:
            raise
        given = ", ".join(f"{k}={v!r:.60}" for k, v in options.items() if k != "physics")
        message = str(e).splitlines()[0] if str(e) else "no reason given"
        looks = ", ".join(k for k in options if k in camera.LOOKS)
        remedy = f" With pixels='sdf' or 'gl' there is {looks}." if looks else ""
        raise ValueError(f"{name} cannot be made with {given}: {type(e).__name__}: {message}.{remedy}") from e
    if not isinstance(env, (Env, HostEnv)):
        raise ValueError(f"{name}: what was registered makes a {type(env).__name__}; it must make an rlx Env or HostEnv.")
    return replace(env, name=name)


def _with_pixels(name: str, pixels: str, options: dict[str, Any]) -> Env | HostEnv:
    """The environment by a camera. What is stepped from Python though it is of JAX is seen before it is."""
    how = camera.taken(name, pixels, options)
    host = name.startswith("rlx:") and options.pop("host", False)
    env = replace(camera.attach(make(name, **options), name, how), name=name)
    return on_host(env) if host else env  # type: ignore[arg-type]


def _move_once(env: Env) -> None:
    """Traces a reset and a step: options that are no numbers, or of another shape, show here and not deep inside a run."""
    key, action = jax.random.key(0), jax.ShapeDtypeStruct(env.spec.action.shape, env.spec.action.dtype)
    begun = jax.eval_shape(env.reset, env.params, key)
    moved = jax.eval_shape(env.step, env.params, begun[0], action, key)
    kinds = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    if kinds(begun) != kinds(moved):
        raise TypeError("with such shapes its state cannot be carried from step to step")


def _made_outside(name: str, options: dict[str, Any]) -> Env | HostEnv:
    with border.making(name):
        return _registered[name](**options)


def _in_room(name: str, options: dict[str, Any]) -> Env | HostEnv:
    prefix, _, task = name.partition(":")
    if prefix not in _ROOMS and plugins.entry(ENTRY_POINTS, prefix) and name in _registered:
        return _made_outside(name, options)
    if prefix in _ROOMS and task:
        return importlib.import_module(_ROOMS[prefix][0]).make(task, **options)
    near = difflib.get_close_matches(name, list(_registered), 3, 0.6)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    rooms = "; ".join(f"{p}:... ({what})" for p, (_, what) in _ROOMS.items())
    raise ValueError(
        f"environment {name!r} is unknown.{hint} Names are 'prefix:task' with {rooms}; and those that imported modules have "
        "registered (rlx.envs.register): import the one that has this name first, by --import MODULE in a command."
    )
