"""Datasets as files: rlx's own format, and readers of the public ones.

The format is one ``.npz`` without pickle: a column per leaf of `rlx.types.Row` (``obs``, ``obs/pixels``, ``extras/z``, ...),
all episodes one after another along time, and ``offsets`` [episodes + 1], where each begins. Readers return episodes, which
`rlx.replay.from_episodes` makes into a replay and `write` into a file::

    data = replay.from_episodes(datasets.from_ogbench("antmaze-large-navigate-v0.npz"))
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlx import files
from rlx.replay import columns
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
    arrays: dict[str, np.ndarray] = {"format": np.array(FORMAT)}
    arrays["offsets"] = np.cumsum([0, *(len(r.reward) for r in rows)])
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *rows)
    for field in _FLAT:
        arrays[field] = getattr(whole, field)
    for field in _TREES:
        arrays.update(_flatten(field, getattr(whole, field)))
    with files.replacing(Path(path)) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read(path: str | os.PathLike) -> list[Row]:
    """The episodes of a file of `write`, numpy rows [T, ...].

    Raises:
        ValueError: not such a file, or a damaged one; the message names the file, and the column where one is wrong.
    """
    arrays = columns.load(path)
    if str(arrays.pop("format", "")) != FORMAT:
        raise ValueError(f"{path} is not a dataset of rlx; for others see from_d4rl, from_ogbench and from_minari.")
    with columns.of(path):
        _need(arrays, ("offsets", "obs", "action", *_FLAT), "it", prefixes=True)
        odd = [k for k in arrays if k not in (*_FLAT, "offsets") and k.split("/")[0] not in _TREES]
        both = [k for k in arrays for other in arrays if other.startswith(f"{k}/")]
        if odd or both:
            raise ValueError(f"it has {(odd or both)[0]!r}, which a dataset of rlx has not: write it anew by datasets.write.")
        offsets = arrays.pop("offsets")
        count = _one_length(arrays)
        if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
            raise ValueError(
                f"offsets is {offsets.dtype}{list(offsets.shape)}; it lists whole numbers, where each episode begins."
            )
        starts = [int(x) for x in offsets]
        if starts[0] or starts[-1] != count or any(b <= a for a, b in itertools.pairwise(starts)):
            raise ValueError(f"the offsets of the episodes do not fit {count} rows.")
        whole: dict[str, Any] = {field: _unflatten(field, arrays) for field in _TREES} | {k: arrays[k] for k in _FLAT}
        cut = lambda a, b: {k: jax.tree.map(lambda x: x[a:b], v) for k, v in whole.items()}
        return [episode_row(cut(a, b), i) for i, (a, b) in enumerate(itertools.pairwise(starts))]


# -------------------------------------------------------------------------------------------------------- public formats

Bounds = tuple[Any, Any]  # low and high of actions in the file's units, numbers or [A]: what -1 and 1 stand for


def from_d4rl(data: Mapping[str, Any] | str | os.PathLike, bounds: Bounds | None = None) -> list[Row]:
    """Episodes of D4RL's layout, arrays [N, ...] or an ``.npz`` of them: ``observations``, ``actions``, ``rewards``,
    ``terminals``, and ``timeouts`` or ``next_observations`` or both. Entry ``i`` holds what followed its action. ``bounds``:
    of actions that are not in [-1, 1].

    Episodes end at ``terminals`` and ``timeouts``; without ``timeouts``, where ``next_observations`` and the next observation
    differ. Where both are there, they must agree. Without ``next_observations``, the outcome of the last action before a
    timeout is unknown and that transition is left out (a warning says how many); at a terminal, where nothing is
    bootstrapped, the last observation stands for the unknown one, so that its reward is kept.

    Raises:
        ValueError: missing keys, unequal lengths, what is no number or not finite, ends that are not 0 or 1, actions beyond
            their bounds, or no way to know where episodes end.
    """
    known = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
    name, given = _given(data, "D4RL data", known)
    with columns.of(name):
        _need(given, known[:4], "it")
        given = {k: columns.numbers(given[k], k) for k in known if k in given}
        count = _one_length(given)
        obs, following = given["observations"], given.get("next_observations")
        for k in given:
            columns.finite(given[k], k)
        actions = columns.actions(columns.scaled(given["actions"], bounds, "actions"), "actions")
        rewards = _flat(given["rewards"], "rewards")
        terminal, ends = _ends(given)
        bounds_of = np.unique([0, *(np.flatnonzero(ends) + 1), count])
        episodes: list[Row] = []
        lost = 0
        for a, b in itertools.pairwise(bounds_of):
            unknown = following is None and not terminal[b - 1]
            seen = obs[a:b] if unknown else np.concatenate([obs[a:b], (obs if following is None else following)[b - 1 : b]])
            to, lost = b - unknown, lost + unknown
            if to > a:
                episodes.append(_from_steps(seen, actions[a:to], rewards[a:to], terminal[a:to], len(episodes)))
        if not episodes:
            raise ValueError(f"there is no whole transition in {count} entries.")
    if lost:
        warnings.warn(
            f"{name}: {lost} of {count} transitions are left out, the last before each timeout: there are no next_observations "
            "to say what followed.",
            stacklevel=2,
        )
    return episodes


def _ends(given: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of D4RL's entries, bool [N]: what terminated, and where episodes end."""
    terminal = columns.flags(_flat(given["terminals"], "terminals"), "terminals")
    timeout = columns.flags(_flat(given["timeouts"], "timeouts"), "timeouts") if "timeouts" in given else None
    obs, following = given["observations"], given.get("next_observations")
    if following is None:
        if timeout is None:
            raise ValueError(
                "without timeouts and next_observations nothing says where episodes end that did not terminate: add timeouts, "
                "1 at the last entry of each episode that was cut (all 0 if there is none)."
            )
        return terminal, terminal | timeout
    if following.shape != obs.shape:
        raise ValueError(f"next_observations is {list(following.shape)}, observations {list(obs.shape)}; they must be alike.")
    jump = np.append((following[:-1] != obs[1:]).reshape(len(obs) - 1, -1).any(1), False)
    if timeout is None:
        return terminal, terminal | jump
    wrong = jump & ~(terminal | timeout)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"after entry {at} comes another observation than its next_observations says, and neither terminals nor timeouts "
            f"end an episode there ({int(wrong.sum())} such entries): the two are out of step. Leave out timeouts to end "
            "episodes where observations jump, or mend them."
        )
    return terminal, terminal | timeout


