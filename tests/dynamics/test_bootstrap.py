"""Ensembles of normal distributions: their likelihood by hand, which rows a member learns from, when the fit ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import ensemble
from rlx.dynamics.bootstrap import bootstraps, fit
from rlx.dynamics.ensemble import Bounds, FitSettings, Split, cost, misfit, normal, train

BOUNDS = Bounds(jnp.float32([0.5] * 3), jnp.float32([-10] * 3))


def rows(n, seed=0):
    """z in [-1, 1]^2 and y = (z0 z1 + noise that grows with z0, a constant)."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(-1, 1, (n, 2))
    return z, np.stack([z[:, 0] * z[:, 1] + np.exp(-2 + z[:, 0]) * rng.normal(size=n), np.ones(n)], 1)


def blank(members=3, elites=2):
    return ensemble.init(jax.random.key(0), members, (2, 16, 16, 2), "silu", gaussian=True, elites=elites)


@pytest.fixture(scope="module")
def fitted():
    return fit(blank(), *rows(2_000), jax.random.key(1), epochs=60, lr=3e-3)


def test_the_soft_bounds_of_log_variances():
    out = jnp.float32([1, 2, 3, 3, -20, 0])
    mean, log_variance = normal(out, BOUNDS)
    np.testing.assert_array_equal(mean, [1, 2, 3])
    np.testing.assert_allclose(log_variance, [0.421140, -9.999955, -0.474004], atol=1e-5)


def test_the_likelihood_and_the_costs_by_hand():
    out, y = np.float64([1, 2, 3, 3, -20, 0]), np.float64([0.5, 2.01, 1])
    v = np.float64([0.42114, -9.999955, -0.474004])
    assert float(misfit(jnp.float32(out), jnp.float32(y), BOUNDS)) == pytest.approx(
        ((out[:3] - y) ** 2 * np.exp(-v) + v).mean(), rel=1e-4
    )
    assert float(misfit(jnp.float32([1, 3]), jnp.float32([0, 1]), None)) == 2.5
    layers = {"params": {"Dense_0": {"kernel": jnp.float32([[1, 2]])}, "Dense_1": {"kernel": jnp.float32([[3], [1]])}}}
    assert float(cost(layers, None, (0.2, 0.02), 4)) == pytest.approx(0.1 * 5 + 0.01 * 10)
    assert float(cost(layers, BOUNDS, (), 4)) == pytest.approx(0.01 * 31.5 / 4)  # a quarter, and there are four members


def test_weights_at_the_start_and_what_a_model_says():
    model = ensemble.init(jax.random.key(0), 7, (6, 200, 5), "silu", gaussian=True, elites=5)
    w = np.asarray(model.params["params"]["Dense_1"]["kernel"])
    assert w.shape == (7, 200, 10) and w.std() == pytest.approx(0.5 / 200**0.5, rel=0.05)
    assert (model.count, model.sizes) == (7, (6, 200, 5)) and model.elites.tolist() == [0, 1, 2, 3, 4]
    z = jnp.ones((3, 6))
    mean, std = model.normals(z)
    assert mean.shape == std.shape == (7, 3, 5) and (std > 0).all()
    np.testing.assert_array_equal(model.each(z), mean)
    assert model.member(2).normals(z)[0].shape == (1, 3, 5) and model.member(2).elites is None
    with pytest.raises(ValueError, match="predicts no distributions"):
        ensemble.init(jax.random.key(0), 2, (6, 5)).normals(z)
    with pytest.raises(ValueError, match="elites=3 of ensemble_size=2"):
        ensemble.init(jax.random.key(0), 2, (6, 5), elites=3)


def test_a_member_draws_with_replacement_from_what_is_not_held_out():
    order = np.random.default_rng(0).permutation(100)
    own = bootstraps(jax.random.key(0), jnp.asarray(order), 20, 32, 3)
    assert own.train.shape == (3, 96) and own.held.shape == (3, 20) and own.counts.tolist() == [[80, 20]] * 3
    for drawn in np.asarray(own.train):
        assert set(drawn) <= set(order[20:]) and 40 <= len(set(drawn[:80])) <= 60  # 1 - 1/e of 80 are 51
    assert (np.asarray(own.held) == order[:20]).all() and (own.train[0] != own.train[1]).any()


@pytest.mark.slow
def test_a_fit_finds_mean_and_noise(fitted):
    model = fitted.model
    z, _ = rows(500, seed=1)
    mean, std = map(np.asarray, jax.jit(ensemble.Ensemble.normals)(model, z.astype(np.float32)))
    assert np.abs(mean.mean(0)[:, 0] - z[:, 0] * z[:, 1]).mean() < 0.05
    assert np.corrcoef(np.log(std[..., 0].mean(0)), z[:, 0])[0, 1] > 0.8
    assert np.exp(np.log(std[..., 0]).mean()) == pytest.approx(np.exp(-2), rel=0.2)
    assert (model.bounds.high < 0.5).all() and (model.bounds.low > -10).all()  # they close in
    assert model.elites.tolist() == np.argsort(fitted.error)[:2].tolist()
    np.testing.assert_allclose(model.std, z.std(0), rtol=0.1)
    mse = ((mean - rows(500, seed=1)[1]) ** 2).mean((1, 2))
    np.testing.assert_allclose(mse, fitted.error, rtol=0.5)


@pytest.mark.slow
def test_none_stops_before_all_have(fitted):
    """Without a step no pass is better than the first: it is over after ``patience`` more, for all. A gain that is too small
    is none."""
    model, (z, y) = blank(2, 0), rows(64)
    own = bootstraps(jax.random.key(0), jnp.arange(64), 16, 16, 2)
    how = lambda **k: FitSettings(**{"lr": 1e-3, "max_grad_norm": jnp.inf, "epochs": 40, "patience": 2, **k})
    go = jax.jit(lambda s, own: train(model, jnp.float32(z), jnp.float32(y), own, jax.random.key(0), s, 16, together=True))
    assert go(how(lr=0.0, gain=0.01), own).epochs.tolist() == [1, 1]
    assert go(how(gain=0.99), own).epochs.tolist() == [1, 1]
    uneven = Split(own.train, own.held.at[1].set(own.train[1, :16]), own.counts)
    late = go(how(), uneven).epochs
    assert int(late.max()) > 3 and np.isfinite(go(how(), own).error).all()


def test_wrong_rows_are_named():
    z, y = rows(20)
    for v in (1, 3):  # the first would broadcast
        with pytest.raises(ValueError, match=rf"the ensemble reads \[..., 2\]; got \[5, {v}\]"):
            blank().normals(jnp.zeros((5, v)))
    with pytest.raises(ValueError, match=r"inputs \[N, 2\] and targets \[N, 2\]; got \[20, 2\] and \[20, 1\]"):
        fit(blank(), z, y[:, :1], jax.random.key(0))
    with pytest.raises(ValueError, match="inputs have 1 numbers that are not finite, the first in row 3"):
        fit(blank(), np.where(np.arange(40).reshape(20, 2) == 7, np.nan, z), y, jax.random.key(0))
    with pytest.raises(ValueError, match="holds out 0 of 2 rows"):
        fit(blank(), z[:2], y[:2], jax.random.key(0))
    with pytest.raises(ValueError, match="gaussian=True"):
        fit(ensemble.init(jax.random.key(0), 2, (2, 2)), z, y, jax.random.key(0))
    with pytest.raises(ValueError, match="decay has 1 numbers, for 3 layers"):
        fit(blank(), z, y, jax.random.key(0), decay=(1.0,))
