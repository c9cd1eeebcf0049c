"""Demonstrations of several cameras in one HDF5 file, rlx's own form.

A group ``ep_00000`` per episode with ``rgb_CAMERA`` uint8 [L + 1, h, w, 3], ``depth_CAMERA`` uint8, ``proprio`` float32
[L + 1, S], ``state``; ``action`` float32 [L, A] in [-1, 1], ``reward``, ``success``, ``force`` [L]. What else the environment
told stands in ``info/NAME`` [L + 1, ...], as observations from the first one on; ``force`` is ``contact_force`` where that is
told. Attributes of the file say which environment, version, seed, cameras and generator, that of a group whether its last
observation is a terminal one.

Environments have ``pixels`` and ``state`` for this, or a vector alone. The attribute ``observations`` of what `write_episodes`
wrote says which of these each array is, or of an image of several cameras a part, so it is read as the environment has it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rlx import files
from rlx.replay import columns
from rlx.replay.dataset import Dataset, alike, by_name, from_rows, join, tree_of
from rlx.replay.datasets import hdf5
from rlx.replay.datasets.found import Found, Layout, Reading, by_groups, natural, need, one_length, one_per_entry
from rlx.replay.episodes import episode_row
from rlx.types import Row

_SEEN, _DONE, _INFO = ("rgb_", "depth_", "proprio", "state"), ("success", "force"), "info"
_FORCE = "contact_force"  # what rlx calls the force
_META = {"env": "env_id", "repeat": "action_repeat"}  # the form's names of what rlx says of all its data
PIXELS, STATE, VECTOR, OBSERVATIONS = "pixels", "state", "proprio", "observations"


def write_episodes(
    path: str | os.PathLike, episodes: Iterable[Row | Mapping[str, Any]], meta: Mapping[str, Any] | None = None
) -> None:
    """Episodes of an environment in the form above: its vector, or its ``state``, is ``proprio``, of each camera in its image
    there is one, called as its options in ``meta`` name it. Extras are left out.

    Raises:
        ValueError: as `write_demos`; observations that the form has no place for.
        OSError: the file cannot be written.
    """
    rows = _alike([episode_row(e, i)._replace(extras={}) for i, e in enumerate(episodes)], path)
    attributes = dict(meta or {})
    options = attributes.get("env_options")
    camera = options.get("camera") if isinstance(options, Mapping) else None
    cameras = camera if isinstance(camera, list | tuple) else [] if camera is None else [camera]
    parts = _parts(by_name(rows[0].obs), [str(c).replace("/", "_") for c in cameras], path)
    split = lambda x, names: zip(names, np.split(x, len(names), -1), strict=True)
    apart = lambda flat: dict(pair for k, names in parts.items() for pair in split(flat[k], names))
    attributes = {_META.get(k, k): v for k, v in attributes.items() if v is not None and k not in _META.values()}
    cameras = [name.removeprefix(_SEEN[0]) for names in parts.values() for name in names if name.startswith(_SEEN[0])]
    attributes |= {"cameras": cameras, OBSERVATIONS: parts}
    write_demos(path, [row._replace(obs=apart(by_name(row.obs))) for row in rows], attributes)


def _parts(flat: Mapping[str, np.ndarray], cameras: list[str], path: Any) -> dict[str, list[str]]:
    """What becomes of each observation: arrays of the form, side by side along its last axis."""
    found: dict[str, list[str]] = {}
    for name, x in flat.items():
        own = name or PIXELS
        if name.startswith(_SEEN[:2]) or name == VECTOR or (name == STATE and VECTOR in flat):
            found[name] = [name]
        elif x.dtype == np.uint8 and x.ndim == 4:
            found[name] = [f"{_SEEN[0]}{c}" for c in cameras if own == PIXELS] or [f"{_SEEN[0]}{own.replace('/', '_')}"]
            if x.shape[-1] % len(found[name]):
                raise ValueError(
                    f"{path}: {x.shape[-1]} channels of {own!r} are no equal shares for cameras {', '.join(cameras)}."
                )
        elif name in ("", STATE) and x.ndim == 2:
            found[name] = [VECTOR]
        else:
            raise ValueError(
                f"{path}: the observation {name!r}, {x.dtype}{list(x.shape[1:])} a step, has no place in a file of "
                f"demonstrations, which has images in uint8 and one vector, {STATE!r}: give a name that ends in .npz."
            )
    names = [name for parts in found.values() for name in parts]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two images would be {max(names, key=names.count)!r}: name each camera once.")
    return found


def write_demos(
    path: str | os.PathLike, episodes: Iterable[Row | Mapping[str, Any]], meta: Mapping[str, Any] | None = None
) -> None:
    """Episodes whose ``obs`` is a dict of ``proprio``, ``rgb_CAMERA``, ... in the form above, at once or not at all.
    All of ``info`` is kept. What of ``meta`` is neither text nor a number is written as JSON.

    Raises:
        ValueError: no episodes, ones that `rlx.replay.from_episodes` refuses or that differ in their arrays, observations
            without such names, images that are no uint8[L + 1, h, w, c], or ``meta`` that JSON cannot say.
        OSError: the file cannot be written.
    """
    rows = [episode_row(e, i)._replace(extras={}) for i, e in enumerate(episodes)]
    for i, row in enumerate(rows):
        odd = [k for k in row.obs if not k.startswith(_SEEN)] if isinstance(row.obs, dict) else ["obs"]
        if odd:
            raise ValueError(
                f"write_demos: episode {i} has the observation {odd[0]!r}; it is to be a dict of {', '.join(_SEEN)}..."
            )
        _check_images(row.obs, f"write_demos: episode {i}")
    _alike(rows, path)
    try:
        attributes = {k: v if isinstance(v, str | int | float) else json.dumps(v) for k, v in (meta or {}).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"write_demos: meta must be what JSON can say ({error}).") from error
    with files.replacing(Path(path)) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes)
        for i, row in enumerate(rows):
            group = file.create_group(f"ep_{i:05d}")
            for name, values in row.obs.items():
                group.create_dataset(name, data=values, compression="gzip" if values.dtype == np.uint8 else None)
            group["action"], group["reward"] = row.action[:-1], row.reward[1:]
            group.attrs["terminated"] = bool(row.terminated[-1])
            for name, values in row.info.items():
                group[name if name in _DONE else f"{_INFO}/{name}"] = values[1:] if name in _DONE else values
            if _FORCE in row.info and "force" not in row.info:
                group["force"] = row.info[_FORCE][1:]


def _alike(rows: list[Row], path: str | os.PathLike) -> list[Row]:
    """``rows``. Raises ValueError where there are none or they differ in their leaves."""
    if not rows:
        raise ValueError(f"write_demos {path}: there are no episodes.")
    alike([Dataset(row, np.array([0, len(row.reward)]), f"write_demos: episode {i}") for i, row in enumerate(rows)])
    return rows


def _check_images(obs: Mapping[str, np.ndarray], where: str) -> None:
    """Raises ValueError where what is called an image is none."""
    for name, values in obs.items():
        if name.startswith(_SEEN[:2]) and (values.dtype != np.uint8 or values.ndim != 4):
            raise ValueError(f"{where}: {name} is {values.dtype}{list(values.shape)}; images are uint8[L + 1, h, w, channels].")


def _read(found: Found, reading: Reading) -> Dataset:
    reading.only("demonstrations", "bounds", "keys")
    with hdf5.opened(found.path) as file:
        names = sorted((k for k in found.asked(hdf5.names(file)) if k.startswith("ep_")), key=natural)[: reading.episodes]
        parts = []
        meta = {k: _unsaid(v) for k, v in hdf5.attributes(file).items()}
        parts_of = {} if reading.keys else _parts_of(meta.get(OBSERVATIONS, {}))
        for name in names:
            with columns.of(name):
                parts.append(Dataset(*_episode(hdf5.group(file, name), name, reading, parts_of), name))
    whole = join(parts)
    meta |= {own: meta[theirs] for own, theirs in _META.items() if theirs in meta}
    return Dataset(whole.rows, whole.offsets, str(found.path), "demonstrations", (), meta)


def _unsaid(value: Any) -> Any:
    """An attribute, lists and dicts of it out of JSON."""
    try:
        return json.loads(value) if isinstance(value, str) and value.startswith(("[", "{")) else value
    except ValueError:
        return value


def _parts_of(attribute: Any) -> dict[str, list[str]]:
    """Which arrays, side by side, each observation of the environment is. Raises ValueError where ``attribute`` is not this."""
    words = lambda parts: isinstance(parts, list) and parts and all(isinstance(k, str) for k in parts)
    if not isinstance(attribute, dict) or not all(map(words, attribute.values())):
        raise ValueError(f"it has the attribute {OBSERVATIONS}={str(attribute)[:80]}; it is to list arrays by observation.")
    return attribute


def _episode(group: h5py.Group, name: str, reading: Reading, parts_of: Mapping[str, list[str]]) -> tuple[Row, np.ndarray]:
    need(group, ("action", "reward"), name)
    number = lambda k: columns.numbers(hdf5.column(group, k), f"{name}/{k}")
    asked = reading.keys or [k for parts in parts_of.values() for k in parts]
    need(group, asked, name)
    obs = {k: number(k) for k in asked or group if k.startswith(_SEEN)}
    if not obs:
        raise ValueError(f"{name} has no observations; it has {', '.join(group)}.")
    _check_images(obs, name)
    action = columns.bounded(number("action"), reading.bounds, f"{name}/action")
    done = {k: one_per_entry(number(k), f"{name}/{k}") for k in ("reward", *_DONE) if k in group}
    steps = one_length({"action": action} | done)
    lengths = {k: len(v) if v.ndim else 0 for k, v in obs.items()}
    if set(lengths.values()) != {steps + 1}:
        raise ValueError(f"{name} has {steps} steps, whose observations are one more; they are {lengths}.")
    if parts_of:
        obs = tree_of(list(parts_of), [np.concatenate([obs[k] for k in parts], -1) for parts in parts_of.values()])
    reward = done.pop("reward")
    pad = lambda x: np.concatenate([x, np.zeros_like(x[:1])])
    shift = lambda x: np.concatenate([np.zeros_like(x[:1]), x])
    infos = _infos(group, name, steps)
    info = {k: shift(v) for k, v in done.items() if k != "force" or _FORCE not in infos} | infos
    terminal = hdf5.attributes(group).get("terminated", False)
    if terminal not in (0, 1):
        raise ValueError(f"{name} has the attribute terminated={terminal!r}; it is to be true or false.")
    ended = np.arange(len(reward) + 1) == (len(reward) if terminal else -1)
    return from_rows(obs, pad(action), shift(reward), ended, np.array([0, len(reward) + 1]), info)


def _infos(group: h5py.Group, name: str, steps: int) -> dict[str, np.ndarray]:
    """What else the environment told [L + 1, ...]."""
    if _INFO not in hdf5.names(group):
        return {}
    stored = hdf5.group(group, _INFO)
    found = {k: columns.numbers(hdf5.column(stored, k), f"{name}/{_INFO}/{k}") for k in hdf5.outline(stored)}
    lengths = {k: len(v) if v.ndim else 0 for k, v in found.items()}
    if set(lengths.values()) - {steps + 1}:
        raise ValueError(
            f"{name}/{_INFO} tells something with each of the {steps + 1} observations; its lengths are {lengths}."
        )
    return found


LAYOUT = Layout(
    "demonstrations",
    "ep_00000/{action, reward, proprio, rgb_CAMERA} (HDF5), as datasets.write_demos writes it",
    lambda f: any(k.startswith("ep_") and k.endswith("/action") for k in f.arrays),
    _read,
    ("hdf5",),
    by_groups(_read),
)
