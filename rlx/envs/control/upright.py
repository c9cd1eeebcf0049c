"""The pendulum near its upright position, as a regulation problem.

The plant of Braniff & Tian, arXiv 2508.16474, section 5.1: Gymnasium's Pendulum-v1, observed as angle and rate and started
near the upright position. Around it a linear law is nearly optimal; beyond it the torque is too small to hold the pendulum.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control import pendulum
from rlx.envs.control.process import Process, Start, process
from rlx.types import Env


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """Semi-implicit Euler: the new rate, clipped to 8 rad/s, moves the angle, which stays within [-pi, pi)."""
    rate = xp.clip(x[..., 1] + pendulum.drift(xp, p, x, action)[..., 1] * p["dt"], -p["speed"], p["speed"])
    angle = x[..., 0] + rate * p["dt"]
    return xp.stack([(angle + np.pi) % (2 * np.pi) - np.pi, rate], -1)


def start(p: Any, key: Any) -> Start:
    return Start(jnp.stack([jax.random.uniform(key, minval=-p["start_range"], maxval=p["start_range"]), 0.0]))


def draw(pen: Any, size: int, s: Process) -> None:
    pendulum.draw(pen, size, s.x)


def make(repeat: int = 1, time_limit: int | None = None, stop_on_violation: bool = False, penalty: float = 0.0) -> Env:
    """Observation [2]: angle (0 upright, in [-pi, pi)) and rate; one action (torque of +-2 N m); 200 decisions.

    The cost is angle^2 + 0.1 rate^2 + 0.001 torque^2. Episodes start at rest, the angle uniform in +-0.5
    (``params["start_range"]``); up to 0.41 the torque can hold it. ``info["violation"]``: the angle left +-2.
    """
    return process(
        "rlx:upright-pendulum",
        control=pendulum.CONTROL,
        drift=pendulum.drift,
        params={**pendulum.PARAMS, "start_range": 0.5, "penalty": penalty},
        start=start,
        move=move,
        horizon=200,
        centre=np.zeros(2),
        scale=np.ones(2),
        stop=stop_on_violation,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
