"""robomimic (Mandlekar et al. 2021, arXiv:2108.03298): ``low_dim.hdf5`` and ``image.hdf5``.

Groups ``data/demo_K`` hold ``actions`` [T, m], ``rewards``, ``dones`` [T], ``obs/KEY`` [T, ...], often ``next_obs/KEY`` and
``states``, the state of the physics; the attribute ``env_args`` of ``data`` is JSON, ``mask/train`` lists demonstrations.
Vectors become one, in the order below or that of ``keys``; images stay arrays of their own beside it.
"""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, from_rows, join
from rlx.replay.datasets import hdf5
from rlx.replay.datasets.found import (
    CUTS,
    Found,
    Layout,
    Reading,
    by_groups,
    natural,
    need,
    one_length,
    one_per_entry,
    side_by_side,
)
from rlx.types import Row

ROBOT = ("joint_pos", "joint_pos_cos", "joint_pos_sin", "joint_vel", "eef_pos", "eef_quat", "gripper_qpos", "gripper_qvel")
ORDER = ("object", *(f"robot0_{name}" for name in ROBOT))  # of the entries of a vector, where there are such


def _read(found: Found, reading: Reading) -> Dataset:
    reading.only("robomimic", "bounds", "dones", "ignore", "keys", "split", known=("next_obs",))
    with hdf5.opened(found.path) as file:
        data = hdf5.group(file, "data")
        demos = {name: hdf5.group(data, name) for name in _names(file, data, found, reading)}
        dones = {name: _dones(demo, name) for name, demo in demos.items()}
        if any(done.any() for done in dones.values()) and reading.dones not in ("terminated", "truncated"):
            raise ValueError(
                "dones mark the ends of its demonstrations, which may be that the task is solved and its value ends, or that "
                "the recording does: say dones=terminated or dones=truncated."
            )
        parts, notes, left = list[Dataset](), list[str](), list[str]()
        for name, demo in demos.items():
            if len(parts) == reading.episodes:
                break
            done = dones[name] & (reading.dones == "terminated")
            if done[:-1].any():
                notes.append(f"{name} goes on after it is done at step {int(np.argmax(done))}: that is left out")
            if len(done) < (1 if _has_next(demo, reading) or done.any() else 2):
                notes.append(f"{name} has no whole transition and is left out")
            else:
                with columns.of(name):
                    parts.append(Dataset(*_demonstration(demo, name, done, reading), name))
                left = left or _left_out(demo, reading)
        meta = _meta(hdf5.attributes(data))
        if not any(
            _has_next(demo, reading) or (dones[name].any() and reading.dones == "terminated") for name, demo in demos.items()
        ):
            meta |= CUTS
            notes.append("the last action of each demonstration is left out: there are no next_obs to say what followed")
    if not parts:
        raise columns.Empty(f"none of its demonstrations has a whole transition: {', '.join(demos)}.")
    if left:
        notes.append(f"observations that are left out, as keys= does not name them: {', '.join(left)}")
    whole = join(parts)
    return Dataset(whole.rows, whole.offsets, str(found.path), "robomimic", tuple(notes), meta)


def _names(file: h5py.File, data: h5py.Group, found: Found, reading: Reading) -> list[str]:
    """Of the demonstrations, in the order of their numbers, of one mask where that was asked for."""
    names = found.asked(sorted(data, key=natural))
    if reading.split is not None:
        masks = hdf5.names(hdf5.group(file, "mask")) if "mask" in file else []
        if reading.split not in masks:
            raise ValueError(f"split={reading.split}: it has no such mask; it has {', '.join(masks) or 'none'}.")
        chosen = set(hdf5.texts(file, f"mask/{reading.split}"))
        names = [name for name in names if name in chosen]
        if not names:
            raise columns.Empty(f"split={reading.split}: that mask lists no demonstration that is in the file.")
    if not names:
        raise columns.Empty("it has no demonstrations.")
    return names


def _has_next(demo: h5py.Group, reading: Reading) -> bool:
    return "next_obs" in demo and "next_obs" not in reading.ignore


def _dones(demo: h5py.Group, name: str) -> np.ndarray:
    """bool [T], False where there are none."""
    need(demo, ("actions", "rewards", "obs"), name)
    if "dones" not in demo:
        return np.zeros(len(one_per_entry(hdf5.column(demo, "rewards"), f"{name}/rewards")), bool)
    return columns.flags(one_per_entry(hdf5.column(demo, "dones"), f"{name}/dones"), f"{name}/dones")


