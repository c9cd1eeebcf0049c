"""ExoRL (Yarats et al. 2022, arXiv:2201.13425): an ``.npz`` per episode, ``episode_000000_1000.npz``.

``observation`` [T + 1, n], ``action`` [T + 1, m], ``reward`` and ``discount`` [T + 1, 1], ``physics`` [T + 1, nq + nv (+ na)],
and where images were rendered ``pixels`` [T + 1, 3, H, W]. A row holds what led *into* its observation, so the action of the
first row is a dummy, and a transition from row t takes the action of row t + 1. Where ``discount`` is 0 the task ended.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.replay import columns
from rlx.replay.dataset import Dataset, from_rows
from rlx.replay.datasets.found import Found, Layout, Reading, need, one_length, one_per_entry
from rlx.types import PHYSICS

_NAMES = ("observation", "action", "reward", "discount")
_MORE = ("physics", "pixels")


def _read(found: Found, reading: Reading) -> Dataset:
    reading.only("ExoRL", "bounds", "ignore", "keys", known=(*_NAMES, *_MORE, *found.arrays))
    given = found.load([k for k in (*_NAMES, *_MORE) if k not in reading.ignore])
    if "reward" in reading.ignore and "discount" in given:
        given["reward"] = np.zeros(given["discount"].shape, np.float32)
    need(given, _NAMES)
    given = {k: columns.numbers(v, k) for k, v in given.items()}
    for k in given.keys() - {"action", "reward"}:  # their first rows led nowhere
        columns.finite(given[k], k)
    count = one_length(given)
    discount = columns.finite(one_per_entry(given["discount"], "discount"), "discount")
    reward = given["reward"]
    if reward.size != len(reward):
        raise ValueError(
            f"reward is {list(reward.shape)}, those of several tasks at once: with ignore=reward they are 0, and "
            "rlx.envs.rewards computes a task's from the physics."
        )
    action = columns.bounded(given["action"][1:], reading.bounds, "action")
    taken = np.concatenate([action, np.zeros_like(given["action"][:1], action.dtype)])
    obs: Any = {"observation": given["observation"]}
    if "pixels" in given:
        obs["pixels"] = _channels_last(given["pixels"])
    need(obs, reading.keys)
    obs = {k: obs[k] for k in reading.keys or obs}
    obs = next(iter(obs.values())) if len(obs) == 1 else obs
    info = {PHYSICS: given["physics"]} if "physics" in given else {}
    rows = from_rows(obs, taken, one_per_entry(reward, "reward"), discount == 0, np.array([0, count]), info)
    return Dataset(*rows, str(found.path), "ExoRL")


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """Images [T, 3, H, W] as rlx keeps them, [T, H, W, 3]."""
    if pixels.ndim != 4 or pixels.shape[1] > 12 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels is {pixels.dtype}{list(pixels.shape)}; it is to be uint8[T, channels, height, width].")
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


LAYOUT = Layout(
    "ExoRL",
    "observation, action, reward, discount [T + 1, ...], an .npz per episode",
    lambda f: f.has(*_NAMES),
    _read,
    ("npz",),
)
