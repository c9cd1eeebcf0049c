"""Samplers: draw indices from the index of a replay, read batches from its rows.

Every draw is exact: uniform over all admissible windows, or proportional to their priorities. No window joins rows that were
not neighbours in one stream, and unless it says so none crosses the border of an episode.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.replay.buffer import opened, overlaid
from rlx.replay.flags import TERMINATED, has, unpack
from rlx.replay.windows import Index, capacity, draw_uniform, draw_weighted, steps_ahead, steps_back, steps_within, take
from rlx.types import Array, Clock, Key, PyTree, ReplayIndex, ReplayState, Row, Sampler, Sources


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
    """The fields of `Transitions` and a goal, [B, ...]. Which of the two flags means success is the method's convention."""

    obs: PyTree
    action: PyTree
    reward: Array
    discount: Array
    next_obs: PyTree
    terminated: Array
    extras: dict[str, Array]
    weight: Array
    goal: PyTree  # an observation
    here: Array  # bool: the goal is obs
    reached: Array  # bool: the goal is next_obs
    index: Index  # type: ignore[assignment]


class Segments(NamedTuple):
    """Windows [T, B, ...] within one episode; ``mask`` [T, B] is False behind its end. ``returns`` [B]: discounted sum of
    the rewards of the actions in the window."""

    rows: Row
    mask: Array
    returns: Array
    index: Index  # type: ignore[assignment]


class Items(NamedTuple):
    """Entries [B, ...] of a pytree and where they lie, int32 [B]."""

    items: PyTree
    index: Array  # type: ignore[assignment]


def _take(tree: PyTree, t: Array, w: Array) -> PyTree:
    if t.ndim < 2:
        return jax.tree.map(lambda x: take(x, t, w), tree)
    # windows [T, B] are gathered one after another: neighbours in time are neighbours in memory
    return jax.tree.map(lambda x: take(x, t.T, w.T).swapaxes(0, 1), tree)


def _window(ring: ReplayIndex, index: Index, ahead: Array) -> Index:
    """The rows ``ahead`` [T, 1] or [T, B] steps after ``index`` [B]."""
    t = (index.t + ahead) % capacity(ring)
    return Index(t, jnp.broadcast_to(index.w, t.shape))


def _frames(obs: PyTree, places: Array, w: Array) -> PyTree:
    """Frames at ring positions [..., k] (newest first), stacked oldest first along the last axis of each observation."""
    k = places.shape[-1]
    if k == 1:
        return opened(_take(obs, places[..., 0], w))
    join = _join_host if isinstance(places, np.ndarray) else lambda frames: jnp.concatenate(frames, -1)
    frames = [opened(jax.tree.map(lambda x, i=i: take(x, places[..., i], w), obs)) for i in reversed(range(k))]
    return jax.tree.map(lambda *each: join(list(each)), *frames)


def _join_host(frames: list[np.ndarray]) -> np.ndarray:
    """Frames [..., C] along their last axis. A channel at a time where there are few: numpy copies runs of three bytes at a
    third of the speed of single ones."""
    depth = frames[0].shape[-1]
    if depth > 4:
        return np.concatenate(frames, -1)
    out = np.empty((*frames[0].shape[:-1], depth * len(frames)), frames[0].dtype)
    for i, frame in enumerate(frames):
        for channel in range(depth):
            out[..., i * depth + channel] = frame[..., channel]
    return out


def _poison(reward: Array, t: Array) -> Array:
    """NaN where there was nothing to draw: an update on nothing must not pass silently."""
    return (np if isinstance(reward, np.ndarray) else jnp).where(t < 0, np.float32(np.nan), reward)


def _check(batch: int, **least: int) -> None:
    for name, value in {"batch": batch, **least}.items():
        if value < 1:
            raise ValueError(f"a sampler was given {name}={value}; it must be at least 1.")


def _ring(sources: Sources, source: str, length: int) -> ReplayIndex:
    """The index of ``source``. Raises ValueError where it cannot serve windows of ``length`` rows."""
    if source not in sources:
        raise ValueError(f"a sampler reads {source!r}, but there are only {', '.join(map(repr, sources)) or 'no'} sources.")
    if not isinstance(sources[source], ReplayState):
        raise ValueError(f"a sampler of rows reads {source!r}, which is not a replay; use items(batch, {source!r}).")
    ring = jax.tree.map(jnp.asarray, sources[source].index)
    if length > capacity(ring):
        raise ValueError(f"windows of {length} rows were asked of {source!r}, which has room for {capacity(ring)} per stream.")
    return ring


def _hyper(hyper: dict[str, Array], name: str) -> Array:
    if name not in hyper:
        raise ValueError(f"a sampler needs the traced value {name!r}; hyper has {', '.join(hyper) or 'nothing'}.")
    return jnp.asarray(hyper[name], jnp.float32)


