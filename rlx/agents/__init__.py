"""Agents by name. A method is one folder or file here; ``make`` gives an `rlx.types.Agent`."""

from __future__ import annotations

import builtins
import importlib
from collections.abc import Mapping
from typing import Any

from rlx import config as configs
from rlx.envs.wrappers import as_vector
from rlx.types import Agent, Env, HostEnv, Problem

_MODULES = {
    "sac": "rlx.agents.sac",
    "td3": "rlx.agents.td3",
    "ppo": "rlx.agents.ppo",
    "yann": "rlx.agents.yann",
    "sindy_rl": "rlx.agents.sindy_rl",
}


def list() -> builtins.list[str]:
    """Names that `make` knows."""
    return sorted(_MODULES)


def _module(name: str) -> Any:
    if name not in _MODULES:
        raise ValueError(f"unknown agent {name!r}.{configs.nearest(name, list())}")
    return importlib.import_module(_MODULES[name])


def config(name: str) -> Any:
    """The agent's default config (a frozen dataclass)."""
    return _module(name).Config()


def presets(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Named overrides of the config's fields."""
    return _module(name).PRESETS


def seen_by(name: str, env: Env | HostEnv) -> Env | HostEnv:
    """``env`` as the agent ``name`` takes it: dicts of floats become one vector. A module that takes dicts and images says
    ``OBSERVATIONS = "any"``, and is given what the environment emits.

    Raises:
        ValueError: unknown agent, or observations that are no vector and do not become one.
    """
    if getattr(_module(name), "OBSERVATIONS", "vector") == "any":
        return env
    try:
        return as_vector(env)
    except ValueError as error:
        raise ValueError(f"{name} takes observations that are vectors: {error}") from None


def make(name: str, config: Any = None, problem: Problem | None = None, **overrides: Any) -> Agent:
    """The agent ``name`` for ``problem``; ``config`` (None: the default) with ``overrides`` by field name.

    Raises:
        ValueError: unknown agent or field, a value of another type or out of bounds, or a config that does not fit the problem.
    """
    module = _module(name)
    chosen = module.Config() if config is None else config
    if not isinstance(chosen, module.Config):
        raise ValueError(f"{name} takes a {module.__name__}.Config, got {type(chosen).__module__}.{type(chosen).__name__}.")
    if problem is None or "train" not in problem.envs:
        raise ValueError(f"{name} needs a Problem with an environment called 'train'.")
    try:
        chosen = configs.replace(chosen, overrides)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    configs.check(chosen, name)
    return module.make(chosen, problem)
