"""Preferences as index pairs into a replay: which two pieces of its episodes were compared, and which was preferred.

Rows are stored once; a pair is where its two pieces begin. Episodes are numbered as `rlx.replay.export` and a
`rlx.replay.Dataset` number them. A piece of ``steps`` decisions is labelled as a whole, so any window at the same place of both
has that label too: reward models learn from such windows.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.cluster.vq import kmeans2

from rlx import files
from rlx.preferences.features import Trajectories
from rlx.replay import columns, relabel
from rlx.replay.buffer import overlaid
from rlx.replay.dataset import Dataset, from_rows
from rlx.replay.datasets import Pairs
from rlx.replay.returns import pieces
from rlx.types import Array, ReplayState

SOURCES = ("human", "script", "random", "cpa", "sim", "dis", "heron")  # who labelled
Pairing = Literal["all", "random", "cross_cluster"]


class Preferences(NamedTuple):
    """P compared pairs; index 0 of a leading axis of two is the first piece of each pair. A frozen pytree of arrays."""

    episode: Array  # int32 [2, P]
    start: Array  # int32 [2, P] row of the episode at which the piece begins
    steps: Array  # int32 [P] decisions of either piece
    label: Array  # float32 [P] probability that the second is preferred
    weight: Array  # float32 [P] 0: the pair does not count
    annotator: Array  # int32 [P]
    source: Array  # int32 [P], of `SOURCES`


def preferences(
    episode: Any,
    label: Any,
    steps: Any,
    *,
    start: Any = 0,
    weight: Any = 1.0,
    annotator: Any = 0,
    source: str = "human",
) -> Preferences:
    """`Preferences` of ``episode`` [2, P] and ``label`` [P]; the others may be one value for all.

    Raises:
        ValueError: no pairs, shapes that do not go together, a label outside of [0, 1], a negative weight, an unknown source.
    """
    episode = np.asarray(episode, np.int32)
    if episode.ndim != 2 or len(episode) != 2 or not episode.shape[1]:
        raise ValueError(f"preferences: episode is {list(episode.shape)}; give [2, P], with one pair at least.")
    if source not in SOURCES:
        raise ValueError(f"preferences: unknown source {source!r}; give one of {', '.join(SOURCES)}.")
    count = episode.shape[1]

    def each(name: str, x: Any, dtype: Any, *lead: int) -> np.ndarray:
        try:
            return np.broadcast_to(np.asarray(x, dtype), (*lead, count)).copy()
        except ValueError:
            raise ValueError(f"preferences: {name} is {list(np.shape(x))} for {count} pairs.") from None

    ints = each("steps", steps, np.int32), each("annotator", annotator, np.int32)
    start, label, weight = (
        each("start", start, np.int32, 2),
        each("label", label, np.float32),
        each("weight", weight, np.float32),
    )
    checks = {
        "label": (label, (label >= 0) & (label <= 1)),
        "weight": (weight, (weight >= 0) & np.isfinite(weight)),
        "annotator": (ints[1], ints[1] >= 0),
    }
    for name, (x, fine) in checks.items():
        if not fine.all():
            at = int(np.argmin(fine))
            raise ValueError(
                f"preferences: {name} {x[at]:.4g} of pair {at}; labels lie in [0, 1], weights are not negative and finite, "
                "annotators are numbers from 0 on."
            )
    return Preferences(episode, start, ints[0], label, weight, ints[1], np.full(count, SOURCES.index(source), np.int32))


def flipped(given: Preferences, wrong: np.ndarray) -> Preferences:
    """``given`` with the labels of pairs ``wrong`` (bool [P]) turned round: mistakes on purpose."""
    return given._replace(label=np.where(wrong, 1 - given.label, given.label).astype(np.float32))


def joined(one: Preferences, other: Preferences) -> Preferences:
    """The pairs of both, those of ``one`` first."""
    return Preferences(*(np.concatenate([np.asarray(a), np.asarray(b)], -1) for a, b in zip(one, other, strict=True)))


# ------------------------------------------------------------------------------------------------------------- the episodes


class Episodes(NamedTuple):
    """The whole episodes of a replay, one after another, on the host: rows [N, ...] and where each begins."""

    obs: np.ndarray  # [N, n]
    action: np.ndarray  # [N, m]
    reward: np.ndarray  # float64 [N], of the arrival; 0 at first rows
    begin: np.ndarray  # int [E] row
    steps: np.ndarray  # int [E] decisions, one fewer than rows
    place: np.ndarray  # int [N, 2] ring position and stream

    @property
    def returns(self) -> np.ndarray:
        """float64 [E]."""
        return np.add.reduceat(self.reward, self.begin)

    @property
    def first(self) -> np.ndarray:
        """int [N]: the first row of each row's episode."""
        return np.repeat(self.begin, self.steps + 1)

    def trajectories(self) -> Trajectories:
        """Observations and actions of the decisions of each episode."""
        parts = [slice(b, b + n) for b, n in zip(self.begin, self.steps, strict=True)]
        return [(self.obs[part], self.action[part]) for part in parts]


