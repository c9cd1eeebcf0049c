"""An environment whose rows are known, for tests of what goes on around environments."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlx.types import Env, Leaf, Spec, Step

LIMIT = 4


def counter(limit=LIMIT, **changes) -> Env:
    """Counts decisions from a random start, so that episodes can be told apart; terminates where start and count reach 6."""

    def arrive(start, t, reward, first):
        over = (start + t >= 6) & (t > 0)
        step = Step(jnp.stack([start, t]).astype(jnp.float32), reward, over, (t >= limit) & ~over, jnp.bool_(first), {})
        return step._replace(**{k: f(step) for k, f in changes.items()})

    def reset(params, key):
        start = jax.random.randint(key, (), 0, 5)
        return (start, jnp.int32(0)), arrive(start, jnp.int32(0), jnp.float32(0), True)

    def step(params, state, action, key):
        start, t = state
        return (start, t + 1), arrive(
            start, t + 1, jnp.float32(params["scale"] * (t + 1) + 0 * jnp.clip(action[0], -1, 1)), False
        )

    spec = Spec(Leaf((2,), low=0, high=10), Leaf((1,), low=-1, high=1), {}, limit)
    return Env("counter", spec, {"scale": 1.0}, reset, step)
