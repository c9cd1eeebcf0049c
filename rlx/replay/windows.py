"""Which rows may begin a window, and drawing one of them exactly."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlx.replay.flags import FIRST, LAST, VALID, has
from rlx.types import Array, Key, ReplayIndex

TRIES = 16  # rounds of rejection before the exact count over all rows
CHUNK = 64  # rows looked at together when walking along an episode


class Index(NamedTuple):
    """Where rows lie: ring position ``t`` and stream ``w``, int32. ``t = -1``: there was nothing to draw."""

    t: Array
    w: Array


def capacity(ring: ReplayIndex) -> int:
    return ring.flags.shape[0]


def take(x: Array, t: Array, w: Array) -> Array:
    """``x[t, w]`` for indices known to be in bounds (``t = -1``, nothing drawn, reads some row)."""
    if not isinstance(x, jax.Array):  # numpy, or mapped from files
        return x[t, w]
    return x.at[jnp.maximum(t, 0), w].get(mode="promise_in_bounds", wrap_negative_indices=False)


def age(ring: ReplayIndex, t: Array) -> Array:
    """How many stored rows are older than the one at ring position ``t``; ``size`` for the tail, more where none is stored."""
    return (t - (ring.head - ring.size)) % capacity(ring)


def chain(ring: ReplayIndex, index: Index, length: int, cross: bool = False) -> Array:
    """Whether each of ``length`` rows from ``index`` [B] on is followed by its successor, [B, length].

    This is the definition of a transition: both rows are stored (the second may be the tail) and valid, and no episode ends
    in between. With ``cross`` the borders of episodes do not count.
    """
    at = (index.t[:, None] + jnp.arange(length + 1)) % capacity(ring)
    w = index.w[:, None]
    flags = take(ring.flags, at, w)
    return (age(ring, at[:, :-1]) + 1 < ring.size + ring.tail) & linked(flags[:, :-1], flags[:, 1:], cross)


def linked(flags: Array, following: Array, cross: bool) -> Array:
    """Whether rows with these flags, stored one after the other, are neighbours: both valid and (unless ``cross``) with no
    border between them."""
    joined = has(flags & following, VALID)
    return joined if cross else joined & ~has(flags, LAST) & ~has(following, FIRST)


def admissible(ring: ReplayIndex, index: Index, length: int, cross: bool = False) -> Array:
    """Whether windows of ``length`` rows may begin at ``index`` [B]."""
    if length == 1:
        return (age(ring, index.t) < ring.size) & has(take(ring.flags, index.t, index.w), VALID)
    return chain(ring, index, length - 1, cross).all(1)


def admissible_everywhere(ring: ReplayIndex, length: int, cross: bool = False) -> Array:
    """`admissible` of each ring position and stream, [C, W]."""
    following = lambda x, k=1: jnp.roll(x, -k, axis=0)
    old = age(ring, jnp.arange(capacity(ring)))[:, None]
    if length == 1:
        return (old < ring.size) & has(ring.flags, VALID)
    run = (old + 1 < ring.size + ring.tail) & linked(ring.flags, following(ring.flags), cross)
    links = 1
    while links < length - 1:  # runs of twice the length; none goes past the newest row, which has no link
        more = min(links, length - 1 - links)
        run &= following(run, more)
        links += more
    return run


def draw_uniform(ring: ReplayIndex, key: Key, batch: int, length: int, cross: bool = False) -> Index:
    """``batch`` windows, independent and uniform over all that are admissible.

    Rejection: candidates from all stored rows, those refused are drawn again. After `TRIES` rounds the rest is drawn from an
    exact count. Both are loops on a predicate, so that members under vmap pay for them only where one needs it.
    """
    size, width = ring.flags.shape

    def guess(carry: tuple) -> tuple:
        i, index, done = carry
        place, fair = _below(jax.random.fold_in(key, i), batch, jnp.maximum(ring.size, 1) * width)
        new = Index((ring.head - ring.size + place // width) % size, place % width)
        return i + 1, merge(done, index, new), done | fair & admissible(ring, new, length, cross)

    def count(carry: tuple) -> tuple:
        i, index, done = carry
        # Tied to the loop by the barrier: else XLA takes the count out of the loop and does it for every draw.
        i, here = jax.lax.optimization_barrier((i, ring))
        upto = jnp.cumsum(admissible_everywhere(here, length, cross).reshape(-1), dtype=jnp.int32)
        rank, fair = _below(jax.random.fold_in(key, i), batch, jnp.maximum(upto[-1], 1))
        new = _unflatten(jnp.searchsorted(upto, rank, side="right"), width, upto[-1] > 0)
        return i + 1, merge(done, index, new), done | fair

    def merge(done: Array, old: Index, new: Index) -> Index:
        return Index(jnp.where(done, old.t, new.t), jnp.where(done, old.w, new.w))

    nothing = jnp.zeros(batch, jnp.int32)
    carry = (jnp.int32(0), Index(nothing, nothing), jnp.zeros(batch, bool))
    carry = jax.lax.while_loop(lambda c: ~c[2].all() & (c[0] < TRIES), guess, carry)
    return jax.lax.while_loop(lambda c: ~c[2].all(), count, carry)[1]


def _below(key: Key, batch: int, span: Array) -> tuple[Array, Array]:
    """Integers below ``span`` and whether to take them: random bits modulo the span are exactly uniform once those of the last,
    incomplete span are refused."""
    bits, span = jax.random.bits(key, (batch,)), span.astype(jnp.uint32)
    return (bits % span).astype(jnp.int32), bits <= jnp.uint32(2**32 - 1) - -span % span


def draw_weighted(
    ring: ReplayIndex, key: Key, batch: int, length: int, exponent: Array, cross: bool = False
) -> tuple[Index, Array]:
    """Windows with probability proportional to ``weight ** exponent`` of their first row, and that probability times the
    number of admissible windows (1 where uniform).

    The inverse of the distribution function in two levels, blocks and rows of one block: a single float32 sum over a million
    rows would be off by percents for a single row. O(C W) per call.
    """
    ok = admissible_everywhere(ring, length, cross)
    mass = jnp.where(ok, ring.priority**exponent, 0.0).reshape(-1)
    side = 1 << (max(mass.shape[0] - 1, 1).bit_length() + 1) // 2  # about the square root
    blocks = jnp.pad(mass, (0, -mass.shape[0] % side)).reshape(-1, side)
    sums = blocks.sum(1)
    u = jax.random.uniform(key, (2, batch))
    block = _inverse(sums, u[0])
    place = block * side + _inverse(blocks[block], u[1])
    total = sums.sum()
    there = total > 0
    return _unflatten(place, ring.flags.shape[1], there), mass[place] / jnp.where(there, total, 1.0) * ok.sum()


def _inverse(mass: Array, u: Array) -> Array:
    """The place in ``mass`` [n] or [B, n] at the fraction ``u`` [B] of its sum; never one of no mass, unless all are."""
    upto = jnp.cumsum(mass, -1)
    place = (upto <= u[:, None] * upto[..., -1:]).sum(-1) if mass.ndim > 1 else jnp.searchsorted(upto, u * upto[-1], "right")
    most = mass.shape[-1] - 1 - jnp.argmax(mass[..., ::-1] > 0, -1)  # rounding must not lead past the last that has mass
    return jnp.minimum(place, most).astype(jnp.int32)


def _unflatten(place: Array, width: int, there: Array) -> Index:
    place = place.astype(jnp.int32)
    return Index(jnp.where(there, place // width, -1), jnp.where(there, place % width, 0))


def steps_ahead(ring: ReplayIndex, index: Index, most: int) -> Array:
    """How many links in a row begin at ``index`` [B], at most ``most``."""
    return jnp.cumprod(chain(ring, index, most), 1, dtype=jnp.int32).sum(1)


def steps_within(ring: ReplayIndex, index: Index, most: Array) -> Array:
    """`steps_ahead` for a traced bound per entry, ``most`` [B], of any size: an episode is walked along as far as needed."""

    def walk(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        steps, going = carry
        more = steps_ahead(ring, index._replace(t=(index.t + steps) % capacity(ring)), CHUNK)
        steps = steps + jnp.where(going, more, 0)
        return steps, going & (more == CHUNK) & (steps < most)

    carry = (jnp.zeros_like(index.t), jnp.ones(index.t.shape, bool))
    return jnp.minimum(jax.lax.while_loop(lambda c: c[1].any(), walk, carry)[0], most)


def steps_back(ring: ReplayIndex, index: Index, most: int) -> Array:
    """Ring positions [B..., most + 1] of the rows ``0 .. most`` steps back, staying at the first row of the episode (or the
    oldest stored row)."""
    shape, t, w = index.t.shape, index.t.reshape(-1), index.w.reshape(-1)
    places = [t]
    for _ in range(most):
        before = (t - 1) % capacity(ring)
        t = jnp.where(chain(ring, Index(before, w), 1)[:, 0], before, t)
        places.append(t)
    return jnp.stack(places, -1).reshape(*shape, most + 1)
