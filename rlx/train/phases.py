"""The one way to collect and the one way to update: functions of one member, which `rlx.train.program` compiles.

Environments and rows that are on the host go through the same functions: `rlx.train.host` only brings them there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.base import begin, rollout
from rlx.replay import Replay, update_priorities
from rlx.replay.buffer import prioritise
from rlx.train.schedule import streams
from rlx.types import (
    PHYSICS,
    Agent,
    AgentState,
    Array,
    Clock,
    Collect,
    Key,
    Out,
    Problem,
    PyTree,
    Reduce,
    ReplayState,
    RolloutState,
    Row,
    Sources,
    Spec,
    Step,
    Update,
    VecEnv,
)

COUNTS = ("env_steps", "sim_steps", "model_steps", "updates")


class Episodes(NamedTuple):
    """Episodes that ended: how many, and the sums of their returns and lengths."""

    count: Array  # int32
    returns: Array  # float32
    lengths: Array  # int32

    @staticmethod
    def none() -> Episodes:
        return Episodes(jnp.int32(0), jnp.float32(0), jnp.int32(0))


class Tally(NamedTuple):
    """What a run counts on the device between two looks from the host."""

    counts: dict[str, Array]  # int32, COUNTS
    sums: dict[str, Array]  # float32, metric sums
    n: dict[str, Array]  # float32, how many were summed
    peaks: dict[str, Array]  # float32, the greatest values, -inf where there were none
    first_nan_update: Array  # int32: the update that first gave a non-finite metric, -1 if none
    first_nan_cycle: Array  # int32: the cycle that first brought a non-finite observation or reward, -1 if none
    episodes: Episodes  # of the training environments that ended


class Actor(NamedTuple):
    """How an agent acts: its own functions, or for environments on the host their compiled forms over all members."""

    act: Callable[..., tuple[PyTree, PyTree, dict[str, Array]]]  # as Agent.act
    carry: Callable[..., PyTree]  # as Agent.carry
    fold: Callable[[Key, str], Key]


# ---------------------------------------------------------------------------------------------------------------- collect


def start(env: VecEnv, actor: Actor, state: AgentState, params: PyTree, key: Key, members: int | None = None) -> RolloutState:
    """An interaction at its beginning."""
    return begin(env, params, actor.carry(state, streams(env)), key, members)


def follow(before: RolloutState, after: RolloutState, rows: Row) -> tuple[RolloutState, Episodes]:
    """What ``rows`` [T, W] ([M, T, W]) add to the episodes that went on ``before`` them: ``after`` with what goes on now, and
    the episodes that ended. In a stream they follow on each other, so one sum up to the last end tells their returns."""
    xp, time = (np if isinstance(rows.reward, np.ndarray) else jnp), rows.reward.ndim - 2
    length = rows.reward.shape[time]
    number = xp.arange(length)[:, None]
    ends = rows.last & rows.valid
    last = xp.where(ends, number, -1).max(time)  # [W]: the row of the last end
    ended, some = number <= xp.expand_dims(last, time), last >= 0
    reward = xp.where(rows.valid & ~rows.first, rows.reward, 0)
    decision = (rows.valid & ~rows.first).astype(np.int32)
    parts = []
    for so_far, x in ((before.episode_return, reward), (before.episode_length, decision)):
        done, rest = xp.where(ended, x, 0).sum(time, dtype=x.dtype), xp.where(ended, 0, x).sum(time, dtype=x.dtype)
        parts.append((xp.where(some, so_far + done, 0).sum(-1, dtype=x.dtype), xp.where(some, 0, so_far) + rest))
    (returns, going_return), (lengths, going_length) = parts
    count = ends.sum((time, time + 1), dtype=np.int32)
    return after._replace(episode_return=going_return, episode_length=going_length), Episodes(count, returns, lengths)


def collect(
    phase: Collect,
    env: VecEnv,
    actor: Actor,
    state: AgentState,
    clock: Clock,
    params: PyTree,
    before: RolloutState,
    key: Key,
    members: int | None = None,
) -> tuple[RolloutState, Row, Row, Episodes]:
    """Acts for ``phase.steps`` decisions from where ``before`` stands, or from new starts where the phase is fresh. Gives what
    `rlx.envs.rollout` gives, and the episodes that ended. ``members``: of an environment on the host."""
    if phase.fresh:
        before = start(env, actor, state, params, actor.fold(key, "reset"), members)

    def policy(carry: PyTree, step: Step, now: Key) -> tuple[PyTree, PyTree, dict[str, Array]]:
        return actor.act(state, clock, carry, step, now, phase.mode)

    after, rows, tail = rollout(env, params, policy, before, key, phase.steps, members)
    after, ended = follow(before, after, rows)
    return after, rows, tail, ended


def store(phase: Collect, buffer: Replay, state: ReplayState, rows: Row, tail: Row) -> ReplayState:
    """``rows`` into their buffer. Before those of a new start what was pending ends as a truncated row."""
    return buffer.add(buffer.close(state) if phase.fresh else state, rows, tail)


def count_rows(tally: Tally, phase: Collect, env: VecEnv, rows: Row, ended: Episodes, cycle: Array) -> Tally:
    """``rows``, collected in ``cycle``, and the episodes that ended in them, added to the tally."""
    steps = jnp.sum(rows.valid & ~rows.last, dtype=jnp.int32)
    new = {"env_steps": steps, "sim_steps": steps * env.spec.repeat} if phase.counts == "real" else {"model_steps": steps}
    counts = {k: v + new[k] if k in new else v for k, v in tally.counts.items()}
    sums, n, peaks = _info(tally, env.spec, rows) if phase.counts == "real" else (tally.sums, tally.n, tally.peaks)
    floats = [x for x in jax.tree.leaves((rows.obs, rows.reward)) if jnp.issubdtype(x.dtype, jnp.floating)]
    fine = jnp.stack([jnp.isfinite(x).all() for x in floats]).all()
    nan_cycle = jnp.where((tally.first_nan_cycle < 0) & ~fine, cycle, tally.first_nan_cycle).astype(jnp.int32)
    episodes = jax.tree.map(jnp.add, tally.episodes, ended) if phase.counts == "real" else tally.episodes
    return tally._replace(counts=counts, sums=sums, n=n, peaks=peaks, first_nan_cycle=nan_cycle, episodes=episodes)


def info_reductions(spec: Spec) -> list[tuple[str, str, Reduce]]:
    """(name, leaf, way) of all that the info says of an episode; the state of the physics says nothing."""
    return [(k + end, k, way) for k, leaf in spec.info.items() if k != PHYSICS for end, way in leaf.reduces.items()]


def decision_infos(spec: Spec) -> tuple[dict[str, str], dict[str, str]]:
    """What a training line says of its decisions, by name and leaf: means of flags and of what episodes are averaged over,
    and peaks of what they have a greatest value of. Sums and last values belong to whole episodes."""
    named = lambda ways: {f"decisions/{name}": k for name, k, way in info_reductions(spec) if way in ways}
    return named(("any", "mean")), named(("max",))


def _info(tally: Tally, spec: Spec, rows: Row) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Sums, counts and peaks of the tally with what the info of ``rows`` says of the decisions that led to them."""
    arrived = rows.valid & ~rows.first
    of = lambda k: jnp.asarray(rows.info[k], jnp.float32).reshape(*arrived.shape, -1).mean(-1)
    averaged, greatest = decision_infos(spec)
    sums = {name: tally.sums[name] + jnp.where(arrived, of(k), 0).sum() for name, k in averaged.items()}
    n = {name: tally.n[name] + arrived.sum() for name in averaged}
    peaks = {name: jnp.maximum(tally.peaks[name], jnp.where(arrived, of(k), -jnp.inf).max()) for name, k in greatest.items()}
    return {**tally.sums, **sums}, {**tally.n, **n}, {**tally.peaks, **peaks}


