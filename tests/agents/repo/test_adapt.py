"""Test-time adaptation: divergences of small tables, the critic's bottleneck, and an encoder that is brought back."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.repo import adapt
from rlx.nn.distributions import Normal

pytestmark = pytest.mark.usefixtures("all_bits")
P, Q = np.repeat(np.arange(3), (5, 3, 2)), np.repeat(np.arange(3), (1, 1, 2))  # (.5, .3, .2) and (.25, .25, .5) as samples


def test_the_best_critic_of_two_tables_gives_their_divergence():
    """d* = 2 (p / q - 1) = (2, .4, -1.2), and sum q (p / q - 1)^2 = .44."""
    one = jnp.ones(len(P))
    best = jnp.float32([2, 0.4, -1.2])
    assert adapt.divergence(one, best[P], best[Q]) == pytest.approx(0.44, abs=1e-6)
    d = jnp.zeros(3)
    climb = jax.jit(lambda d: d + 0.5 * jax.grad(lambda d: adapt.divergence(one, d[P], d[Q]))(d))
    for _ in range(200):
        d = climb(d)
    np.testing.assert_allclose(d, best, atol=1e-4)


def test_weights_make_a_narrower_target_free_where_a_discriminator_charges_for_it():
    """p = (.25, .25, .5) covers q = (.5, .5, 0): with tau = (2, 2, 0) nothing is left. The divergence of Jensen and Shannon, by
    which a discriminator goes, is .2157."""
    p, q = np.array([0, 1, 2, 2]), np.array([0, 1])
    tau, d = jnp.float32([2, 2, 0]), jnp.float32([0.7, -0.3, 5])
    assert tau[p].mean() == 1
    assert adapt.divergence(tau[p], jnp.zeros(4), jnp.zeros(2)) == 0 and adapt.divergence(tau[p], d[p], d[q]) <= 0
    best = jnp.float32([np.log(0.5), np.log(0.5), 30])
    shannon = np.log(2) - adapt.told_apart(best[p], best[q]) / 2
    assert shannon == pytest.approx(0.2157, abs=1e-4)

    def one(carry, _):
        d, log_tau, u = carry
        d = d + 0.3 * jax.grad(lambda d: adapt.divergence(jnp.exp(log_tau)[p], d[p], d[q]))(d)
        slopes = jax.grad(lambda x: adapt.weighted(jnp.exp(x)[p], d[p], u))(log_tau)
        u = u + 0.05 * (jnp.exp(log_tau)[p].mean() - 1)
        return (d, log_tau - 0.05 * slopes, u), None

    d, log_tau, _ = jax.jit(lambda x: jax.lax.scan(one, x, None, 4000)[0])((jnp.zeros(3), jnp.zeros(3), jnp.float32(1e-4)))
    tau = jnp.exp(log_tau)
    np.testing.assert_allclose(tau, [2, 2, 0], atol=0.01)
    assert 0 <= adapt.divergence(tau[p], d[p], d[q]) < 0.01


def test_bottleneck_of_the_critic():
    seen = Normal(jnp.float32([[1, 0]]), jnp.log(jnp.float32([[1, 0.5]])))
    assert adapt.through_bottleneck(seen, seen) == pytest.approx(0.8181472, rel=1e-6)
    price, found = jnp.float32(0.1), []
    for kl in (0.5, 0.5, 0.0, 0.0):
        price = adapt.bottleneck_step(price, kl, 0.1, 5e-3)
        found.append(float(price))
    np.testing.assert_allclose(found, [0.102, 0.104, 0.1035, 0.103], rtol=1e-5)
    assert adapt.bottleneck_step(1e-5, 0.0, 0.1, 5e-3) == 0


def test_slopes_of_a_linear_critic_are_its_weights():
    v, e = jnp.float32([1, -2, 0.5]), jax.random.normal(jax.random.key(0), (7, 3))
    assert adapt.slope_penalty(lambda e: e @ v + 4, e) == pytest.approx(5.25, rel=1e-6)
    quadratic = adapt.slope_penalty(lambda e: (e**2).sum(-1), e)
    assert quadratic == pytest.approx(float(4 * (e**2).sum(-1).mean()), rel=1e-5)


def test_the_same_domain_costs_half_of_log_two_pi_and_pulls_nowhere():
    embed = lambda params, x: jnp.tanh(x @ params)
    params, x = jax.random.normal(jax.random.key(0), (4, 3)), jax.random.normal(jax.random.key(1), (6, 4))
    cost = lambda target: adapt.calibration(embed(params, x), embed(target, x))
    value, slopes = jax.value_and_grad(cost)(params)
    assert value == pytest.approx(0.9189385, rel=1e-6) and not np.asarray(slopes).any()


@pytest.mark.parametrize("n", [1, 5])
def test_calibration_takes_pairs_alone(n):
    with pytest.raises(ValueError, match=rf"embeddings \[6, 3\] of the source and \[{n}, 3\] of the target; give as many"):
        adapt.calibration(jnp.zeros((6, 3)), jnp.zeros((n, 3)))


# ------------------------------------------------------------------------------------------------------------- one encoder

RATES = {
    "encoder_lr": 3e-3, "critic_lr": 3e-3, "weight_lr": 1e-3, "multiplier_lr": 5e-3, "price_lr": 5e-3, "critic_kl": 0.5,
    "penalty": 1.0, "align": 1.0, "init_multiplier": 1e-4, "init_price": 0.1,
}  # fmt: skip


def embed(params, x):
    return x + params["shift"]


def adapted(kind, steps, calibrate=lambda encoder: jnp.float32(0)):
    """The source is seen all over [-1, 1]^2; the target only in [0, 1]^2, and all is moved by (0.8, -0.5) there."""
    alignment = adapt.Alignment(embed, kind, 2, hidden=32, latent=8)
    h = {k: jnp.float32(v) for k, v in RATES.items()}
    source = {"shift": jnp.zeros(2)}
    state = alignment.init(jax.random.key(0), source, h)

    @functools.partial(jax.jit, static_argnums=1)
    def train(state, n):
        def one(state, key):
            k = jax.random.split(key, 3)
            seen = jax.random.uniform(k[0], (128, 2)) + jnp.float32([0.8, -0.5])
            frames = adapt.Frames(jax.random.uniform(k[1], (128, 2), minval=-1), seen)
            return alignment.step(state, source, frames, calibrate, h, k[2])

        return jax.lax.scan(one, state, jax.random.split(jax.random.key(1), n))

    return alignment, state, *train(state, steps)


@pytest.mark.slow
def test_support_brings_embeddings_back_to_where_the_source_was():
    _, before, after, said = adapted("support", 1500)
    corners = np.array([[0, 0], [1, 1]]) + [0.8, -0.5] + np.asarray(after.encoder["shift"])
    assert np.abs(corners).max() < 1.15  # 1.8 before
    assert said["weight/mean"][-200:].mean() == pytest.approx(1, abs=0.25)
    assert np.isfinite(said["critic/loss"]).all() and not np.asarray(before.encoder["shift"]).any()


@pytest.mark.parametrize("kind", ["support", "distribution", None])
def test_calibration_alone_is_enough_where_there_are_pairs(kind):
    pairs = jax.random.uniform(jax.random.key(9), (64, 2), minval=-1)
    moved = pairs + jnp.float32([0.8, -0.5])
    calibrate = lambda encoder: 10 * adapt.calibration(pairs, embed(encoder, moved))
    alignment, before, after, said = adapted(kind, 400, calibrate)
    np.testing.assert_allclose(after.encoder["shift"], [-0.8, 0.5], atol=0.1)
    assert (after.weight != ()) == (kind == "support") and set(said) >= {"encoder/calibration"}
    if kind is None:
        assert set(said) == {"encoder/calibration"} and after.critic == ()


@pytest.mark.parametrize("kind", ["support", "distribution"])
def test_the_encoder_goes_down_its_part_of_the_alignment(kind):
    """The critic as it is, the same pictures and the same noise: what the encoder is charged falls step by step."""
    alignment = adapt.Alignment(embed, kind, 2, hidden=32, latent=8)
    still = {"critic_lr": 0.0, "weight_lr": 0.0, "multiplier_lr": 0.0, "price_lr": 0.0, "encoder_lr": 1e-2}
    h = {k: jnp.float32(v) for k, v in {**RATES, **still}.items()}
    source, k = {"shift": jnp.zeros(2)}, jax.random.split(jax.random.key(3), 2)
    frames = adapt.Frames(*(jax.random.uniform(key, (64, 2), minval=-1) for key in k))
    step = jax.jit(lambda s: alignment.step(s, source, frames, lambda encoder: jnp.float32(0), h, jax.random.key(4)))
    state, charged = alignment.init(jax.random.key(0), source, h), []
    for _ in range(5):
        state, said = step(state)
        charged.append(float(said["encoder/alignment"]))
    assert np.all(np.diff(charged) < 0)
