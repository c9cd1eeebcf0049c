"""A network as a polynomial, corrected where that goes astray."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.sindy_rl import distil
from rlx.agents.sindy_rl.config import Config
from rlx.dynamics import Prediction, as_env
from rlx.dynamics.sparse import SparseModel

TOY = replace(
    Config(), ensemble_size=5, distil_steps=800, distil_length=100, distil_noise=0.0, distil_starts=0.0, policy_degree=3
)


class Falling:
    """x' = 1.06 x + 0.1 u + 0.02, which runs away unless it is held; one is paid for standing at 0."""

    def begin(self, params, key):
        return ()

    def predict(self, params, episode, obs, action, key):
        new = 1.06 * obs + 0.1 * action + 0.02
        return Prediction(new, jnp.exp(-(new[0] ** 2)))

    def disagreement(self, params, obs, action):
        return jnp.float32(0)


ENV = as_env(Falling(), (), np.zeros((1, 1)), actions=1, horizon=200, low=np.array([-4.0]), high=np.array([4.0]))


def switching(state, clock, carry, step, key, mode):
    """Holds it where it is, so that no state far from there is ever visited."""
    mean = -4.0 * jnp.tanh(20.0 * step.obs)
    return (mean if mode == "mean" else jnp.clip(mean, -1.0, 1.0)), carry, {}


def test_the_network_corrects_what_the_polynomial_visits(monkeypatch):
    """Three polynomials by hand: the one that holds is kept, and each adds its own states, with what the network says there."""
    seen, gains = [], iter([0.0, -5.0, 5.0])

    def regressed(library, near, there, config, rng):
        seen.append(there)
        coef = jnp.array([[next(gains), 0.0, 0.0]])
        return SparseModel(jnp.stack([coef] * 5), coef, library)

    monkeypatch.setattr(distil, "regressed", regressed)
    found = distil.distiller(replace(TOY, distil_rounds=3), SimpleNamespace(act=switching), ENV, lambda x: x)
    model = found(None, ENV.params, None, jax.random.key(0))
    assert model.coef.tolist() == [[-5.0, 0.0, 0.0]]
    assert [len(states) for states, _ in seen] == [800, 1_600, 2_400]
    x, run = 0.0, []
    for _ in range(100):  # the second polynomial, in float64
        run.append(x)
        x = 1.06 * x + 0.1 * np.clip(-5.0 * x, -1, 1) + 0.02
    added = seen[2][0][1_600:].reshape(100, 8)
    np.testing.assert_allclose(added, np.tile(np.array(run)[:, None], 8), atol=1e-5)
    for states, wanted in seen:
        np.testing.assert_allclose(wanted, -4 * np.tanh(20 * states), atol=1e-5)


def test_a_polynomial_takes_the_place_of_a_network():
    found = distil.distiller(TOY, SimpleNamespace(act=switching), ENV, lambda x: x)
    model = found(None, ENV.params, None, jax.random.key(0))
    x = 0.0
    for _ in range(100):
        x = 1.06 * x + 0.1 * np.clip(model.library(np.array([x])) @ np.asarray(model.coef, float).T, -1, 1)[0] + 0.02
    assert abs(x) < 0.1


@pytest.mark.parametrize(("states", "low", "high"), [("rows", 2.0, 3.0), ("box", -4.0, 4.0)])
def test_it_may_be_fitted_to_other_states_than_those_of_runs(states, low, high, monkeypatch):
    seen = []
    real = distil.regressed
    monkeypatch.setattr(distil, "regressed", lambda *args: seen.append(args[2][0]) or real(*args))
    config = replace(TOY, distil_states=states, distil_rounds=1)
    data = lambda: np.linspace(2.0, 3.0, 50)[:, None]
    distil.distiller(config, SimpleNamespace(act=switching), ENV, lambda x: x)(None, ENV.params, data, jax.random.key(0))
    assert seen[0].shape == (800, 1) and low <= seen[0].min() and seen[0].max() <= high
    assert np.ptp(seen[0]) > 0.9 * (high - low)
