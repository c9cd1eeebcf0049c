"""What a trajectory is to transport: one vector, and distances between vectors.

A trajectory is a pair of arrays, observations [T, n] and actions [T, m]. The longest of a set says T; shorter ones repeat their
last step. The paper's own choice of features is not known to us; ``delta`` is our default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Trajectories = Sequence[tuple[np.ndarray, np.ndarray]]  # (observations [T, n], actions [T, m]) each
Scale = Literal["max", "mean", "none"]

HAND = 4  # Meta-World's first entries: where the hand is, and how far the gripper is open

_flat = lambda x: x.reshape(len(x), -1)
# name -> (observations [E, T, n], actions [E, T, m]) -> [E, f]
FEATURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "delta": lambda s, a: _flat(s - s[:, :1]),
    "flat_s": lambda s, a: _flat(s),
    "flat_sa": lambda s, a: np.concatenate([_flat(s), _flat(a)], -1),
    "hand": lambda s, a: _flat(s[..., :HAND]),
    "moments": lambda s, a: np.concatenate([f(x, axis=1) for f in (np.mean, np.std) for x in (s, a)], -1),
}


def features(trajectories: Trajectories, name: str = "delta", entries: int | None = None) -> np.ndarray:
    """float64 [E, f]. ``entries``: of each observation only so many first ones (18 of Meta-World's 39, which are the present).

    Raises:
        ValueError: no trajectories, an unknown name, different widths, unequal lengths of one trajectory's two arrays, or a
            number that is not finite; the trajectory is named.
    """
    if name not in FEATURES:
        raise ValueError(f"unknown features {name!r}: give one of {', '.join(FEATURES)}.")
    if not len(trajectories):
        raise ValueError("features: there are no trajectories.")
    for i, (s, a) in enumerate(trajectories):
        s0, a0 = trajectories[0]
        flat = s.ndim == a.ndim == 2 and len(s) == len(a) > 0
        if not flat or (s.shape[1], a.shape[1]) != (s0.shape[1], a0.shape[1]):
            raise ValueError(
                f"trajectory {i} has observations {list(s.shape)} and actions {list(a.shape)}; they are to be [T, n] "
                f"and [T, m] with one T, and as wide as those of trajectory 0, {list(s0.shape)} and {list(a0.shape)}."
            )
        if not (np.isfinite(s).all() and np.isfinite(a).all()):
            raise ValueError(f"trajectory {i} holds numbers that are not finite; leave it out.")
    longest = max(len(s) for s, _ in trajectories)
    pad = lambda x: np.concatenate([x, np.repeat(x[-1:], longest - len(x), 0)]).astype(np.float64)
    return FEATURES[name](np.stack([pad(s)[:, :entries] for s, _ in trajectories]), np.stack([pad(a) for _, a in trajectories]))


def distances(found: np.ndarray, scale: Scale = "max") -> np.ndarray:
    """Euclidean distances float64 [E, E] between vectors [E, f], divided by the largest (or mean) one. Both sets must be scaled
    by one rule, or the coupling is diffuse."""
    square = (found**2).sum(1)
    apart = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * found @ found.T, 0.0))
    if len(found) <= 512:  # exact where it can be had: the above loses half of the digits of small distances
        apart = np.stack([np.linalg.norm(found - x, axis=1) for x in found])
    np.fill_diagonal(apart, 0.0)
    unit = {"max": apart.max(), "mean": apart.mean(), "none": 1.0}[scale]
    return apart / unit if unit > 0 else apart


def between(source: np.ndarray, target: np.ndarray, by: Literal["euclidean", "cosine"] = "euclidean") -> np.ndarray:
    """Distances (or 1 - cosine similarities) float64 [M, N] between vectors of two sets.

    Raises:
        ValueError: the two sets have vectors of different sizes.
    """
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"trajectories of the source are {source.shape[1]} numbers, of the target {target.shape[1]}: they cannot be "
            "compared one to one. Gromov-Wasserstein compares distances within each set and needs no common space."
        )
    if by == "euclidean":
        return np.stack([np.linalg.norm(target - x, axis=1) for x in source])
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return 1 - unit(source) @ unit(target).T
