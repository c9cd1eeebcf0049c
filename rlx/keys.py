"""Named key streams: every random number of a run comes from its root key and a path of names and counters.

No key is split and carried, so adding a component leaves the other streams alone, and how a run is cut into chunks cannot
change it.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Key

MOST_SEED = 2**64 - 1
MOST_PACKED = 2**18  # numbers whose index leaves 13 random bits of 31


def checked(seed: Any) -> int:
    """``seed`` as an int, for what takes a seed as a number, such as numpy's generators.

    Raises:
        ValueError: it is no whole number from 0 to 2^64 - 1.
    """
    try:
        number = -1 if isinstance(seed, (bool, np.bool_)) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= MOST_SEED:
        raise ValueError(f"seed {seed!r}: give a whole number from 0 to {MOST_SEED}, which is 2^64 - 1.")
    return number


def root(seed: SupportsIndex) -> Key:
    """The key of a seed: its two halves of 32 bits are the words of the key, so no two seeds share one.

    For seeds below 2^32 that is ``jax.random.key(seed)``, which drops the upper half of larger ones and overflows from 2^63 on.

    Raises:
        ValueError: it is no whole number from 0 to 2^64 - 1.
    """
    return roots([seed])[0]


def roots(seeds: Iterable[SupportsIndex]) -> Key:
    """Keys [M] of seeds, made from numbers on the host: JAX has no 64-bit integers by default. Raises as `root`."""
    words = np.array([divmod(checked(seed), 2**32) for seed in seeds], np.uint32).reshape(-1, 2)
    size = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape[-1]  # more than 2 in JAX's other generators
    return jax.random.wrap_key_data(jnp.asarray(np.tile(words, size // 2)))


def fold(key: Key, *path: str | int | Array) -> Key:
    """The key at ``path`` below ``key``. Names are hashed stably (CRC-32); counters may be traced integers."""
    for part in path:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        key = jax.random.fold_in(key, number)
    return key


def permutation(key: Key, n: int, count: Array | None = None) -> Array:
    """int32 [n]: the numbers below ``n`` in random order; with a traced ``count`` those below it so, then the others.

    One sort of random numbers whose low bits are the index, on CPUs several times as quick as `jax.random.permutation`. Which
    of two with the same high bits comes first is not random, which minibatches do not notice.
    """
    late = jnp.zeros(n, bool) if count is None else jnp.arange(n) >= count
    if n > MOST_PACKED:
        return jnp.argsort(jnp.where(late, 2.0, jax.random.uniform(key, (n,)))).astype(jnp.int32)
    low = np.uint32((1 << max(n - 1, 1).bit_length()) - 1)
    mixed = (jax.random.bits(key, (n,)) >> 1) & ~low | jnp.arange(n, dtype=jnp.uint32)
    return (jnp.sort(mixed | late.astype(jnp.uint32) << 31) & low).astype(jnp.int32)


@dataclass(frozen=True)
class HostKey:
    """Randomness for host environments: stream ``i`` at one step gets a numpy generator of its own, made only when asked.

    ``words``: uint32 ``[M, 2]``, a JAX key's data per member; streams are member-major, ``per`` of them to a member, so that
    a member's streams do not depend on how many members there are.
    """

    words: np.ndarray
    per: int
    step: int = 0
    start: int = 0  # number of the first stream, where these are a slice of more
    first: int = 0  # number of each member's first stream, where these are some of its streams

    @staticmethod
    def of(key: Key, per: int) -> HostKey:
        """From a typed key, scalar or ``[M]``."""
        return HostKey(np.asarray(jax.random.key_data(key)).reshape(-1, 2), per)

    def at(self, step: int) -> HostKey:
        return HostKey(self.words, self.per, step, self.start, self.first)

    def seed(self, stream: int) -> int:
        """A 63-bit seed for one stream."""
        return int(self.rng(stream).integers(2**63))

    def rng(self, stream: int) -> np.random.Generator:
        member, index = divmod(self.start + stream, self.per)
        return np.random.default_rng([*(int(w) for w in self.words[member]), self.step, self.first + index])
