"""What the tests of the agent share: small settings, observations that plants give, learners made once."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx import agents
from rlx.agents.yann import Config
from rlx.agents.yann.controller import build
from rlx.agents.yann.learner import Learner
from rlx.types import Agent, AgentState, Problem, Step

# plants with a Control, and settings with which their programs are solved in seconds
PLANTS: dict[str, dict[str, Any]] = {
    "pendulum": {},
    "upright-pendulum": {},
    "double-integrator": {},
    "cubic": {},
    "t2-reactor": {"state_rows": False},
    "t2-reactor-linear": {},
    "cstr": {"state_rows": False},
    "four-tank": {"state_rows": False, "horizon": 1},
    "extraction-column": {"law": "qp"},  # 14 parameters: not listed by regions
}
SMALL: dict[str, Any] = {"width": 4, "critic_hidden": (8, 8), "hidden": (8, 8), "batch": 16, "init": "paired"}


def problem(name: str, **options: Any) -> Problem:
    return Problem({"train": rlx.envs.make(f"rlx:{name}", **options)})


def make(name: str, options: dict[str, Any] | None = None, **settings: Any) -> Agent:
    return agents.make("yann", None, problem(name, **(options or {})), **{**SMALL, **settings})


@functools.cache
def learner(name: str = "upright-pendulum", **settings: Any) -> Learner:
    config = Config(**{**SMALL, **settings})
    return Learner(config, build(config, problem(name)))


def begun(agent: Agent, seed: int = 0) -> AgentState:
    return jax.jit(agent.init)(jax.random.key(seed), {k: jnp.float32(v) for k, v in agent.hyper.items()})


def moved(tree: Any, size: float = 0.3) -> Any:
    """Parameters somewhere else, the same each time."""
    return jax.tree.map(lambda x: x + size * jnp.cos(1.7 * jnp.arange(x.size)).reshape(x.shape), tree)


def at(obs: Any) -> Step:
    """A step on arrival at observations [W, ...]."""
    obs = jnp.asarray(obs, jnp.float32)
    no = jnp.zeros(obs.shape[0], bool)
    return Step(obs, jnp.zeros(obs.shape[0]), no, no, no, {})


def observations(name: str, count: int, seed: int = 0, wide: float = 1.0) -> np.ndarray:
    """Random ones, in units in which most are about 1 [count, ...]; the pendulum's as it gives them."""
    draw = np.random.default_rng(seed).uniform(-wide, wide, (count, *rlx.envs.make(f"rlx:{name}").spec.obs.shape))
    return np.stack([np.cos(3 * draw[:, 0]), np.sin(3 * draw[:, 0]), 8 * draw[:, 2]], -1) if name == "pendulum" else draw
