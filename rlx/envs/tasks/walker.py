"""Planar walker: stand, walk and run; and spin, which URLB has added (Laskin et al. 2021, arXiv:2110.15191)."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import XX, XZ, ZZ, MujocoTask, anywhere, columns, ident, joint_box, tolerance

HEIGHT = 1.2  # of the torso when standing, m
SPIN = 10.0  # kg m^2/s, the angular momentum that is asked for
LIMBS = [f"{side}_{limb}" for side in ("right", "left") for limb in ("thigh", "leg", "foot")]
JOINTS = [f"{side}_{joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")]
# Of each body cosine and sine of its angle in the plane (of the torso how far it is upright and leans forward), the torso's
# height, m, and velocity, m/s, not that of the centre of mass, for which walk and run pay; rates of angles, 1/s; the action.
NAMES = (
    *("upright", "lean", *(f"{limb}_{part}" for limb in LIMBS for part in ("cos", "sin"))),
    *("height", "vz", "vx", "pitch_rate", *(f"{joint}_rate" for joint in JOINTS)),
    *(f"u_{joint}" for joint in JOINTS),
)


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Orientations of all bodies (two entries each), height, velocities: [24]."""
    turned = xp.stack([p.xmat[..., 1:, XX], p.xmat[..., 1:, XZ]], -1)
    turned = turned.reshape(*turned.shape[:-2], -1)
    return columns(xp, turned, p.xpos[..., c.torso, 2], p.qvel)


def _stand(xp: Any, c: Any, p: Any) -> Any:
    high = tolerance(xp, p.xpos[..., c.torso, 2], HEIGHT, np.inf, margin=HEIGHT / 2)
    return (3 * high + (1 + p.xmat[..., c.torso, ZZ]) / 2) / 4


def _move(speed: float) -> Any:
    def reward(xp: Any, c: Any, p: Any) -> Any:
        fast = tolerance(xp, p.sensordata[..., c.speed], speed, np.inf, margin=speed / 2, shape="linear", at_margin=0.5)
        return _stand(xp, c, p) * (5 * fast + 1) / 6

    return reward


def spin(xp: Any, c: Any, p: Any) -> Any:
    """Tumbling forward: the share of `SPIN` that its angular momentum about the y axis has, within [0, 1]."""
    return xp.clip(p.subtree_angmom[..., c.torso, 1] / SPIN, 0.0, 1.0)


def constants(model: Any) -> dict[str, Any]:
    found = {"torso": ident(model, "body", "torso"), "speed": ident(model, "sensor", "torso_subtreelinvel")}
    return {**found, **joint_box(model), "nv": model.nv}


def _task(reward: Any, *more: str) -> MujocoTask:
    fields = ("qpos", "qvel", "sensordata", "xpos", "xmat", *more)
    draws = lambda model: (model.nq, 0)
    return MujocoTask(
        "walker",
        fields,
        observe,
        reward,
        anywhere,
        draws,
        constants=constants,
        control_timestep=0.025,
        time_limit=25.0,
        view={"names": NAMES},
    )


TASKS = {"stand": _task(_stand), "walk": _task(_move(1.0)), "run": _task(_move(8.0)), "spin": _task(spin, "subtree_angmom")}