def _draw(
    sources: Sources, source: str, key: Key, batch: int, length: int, cross: bool, hyper: dict[str, Array] | None
) -> tuple[Index, Array]:
    """Uniform windows and weights 1, or (given the exponents in ``hyper``) windows by priority and importance weights."""
    ring = _ring(sources, source, length)
    if hyper is None:
        return draw_uniform(ring, key, batch, length, cross), jnp.ones(batch)
    if not ring.priority.size:
        raise ValueError(f"{source!r} keeps no priorities; make it with priorities=True.")
    index, odds = draw_weighted(ring, key, batch, length, _hyper(hyper, "priority_exponent"), cross)
    weight = odds ** -_hyper(hyper, "importance_exponent")
    return index, weight / weight.max()


class _Drawn(NamedTuple):
    index: Index  # type: ignore[assignment]
    steps: Array
    terminated: Array  # of the row after those steps
    frames: Array  # ring positions of the frames of obs, [B, stack]
    next_frames: Array
    powers: Array  # of the discount, from 0 to n
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

    ``discount`` names a traced value. ``priorities``: draw in proportion to ``priority ** hyper["priority_exponent"]``;
    importance weights ``(N p) ** -hyper["importance_exponent"]`` are scaled to a maximum of 1 in the batch. ``stack``: each
    observation is its last ``stack`` frames, along the last axis; at the start of an episode the first one is repeated.
    """
    _check(batch, n=n, stack=stack)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> _Drawn:
        index, weight = _draw(sources, source, key, batch, 2, False, hyper if priorities else None)
        ring = _ring(sources, source, 2)
        steps = jnp.ones(batch, jnp.int32) if n == 1 else steps_ahead(ring, index, n)
        after = Index((index.t + steps) % capacity(ring), index.w)
        terminated = has(take(ring.flags, *after), TERMINATED)
        frames, following = (steps_back(ring, i, stack - 1) for i in (index, after))
        powers = _hyper(hyper, discount) ** jnp.arange(n + 1)
        return _Drawn(index, steps, terminated, frames, following, powers, weight)

    def read(sources: Sources, drawn: _Drawn) -> Transitions:
        rows, (t, w), steps, powers = overlaid(sources[source]), drawn.index, drawn.steps, drawn.powers
        size = rows.reward.shape[0]
        reward = take(rows.reward, (t + 1) % size, w)
        for k in range(1, n):
            reward = reward + powers[k] * (k < steps) * take(rows.reward, (t + k + 1) % size, w)
        return Transitions(
            obs=_frames(rows.obs, drawn.frames, w),
            action=_take(rows.action, t, w),
            reward=_poison(reward, t),
            discount=powers[steps] * ~drawn.terminated,
            next_obs=_frames(rows.obs, drawn.next_frames, w),
            terminated=drawn.terminated,
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
    spare: int = 0,
) -> Sampler:
    """`Sequences` of ``length`` neighbouring rows, uniform over all places where they fit (or by the ``priorities`` of their
    first rows, as in `transitions`).

    With ``cross`` windows go on into the next episode (look at ``first``); without, they stay in one. The last row may be a
    stream's newest, whose action is not known yet: use actions up to the last but one. ``spare``: so many rows must follow a
    window, in its episode unless ``cross``.
    """
    _check(batch, length=length, stack=stack)
    if spare < 0:
        raise ValueError(f"a sampler was given spare={spare}; it must be at least 0.")

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        index, weight = _draw(sources, source, key, batch, length + spare, cross, hyper if priorities else None)
        ring = _ring(sources, source, length)
        window = _window(ring, index, jnp.arange(length)[:, None])
        return index, window, take(ring.flags, *window), steps_back(ring, window, stack - 1), weight

    def read(sources: Sources, drawn: Any) -> Sequences:
        rows, (index, (t, w), flags, frames, weight) = overlaid(sources[source]), drawn
        bits = {**unpack(flags), "valid": (np if isinstance(t, np.ndarray) else jnp).broadcast_to(index.t >= 0, t.shape)}
        out = _take(rows._replace(obs=()), t, w)._replace(obs=_frames(rows.obs, frames, w), **bits)
        out = out._replace(reward=_poison(out.reward, index.t))
        return Sequences(**out._asdict(), weight=weight, index=index)

    return Sampler(draw, read, (source,), priorities)


def goals(
    batch: int,
    *,
    future: float = 1.0,
    random: float = 0.0,
    current: float = 0.0,
    geometric: bool = True,
    discount: str = "discount",
    source: str = "replay",
    stack: int = 1,
) -> Sampler:
    """`Goals`: with these probabilities the goal is an observation ahead in the same episode, one drawn uniformly from all
    stored rows, or ``obs`` itself.

    Ahead means a geometric number of steps with parameter ``1 - hyper[discount]``, at most as many as the episode has left
    (its last observation then); or, with ``geometric=False``, uniform over those left. The goal relabelling of hindsight
    experience replay (Andrychowicz et al. 2017, arXiv:1707.01495) in the form of contrastive and offline goal-conditioned
    methods (Eysenbach et al. 2022, arXiv:2206.07568, section 4.2).
    """
    _check(batch)
    total = future + random + current
    if min(future, random, current) < 0 or not np.isclose(total, 1):
        raise ValueError(f"goals: future={future}, random={random}, current={current} must be probabilities that sum to 1.")
    base = transitions(batch, discount=discount, source=source, stack=stack)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        ring = _ring(sources, source, 2)
        k = jax.random.split(key, 4)
        drawn = base.draw(sources, hyper, clock, k[0])
        u = jax.random.uniform(k[1], (batch,), minval=jnp.finfo(jnp.float32).tiny)
        left = capacity(ring)
        if geometric:
            rate = jnp.minimum(jnp.log(_hyper(hyper, discount)), -1e-9)  # a discount of 1 means the end
            ahead = jnp.minimum(1 + jnp.floor(jnp.log(u) / rate), left).astype(jnp.int32)
            ahead = steps_within(ring, drawn.index, ahead)
        else:
            whole = steps_within(ring, drawn.index, jnp.full(batch, left))
            ahead = jnp.minimum(1 + jnp.floor(u * whole).astype(jnp.int32), whole)
        place = jax.random.uniform(k[3], (batch,))  # below future; below future + random; above
        ahead = jnp.where(place < future + random, ahead, 0)
        t, w = (drawn.index.t + ahead) % left, drawn.index.w
        if random:
            anywhere, chosen = draw_uniform(ring, k[2], batch, 1), (place >= future) & (place < future + random)
            t, w = jnp.where(chosen, anywhere.t, t), jnp.where(chosen, anywhere.w, w)
        goal = Index(t, w)
        return drawn, goal, steps_back(ring, goal, stack - 1)

    def read(sources: Sources, everything: Any) -> Goals:
        drawn, (t, w), frames = everything
        rows, index = overlaid(sources[source]), drawn.index
        batch = base.read(sources, drawn)
        here = (t == index.t) & (w == index.w)
        reached = (t == (index.t + 1) % rows.reward.shape[0]) & (w == index.w)
        fields = {k: v for k, v in batch._asdict().items() if k != "index"}
        return Goals(**fields, goal=_frames(rows.obs, frames, w), here=here, reached=reached, index=index)

    return Sampler(draw, read, (source,))


def segments(batch: int, length: int, *, discount: str | None = None, source: str = "replay", stack: int = 1) -> Sampler:
    """`Segments` of ``length`` rows from anywhere in an episode, masked behind its end. ``discount`` names a traced value for
    ``returns`` (None: plain sums). For windows that are never short, see `sequences`."""
    _check(batch, length=length, stack=stack)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        ring = _ring(sources, source, 2)
        index = draw_uniform(ring, key, batch, 2)
        gamma = _hyper(hyper, discount) if discount else jnp.float32(1)
        steps = steps_ahead(ring, index, length)
        window = _window(ring, index, jnp.minimum(jnp.arange(length)[:, None], steps))
        frames = steps_back(ring, window, stack - 1)
        return index, window, take(ring.flags, *window), steps, frames, gamma ** jnp.arange(length)[:, None]

    def read(sources: Sources, drawn: Any) -> Segments:
        index, (t, w), flags, steps, frames, powers = drawn
        rows = overlaid(sources[source])
        i = np.arange(length)[:, None]
        following = take(rows.reward, (t + 1) % rows.reward.shape[0], w)
        returns = (powers * following * (i < steps)).sum(0)
        out = _take(rows._replace(obs=()), t, w)._replace(obs=_frames(rows.obs, frames, w), **unpack(flags))
        return Segments(out, i <= steps, _poison(returns, index.t), index)

    return Sampler(draw, read, (source,))


def items(batch: int, source: str) -> Sampler:
    """`Items` of any pytree with a leading axis [N, ...], uniform with replacement."""
    _check(batch)

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Array:
        sizes = {x.shape[:1] for x in jax.tree.leaves(sources.get(source))}
        if len(sizes) != 1 or sizes == {()} or sizes == {(0,)}:
            raise ValueError(f"items: {source!r} must be a pytree whose leaves have one leading length; they have {sizes}.")
        return jax.random.randint(key, (batch,), 0, sizes.pop()[0])

    def read(sources: Sources, index: Array) -> Items:
        return Items(jax.tree.map(lambda x: x[index], sources[source]), index)

    return Sampler(draw, read, (source,))