def episodes(state: ReplayState) -> Episodes:
    """Raises ValueError where there is no episode of two rows, or rows are no vectors."""
    found = pieces(state)
    counts = np.bincount(found.number)
    keep = (counts >= 2)[found.number]
    counts = counts[counts >= 2]
    if not len(counts):
        raise ValueError("preferences need whole episodes; the data hold none of two rows or more.")
    place, begins = found.place[keep], found.begins[keep]
    row, at = overlaid(state), (place[:, 0], place[:, 1])
    if any(np.ndim(x) != 3 for x in (row.obs, row.action)):
        raise ValueError("preferences need observations and actions that are one vector each; as_vector makes one of a dict.")
    obs, action = np.asarray(row.obs)[at], np.asarray(row.action)[at]
    reward = np.where(begins, 0.0, np.asarray(row.reward)[at].astype(np.float64))
    return Episodes(obs, action, reward, np.cumsum(counts) - counts, counts - 1, place)


def counting(given: Preferences, whose: str = "") -> np.ndarray:
    """bool [P]: which pairs count. ``whose`` begins a message.

    Raises:
        ValueError: none does.
    """
    counts = np.asarray(given.weight) > 0
    if not counts.any():
        raise ValueError(f"{whose}no pair of preferences counts: all weights are 0, so they say nothing.")
    return counts


def inside(pairs: Preferences, lengths: np.ndarray) -> None:
    """Holds pairs to data whose episodes have ``lengths`` [E] decisions.

    Raises:
        ValueError: a piece lies outside of the episodes.
    """
    episode, start = np.asarray(pairs.episode), np.asarray(pairs.start)
    there = (episode >= 0) & (episode < len(lengths))
    steps = lengths[np.where(there, episode, 0)]
    fine = there & (start >= 0) & (np.asarray(pairs.steps) >= 1) & (start + pairs.steps <= steps)
    if not fine.all():
        which, at = np.argwhere(~fine)[0]
        raise ValueError(
            f"pair {at} points at steps {start[which, at]} to {start[which, at] + int(pairs.steps[at])} of episode "
            f"{episode[which, at]}; the data have {len(lengths)} episodes of {lengths.min()} to {lengths.max()} steps."
        )


def rows_of(pairs: Preferences, found: Episodes) -> np.ndarray:
    """int [2, P]: the row at which each piece begins. Raises ValueError as `inside`."""
    inside(pairs, found.steps)
    return found.begin[np.asarray(pairs.episode)] + np.asarray(pairs.start)


