"""Half-cheetah: run; and walk, walk backward and run backward, which URLB has added (Laskin et al. 2021, arXiv:2110.15191)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import MujocoTask, columns, ident, joint_box, tolerance

SPEEDS = {"run": 10.0, "walk": 2.0, "walk_backward": -2.0, "run_backward": -10.0}  # m/s


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Joint positions without the distance run, velocities: [17]."""
    return columns(xp, p.qpos[..., 1:], p.qvel)


def _move(speed: float) -> Any:
    """The share of ``speed`` that is reached, within [0, 1]."""

    def reward(xp: Any, c: Any, p: Any) -> Any:
        forward = np.sign(speed) * p.sensordata[..., c.speed]
        return tolerance(xp, forward, abs(speed), np.inf, margin=abs(speed), shape="linear", at_margin=0)

    return reward


def init(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """Limited joints anywhere in their range; the body then falls for 200 physics steps."""
    return c.low + u * (c.high - c.low), xp.zeros((*u.shape[:-1], c.nv)), None


def constants(model: Any) -> dict[str, Any]:
    box = joint_box(model)
    limited = model.jnt_limited.astype(bool)
    box = {k: np.where(limited, v, model.qpos0) for k, v in box.items()}
    return {"speed": ident(model, "sensor", "torso_subtreelinvel"), "nv": model.nv, **box}


TASKS = {
    name: MujocoTask(
        "cheetah",
        ("qpos", "qvel", "sensordata"),
        observe,
        _move(speed),
        init,
        draws=lambda model: (model.nq, 0),
        constants=constants,
        time_limit=10.0,
        settle=200,
    )
    for name, speed in SPEEDS.items()
}
