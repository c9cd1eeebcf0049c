"""Samplers: draw indices from the index of a replay, read batches from its rows.

Every draw is exact: uniform over all admissible windows, or proportional to their priorities. No window joins rows that were
not neighbours in one stream, and unless it says so none crosses the border of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.replay.buffer import overlaid
from rlx.replay.windows import Index, draw_uniform, draw_weighted, steps_ahead, steps_back, steps_to_end
from rlx.types import Array, Clock, Key, Meta, PyTree, Row, Sampler, Sources


class Transitions(NamedTuple):
    """A batch [B, ...] of (n-step) transitions."""

    obs: PyTree
    action: PyTree
    reward: Array  # sum of discount^k times the k-th reward, over the steps taken
    discount: Array  # discount^steps, 0 where next_obs is terminal: the factor of the bootstrap
    next_obs: PyTree
    terminated: Array
    extras: dict[str, Array]  # of the first row
    weight: Array  # importance weights, 1 where sampling is uniform
    index: Index  # type: ignore[assignment]  # of the first row


class Sequences(NamedTuple):
    """A batch of windows: the fields of `rlx.types.Row` as [T, B, ...], importance weights [B], the index of the first rows."""

    obs: PyTree
    reward: Array
    terminated: Array
    truncated: Array
    first: Array
    info: dict[str, Array]
    action: PyTree
    extras: dict[str, Array]
    valid: Array
    weight: Array
    index: Index  # type: ignore[assignment]


class Goals(NamedTuple):
    """`Transitions` with a goal, [B, ...]."""

    transition: Transitions
    goal: PyTree
    reached: Array  # bool: the goal is next_obs
    index: Index  # type: ignore[assignment]


class Segments(NamedTuple):
    """Windows [T, B, ...] within one episode; ``mask`` [T, B] is False behind its end. ``returns`` [B]: discounted sum of
    the rewards of the actions in the window."""

    rows: Row
    mask: Array
    returns: Array
    index: Index  # type: ignore[assignment]


def _take(tree: PyTree, t: Array, w: Array) -> PyTree:
    return jax.tree.map(lambda x: x[t, w], tree)


def _frames(obs: PyTree, places: Array, w: Array) -> PyTree:
    """Frames at ring positions [..., k] (newest first), stacked oldest first along the last axis of each observation."""
    k = places.shape[-1]
    if k == 1:
        return _take(obs, places[..., 0], w)
    xp = np if isinstance(places, np.ndarray) else jnp
    join = lambda x: xp.concatenate([x[places[..., i], w] for i in reversed(range(k))], -1)
    return jax.tree.map(join, obs)


def _poison(reward: Array, t: Array) -> Array:
    """NaN where there was nothing to draw: an update on nothing must not pass silently."""
    return (np if isinstance(reward, np.ndarray) else jnp).where(t < 0, np.float32(np.nan), reward)


def _check(batch: int, **least: int) -> None:
    for name, value in {"batch": batch, **least}.items():
        if value < 1:
            raise ValueError(f"a sampler was given {name}={value}; it must be at least 1.")


def _draw(meta: Meta, key: Key, batch: int, length: int, cross: bool, hyper: dict[str, Array] | None) -> tuple[Index, Array]:
    """Uniform windows and weights 1, or (given the exponents in ``hyper``) windows by priority and importance weights."""
    if hyper is None:
        return draw_uniform(meta, key, batch, length, cross), jnp.ones(batch)
    index, odds = draw_weighted(meta, key, batch, length, hyper["priority_exponent"], cross)
    weight = odds ** -hyper["importance_exponent"]
    return index, weight / weight.max()


class _Drawn(NamedTuple):
    index: Index  # type: ignore[assignment]
    steps: Array
    frames: Array  # ring positions of the frames of obs, [B, stack]
    next_frames: Array
    gamma: Array
    weight: Array


def transitions(
    batch: int,
    *,
    n: int = 1,
    discount: str = "discount",
    source: str = "replay",
    priorities: bool = False,
    stack: int = 1,
) -> Sampler:
    """`Transitions` of up to ``n`` steps; fewer where the episode or the stored rows end, with the discount to match.

    ``discount`` names a traced value. ``priorities``: draw in proportion to ``weight ** hyper["priority_exponent"]``;
    importance weights ``(N p) ** -hyper["importance_exponent"]`` are scaled to a maximum of 1 in the batch. ``stack``: each
    observation is its last ``stack`` frames, along the last axis; at the start of an episode the first one is repeated.
    """
    _check(batch, n=n, stack=stack)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> _Drawn:
        meta = sources[source].meta
        index, weight = _draw(meta, key, batch, 2, False, hyper if priorities else None)
        steps = jnp.ones(batch, jnp.int32) if n == 1 else steps_ahead(meta, index, n)
        after = Index((index.t + steps) % meta.first.shape[0], index.w)
        frames, following = (steps_back(meta, i, stack - 1) for i in (index, after))
        return _Drawn(index, steps, frames, following, hyper[discount], weight)

    def read(sources: Sources, drawn: _Drawn) -> Transitions:
        rows, (t, w), steps = overlaid(sources[source]), drawn.index, drawn.steps
        size, gamma = rows.reward.shape[0], drawn.gamma
        after, factor = (t + steps) % size, gamma**steps
        reward = rows.reward[(t + 1) % size, w]
        for k in range(1, n):
            reward = reward + gamma**k * (k < steps) * rows.reward[(t + k + 1) % size, w]
        terminated = rows.terminated[after, w]
        return Transitions(
            obs=_frames(rows.obs, drawn.frames, w),
            action=_take(rows.action, t, w),
            reward=_poison(reward, t),
            discount=(factor * (1 - terminated)).astype(np.float32),
            next_obs=_frames(rows.obs, drawn.next_frames, w),
            terminated=terminated,
            extras=_take(rows.extras, t, w),
            weight=drawn.weight,
            index=drawn.index,
        )

    return Sampler(draw, read, (source,), priorities)


def sequences(
    batch: int,
    length: int,
    *,
    cross: bool = False,
    source: str = "replay",
    priorities: bool = False,
    stack: int = 1,
) -> Sampler:
    """`Sequences` of ``length`` neighbouring rows, uniform over all places where they fit (or by the ``priorities`` of their
    first rows, as in `transitions`).

    With ``cross`` windows go on into the next episode (look at ``first``); without, they stay in one. The last row may be a
    stream's newest, whose action is not known yet: use actions up to the last but one.
    """
    _check(batch, length=length, stack=stack)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> tuple[Index, Index, Array, Array]:
        meta = sources[source].meta
        index, weight = _draw(meta, key, batch, length, cross, hyper if priorities else None)
        t = (index.t + jnp.arange(length)[:, None]) % meta.first.shape[0]
        window = Index(t, jnp.broadcast_to(index.w, t.shape))
        return index, window, steps_back(meta, window, stack - 1), weight

    def read(sources: Sources, drawn: tuple[Index, Index, Array, Array]) -> Sequences:
        rows, (index, (t, w), frames, weight) = overlaid(sources[source]), drawn
        out = _take(rows._replace(obs=()), t, w)
        out = out._replace(obs=_frames(rows.obs, frames, w), reward=_poison(out.reward, index.t))
        return Sequences(*out, weight, index)

    return Sampler(draw, read, (source,), priorities)


def goals(
    batch: int,
    *,
    future: float = 1.0,
    random: float = 0.0,
    current: float = 0.0,
    discount: str = "discount",
    source: str = "replay",
) -> Sampler:
    """`Goals`: with these probabilities the goal is an observation of the same episode a geometric number of steps ahead
    (parameter ``1 - discount``, at most its end), a uniformly drawn observation, or the next one."""
    _check(batch)
    total = future + random + current
    if min(future, random, current) < 0 or not np.isclose(total, 1):
        raise ValueError(f"goals: future={future}, random={random}, current={current} must be probabilities that sum to 1.")
    base = transitions(batch, discount=discount, source=source)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        meta = sources[source].meta
        k = jax.random.split(key, 4)
        drawn = base.draw(sources, hyper, clock, k[0])
        u = jax.random.uniform(k[1], (batch,), minval=1e-7)
        ahead = 1 + jnp.floor(jnp.log(u) / jnp.log(hyper[discount])).astype(jnp.int32)
        ahead = jnp.minimum(ahead, steps_to_end(meta, drawn.index))
        anywhere = draw_uniform(meta, k[2], batch, 1)
        kind = jax.random.choice(k[3], 3, (batch,), p=jnp.array([future, random, current]))
        same = (drawn.index.t + jnp.where(kind == 2, 1, ahead)) % meta.first.shape[0]
        t = jnp.where(kind == 1, anywhere.t, same)
        return drawn, Index(t, jnp.where(kind == 1, anywhere.w, drawn.index.w))

    def read(sources: Sources, both: Any) -> Goals:
        drawn, (t, w) = both
        rows = overlaid(sources[source])
        reached = (t == (drawn.index.t + 1) % rows.reward.shape[0]) & (w == drawn.index.w)
        return Goals(base.read(sources, drawn), _take(rows.obs, t, w), reached, drawn.index)

    return Sampler(draw, read, (source,))


def segments(batch: int, length: int, *, discount: str | None = None, source: str = "replay") -> Sampler:
    """`Segments` of ``length`` rows from anywhere in an episode, short ones masked at its end. ``discount`` names a traced
    value for ``returns`` (None: plain sums)."""
    _check(batch, length=length)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        meta = sources[source].meta
        index = draw_uniform(meta, key, batch, 2)
        return index, steps_ahead(meta, index, length), hyper[discount] if discount else jnp.float32(1)

    def read(sources: Sources, drawn: Any) -> Segments:
        index, steps, gamma = drawn
        rows = overlaid(sources[source])
        i = np.arange(length)[:, None]
        t = (index.t + i) % rows.reward.shape[0]
        out = _take(rows, t, index.w[None])
        mask = i <= steps
        following = rows.reward[(t + 1) % rows.reward.shape[0], index.w[None]]
        returns = (gamma**i * following * (i < steps)).sum(0)
        return Segments(out, mask, _poison(returns, index.t), index)

    return Sampler(draw, read, (source,))


def items(batch: int, source: str) -> Sampler:
    """Entries of any pytree with a leading axis [N, ...], uniform with replacement."""
    _check(batch)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Array:
        return jax.random.randint(key, (batch,), 0, jax.tree.leaves(sources[source])[0].shape[0])

    def read(sources: Sources, index: Array) -> dict[str, PyTree]:
        return {"items": jax.tree.map(lambda x: x[index], sources[source]), "index": index}

    return Sampler(draw, read, (source,))


def mix(samplers: Sequence[Sampler], share: float | Callable[[dict[str, Array], Clock], Array]) -> Sampler:
    """One batch from two samplers of equal batches: ``round(share * B)`` entries of the first, the rest of the second.

    ``share`` may be a function of (hyper, clock), which makes it a schedule. The batch's ``index`` is a dict by source, with
    ``t = -1`` for entries that come from the other: give each source's entry to its own `rlx.replay.reweigh`.
    """
    if len(samplers) != 2:
        raise ValueError(f"mix takes two samplers (nest it for more), got {len(samplers)}.")
    a, b = samplers
    names = a.sources[0], b.sources[0]
    if names[0] == names[1]:
        raise ValueError(f"mix: both samplers read {names[0]!r}; they must read different sources.")

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        k = jax.random.split(key)
        part = share(hyper, clock) if callable(share) else jnp.float32(share)
        return a.draw(sources, hyper, clock, k[0]), b.draw(sources, hyper, clock, k[1]), part

    def read(sources: Sources, drawn: Any) -> Any:
        x, y = a.read(sources, drawn[0]), b.read(sources, drawn[1])
        xp = np if isinstance(x.reward, np.ndarray) else jnp
        size = x.reward.shape[-1]
        mine = xp.arange(size) < xp.round(drawn[2] * size)

        def pick(p: Array, q: Array) -> Array:
            axis = min(x.reward.ndim, p.ndim) - 1  # the batch axis: 0, or 1 behind time
            return xp.where(mine.reshape(-1, *[1] * (p.ndim - 1 - axis)), p, q)

        extras = {k: pick(v, y.extras[k]) for k, v in x.extras.items() if k in y.extras}
        index = {
            names[0]: x.index._replace(t=xp.where(mine, x.index.t, -1)),
            names[1]: y.index._replace(t=xp.where(mine, -1, y.index.t)),
        }
        plain = jax.tree.map(pick, x._replace(index=(), extras={}), y._replace(index=(), extras={}))
        return plain._replace(index=index, extras=extras)

    return Sampler(draw, read, (*a.sources, *b.sources), a.prioritised or b.prioritised)
