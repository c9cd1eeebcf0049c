"""The newest rows of all streams, in order: what on-policy methods learn from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlx.replay.buffer import opened, overlaid
from rlx.replay.flags import unpack
from rlx.replay.samplers import Sequences
from rlx.replay.windows import Index
from rlx.types import Array, Clock, Key, Sampler, Sources


def newest(length: int, source: str = "replay") -> Sampler:
    """`Sequences` [T, W, ...]: the last ``length`` rows of every stream, the tail (if there is one) as the last of them.

    Rows that were never written read as ``valid=False``.
    """
    if length < 1:
        raise ValueError(f"newest: length must be at least 1, got {length}.")

    def draw(sources: Sources, hyper: dict[str, Array], clock: Clock, key: Key) -> Any:
        ring = sources[source].index
        size, width = ring.flags.shape
        if length > size:
            raise ValueError(f"newest: {length} rows were asked of {source!r}, which has room for {size} per stream.")
        t = (ring.head + ring.tail - length + jnp.arange(length)) % size
        stored = jnp.arange(length) >= length - ring.size - ring.tail
        flags = jnp.where(stored[:, None], ring.flags[t], 0)  # what was never written is not valid
        return jnp.broadcast_to(t[:, None], (length, width)), jnp.broadcast_to(jnp.arange(width), (length, width)), flags

    def read(sources: Sources, drawn: Any) -> Sequences:
        t, w, flags = drawn
        rows = jax.tree.map(lambda x: x[t, w], overlaid(sources[source]))._replace(**unpack(flags))
        rows = rows._replace(obs=opened(rows.obs))
        return Sequences(**rows._asdict(), weight=jnp.ones(w.shape[1]), index=Index(t[0], w[0]))

    return Sampler(draw, read, (source,))
