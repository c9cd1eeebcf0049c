"""An unstable scalar plant with a cubic term that its linear model does not have.

x+ = clip(x + 0.1 (x + c3 x^3 + u), -2, 2). Near 0 it is x+ = 1.1 x + 0.1 u whatever c3 is, so a controller designed there is
right near 0 and knows nothing of what helps or harms it far away. With c3 < 0 the plant brakes itself.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rlx.envs.control.base import disc
from rlx.envs.control.process import Process, Start, physical, process
from rlx.types import Env

DT = 0.1
CONTROL: dict[str, Any] = {
    "dt": DT,
    "x": np.zeros(1),
    "u": np.zeros(1),
    "u_low": np.full(1, -5.0),
    "u_high": np.full(1, 5.0),
    "x_low": np.full(1, -2.0),
    "x_high": np.full(1, 2.0),
    "q": np.eye(1),
    "r": np.eye(1),
    "model": (np.array([[1.1]]), np.array([[0.1]])),
    "names": ("x", "u"),
}


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """dx/dt [..., 1]."""
    return x + p["c3"] * x**3 + physical(action, CONTROL["u_low"], CONTROL["u_high"])


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """One step of Euler's method, which is what defines the plant, kept within +-2."""
    return xp.clip(x + DT * drift(xp, p, x, action), -2.0, 2.0)


def start(p: Any, key: Any) -> Start:
    return Start(jax.random.uniform(key, (1,), minval=-p["start_range"], maxval=p["start_range"]))


def draw(pen: Any, size: int, s: Process) -> None:
    """A ball on the curve of the potential that the plant rolls down on."""
    place = lambda x: (size / 2 + x * 0.22 * size, 0.55 * size + (x**2 / 2 - x**4) * 0.05 * size)
    grid = np.linspace(-1.6, 1.6, 65)
    pen.line([place(x) for x in grid], (150, 150, 150), size // 100)
    x, y = place(float(np.clip(s.x[0], -1.6, 1.6)))
    disc(pen, x, y - size / 36, size / 36, (204, 77, 77))


def make(
    repeat: int = 1, time_limit: int | None = None, c3: float = -4.0, stop_on_violation: bool = False, penalty: float = 0.0
) -> Env:
    """Observation [1], one action (u of +-5), 200 decisions, cost x^2 + u^2.

    Episodes start uniformly in +-1.2 (``params["start_range"]``). The state is kept within +-2, so nothing is ever violated.
    """
    return process(
        "rlx:cubic",
        control=CONTROL,
        drift=drift,
        params={"c3": c3, "start_range": 1.2, "penalty": penalty},
        start=start,
        move=move,
        horizon=200,
        centre=np.zeros(1),
        scale=np.ones(1),
        stop=stop_on_violation,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
