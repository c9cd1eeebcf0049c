"""The Kuramoto-Sivashinsky equation on a circle of length 22, where it is chaotic: four actuators calm it.

    u_t = -u u_x - u_xx - u_xxxx + sum of action_j b_j(x)

At 64 points, with steps of 0.05, five to a decision. The chaos at this length is well studied (Cvitanovic, Davidchack and
Siminos 2010, SIAM J. Appl. Dyn. Syst. 9). An actuator b_j is a Gaussian of width 0.4 and unit integral at j L/4, less its mean,
so that the integral of u, 0 here, never changes. Left alone, the mean of u^2 over space and time is 1.39.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ImageDraw

from rlx.envs.control.base import plant
from rlx.envs.control.spectral import Pod, draw_profile, march, scheme, sensors, slope, times
from rlx.types import Array, Env, Leaf, Task

POINTS, LENGTH, ACTUATORS, WIDTH = 64, 22.0, 4, 0.4
DT, SUBSTEPS, HORIZON = 0.25, 5, 400  # time units per decision, steps in it, decisions
EFFORT = 0.05  # weight of the mean squared action
BANK, RUNS, TRANSIENT, APART = 256, 32, 500.0, 20.0  # start states, of how many runs, time before the first, time between them


def symbol(k: np.ndarray) -> np.ndarray:
    """The growth rate of a small wave exp(i k x)."""
    return k**2 - k**4


def actuators() -> np.ndarray:
    """b [64, 4] at the points."""
    x, centre = LENGTH / POINTS * np.arange(POINTS), LENGTH / ACTUATORS * np.arange(ACTUATORS)
    away = (x[:, None] - centre + LENGTH / 2) % LENGTH - LENGTH / 2
    b = np.exp(-((away / WIDTH) ** 2) / 2) / (WIDTH * np.sqrt(2 * np.pi))
    return b - b.mean(0)


@lru_cache(1)
def attractor() -> np.ndarray:
    """States [256, 64] of the uncontrolled attractor, float64, read-only: the same in each process of a machine (on another
    one, chaos may make other states of other rounding).

    32 runs from small random waves, and from 500 time units on a state every 20 of each. A step here is a whole decision, with
    an error below 0.001, which for states to start from is exact enough.
    """
    p = scheme(POINTS, LENGTH, symbol, DT)
    waves = 0.1 * np.random.default_rng(0).normal(size=(RUNS, len(p["rate"])))
    waves[:, 0] = 0  # the mean
    u = march(np, p, waves @ p["to_points"], np.zeros(1), round(TRANSIENT / DT))
    bank = [u]
    while len(bank) * RUNS < BANK:
        bank.append(march(np, p, bank[-1], np.zeros(1), round(APART / DT)))
    states = np.concatenate(bank)
    states.flags.writeable = False
    return states


def move(xp: Any, p: Any, u: Array, action: Array) -> Array:
    """The field [..., 64] one decision later."""
    return march(xp, p, u, times(xp, action, p["force"]), SUBSTEPS)


def drift(xp: Any, p: Any, u: Array, action: Array) -> Array:
    """du/dt [..., 64]."""
    return slope(xp, p, u, times(xp, action, p["force"]))


def reward(xp: Any, p: Any, u: Array, action: Array, new: Array) -> Array:
    """Minus the mean square of the field arrived at, and of the action."""
    return -(new**2).mean(-1) - p["effort"] * (action**2).mean(-1)


def start(p: Any, key: Any) -> Array:
    return jnp.asarray(p["bank"])[jax.random.randint(key, (), 0, len(p["bank"]))]


def draw(pen: ImageDraw.ImageDraw, size: int, u: np.ndarray) -> None:
    draw_profile(pen, size, u, 4.0, np.arange(ACTUATORS) / ACTUATORS)


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    observe: str = "probes",
    basis: np.ndarray | Pod | None = None,
) -> Env:
    """Observation [64], the field; four actions, 400 decisions of 0.25 time units, reward -mean(u^2) - 0.05 mean(action^2).

    Episodes start from a state of the uncontrolled attractor, one of 256 (``params["bank"]``). ``observe="sparse"``: the field
    at 8 of the points, [8]. ``basis``: coordinates [r] in a basis [64, r] or in a `Pod`, as `pod` makes it of data.

    Raises:
        ValueError: unknown ``observe``, ``basis`` of another shape or together with "sparse".
    """
    size, sensing, look = sensors(POINTS, observe, basis)
    p = scheme(POINTS, LENGTH, symbol, DT / SUBSTEPS)
    force = actuators().T @ p["to_modes"]
    return plant(
        "rlx:ks22",
        task=Task(look, reward, drift=drift),
        obs=Leaf((size,)),
        actions=ACTUATORS,
        params={**p, **sensing, "force": force, "effort": EFFORT, "bank": attractor()},
        start=start,
        advance=lambda p, u, action: move(jnp, p, u, action),
        horizon=HORIZON,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
