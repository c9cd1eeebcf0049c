"""Half-cheetah: run."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import MujocoTask, columns, ident, joint_box, tolerance

SPEED = 10.0  # m/s


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Joint positions without the distance run, velocities: [17]."""
    return columns(xp, p.qpos[..., 1:], p.qvel)


def reward(xp: Any, c: Any, p: Any) -> Any:
    return tolerance(xp, p.sensordata[..., c.speed], SPEED, np.inf, margin=SPEED, shape="linear", at_margin=0)


def init(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """Limited joints anywhere in their range; the body then falls for 200 physics steps."""
    return c.low + u * (c.high - c.low), xp.zeros((*u.shape[:-1], c.nv)), None


def constants(model: Any) -> dict[str, Any]:
    box = joint_box(model)
    limited = model.jnt_limited.astype(bool)
    box = {k: np.where(limited, v, model.qpos0) for k, v in box.items()}
    return {"speed": ident(model, "sensor", "torso_subtreelinvel"), "nv": model.nv, **box}


TASKS = {
    "run": MujocoTask(
        "cheetah",
        ("qpos", "qvel", "sensordata"),
        observe,
        reward,
        init,
        draws=lambda model: (model.nq, 0),
        constants=constants,
        time_limit=10.0,
        settle=200,
    )
}