def places(lengths: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Episode and start, int [N] each, of every piece of ``steps`` decisions in episodes of ``lengths`` [E].

    Raises:
        ValueError: no episode is as long.
    """
    if lengths.max() < steps:
        raise ValueError(f"no episode has {steps} decisions; the longest has {lengths.max()}.")
    room = np.maximum(lengths - steps + 1, 0)
    episode = np.repeat(np.arange(len(room)), room)
    return episode, np.arange(len(episode)) - np.repeat(np.cumsum(room) - room, room)


def with_rewards(state: ReplayState, found: Episodes, reward: np.ndarray) -> ReplayState:
    """``state`` with an overlay of rewards: ``reward`` [N] of the decision at each row goes to the row of its arrival."""
    arrival = np.concatenate([[0.0], reward[:-1]])
    arrival[found.begin] = 0.0

    def fresh(row: Any) -> dict[str, np.ndarray]:
        out = np.array(row.reward)
        out[found.place[:, 0], found.place[:, 1]] = arrival
        return {"reward": out}

    return relabel(state, fresh)


def from_segments(given: Pairs) -> tuple[ReplayState, Preferences]:
    """Segments as files hold them (`rlx.replay.datasets.load_pairs`), as a replay of 2P short episodes and pairs of these. What
    came after a segment is not known, its last observation stands for it: a reward may be learned from this, a policy not."""
    _, count, steps, n = given.obs.shape
    cut = lambda x: np.concatenate([x, x[:, :, -1:]], 2).reshape(2 * count * (steps + 1), -1)
    offsets = np.arange(2 * count + 1) * (steps + 1)
    zero = np.zeros(2 * count * (steps + 1), np.float32)
    rows, offsets = from_rows(cut(given.obs), cut(given.action), zero, zero > 0, offsets)
    episode = np.arange(2 * count).reshape(2, count)
    return Dataset(rows, offsets).replay(), preferences(episode, given.label, steps)


# ---------------------------------------------------------------------------------------------------------------- choosing


def choose(
    n: int,
    most: int | None,
    how: Pairing,
    rng: np.random.Generator,
    features: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which of ``n`` trajectories to compare: ``first``, ``second`` int [P], each pair once, in random order of its two, at
    most ``most``, and only within ``groups`` (int [n], the number of each one's). "cross_cluster" compares trajectories of
    different ones of two clusters of ``features`` [n, f] (K-means); how the paper forms its clusters we could not verify."""
    first, second = np.triu_indices(n, 1)
    if groups is not None:
        same = groups[first] == groups[second]
        first, second = first[same], second[same]
    if how == "cross_cluster":
        assert features is not None
        label = kmeans2(features, 2, minit="++", rng=rng)[1]
        apart = label[first] != label[second]
        if apart.any():
            first, second = first[apart], second[apart]
    if how == "random" or most is not None and len(first) > most:
        order = rng.permutation(len(first))[:most]
        first, second = first[order], second[order]
    turn = rng.uniform(size=len(first)) < 0.5
    return np.where(turn, second, first), np.where(turn, first, second)


def unlabelled(found: Episodes, count: int, steps: int, rng: np.random.Generator) -> Preferences:
    """``count`` random pairs of pieces of ``steps`` decisions anywhere, as ties that do not count.

    Raises:
        ValueError: no episode is as long.
    """
    episode, start = places(found.steps, steps)
    which = rng.integers(len(episode), size=(2, count))
    return preferences(episode[which], 0.5, steps, start=start[which], weight=0.0)


# ------------------------------------------------------------------------------------------------------------------- files


def write(path: str | os.PathLike, pairs: Preferences) -> Path:
    """One ``.npz`` with the fields of `Preferences`."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in pairs._asdict().items()}
    np.savez_compressed(buffer, **arrays)
    files.write_bytes(Path(path), buffer.getvalue())
    return Path(path)


def read(path: str | os.PathLike) -> Preferences:
    """What `write` wrote, or another program in that form; ``annotator``, ``weight`` and ``source`` may be left out.

    Raises:
        ValueError: a field is missing, or as `preferences` says.
    """
    with columns.of(path):
        given = columns.load(path)
        lacking = {"episode", "start", "steps", "label"} - set(given)
        if lacking:
            raise ValueError(f"this is no file of preferences: it has no {', '.join(sorted(lacking))}.")
        extra: dict[str, Any] = {k: given[k] for k in ("weight", "annotator") if k in given}
        found = preferences(given["episode"], given["label"], given["steps"], start=given["start"], **extra)
        source = np.asarray(given.get("source", found.source), np.int32)
        if source.shape != found.source.shape or not ((source >= 0) & (source < len(SOURCES))).all():
            raise ValueError(f"source is to be a number below {len(SOURCES)} for each of {len(found.label)} pairs.")
        return found._replace(source=source)
