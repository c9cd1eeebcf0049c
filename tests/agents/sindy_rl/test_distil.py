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
from rlx.dynamics.sparse import SparseModel, poly

TOY = replace(
    Config(), ensemble_size=5, distil_steps=800, distil_length=100, distil_noise=0.0, distil_starts=0.0, policy_degrees=(3,)
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


@pytest.mark.parametrize(("states", "low", "high"), [("rows", 2.0, 3.0), ("box", -4.0, 4.0), ("hull", 2.0, 3.0)])
def test_it_may_be_fitted_to_other_states_than_those_of_runs(states, low, high, monkeypatch):
    seen = []
    real = distil.regressed
    monkeypatch.setattr(distil, "regressed", lambda *args: seen.append(args[2][0]) or real(*args))
    config = replace(TOY, distil_states=states, distil_rounds=1)
    data = lambda which: np.linspace(2.0, 3.0, 50)[:, None]
    distil.distiller(config, SimpleNamespace(act=switching), ENV, lambda x: x)(None, ENV.params, data, jax.random.key(0))
    assert seen[0].shape == (800, 1) and low <= seen[0].min() and seen[0].max() <= high
    assert np.ptp(seen[0]) > 0.9 * (high - low)


def test_draws_from_a_convex_hull_are_uniform():
    """Of a triangle with an area of 2: half of the draws are below a height of 1 - sqrt(1/2) of it, none outside."""
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    drawn = distil.in_hull(corners, 4_000, np.random.default_rng(0))
    assert drawn.min() >= 0 and drawn.sum(1).max() <= 2 + 1e-9
    assert (drawn[:, 1] < 2 * (1 - np.sqrt(0.5))).mean() == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="3 states of the last run span no hull"):
        distil.in_hull(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), 5, np.random.default_rng(0))


def test_normal_states_are_as_the_data_are():
    seen = np.random.default_rng(1).multivariate_normal([1.0, -2.0], [[2.0, 0.5], [0.5, 1.0]], 20_000)
    config = replace(TOY, distil_states="gaussian", distil_steps=20_000)
    box = {"low": np.zeros(2), "high": np.ones(2)}
    found = distil.sampled(config, box, lambda which: seen, lambda x: x, np.random.default_rng(0), None)
    np.testing.assert_allclose(found.mean(0), [1, -2], atol=0.05)
    np.testing.assert_allclose(np.cov(found.T), [[2, 0.5], [0.5, 1]], atol=0.06)


def test_what_chooses_ridge_and_threshold():
    states, real = np.arange(10.0)[:, None], np.array([[50.0], [60.0]])
    kinds = []
    data = lambda which: kinds.append(which) or real
    for how in ("states", "held_out", "online"):
        config = replace(TOY, distil_select=how)
        (near, wanted), (there, _) = distil.split(config, states, data, lambda x: 2 * x, lambda x: x, np.random.default_rng(0))
        assert (wanted == 2 * near).all()
        learned, known = set(near[:, 0].tolist()), set(there[:, 0].tolist())
        if how == "held_out":
            assert len(known) == 2 and len(learned) == 8 and not known & learned
        else:
            assert len(learned) == 10 and known == (learned if how == "states" else {50.0, 60.0})
    assert kinds == ["online"]


def test_beyond_a_bound_any_value_is_right():
    """The network is a line that is soon beyond the bounds: it is found again only where the rows there do not pull."""
    x = np.linspace(-1, 1, 801)[:, None]
    wanted = 4.0 * np.clip(3.0 * x, -1.0, 1.0)  # between -1/12 and 1/12 the action is within its range
    library, near = distil.policy_library(TOY, 1, 1), (x, wanted)
    error = {}
    for passes in (0, 5):
        model = distil.regressed(library, near, near, replace(TOY, distil_passes=passes), np.random.default_rng(0))
        acts = np.clip(model.library(x) @ np.asarray(model.coef, float).T, -1, 1)
        error[passes] = np.mean((acts - np.clip(wanted, -1, 1)) ** 2)
    assert error[5] < 0.2 * error[0]
    assert model.coef[0, 0] == pytest.approx(12.0, rel=0.15) and model.members.shape == (5, 1, 1)


def test_of_nearly_equal_returns_the_least_degree_is_kept():
    one = lambda earned, terms: distil.Found(earned, terms, None)
    assert distil.chosen([one(97.0, 3), one(99.0, 3), one(100.0, 4)]) == one(99.0, 3)
    assert distil.chosen([one(97.0, 3), one(100.0, 4)]) == one(100.0, 4)
    assert distil.chosen([one(-101.0, 3), one(-100.0, 4)]) == one(-101.0, 3)


def test_a_smaller_polynomial_stands_in_the_larger_library():
    small = poly(2, 1)
    members = jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    model = distil.within(poly(2, 2, bias=True), SparseModel(members, members[0], small))
    assert model.coef.tolist() == [[0, 1, 2, 0, 0, 0]] and model.members[1].tolist() == [[0, 3, 4, 0, 0, 0]]
    np.testing.assert_allclose(model(jnp.array([5.0, 7.0])), [19.0])
