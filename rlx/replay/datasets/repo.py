"""RePo (Zhu et al. 2023, arXiv:2309.00082): the replay that its authors' code saves, ``buffer.npz``.

``observations`` uint8 [N, 3, H, W], ``actions`` [N, m], ``rewards`` and ``dones`` [N, 1], and the numbers ``capacity``, ``pos``
and ``full`` of a ring: row ``pos`` is the oldest where it is full, else no row yet. A row holds what followed its action, but
not the picture after it, which is the next row's unless the episode is done. Pairs for calibration have six channels, the
picture without the distractor before the one with it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlx import files
from rlx.replay import columns
from rlx.replay.dataset import Dataset
from rlx.replay.datasets import d4rl
from rlx.replay.datasets.found import Found, Layout, Reading, need, one_length
from rlx.types import PyTree

_COLUMNS, _RING = ("observations", "actions", "rewards", "dones"), ("pos", "full")
_NAMES = (*_COLUMNS, "capacity", *_RING)


def _read(found: Found, reading: Reading) -> Dataset:
    reading.only("RePo", "bounds", "dones", "horizon")
    given = {k: columns.numbers(v, k) for k, v in found.load(_NAMES).items()}
    pictures = given["observations"]
    if pictures.ndim != 4 or pictures.shape[1] not in (3, 6) or pictures.dtype != np.uint8:
        raise ValueError(
            f"observations is {pictures.dtype}{list(pictures.shape)}; it is to be uint8[N, 3, height, width], with 6 channels "
            "where pictures are in pairs."
        )
    count = one_length({k: given[k] for k in _COLUMNS})
    order = _in_time(count, *(_number(given[k], k) for k in _RING))
    given = {k: given[k][order] for k in _COLUMNS} | {"observations": pictures[order].transpose(0, 2, 3, 1)}
    marked = reading if reading.dones != "terminated" else replace(reading, horizon=0)  # the ends of all episodes are
    data = d4rl.dataset(given, str(found.path), marked)
    return replace(data, format="RePo", rows=data.rows._replace(obs=_apart(np.ascontiguousarray(data.rows.obs))))


def _number(given: np.ndarray, name: str) -> int:
    if given.size != 1 or given.reshape(-1)[0] != int(given.reshape(-1)[0]):
        raise ValueError(f"{name} is {given.dtype}{list(given.shape)}; it is to be one whole number.")
    return int(given.reshape(-1)[0])


def _in_time(count: int, pos: int, full: int) -> np.ndarray:
    """The rows that were written, the oldest first, int [n]."""
    if not 0 <= pos <= count or not (pos or full):
        raise ValueError(f"pos={pos} and full={full} say nothing of which of the {count} rows were written.")
    return np.roll(np.arange(count), -pos) if full else np.arange(pos)


def _apart(pictures: np.ndarray) -> PyTree:
    """Observations as rlx has them: pictures, or pairs of them."""
    return pictures if pictures.shape[-1] == 3 else {"pixels": pictures[..., 3:].copy(), "clean": pictures[..., :3].copy()}


def write_repo(path: str | os.PathLike, data: Dataset) -> None:
    """``data`` as such a file, for the authors' code: pictures uint8 [N, H, W, 3], alone or as ``pixels`` of a dict, in pairs
    where the dict has ``clean`` too. Its rows have no place for the picture after an episode's last action, nor for whether a
    task or a time limit ended it.

    Raises:
        ValueError: observations without such pictures, or actions that are no vector.
        OSError: the file cannot be written.
    """
    obs: Any = data.rows.obs
    leaves = obs if isinstance(obs, dict) else {"pixels": obs}
    need(leaves, ["pixels"], f"write_repo: {data.name}")
    pictures = [np.asarray(leaves[k][:]) for k in ("clean", "pixels") if k in leaves]
    odd = next((x for x in pictures if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] != 3), None)
    if odd is not None:
        raise ValueError(f"write_repo: {data.name} has pictures {odd.dtype}{list(odd.shape)}; they must be uint8[N, H, W, 3].")
    action = np.asarray(data.rows.action[:], np.float32) if not isinstance(data.rows.action, dict) else np.zeros(0)
    if action.ndim != 2:
        raise ValueError(f"write_repo: {data.name} has no vectors of actions [N, m], which this layout asks for.")
    last = np.zeros(len(action), bool)
    last[data.offsets[1:] - 1] = True
    arrived = np.flatnonzero(~last) + 1
    rows: dict[str, Any] = {
        "observations": np.concatenate(pictures, -1)[~last].transpose(0, 3, 1, 2),
        "actions": action[~last],
        "rewards": np.asarray(data.rows.reward, np.float32)[arrived, None],
        "dones": last[arrived, None].astype(np.float32),
    }
    ring: dict[str, Any] = {"capacity": np.array(len(arrived)), "pos": np.array(0), "full": np.array(True)}
    with files.replacing(Path(path)) as part, part.open("wb") as out:
        np.savez(out, **rows, **ring)


LAYOUT = Layout(
    "RePo", "observations [N, 3, H, W], actions, rewards, dones, pos, full (.npz)", lambda f: f.has(*_NAMES), _read, ("npz",)
)
