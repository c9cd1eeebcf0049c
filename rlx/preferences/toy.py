"""Trajectories of graded quality without a simulator, to see transport work and fail."""

from __future__ import annotations

import numpy as np

from rlx.preferences.features import Trajectories


def toy_quality(
    rng: np.random.Generator,
    n: int,
    steps: int = 20,
    rot: float = 0.0,
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
    asym: bool = True,
) -> tuple[Trajectories, np.ndarray]:
    """``n`` paths [steps, 2] in the plane and their qualities q [n], uniform in [0, 1]. A path goes q far along an axis, with a
    random walk on top, of 0.4 (1 - q) where ``asym`` and of 0.1 else; then it is rotated, scaled and shifted. The larger q is
    preferred. Without ``asym`` the set looks the same from both ends, and nothing tells the good one. Actions are 0."""
    q = rng.uniform(size=n)
    out = []
    turn = np.array([[np.cos(rot), -np.sin(rot)], [np.sin(rot), np.cos(rot)]])
    for quality in q:
        amp = 0.4 * (1 - quality) if asym else 0.1
        path = np.linspace(0, 1, steps)[:, None] * quality * np.array([1.0, 0.0])
        path = path + amp * np.cumsum(rng.normal(size=(steps, 2)), 0) / np.sqrt(steps)
        out.append((scale * path @ turn.T + np.asarray(shift), np.zeros((steps, 1))))
    return out, q
