"""Episodes of Meta-World of different quality, played by its own scripts, where the files that others made cannot be had.

`graded`: the script of the task with noise of 0.1, 0.5, 1 and 2 on its actions, and uniform actions, by turns. Small, and good
for whole episodes that are to be compared.

`mixed`, as the data of inverse preference learning are (Hejna and Sadigh 2023, arXiv:2305.15363), equal numbers of: the script;
the same one where it takes things to be where they are in another layout of the task; uniform actions; the script of another
task, a new one each episode. Scripts have noise of 1. Episodes end after 25 decisions in success: what comes then is much the
same, and most windows would show it.

Noise is added before actions are clipped, and scripts ask for more than the box allows: far from where they want to be, they
are less disturbed than the numbers say. Both are rows of `rlx.envs.make("gym:Meta-World/MT1", env_name=task)` and need the
extra ``metaworld``; one core plays several hundred decisions a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlx import keys
from rlx.envs import batch, begin, experts, make, meta_world_cpl, rollout
from rlx.types import HostEnv, Key, Row

ENV = "gym:Meta-World/MT1"
CPL = f"gym:{meta_world_cpl.__name__}:{meta_world_cpl.ID}"
# From which tasks to which PEARL carries labels, as we recall its paper
PAIRS = tuple(
    (source, target)
    for source in ("button-press-v3", "faucet-close-v3")
    for target in ("window-open-v3", "door-close-v3", "drawer-open-v3", "sweep-into-v3")
)
NOISE = (0.1, 0.5, 1.0, 2.0)
HAND, FRAME = 4, 18  # of an observation: what is of the hand, in each of two frames; the goal comes behind them
ENOUGH = 25  # decisions in success, after which an episode of `mixed` ends

Progress = Callable[[int], None]
Act = Callable[[Any, Any, np.random.Generator], tuple[np.ndarray, Any]]  # (remembered, step, rng) -> (actions, remembered)


def graded(task: str, count: int, steps: int, key: Key, progress: Progress = lambda done: None) -> list[Row]:
    """``count`` episodes of ``steps`` decisions; the quality of episode i is that of i mod 5.

    Raises:
        ValueError: Meta-World is not installed, or has no such task.
    """
    script, env, many = experts.meta_world(task), _task(task, steps), len(NOISE)

    def act(remembered: Any, step: Any, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        noisy = script(step.obs[:many]) + np.array(NOISE)[:, None] * rng.normal(size=(many, 4))
        return np.concatenate([noisy, rng.uniform(-1, 1, (1, 4))]), remembered

    return _played(env, many + 1, act, (), count, steps, key, progress)


def mixed(task: str, count: int, steps: int, key: Key, progress: Progress = lambda done: None) -> list[Row]:
    """``count`` episodes of at most ``steps`` decisions; the behaviour of episode i is that of i mod 4. Raises as `graded`."""
    script, env = experts.meta_world(task), _task(task, steps)
    others = [experts.meta_world(name) for name in experts.meta_world_tasks() if name != task]

    def act(remembered: Any, step: Any, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
        layout, other = remembered
        if step.first[0]:
            layout, other = step.obs[0], int(rng.integers(len(others)))
        own, strange, uniform, foreign = step.obs
        mistaken = elsewhere(strange, layout)
        wanted = np.concatenate([script(np.stack([own, mistaken])), others[other](foreign[None])])
        wanted = wanted + rng.normal(size=wanted.shape)
        return np.stack([*wanted[:2], rng.uniform(-1, 1, 4), wanted[2]]), (layout, other)

    found = _played(env, 4, act, (np.zeros(39), 0), count, steps, key, progress)
    return [until_done(episode) for episode in found]


def elsewhere(obs: np.ndarray, layout: np.ndarray) -> np.ndarray:
    """``obs`` [39] with objects and goal where they are in ``layout`` [39]; the hand stays."""
    hand = np.zeros(39, bool)
    for frame in (0, FRAME):
        hand[frame : frame + HAND] = True
    return np.where(hand, obs, layout)


def until_done(episode: Row) -> Row:
    """Cut after `ENOUGH` decisions in success."""
    done = np.cumsum(np.asarray(episode.info["success"]) > 0.5)
    stop = int(np.searchsorted(done, ENOUGH)) + 1
    return jax.tree.map(lambda x: x[:stop], episode)


def as_cpl(episode: Row) -> Row:
    """With the observations and rewards of `CPL`."""
    obs = meta_world_cpl.shortened(np.asarray(episode.obs))
    return episode._replace(obs=obs, reward=np.asarray(episode.reward) * np.float32(meta_world_cpl.REWARD_SCALE))


RECIPES = {"metaworld": graded, "metaworld-mixed": mixed}


def _task(task: str, steps: int) -> HostEnv:
    env = make(ENV, env_name=task, time_limit=steps, disable_env_checker=True)  # rlx's own border checks, and says less
    assert isinstance(env, HostEnv)
    return env


def _played(
    env: HostEnv, streams: int, act: Act, remembered: Any, count: int, steps: int, key: Key, progress: Progress
) -> list[Row]:
    """Whole episodes of ``streams`` side by side, each with a layout of its own; the first ``count``."""

    def policy(carry: Any, step: Any, key: Any) -> tuple[np.ndarray, Any, dict]:
        actions, carry = act(carry, step, np.random.default_rng(key))
        return np.clip(actions, -1, 1).astype(np.float32), carry, {}

    vec = batch(env, streams)
    state = begin(vec, vec.params, remembered, keys.fold(key, "begin"))
    found: list[Row] = []
    try:
        while len(found) < count:
            state, rows, _ = rollout(vec, vec.params, policy, state, keys.fold(key, "round", len(found)), steps + 1)
            found += [jax.tree.map(lambda x, i=i: x[:, i], rows) for i in range(streams)]
            progress(min(len(found), count))
    finally:
        vec.close()
    return found[:count]
