"""OGBench's environments as `gym:` makes them: what they show and take, how long they last, and what a step of theirs is."""

from __future__ import annotations

import numpy as np
import pytest

import rlx.envs
from rlx.envs.gym import _seeded_reset
from rlx.keys import HostKey

SIZES = {  # observations, actions, decisions
    "pointmaze-medium": (2, 2, 1000),
    "antmaze-medium": (29, 8, 1000),
    "cube-single": (28, 5, 200),
    "cube-double": (37, 5, 500),
    "scene": (40, 5, 750),
    "puzzle-3x3": (55, 5, 500),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_steps_are_those_of_ogbench(name):
    gymnasium, _ = pytest.importorskip("gymnasium"), pytest.importorskip("ogbench")
    env = rlx.envs.make(f"gym:{name}-singletask-task2-v0")
    n, m, horizon = SIZES[name]
    assert (env.spec.obs.shape, env.spec.action.shape, env.spec.horizon) == ((n,), (m,), horizon)
    key, rng = HostKey(np.array([[3, 4]], np.uint32), 1), np.random.default_rng(0)
    vec, theirs = env.make(1, "stop"), gymnasium.make(f"{name}-singletask-task2-v0")
    try:
        state, step = vec.reset(None, key)
        obs, _ = _seeded_reset(theirs, state[0].seed)
        for t in range(5):
            np.testing.assert_allclose(step.obs[0], obs, atol=1e-5)
            action = rng.uniform(-1, 1, (1, m)).astype(np.float32)
            state, step = vec.step(None, state, action, key.at(t + 1))
            obs, reward, terminated, _, info = theirs.step(action[0])
            assert step.reward[0] == reward and bool(step.terminated[0]) == terminated
            assert bool(step.info["success"][0]) == bool(info["success"])
    finally:
        vec.close()
        theirs.close()