def from_ogbench(data: Mapping[str, Any] | str | os.PathLike, bounds: Bounds | None = None) -> list[Row]:
    """Episodes of an OGBench file (as downloaded, not as its loader returns it): ``observations``, ``actions``, ``terminals``
    [N, ...], where ``terminals`` marks the last observation of each trajectory. All other columns (``qpos``, ``qvel``, ...)
    become ``info``. ``bounds``: of actions that are not in [-1, 1].

    ``rewards`` [N], if there are any, belong to the entry's action, as in OGBench's single-task datasets; else they are 0:
    that is the goal's matter. Where ``masks`` [N] is 0 the entry's action terminated the task; an episode ends on arrival, and
    the trajectory goes on as the next one.

    Raises:
        ValueError: missing keys, unequal lengths, what is no number or not finite, ends that are not 0 or 1, actions beyond
            their bounds, a trajectory of one observation or one without its end.
    """
    own = ("observations", "actions", "terminals", "rewards", "masks")
    name, given = _given(data, "OGBench data", None)
    with columns.of(name):
        _need(given, own[:3], "it")
        if "next_observations" in given or "valids" in given:
            raise ValueError("this is what OGBench's loader returns; give the file itself, or use from_d4rl.")
        given = {k: columns.finite(columns.numbers(v, k), k) for k, v in given.items()}
        count = _one_length(given)
        last = columns.flags(_flat(given["terminals"], "terminals"), "terminals")
        if not last[-1]:
            raise ValueError(
                "terminals does not mark the last observation: the file is a part of one, or marks something else."
            )
        zeros, ones = np.zeros(count, np.float32), np.ones(count, bool)
        actions = columns.actions(columns.scaled(given["actions"], bounds, "actions"), "actions")
        rewards = _flat(given["rewards"], "rewards") if "rewards" in given else zeros
        goes_on = columns.flags(_flat(given["masks"], "masks"), "masks") if "masks" in given else ones
        info = {k: v for k, v in given.items() if k not in own}
        episodes: list[Row] = []
        for a, b in itertools.pairwise([0, *(np.flatnonzero(last) + 1)]):
            if b - a < 2:
                raise ValueError(
                    f"the trajectory from entry {a} on has {b - a} observations; terminals must mark the last one."
                )
            cuts = a + 1 + np.flatnonzero(~goes_on[a : b - 1])  # rows on arrival at which something terminated
            for begin, end in itertools.pairwise(np.unique([a, *cuts, b - 1])):
                seen = given["observations"][begin : end + 1]
                more = {k: v[begin : end + 1] for k, v in info.items()}
                taken = slice(begin, end)
                row = _from_steps(seen, actions[taken], rewards[taken], ~goes_on[taken], len(episodes), more)
                episodes.append(row)
    return episodes


