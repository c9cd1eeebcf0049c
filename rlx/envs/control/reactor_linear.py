"""The linear model of the T2 reactor as it is printed: a plant that its controller knows exactly.

Braniff & Tian, arXiv 2508.16474, equation 14: x+ = A x + B u in deviations from a steady state at 475 K, sampled once a
minute (the text says "1/60 s", which its rates do not allow), |u| <= 55, concentrations within +-2 mol/L, temperature from
70 K below to 5 K above. The matrices, weights and limits are the paper's, so its law and its regions can be computed again.
Its closed-loop results cannot: they belong to a nonlinear plant whose text leaves out flows and feed temperature, and to start
states that are not given. The drift here is the matrix logarithm of the model, so that its discretisation gives the model back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

from rlx.envs.control.process import Process, Start, physical, process
from rlx.envs.control.reactor import off, picture
from rlx.types import Env

A = np.array([[0.9506, 0, 0, 0], [-0.0484, 0.9943, 0, 0], [0, 0, 0.9909, 0], [0.6970, 0.0678, 0, 1.0030]])
B = np.array([[0.0], [0.0], [0.0], [-0.0007]])
DT, LIMIT = 1 / 60, 5.0  # h, K
_LOG = linalg.logm(np.block([[A, B], [np.zeros((1, 4)), np.eye(1)]])).real / DT
RATE, INPUT = _LOG[:4, :4], _LOG[:4, 4:]  # dx/dt = RATE x + INPUT u
CONTROL: dict[str, Any] = {
    "dt": DT,
    "x": np.zeros(4),
    "u": np.zeros(1),
    "u_low": np.full(1, -55.0),
    "u_high": np.full(1, 55.0),
    "x_low": np.array([-2.0, -2.0, -2.0, -70.0]),
    "x_high": np.array([2.0, 2.0, 2.0, LIMIT]),
    "q": 0.1 * np.eye(4),
    "r": np.array([[1e-4]]),
    "model": (A, B),
    "names": ("dC_A [mol/L]", "dC_B [mol/L]", "dC_S [mol/L]", "dT [K]", "dU [W/(m^2 K)]"),
}


def _affine(x: Any, action: Any, a: np.ndarray, b: np.ndarray) -> Any:
    """a x + b u over the last axis [..., 4], without a matrix product, which accelerators may round."""
    u = physical(action, CONTROL["u_low"], CONTROL["u_high"])
    return (x[..., None, :] * a).sum(-1) + (u[..., None, :] * b).sum(-1)


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(deviations)/dt [..., 4] per hour."""
    return _affine(x, action, RATE, INPUT)


def move(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """The model."""
    return _affine(x, action, A, B)


def start(p: Any, key: Any) -> Start:
    """As the reactor of `rlx.envs.control.reactor`; from there the limit can be kept."""
    return Start(off(p, key))


def draw(pen: Any, size: int, s: Process) -> None:
    picture(pen, size, float(s.x[3]), (-70.0, 12.0, LIMIT, 0.0), float(s.input[0] + 55) / 110)


def make(repeat: int = 1, time_limit: int | None = None, stop_on_violation: bool = True, penalty: float = 1e5) -> Env:
    """Observation [4]: the deviations in units of 0.25 mol/L and 10 K; one action (the deviation of the heat transfer
    coefficient, +-55 W/(m^2 K)); 120 decisions of a minute.

    The cost is 0.1 |x|^2 + 1e-4 u^2. ``info["violation"]``: more than 5 K above. That costs ``penalty`` and, where
    ``stop_on_violation``, ends the episode.
    """
    return process(
        "rlx:t2-reactor-linear",
        control=CONTROL,
        drift=drift,
        params={"start_range": 1.0, "penalty": penalty},
        start=start,
        move=move,
        horizon=120,
        centre=np.zeros(4),
        scale=np.array([0.25, 0.25, 0.25, 10.0]),
        limits=(np.full(4, -np.inf), np.array([np.inf, np.inf, np.inf, LIMIT])),
        stop=stop_on_violation,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