def _demonstration(demo: h5py.Group, name: str, done: np.ndarray, reading: Reading) -> tuple[Row, np.ndarray]:
    """Rows up to the first of ``done``, where the task ended; what the last action led to is in ``next_obs``, or unknown."""
    number = lambda k: columns.numbers(hdf5.column(demo, k), f"{name}/{k}")
    actions = columns.bounded(number("actions"), reading.bounds, f"{name}/actions")
    reward = one_per_entry(number("rewards"), f"{name}/rewards")
    obs, info = _observations(demo, "obs", name, reading), {"states": number("states")} if "states" in demo else {}
    one_length({"actions": actions, "rewards": reward, "dones": done} | {f"obs/{k}": v for k, v in obs.items()} | info)
    ended = bool(done.any())
    taken = int(np.argmax(done)) + 1 if ended else len(reward)
    at = np.arange(taken)
    after = _has_next(demo, reading)
    if after or ended:  # a row of its own for what came last; where nothing follows, any observation does
        at = np.append(at, taken - 1)
    obs, info = ({k: v[at] for k, v in tree.items()} for tree in (obs, info))
    if after:
        following = _observations(demo, "next_obs", name, reading, taken - 1, len(reward))
        shapes = [{k: v.shape[1:] for k, v in tree.items()} for tree in (obs, following)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name}: an entry of obs is {shapes[0]}, of next_obs {shapes[1]}; they are to be alike.")
        for k, values in following.items():
            obs[k][-1] = values[0]
    rewards = np.concatenate([[0], reward])[: len(at)]
    terminated = np.arange(len(at)) == (len(at) - 1 if ended else -1)
    tree: Any = obs["state"] if set(obs) == {"state"} else obs
    return from_rows(tree, actions[at], rewards, terminated, np.array([0, len(at)]), info)


def _observations(
    demo: h5py.Group, where: str, name: str, reading: Reading, row: int | None = None, steps: int = 0
) -> dict[str, np.ndarray]:
    """Images by name, and all vectors as one, ``state``; or one ``row`` of ``steps`` of them."""
    there = hdf5.group(demo, where)
    held = hdf5.outline(there)
    need(held, reading.keys, f"{name}/{where}")
    images = [k for k in reading.keys or held if _is_image(held[k])]
    vectors = [k for k in reading.keys or ORDER if k in held and k not in images]
    if not vectors and not images:
        raise ValueError(
            f"{name}/{where} has none of {', '.join(ORDER)}: say which to take by keys=A,B; it has {', '.join(held)}."
        )
    lengths = {k: (*held[k].shape[:1], 0)[0] for k in (*vectors, *images)}
    if row is not None and set(lengths.values()) != {steps}:
        raise ValueError(f"{name}/{where} is to have {steps} entries, as there are actions; it has {lengths}.")
    rows = None if row is None else slice(row, row + 1)
    number = lambda k: columns.numbers(hdf5.column(there, k, rows), f"{name}/{where}/{k}")
    state = {"state": side_by_side({f"{name}/{where}/{k}": number(k) for k in vectors})} if vectors else {}
    return state | {k: number(k) for k in images}


def _is_image(header: columns.Header) -> bool:
    return header.dtype == np.uint8 and len(header.shape) == 4


def _left_out(demo: h5py.Group, reading: Reading) -> list[str]:
    """Vectors that are no part of the usual one."""
    held = {} if reading.keys else hdf5.outline(hdf5.group(demo, "obs"))
    return [k for k, header in held.items() if k not in ORDER and not _is_image(header)]


def _meta(attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        args = json.loads(attributes.get("env_args", ""))
    except (TypeError, ValueError):
        return {}
    name = args.get("env_name") if isinstance(args, dict) else None
    return {"env_args": args, "env": f"robosuite:{name}"} if isinstance(name, str) else {}


def _fits(found: Found) -> bool:
    return any(k.startswith("data/") and k.endswith("/actions") for k in found.arrays)


LAYOUT = Layout(
    "robomimic",
    "data/demo_K/{actions, rewards, dones, obs/KEY} (HDF5)",
    _fits,
    _read,
    ("hdf5",),
    by_groups(_read, 2),
)
