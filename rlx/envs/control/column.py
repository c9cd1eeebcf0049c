"""An extraction column of five counter-current stages: the solute left in the liquid follows a set-point.

The stages are those of PC-Gym (Bloor et al., arXiv 2410.22093, after Ingham et al., Chemical Engineering Dynamics), as are
start, set-points, weights and noise. There the inputs reach 500 and 1000 m^3/h at one decision per hour, so that the column is
at rest after each decision; the narrower flows and the 3 minutes between decisions are ours, to have dynamics to control. The
cost is of the true state, when the input was chosen, and the input of the decision before is observed.

Stage n has X in the liquid, which flows down from stage n - 1, and Y in the gas, which rises from n + 1, in hours::

    q = capacity (X - Y^2 / slope) V_l,    X' = (L (X_above - X) - q) / V_l,    Y' = (G (Y_below - Y) + q) / V_g
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import optimize

from rlx.envs.control.base import bars
from rlx.envs.control.process import Process, chosen, physical, process, runge_kutta, schedules, starting
from rlx.types import Env

PARAMS = {
    "liquid": 5.0,  # m^3 in a stage
    "gas": 5.0,
    "slope": 1.0,
    "capacity": 5.0,  # 1/h
    "liquid_feed": 0.6,  # kg/m^3
    "gas_feed": 0.05,
}
STAGES, HORIZON, DT, SUBSTEPS = 5, 60, 0.05, 8
LOW, HIGH = np.array([20.0, 20.0]), np.array([300.0, 400.0])  # m^3/h of liquid and gas
SETPOINTS = (0.3, 0.4, 0.4, 0.3)  # kg/m^3, of X5, for 15 decisions each
START = (0.55, 0.3, 0.45, 0.25, 0.4, 0.2, 0.35, 0.15, 0.25, 0.1)
START_RANGE = (0.04,) * (2 * STAGES)


def balances(xp: Any, p: Any, x: Any, u: Any) -> Any:
    """d(X1, Y1, ... X5, Y5)/dt [..., 10] per hour at the flows ``u`` [..., 2] of liquid and gas."""
    down, up = x[..., 0::2], x[..., 1::2]
    ends = xp.zeros_like(down[..., :1])
    above = xp.concatenate([ends + p["liquid_feed"], down[..., :-1]], -1)
    below = xp.concatenate([up[..., 1:], ends + p["gas_feed"]], -1)
    passed = p["capacity"] * (down - up**2 / p["slope"]) * p["liquid"]
    liquid = (u[..., :1] * (above - down) - passed) / p["liquid"]
    gas = (u[..., 1:] * (below - up) + passed) / p["gas"]
    return xp.stack([liquid, gas], -1).reshape(x.shape)


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(X1, Y1, ... X5, Y5)/dt [..., 10] per hour."""
    return balances(xp, p, x, physical(action, LOW, HIGH))


def steady(u: np.ndarray) -> np.ndarray:
    """The steady state [10] at the flows ``u`` [2], by Newton's method in float64."""
    found = optimize.root(lambda x: balances(np, PARAMS, x, u), np.array(START), tol=1e-13)
    return found.x


FLOWS = np.array([200.0, 200.0])
CONTROL: dict[str, Any] = {
    "dt": DT,
    "x": steady(FLOWS),
    "u": FLOWS,
    "u_low": LOW,
    "u_high": HIGH,
    "x_low": np.zeros(2 * STAGES),
    "x_high": np.ones(2 * STAGES),
    "q": np.eye(1),
    "r": np.zeros((2, 2)),
    "outputs": np.eye(2 * STAGES)[8:9],
    "rate": 0.1 * np.diag(1 / (HIGH - LOW) ** 2),
    "setpoint_low": np.array([0.3]),
    "setpoint_high": np.array([0.4]),
    "names": (*(f"{phase}{n + 1} [kg/m^3]" for n in range(STAGES) for phase in "XY"), "L [m^3/h]", "G [m^3/h]"),
}


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """A decision; concentrations are not negative."""
    return runge_kutta(drift, xp, p, x, action, DT, SUBSTEPS, lambda xp, x: xp.maximum(x, 0.0))


def draw(pen: Any, size: int, s: Process) -> None:
    """The stages from top to bottom: X as a bar to the left (its set-point in green), Y to the right; flows at the sides."""
    middle, wide = size / 2, 0.3 * size
    for n in range(STAGES):
        top, bottom = size * (0.08 + 0.17 * n), size * (0.08 + 0.17 * n + 0.15)
        pen.rectangle([middle - wide, top, middle + wide, bottom], (235, 235, 230))
        x, y = (wide * min(max(float(value), 0.0), 1.0) for value in s.x[2 * n : 2 * n + 2])
        pen.rectangle([middle - x, top, middle, bottom], (90, 140, 200))
        pen.rectangle([middle, top, middle + y, bottom], (204, 160, 90))
        pen.rectangle([middle - wide, top, middle + wide, bottom], None, (110, 120, 130), size // 128)
    aim = middle - wide * float(s.setpoint[0])
    pen.line([(aim, 0.74 * size), (aim, 0.93 * size)], (80, 160, 80), size // 64)
    bars(pen, size, (s.input - LOW) / (HIGH - LOW), (0.06, 0.9), (0.08, 0.91), (120, 130, 140))


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    schedule: str = "fixed",
    noise: float = 0.05,
    stop_on_violation: bool = False,
    penalty: float = 0.0,
) -> Env:
    """Observation [13], scaled: X1, Y1, ... X5, Y5 measured, the set-point of X5, the flows of the decision before. Two actions
    (liquid of 20 to 300 m^3/h, gas of 20 to 400), 60 decisions of 3 minutes.

    The cost is (X5 - set-point)^2 + 0.1 |change of the flows / their ranges|^2. ``schedule="fixed"``: always from the same
    state to 0.3, 0.4 (half of the time) and 0.3; ``"random"``: the start varies and four set-points are drawn from 0.3 to 0.4.
    ``noise`` is the standard deviation of a measurement as a share of its value. ``info["violation"]``: a concentration left 0
    to 1.

    Raises:
        ValueError: unknown ``schedule``.
    """
    random = chosen("schedule", schedule, ("fixed", "random")) == "random"
    return process(
        "rlx:extraction-column",
        control=CONTROL,
        drift=drift,
        params={**PARAMS, "noise": noise, "penalty": penalty, **schedules(START, START_RANGE, [[s] for s in SETPOINTS])},
        start=starting(CONTROL, random),
        move=move,
        horizon=HORIZON,
        centre=np.full(2 * STAGES, 0.5),
        scale=np.full(2 * STAGES, 0.5),
        stop=stop_on_violation,
        noisy=True,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
