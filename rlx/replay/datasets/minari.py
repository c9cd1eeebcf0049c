"""Minari (Farama Foundation): ``data/main_data.hdf5`` of its folders, read without the package, and episodes of the package.

A group ``episode_K`` has ``observations`` [T + 1, ...], ``actions``, ``rewards``, ``terminations``, ``truncations`` [T]. Dict
observations and actions are groups, tuples are groups of ``_index_0``, ``_index_1``, ... The environment stands in
``env_spec``, in the root's attributes or in ``data/metadata.json``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from rlx.files import read_json
from rlx.replay import columns
from rlx.replay.dataset import Dataset, fitted, from_rows
from rlx.replay.datasets import hdf5
from rlx.replay.datasets.found import Found, Layout, Reading, by_groups, look, need, one_per_entry
from rlx.replay.datasets.found import reading as reading_of
from rlx.types import PyTree

FILE = Path("data", "main_data.hdf5")  # within a dataset's folder
_NAMES = ("observations", "actions", "rewards", "terminations", "truncations")


def from_minari(episodes: Any, bounds: Any = None, **reading: Any) -> Dataset:
    """Episodes of Minari: a dataset of ``minari.load_dataset``, its ``iterate_episodes()``, mappings of the same names, or the
    path of a ``main_data.hdf5``. ``bounds`` and the rest as in `Reading`.

    Raises:
        ValueError: missing fields, unequal lengths, what is no number or not finite, ends that are not 0 or 1 or stand within
            an episode, actions beyond their bounds.
    """
    options = reading_of(bounds=bounds, **reading)
    if isinstance(episodes, str | os.PathLike):
        found = look(Path(episodes))
        if not _is_minari(found):
            if found.kind == "pickle":
                columns.load(found.path)  # says what it is
            raise ValueError(f"{found.path} is no dataset of Minari: give its folder, or the main_data.hdf5 in it.")
        with columns.of(found.path):
            return fitted(_read(found, options), options.bounds)
    meta, name = {}, "Minari data"
    if hasattr(episodes, "iterate_episodes"):
        meta = {"env": episodes.spec.env_spec.id} if getattr(episodes.spec, "env_spec", None) else {}
        episodes, name = episodes.iterate_episodes(), f"Minari's {episodes.spec.dataset_id}"
    return fitted(_of_episodes(episodes, name, options, meta), options.bounds)


def _stored(file: Any, found: Found, reading: Reading) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Episodes of the file, in the order of their numbers."""
    numbered = sorted((int(k.removeprefix("episode_")), k) for k in file if k.removeprefix("episode_").isdecimal())
    if not numbered:
        raise ValueError(f"it has no group episode_0; it has {', '.join(file) or 'nothing'}.")
    for name in found.asked(name for _, name in numbered):
        group = hdf5.group(file, name)
        need(group, _NAMES, name)
        yield name, {k: _plain(_tree(group, k, reading.keys if k == "observations" else ())) for k in _NAMES}


def _tree(episode: Any, name: str, keys: tuple[str, ...]) -> Any:
    """The array or group at ``name``, of a group with ``keys`` those alone: others may be text."""
    if not keys or not isinstance(episode.get(name), h5py.Group):
        return hdf5.tree(episode, name)
    inner = hdf5.group(episode, name)
    there = {k.removeprefix("_index_"): k for k in inner}
    need(there, keys, f"{episode.name.strip('/')}: {name}")
    return {k: hdf5.tree(inner, there[k]) for k in keys}


def _plain(tree: Any) -> Any:
    """Tuples, kept as groups of ``_index_K``, as dicts of "0", "1", ..."""
    if isinstance(tree, tuple | list):
        return {str(i): _plain(x) for i, x in enumerate(tree)}
    if not isinstance(tree, Mapping):
        return tree
    return {str(k).removeprefix("_index_"): _plain(v) for k, v in tree.items()}


