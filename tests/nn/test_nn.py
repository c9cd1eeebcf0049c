"""Networks, distributions, normalisers, optimiser steps and returns against independent numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from rlx.nn import distributions as dist
from rlx.nn import mlp, normalize, optim, returns

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_mlp_equals_float64_numpy(activation, norm):
    layers = mlp.init(jax.random.key(0), (3, 8, 8, 2), norm=norm)
    layers = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), layers)
    x = RNG.normal(size=(5, 3))
    h = x
    for i, layer in enumerate(layers):
        h = h @ np.float64(layer["w"]) + np.float64(layer["b"])
        if i < 2:
            if norm:
                h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
                h = h * np.float64(layer["scale"]) + np.float64(layer["shift"])
            h = {"relu": np.maximum(h, 0), "tanh": np.tanh(h), "elu": np.where(h > 0, h, np.expm1(np.minimum(h, 0)))}[
                activation
            ]
    np.testing.assert_allclose(mlp.apply(layers, jnp.float32(x), activation), h, rtol=2e-5, atol=2e-6)


def test_initial_weights():
    layers = mlp.init(jax.random.key(0), (100, 50, 10), last_scale=0.01)
    w = np.asarray(layers[0]["w"])
    assert np.abs(w).max() <= 0.1 and w.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert np.abs(layers[1]["w"]).max() <= 0.01 / 50**0.5
    square = np.asarray(mlp.init(jax.random.key(0), (20, 20, 1), orthogonal=True)[0]["w"])
    np.testing.assert_allclose(square @ square.T, 2 * np.eye(20), atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- distributions


def test_normal_log_prob_entropy_and_kl():
    x, mean, log_std = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)) * 0.5
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_std)).sum(-1)
    np.testing.assert_allclose(dist.normal_log_prob(*map(jnp.float32, (x, mean, log_std))), expected, rtol=1e-5)
    np.testing.assert_allclose(
        dist.normal_entropy(jnp.float32(log_std)), scipy.stats.norm.entropy(0, np.exp(log_std)).sum(-1), rtol=1e-5
    )
    m2, s2 = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)) * 0.3
    p, q = np.exp(log_std), np.exp(s2)
    kl = (np.log(q / p) + (p**2 + (mean - m2) ** 2) / (2 * q**2) - 0.5).sum(-1)
    np.testing.assert_allclose(dist.normal_kl(*map(jnp.float32, (mean, log_std, m2, s2))), kl, rtol=2e-5)


def test_tanh_log_det_is_exact_far_out():
    x = np.array([-40.0, -9.0, -1.0, 0.0, 0.3, 9.0, 40.0])
    expected = np.log(4.0) - 2 * np.abs(x) - 2 * np.log1p(np.exp(-2 * np.abs(x)))
    np.testing.assert_allclose(dist.tanh_log_det(jnp.float32(x)), expected, rtol=1e-5, atol=1e-6)


def test_tanh_normal_density_integrates_to_one():
    mean, log_std = jnp.array([0.4]), jnp.array([-0.3])
    action, log_prob = jax.vmap(lambda k: dist.tanh_normal_sample(k, mean, log_std))(jax.random.split(jax.random.key(0), 4000))
    a = np.float64(action[:, 0])
    expected = scipy.stats.norm.logpdf(np.arctanh(a), 0.4, np.exp(-0.3)) - np.log1p(-(a**2))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3, atol=2e-3)
    assert np.mean(np.exp(-np.float64(log_prob))) == pytest.approx(2.0, rel=0.1)  # E_p[1/p] is the length of (-1, 1)


# -------------------------------------------------------------------------------------------------------------- normaliser


def test_normalizer_equals_numpy_over_masked_parts():
    parts = [RNG.normal(3, 2, size=(7, 2, 3)) for _ in range(4)]
    masks = [RNG.random((7, 2)) < 0.7 for _ in range(4)]
    state = normalize.init((3,))
    for x, mask in zip(parts, masks, strict=True):
        state = normalize.update(state, jnp.float32(x), jnp.asarray(mask))
    seen = np.concatenate([x[m] for x, m in zip(parts, masks, strict=True)])
    np.testing.assert_allclose(state.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(state.m2 / state.count, seen.var(0), rtol=1e-5)
    y = normalize.apply(state, jnp.float32(seen))
    np.testing.assert_allclose(y, (seen - seen.mean(0)) / seen.std(0), rtol=1e-3, atol=1e-4)
    assert np.array_equal(normalize.apply(normalize.init((3,)), jnp.ones(3)), np.ones(3))
    nothing = normalize.update(state, jnp.ones((1, 3)), jnp.zeros(1, bool))
    assert all(np.array_equal(a, b) for a, b in zip(state, nothing, strict=True))


# --------------------------------------------------------------------------------------------------------------- optimiser


def test_adam_equals_optax_and_takes_a_traced_rate():
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    reference, state, opt = params, optim.adam_init(params), optax.adam(0.02)
    ref_state, traces = opt.init(params), []

    @jax.jit
    def step(params, grads, state, lr):
        traces.append(1)
        return optim.adam(params, grads, state, lr)

    for i in range(5):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(p + i), params)
        params, state = step(params, grads, state, jnp.float32(0.02))
        updates, ref_state = opt.update(grads, ref_state)
        reference = optax.apply_updates(reference, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, reference)
    before = len(traces)
    step(params, grads, state, jnp.float32(0.5))
    assert len(traces) == before, "another rate was compiled anew"


def test_gradient_norm_is_clipped():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    zero = jax.tree.map(jnp.zeros_like, grads)
    _, state = optim.adam(zero, grads, optim.adam_init(zero), jnp.float32(1.0), max_norm=0.5)
    np.testing.assert_allclose([state.mu["a"][0], state.mu["b"][0]], [0.1 * 0.3, 0.1 * 0.4], rtol=1e-5)


def test_polyak_and_linear():
    assert optim.polyak({"x": jnp.array(1.0)}, {"x": jnp.array(3.0)}, jnp.float32(0.25))["x"] == 1.5
    assert [float(optim.linear(1.0, 0.0, s)) for s in (-1.0, 0.25, 2.0)] == [1.0, 0.75, 0.0]


# ----------------------------------------------------------------------------------------------------------------- returns


def sequence(length=9, width=3):
    r, v = RNG.normal(size=(length, width)), RNG.normal(size=(length + 1, width))
    d = 0.9 * (RNG.random((length, width)) > 0.2)
    return tuple(map(jnp.float32, (r, d, v)))


def test_gae_by_hand():
    r, d, v = jnp.array([1.0, 2.0]), jnp.array([0.5, 0.5]), jnp.array([1.0, 2.0, 4.0])
    # delta = [1 + .5*2 - 1, 2 + .5*4 - 2] = [1, 2]; A1 = 2; A0 = 1 + .5*.8*2 = 1.8
    joined = jnp.array([True, True])
    np.testing.assert_allclose(returns.gae(r, d, v[:-1], v[1:], 0.8, joined), [1.8, 2.0])
    np.testing.assert_allclose(returns.gae(r, d, v[:-1], v[1:], 0.8, jnp.array([False, True])), [1.0, 2.0])


def test_returns_equal_rlax():
    rlax = pytest.importorskip("rlax")
    r, d, v = sequence()
    on = jnp.ones(r.shape, bool)
    for w in range(3):
        theirs = rlax.truncated_generalized_advantage_estimation(r[:, w], d[:, w], 0.7, v[:, w])
        np.testing.assert_allclose(returns.gae(r, d, v[:-1], v[1:], 0.7, on)[:, w], theirs, rtol=1e-4, atol=1e-5)
        theirs = rlax.lambda_returns(r[:, w], d[:, w], v[1:, w], 0.7)
        np.testing.assert_allclose(returns.lambda_returns(r, d, v[1:], 0.7)[:, w], theirs, rtol=1e-4, atol=1e-5)
        for n in (1, 3, 20):
            theirs = rlax.n_step_bootstrapped_returns(r[:, w], d[:, w], v[1:, w], n)
            np.testing.assert_allclose(returns.n_step_returns(r, d, v[1:], n)[:, w], theirs, rtol=1e-4, atol=1e-5)


def test_advantages_do_not_cross_a_cut():
    r, d, v = sequence()
    joined = jnp.ones(r.shape, bool).at[4].set(False)
    whole = returns.gae(r, d, v[:-1], v[1:], 0.9, joined)
    alone = returns.gae(r[:5], d[:5], v[:5], v[1:6], 0.9, jnp.ones((5, 3), bool))
    np.testing.assert_allclose(whole[:5], alone, rtol=1e-6)
