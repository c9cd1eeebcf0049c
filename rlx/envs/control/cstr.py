"""A stirred tank reactor whose concentration follows set-points.

The reactor of PC-Gym (Bloor et al., arXiv 2410.22093): a first-order exothermic reaction A -> B, cooled by a jacket whose
temperature is the input, with its schedule, ranges, weights and noise. Two things differ: the cost is of the true state rather
than the measured one, and of the state in which the input was chosen; the input of the decision before is observed.

With r = k0 exp(-E / T) C_A, in minutes::

    C_A' = q/V (C_f - C_A) - r,    T' = q/V (T_f - T) + heat r / (rho c) + UA (T_c - T) / (rho c V)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from rlx.envs.control.process import Process, chosen, physical, process, runge_kutta, schedules, starting
from rlx.envs.control.reactor import picture
from rlx.types import Env

PARAMS = {
    "flow": 100.0,  # L/min
    "volume": 100.0,  # L
    "density": 1000.0,  # g/L
    "heat_capacity": 0.239,  # J/(g K)
    "heat": 5e4,  # J/mol
    "energy": 8750.0,  # K
    "factor": 7.2e10,  # 1/min
    "transfer": 5e4,  # J/(min K)
    "feed-temperature": 350.0,  # K
    "feed-concentration": 1.0,  # mol/L
}
HORIZON, MINUTES, SUBSTEPS = 60, 26.0, 4
SETPOINTS = (0.85, 0.9, 0.87)  # mol/L, for 20 decisions each
START, START_RANGE = (0.8, 330.0), (0.03, 3.0)
# measured disturbances: range, and the values for 15 decisions each; ours
DISTURBANCES = {
    "feed-temperature": (347.0, 353.0, (350.0, 352.0, 349.0, 348.0)),
    "feed-concentration": (0.98, 1.02, (1.0, 0.98, 1.01, 1.02)),
}
LOW, HIGH = np.array([295.0]), np.array([302.0])  # K, of the jacket


def drift(disturbed: tuple[str, ...], xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(C_A, T)/dt [..., 2] per minute; ``disturbed`` names what ``p["disturbance"]`` [..., l] holds."""
    feed = {**p, **{name: p["disturbance"][..., i] for i, name in enumerate(disturbed)}}
    c, t, jacket = x[..., 0], x[..., 1], physical(action, LOW, HIGH)[..., 0]
    r = xp.exp(xp.log(p["factor"]) - p["energy"] / t) * c
    renewed, stored = p["flow"] / p["volume"], p["density"] * p["heat_capacity"]
    warmer = p["heat"] * r / stored + p["transfer"] / (stored * p["volume"]) * (jacket - t)
    mass = renewed * (feed["feed-concentration"] - c) - r
    return xp.stack([mass, renewed * (feed["feed-temperature"] - t) + warmer], -1)


def steady(c: float) -> tuple[np.ndarray, float]:
    """The state [2] and the jacket's temperature that hold the concentration ``c``, in closed form."""
    p, renewed = PARAMS, PARAMS["flow"] / PARAMS["volume"]
    r = renewed * (p["feed-concentration"] - c)
    t = p["energy"] / np.log(p["factor"] * c / r)
    stored = p["density"] * p["heat_capacity"]
    needed = renewed * (p["feed-temperature"] - t) + p["heat"] * r / stored
    return np.array([c, t]), t - needed * stored * p["volume"] / p["transfer"]


def move(disturbed: tuple[str, ...], xp: Any, p: Any, x: Any, action: Any) -> Any:
    """A decision. Hotter than 600 K nothing is left to react, the state is then only kept finite."""
    keep = lambda xp, x: xp.clip(x, xp.asarray([0.0, 200.0]), xp.asarray([2.0, 600.0]))
    return runge_kutta(partial(drift, disturbed), xp, p, x, action, MINUTES / HORIZON, SUBSTEPS, keep)


