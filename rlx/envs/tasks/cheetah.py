"""Half-cheetah: run; and walk, walk backward and run backward, which URLB has added (Laskin et al. 2021, arXiv:2110.15191)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import MujocoTask, columns, ident, joint_box, tolerance

SPEEDS = {"run": 10.0, "walk": 2.0, "walk_backward": -2.0, "run_backward": -10.0}  # m/s
JOINTS = [f"{end}{limb}" for end in "bf" for limb in ("thigh", "shin", "foot")]
# How far the torso is above the 0.7 m of the model, m; angles, that of the torso 0 where it is level and positive where it dips
# forward; velocities of the torso, m/s, not those of the centre of mass, which tasks pay for; rates of angles, 1/s; the action.
NAMES = (
    *("rootz", "pitch", *JOINTS),
    *("vx", "vz", "pitch_rate", *(f"{joint}_rate" for joint in JOINTS)),
    *(f"u_{joint}" for joint in JOINTS),
)


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
        view={"names": NAMES},
    )
    for name, speed in SPEEDS.items()
}
