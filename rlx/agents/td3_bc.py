"""TD3+BC (Fujimoto and Gu 2021, "A Minimalist Approach to Offline Reinforcement Learning", arXiv:2106.06860).

::

    s       <- (s - mean) / (std + 1e-3), over the data
    repeat, on a batch of the data:
        Q_i     <- as in TD3
        every policy_delay updates:
            lambda  <- alpha / mean |Q_1(s, pi(s))|, taken as a constant                                    (eq. 5)
            pi      <- down the gradient of -lambda Q_1(s, pi(s)) + (pi(s) - a)^2;  targets as in TD3       (eq. 4)

The mean of Q_1 is over the batch at the actor's own actions, and (pi(s) - a)^2 a mean over the batch and the action's entries.
The preset "mujoco" is the default; the paper has these settings for all D4RL locomotion tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx.agents import offline, offpolicy, td3
from rlx.agents.offpolicy import Networks, q_values
from rlx.config import hyper, size, traced
from rlx.nn.mlp import head
from rlx.replay import Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class DelayedConfig(offline.ValueConfig):
    """What is TD3's in methods for datasets."""

    policy_delay: int = size(2, least=1)  # critic updates per actor update
    smoothing: float = traced(0.2, "Standard deviation of the target policy's noise.", least=0)
    smoothing_clip: float = traced(0.5, "Bound of the target policy's noise.", least=0)


@dataclass(frozen=True)
class Config(DelayedConfig):
    """TD3 with behaviour cloning, from a dataset."""

    normalize_obs: bool = True  # to zero mean and unit variance over the data
    alpha: float = traced(2.5, "Weight of the value, against that of imitation.", least=0)


PRESETS: dict[str, dict[str, Any]] = {"debug": offline.DEBUG, "mujoco": {}}


def actor_loss(params: PyTree, nets: Networks, critics: PyTree, batch: Transitions, alpha: Array) -> Array:
    """(eq. 4 and 5)"""
    action = jnp.tanh(nets.actor.apply(params, batch.obs))
    q = q_values(nets.critic, head(critics, 0), batch.obs, action)
    weight = jax.lax.stop_gradient(alpha / jnp.maximum(jnp.abs(q).mean(), 1e-8))
    return -weight * q.mean() + ((action - batch.action) ** 2).mean()


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "td3_bc")
    nets, scales = offpolicy.networks(config.hidden, m), offline.scales(data, config)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, {**td3.begin(nets, key, n, m), "scales": scales})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        return jnp.tanh(nets.actor.apply(state.learned["actor"], state.learned["scales"].obs(step.obs))), carry, {}

    def update(state: AgentState, clock: Clock, batch: Transitions, key: Key) -> tuple[AgentState, Out]:
        batch = offline.scaled(batch, state.learned["scales"], state.hyper)
        y = td3.targets(nets, state.learned["target"], batch, state.hyper, key)
        loss = lambda actor, critics: actor_loss(actor, nets, critics, batch, state.hyper["alpha"])
        return td3.learn(nets, state, batch, y, td3.is_turn(clock, config.policy_delay), loss)

    shared = offline.shared_parts(config, problem, update)
    return Agent("td3_bc", config, hyper(config), init, act, modes=("eval",), **shared)