# ----------------------------------------------------------------------------------------------------------------- update


def update_keys(key: Key, i: Array) -> Key:
    """Of updates ``i`` [n] in one run of a phase: keys [n, 2] to sample and to update with."""
    return jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(i)


def with_priorities(sources: Sources, priorities: dict[str, Array]) -> Sources:
    new = {k: sources[k]._replace(index=sources[k].index._replace(priority=p)) for k, p in priorities.items()}
    return {**sources, **new} if new else sources


def prioritised(phase: Update) -> tuple[str, ...]:
    """Names of the buffers whose priorities the phase updates."""
    return (phase.priorities_of,) if isinstance(phase.priorities_of, str) else phase.priorities_of


def data_of(agent: Agent, problem: Problem) -> dict[str, PyTree]:
    """The problem's data; rows whose priorities some update changes have a priority each, 1 unless they came with others."""
    changed = {name for stage in agent.stages for p in stage.phases if isinstance(p, Update) for name in prioritised(p)}
    return {k: prioritise(v) if k in changed and isinstance(v, ReplayState) else v for k, v in problem.data.items()}


def update(
    phase: Update,
    state: AgentState,
    sources: Sources,
    tally: Tally,
    clock: Clock,
    key: Key,
    i: Array,
    batches: PyTree = None,
) -> tuple[AgentState, dict[str, Array], Tally]:
    """Updates number ``i`` [n] of one run of the phase that begins at ``clock``, each on a batch of its own: sampled here, or
    given in ``batches`` [n, ...]. Returns the agent, the new priorities by buffer, and the tally with what was said."""
    names = prioritised(phase)

    def one(carry: tuple, x: tuple) -> tuple:
        (state, priorities), (i, pair, batch) = carry, x
        now, current = clock._replace(updates=clock.updates + i), with_priorities(sources, priorities)
        if batches is None:
            batch = phase.sample(state.hyper, now, current, pair[0])
        state, out = phase.update(state, now, batch, pair[1])
        if names:
            index = batch.index if isinstance(batch.index, dict) else dict.fromkeys(names, batch.index)
            priorities = {k: update_priorities(current[k], index[k], out.priority).index.priority for k in names}
        return (state, priorities), out._replace(priority=None)

    begun = state, {k: sources[k].index.priority for k in names}
    outs: Out
    (state, priorities), outs = jax.lax.scan(one, begun, (i, update_keys(key, i), batches))
    return state, priorities, count_updates(tally, outs, len(i), clock._replace(updates=clock.updates + i[0]))


