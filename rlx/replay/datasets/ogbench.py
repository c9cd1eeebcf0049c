"""OGBench (Park et al. 2024, arXiv:2410.20092): files as downloaded, and what its loader returns, saved.

As downloaded: ``observations``, ``actions``, ``terminals`` [N, ...], where ``terminals`` marks the last observation of each
trajectory, whose action leads nowhere; and ``qpos``, ``qvel``, ``button_states``, which become ``info``. The loader's compact
form has ``valids`` besides, 0 at the last observations; its plain form is one entry per transition with ``next_observations``,
where ``terminals`` marks the last transition. Single-task datasets add ``rewards``, of the entry's action, and ``masks``:
where it is 0, the action solved the task, which ends on arrival; the trajectory goes on as the next episode.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, fitted, from_rows, from_steps
from rlx.replay.datasets.found import Found, Layout, Reading, first_episodes, look, need, one_length, one_per_entry
from rlx.replay.datasets.found import reading as reading_of

_OWN = ("observations", "actions", "terminals", "rewards", "masks", "valids", "next_observations")


def from_ogbench(data: Mapping[str, Any] | str | os.PathLike, bounds: Any = None, **reading: Any) -> Dataset:
    """Episodes of an OGBench file, or of its arrays by name. ``bounds`` and the rest as in `Reading`. Without ``rewards`` they
    are 0: that is the goal's matter.

    Raises:
        ValueError: missing keys, unequal lengths, what is no number or not finite, ends that are not 0 or 1, actions beyond
            their bounds, a trajectory of one observation or one without its end.
    """
    options = reading_of(bounds=bounds, **reading)
    if isinstance(data, str | os.PathLike):
        return fitted(_read(look(Path(data)), options), options.bounds)
    options.only("OGBench", "bounds", "ignore", known=(*_OWN, *data))
    given = {k: v for k, v in data.items() if k not in options.ignore}
    return fitted(_dataset(given, "OGBench data", options), options.bounds)


def _read(found: Found, reading: Reading) -> Dataset:
    with columns.of(found.path):
        reading.only("OGBench", "bounds", "ignore", known=(*_OWN, *found.arrays))
    return _dataset(found.load([k for k in found.arrays if k not in reading.ignore]), str(found.path), reading)


def _dataset(given: dict[str, Any], name: str, reading: Reading) -> Dataset:
    with columns.of(name):
        need(given, _OWN[:3])
        given = {k: columns.finite(columns.numbers(v, k), k) for k, v in given.items()}
        count = one_length(given)
        actions = columns.bounded(given["actions"], reading.bounds, "actions")
        rewards = one_per_entry(given["rewards"], "rewards") if "rewards" in given else np.zeros(count, np.float32)
        flags = {k: columns.flags(one_per_entry(given[k], k), k) for k in ("terminals", "masks", "valids") if k in given}
        solved = ~flags["masks"] if "masks" in flags else np.zeros(count, bool)
        notes = () if "rewards" in given else ("no rewards: they are 0",)
        info = {k: v for k, v in given.items() if k not in _OWN}
        if "next_observations" in given:
            rows = _of_transitions(given, actions, rewards, flags["terminals"], solved, info, reading)
        else:
            last = ~flags["valids"] if "valids" in flags else flags["terminals"]
            rows = _of_observations(given["observations"], actions, rewards, last, solved, info, reading)
        return Dataset(rows[0], rows[1], name, "OGBench", notes)


def _of_transitions(
    given: dict[str, np.ndarray],
    actions: np.ndarray,
    rewards: np.ndarray,
    last: np.ndarray,
    solved: np.ndarray,
    info: dict[str, np.ndarray],
    reading: Reading,
) -> tuple:
    ends = last | solved
    jump = columns.differ(given["next_observations"][:-1], given["observations"][1:]) & ~ends[:-1]
    if jump.any():
        raise ValueError(
            f"after entry {int(np.argmax(jump))} comes another observation than its next_observations says, and neither "
            f"terminals nor masks end an episode there ({int(jump.sum())} such entries): the two are out of step. Mend "
            "terminals, 1 at the last transition of each trajectory; or, if another column marks time limits, call it timeouts."
        )
    ends[-1] = True
    borders = first_episodes(np.concatenate([[0], np.flatnonzero(ends) + 1]), reading)
    cut = lambda x: x[: borders[-1]]
    final = given["next_observations"][borders[1:] - 1]
    infos = {k: cut(v) for k, v in info.items()}
    return from_steps(cut(given["observations"]), final, cut(actions), cut(rewards), cut(solved), borders, infos)


def _of_observations(
    obs: np.ndarray,
    actions: np.ndarray,
    rewards: np.ndarray,
    last: np.ndarray,
    solved: np.ndarray,
    info: dict[str, np.ndarray],
    reading: Reading,
) -> tuple:
    if not last[-1]:
        raise ValueError("terminals does not mark the last observation: the file is a part of one, or marks something else.")
    starts = np.concatenate([[0], np.flatnonzero(last) + 1])
    if np.diff(starts).min() < 2:
        at = int(np.argmin(np.diff(starts)))
        raise ValueError(
            f"the trajectory from entry {starts[at]} on has {starts[at + 1] - starts[at]} observations; terminals must mark "
            "the last one."
        )
    solved = solved & ~last  # the last action leads nowhere
    # an entry on arrival at which the task was solved ends an episode and, unless it is the last, begins the next one as well
    arrival = np.concatenate([[False], solved[:-1]])
    twice = arrival & ~last
    entry = np.repeat(np.arange(len(obs)), 1 + twice)  # of each row
    begins = np.concatenate([[True], last[:-1]])
    first = np.repeat(begins, 1 + twice)
    first[np.cumsum(1 + twice)[twice] - 1] = True
    offsets = first_episodes(np.concatenate([np.flatnonzero(first), [len(entry)]]), reading)
    entry = entry[: offsets[-1]]
    take = (lambda x: x[: len(entry)]) if not twice.any() else (lambda x: x[entry])
    before = np.maximum(entry - 1, 0)  # rewards belong to the action before
    reward, terminated = rewards[before], arrival[entry]
    return from_rows(take(obs), take(actions), reward, terminated, offsets, {k: take(v) for k, v in info.items()})


def _is_ogbench(found: Found) -> bool:
    """D4RL's files have timeouts, which no form of OGBench's has: these must not become one more column."""
    own = "rewards" not in found.names or "masks" in found.names
    return found.has("observations", "actions", "terminals") and own and "timeouts" not in found.names


LAYOUT = Layout(
    "OGBench", "observations, actions, terminals [N, ...] (.npz), rewards and masks of single tasks", _is_ogbench, _read
)
