"""A batch of the T2 Laboratories incident as a cooled flow reactor: it must not run away.

After Braniff & Tian, arXiv 2508.16474, section 5.2 and appendix A. That plant cannot be rebuilt from its text (flows, feed
temperature and steady state are not given, and its balances as printed have no steady state at 475 K with cooling), so this is
a plant of the same kind. From the paper: kinetics, heats of reaction, cooling area, coolant temperature, weights, limits. From
textbook accounts of the incident, not verified: feed concentrations, heat capacity of 3150 J/(L K). Ours: the residence time,
the feed at 450 K, the range of the input.

With D the inverse residence time, k1 and k2 after Arrhenius, time in hours::

    C_A' = D (4.3 - C_A) - r1,   C_B' = D (5.1 - C_B) - r1,   C_S' = D (3.0 - C_S) - r2,   r1 = k1 C_A C_B,  r2 = k2 C_S
    T' = D (450 - T) + (45600 r1 + 320000 r2) / 3150 - 3600 U 5.3 (T - 373) / (3150 * 4000)

At 475 K the reactor is stable but the temperature alone feeds itself (+1.4 per hour), and above 480 K the second reaction, the
decomposition of the solvent, begins.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.process import Process, Start, physical, process, runge_kutta
from rlx.types import Env

GAS = 8.314  # J/(mol K)
PARAMS = {
    "dilution": 0.55,  # 1/h
    "feed_a": 4.3,  # mol/L
    "feed_b": 5.1,
    "feed_s": 3.0,
    "feed_t": 450.0,  # K
    "coolant": 373.0,  # K
    "factor1": float(np.log(4e14)),  # logarithms of L/(mol h) and 1/h
    "factor2": float(84 * np.log(10.0)),
    "barrier1": 1.28e5,  # J/mol
    "barrier2": 8e5,
    "heat1": 45600.0,  # J/mol
    "heat2": 320000.0,
    "capacity": 3150.0,  # J/(L K)
    "volume": 4000.0,  # L
    "area": 5.3,  # m^2
}
HOT, FASTEST = 700.0, 8.0  # K and log(1/h): beyond these the rates grow no more
DT, SUBSTEPS, LIMIT = 1 / 60, 6, 480.0  # h; Runge-Kutta steps; K


def rates(xp: Any, p: Any, x: Any) -> tuple[Any, Any]:
    """r1, r2 [...] in mol/(L h)."""
    t = GAS * xp.minimum(x[..., 3], HOT)
    k1 = xp.exp(p["factor1"] - p["barrier1"] / t)
    k2 = xp.exp(xp.minimum(p["factor2"] - p["barrier2"] / t, FASTEST))
    return k1 * x[..., 0] * x[..., 1], k2 * x[..., 2]


def balances(xp: Any, p: Any, x: Any, cooling: Any) -> Any:
    """d(C_A, C_B, C_S, T)/dt [..., 4] per hour at the heat transfer coefficient ``cooling`` [...] in W/(m^2 K)."""
    r1, r2 = rates(xp, p, x)
    d, t = p["dilution"], x[..., 3]
    taken = 3600 * cooling * p["area"] * (t - p["coolant"]) / p["volume"]
    warmer = (p["heat1"] * r1 + p["heat2"] * r2 - taken) / p["capacity"]
    a, b, s = d * (p["feed_a"] - x[..., 0]) - r1, d * (p["feed_b"] - x[..., 1]) - r1, d * (p["feed_s"] - x[..., 2]) - r2
    return xp.stack([a, b, s, d * (p["feed_t"] - t) + warmer], -1)


def steady(t: float = 475.0) -> tuple[np.ndarray, float]:
    """The steady state [4] at the temperature ``t`` and the cooling that holds it, in closed form: of the quadratic equation
    d (feed_a - C_A) = k1 C_A (C_A + feed_b - feed_a) the root is taken that is a concentration."""
    p, d = PARAMS, PARAMS["dilution"]
    k1, k2 = (float(k) for k in rates(np, p, np.array([1.0, 1.0, 1.0, t])))
    half, product = (p["feed_b"] - p["feed_a"] + d / k1) / 2, d / k1 * p["feed_a"]
    a = product / (half + np.sqrt(half**2 + product))
    x = np.array([a, a + p["feed_b"] - p["feed_a"], d * p["feed_s"] / (d + k2), t])
    free, held = balances(np, p, x, 0.0)[3], balances(np, p, x, 1.0)[3]
    return x, free / (free - held)


STEADY, COOLING = steady()
CONTROL: dict[str, Any] = {
    "dt": DT,
    "x": STEADY,
    "u": np.array([COOLING]),
    "u_low": np.array([COOLING - 100]),
    "u_high": np.array([COOLING + 100]),
    "x_low": STEADY + [-2, -2, -2, -70],
    "x_high": STEADY + [2, 2, 2, 5],
    "q": 0.1 * np.eye(4),
    "r": np.array([[1e-4]]),
    "names": ("C_A [mol/L]", "C_B [mol/L]", "C_S [mol/L]", "T [K]", "U [W/(m^2 K)]"),
}


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(C_A, C_B, C_S, T)/dt [..., 4] per hour."""
    return balances(xp, p, x, physical(action, CONTROL["u_low"], CONTROL["u_high"])[..., 0])


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """A minute. After a runaway the equations mean little: the state is then only kept finite, within 200 to 700 K."""
    keep = lambda xp, x: xp.clip(x, xp.asarray([0.0, 0.0, 0.0, 200.0]), xp.asarray([50.0, 50.0, 50.0, HOT]))
    return runge_kutta(drift, xp, p, x, action, DT, SUBSTEPS, keep)


