"""Demonstrations: whole episodes of a scripted expert in which the task was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import keys
from rlx.envs.experts import Expert, shown
from rlx.envs.outcomes import SUCCESS
from rlx.train.collect import Behaviour, collect
from rlx.types import PHYSICS, Array, Env, HostEnv, Key, PyTree, Row, Spec, Step

CLIP = 3.0  # noise stays within so many of its standard deviations
TRIES = 10  # episodes that are played for each that is wanted, at most


def scripted(expert: Expert, spec: Spec, noise: float = 0.0) -> Behaviour:
    """``expert`` in the environment that `rlx.envs.experts.shown` makes, its actions with N(0, ``noise``^2) on top, clipped to
    three standard deviations: what is seen beside the straight way widens what can be learned from it."""

    def act(carry: PyTree, step: Step, key: Key) -> tuple[Array, PyTree, dict[str, Array]]:
        action = expert(step.obs["obs"], step.obs[PHYSICS])
        off = noise * jnp.clip(jax.random.normal(key, action.shape), -CLIP, CLIP)
        return jnp.clip(action + off, -1.0, 1.0), carry, {}

    return Behaviour(lambda n: (), act)


def demonstrate(
    expert: Expert,
    env: Env | HostEnv,
    episodes: int = 10,
    *,
    noise: float = 0.0,
    least: int = 5,
    streams: int = 10,
    key: Key | int = 0,
    progress: Callable[[int], None] = lambda found: None,
) -> tuple[list[Row], int]:
    """``episodes`` whole ones (numpy rows [L + 1, ...]) with at least ``least`` decisions in success, and how many were played.
    With ``least`` 0 the first ones, whatever became of them. ``streams`` are played side by side.

    Raises:
        ValueError: an environment without time limit or without success in its info; too few successes.
    """
    if env.spec.horizon is None:
        raise ValueError(f"{env.name} has no time limit: give time_limit, decisions per episode.")
    if least and not set(SUCCESS) & set(env.spec.info):
        raise ValueError(
            f"{env.name} does not say in its info when the task is done ({' or '.join(SUCCESS)}): keep all (least=0)."
        )
    key = keys.root(key) if isinstance(key, (int, np.integer)) else key
    behaviour, watched = scripted(expert, env.spec, noise), shown(env)
    kept: list[Row] = []
    played = 0
    while len(kept) < episodes and played < TRIES * episodes:
        # one stream plays one whole episode, and what it begins after an early end is left out
        block = collect(behaviour, watched, env.spec.horizon * streams, streams, keys.fold(key, "demos", played))
        whole = [e for e in block if e.terminated[-1] or len(e.reward) - 1 == env.spec.horizon]
        played += len(whole)
        kept += [e._replace(obs=e.obs["obs"]) for e in whole if successes(e) >= least]
        progress(min(len(kept), episodes))
    if len(kept) < episodes:
        raise ValueError(
            f"{len(kept) or 'none'} of {played} episodes of the expert of {env.name} had {least} decisions in success, and "
            f"{episodes} were asked for: less noise, a longer time limit, fewer decisions in success, or keep all."
        )
    return kept[:episodes], played


def successes(episode: Row) -> int:
    """Decisions that ended in success."""
    flags: list[Any] = [episode.info[name] for name in SUCCESS if name in episode.info]
    return int((np.asarray(flags[0]) > 0.5).sum()) if flags else 0
