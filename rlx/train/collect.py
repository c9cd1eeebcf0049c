"""Collecting data: the rollouts of some behaviour as episodes, the replay of a run, and what there is to say of them.

::

    policy = rlx.load("runs/walker")
    env = policy.problem.envs["train"]
    episodes = collect(acting(policy, sampled=0.2), env, 100_000) + collect(random(env.spec), env, 10_000)
    rlx.replay.datasets.write("mixed.npz", episodes)
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, keys
from rlx.envs import actions
from rlx.envs.base import Policy as Act
from rlx.envs.base import batch, begin, rollout
from rlx.precision import in_float32
from rlx.replay.buffer import Replay, export
from rlx.train import layout
from rlx.train import run_config as run_configs
from rlx.train import state as states
from rlx.train.checkpoint import Checkpoints
from rlx.train.policy import Policy
from rlx.types import Array, Env, HostEnv, Key, PyTree, Row, Spec, Step

BLOCK = 1000  # steps of each stream per call of a rollout
PARTS = 1000  # shares of sampled episodes are exact to 1 / PARTS


class Behaviour(NamedTuple):
    """How to act: what is remembered of ``n`` streams before their first step, and ``(carry, step, key) -> (action, carry,
    extras)``, pure."""

    begin: Callable[[int], PyTree]
    act: Act


def random(spec: Spec) -> Behaviour:
    """Actions drawn uniformly."""
    return Behaviour(lambda n: (), lambda carry, step, key: (actions.sample(spec, key, step.reward.shape[0]), carry, {}))


def ornstein_uhlenbeck(spec: Spec, theta: float = 0.15, sigma: float = 0.2) -> Behaviour:
    """Noise that goes on from step to step, x <- x - theta x + sigma N(0, 1), from 0 at the start of each episode (Uhlenbeck
    and Ornstein 1930; with these numbers the exploration of Lillicrap et al. 2016, arXiv:1509.02971, section 7). The action is
    x within [-1, 1]; unbounded, x would spread to sigma / sqrt(2 theta - theta^2).

    Raises:
        ValueError: actions are choices; ``theta`` is not in (0, 2), ``sigma`` not above 0.
    """
    if spec.action.choices is not None:
        raise ValueError("Ornstein-Uhlenbeck noise is for actions that are numbers; here they are choices: take random ones.")
    if not 0 < theta < 2 or not sigma > 0:
        raise ValueError(f"theta={theta}, sigma={sigma}: give theta between 0 and 2, sigma above 0.")

    def act(x: Array, step: Step, key: Key) -> tuple[Array, Array, dict[str, Array]]:
        x = jnp.where(step.first.reshape(-1, *[1] * (x.ndim - 1)), 0.0, x)
        x = x - theta * x + sigma * jax.random.normal(key, x.shape)
        return jnp.clip(x, -1.0, 1.0), x, {}

    return Behaviour(lambda n: jnp.zeros((n, *spec.action.shape), jnp.float32), act)


def acting(
    policy: Policy,
    mode: str = "eval",
    sampled: float = 0.0,
    each: Literal["episode", "step"] = "episode",
    sampled_mode: str = "explore",
) -> Behaviour:
    """A trained policy in ``mode``, and a share ``sampled`` of what it does in ``sampled_mode``. By ``each`` "episode", whole
    ones are sampled, spread evenly: with 0.2 every fifth. By "step", each action is with that probability.

    NeoRL's data are of policies that take their mean with a chance of 80% and sample with 20% (Qin et al. 2022,
    arXiv:2102.00714), which reads as "step".

    Raises:
        ValueError: the agent lacks a mode, ``sampled`` is not in [0, 1], or ``each`` is unknown.
    """
    for name in (mode, sampled_mode) if sampled else (mode,):
        if name not in policy.agent.modes:
            raise ValueError(f"{policy.agent.name} has no mode {name!r}.{config.nearest(name, policy.agent.modes)}")
    if not 0 <= sampled <= 1:
        raise ValueError(f"sampled={sampled} is a share of what is done: give it between 0 and 1.")
    if each not in ("episode", "step"):
        raise ValueError(f"each={each!r} is unknown; give 'episode' or 'step'.")
    if not sampled:
        return Behaviour(policy.carry, policy.actor(mode))
    most, other, share = policy.actor(mode), policy.actor(sampled_mode), round(sampled * PARTS)

    def begin(n: int) -> PyTree:
        return policy.carry(n), jnp.arange(n) - n  # and the number of each stream's episode, counted over all

    def act(carry: PyTree, step: Step, key: Key) -> tuple[PyTree, PyTree, dict[str, Array]]:
        remembered, number = carry
        number = number + step.first * number.shape[0]
        if each == "episode":
            drawn = (number + 1) * share // PARTS > number * share // PARTS
        else:
            drawn = jax.random.bernoulli(keys.fold(key, "which"), sampled, number.shape)
        pick = lambda a, b: jnp.where(drawn.reshape(-1, *[1] * (a.ndim - 1)), a, b)
        b, a = (actor(remembered, step, key) for actor in (most, other))
        both = {k: pick(a[2][k], b[2][k]) for k in a[2] if k in b[2]}
        return jax.tree.map(pick, a[0], b[0]), (jax.tree.map(pick, a[1], b[1]), number), both

    return Behaviour(begin, act)


@in_float32
def collect(
    behaviour: Behaviour,
    env: Env | HostEnv,
    steps: int,
    streams: int = 10,
    key: Key | int = 0,
    progress: Callable[[int], None] = lambda taken: None,
) -> list[Row]:
    """At least ``steps`` transitions as episodes (numpy rows [T, ...]); the last of each stream may be cut. ``progress`` is
    told now and then how many there are."""
    vec, act = batch(env, streams), behaviour.act
    key = keys.root(key) if isinstance(key, (int, np.integer)) else key
    rollout_state = begin(vec, vec.params, behaviour.begin(streams), keys.fold(key, "begin"))
    if vec.host:
        fast = jax.jit(lambda carry, step, data: act(carry, step, jax.random.wrap_key_data(data)))
        roll = lambda rollout_state, key, n: rollout(vec, vec.params, fast, rollout_state, key, n)
    else:
        roll = jax.jit(lambda rollout_state, key, n: rollout(vec, vec.params, act, rollout_state, key, n), static_argnums=2)
    blocks: list[Row] = []
    taken = 0
    try:
        while taken < steps:
            n = min(BLOCK, -(-(steps - taken) // streams))
            rollout_state, rows, tail = roll(rollout_state, keys.fold(key, "collect", len(blocks)), n)
            blocks.append(jax.tree.map(np.asarray, rows))
            taken += int(np.sum(rows.valid & ~rows.last))
            progress(min(taken, steps))
    finally:
        vec.close()
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *blocks)
    buffer = Replay(len(whole.reward) + 2, streams, device=False)
    state = buffer.init(jax.tree.map(lambda x: x[0, 0], whole))
    return _in_bounds(env.spec, buffer.export(buffer.close(buffer.add(state, whole, jax.tree.map(np.asarray, tail)))))


def _in_bounds(spec: Spec, episodes: list[Row]) -> list[Row]:
    """Float actions clipped as the environment did."""
    if spec.action.choices is not None:
        return episodes
    return [e._replace(action=np.clip(e.action, -1, 1)) for e in episodes]


@in_float32
def replay_of(run_dir: str | os.PathLike, member: int = 0, name: str = "replay") -> list[Row]:
    """All episodes in the replay ``name`` of a run's newest checkpoint, oldest first within each stream: of an off-policy agent
    what it has seen so far, as far as its capacity goes ("medium-replay"). The newest of each stream is cut where it stood.

    Raises:
        ValueError: no run folder, no checkpoint, no such member, or an agent without such a replay.
    """
    run_config = run_configs.read(run_dir)
    if not 0 <= member < run_config.members:
        raise ValueError(f"{run_dir} has {run_config.members} member(s), counted from 0; there is no member {member}.")
    problem = run_config.problem()
    agent, folder = run_config.make(problem), Path(run_dir) / "checkpoints"

    def template(meta: dict[str, Any]) -> PyTree:
        layout.check(meta.get("rlx"), folder)
        if name not in meta["capacity"]:
            have = ", ".join(meta["capacity"]) or "none"
            raise ValueError(f"{run_dir}: {agent.name} had no replay {name!r} yet or keeps none; its checkpoint has {have}.")
        return states.source_template(agent, problem, meta, name)

    found = Checkpoints(folder).newest(template, part=True) if folder.is_dir() else None
    if found is None:
        remedy = run_configs.in_waves(run_dir) or "Let its run go on, with the command that began it."
        raise ValueError(f"{run_dir} has no checkpoint yet. {remedy}")
    _, tree, meta = found
    source = tree["sources"][name]
    if not run_config.solo:
        if member not in meta["member_ids"]:
            raise ValueError(f"member {member} of {run_dir} diverged and its replay is gone; give another --member.")
        source = jax.tree.map(lambda x: x[meta["member_ids"].index(member)], source)
    return _in_bounds(problem.envs["train"].spec, export(agent.buffers[name].close(source)))


# ------------------------------------------------------------------------------------------------------ what is in the data


def alike(parts: Sequence[list[Row]]) -> list[Row]:
    """Episodes of several sources as one list: of ``info`` and ``extras`` what all of them have, since a file has one set of
    columns. A warning names what is left out."""
    episodes = list(itertools.chain(*parts))
    lost: list[str] = []
    for field in ("info", "extras"):
        every = [set(getattr(part[0], field)) for part in parts if part]
        kept = set.intersection(*every)
        lost += [f"{field}/{k}" for k in sorted(set.union(*every) - kept)]
        episodes = [e._replace(**{field: {k: x for k, x in getattr(e, field).items() if k in kept}}) for e in episodes]
    if lost:
        warnings.warn(f"left out of the data, as not all its parts have it: {', '.join(lost)}.", stacklevel=2)
    return episodes


def summary(episodes: Iterable[Row], horizon: int | None) -> dict[str, Any]:
    """``transitions``, ``episodes``, and ``returns`` of the whole ones: those that terminated or came to the time limit."""
    episodes = list(episodes)
    whole = [e for e in episodes if e.terminated[-1] or len(e.reward) - 1 == horizon]
    returns = np.array([float(e.reward.sum()) for e in whole])
    return {"transitions": sum(len(e.reward) - 1 for e in episodes), "episodes": len(episodes), "returns": returns}
