"""Pendulum swing-up: the equations of Gymnasium's Pendulum-v1."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rlx.envs.control.base import disc, plant, rod
from rlx.envs.control.process import repeated
from rlx.types import Control, Env, Leaf, Task

PARAMS = {"gravity": 10.0, "mass": 1.0, "length": 1.0, "torque": 2.0, "speed": 8.0, "dt": 0.05}  # m/s^2, kg, m, N m, rad/s, s
# The fields of Control but ``measure``. A linear law is wanted near the upright position (arXiv 2508.16474, section 5.1).
CONTROL: dict[str, Any] = {
    "dt": PARAMS["dt"],
    "x": np.zeros(2),
    "u": np.zeros(1),
    "u_low": np.full(1, -PARAMS["torque"]),
    "u_high": np.full(1, PARAMS["torque"]),
    "x_low": np.array([-2.0, -PARAMS["speed"]]),
    "x_high": np.array([2.0, PARAMS["speed"]]),
    "q": np.diag([1.0, 0.1]),
    "r": np.array([[0.001]]),
    "names": ("angle [rad]", "rate [rad/s]", "torque [N m]"),
}


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(angle, rate)/dt [2]; the angle is 0 upright."""
    torque = p["torque"] * action[..., 0]
    swing = 1.5 * p["gravity"] / p["length"] * xp.sin(x[..., 0]) + 3.0 / (p["mass"] * p["length"] ** 2) * torque
    return xp.stack([x[..., 1], swing], -1)


def advance(p: Any, x: Any, action: Any) -> Any:
    """Semi-implicit Euler: the new rate moves the angle."""
    xp = jax.numpy
    rate = xp.clip(x[1] + drift(xp, p, x, action)[1] * p["dt"], -p["speed"], p["speed"])
    return xp.stack([x[0] + rate * p["dt"], rate])


def observe(xp: Any, p: Any, x: Any) -> Any:
    """cos, sin, rate."""
    return xp.stack([xp.cos(x[..., 0]), xp.sin(x[..., 0]), x[..., 1]], -1)


def measure(xp: Any, obs: Any) -> dict[str, Any]:
    """Angle in [-pi, pi] and rate, [..., 2]."""
    return {"state": xp.stack([xp.arctan2(obs[..., 1], obs[..., 0]), obs[..., 2]], -1)}


def reward(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    angle = (x[..., 0] + np.pi) % (2 * np.pi) - np.pi
    torque = p["torque"] * action[..., 0]
    return -(angle**2 + 0.1 * x[..., 1] ** 2 + 0.001 * torque**2)


def start(p: Any, key: Any) -> Any:
    return jax.random.uniform(key, (2,), minval=-1.0) * np.array([np.pi, 1.0], np.float32)


def draw(pen: Any, size: int, x: np.ndarray) -> None:
    c, arm = size / 2, 0.36 * size
    tip = (c + arm * np.sin(x[0]), c - arm * np.cos(x[0]))
    rod(pen, (c, c), tip, size // 14, (204, 77, 77))
    disc(pen, c, c, size / 60, (40, 40, 40))


def make(repeat: int = 1, time_limit: int | None = None) -> Env:
    """Observation [3], one action (torque), 200 decisions, reward in [-16.3, 0] per step."""
    high = np.array([1, 1, 8], np.float32)
    return plant(
        "rlx:pendulum",
        task=Task(observe, reward, drift=drift, control=repeated(Control(**CONTROL, measure=measure), repeat)),
        obs=Leaf((3,), low=-high, high=high),
        actions=1,
        params=dict(PARAMS),
        start=start,
        advance=advance,
        horizon=200,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
