"""A double integrator with limits: the standard example of explicit model predictive control.

x+ = [[1, 1], [0, 1]] x + [0.5, 1] u with |u| <= 1 and |x| <= 4, as in the documentation of PPOPT: the exact discretisation of
position'' = u with a step of 1 s.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc
from rlx.envs.control.process import Process, Start, physical, process
from rlx.types import Env

A, B = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.5], [1.0]])
CONTROL: dict[str, Any] = {
    "dt": 1.0,
    "x": np.zeros(2),
    "u": np.zeros(1),
    "u_low": np.full(1, -1.0),
    "u_high": np.full(1, 1.0),
    "x_low": np.full(2, -4.0),
    "x_high": np.full(2, 4.0),
    "q": np.eye(2),
    "r": np.eye(1),
    "model": (A, B),
    "names": ("position [m]", "velocity [m/s]", "acceleration [m/s^2]"),
}


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(position, velocity)/dt, [..., 2]."""
    u = physical(action, CONTROL["u_low"], CONTROL["u_high"])
    return xp.stack([x[..., 1], u[..., 0]], -1)


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """The exact motion over one step."""
    u = physical(action, CONTROL["u_low"], CONTROL["u_high"])[..., 0]
    return xp.stack([x[..., 0] + x[..., 1] + 0.5 * u, x[..., 1] + u], -1)


def start(p: Any, key: Any) -> Start:
    """Where the limits can still be kept: there is time to brake."""
    return Start(jax.random.uniform(key, (2,), minval=-1.0) * jnp.array([3.0, 1.0]) * p["start_range"])


def draw(pen: Any, size: int, s: Process) -> None:
    scale, ground = size / 10, 0.6 * size
    place = size / 2 + scale * float(np.clip(s.x[0], -4.6, 4.6))
    pen.rectangle([size / 2 - 4 * scale, ground, size / 2 + 4 * scale, ground + size // 64], (150, 150, 150))
    disc(pen, size / 2, ground + size / 128, size / 50, (120, 190, 120))
    pen.rectangle([place - 0.3 * scale, ground - 0.6 * scale, place + 0.3 * scale, ground], (70, 90, 120))
    tip = place + scale * float(s.x[1])
    pen.line([(place, ground - 0.3 * scale), (tip, ground - 0.3 * scale)], (204, 77, 77), size // 90)


def make(repeat: int = 1, time_limit: int | None = None, stop_on_violation: bool = False, penalty: float = 0.0) -> Env:
    """Observation [2] (position, velocity), one action (acceleration of +-1 m/s^2), 50 decisions of 1 s.

    The cost is |x|^2 + u^2. Episodes start uniformly in +-3 m, +-1 m/s (``params["start_range"]`` scales this), where the
    limits can be kept. ``info["violation"]``: position or velocity left +-4, which costs ``penalty`` each time.
    """
    return process(
        "rlx:double-integrator",
        control=CONTROL,
        drift=drift,
        params={"start_range": 1.0, "penalty": penalty},
        start=start,
        move=move,
        horizon=50,
        centre=np.zeros(2),
        scale=np.ones(2),
        stop=stop_on_violation,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
