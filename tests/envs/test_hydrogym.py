"""HydroGym's flow; most of it runs where that is installed."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs

FAST = {"dt": 0.02, "action_time": 1.0}
there = importlib.util.find_spec("hydrogym") is not None


def test_what_cannot_be():
    with pytest.raises(ValueError, match="hydrogym:kolmogorov"):
        rlx.envs.make("hydrogym:kolmogorow")
    message = "whole action_time" if there else "pip install 'rlx\\[hydrogym\\]'"
    with pytest.raises(ValueError, match=message):
        rlx.envs.make("hydrogym:kolmogorov", action_time=0.5)
    assert rlx.envs.list("hydrogym") == (["hydrogym:kolmogorov"] if there else [])


def test_it_is_hydrogyms_own_flow():
    pytest.importorskip("hydrogym")
    from hydrogym.jax.envs.kolmogorov import KolmogorovFlow

    class Short(KolmogorovFlow):
        @property
        def default_params(self):
            return super().default_params.replace(**FAST)

    own, env = Short({"dt": FAST["dt"]}), rlx.envs.make("hydrogym:kolmogorov", time_limit=2, **FAST)
    params, key = own.default_params, jax.random.key(0)
    obs, flow = own.reset_env(key, params)
    state, step = jax.jit(env.reset)((), key)
    np.testing.assert_allclose(step.obs, obs, atol=1e-4)
    for t, action in enumerate(np.array([[1.0, -0.5, 0.2, 2.0], [0.1, 0.0, 0.0, -0.3]], np.float32)):
        obs, flow, reward, _, info = own.step_env(key, flow, jnp.clip(action, -1, 1) / 2, params)
        state, step = jax.jit(env.step)((), state, action, key)
        np.testing.assert_allclose(step.obs, obs, atol=1e-3)
        np.testing.assert_allclose(step.reward, reward - info["mean_tke"], rtol=1e-4)  # whose own weight of the energy is 0
        assert bool(step.truncated) == (t == 1) and not step.terminated
    assert env.render((), state).shape == (256, 256, 3)