def count_updates(tally: Tally, outs: Out, length: int, clock: Clock) -> Tally:
    """What ``length`` updates said (leaves [n]), the first of them at ``clock``, added to the tally."""
    counts = {**tally.counts, "updates": tally.counts["updates"] + length}
    if not outs.metrics:
        return tally._replace(counts=counts)
    metrics, valid = {k: jnp.asarray(v, jnp.float32) for k, v in outs.metrics.items()}, outs.valid or {}
    metrics = {k: jnp.where(valid[k], v, 0) if k in valid else v for k, v in metrics.items()}
    sums = {k: v + metrics[k].sum() if k in metrics else v for k, v in tally.sums.items()}
    times = {k: valid[k].sum() if k in valid else length for k in metrics}
    n = {k: v + times[k] if k in metrics else v for k, v in tally.n.items()}
    wrong = ~jnp.isfinite(sum(metrics.values()))
    found = (tally.first_nan_update < 0) & wrong.any()
    nan_update = jnp.where(found, clock.updates + jnp.argmax(wrong), tally.first_nan_update).astype(jnp.int32)
    return tally._replace(counts=counts, sums=sums, n=n, first_nan_update=nan_update)


def metric_names(agent: Agent, phase: Update, state: AgentState, sources: Sources, clock: Clock) -> list[str]:
    """What an update will say. Shapes are enough.

    Raises:
        ValueError: a metric is no scalar, or `Out.valid` is not a bool for each metric that it names.
    """

    def fn(state: AgentState, sources: Sources) -> Out:
        key = jax.random.key(0)
        return phase.update(state, clock, phase.sample(state.hyper, clock, sources, key), key)[1]

    out = jax.eval_shape(fn, state, sources)
    wrong = {k: v.shape for k, v in out.metrics.items() if v.shape}
    if wrong:
        raise ValueError(f"metrics of an update must be scalars; {agent.name} gave shapes {wrong}.")
    flag = lambda v: (v.shape, v.dtype) == ((), bool)
    odd = {k: f"{v.dtype}{v.shape}" for k, v in (out.valid or {}).items() if k not in out.metrics or not flag(v)}
    if odd:
        raise ValueError(
            f"Out.valid names metrics, a bool each; {agent.name} gave {odd} where its metrics are "
            f"{', '.join(out.metrics) or 'none'}."
        )
    return list(out.metrics)
