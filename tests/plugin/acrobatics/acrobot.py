"""The acrobot (Sutton 1996): two links that hang from a pivot, a torque at the joint between them; get the tip above a bar."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import envs
from rlx.types import Env, Leaf, Task

# kg, m, m to the centre of mass, kg m^2, m/s^2, N m, s; both links are alike
PARAMS = {"mass": 1.0, "length": 1.0, "centre": 0.5, "inertia": 1.0, "gravity": 9.8, "torque": 1.0, "dt": 0.2}
RATES = np.array([4 * np.pi, 9 * np.pi], np.float32)  # rad/s, at most


def drift(xp: Any, p: Any, x: Any, action: Any) -> Any:
    """d(angle, bend, rate of angle, rate of bend)/dt [4]; both angles are 0 where the links hang down."""
    angle, bend, rate, bend_rate = (x[..., i] for i in range(4))
    m, length, c, g = p["mass"], p["length"], p["centre"], p["gravity"]
    d1 = m * c**2 + m * (length**2 + c**2 + 2 * length * c * xp.cos(bend)) + 2 * p["inertia"]
    d2 = m * (c**2 + length * c * xp.cos(bend)) + p["inertia"]
    weight2 = m * c * g * xp.sin(angle + bend)
    spin = m * length * c * xp.sin(bend)
    weight1 = -spin * bend_rate * (bend_rate + 2 * rate) + (m * c + m * length) * g * xp.sin(angle) + weight2
    torque = p["torque"] * action[..., 0]
    bend_acc = (torque + d2 / d1 * weight1 - spin * rate**2 - weight2) / (m * c**2 + p["inertia"] - d2**2 / d1)
    return xp.stack([rate, bend_rate, -(d2 * bend_acc + weight1) / d1, bend_acc], -1)


def advance(p: Any, x: Any, action: Any) -> Any:
    """A Runge-Kutta step of fourth order."""
    f, dt = lambda x: drift(jnp, p, x, action), p["dt"]
    k1 = f(x)
    k2 = f(x + dt / 2 * k1)
    k3 = f(x + dt / 2 * k2)
    x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + f(x + dt * k3))
    return x.at[2:].set(jnp.clip(x[2:], -RATES, RATES))


def observe(xp: Any, p: Any, x: Any) -> Any:
    """Cosine and sine of both angles, and their rates [6]."""
    return xp.stack([xp.cos(x[..., 0]), xp.sin(x[..., 0]), xp.cos(x[..., 1]), xp.sin(x[..., 1]), x[..., 2], x[..., 3]], -1)


def done(xp: Any, p: Any, x: Any) -> Any:
    """The tip is a link's length above the pivot."""
    return -xp.cos(x[..., 0]) - xp.cos(x[..., 0] + x[..., 1]) > 1.0


def make(repeat: int = 1, time_limit: int | None = None) -> Env:
    """Observation [6], one action (the torque), -1 per decision until the tip is up, 500 decisions at most."""
    high = np.concatenate([np.ones(4, np.float32), RATES])
    return envs.plant(
        "acrobatics:acrobot",
        task=Task(observe, lambda xp, p, x, action, new: -1.0, done=done, drift=drift),
        obs=Leaf((6,), low=-high, high=high),
        actions=1,
        params=dict(PARAMS),
        start=lambda p, key: jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1),
        advance=advance,
        horizon=500,
        repeat=repeat,
        time_limit=time_limit,
    )


envs.register("acrobatics:acrobot", make)
