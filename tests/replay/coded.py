"""Rows that say where they come from, a slow numpy record of them, and a chi-square test."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlx import replay
from rlx.types import Clock, Row

CLOCK = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))
HYPER = {"discount": jnp.float32(0.9), "priority_exponent": jnp.float32(0.7), "importance_exponent": jnp.float32(0.5)}


def rewards(stream, time):
    return (np.sin(time * 1.7 + stream) * 3).astype(np.float32)


class World:
    """Streams whose observation is (stream, time), with episodes of the given lengths that begin anew without end."""

    def __init__(self, lengths: list[list[int]], invalid=lambda stream, time: False):
        self.lengths, self.invalid, self.time = lengths, invalid, 0

    def flags(self, stream: int, time: int) -> tuple[bool, bool, bool]:
        """first, terminated, truncated: every second episode ends by truncation."""
        begin, number = 0, 0
        while True:
            length = self.lengths[stream][number % len(self.lengths[stream])]
            if time < begin + length:
                last = time == begin + length - 1
                return time == begin, last and number % 2 == 0, last and number % 2 == 1
            begin, number = begin + length, number + 1

    def rows(self, start: int, count: int) -> Row:
        width = len(self.lengths)
        time, stream = np.meshgrid(np.arange(start, start + count), np.arange(width), indexing="ij")
        flags = np.array([[self.flags(w, t) for w in range(width)] for t in range(start, start + count)])
        first, terminated, truncated = (flags[..., i].reshape(count, width) for i in range(3))
        invalid = np.array([[self.invalid(w, t) for w in range(width)] for t in range(start, start + count)], bool)
        return Row(
            obs={"code": np.stack([stream, time], -1).astype(np.float32), "frame": (time[..., None] % 256).astype(np.uint8)},
            reward=np.where(first, 0, rewards(stream, time)).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            first=first,
            info={"t": time.astype(np.int32)},
            action=np.where(terminated | truncated, 0, time / 1024).astype(np.float32)[..., None],
            extras={"z": (1000 * stream + time).astype(np.float32)},
            valid=~invalid.reshape(count, width),
        )

    def next(self, count: int) -> tuple[Row, Row]:
        """The next rows, and the tail."""
        rows = self.rows(self.time, count)
        self.time += count
        return rows, jax.tree.map(lambda x: x[0], self.rows(self.time, 1))

    def pairs(self, oldest: int, newest: int) -> set[tuple[int, int]]:
        """(stream, time) of all transitions between rows ``oldest`` and ``newest``, both included."""
        found = set()
        for w in range(len(self.lengths)):
            for t in range(oldest, newest):
                ends, begins = any(self.flags(w, t)[1:]), self.flags(w, t + 1)[0]
                if not (ends or begins or self.invalid(w, t) or self.invalid(w, t + 1)):
                    found.add((w, t))
        return found


def example(world: World) -> Row:
    return jax.tree.map(lambda x: x[0, 0], world.rows(0, 1))


def fill(world: World, capacity: int, blocks: list[int], tail: bool = True, **options):
    """A replay after adding ``blocks`` of rows one after another."""
    buffer = replay.ring(capacity, len(world.lengths), **options)
    state = buffer.init(example(world))
    add = jax.jit(buffer.add) if buffer.device else buffer.add
    for count in blocks:
        rows, last = world.next(count)
        state = add(state, rows, last if tail else None)
    return buffer, state


@functools.partial(jax.jit, static_argnums=0)
def _sample(sampler, hyper, clock, sources, key):
    return sampler(hyper, clock, sources, key)


def sample(sampler, sources, seed=0, hyper=HYPER, clock=CLOCK):
    return _sample(sampler, hyper, clock, sources, jax.random.key(seed))


def codes(obs) -> np.ndarray:
    """(stream, time) of observations, int [..., 2]."""
    return np.asarray(obs["code"]).astype(int)


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of ``counts`` under ``probabilities``."""
    expected = probabilities / probabilities.sum() * counts.sum()
    assert (counts[expected == 0] == 0).all(), "something impossible was drawn"
    keep = expected > 0
    statistic = ((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    return float(jax.scipy.stats.chi2.sf(statistic, keep.sum() - 1))


def histogram(found: np.ndarray, cells) -> np.ndarray:
    """How often each of ``cells`` occurs among ``found`` [..., k]; all must be among them."""
    place = {c: i for i, c in enumerate(cells)}
    out = np.zeros(len(place), int)
    for code in map(tuple, found.reshape(-1, found.shape[-1])):
        assert code in place, f"{code} must not be drawn"
        out[place[code]] += 1
    return out
