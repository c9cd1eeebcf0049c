"""ReBRAC (Tarasov et al. 2023, "Revisiting the Minimalist Approach to Offline Reinforcement Learning", arXiv:2305.09836).

TD3+BC with a penalty in the critics' targets as well, each with its own weight, deeper networks, normalised layers in critics::

    a'      <- clip(pi'(s') + clip(noise, +-c), -1, 1)
    y       <- r + discount (min_i Q'_i(s', a') - critic_penalty |a' - what the data did at s'|^2)
    Q_i     <- down the gradient of (Q_i(s, a) - y)^2
    every policy_delay updates:
        q   <- min_i Q_i(s, pi(s))
        pi  <- down the gradient of actor_penalty |pi(s) - a|^2 - q / mean |q|;  targets as in TD3

|.|^2 sums over the action's entries. At the last observation of a cut episode nothing was done: no penalty there. Layers are
normalised before their activation, where the authors do so behind it. Presets are the authors' settings by family;
both penalties were tuned for each dataset (actor 0.001 to 0.1, critic 0 to 0.5), so sweep them: they are traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.agents import offline, td3, td3_bc
from rlx.agents.offpolicy import Networks, q_values
from rlx.config import hyper, size, traced
from rlx.nn.mlp import MLP, stack
from rlx.replay import Sequences, Transitions
from rlx.types import Agent, AgentState, Array, Clock, Key, Out, Problem, PyTree, Step


@dataclass(frozen=True)
class Config(td3_bc.DelayedConfig):
    """Behaviour-regularised actor-critic, revisited."""

    batch: int = size(1_024, least=1)
    hidden: tuple[int, ...] = size((256, 256, 256), least=1)  # widths of all networks
    actor_lr: float = traced(1e-3, "Adam's step size for the actor.", least=0)
    critic_lr: float = traced(1e-3, "Adam's step size for the critics.", least=0)
    actor_penalty: float = traced(0.01, "Weight of the actor's distance from the data.", least=0)
    critic_penalty: float = traced(0.01, "Weight of the target action's distance from the data.", least=0)


PRESETS: dict[str, dict[str, Any]] = {
    "debug": offline.DEBUG,
    "mujoco": {},
    "antmaze": {
        "batch": 256,
        "discount": 0.999,
        "reward_scale": 100.0,
        "actor_lr": 3e-4,
        "critic_lr": 5e-5,
        "actor_penalty": 0.001,
        "critic_penalty": 0.0005,
    },
    "adroit": {"batch": 256, "actor_lr": 3e-4, "critic_lr": 3e-4, "actor_penalty": 0.1, "critic_penalty": 0.5},
}


def networks(hidden: tuple[int, ...], outputs: int) -> Networks:
    critic = MLP((*hidden, 1), norm=True)
    return Networks(MLP((*hidden, outputs), last_scale=0.01), critic, stack(critic, 2))


def transitions(rows: Sequences, discount: Array) -> tuple[Transitions, Array, Array]:
    """Of neighbouring rows [2, B, ...] the transition; what was done after it [B, A], and where something was [B]."""
    batch = Transitions(
        obs=rows.obs[0],
        action=rows.action[0],
        reward=rows.reward[1],
        discount=discount * ~rows.terminated[1],
        next_obs=rows.obs[1],
        terminated=rows.terminated[1],
        extras={},
        weight=rows.weight,
        index=rows.index,
    )
    return batch, rows.action[1], ~(rows.terminated[1] | rows.truncated[1])


def targets(
    nets: Networks,
    target: dict[str, Any],
    batch: Transitions,
    next_action: Array,
    acted: Array,
    h: dict[str, Array],
    key: Key,
) -> Array:
    """y [B]."""
    action = td3.smoothed_action(nets, target, batch.next_obs, h, key)
    q = q_values(nets.critics, target["critics"], batch.next_obs, action).min(0)
    away = acted * ((action - next_action) ** 2).sum(-1)
    return jax.lax.stop_gradient(batch.reward + batch.discount * (q - h["critic_penalty"] * away))


def actor_loss(params: PyTree, nets: Networks, critics: PyTree, batch: Transitions, penalty: Array) -> Array:
    action = jnp.tanh(nets.actor.apply(params, batch.obs))
    q = q_values(nets.critics, critics, batch.obs, action).min(0)
    size_of_q = jax.lax.stop_gradient(jnp.maximum(jnp.abs(q).mean(), 1e-8))
    return (penalty * ((action - batch.action) ** 2).sum(-1) - q / size_of_q).mean()


def make(config: Config, problem: Problem) -> Agent:
    data, n, m = offline.dataset(problem, "rebrac")
    nets, scales = networks(config.hidden, m), offline.scales(data, config)

    def init(key: Key, hyper: dict[str, Array]) -> AgentState:
        return AgentState(hyper, {**td3.begin(nets, key, n, m), "scales": scales})

    def act(state: AgentState, clock: Clock, carry: Any, step: Step, key: Key, mode: str) -> tuple[Array, Any, dict]:
        return jnp.tanh(nets.actor.apply(state.learned["actor"], state.learned["scales"].obs(step.obs))), carry, {}

    def update(state: AgentState, clock: Clock, rows: Sequences, key: Key) -> tuple[AgentState, Out]:
        h, learned = state.hyper, state.learned
        batch, next_action, acted = transitions(rows, h["discount"])
        batch = offline.scaled(batch, learned["scales"], h)
        y = targets(nets, learned["target"], batch, next_action, acted, h, key)
        loss = lambda actor, critics: actor_loss(actor, nets, critics, batch, h["actor_penalty"])
        return td3.learn(nets, state, batch, y, td3.is_turn(clock, config.policy_delay), loss)

    sampler = replay.sequences(config.batch, 2, source="data")
    shared = offline.shared_parts(config, problem, update, sampler)
    return Agent("rebrac", config, hyper(config), init, act, modes=("eval",), **shared)
