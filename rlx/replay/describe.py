"""What is in a dataset, in numbers: shapes, ranges, how episodes end, returns, and what is odd."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from rlx.replay.columns import path_name
from rlx.replay.dataset import Dataset
from rlx.replay.flags import without

ROWS = 1_000_000  # rows that ranges are taken over; of larger data every k-th


class Column(NamedTuple):
    """One array of the rows: its dtype and shape per row, and over all rows the least, mean and greatest value, nan where
    rows hold nothing."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    low: float
    mean: float
    high: float

    def __str__(self) -> str:
        shape = str(list(self.shape)) if self.shape else ""
        if 0 in self.shape:
            return f"{self.dtype}{shape}, empty"
        return f"{self.dtype}{shape}, {self.low:.4g} to {self.high:.4g}, mean {self.mean:.4g}"


class Description(NamedTuple):
    """What `describe` says. ``returns`` and ``lengths`` are of each episode; ``odd``: what may be wrong."""

    name: str
    format: str
    episodes: int
    transitions: int
    nbytes: int
    terminated: int  # episodes that ended in a terminal state
    truncated: int  # and those that were cut
    columns: tuple[Column, ...]
    returns: np.ndarray
    lengths: np.ndarray
    notes: tuple[str, ...]
    odd: tuple[str, ...]
    meta: dict[str, Any]

    def lines(self) -> list[tuple[str, str]]:
        """For people: a name and words each."""
        span = lambda x: f"{x.min():.4g} to {x.max():.4g}, mean {x.mean():.4g}"
        ends = f"{self.terminated:,} in a terminal state, {self.truncated:,} cut"
        rows = [("format", self.format), ("episodes", f"{self.episodes:,} ({ends})"), ("transitions", f"{self.transitions:,}")]
        rows += [("return of an episode", span(self.returns)), ("length of an episode", span(self.lengths))]
        rows += [(column.name, str(column)) for column in self.columns]
        rows += [("read", note) for note in self.notes]
        return rows + [("odd", line) for line in self.odd]

    def __str__(self) -> str:
        rows = self.lines()
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.name, *(f"  {name:<{width}}  {words}" for name, words in rows)])


def describe(data: Dataset) -> Description:
    """Ranges of columns are over all rows, or over every k-th where there are more than a million."""
    last = data.offsets[1:] - 1
    terminated = int(np.asarray(data.rows.terminated[:])[last].sum())
    every = max(1, -(-len(data.rows.reward) // ROWS))
    leaves = jax.tree_util.tree_leaves_with_path(without(data.rows))
    columns = tuple(_column(path_name(path), np.asarray(x[::every])) for path, x in leaves)
    return Description(
        data.name,
        data.format,
        len(data),
        data.transitions,
        data.nbytes,
        terminated,
        len(data) - terminated,
        columns,
        data.returns,
        data.lengths,
        data.notes,
        tuple(_odd(data, terminated, every)),
        dict(data.meta),
    )


def _column(name: str, x: np.ndarray) -> Column:
    """Nothing is widened as a whole: images would take eight times their memory."""
    numbers = (float(x.min()), float(x.mean(dtype=np.float64)), float(x.max())) if x.size else (np.nan,) * 3
    return Column(name, x.dtype, x.shape[1:], *numbers)


def _odd(data: Dataset, terminated: int, every: int) -> list[str]:
    found, lengths = [], data.lengths
    reward = np.asarray(data.rows.reward[::every])
    if not reward.any():
        found.append("all rewards are 0: a value learned from them is 0 everywhere")
    short = int((lengths == 1).sum())
    if short:
        found.append(f"{short} episodes of a single step")
    cut = np.delete(lengths, np.flatnonzero(np.asarray(data.rows.terminated[:])[data.offsets[1:] - 1]))
    if len(cut) > 2 and len(np.unique(cut)) > 0.5 * len(cut) and len(cut) > 0.1 * len(data):
        found.append("episodes that were cut have many lengths: time limits are usually one; some ends may be terminal states")
    for path, x in jax.tree_util.tree_leaves_with_path(data.rows.obs):
        if x.dtype.kind != "f":
            continue
        sample = np.asarray(x[::every])
        still = (sample == sample[:1]).all(0)
        if still.any():
            name = path_name((jax.tree_util.GetAttrKey("obs"), *path))
            found.append(f"{int(still.sum())} of {still.size} entries of {name} never change")
    for path, x in jax.tree_util.tree_leaves_with_path(data.rows.action):
        sample = np.abs(np.asarray(x[::every], np.float64))
        if x.dtype.kind == "f" and sample.size and (sample >= 1).mean() > 0.5:
            name = path_name((jax.tree_util.GetAttrKey("action"), *path))
            found.append(f"{100 * (sample >= 1).mean():.0f}% of {name} lie on their bounds")
    if terminated == len(data) and len(data) > 1 and len(np.unique(lengths)) == 1:
        found.append(f"all episodes end in a terminal state after {lengths[0]} steps: that is rather a time limit")
    return found
