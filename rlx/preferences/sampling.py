"""Windows of compared pairs, drawn as any batch is."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.preferences.pairs import Episodes, Preferences, rows_of
from rlx.replay.buffer import overlaid
from rlx.replay.flags import TERMINATED, has
from rlx.replay.windows import Index, capacity, take
from rlx.types import Array, Clock, Key, Sampler, Sources


class Comparisons(NamedTuple):
    """B pairs of windows of H transitions; the first of two is index 0 of the second axis."""

    obs: Array  # [H + 1, 2, B, n]
    action: Array  # [H, 2, B, m]
    terminated: Array  # bool [H, 2, B] of the arrivals
    mask: Array  # float32 [H, 2, B]: 0 behind a piece that is shorter
    label: Array  # [B] probability that the second is preferred
    weight: Array  # [B]


class _Drawn(NamedTuple):
    at: Index  # type: ignore[assignment]  # [H + 1, 2, B]
    terminated: Array
    mask: Array
    label: Array
    weight: Array


def comparisons(pairs: Preferences, found: Episodes, batch: int, steps: int, source: str = "data") -> Sampler:
    """`Comparisons` of ``batch`` of ``pairs``, uniform over them; windows of ``steps`` decisions (or the longest piece's)
    begin at one place of both pieces, drawn uniformly. ``found``: the episodes of ``source``.

    Raises:
        ValueError: a pair points outside of the episodes.
    """
    steps = min(steps, int(np.max(pairs.steps)))
    place = found.place[rows_of(pairs, found)].astype(np.int32)  # [2, P, 2]
    count, label, weight = (np.asarray(x) for x in (pairs.steps, pairs.label, pairs.weight))

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> _Drawn:
        which, where = jax.random.split(key)
        pair = jax.random.randint(which, (batch,), 0, len(label))
        offset = jax.random.randint(where, (batch,), 0, jnp.maximum(jnp.asarray(count)[pair] - steps, 0) + 1)
        ring = jax.tree.map(jnp.asarray, sources[source].index)
        begin = jnp.asarray(place)[:, pair]  # [2, B, 2]
        t = (begin[..., 0] + offset + jnp.arange(steps + 1)[:, None, None]) % capacity(ring)
        at = Index(t, jnp.broadcast_to(begin[..., 1], t.shape))
        ended = has(take(ring.flags, at.t[1:], at.w[1:]), TERMINATED)
        there = jnp.arange(steps)[:, None, None] < jnp.asarray(count)[pair]
        mask = jnp.broadcast_to(there, ended.shape).astype(jnp.float32)
        return _Drawn(at, ended, mask, jnp.asarray(label)[pair], jnp.asarray(weight)[pair])

    def read(sources: Sources, drawn: _Drawn) -> Comparisons:
        rows, (t, w) = overlaid(sources[source]), drawn.at
        return Comparisons(take(rows.obs, t, w), take(rows.action, t[:-1], w[:-1]), *drawn[1:])

    return Sampler(draw, read, (source,))


def beside(one: Sampler, other: Sampler) -> Sampler:
    """Both batches, as a pair."""

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> tuple:
        first, second = jax.random.split(key)
        return one.draw(sources, hyper, clock, first), other.draw(sources, hyper, clock, second)

    read = lambda sources, drawn: (one.read(sources, drawn[0]), other.read(sources, drawn[1]))
    return Sampler(draw, read, tuple(dict.fromkeys((*one.sources, *other.sources))))
