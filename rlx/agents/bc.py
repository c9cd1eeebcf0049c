"""Behaviour cloning: the policy that does what the data did.

::

    only the best episodes, as many as hold a share ``top`` of the rows                     ("10%BC" of Chen et al. 2021,
    repeat, on a batch of the data:                                                          arXiv:2106.01345, for top=0.1)
        pi  <- down the gradient of mean (tanh mean(s) - a)^2
               or, with ``gaussian``, of -log N(a; tanh mean(s), std)

The standard deviation is learned too, and does not depend on s. Presets: "mujoco" is the default; "robomimic" has the sizes of
Mandlekar et al. 2021 (arXiv:2108.03298) for low-dimensional observations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents import offline
from rlx.config import hyper, size
from rlx.nn.mlp import MLP
from rlx.nn.optim import apply_gradients, optimizer
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Host, Key, Out, Problem, PyTree, Stage, Step


@dataclass(frozen=True)
class Config(offline.OfflineConfig):
    """Behaviour cloning."""

    normalize_obs: bool = True  # to zero mean and unit variance over the data
    gaussian: bool = False  # likelihood under a Gaussian instead of squared error
    top: float = size(1.0, above=0, most=1)  # learn from the best episodes alone: this share of the rows


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offline.DEBUG,
    "mujoco": {},
    "robomimic": {"hidden": (1024, 1024), "batch": 100, "actor_lr": 1e-4, "normalize_obs": False, "updates": 200_000},
}


def loss(params: PyTree, actor: MLP, obs: Array, action: Array, gaussian: bool) -> tuple[Array, Array]:
    """What is minimised, and the mean squared error of the mean."""
    policy = offline.gaussian(actor, params, obs)
    error = ((policy.mean - action) ** 2).mean()
    return (-policy.log_prob(action).mean() if gaussian else error), error


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "bc")
    actor, scales = MLP((*config.hidden, m)), offline.scales(data, config)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        params = offline.init_gaussian(actor, key, n, m)
        return AgentState(hyper, {"actor": params, "opt": optimizer(0.0).init(params), "scales": scales})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        policy = offline.gaussian(actor, state.learned["actor"], state.learned["scales"].obs(step.obs))
        action = policy.mode() if mode == "eval" else jnp.clip(policy.sample(key), -1.0, 1.0)
        return action, carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        old, obs = state.learned, state.learned["scales"].obs(batch.obs)
        action = jnp.clip(batch.action, -offline.EDGE, offline.EDGE)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, error), grads = gradient(old["actor"], actor, obs, action, config.gaussian)
        params, opt = apply_gradients(optimizer(state.hyper["actor_lr"]), old["actor"], grads, old["opt"])
        learned = {**old, "actor": params, "opt": opt}
        return state._replace(learned=learned), Out({"actor/loss": value, "actor/error": error})

    def keep_best(state: AgentState, sources: dict[str, Any], key: Key) -> tuple[AgentState, dict[str, Any]]:
        return state, {**sources, "data": replay.best_episodes(sources["data"], config.top)}

    # the sampler asks for a discount, and nothing here is discounted
    shared = offline.shared_parts(config, problem, update)
    agent = Agent("bc", config, {**hyper(config), "discount": 1.0}, init, act, **shared)
    best = Stage("best", 1, (Host(keep_best),))
    modes = ("explore", "eval") if config.gaussian else ("eval",)
    return replace(agent, modes=modes, stages=agent.stages if config.top == 1 else (best, *agent.stages))
