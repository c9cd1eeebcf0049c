"""Cart-pole: balance and swing up, smooth and sparse."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.tasks.base import XZ, ZZ, MujocoTask, columns, tolerance

POLE = 2  # body


def observe(xp: Any, c: Any, p: Any) -> Any:
    """Cart position, cosine and sine of the pole, velocities: [5]."""
    return columns(xp, p.qpos[..., 0], p.xmat[..., POLE, ZZ], p.xmat[..., POLE, XZ], p.qvel)


def score(xp: Any, obs: Any, action: Any) -> Any:
    """The smooth reward of arriving at ``obs`` [..., 5]: upright, centred, little force and slow, each within [0, 1]."""
    upright = (obs[..., 1] + 1) / 2
    centred = (1 + tolerance(xp, obs[..., 0], margin=2)) / 2
    calm = (4 + tolerance(xp, action[..., 0], margin=1, shape="quadratic", at_margin=0)) / 5
    slow = (1 + tolerance(xp, obs[..., 4], margin=5)) / 2
    return upright * calm * slow * centred


def smooth(xp: Any, c: Any, p: Any) -> Any:
    return score(xp, observe(xp, c, p), p.ctrl)


def project(xp: Any, obs: Any) -> Any:
    """Cosine and sine back on their circle."""
    turned = obs[..., 1:3]
    return xp.concatenate([obs[..., :1], turned / xp.sqrt((turned**2).sum(-1, keepdims=True)), obs[..., 3:]], -1)


_FAR = np.array([5.0, 1.1, 1.1, 10.0, 10.0])
VIEW: dict[str, Any] = {"project": project, "box": (-_FAR, _FAR), "names": ("x", "cos", "sin", "v", "w", "u")}


def sparse(xp: Any, c: Any, p: Any) -> Any:
    return tolerance(xp, p.qpos[..., 0], -0.25, 0.25) * tolerance(xp, p.xmat[..., POLE, ZZ], 0.995, 1)


def hanging(xp: Any, c: Any, u: Any, z: Any) -> Any:
    """Near the middle, pole down."""
    qpos = 0.01 * z[..., :2] + xp.asarray([0.0, np.pi])
    return qpos, 0.01 * z[..., 2:4], None


def upright(xp: Any, c: Any, u: Any, z: Any) -> Any:
    qpos = (2 * u[..., :2] - 1) * xp.asarray([0.1, 0.034])
    return qpos, 0.01 * z[..., 2:4], None


def _task(init: Any, reward: Any) -> MujocoTask:
    fields = ("qpos", "qvel", "xmat", "ctrl")
    view = {**VIEW, "score": score if reward is smooth else None}
    return MujocoTask("cartpole", fields, observe, reward, init, lambda model: (2, 4), time_limit=10.0, view=view)


TASKS = {
    "balance": _task(upright, smooth),
    "balance_sparse": _task(upright, sparse),
    "swingup": _task(hanging, smooth),
    "swingup_sparse": _task(hanging, sparse),
}
