"""Data that several tests of models share."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="session")
def cart():
    """Random behaviour on cart-pole, 8 episodes of 200: inputs [N, 6], next observations [N, 5]."""
    import jax

    import rlx
    from rlx import envs, replay

    vec = envs.batch(rlx.envs.make("rlx:cartpole-swingup"), 8)
    uniform = lambda carry, step, key: (jax.random.uniform(key, (8, 1), minval=-1.0, maxval=1.0), carry, {})
    start = envs.begin(vec, vec.params, (), jax.random.key(0))
    _, rows, tail = jax.jit(lambda rollout_state, key: envs.rollout(vec, vec.params, uniform, rollout_state, key, 200))(
        start, jax.random.key(1)
    )
    ring = replay.ring(202, 8)
    one = jax.tree.map(lambda x: x[0, 0], rows)
    episodes = ring.export(ring.add(ring.init(one), rows, tail))
    inputs = np.concatenate([np.concatenate([e.obs[:-1], e.action[:-1]], -1) for e in episodes])
    return inputs.astype(np.float64), np.concatenate([e.obs[1:] for e in episodes]).astype(np.float64)
