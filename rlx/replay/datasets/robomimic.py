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
from rlx.replay.datasets.found import Found, Layout, Reading, need, one_per_entry
from rlx.types import Row

ROBOT = ("joint_pos", "joint_pos_cos", "joint_pos_sin", "joint_vel", "eef_pos", "eef_quat", "gripper_qpos", "gripper_qvel")
ORDER = ("object", *(f"robot0_{name}" for name in ROBOT))  # of the entries of a vector, where there are such


def _read(found: Found, reading: Reading) -> Dataset:
    with hdf5.opened(found.path) as file:
        data = file["data"]
        names = _demonstrations(file, data, reading)
        marked = any(
            columns.flags(hdf5.column(data, f"{n}/dones").reshape(-1), f"{n}/dones").any() for n in names if "dones" in data[n]
        )
        if marked and reading.dones not in ("terminated", "truncated"):
            raise ValueError(
                "dones mark the ends of its demonstrations, which may be that the task is solved and its value ends, or that "
                "the recording does: say dones=terminated or dones=truncated."
            )
        parts = [_demonstration(data[name], name, reading) for name in names]
        meta = _meta(hdf5.attributes(data))
    whole = join([Dataset(*rows, name) for rows, name in zip(parts, names, strict=True)])
    return Dataset(whole.rows, whole.offsets, str(found.path), "robomimic", (), meta)


def _demonstrations(file: h5py.File, data: h5py.Group, reading: Reading) -> list[str]:
    """Names in the order of their numbers, of one mask where that was asked for."""
    names = sorted(data, key=lambda name: int("".join(c for c in name if c.isdecimal()) or 0))
    if reading.split is not None:
        masks = list(file["mask"]) if "mask" in file else []
        if reading.split not in masks:
            raise ValueError(f"split={reading.split}: it has no such mask; it has {', '.join(masks) or 'none'}.")
        chosen = {x.decode() if isinstance(x, bytes) else str(x) for x in file[f"mask/{reading.split}"][()]}
        names = [name for name in names if name in chosen]
    if not names:
        raise ValueError("it has no demonstrations.")
    return names[: reading.episodes]


def _demonstration(demo: h5py.Group, name: str, reading: Reading) -> tuple[Row, np.ndarray]:
    need(demo, ("actions", "rewards", "obs"), name)
    obs = _observations(demo["obs"], name, reading)
    number = lambda k: columns.numbers(hdf5.column(demo, k), f"{name}/{k}")
    actions = columns.actions(columns.scaled(number("actions"), reading.bounds, f"{name}/actions"), f"{name}/actions")
    reward = one_per_entry(number("rewards"), f"{name}/rewards")
    done = columns.flags(number("dones").reshape(-1), f"{name}/dones") if "dones" in demo else np.zeros(len(reward), bool)
    taken = len(reward)
    info = {"states": number("states")} if "states" in demo else {}
    ended = bool(done[-1]) and reading.dones == "terminated"
    if "next_obs" in demo:
        after = _observations(demo["next_obs"], name, reading)
        obs = {k: np.concatenate([obs[k], after[k][-1:]]) for k in obs}
        info = {k: np.concatenate([v, v[-1:]]) for k, v in info.items()}
    else:  # what the last action led to is unknown, unless nothing comes after it
        repeat = np.r_[np.arange(taken), taken - 1] if ended else np.arange(taken)
        obs, info = {k: v[repeat] for k, v in obs.items()}, {k: v[repeat] for k, v in info.items()}
    count = len(next(iter(obs.values())))
    shifted = np.concatenate([[0], reward])[:count]
    terminated = np.arange(count) == (count - 1 if ended else -1)
    action = np.concatenate([actions, np.zeros_like(actions[:1])])[:count]
    tree: Any = obs["state"] if set(obs) == {"state"} else obs
    return from_rows(tree, action, shifted, terminated, np.array([0, count]), info)


def _observations(group: h5py.Group, name: str, reading: Reading) -> dict[str, np.ndarray]:
    """Images by name, and all vectors as one, ``state``."""
    arrays = {k: columns.numbers(hdf5.column(group, k), f"{name}/obs/{k}") for k in reading.keys or list(group) if k in group}
    if reading.keys:
        need(arrays, reading.keys, f"{name}/obs")
    images = {k: v for k, v in arrays.items() if v.dtype == np.uint8 and v.ndim == 4}
    vectors = {k: v.reshape(len(v), -1).astype(np.float32) for k, v in arrays.items() if k not in images}
    if not reading.keys:
        vectors = {k: vectors[k] for k in ORDER if k in vectors}
        if not vectors and not images:
            raise ValueError(
                f"{name}/obs has none of {', '.join(ORDER)}: say which to take by keys=A,B; it has {', '.join(arrays)}."
            )
    return ({"state": np.concatenate(list(vectors.values()), -1)} if vectors else {}) | images


def _meta(attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        args = json.loads(attributes.get("env_args", ""))
    except (TypeError, ValueError):
        return {}
    return {"env_args": args, "env": f"robosuite:{args['env_name']}"} if isinstance(args, dict) and "env_name" in args else {}


def _fits(found: Found) -> bool:
    return found.kind == "hdf5" and any(k.startswith("data/") and k.endswith("/actions") for k in found.arrays)


LAYOUT = Layout("robomimic", "data/demo_K/{actions, rewards, dones, obs/KEY} (HDF5)", _fits, _read)
