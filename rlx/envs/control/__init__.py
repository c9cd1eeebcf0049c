"""Environments written here: ``rlx:<name>``, on a device but for those of `_NATIVE`."""

from __future__ import annotations

import importlib
from typing import Any

from rlx.envs import probes, wrappers
from rlx.envs.control.base import with_physics
from rlx.envs.options import positive, unknown
from rlx.envs.tasks.base import MujocoTask
from rlx.types import Env, HostEnv

_MODULES = {
    "pendulum": "rlx.envs.control.pendulum",
    "cartpole-swingup": "rlx.envs.control.cartpole",
    "point-mass": "rlx.envs.control.point",
    "point-maze": "rlx.envs.control.maze",
    "pointmass-maze": "rlx.envs.control.pointmass_maze",
    "push-toy": "rlx.envs.control.push_toy",
    "upright-pendulum": "rlx.envs.control.upright",
    "double-integrator": "rlx.envs.control.integrator",
    "cubic": "rlx.envs.control.cubic",
    "t2-reactor": "rlx.envs.control.reactor",
    "t2-reactor-linear": "rlx.envs.control.reactor_linear",
    "cstr": "rlx.envs.control.cstr",
    "four-tank": "rlx.envs.control.tanks",
    "extraction-column": "rlx.envs.control.column",
    "ks22": "rlx.envs.control.ks22",
    "burgers": "rlx.envs.control.burgers",
    "thermobox": "rlx.envs.control.thermobox",
}
_NATIVE = {"push-lite": "rlx.envs.control.push_lite"}  # on the host, by native MuJoCo


def mujoco_task(name: str) -> MujocoTask | None:
    """What native MuJoCo runs, where ``name`` is such an environment."""
    return importlib.import_module(_NATIVE[name]).TASK if name in _NATIVE else None


def names() -> list[str]:
    return [*_MODULES, *_NATIVE, *probes.names()]


def make(
    name: str, *, host: bool = False, repeat: int = 1, time_limit: int | None = None, physics: bool = False, **options: Any
) -> Env | HostEnv:
    """``host=True`` runs the same equations as a host environment, stepped from Python."""
    positive(repeat=repeat, time_limit=time_limit)
    if name in _NATIVE:
        module = importlib.import_module(_NATIVE[name])
        return module.make(repeat=repeat, time_limit=time_limit, physics=physics, **options)
    if name in _MODULES:
        env = importlib.import_module(_MODULES[name]).make(repeat=repeat, time_limit=time_limit, **options)
    elif name in probes.names():
        env = probes.make(name.removeprefix("probe-"), repeat=repeat, time_limit=time_limit, **options)
    else:
        raise unknown("rlx", name, names())
    env = with_physics(env) if physics else env
    return wrappers.on_host(env) if host else env