def from_minari(episodes: Iterable[Any], bounds: Bounds | None = None) -> list[Row]:
    """Episodes of Minari (``dataset.iterate_episodes()``, or mappings of the same names): ``observations`` [T + 1, ...]
    (arrays or dicts of them), ``actions``, ``rewards``, ``terminations``, ``truncations`` [T]. ``bounds``: of actions that are
    not in [-1, 1].

    Raises:
        ValueError: missing fields, unequal lengths, what is no number or not finite, ends that are not 0 or 1 or stand within
            an episode, actions beyond their bounds; a file, which Minari's own library reads.
    """
    if isinstance(episodes, str | os.PathLike):
        columns.load(episodes, only=())  # says of HDF5 what it is
        raise ValueError(f"{episodes} is no dataset of Minari: give minari.load_dataset(NAME).iterate_episodes().")
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
        ended, cut = (columns.flags(given[k], f"episode {i}: {k}") for k in names[3:])
        if cut[:-1].any():
            raise ValueError(f"episode {i}: truncations ends it at step {int(np.argmax(cut))} of {taken}; cut it there.")
        actions = jax.tree.map(lambda x: columns.scaled(columns.numbers(x, "actions"), bounds, "actions"), actions)
        rows.append(_from_steps(obs, actions, rewards, ended, i))
    if not rows:
        raise ValueError("from_minari: there are no episodes.")
    return rows


def _from_steps(obs: PyTree, actions: PyTree, rewards: Any, terminal: np.ndarray, number: int, info: Any = None) -> Row:
    """An episode of ``n`` steps and ``n + 1`` observations: rewards and ends move to the row at which they arrive."""
    pad = lambda x: np.concatenate([x, np.zeros_like(x[:1])])
    return episode_row(
        {
            "obs": obs,
            "action": jax.tree.map(lambda x: pad(np.asarray(x)), actions),
            "reward": np.concatenate([[0], np.asarray(rewards).reshape(-1)]),
            "terminated": np.concatenate([[False], terminal]),
            "info": info,
        },
        number,
    )


# ----------------------------------------------------------------------------------------------------------------- pieces


def _given(data: Any, called: str, only: tuple[str, ...] | None) -> tuple[str, dict[str, Any]]:
    """What to call ``data`` in messages, and its columns."""
    if isinstance(data, str | os.PathLike):
        return os.fspath(data), columns.load(data, only)
    return called, dict(data)


def _need(data: Mapping[str, Any], names: Iterable[str], where: str, prefixes: bool = False) -> None:
    there = {k.split("/")[0] for k in data} if prefixes else set(data)
    missing = [k for k in names if k not in there]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {', '.join(data) or 'nothing'}.")


def _one_length(data: Mapping[str, np.ndarray]) -> int:
    lengths = {k: len(v) if v.ndim else 0 for k, v in data.items()}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise ValueError(f"all arrays must have one length, above 0; got {lengths}.")
    return next(iter(lengths.values()))


def _flat(x: np.ndarray, name: str) -> np.ndarray:
    """One number per entry: [N] of [N] or [N, 1]."""
    if x.size != len(x):
        raise ValueError(f"{name} is {list(x.shape)}; it is to have one number per entry.")
    return x.reshape(-1)


def _flatten(name: str, tree: Any) -> dict[str, np.ndarray]:
    if not isinstance(tree, Mapping):
        if not isinstance(tree, np.ndarray):
            raise ValueError(f"write: {name} must be an array or a dict of such, got {type(tree).__name__}.")
        return {name: tree}
    odd = [k for k in tree if not isinstance(k, str) or "/" in k]
    if odd:
        raise ValueError(f"write: {name} has the key {odd[0]!r}; keys must be strings without '/'.")
    return {path: x for k, v in tree.items() for path, x in _flatten(f"{name}/{k}", v).items()}


def _unflatten(name: str, arrays: Mapping[str, np.ndarray]) -> Any:
    if name in arrays:
        return arrays[name]
    inner = dict.fromkeys(k[len(name) + 1 :].split("/")[0] for k in arrays if k.startswith(f"{name}/"))
    return {k: _unflatten(f"{name}/{k}", arrays) for k in inner}
