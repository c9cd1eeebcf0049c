"""One-legged hopper: stand and hop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rlx.envs.tasks.base import MujocoTask, anywhere, columns, ident, joint_box, tolerance

HEIGHT, SPEED = 0.6, 2.0  # m, m/s


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Joint positions without the distance hopped, velocities, log touch of toe and heel: [15]."""
    touch = xp.log1p(p.sensordata[..., c.touch])
    return columns(xp, p.qpos[..., 1:], p.qvel, touch)


def _standing(xp: Any, c: Any, p: Any) -> Any:
    return tolerance(xp, p.xipos[..., c.torso, 2] - p.xipos[..., c.foot, 2], HEIGHT, 2)


def stand(xp: Any, c: Any, p: Any) -> Any:
    calm = tolerance(xp, p.ctrl, margin=1, shape="quadratic", at_margin=0).mean(-1)
    return _standing(xp, c, p) * (calm + 4) / 5


def hop(xp: Any, c: Any, p: Any) -> Any:
    fast = tolerance(xp, p.sensordata[..., c.speed], SPEED, np.inf, margin=SPEED / 2, shape="linear", at_margin=0.5)
    return _standing(xp, c, p) * fast


def constants(model: Any) -> dict[str, Any]:
    sensor = lambda name: ident(model, "sensor", name)
    found = {"touch": np.array([sensor("touch_toe"), sensor("touch_heel")]), "speed": sensor("torso_subtreelinvel")}
    bodies = {"torso": ident(model, "body", "torso"), "foot": ident(model, "body", "foot")}
    return {**found, **bodies, **joint_box(model), "nv": model.nv}


_stand = MujocoTask(
    "hopper",
    ("qpos", "qvel", "sensordata", "xipos", "ctrl"),
    observe,
    stand,
    anywhere,
    draws=lambda model: (model.nq, 0),
    constants=constants,
    control_timestep=0.02,
)
TASKS = {"stand": _stand, "hop": replace(_stand, reward=hop)}
