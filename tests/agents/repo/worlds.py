"""A dot that is moved about, seen as a small picture, beside a second one that moves by itself."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

import rlx.envs
from rlx.types import Env, Leaf, Spec, Step

DOT, PAIRED = "dots:two", "dots:paired"
SMALL = {"channels": (4, 4), "embedding": 16, "belief": 8, "state": 3, "hidden": 8, "horizon": 4, "batch": 3, "chunk": 5}
SHORT = SMALL | {"env_steps": 64, "prefill": 12, "collect": 10, "updates": 2, "eval_every": 20, "eval_episodes": 2, "n_envs": 2}


def make(repeat: int = 1, time_limit: int | None = None, size: int = 16, paired: bool = False, second: float = 0.5) -> Env:
    """Observation {"pixels" uint8 [size, size, 1], "state" [2]}; the reward is high near the middle. ``paired``: "clean" too,
    the picture without the ``second`` dot, which is so bright."""
    limit = time_limit or 6

    def arrive(place, other, t, first=False):
        grid = (jnp.arange(size) + 0.5) / size * 2 - 1
        spot = lambda p: jnp.exp(-((grid[:, None] - p[1]) ** 2 + (grid - p[0]) ** 2) / 0.05)
        drawn = lambda other: (255 * jnp.clip(spot(place) + other, 0, 1)).astype(jnp.uint8)[..., None]
        reward = jnp.where(first, 0.0, -(place**2).sum())
        obs = {"pixels": drawn(second * spot(other)), "state": place} | ({"clean": drawn(0.0)} if paired else {})
        return Step(obs, reward, jnp.bool_(False), t >= limit, jnp.bool_(first), {})

    def reset(params, key):
        place, other = jax.random.uniform(key, (2, 2), minval=-0.9, maxval=0.9)
        return (place, other, jnp.int32(0)), arrive(place, other, jnp.int32(0), True)

    def step(params, state, action, key):
        place, other, t = state
        place = jnp.clip(place + 0.2 * jnp.clip(action, -1, 1), -0.9, 0.9)
        other = jnp.clip(other + 0.3 * jax.random.normal(key, (2,)), -0.9, 0.9)
        return (place, other, t + 1), arrive(place, other, t + 1)

    picture = Leaf((size, size, 1), np.uint8, low=0, high=255)
    obs = {"pixels": picture, "state": Leaf((2,), low=-1, high=1)} | ({"clean": picture} if paired else {})
    return Env(DOT, Spec(obs, Leaf((2,), low=-1, high=1), horizon=limit), {}, reset, step)


rlx.envs.register(DOT, make)
rlx.envs.register(PAIRED, functools.partial(make, size=64, paired=True))
