"""Datasets as files: rlx's own format, and readers of the public ones.

The format is one ``.npz`` without pickle: a column per leaf of `rlx.types.Row` (``obs``, ``obs/pixels``, ``extras/z``, ...),
all episodes one after another along time, and ``offsets`` [episodes + 1], where each begins. Readers return episodes, which
`rlx.replay.from_episodes` makes into a replay and `write` into a file::

    data = replay.from_episodes(datasets.from_ogbench("antmaze-large-navigate-v0.npz"))
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import files
from rlx.replay.episodes import episode_row
from rlx.types import PyTree, Row

FORMAT = "rlx-episodes-1"
_TREES = ("obs", "action", "info", "extras")
_FLAT = ("reward", "terminated", "truncated")


def write(path: str | os.PathLike, episodes: Iterable[Row | Mapping[str, Any]]) -> None:
    """Episodes, as `rlx.replay.from_episodes` takes them, into the file ``path``, at once or not at all.

    Raises:
        ValueError: no episodes, or ones that `rlx.replay.from_episodes` refuses.
        OSError: the file cannot be written; what was there before stays.
    """
    rows = [episode_row(e, i) for i, e in enumerate(episodes)]
    if not rows:
        raise ValueError(f"write {path}: there are no episodes.")
    structures = {jax.tree.structure(r) for r in rows}
    if len(structures) > 1:
        raise ValueError(f"write {path}: all episodes must have the same leaves, got {sorted(map(str, structures))}.")
    columns: dict[str, np.ndarray] = {"format": np.array(FORMAT)}
    columns["offsets"] = np.cumsum([0, *(len(r.reward) for r in rows)])
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *rows)
    for field in _FLAT:
        columns[field] = getattr(whole, field)
    for field in _TREES:
        columns.update(_flatten(field, getattr(whole, field)))
    with files.replacing(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def read(path: str | os.PathLike) -> list[Row]:
    """The episodes of a file of `write`, numpy rows [T, ...].

    Raises:
        ValueError: not such a file, or a damaged one.
    """
    columns = _load(path)
    if str(columns.pop("format", "")) != FORMAT:
        raise ValueError(f"{path} is not a dataset of rlx; for others see from_d4rl, from_ogbench and from_minari.")
    _need(columns, ("offsets", "obs", "action", *_FLAT), str(path), prefixes=True)
    offsets = columns.pop("offsets")
    _one_length(columns, str(path))
    if offsets[0] != 0 or (np.diff(offsets) < 1).any() or offsets[-1] != len(columns["reward"]):
        raise ValueError(f"{path}: the offsets of the episodes do not fit {len(columns['reward'])} rows.")
    trees = {field: _unflatten(field, columns) for field in _TREES}
    whole = {**trees, **{k: columns[k] for k in _FLAT}}
    cut = lambda a, b: {k: jax.tree.map(lambda x: x[a:b], v) for k, v in whole.items()}
    return [episode_row(cut(a, b), i) for i, (a, b) in enumerate(zip(offsets[:-1], offsets[1:], strict=True))]


# -------------------------------------------------------------------------------------------------------- public formats


def from_d4rl(data: Mapping[str, Any] | str | os.PathLike) -> list[Row]:
    """Episodes of D4RL's layout, arrays [N, ...] or an ``.npz`` of them: ``observations``, ``actions``, ``rewards``,
    ``terminals``, and if there are any ``timeouts`` and ``next_observations``. Entry ``i`` holds what followed its action.

    Without ``timeouts``, episodes also end where ``next_observations`` and the next observation differ. Without
    ``next_observations``, the outcome of the last action before a timeout is unknown and that transition is left out; at a
    terminal, where nothing is bootstrapped, the last observation stands for the unknown one, so that its reward is kept.

    Raises:
        ValueError: missing keys, unequal lengths, numbers that are not finite.
    """
    data, name = (_load(data), str(data)) if isinstance(data, str | os.PathLike) else (dict(data), "D4RL data")
    _need(data, ("observations", "actions", "rewards", "terminals"), name)
    known = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    data = {k: np.asarray(data[k]) for k in known if k in data}
    count = _one_length(data, name)
    obs, following = data["observations"], data.get("next_observations")
    terminal = data["terminals"].reshape(count).astype(bool)
    timeout = data["timeouts"].reshape(count).astype(bool) if "timeouts" in data else np.zeros(count, bool)
    ends = terminal | timeout
    if following is not None:
        jump = (following[:-1] != obs[1:]).reshape(count - 1, -1).any(1)
        ends[:-1] |= jump if "timeouts" not in data else False
    bounds = np.unique([0, *(np.flatnonzero(ends) + 1), count])
    episodes: list[Any] = []
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        if following is not None:
            seen = np.concatenate([obs[a:b], following[b - 1 : b]])
        elif terminal[b - 1]:
            seen = np.concatenate([obs[a:b], obs[b - 1 : b]])
        else:
            seen = obs[a:b]
        taken = len(seen) - 1
        if taken:
            episodes.append(
                _from_steps(
                    seen,
                    data["actions"][a : a + taken],
                    data["rewards"][a : a + taken],
                    terminal[a : a + taken],
                    len(episodes),
                )
            )
    if not episodes:
        raise ValueError(f"{name}: there is no whole transition in {count} entries.")
    return episodes


def from_ogbench(data: Mapping[str, Any] | str | os.PathLike) -> list[Row]:
    """Episodes of an OGBench file (as downloaded, not as its loader returns it): ``observations``, ``actions``, ``terminals``
    [N, ...], where ``terminals`` marks the last observation of each trajectory. Nothing terminates: that is the goal's matter.
    Rewards are 0 and simulator states (``qpos``, ``qvel``, ...) become ``info``.

    Raises:
        ValueError: missing keys, unequal lengths, numbers that are not finite.
    """
    data, name = (_load(data), str(data)) if isinstance(data, str | os.PathLike) else (dict(data), "OGBench data")
    _need(data, ("observations", "actions", "terminals"), name)
    if "next_observations" in data or "valids" in data:
        raise ValueError(f"{name} is what OGBench's loader returns; give the file itself, or use from_d4rl.")
    data = {k: np.asarray(v) for k, v in data.items()}
    count = _one_length(data, name)
    bounds = np.unique([0, *(np.flatnonzero(data["terminals"].reshape(count)) + 1), count])
    extra = [k for k in data if k not in ("observations", "actions", "terminals")]
    episodes: list[Any] = []
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        if b - a < 2:
            raise ValueError(
                f"{name}: trajectory {len(episodes)} has {b - a} observations; `terminals` must mark the last one."
            )
        episode = {"obs": data["observations"][a:b], "action": data["actions"][a:b], "reward": np.zeros(b - a)}
        episode |= {"terminated": np.zeros(b - a, bool), "info": {k: _single(data[k][a:b]) for k in extra}}
        episodes.append(episode_row(episode, len(episodes)))
    return episodes


def from_minari(episodes: Iterable[Any]) -> list[Row]:
    """Episodes of Minari (``dataset.iterate_episodes()``, or mappings of the same names): ``observations`` [T + 1, ...]
    (arrays or dicts of them), ``actions``, ``rewards``, ``terminations``, ``truncations`` [T].

    Raises:
        ValueError: missing fields, unequal lengths, numbers that are not finite.
    """
    rows = []
    for i, episode in enumerate(episodes):
        names = ("observations", "actions", "rewards", "terminations", "truncations")
        given = episode if isinstance(episode, Mapping) else {k: getattr(episode, k) for k in names if hasattr(episode, k)}
        _need(given, names, f"episode {i}")
        obs, actions, rewards, terminations, truncations = (given[k] for k in names)
        taken = len(np.asarray(rewards))
        for name, tree, length in (
            ("observations", obs, taken + 1),
            ("actions", actions, taken),
            ("terminations", terminations, taken),
            ("truncations", truncations, taken),
        ):
            found = {len(x) for x in jax.tree.leaves(jax.tree.map(np.asarray, tree))}
            if found != {length}:
                raise ValueError(f"episode {i}: {taken} rewards need {length} {name}, got {sorted(found)}.")
        rows.append(_from_steps(obs, actions, rewards, np.asarray(terminations, bool), i))
    if not rows:
        raise ValueError("from_minari: there are no episodes.")
    return rows


def _from_steps(obs: PyTree, actions: PyTree, rewards: Any, terminal: np.ndarray, number: int) -> Row:
    """An episode of ``n`` steps and ``n + 1`` observations: rewards and ends move to the row at which they arrive."""
    pad = lambda x: np.concatenate([x, np.zeros_like(x[:1])])
    return episode_row(
        {
            "obs": obs,
            "action": jax.tree.map(lambda x: pad(np.asarray(x)), actions),
            "reward": np.concatenate([[0], np.asarray(rewards).reshape(-1)]),
            "terminated": np.concatenate([[False], terminal]),
        },
        number,
    )


# ----------------------------------------------------------------------------------------------------------------- pieces


def _load(path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {k: file[k] for k in file.files}
    except FileNotFoundError:
        raise ValueError(f"there is no dataset {path}.") from None
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as an .npz without pickled objects: {error}") from error


def _need(data: Mapping[str, Any], names: Iterable[str], where: str, prefixes: bool = False) -> None:
    there = {k.split("/")[0] for k in data} if prefixes else set(data)
    missing = [k for k in names if k not in there]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(data) or 'nothing'}.")


def _one_length(data: Mapping[str, np.ndarray], where: str) -> int:
    lengths = {k: len(v) if v.ndim else 0 for k, v in data.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"{where}: all arrays must have one length, above 0; got {lengths}.")
    return next(iter(lengths.values()))


def _single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype == np.float64 else x


def _flatten(name: str, tree: Any) -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        if not isinstance(tree, np.ndarray):
            raise ValueError(f"write: {name} must be an array or a dict of such, got {type(tree).__name__}.")
        return {name: tree}
    odd = [k for k in tree if not isinstance(k, str) or "/" in k]
    if odd:
        raise ValueError(f"write: {name} has the key {odd[0]!r}; keys must be strings without '/'.")
    return {path: x for k, v in tree.items() for path, x in _flatten(f"{name}/{k}", v).items()}


def _unflatten(name: str, columns: Mapping[str, np.ndarray]) -> Any:
    if name in columns:
        return columns[name]
    inner = dict.fromkeys(k[len(name) + 1 :].split("/")[0] for k in columns if k.startswith(f"{name}/"))
    return {k: _unflatten(f"{name}/{k}", columns) for k in inner}
