"""Demonstrations of MoDem (Hansen et al. 2022, arXiv:2212.05698) and MoDem-V2 (Lancaster et al. 2023, arXiv:2309.14236).

Those of V2 are traces of RoboHive, in HDF5 or a pickle: a group per trial with ``actions`` [T, A] and ``env_infos``:
``obs_dict/{qp, qv, grasp_pos, ...}`` [T, n], ``visual_dict/{rgb:CAMERA:HxW:2d, d:CAMERA:HxW:2d}`` [T, h, w, 3] and
[T, 1, h, w], ``solved`` (of real robots ``success``) and ``rwd_dense`` [T]. Entry t is an observation and the action taken
there, with what the action brought; its outcome is entry t + 1. Actions stay in the units of the environment: ``bounds``.
``proprio`` is what the robot knows of itself; ``keys`` name other entries of ``obs_dict``, such as ``object_err``, which would
tell a policy that is to look at pictures where things are. Traces go on after the episodes that agents learn from: ``horizon``
cuts them. ``ignore=rwd_dense`` rewards success alone.

Those of the first are a ``torch.save`` per episode: ``frames``, the names of L + 1 images in the folder ``frames`` beside it,
``states`` [L + 1, S], ``actions`` [L, A], ``infos``, which say ``success`` or ``goal_achieved``, and perhaps ``rewards``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rlx.replay import columns
from rlx.replay.dataset import Dataset, from_rows, join
from rlx.replay.datasets import hdf5
from rlx.replay.datasets.found import Found, Layout, Reading, by_groups, natural, need, one_length, one_per_entry, side_by_side
from rlx.types import Row

VECTORS = ("qp", "qv", "grasp_pos", "grasp_rot")  # of MoDem-V2's 23 or 41 numbers
DENSE = "rwd_dense"
POSE = {"roll": 3, "pitch": 4, "yaw": 5}  # columns of a hand's action, behind its place
FINGERS = "fingers"  # those behind them
NOTE = "rewards are rwd_dense, or where there is none whether the task is solved; the last action of a trace leads nowhere"
PIXELS = 2**24  # of an image at most
_SOLVED = ("env_infos/solved", "env_infos/success", "success")


def _read(found: Found, reading: Reading) -> Dataset:
    trials: dict[str, list[str]] = {}
    for name in found.arrays:
        trial, _, inner = name.partition("/")
        trials.setdefault(trial, []).append(inner)
    with hdf5.opened(found.path) as file:
        get = lambda trial: lambda k: hdf5.column(file, f"{trial}/{k}")
        some = {t: trials[t] for t in found.asked(trials)}
        traces = {t: (names, get(t)) for t, names in some.items() if any(k.startswith("env_infos/") for k in names)}
        return _traces(traces, found, reading)


def of_pickle(trials: Mapping[str, Any], found: Found, reading: Reading) -> Dataset:
    """The traces of a pickle, dicts of arrays by trial, nested or with paths as keys."""
    flat = {str(trial): _flat(tree) for trial, tree in trials.items()}
    return _traces({trial: (arrays, arrays.__getitem__) for trial, arrays in flat.items()}, found, reading)


def is_traces(tree: Any) -> bool:
    """Whether a pickle holds such traces."""
    trials = list(tree.values()) if isinstance(tree, Mapping) else []
    return bool(trials) and all(isinstance(x, Mapping) and "actions" in x for x in trials)


def _flat(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Arrays by path."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = {f"{key}/{k}": v for k, v in _flat(value).items()} if isinstance(value, Mapping) else {str(key): value}
        found |= inner
    return found


def _traces(trials: Mapping[str, tuple[Collection[str], Callable]], found: Found, reading: Reading) -> Dataset:
    reading.only("RoboHive", "bounds", "keys", "horizon", "ignore", known=(DENSE, *POSE, FINGERS))
    parts, notes = list[Dataset](), [NOTE]
    for trial in sorted(trials, key=natural):
        if len(parts) == reading.episodes:
            break
        names, get = trials[trial]
        need(names, ("actions",), trial)
        action = columns.numbers(get("actions"), f"{trial}/actions")
        if not action.ndim or len(action) < 2:
            notes.append(f"{trial} has no whole transition and is left out")
        else:
            with columns.of(trial):
                parts.append(Dataset(*_trace(names, get, action, trial, reading), trial))
    if not parts:
        raise columns.Empty(f"none of its trials has a whole transition: {', '.join(trials)}.")
    whole = join(parts)
    return Dataset(whole.rows, whole.offsets, str(found.path), "RoboHive", tuple(notes))


def _trace(
    names: Collection[str], get: Callable[[str], Any], action: np.ndarray, trial: str, reading: Reading
) -> tuple[Row, np.ndarray]:
    """Rows of a trial. Arrays may differ by one entry, as the last observation has no action, or one that is not a number."""
    number = lambda k: columns.numbers(get(k), f"{trial}/{k}")
    vectors = [f"env_infos/obs_dict/{k}" for k in reading.keys or VECTORS]
    if reading.keys:
        need(names, vectors, trial)
    vectors = [k for k in vectors if k in names]
    obs = {"proprio": side_by_side({f"{trial}/{k}": number(k) for k in vectors})} if vectors else {}
    for name in names:
        kind, _, rest = name.removeprefix("env_infos/visual_dict/").partition(":")
        if name.startswith("env_infos/visual_dict/") and kind in ("rgb", "d"):
            image, camera = number(name), rest.partition(":")[0]
            if image.dtype != np.uint8 or image.ndim != 4:
                raise ValueError(f"{trial}/{name} is {image.dtype}{list(image.shape)}; images are to be uint8 of 4 axes.")
            image = np.ascontiguousarray(image.transpose(0, 2, 3, 1)) if kind == "d" else image
            obs[f"{'rgb' if kind == 'rgb' else 'depth'}_{camera}"] = image
    solved = next((k for k in _SOLVED if k in names), None)
    if not obs or solved is None:
        lacking = "env_infos/solved" if obs else "observations in its env_infos"
        raise ValueError(f"{trial} has no {lacking}; it has {', '.join(names)}.")
    success = one_per_entry(number(solved), f"{trial}/{solved}").astype(np.float32)
    dense = f"env_infos/{DENSE}"
    has_dense = dense in names and DENSE not in reading.ignore
    reward = one_per_entry(number(dense), f"{trial}/{dense}").astype(np.float32) if has_dense else success
    lengths = {k: len(v) for k, v in {"actions": action, "rewards": reward, solved: success, **obs}.items()}
    count = min(lengths.values())
    if max(lengths.values()) > count + 1 or count < 2:
        raise ValueError(f"the arrays of {trial} are to be of one length, 2 or more; they are {lengths}.")
    count = min(count, 1 + (reading.horizon or count))
    taken = _commanded(action[: count - 1], reading, f"{trial}/actions")
    arrived = lambda x: np.concatenate([np.zeros_like(x[:1]), x[: count - 1]])
    return from_rows(
        {k: v[:count] for k, v in obs.items()},
        np.concatenate([taken, np.zeros_like(taken[:1])]),
        arrived(reward),
        np.zeros(count, bool),
        np.array([0, count]),
        {"success": arrived(success)},
    )


def _commanded(action: np.ndarray, reading: Reading, name: str) -> np.ndarray:
    """Of ``action`` [N, A] what an agent commands, float32 [N, a] in [-1, 1]."""
    left_out = {*POSE, FINGERS}.intersection(reading.ignore)
    if not left_out:
        return columns.bounded(action, reading.bounds, name)
    if action.ndim != 2 or action.shape[1] <= max(POSE.values()) or action.dtype.kind != "f":
        raise ValueError(
            f"{name} is {action.dtype}{list(action.shape)}; ignore={','.join(sorted(left_out))} is for hands' actions of seven "
            "floats or more, x, y, z, roll, pitch, yaw and fingers: leave it out."
        )
    if "yaw" in left_out and reading.bounds is not None:
        raise ValueError(f"{name}: bounds={reading.bounds} are those of the yaw, which is ignored: leave one of both out.")
    action = columns.finite(np.clip(action, -1, 1), name)
    parts = [action[:, : min(POSE.values())]]
    for part, at in POSE.items():
        if part in left_out:
            continue
        parts += _turned(action[:, at], reading.bounds, name) if part == "yaw" else [action[:, at, None]]
    parts += [] if FINGERS in left_out else [action[:, max(POSE.values()) + 1 :]]
    return np.concatenate(parts, 1).astype(np.float32)


def _turned(yaw: np.ndarray, bounds: Any, name: str) -> list[np.ndarray]:
    """Cosine and sine [N, 1] of a ``yaw`` [N], of which -1 and 1 stand for ``bounds`` in radians."""
    ends = columns.limits(bounds)
    if ends is None or isinstance(ends, str) or any(x.ndim or not np.isfinite(x) for x in ends) or not ends[0] < ends[1]:
        raise ValueError(
            f"{name} has a yaw, and bounds={bounds} do not say which angles -1 and 1 stand for: give bounds=LOW,HIGH in "
            "radians, such as bounds=-3.14159,3.14159, or ignore the yaw too."
        )
    angle = ends[0] + (yaw.astype(np.float64) + 1) / 2 * (ends[1] - ends[0])
    return [np.cos(angle)[:, None], np.sin(angle)[:, None]]


# ------------------------------------------------------------------------------------------------- the first MoDem's


def is_episode(tree: Any) -> bool:
    """Whether a pickle holds such an episode."""
    return isinstance(tree, Mapping) and {"frames", "actions"} <= set(tree)


def of_episode(tree: Mapping[str, Any], found: Found, reading: Reading) -> Dataset:
    """An episode with its images, ``rgb`` uint8 [L + 1, h, w, 3], and ``state``."""
    reading.only("MoDem", "bounds", "keys")
    obs = {"rgb": _images(tree["frames"], found.path.parent / "frames")}
    if isinstance(tree.get("states"), np.ndarray):
        obs["state"] = columns.numbers(tree["states"], "states").astype(np.float32)
    need(obs, reading.keys)
    obs = {k: obs[k] for k in reading.keys or obs}
    action = columns.bounded(columns.numbers(tree["actions"], "actions"), reading.bounds, "actions")
    infos = tree.get("infos")
    succeeded = _success(infos if isinstance(infos, list | tuple) else [])
    taken = one_length({"actions": action} | {k: v[1:] for k, v in obs.items()})
    if succeeded is None and "rewards" not in tree:
        raise ValueError("it has neither rewards nor infos that say success or goal_achieved.")
    reward = columns.numbers(tree["rewards"], "rewards") if "rewards" in tree else succeeded
    info = {} if succeeded is None else {"success": succeeded}
    arrived = {k: one_per_entry(np.asarray(v), k).astype(np.float32) for k, v in ({"rewards": reward} | info).items()}
    one_length({"actions": action} | arrived)
    arrived = {k: np.concatenate([np.zeros(1, np.float32), v]) for k, v in arrived.items()}
    reward = arrived.pop("rewards")
    pad = np.concatenate([action, np.zeros_like(action[:1])])
    rows = from_rows(obs, pad, reward, np.zeros(taken + 1, bool), np.array([0, taken + 1]), arrived)
    return Dataset(*rows, str(found.path), "MoDem", () if "rewards" in tree else ("rewards are whether the task is solved",))


def _success(infos: list | tuple) -> np.ndarray | None:
    """float32 [L], None where they do not say it."""
    key = next((k for k in ("success", "goal_achieved") if infos and isinstance(infos[0], Mapping) and k in infos[0]), None)
    if key is None or not all(isinstance(x, Mapping) and key in x for x in infos):
        return None
    return np.array([float(np.asarray(x[key]).item()) for x in infos], np.float32)


def _images(names: Any, folder: Path) -> np.ndarray:
    """Images of one size by their names in ``folder``, uint8 [N, h, w, 3]. Raises ValueError for another name or no image."""
    images = []
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"frames is to list names of images in {folder}.")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"frames lists {str(name)[:80]!r}; it is to list names of images in {folder}.")
        try:
            with Image.open(folder / name, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > PIXELS:
                    raise ValueError(f"{folder / name} is {image.width} x {image.height}, larger than frames are.")
                images.append(np.asarray(image.convert("RGB")))
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise ValueError(f"{folder / name} cannot be read ({type(error).__name__}): get the folder frames anew.") from error
    if len({x.shape for x in images}) != 1:
        raise ValueError(f"the images in {folder} are to be of one size; they are {sorted({x.shape[:2] for x in images})}.")
    return np.stack(images)


LAYOUT = Layout(
    "RoboHive",
    "TRIAL/{actions, env_infos/solved, env_infos/obs_dict/...} (HDF5; as a pickle with --trust-arrays)",
    lambda f: any("/env_infos/" in k for k in f.arrays),
    _read,
    ("hdf5",),
    by_groups(_read),
)
