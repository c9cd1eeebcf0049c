"""A point mass on a plane, to be brought to rest in the middle."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx.envs.control.base import disc, plant
from rlx.envs.tasks.base import tolerance
from rlx.types import Env, Leaf, Task

PARAMS = {
    "force": 1.0,
    "mass": 0.3,
    "damping": 1.0,
    "size": 1.0,
    "target": 0.05,
    "margin": 4.0,
    "dt": 0.02,
}  # N, kg, N s/m, m, m, -, s


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(position, velocity)/dt, [..., 4]."""
    v = x[..., 2:]
    return xp.concatenate([v, (p["force"] * action - p["damping"] * v) / p["mass"]], -1)


def advance(p: Any, x: Any, action: Any) -> Any:
    """Semi-implicit Euler; the walls of the square take the velocity away."""
    v = x[2:] + p["dt"] * drift(jnp, p, x, action)[2:]
    place = x[:2] + p["dt"] * v
    inside = jnp.clip(place, -p["size"], p["size"])
    return jnp.concatenate([inside, jnp.where(place == inside, v, 0.0)])


def observe(xp: Any, p: Any, x: Any) -> Any:
    """Position and velocity: [4]."""
    return x


def reward(xp: Any, p: Any, x: Any, action: Any, new: Any) -> Any:
    """Near the middle, with little force: within [0, 1]."""
    away = xp.sqrt((new[..., :2] ** 2).sum(-1) + 1e-12)
    near = tolerance(xp, (away / p["target"] - 1) / p["margin"], -np.inf, 0, margin=1)
    return near * (4 + tolerance(xp, action, margin=1, shape="quadratic", at_margin=0).mean(-1)) / 5


def start(p: Any, key: Any) -> Any:
    return jnp.concatenate([jax.random.uniform(key, (2,), minval=-p["size"], maxval=p["size"]), jnp.zeros(2)])


def speed(axis: int) -> Any:
    """The reward of getting far along an axis: the velocity on arrival."""
    return lambda xp, p, x, action, new: new[..., 2 + axis]


def middle(p: Any, key: Any) -> Any:
    return jnp.zeros(4)


def draw(pen: Any, size: int, x: np.ndarray) -> None:
    scale = size / 2.4
    disc(pen, size / 2, size / 2, 0.05 * scale, (120, 190, 120))
    pen.rectangle(
        [size / 2 - scale, size / 2 - scale, size / 2 + scale, size / 2 + scale], outline=(90, 90, 90), width=size // 128
    )
    disc(pen, size / 2 + scale * x[0], size / 2 - scale * x[1], 0.035 * scale, (204, 77, 77))


def make(repeat: int = 1, time_limit: int | None = None, margin: float = 4.0, along: str | None = None) -> Env:
    """Observation [4], two actions (forces), 200 decisions, reward in [0, 1] per step. Beyond the target, 0.05 around the
    middle, it falls to a tenth within ``margin`` times that size: 4, as in DeepMind's suite, leaves most of the square without
    any; with 20 there is some everywhere. ``along``: "x" or "y", another task: to get far that way from the middle, where
    episodes begin; a step pays the velocity.

    Raises:
        ValueError: ``margin`` is not above 0, or ``along`` is no axis.
    """
    if not margin > 0:
        raise ValueError(f"rlx:point-mass: margin={margin} is how far rewards reach: give a number above 0.")
    if along not in (None, "x", "y"):
        raise ValueError(f"rlx:point-mass: along={along!r} is the way to go: give 'x' or 'y', or leave it out.")
    own_reward = reward if along is None else speed("xy".index(along))
    return plant(
        "rlx:point-mass",
        task=Task(observe, own_reward, drift=drift),
        obs=Leaf((4,)),
        actions=2,
        params={**PARAMS, "margin": float(margin)},
        start=start if along is None else middle,
        advance=advance,
        horizon=200,
        repeat=repeat,
        time_limit=time_limit,
        draw=draw,
    )