def _of_episodes(episodes: Iterable[Any], name: str, reading: Reading, meta: Mapping[str, Any] | None = None) -> Dataset:
    """Episodes, or (what to call it, episode) pairs, as one dataset."""
    reading.only("Minari", "bounds", "keys")
    parts: list[tuple] = []
    notes, empty = [], 0
    for i, given in enumerate(episodes):
        if reading.episodes is not None and len(parts) == reading.episodes:
            break
        called, episode = given if isinstance(given, tuple) else (f"episode {i}", given)
        values = episode if isinstance(episode, Mapping) else {k: getattr(episode, k) for k in _NAMES if hasattr(episode, k)}
        need(values, _NAMES, called)
        if not np.size(values["rewards"]):
            empty += 1
            continue
        parts.append(_columns(values, called, reading))
    if not parts:
        raise columns.Empty(f"{name}: there are no episodes.")
    if empty:
        notes.append(f"{empty} episodes of no steps are left out")
    kinds: list[Any] = [jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[1:])}", p[:2]) for p in parts]
    odd = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if odd is not None:
        raise ValueError(
            f"{name}: observations and actions of all episodes must be alike; of number {odd} they are {kinds[odd]}, of the "
            f"first {kinds[0]}: mend them, or keep them apart."
        )
    offsets = np.cumsum([0, *(len(p[2]) for p in parts)])
    obs, action, reward, terminated = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    with columns.of(name):
        rows = from_rows(obs, action, reward, terminated, offsets)
    return Dataset(*rows, name, "Minari", tuple(notes), meta or {})


def _columns(episode: Mapping[str, Any], name: str, reading: Reading) -> tuple[PyTree, PyTree, np.ndarray, np.ndarray]:
    """Rows of one episode: observations, actions, rewards and ends of arrivals."""
    sound = lambda x, called: columns.finite(columns.numbers(x, called), called)
    number = lambda k: jax.tree.map(lambda x: sound(x, f"{name}: {k}"), _plain(episode[k]))
    obs, actions, rewards = number("observations"), number("actions"), one_per_entry(number("rewards"), f"{name}: rewards")
    ended, cut = (columns.flags(one_per_entry(np.asarray(episode[k]), k), f"{name}: {k}") for k in _NAMES[3:])
    taken = len(rewards)
    wanted = {
        "observations": (obs, taken + 1),
        "actions": (actions, taken),
        "terminations": (ended, taken),
        "truncations": (cut, taken),
    }
    for k, (tree, length) in wanted.items():
        lengths = {len(x) if x.ndim else 0 for x in jax.tree.leaves(tree)}
        if lengths != {length}:
            raise ValueError(f"{name}: {taken} rewards need {length} {k}, got {sorted(lengths)}.")
    for k, marks in (("truncations", cut), ("terminations", ended)):
        if marks[:-1].any():
            raise ValueError(f"{name}: {k} ends it at step {int(np.argmax(marks))} of {taken}; cut it there.")
    actions = jax.tree.map(lambda x: columns.bounded(x, reading.bounds, f"{name}: actions"), actions)
    pad = lambda x: np.concatenate([x, np.zeros_like(x[:1])])
    shift = lambda x: np.concatenate([np.zeros_like(x[:1]), x])
    if reading.keys:
        if not isinstance(obs, dict):
            raise ValueError(f"{name}: observations are one array, of which keys name no part: leave keys out.")
        need(obs, reading.keys, f"{name}: observations")
        obs = {k: obs[k] for k in reading.keys}
    return obs, jax.tree.map(pad, actions), shift(rewards.astype(np.float32)), shift(ended)


def _read(found: Found, reading: Reading) -> Dataset:
    path = found.path / FILE if found.kind == "folder" else found.path
    if not path.exists():
        raise ValueError(
            "it has no data/main_data.hdf5: Minari wrote it in another form. Where minari is installed, "
            "rlx.replay.datasets.from_minari(minari.load_dataset(...)) reads it."
        )
    with hdf5.opened(path) as file:
        attributes = hdf5.attributes(file)
        beside = path.with_name("metadata.json")
        attributes |= read_json(beside) if beside.exists() else {}
        data = _of_episodes(_stored(file, found, reading), str(found.path), reading, _meta(attributes))
    return data


def _meta(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's id, where the dataset says it."""
    spec = attributes.get("env_spec")
    try:
        spec = json.loads(spec) if isinstance(spec, str) else spec
    except ValueError:
        spec = None
    return {"env": spec["id"]} if isinstance(spec, dict) and isinstance(spec.get("id"), str) else {}


def _is_minari(found: Found) -> bool:
    if found.kind == "folder":
        return (found.path / FILE).exists() or (found.path / FILE).with_name("metadata.json").exists()
    return found.kind == "hdf5" and any(re.fullmatch(r"episode_\d+/terminations", k) for k in found.arrays)


LAYOUT = Layout(
    "Minari",
    "a folder with data/main_data.hdf5, or that file: groups episode_0, episode_1, ...",
    _is_minari,
    _read,
    ("folder", "hdf5"),
    by_groups(_read, file=str(FILE)),
)