def _control(disturbed: tuple[str, ...]) -> dict[str, Any]:
    x, jacket = steady(0.875)
    facts: dict[str, Any] = {
        "dt": MINUTES / HORIZON,
        "x": x,
        "u": np.array([jacket]),
        "u_low": LOW,
        "u_high": HIGH,
        "x_low": np.array([0.7, 300.0]),
        "x_high": np.array([1.0, 350.0]),
        "q": np.array([[1e3 / 0.3**2]]),
        "r": np.zeros((1, 1)),
        "outputs": np.array([[1.0, 0.0]]),
        "rate": 0.1 * np.diag(1 / (HIGH - LOW) ** 2),
        "setpoint_low": np.array([0.84]),
        "setpoint_high": np.array([0.91]),
        "names": ("C_A [mol/L]", "T [K]", "T_c [K]"),
    }
    if disturbed:
        facts["disturbance"] = np.array([PARAMS[name] for name in disturbed])
        facts["disturbance_low"], facts["disturbance_high"] = (
            np.array([DISTURBANCES[name][i] for name in disturbed]) for i in (0, 1)
        )
    return facts


def draw(pen: Any, size: int, s: Process) -> None:
    picture(pen, size, float(s.x[1]), (295.0, 355.0, 350.0, 325.0), float(s.input[0] - 302) / -7)
    for value, colour in ((s.setpoint[0], (120, 190, 120)), (s.x[0], (40, 40, 40))):  # the concentration, along the bottom
        at = size * (0.1 + 0.8 * min(max((float(value) - 0.7) / 0.3, 0.0), 1.0))
        pen.line([(at, 0.89 * size), (at, 0.96 * size)], colour, size // 60)
    pen.line([(0.1 * size, 0.96 * size), (0.9 * size, 0.96 * size)], (110, 120, 130), size // 128)


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    schedule: str = "fixed",
    disturbance: str | None = None,
    noise: float = 0.001,
    stop_on_violation: bool = False,
    penalty: float = 0.0,
) -> Env:
    """Observation [4], scaled: C_A and T measured, the set-point of C_A, the jacket's temperature of the decision before; then
    the measured disturbances. One action (the jacket, 295 to 302 K), 60 decisions over 26 minutes.

    The cost is 1000 ((C_A - set-point) / 0.3)^2 + 0.1 (change of the jacket / 7 K)^2. ``schedule="fixed"``: always
    from (0.8, 330) to 0.85, 0.9, 0.87; ``"random"``: the start varies and three set-points are drawn from 0.84 to 0.91.
    ``disturbance``: "feed-temperature", "feed-concentration" or "both" are measured and take four values in an episode, by a
    schedule or at random likewise. ``noise`` is the standard deviation of a measurement as a share of its value.
    ``info["violation"]``: C_A left 0.7 to 1 or T 300 to 350.

    Raises:
        ValueError: unknown ``schedule`` or ``disturbance``.
    """
    random = chosen("schedule", schedule, ("fixed", "random")) == "random"
    chosen("disturbance", disturbance, (*DISTURBANCES, "both"))
    disturbed = tuple(DISTURBANCES) if disturbance == "both" else (disturbance,) if disturbance else ()
    facts = _control(disturbed)
    params: dict[str, Any] = {**PARAMS, "noise": noise, "penalty": penalty}
    steps = np.array([DISTURBANCES[name][2] for name in disturbed]).T if disturbed else None
    params |= schedules(START, START_RANGE, [[s] for s in SETPOINTS], steps)
    if disturbed:
        params["disturbance"] = np.float32(facts["disturbance"])
    return process(
        "rlx:cstr",
        control=facts,
        drift=partial(drift, disturbed),
        params=params,
        start=starting(facts, random),
        move=partial(move, disturbed),
        horizon=HORIZON,
        centre=np.array([0.85, 325.0]),
        scale=np.array([0.15, 25.0]),
        stop=stop_on_violation,
        noisy=True,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
