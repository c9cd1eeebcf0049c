"""What the stored episodes came to, and keeping the best of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from rlx.replay.buffer import overlaid, rows_in_order
from rlx.replay.flags import FIRST, LAST, VALID, has, put
from rlx.types import Array, ReplayState


class Pieces(NamedTuple):
    """Rows in order, stream after stream, and the episode that each belongs to. What is stored of a cut episode is one too."""

    place: Array  # [N, 2] int: ring position and stream
    number: Array  # [N] int: of the episode, from 0 on
    begins: Array  # [N] bool


def pieces(state: ReplayState) -> Pieces:
    index = jax.tree.map(np.asarray, state.index)
    order = np.asarray(rows_in_order(state.index))[: int(index.size) + int(index.tail)]
    flags = index.flags[order].T  # [W, T]
    valid, last = has(flags, VALID), has(flags, LAST)
    after = np.zeros_like(valid)
    after[:, 1:] = valid[:, :-1] & ~last[:, :-1]  # an episode goes on there
    begins = (valid & (has(flags, FIRST) | ~after))[valid]
    w, t = np.nonzero(valid)
    return Pieces(np.stack([order[t], w], 1), np.cumsum(begins) - 1, begins)


def episode_returns(state: ReplayState) -> np.ndarray:
    """The sum of rewards (those of an overlay, where there is one) of each stored episode, float64 [E], in the order of
    `export`, with pieces of a single row too."""
    rows = pieces(state)
    reward = np.asarray(overlaid(state).reward)[rows.place[:, 0], rows.place[:, 1]]
    return np.bincount(rows.number, np.where(rows.begins, 0.0, reward))


def best_episodes(state: ReplayState, share: float) -> ReplayState:
    """Only the episodes of the highest returns: as many as it takes for ``share`` of all rows, one at least. The others stay in
    memory, marked invalid, as by `Replay.evict`."""
    rows = pieces(state)
    lengths = np.bincount(rows.number)
    order = np.argsort(-episode_returns(state), kind="stable")
    before = np.cumsum(lengths[order]) - lengths[order]  # rows of better episodes
    kept = np.zeros(len(lengths), bool)
    kept[order[before < share * lengths.sum()]] = True
    stays = np.zeros(state.index.flags.shape, bool)
    stays[rows.place[:, 0], rows.place[:, 1]] = kept[rows.number]
    flags = np.asarray(state.index.flags)
    return state._replace(index=state.index._replace(flags=put(flags, VALID, has(flags, VALID) & stays)))
