"""Named key streams: every random number of a run comes from its root key and a path of names and counters.

No key is split and carried, so adding a component leaves the other streams alone, and how a run is cut into chunks cannot
change it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Array, Key

MOST_PACKED = 2**18  # numbers whose index leaves 13 random bits of 31


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

    @staticmethod
    def of(key: Key, per: int) -> HostKey:
        """From a typed key, scalar or ``[M]``."""
        return HostKey(np.asarray(jax.random.key_data(key)).reshape(-1, 2), per)

    def at(self, step: int) -> HostKey:
        return HostKey(self.words, self.per, step, self.start)

    def seed(self, stream: int) -> int:
        """A 63-bit seed for one stream."""
        return int(self.rng(stream).integers(2**63))

    def rng(self, stream: int) -> np.random.Generator:
        member, index = divmod(self.start + stream, self.per)
        return np.random.default_rng([*(int(w) for w in self.words[member]), self.step, index])
