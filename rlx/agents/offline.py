"""What agents share that learn from a dataset alone: ``Problem.data["data"]``, a replay state.

The environment is there for evaluation, and to say what observations and actions are. What is computed once over the data, the
mean and standard deviation of observations and a unit of rewards, is part of what is learned (`Scales`): so checkpoints and
exported policies have it, and another run that begins with these networks keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.agents.offpolicy import obs_action_dims
from rlx.config import size, traced
from rlx.envs.observations import same_rows
from rlx.nn.distributions import Normal
from rlx.nn.mlp import MLP
from rlx.replay import Transitions
from rlx.replay.buffer import overlaid
from rlx.replay.flags import VALID, has
from rlx.types import Array, Eval, Key, Problem, PyTree, ReplayState, Sampler, Stage, Update

LOG_STD = (-5.0, 2.0)
EDGE = 1 - 1e-5  # actions of the data are clipped to +- this, where their density is asked for
LEAST_STD = 1e-3  # added to the standard deviations of observations, as TD3+BC has it
CHUNK = 2**16  # rows that are widened to float64 together


@dataclass(frozen=True)
class DataConfig:
    """Settings that all agents share that learn from a dataset alone."""

    updates: int = size(1_000_000, least=1, budget=True)  # in all
    block: int = size(100, least=1)  # updates per cycle; evaluations and checkpoints come between cycles
    batch: int = size(256, least=1)
    eval_every: int = size(5_000, least=1)  # updates between evaluations
    eval_episodes: int = size(10, least=1)
    normalize_obs: bool = False  # to zero mean and unit variance over the data
    actor_lr: float = traced(3e-4, "Adam's step size for the actor.", least=0)

    @property
    def cycles(self) -> int:
        """Blocks of updates, rounded up."""
        return -(-self.updates // self.block)


@dataclass(frozen=True)
class OfflineConfig(DataConfig):
    """And that those share whose networks are MLPs."""

    hidden: tuple[int, ...] = size((256, 256), least=1)  # widths of all networks


@dataclass(frozen=True)
class ValueConfig(OfflineConfig):
    """Settings of those that learn values too. Rewards are ``reward_scale * r + reward_shift``, with r as it is stored or, with
    ``normalize_returns``, 1000 r / (largest - smallest return of an episode)."""

    normalize_returns: bool = False  # divide rewards by a thousandth of the range of the episodes' returns
    reward_scale: float = traced(1.0, "Rewards are multiplied by this.")
    reward_shift: float = traced(0.0, "And this is added.")
    discount: float = traced(0.99, "Discount per decision.", least=0, most=1)
    critic_lr: float = traced(3e-4, "Adam's step size for the critics.", least=0)
    tau: float = traced(0.005, "How far target networks move per update.", least=0, most=1)


DEBUG = {"updates": 200, "block": 20, "batch": 32, "hidden": (32, 32), "eval_every": 100, "eval_episodes": 2}


# ----------------------------------------------------------------------------------------------------------------- the data


class Scales(NamedTuple):
    """In which units networks see the data: observations as (obs - mean) / std [n], rewards times ``reward`` []."""

    mean: Array
    std: Array
    reward: Array

    def obs(self, obs: Array) -> Array:
        return (obs - self.mean) / self.std


def dataset(problem: Problem, name: str) -> tuple[ReplayState, int, int]:
    """The data, and the sizes of observation and action vectors.

    Raises:
        ValueError: there are no data, they are no rows, or rows of another environment; or the agent ``name`` cannot take what
            the environment has.
    """
    n, m = obs_action_dims(problem.envs["train"].spec, name)
    return rows_of(problem, name), n, m


def rows_of(problem: Problem, name: str) -> ReplayState:
    """The data, whatever its observations are.

    Raises:
        ValueError: there are no data, they are no rows, or rows of another environment.
    """
    data = problem.data.get("data")
    if not isinstance(data, ReplayState):
        given = "there are none" if data is None else f"what is given is a {type(data).__name__}"
        raise ValueError(
            f"{name} learns from data, and {given}: give Problem(envs, {{'data': rlx.replay.from_episodes(...)}}), "
            "or --data FILE in a command."
        )
    same_rows(data.data, problem.envs["train"], "data")
    return data


def scales(data: ReplayState, config: DataConfig) -> Scales:
    """The units that ``config`` asks for, computed in float64 on the host over all stored rows; else those of the data.

    Raises:
        ValueError: all episodes have the same return, and rewards are to be divided by the range.
    """
    obs = overlaid(data).obs
    mean, std = np.zeros(obs.shape[-1]), np.ones(obs.shape[-1])
    if config.normalize_obs:
        there = has(np.asarray(data.index.flags), VALID)
        mean, std = moments(np.asarray(obs) if isinstance(obs, jax.Array) else obs, there)  # what is mapped stays on disk
        std = std + LEAST_STD
    unit = 1.0
    if isinstance(config, ValueConfig) and config.normalize_returns:
        returns = replay.episode_returns(data)
        unit = 1000 / span if (span := np.ptp(returns)) > 1e-8 else 0.0
        if not unit:
            raise ValueError(
                f"normalize_returns: all {len(returns)} episodes of the data have the return {returns[0]:.6g}, so there is no "
                "range to divide by; leave it out, or give reward_scale."
            )
    return Scales(*(jnp.asarray(x, jnp.float32) for x in (mean, std, unit)))


def moments(x: Any, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [n] of the rows of ``x`` [C, W, n], numpy or mapped, where ``there`` [C, W], in float64. A
    chunk of it is in memory at a time, since what is mapped may be larger."""
    parts = [slice(i, i + CHUNK) for i in range(0, len(x), CHUNK)]
    over = lambda f: sum(f(x[part][there[part]].astype(np.float64)).sum(0) for part in parts) / there.sum()
    mean = over(lambda rows: rows)
    return mean, np.sqrt(over(lambda rows: (rows - mean) ** 2))


def scaled(batch: Transitions, scales: Scales, h: dict[str, Array]) -> Transitions:
    """``batch`` in units of ``scales``, its rewards as `ValueConfig` says."""
    reward = h["reward_scale"] * scales.reward * batch.reward + h["reward_shift"]
    return batch._replace(obs=scales.obs(batch.obs), next_obs=scales.obs(batch.next_obs), reward=reward)


# ------------------------------------------------------------------------------------------------------------------- agents


def init_gaussian(actor: MLP, key: Key, n: int, m: int) -> PyTree:
    """Parameters of `gaussian`: those of its mean, and a log standard deviation of 0."""
    return {"mean": actor.init(key, jnp.zeros(n)), "log_std": jnp.zeros(m)}


def gaussian(actor: MLP, params: PyTree, obs: Array) -> Normal:
    """A policy whose mean is a tanh, and whose standard deviation does not depend on the observation."""
    mean = jnp.tanh(actor.apply(params["mean"], obs))
    return Normal(mean, jnp.broadcast_to(jnp.clip(params["log_std"], *LOG_STD), mean.shape))


def shared_parts(config: DataConfig, problem: Problem, update: Callable, sampler: Sampler | None = None) -> dict[str, Any]:
    """The stage "learn" and its evaluations of an `rlx.types.Agent`. ``sampler`` None: transitions."""
    sampler = sampler or replay.transitions(config.batch, source="data")
    every = max(1, config.eval_every // config.block)
    return {
        "stages": (Stage("learn", config.cycles, (Update(config.block, sampler, update),)),),
        "reads": ("data",),
        "evals": (Eval("main", problem.evaluated, config.eval_episodes, every, stages=("learn",)),),
    }
