"""Agents by name. A method is one folder or file here, or a module from elsewhere (`register`, or an entry point of an
installed package); ``make`` gives an `rlx.types.Agent`."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax

from rlx import config as configs
from rlx import plugins
from rlx.envs.wrappers import as_vector
from rlx.precision import in_float32
from rlx.types import Agent, Collect, Env, HostEnv, Leaf, Problem

_MODULES = {
    "sac": "rlx.agents.sac",
    "td3": "rlx.agents.td3",
    "rnd": "rlx.agents.rnd",
    "ppo": "rlx.agents.ppo",
    "heron": "rlx.agents.heron",
    "bc": "rlx.agents.bc",
    "td3_bc": "rlx.agents.td3_bc",
    "iql": "rlx.agents.iql",
    "rebrac": "rlx.agents.rebrac",
    "mopo": "rlx.agents.mopo",
    "mobile": "rlx.agents.mobile",
    "morec": "rlx.agents.morec",
    "yann": "rlx.agents.yann",
    "sindy_rl": "rlx.agents.sindy_rl",
    "td_jepa": "rlx.agents.td_jepa",
    "dbc": "rlx.agents.dbc",
    "repo": "rlx.agents.repo",
    "repo_adapt": "rlx.agents.repo.adapting",
    "pearl": "rlx.agents.pearl",
    "ipl": "rlx.agents.ipl",
    "oppo": "rlx.agents.oppo",
    "tdmpc": "rlx.agents.tdmpc",
    "modem_v2": "rlx.agents.modem_v2",
}
ENTRY_POINTS = "rlx.agents"  # the group in which installed packages declare agents
_registered: dict[str, ModuleType | str] = {}


def list() -> builtins.list[str]:
    """Names that `make` knows."""
    return sorted({*_MODULES, *_registered, *plugins.entry_names(ENTRY_POINTS)})


def register(name: str, module: ModuleType | str) -> None:
    """From now on ``name`` is the agent that ``module`` makes, here and in every command of this process.

    ``module`` (or its dotted name, which is imported when the agent is first used) holds ``Config``, a frozen dataclass with a
    default for every field; ``PRESETS``, named overrides with a "debug" among them; and ``make(config, problem) -> Agent``.
    Registering a name again replaces what it meant. In a module of your own, ``agents.register("mine", __name__)`` as its last
    line makes ``rlx train mine --import my_module`` work.

    Raises:
        ValueError: no such name, a name of rlx's own, or a module that lacks something.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ValueError(f"register: {name!r} is no name for an agent: give letters, digits and underscores.")
    if name in _MODULES:
        raise ValueError(f"register: {name!r} is an agent of rlx's own ({_MODULES[name]}): give another name.")
    _registered[name] = module if isinstance(module, str) else _sound(name, module)


def _sound(name: str, module: ModuleType) -> ModuleType:
    """``module``, if it has what an agent needs."""
    where = f"agent {name!r}: {module.__name__}"
    own = getattr(module, "Config", None)
    if not isinstance(own, type) or not dataclasses.is_dataclass(own):
        raise ValueError(f"{where} must have a Config, a frozen dataclass; it has {own!r}.")
    bare = [f.name for f in dataclasses.fields(own) if f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        raise ValueError(f"{where}.Config must have a default for every field; {', '.join(bare)} has none.")
    table = getattr(module, "PRESETS", None)
    if not isinstance(table, Mapping) or "debug" not in table:
        raise ValueError(f"{where} must have PRESETS, overrides by name with 'debug' among them; it has {table!r}.")
    if not callable(getattr(module, "make", None)):
        raise ValueError(f"{where} must have a function make(config, problem) that gives an rlx.types.Agent.")
    return module


def _module(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    found = _registered[name] if name in _registered else plugins.entry(ENTRY_POINTS, name)
    if found is None:
        raise ValueError(
            f"unknown agent {name!r}.{configs.nearest(name, list())} An agent from elsewhere is known once the module that "
            "registers it is imported: --import MODULE in a command."
        )
    if isinstance(found, str):
        plugins.import_modules([found], f"agent {name!r} is in")
        found = sys.modules[found]
    return _sound(name, found)


def config(name: str) -> Any:
    """The agent's default config (a frozen dataclass)."""
    return _module(name).Config()


def presets(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Named overrides of the config's fields."""
    return _module(name).PRESETS


def seen_by(name: str, env: Env | HostEnv) -> Env | HostEnv:
    """``env`` as the agent ``name`` takes it: dicts of floats become one vector. A module that takes images too says
    ``OBSERVATIONS = "images"``, or "views" where it takes several, and vectors beside them; one that takes dicts says "any",
    and is given what the environment emits.

    Raises:
        ValueError: unknown agent, or observations that are no vector and do not become one.
    """
    takes, obs = getattr(_module(name), "OBSERVATIONS", "vector"), env.spec.obs
    images = [x for x in jax.tree.leaves(obs, is_leaf=lambda x: isinstance(x, Leaf)) if len(x.shape) == 3]
    if takes == "any" or (takes == "images" and isinstance(obs, Leaf) and images) or (takes == "views" and images):
        return env
    try:
        return as_vector(env)
    except ValueError as error:
        alone = " Give --env-option state=false for the picture alone." if takes == "images" and images else ""
        raise ValueError(f"{name} takes observations that are vectors: {error}{alone}") from None


@in_float32
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
    agent = module.make(chosen, problem)
    if not isinstance(agent, Agent):
        raise ValueError(f"{name}: {module.__name__}.make gave a {type(agent).__name__}, it must give an rlx.types.Agent.")
    return _packed(agent)


def _packed(agent: Agent) -> Agent:
    """Buffers keep rows as the environment that feeds them says."""
    feeds = {p.into: p.env for stage in agent.stages for p in stage.phases if isinstance(p, Collect) and p.into}
    how = {name: agent.envs[env].spec.pack for name, env in feeds.items() if env in agent.envs and name in agent.buffers}
    buffers = {k: dataclasses.replace(b, pack=how[k]) if how.get(k) else b for k, b in agent.buffers.items()}
    return dataclasses.replace(agent, buffers=buffers)
