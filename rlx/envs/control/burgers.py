"""The viscous Burgers equation on a circle of length 1: eight actuators bring the field to rest.

    u_t = -u u_x + diffusivity u_xx + sum of action_j b_j(x)

After Wolf et al., arXiv 2411.04098: diffusivity 1, weights 100 of the state and 0.01 of the action, 20 decisions of 0.05 time
units, and eight actuators, each of which pushes on an eighth of the circle with a force of +-1. Ours are the 64 points (they
have 256), five steps to a decision, that the state's weight is on the mean of u^2 (not on a sum over points) of the field
arrived at, and where episodes start: a level within +-0.5 and three waves, random in size and place.

With this diffusivity waves are gone after a decision or two. What remains is the level, which nothing but the actuators can
change, by 0.05 in a decision at most. With a smaller one (0.02 to 0.1) waves last, steepen, and have to be countered too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import ImageDraw

from rlx.envs.control.base import plant
from rlx.envs.control.spectral import Pod, draw_profile, march, scheme, sensors, slope, times
from rlx.types import Array, Env, Leaf, Task

POINTS, LENGTH, ACTUATORS = 64, 1.0, 8
DT, SUBSTEPS, HORIZON = 0.05, 5, 20  # time units per decision, steps in it, decisions
LEAST = 0.02  # diffusivity: fronts of a field of about 1 are as wide as that, and are to be a point wide at least
PARAMS = {"state": 100.0, "effort": 0.01, "level": 0.5, "waves": 0.5}  # weights; half ranges of the level and of waves at start
WAVES = 3


def actuators() -> np.ndarray:
    """b [64, 8] at the points: 1 on an eighth of the circle, 0 elsewhere."""
    return np.repeat(np.eye(ACTUATORS), POINTS // ACTUATORS, 0)


def move(xp: Any, p: Any, u: Array, action: Array) -> Array:
    """The field [..., 64] one decision later."""
    return march(xp, p, u, times(xp, action, p["force"]), SUBSTEPS)


def drift(xp: Any, p: Any, u: Array, action: Array) -> Array:
    """du/dt [..., 64]."""
    return slope(xp, p, u, times(xp, action, p["force"]))


def reward(xp: Any, p: Any, u: Array, action: Array, new: Array) -> Array:
    """-100 mean(u^2) of the field arrived at, -0.01 |action|^2."""
    return -p["state"] * (new**2).mean(-1) - p["effort"] * (action**2).sum(-1)


def start(p: Any, key: Any) -> Array:
    """A level and, of each of the first three wave numbers n, a cosine and a sine of up to ``params["waves"]`` / n."""
    first, second = jax.random.split(key)
    n = np.arange(1, WAVES + 1)
    angle = 2 * np.pi * np.arange(POINTS) / POINTS * n[:, None]
    shapes = np.stack([np.cos(angle), np.sin(angle)]) / n[:, None]  # [2, 3, 64]
    sizes = p["waves"] * jax.random.uniform(second, (2, WAVES, 1), minval=-1.0)
    return p["level"] * jax.random.uniform(first, minval=-1.0) + (sizes * shapes).sum((0, 1))


def draw(pen: ImageDraw.ImageDraw, size: int, u: np.ndarray) -> None:
    draw_profile(pen, size, u, 2.0, (np.arange(ACTUATORS) + 0.5) / ACTUATORS)


def make(
    repeat: int = 1,
    time_limit: int | None = None,
    observe: str = "probes",
    basis: np.ndarray | Pod | None = None,
    diffusivity: float = 1.0,
) -> Env:
    """Observation [64], the field; eight actions, 20 decisions of 0.05 time units, reward -100 mean(u^2) - 0.01 |action|^2.

    ``observe="sparse"``: the field at 8 of the points, [8]. ``basis``: coordinates [r] in a basis [64, r] or in a `Pod`, as
    `pod` makes it of data.

    Raises:
        ValueError: ``diffusivity`` below 0.02, which 64 points cannot resolve; unknown ``observe``; ``basis`` of another shape
            or together with "sparse".
    """
    if not LEAST <= diffusivity < np.inf:
        raise ValueError(
            f"diffusivity={diffusivity}: give at least {LEAST}, less makes fronts that {POINTS} points cannot show."
        )
    size, sensing, look = sensors(POINTS, observe, basis)
    p = scheme(POINTS, LENGTH, lambda k: -diffusivity * k**2, DT / SUBSTEPS)
    return plant(
        "rlx:burgers",
        task=Task(look, reward, drift=drift),
        obs=Leaf((size,)),
        actions=ACTUATORS,
        params={**p, **sensing, **PARAMS, "force": actuators().T @ p["to_modes"]},
        start=start,
        advance=lambda p, u, action: move(jnp, p, u, action),
        horizon=HORIZON,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