def off(p: Any, key: Any) -> Any:
    """Start deviations [4]: concentrations within +-0.15 mol/L, the temperature from 15 K below to 4 K above."""
    low, high = jnp.array([-0.15, -0.15, -0.15, -15]), jnp.array([0.15, 0.15, 0.15, 4])
    return p["start_range"] * jax.random.uniform(key, (4,), minval=low, maxval=high)


def start(p: Any, key: Any) -> Start:
    return Start(STEADY + off(p, key))


def draw(pen: Any, size: int, s: Process) -> None:
    """The vessel with its liquid, the hotter the redder; a thermometer with its limit; a bar for the cooling."""
    picture(pen, size, float(s.x[3]), (400, 490, LIMIT, STEADY[3]), float(s.input[0] - CONTROL["u_low"][0]) / 200)


def picture(pen: Any, size: int, t: float, scale: tuple[float, float, float, float], cooling: float) -> None:
    """``scale``: temperatures at the thermometer's ends, the limit and the aim; ``cooling`` in [0, 1]."""
    low, high, limit, aim = scale
    at = lambda t: size * (0.85 - 0.7 * min(max((t - low) / (high - low), 0), 1))
    warm = min(max((t - aim) / (limit - aim) / 2 + 0.5, 0), 1)
    liquid = (int(90 + 130 * warm), int(140 - 60 * warm), int(200 - 130 * warm))
    grey, line = (110, 120, 130), size // 90
    pen.rounded_rectangle([0.1 * size, 0.15 * size, 0.58 * size, 0.85 * size], 0.08 * size, (235, 235, 230), grey, line)
    pen.rounded_rectangle([0.12 * size, 0.35 * size, 0.56 * size, 0.83 * size], 0.06 * size, liquid)
    pen.line([(0.34 * size, 0.08 * size), (0.34 * size, 0.68 * size)], grey, line)
    pen.ellipse([0.24 * size, 0.65 * size, 0.44 * size, 0.71 * size], grey)
    pen.rectangle([0.68 * size, 0.15 * size, 0.74 * size, 0.85 * size], (255, 255, 255), grey, line // 2)
    pen.rectangle([0.69 * size, at(t), 0.73 * size, 0.84 * size], liquid)
    pen.line([(0.65 * size, at(limit)), (0.77 * size, at(limit))], (204, 77, 77), line)
    pen.line([(0.65 * size, at(aim)), (0.77 * size, at(aim))], (120, 190, 120), line)
    pen.rectangle([0.84 * size, 0.15 * size, 0.9 * size, 0.85 * size], (255, 255, 255), grey, line // 2)
    pen.rectangle([0.85 * size, size * (0.84 - 0.68 * min(max(cooling, 0), 1)), 0.89 * size, 0.84 * size], (90, 140, 200))


def make(repeat: int = 1, time_limit: int | None = None, stop_on_violation: bool = True, penalty: float = 1e5) -> Env:
    """Observation [4]: deviations from the steady state (0.486, 1.286, 2.999 mol/L, 475 K) in units of 0.25 mol/L and 10 K;
    one action (the heat transfer coefficient, +-100 around 107.78 W/(m^2 K)); 120 decisions of a minute.

    The cost is 0.1 |x|^2 + 1e-4 u^2 in physical deviations. ``info["violation"]``: above 480 K. That costs ``penalty``
    and, where ``stop_on_violation``, ends the episode.
    """
    return process(
        "rlx:t2-reactor",
        control=CONTROL,
        drift=drift,
        params={**PARAMS, "start_range": 1.0, "penalty": penalty},
        start=start,
        move=move,
        horizon=120,
        centre=STEADY,
        scale=np.array([0.25, 0.25, 0.25, 10.0]),
        limits=(np.full(4, -np.inf), np.array([np.inf, np.inf, np.inf, LIMIT])),
        stop=stop_on_violation,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
