"""Whole episodes as a frozen replay: datasets, demonstrations, preference data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Meta, ReplayState, Row


def from_episodes(episodes: Iterable[Mapping[str, Any] | Row], device: bool = True) -> ReplayState:
    """A dataset: episodes one after another as one stream, never to be added to.

    Each episode is a row or a mapping with ``obs`` [T, ...], ``action`` [T, ...] (the last one is ignored), ``reward`` [T]
    (for the arrival; the first is ignored), ``terminated`` [T], and if there are any ``truncated`` [T], ``info`` and
    ``extras``. An episode whose last row is neither terminated nor truncated is marked truncated.

    Raises:
        ValueError: no episodes, missing keys, unequal lengths, or numbers that are not finite.
    """
    rows = [_episode_row(e._asdict() if isinstance(e, Row) else e, i) for i, e in enumerate(episodes)]
    if not rows:
        raise ValueError("from_episodes: there are no episodes.")
    xp = jnp if device else np
    data = jax.tree.map(lambda *xs: xp.asarray(np.concatenate(xs)[:, None]), *rows)
    size = data.reward.shape[0]
    flag = lambda x: jnp.array(x)
    meta = Meta(
        jnp.int32(0), jnp.int32(size), jnp.bool_(False), flag(data.first), flag(data.last), flag(data.valid), jnp.zeros((0, 0))
    )
    return ReplayState(meta, data, {})


def _episode_row(episode: Mapping[str, Any], number: int) -> Row:
    missing = [k for k in ("obs", "action", "reward", "terminated") if k not in episode]
    if missing:
        raise ValueError(f"episode {number} lacks {', '.join(missing)}; it has {', '.join(episode)}.")
    as_float = lambda x: x.astype(np.float32) if x.dtype == np.float64 else x
    tree = {k: jax.tree.map(lambda x: as_float(np.asarray(x)), episode[k]) for k in ("obs", "action")}
    reward = np.asarray(episode["reward"], np.float32).copy()
    length = reward.shape[0]
    terminated = np.asarray(episode["terminated"], bool)
    truncated = np.asarray(episode.get("truncated", np.zeros(length, bool)), bool).copy()
    more: dict[str, Any] = {k: {n: np.asarray(x) for n, x in (episode.get(k) or {}).items()} for k in ("info", "extras")}
    for path, x in jax.tree_util.tree_leaves_with_path({**tree, **more, "terminated": terminated, "truncated": truncated}):
        name = jax.tree_util.keystr(path)
        if x.shape[:1] != (length,):
            raise ValueError(
                f"episode {number}: {name} has {x.shape[:1]} rows, reward has {length}; all must be of one length."
            )
        if np.issubdtype(x.dtype, np.floating) and not np.isfinite(x).all():
            raise ValueError(f"episode {number}: {name} has values that are not finite.")
    if length < 2 or not np.isfinite(reward).all():
        raise ValueError(f"episode {number} has {length} rows; it needs two or more, with finite rewards.")
    reward[0] = 0
    truncated[-1] |= not terminated[-1]
    first = np.arange(length) == 0
    valid = np.ones(length, bool)
    return Row(tree["obs"], reward, terminated, truncated, first, more["info"], tree["action"], more["extras"], valid)
