"""Networks, distributions, normalisers, optimiser steps and returns against independent numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from rlx.nn import distributions as dist
from rlx.nn import normalize, optim, returns
from rlx.nn.mlp import MLP, head, stack

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------------------------------- networks


@pytest.mark.usefixtures("all_bits")
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_mlp_equals_float64_numpy(activation, norm):
    net, x = MLP((8, 8, 2), activation, norm=norm), RNG.normal(size=(5, 3))
    params = net.init(jax.random.key(0), jnp.zeros(3))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), params)
    h, wide = x, jax.tree.map(np.float64, params["params"])
    for i in range(3):
        h = h @ wide[f"Dense_{i}"]["kernel"] + wide[f"Dense_{i}"]["bias"]
        if i < 2:
            if norm:
                h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
                h = h * wide[f"LayerNorm_{i}"]["scale"] + wide[f"LayerNorm_{i}"]["bias"]
            h = {"relu": np.maximum(h, 0), "tanh": np.tanh(h), "elu": np.where(h > 0, h, np.expm1(np.minimum(h, 0)))}[
                activation
            ]
    np.testing.assert_allclose(net.apply(params, jnp.float32(x)), h, rtol=2e-5, atol=2e-6)


def test_initial_weights():
    kernels = lambda net, n: [v["kernel"] for v in net.init(jax.random.key(0), jnp.zeros(n))["params"].values()]
    w, last = kernels(MLP((50, 10), last_scale=0.01), 100)
    w = np.asarray(w)
    assert np.abs(w).max() <= 0.1 and w.std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert np.abs(last).max() <= 0.01 / 50**0.5
    square, last = map(np.asarray, kernels(MLP((20, 20), kernel_init="orthogonal"), 20))
    np.testing.assert_allclose(square @ square.T, 2 * np.eye(20), atol=1e-5)
    np.testing.assert_allclose(last @ last.T, np.eye(20), atol=1e-5)
    glorot = np.asarray(kernels(MLP((50, 10), kernel_init="glorot"), 100)[0])
    assert glorot.std() == pytest.approx((2 / 150) ** 0.5, rel=0.05) and np.abs(glorot).max() <= (6 / 150) ** 0.5
    own = MLP((4, 2), kernel_init=(jax.nn.initializers.ones, jax.nn.initializers.zeros), last_bias=False)
    params = own.init(jax.random.key(0), jnp.zeros(3))["params"]
    assert (params["Dense_0"]["kernel"] == 1).all() and not params["Dense_1"]["kernel"].any()
    assert set(params["Dense_1"]) == {"kernel"}


def test_orthogonal_matrices_are_factored_one_after_the_other():
    """Batches of factorisations side by side wait for each other's threads."""
    net = stack(MLP((5, 1), kernel_init="orthogonal"), 2)
    init = lambda key: net.init(key, jnp.zeros(3))

    def factorings(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "qr":
                yield eqn.invars[0].aval.ndim
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from factorings(getattr(inner, "jaxpr", inner))

    keys = jax.random.split(jax.random.key(1), 3)
    assert list(factorings(jax.make_jaxpr(jax.vmap(init))(keys).jaxpr)) == [2, 2]
    members, second = jax.vmap(init)(keys), init(keys[1])
    jax.tree.map(lambda m, one: np.testing.assert_array_equal(m[1], one), members, second)


@pytest.mark.usefixtures("all_bits")
def test_a_stack_is_its_networks_one_by_one():
    net, x = MLP((8, 3), "tanh", norm=True), jnp.float32(RNG.normal(size=(5, 4)))
    many = stack(net, 3)
    params = many.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda p: (3, *p.shape), net.init(jax.random.key(0), x))
    out = many.apply(params, x)
    assert out.shape == (3, 5, 3) and many == stack(net, 3)  # static: programs are shared by equal modules
    for i in range(3):
        np.testing.assert_allclose(out[i], net.apply(head(params, i), x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(out[0], out[1])


# ----------------------------------------------------------------------------------------------------------- distributions


def test_normal_log_prob_entropy_and_kl():
    x, mean, log_std = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)) * 0.5
    expected = scipy.stats.norm.logpdf(x, mean, np.exp(log_std)).sum(-1)
    normal = dist.Normal(jnp.float32(mean), jnp.float32(log_std))
    np.testing.assert_allclose(normal.log_prob(jnp.float32(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(normal.entropy(), scipy.stats.norm.entropy(0, np.exp(log_std)).sum(-1), rtol=1e-5)
    m2, s2 = RNG.normal(size=(3, 4)), RNG.normal(size=(3, 4)) * 0.3
    p, q = np.exp(log_std), np.exp(s2)
    kl = (np.log(q / p) + (p**2 + (mean - m2) ** 2) / (2 * q**2) - 0.5).sum(-1)
    np.testing.assert_allclose(normal.kl(dist.Normal(jnp.float32(m2), jnp.float32(s2))), kl, rtol=2e-5)
    drawn = jax.vmap(normal.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(drawn.std(0), np.exp(log_std), rtol=0.05)


def test_categorical_log_prob_entropy_and_kl():
    p, q = RNG.dirichlet(np.ones(5), 3), RNG.dirichlet(np.ones(5), 3)
    one, two = (dist.Categorical(jnp.float32(np.log(x) + 3.0)) for x in (p, q))  # logits need no normalising
    choice = np.array([0, 4, 2])
    np.testing.assert_allclose(one.log_prob(jnp.asarray(choice)), np.log(p[np.arange(3), choice]), rtol=1e-5)
    np.testing.assert_allclose(one.entropy(), scipy.stats.entropy(p, axis=1), rtol=1e-5)
    np.testing.assert_allclose(one.kl(two), scipy.stats.entropy(p, q, axis=1), rtol=1e-4)
    np.testing.assert_array_equal(one.mode(), p.argmax(1))
    drawn = jax.vmap(one.sample)(jax.random.split(jax.random.key(0), 20_000))
    assert drawn.dtype == jnp.int32
    np.testing.assert_allclose(np.stack([(drawn == k).mean(0) for k in range(5)], 1), p, atol=0.02)


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
    reference, state, opt = params, optim.optimizer(0.0).init(params), optax.adam(0.02)
    ref_state, traces = opt.init(params), []

    @jax.jit
    def step(params, grads, state, lr):
        traces.append(1)
        return optim.apply_gradients(optim.optimizer(lr), params, grads, state)

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
    chain = optim.optimizer(jnp.float32(1.0), max_grad_norm=jnp.float32(0.5))
    mu = optax.tree.get(optim.apply_gradients(chain, zero, grads, chain.init(zero))[1], "mu")
    np.testing.assert_allclose([mu["a"][0], mu["b"][0]], [0.1 * 0.3, 0.1 * 0.4], rtol=1e-5)


def test_rates_by_group_and_decoupled_decay():
    """Adam's first step is the rate times the sign of the gradient; decay adds its share of the parameter, at the same rate."""
    params, grads = (
        {"a": jnp.array([2.0]), "b": {"w": jnp.array([-4.0])}},
        {"a": jnp.array([3.0]), "b": {"w": jnp.array([-1.0])}},
    )

    @jax.jit
    def step(rates, decay):
        chain = optim.optimizer(rates, weight_decay=decay)
        return optim.apply_gradients(chain, params, grads, chain.init(params))[0]

    new = step({"a": jnp.float32(0.1), "b": jnp.float32(0.5)}, jnp.float32(0.25))
    np.testing.assert_allclose([new["a"][0], new["b"]["w"][0]], [2 - 0.1 * (1 + 0.5), -4 - 0.5 * (-1 - 1)], rtol=1e-5)


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
