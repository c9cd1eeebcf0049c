"""A two-link arm whose tip has to stay in a disc."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rlx.envs.tasks.base import MujocoTask, anywhere, columns, ident, joint_box, tolerance

BIG, SMALL = 0.05, 0.015  # radius of the disc, m


def _to_target(p: Any, c: Any) -> Any:
    return p.goal - p.geom_xpos[..., c.finger, :2]


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Angles, vector from tip to target, rates: [6]."""
    return columns(xp, p.qpos, _to_target(p, c), p.qvel)


def reward(xp: Any, c: Any, p: Any) -> Any:
    return tolerance(xp, xp.linalg.norm(_to_target(p, c), axis=-1), 0, c.radius + c.tip)


def init(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """The target lies 5 to 20 cm from the shoulder."""
    qpos, qvel, _ = anywhere(xp, c, u, z)
    angle, radius = 2 * np.pi * u[..., -2], 0.05 + 0.15 * u[..., -1]
    return qpos, qvel, xp.stack([radius * xp.sin(angle), radius * xp.cos(angle)], -1)


def _constants(radius: float) -> Any:
    def constants(model: Any) -> dict[str, Any]:
        finger = ident(model, "geom", "finger")
        found = {"finger": finger, "tip": float(model.geom_size[finger, 0]), "radius": radius, "nv": model.nv}
        return {**found, **joint_box(model)}

    return constants


_easy = MujocoTask(
    "reacher",
    ("qpos", "qvel", "geom_xpos"),
    observe,
    reward,
    init,
    draws=lambda model: (model.nq + 2, 0),
    constants=_constants(BIG),
    goal=(2,),
    goal_geom="target",
)
TASKS = {"easy": _easy, "hard": replace(_easy, constants=_constants(SMALL), goal_radius=SMALL)}
