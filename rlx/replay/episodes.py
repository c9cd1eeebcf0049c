"""Whole episodes as a frozen replay: datasets, demonstrations, preference data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, replaced
from rlx.types import ReplayState, Row


def from_episodes(episodes: Iterable[Mapping[str, Any] | Row], device: bool = True) -> ReplayState:
    """A dataset: episodes one after another as one stream, never to be added to.

    Each episode is a row or a mapping with ``obs`` [T, ...], ``action`` [T, ...] (the last one is ignored), ``reward`` [T]
    (for the arrival; the first is ignored), ``terminated`` [T], and if there are any ``truncated`` [T], ``info`` and
    ``extras``. An episode whose last row is neither terminated nor truncated is marked truncated. float64 becomes float32,
    other dtypes are kept.

    Raises:
        ValueError: no episodes, missing keys, unequal lengths, what is no number or not finite, actions beyond [-1, 1], ends
            that are not 0 or 1 or stand before the last row, or episodes that differ in their leaves.
    """
    if isinstance(episodes, Dataset):
        return episodes.replay(device)
    rows = [episode_row(e, i) for i, e in enumerate(episodes)]
    if not rows:
        raise ValueError("from_episodes: there are no episodes.")
    kind = lambda row: (jax.tree.structure(row), [(x.shape[1:], x.dtype) for x in jax.tree.leaves(row)])
    for i, row in enumerate(rows):
        if kind(row) != kind(rows[0]):
            raise ValueError(f"episode {i} has other leaves, shapes or dtypes than episode 0: {kind(row)}, {kind(rows[0])}.")
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *rows)
    return Dataset(whole, np.cumsum([0, *(len(r.reward) for r in rows)])).replay(device)


def episode_row(episode: Mapping[str, Any] | Row, number: int) -> Row:
    """One episode as numpy rows [T, ...] in the form that `from_episodes` describes. ``number`` is for messages."""
    given = episode._asdict() if isinstance(episode, Row) else episode
    missing = [k for k in ("obs", "action", "reward", "terminated") if k not in given]
    if missing:
        raise ValueError(f"episode {number} lacks {', '.join(missing)}; it has {', '.join(given)}.")
    tree: dict[str, Any] = {k: _numbers(given.get(k) or {}, number, k) for k in ("info", "extras")}
    tree |= {k: _numbers(given[k], number, k) for k in ("obs", "action")}
    tree["action"] = _each(columns.actions, tree["action"], number, "action")
    reward = np.array(_numbers(given["reward"], number, "reward"), np.float32)
    length = reward.shape[0] if reward.ndim == 1 else 0
    terminated = columns.flags(given["terminated"], f"episode {number}: terminated")
    truncated = np.array(columns.flags(given.get("truncated", np.zeros(length, bool)), f"episode {number}: truncated"))
    leaves = {**tree, "reward": reward, "terminated": terminated, "truncated": truncated}
    for path, x in jax.tree_util.tree_leaves_with_path(leaves):
        name = _name(path)
        if x.shape[:1] != (length,):
            raise ValueError(
                f"episode {number}: {name} has {x.shape[:1]} rows, reward has {reward.shape}; all must be of one length."
            )
        columns.finite(x[1:] if name == "reward" else x, f"episode {number}: {name}")
    if length < 2:
        raise ValueError(f"episode {number} has {length} rows; a transition needs two.")
    if (terminated | truncated)[:-1].any():
        end = int(np.argmax(terminated | truncated))
        raise ValueError(f"episode {number} ends at row {end} of {length}; cut it there.")
    reward[0] = 0
    tree["action"] = jax.tree.map(lambda x: replaced(x, np.arange(length) == length - 1, 0), tree["action"])
    truncated[-1] |= not terminated[-1]
    first, valid = np.arange(length) == 0, np.ones(length, bool)
    return Row(tree["obs"], reward, terminated, truncated, first, tree["info"], tree["action"], tree["extras"], valid)


def _name(path: Any) -> str:
    return "/".join(str(getattr(part, "key", part)) for part in path)


def _each(check: Callable[[Any, str], np.ndarray], tree: Any, number: int, name: str) -> Any:
    """``check`` on each leaf, told what it is called."""
    where = lambda path: f"episode {number}: {'/'.join(filter(None, (name, _name(path))))}"
    return jax.tree_util.tree_map_with_path(lambda path, x: check(x, where(path)), tree)


def _numbers(tree: Any, number: int, name: str) -> Any:
    listed = lambda x: isinstance(x, (list, tuple))  # an array that is written out
    as_arrays = jax.tree.map(np.asarray, tree, is_leaf=listed)
    return _each(columns.numbers, as_arrays, number, name)
