"""What off-policy agents share: their networks, the plan of collecting and updating, and behaving at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlx import replay
from rlx.config import size, traced
from rlx.envs import batch
from rlx.envs.observations import described
from rlx.nn.mlp import MLP, stack
from rlx.replay import Transitions
from rlx.types import Array, Collect, Env, Eval, HostEnv, Key, Leaf, Problem, PyTree, Spec, Stage, Step, Update, VecEnv


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings that off-policy agents share."""

    env_steps: int = size(100_000, least=1, budget=True)  # decisions in all, the prefill included
    n_envs: int = size(1, least=1)  # streams side by side
    prefill: int = size(1_000, least=1)  # decisions at random before the first update
    collect: int = size(10, least=1)  # decisions per stream between updates
    utd: float = size(1.0, above=0)  # updates per decision
    batch: int = size(256, least=1)
    capacity: int = size(1_000_000, least=1)  # rows of replay
    n_step: int = size(1, least=1, most=1_000)  # of the returns; programs are as long
    eval_every: int = size(5_000, least=1)  # decisions between evaluations
    eval_episodes: int = size(10, least=1)
    hidden: tuple[int, ...] = size((256, 256), least=1)  # widths of all networks
    discount: float = traced(0.99, "Discount per decision.", least=0, most=1)
    actor_lr: float = traced(3e-4, "Adam's step size for the actor.", least=0)
    critic_lr: float = traced(3e-4, "Adam's step size for the critics.", least=0)
    tau: float = traced(0.005, "How far target networks move per update.", least=0, most=1)

    @property
    def updates(self) -> int:
        """Updates per cycle, rounded up."""
        return max(1, math.ceil(self.collect * self.n_envs * self.utd - 1e-6))

    @property
    def cycles(self) -> int:
        """Cycles after the prefill, rounded up."""
        return -(-max(self.env_steps - self.prefill, 1) // (self.collect * self.n_envs))

    @property
    def prefill_steps(self) -> int:
        """Decisions per stream before the first update, rounded up."""
        return -(-self.prefill // self.n_envs)

    @property
    def rows(self) -> int:
        """Rows per stream that replay keeps: ``capacity`` of them all rounded up, or as many as there will be."""
        return min(-(-self.capacity // self.n_envs), self.prefill_steps + self.cycles * self.collect)


DEBUG = {"env_steps": 600, "prefill": 200, "batch": 32, "hidden": (32, 32), "eval_every": 200, "eval_episodes": 2}


def check(config: OffPolicyConfig, spec: Spec, name: str) -> None:
    """Raises ValueError for settings that cannot be."""
    obs_action_dims(spec, name)
    if config.rows < max(config.prefill_steps, config.collect):
        least = max(config.prefill_steps, config.collect) * config.n_envs
        raise ValueError(f"{name}: capacity={config.capacity} does not hold what one Collect gives; give at least {least}.")
    if config.prefill >= config.env_steps:
        raise ValueError(f"{name}: prefill={config.prefill} leaves nothing of env_steps={config.env_steps}; give fewer.")


def obs_action_dims(spec: Spec, name: str, discrete: bool = False) -> tuple[int, int]:
    """Sizes of observation and action vectors; with ``discrete`` the action may also be one of so many choices.

    Raises:
        ValueError: the agent ``name`` cannot take what the environment has.
    """
    obs, action = spec.obs, spec.action
    if not isinstance(obs, Leaf) or len(obs.shape) != 1:
        raise ValueError(
            f"{name} takes observations that are vectors; this environment has {described(obs)}. "
            "rlx.envs.wrappers.as_vector makes one vector of a dict of floats."
        )
    if discrete and action.choices is not None:
        return obs.shape[0], action.choices
    return obs.shape[0], action_dims(action, name)


def action_dims(action: Leaf, name: str) -> int:
    """The size of action vectors.

    Raises:
        ValueError: the agent ``name`` takes vectors, and these are choices or of another shape.
    """
    if action.choices is not None:
        raise ValueError(f"{name} takes actions that are vectors, not one of {action.choices} choices: ppo takes these.")
    if len(action.shape) != 1:
        raise ValueError(f"{name} takes actions that are vectors; this environment has {action.shape}.")
    return action.shape[0]


class Networks(NamedTuple):
    """Static; their parameters are the entries of the same names in ``learned``."""

    actor: MLP
    critic: MLP  # one of the critics
    critics: MLP  # both, stacked


def networks(hidden: tuple[int, ...], outputs: int) -> Networks:
    """An actor with so many ``outputs``, close to 0 at the start, and two critics."""
    critic = MLP((*hidden, 1))
    return Networks(MLP((*hidden, outputs), last_scale=0.01), critic, stack(critic, 2))


def q_values(critics: MLP, params: PyTree, obs: Array, action: Array) -> Array:
    """Q_i(obs, action) of each critic of a stack [2, B]; of a single critic [B]."""
    return critics.apply(params, jnp.concatenate([obs, action], -1))[..., 0]


def critic_loss(params: PyTree, critics: MLP, batch: Transitions, y: Array) -> tuple[Array, Array]:
    """(Q_i - y)^2, its mean over the batch summed over critics; and the mean Q_1. ``y`` [B]."""
    q = q_values(critics, params, batch.obs, batch.action)
    return ((q - y) ** 2).mean(-1).sum(), q[0].mean()


def stages(config: OffPolicyConfig, update: Callable, stack: int = 1) -> tuple[Stage, ...]:
    """Prefill at random, then collect and update by turns, on batches of ``stack`` observations each."""
    sampler = replay.transitions(config.batch, n=config.n_step, stack=stack)
    first = Collect("train", config.prefill_steps, "replay", mode="random")
    learn = Collect("train", config.collect, "replay"), Update(config.updates, sampler, update)
    return Stage("prefill", 1, (first,)), Stage("learn", config.cycles, learn)


def shared_parts(config: OffPolicyConfig, problem: Problem) -> dict[str, Any]:
    """The streams, buffer, modes and evaluations of an `rlx.types.Agent`."""
    train: Env | HostEnv = problem.envs["train"]
    every = max(1, config.eval_every // (config.collect * config.n_envs))
    vec: VecEnv = batch(train, config.n_envs)
    return {
        "envs": {"train": vec},
        "buffers": {"replay": replay.ring(config.rows + 1, config.n_envs)},
        "modes": ("explore", "eval", "random"),
        "evals": (Eval("main", problem.evaluated, config.eval_episodes, every, stages=("learn",)),),
    }


def at_random(key: Key, step: Step, size: int) -> Array:
    """Uniform actions [W, size]."""
    return jax.random.uniform(key, (step.reward.shape[0], size), minval=-1.0, maxval=1.0)
