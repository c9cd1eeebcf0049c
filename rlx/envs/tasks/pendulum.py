"""Pendulum swing-up with a sparse reward."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import XZ, ZZ, MujocoTask, columns, ident, tolerance


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Cosine and sine of the pole, its rate: [3]."""
    return columns(xp, p.xmat[..., c.pole, ZZ], p.xmat[..., c.pole, XZ], p.qvel)


def reward(xp: Any, c: Any, p: Any) -> Any:
    """1 within 8 degrees of upright."""
    return tolerance(xp, p.xmat[..., c.pole, ZZ], float(np.cos(np.deg2rad(8))), 1)


def init(xp: Any, c: Any, u: Any, z: Any) -> Any:
    return (2 * u[..., :1] - 1) * np.pi, xp.zeros((*u.shape[:-1], 1)), None


TASKS = {
    "swingup": MujocoTask(
        "pendulum",
        ("qpos", "qvel", "xmat"),
        observe,
        reward,
        init,
        draws=lambda model: (1, 0),
        constants=lambda model: {"pole": ident(model, "body", "pole")},
    )
}
