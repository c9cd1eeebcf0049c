"""One replay for online streams, datasets, demonstrations, imagined rollouts and preference data.

A buffer is a pure description, its state a pytree, a sampler two pure functions::

    buffer = replay.ring(100_000, streams=4)
    state = buffer.init(row)                     # leaves of one row: shapes and dtypes are kept, uint8 stays uint8
    state = buffer.add(state, rows, tail)        # rows [T, 4, ...] as rollout gives them
    sample = replay.transitions(256, n=3)
    batch = sample({"discount": 0.99}, clock, {"replay": state}, key)

`datasets` reads and writes episodes as files. What ends an episode, and what a row is, stands in `rlx.types`.
"""

from __future__ import annotations

from rlx.replay import datasets
from rlx.replay.buffer import Replay, export, relabel, update_priorities
from rlx.replay.datasets import Dataset, load
from rlx.replay.describe import describe
from rlx.replay.episodes import from_episodes
from rlx.replay.mixtures import beside, mix
from rlx.replay.newest import newest
from rlx.replay.returns import best_episodes, episode_returns
from rlx.replay.samplers import (
    Goals,
    Items,
    Segments,
    Sequences,
    Transitions,
    goals,
    items,
    segments,
    sequences,
    transitions,
)
from rlx.replay.windows import Index


def ring(capacity: int, streams: int, *, device: bool = True, priorities: bool = False, ends: int = 1) -> Replay:
    """A replay with room for ``capacity`` rows of each of ``streams`` streams, see `Replay`. ``priorities``: with one for each
    row, of which the last ``ends`` of an episode are drawn by no sampler.

    Raises:
        ValueError: fewer than 2 rows or 1 stream.
    """
    if capacity < 2 or streams < 1:
        raise ValueError(
            f"ring(capacity={capacity}, streams={streams}): needs capacity >= 2 (one row is the tail's), streams >= 1."
        )
    return Replay(capacity, streams, device, priorities, ends)


__all__ = [
    "Dataset",
    "Goals",
    "Index",
    "Items",
    "Replay",
    "Segments",
    "Sequences",
    "Transitions",
    "beside",
    "best_episodes",
    "datasets",
    "describe",
    "episode_returns",
    "export",
    "from_episodes",
    "goals",
    "items",
    "load",
    "mix",
    "newest",
    "relabel",
    "ring",
    "segments",
    "sequences",
    "transitions",
    "update_priorities",
]
