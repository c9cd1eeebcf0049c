"""Four tanks, two pumps: the levels of the upper tanks follow set-points.

The quadruple tank of PC-Gym (Bloor et al., arXiv 2410.22093; the process is Johansson's, IEEE Transactions on Control Systems
Technology 8, 2000), with its schedule, ranges, weights and noise. Each pump feeds one lower tank and, for the larger part, the
upper tank of the other side; the upper tanks drain into the lower ones. Two things differ from PC-Gym: the cost is of the true
levels, when the input was chosen; the input of the decision before is observed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rlx.envs.control.base import bars
from rlx.envs.control.process import Process, chosen, physical, process, runge_kutta, schedules, starting
from rlx.types import Env

PARAMS = {
    "gravity": 9.81,  # m/s^2
    "outlets": np.array([0.0035, 0.0030, 0.0020, 0.0025]),  # m^2
    "areas": np.ones(4),  # m^2
    "pumps": np.array([0.00085, 0.00095]),  # m^3/(V s)
    "shares": np.array([0.2, 0.2]),  # of each pump, into the lower tank
}
HORIZON, SECONDS, SUBSTEPS = 60, 1000.0, 4
LOW, HIGH = np.full(2, 0.1), np.full(2, 10.0)  # V
FULL = 0.6  # m
SETPOINTS = ((0.5, 0.2), (0.1, 0.3))  # m, of tanks 3 and 4, for 30 decisions each
START, START_RANGE = (0.141, 0.112, 0.072, 0.42), (0.05, 0.05, 0.05, 0.05)


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(h1, h2, h3, h4)/dt [..., 4] in m/s."""
    out = p["outlets"] * xp.sqrt(2 * p["gravity"] * xp.maximum(x, 1e-6))  # m^3/s
    pumped = p["pumps"] * physical(action, LOW, HIGH)
    below, above = p["shares"] * pumped, (1 - p["shares"]) * pumped
    first = out[..., 2] - out[..., 0] + below[..., 0]
    second = out[..., 3] - out[..., 1] + below[..., 1]
    flows = xp.stack([first, second, above[..., 1] - out[..., 2], above[..., 0] - out[..., 3]], -1)
    return flows / p["areas"]


def steady(h3: float, h4: float) -> tuple[np.ndarray, np.ndarray]:
    """All levels [4] and the voltages [2] that hold the upper tanks at ``h3`` and ``h4``, in closed form."""
    p = {name: np.asarray(value, np.float64) for name, value in PARAMS.items()}
    upper = p["outlets"][2:] * np.sqrt(2 * p["gravity"] * np.array([h3, h4]))
    u = (upper / (1 - p["shares"][::-1]) / p["pumps"][::-1])[::-1]
    lower = ((upper + p["shares"] * p["pumps"] * u) / p["outlets"][:2]) ** 2 / (2 * p["gravity"])
    return np.array([*lower, h3, h4]), u


STEADY, VOLTAGES = steady(0.3, 0.25)
CONTROL: dict[str, Any] = {
    "dt": SECONDS / HORIZON,
    "x": STEADY,
    "u": VOLTAGES,
    "u_low": LOW,
    "u_high": HIGH,
    "x_low": np.zeros(4),
    "x_high": np.full(4, FULL),
    "q": np.eye(2) / FULL**2,
    "r": np.zeros((2, 2)),
    "outputs": np.eye(4)[2:],
    "rate": 0.1 * np.diag(1 / (HIGH - LOW) ** 2),
    "setpoint_low": np.array([0.1, 0.2]),
    "setpoint_high": np.array([0.5, 0.3]),
    "names": ("h1 [m]", "h2 [m]", "h3 [m]", "h4 [m]", "v1 [V]", "v2 [V]"),
}


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """A decision; levels are not negative."""
    return runge_kutta(drift, xp, p, x, action, SECONDS / HORIZON, SUBSTEPS, lambda xp, x: xp.maximum(x, 0.0))


def draw(pen: Any, size: int, s: Process) -> None:
    """Tanks 3 and 4 above 1 and 2, with set-points in green, and the pumps' voltages as bars at the sides."""
    grey = (110, 120, 130)
    for tank, (left, top) in enumerate([(0.14, 0.54), (0.54, 0.54), (0.14, 0.08), (0.54, 0.08)]):
        at = lambda h, top=top: size * (top + 0.38 * (1 - min(max(float(h) / FULL, 0.0), 1.0)))
        box = [left * size, top * size, (left + 0.32) * size, (top + 0.38) * size]
        pen.rectangle([box[0], at(s.x[tank]), box[2], box[3]], (90, 140, 200))
        pen.rectangle(box, None, grey, size // 90)
        if tank >= 2:
            pen.line([(box[0], at(s.setpoint[tank - 2])), (box[2], at(s.setpoint[tank - 2]))], (120, 190, 120), size // 64)
    bars(pen, size, (s.input - LOW) / (HIGH - LOW), (0.04, 0.92), (0.08, 0.92), (204, 120, 60))


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    schedule: str = "fixed",
    noise: float = 0.05,
    stop_on_violation: bool = False,
    penalty: float = 0.0,
) -> Env:
    """Observation [8], scaled: the four levels measured, the set-points of h3 and h4, the voltages of the decision before. Two
    actions (0.1 to 10 V), 60 decisions over 1000 s.

    The cost is |error / 0.6 m|^2 + 0.1 |change of the voltages / 9.9 V|^2. ``schedule="fixed"``: always from the
    same levels to (0.5, 0.2), then (0.1, 0.3); ``"random"``: the start varies, both pairs are drawn from 0.1 to 0.5 and 0.2 to
    0.3. ``noise`` is the standard deviation of a measurement as a share of its value. ``info["violation"]``: a tank is over
    0.6 m.

    Raises:
        ValueError: unknown ``schedule``.
    """
    random = chosen("schedule", schedule, ("fixed", "random")) == "random"
    return process(
        "rlx:four-tank",
        control=CONTROL,
        drift=drift,
        params={**PARAMS, "noise": noise, "penalty": penalty, **schedules(START, START_RANGE, SETPOINTS)},
        start=starting(CONTROL, random),
        move=move,
        horizon=HORIZON,
        centre=np.full(4, FULL / 2),
        scale=np.full(4, FULL / 2),
        stop=stop_on_violation,
        noisy=True,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
