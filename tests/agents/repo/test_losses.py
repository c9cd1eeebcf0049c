"""The formulas, against numbers by hand."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.repo import behaviour, losses, world
from rlx.nn.distributions import Normal, tanh_log_det, tanh_normal_entropy
from rlx.nn.optim import apply_gradients, optimizer

pytestmark = pytest.mark.usefixtures("all_bits")
SHARE = losses.prior_share(5.0)  # 5/6


def normal(mean, std, n=1) -> Normal:
    return Normal(jnp.full(n, mean, jnp.float32), jnp.full(n, jnp.log(std)))


@pytest.mark.parametrize(
    ("q", "p", "n", "kl"),
    [
        ((1.0, 0.5), (0.0, 1.0), 1, 0.8181472),
        ((1.0, 0.5), (0.0, 1.0), 30, 24.5444154),
        ((0.5, 0.2), (-0.1, 0.4), 1, 1.4431472),
        ((0.3, 0.7), (0.3, 0.7), 4, 0.0),
    ],
)
@pytest.mark.parametrize("k", [0.2, 1.0, 5.0, None])
def test_divergence_is_the_same_however_its_gradient_is_split(q, p, n, kl, k):
    share = None if k is None else losses.prior_share(k)
    np.testing.assert_allclose(losses.divergence(normal(*q, n), normal(*p, n), share), kl, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_balanced_divergence():
    beta = np.exp(-2.0)

    def cost(mq, sq, mp, sp):
        q, p = (Normal(m[None], jnp.log(s)[None]) for m, s in ((mq, sq), (mp, sp)))
        return beta * (losses.divergence(q, p, SHARE) - 3.0)

    found = jax.grad(cost, (0, 1, 2, 3))(*map(jnp.float32, (1.0, 0.5, 0.0, 1.0)))
    np.testing.assert_allclose(found, [0.0225559, -0.0338338, -0.1127794, -0.0281949], rtol=1e-5)
    whole = beta * (losses.divergence(normal(1.0, 0.5, 30), normal(0.0, 1.0, 30), SHARE) - 3.0)
    np.testing.assert_allclose(whole, 2.9157196, rtol=1e-5)


@pytest.mark.parametrize(
    ("lambda_", "wanted"),
    [(0.95, [12.1913132, 11.6361650, 9.93]), (0.0, [5.95, 7.94, 9.93]), (1.0, [12.7123930, 11.8307, 9.93])],
)
def test_returns_of_imagined_states(lambda_, wanted):
    """The last state stands for its value; the reward there is in it."""
    reward, value = jnp.float32([1, 2, 3, 50]), jnp.float32([4, 5, 6, 7])
    found = behaviour.returns(reward, jnp.full(4, 0.99), value, lambda_)
    np.testing.assert_allclose(found, [*wanted, 7.0], rtol=1e-6)
    same = behaviour.returns(jnp.ones(9), jnp.full(9, 0.99), jnp.full(9, 100.0), lambda_)
    np.testing.assert_allclose(same, 100.0, rtol=1e-6)


@functools.partial(jax.jit, static_argnums=2)
def multiplier(start, violation, steps, least=0.0, most=jnp.inf):
    h = {"beta_lr": jnp.float32(1e-4), "least_beta": jnp.float32(least), "most_beta": jnp.float32(most)}
    log_beta = jnp.log(jnp.float32(start))
    one = lambda c, _: (world.dual_step(*c, violation, h), None)
    return jax.lax.scan(one, (log_beta, world.dual_chain(h).init(log_beta)), None, steps)[0][0]


def test_the_multiplier_goes_up_where_the_bound_is_broken_and_down_where_it_is_not():
    np.testing.assert_allclose(multiplier(1e-5, 2.0, 1), -11.5128255, rtol=1e-6)
    # steps of 1e-4 on float32 numbers near -11.5, whose neighbours are 1e-6 apart
    for violation, wanted in ((2.0, 1.10517e-5), (-0.5, 9.04837e-6)):
        np.testing.assert_allclose(np.exp(multiplier(1e-5, violation, 1000)), wanted, rtol=2e-4)


def test_the_multiplier_goes_no_lower_than_it_may():
    np.testing.assert_allclose(np.exp(multiplier(1e-2, -0.5, 1000, 9.5e-3)), 9.5e-3, rtol=1e-5)
    np.testing.assert_allclose(np.exp(multiplier(1e-2, 0.5, 1000, 9.5e-3)), 1.10517e-2, rtol=2e-4)
    np.testing.assert_allclose(np.exp(multiplier(1e-2, 0.5, 1000, 9.5e-3, 1.05e-2)), 1.05e-2, rtol=1e-5)  # and no higher


def test_rewards_that_belong_to_no_transition_count_for_nothing():
    predicted, target = jnp.float32([[0, 1], [2, -1]]), jnp.float32([[1, 1], [0, 1]])
    joined = jnp.bool_([[1, 0], [1, 1]])
    np.testing.assert_allclose(losses.masked_mean(losses.nll(predicted, target), joined), 1.8142039, rtol=1e-6)


def test_density_and_entropy_of_squashed_actions():
    x = jnp.float32([0.5, 20.0, -20.0])
    density = Normal(jnp.zeros((3, 1)), jnp.zeros((3, 1))).log_prob(x[:, None]) - tanh_log_det(x)
    np.testing.assert_allclose(density[0], -0.8037095, rtol=1e-6)
    assert np.isfinite(density).all()
    grid = np.linspace(-12, 12, 200_001)
    for mean, std in ((0.0, 0.8), (1.5, 0.5), (-3.0, 1.2)):
        p = np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
        log_det = 2 * (np.log(2) - grid - np.logaddexp(0, -2 * grid))
        wanted = -np.trapezoid(p * (np.log(np.maximum(p, 1e-300)) - log_det), grid)
        found = tanh_normal_entropy(jnp.float32([mean, mean]), jnp.log(jnp.float32([std, std])), 16)
        np.testing.assert_allclose(found, 2 * wanted, atol=2e-3)


def test_agreement_of_two_views():
    """The entries are independent. Views that agree in one and are opposed in the other: (1 - -1)^2."""
    x = jnp.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    np.testing.assert_allclose(losses.barlow(x, 3 * x + 1, 0.1), 0.0, atol=1e-5)
    np.testing.assert_allclose(losses.barlow(x, x * jnp.float32([1, -1]), 0.1), 4.0, rtol=1e-5)
    swapped = losses.barlow(x, x[:, ::-1], 0.1)  # 1 + 1 on the diagonal, 0.1 (1 + 1) off it
    np.testing.assert_allclose(swapped, 2.2, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- the bottleneck


def descend(loss, params, steps, lr=3e-2):
    """Adam on ``loss(params, log_beta) -> (value, violation)``, and the multiplier's ascent with it."""
    h = {"beta_lr": jnp.float32(1e-2), "least_beta": jnp.float32(0), "most_beta": jnp.float32(jnp.inf)}
    log_beta = jnp.log(jnp.float32(0.1))

    @jax.jit
    def run():
        def one(carry, _):
            params, opt, log_beta, dual = carry
            (_, violation), grads = jax.value_and_grad(loss, has_aux=True)(params, log_beta)
            params, opt = apply_gradients(optimizer(lr), params, grads, opt)
            return (params, opt, *world.dual_step(log_beta, dual, violation, h)), None

        begin = params, optimizer(lr).init(params), log_beta, world.dual_chain(h).init(log_beta)
        return jax.lax.scan(one, begin, None, steps)[0]

    found = run()
    return found[0], float(jnp.exp(found[2]))


@pytest.mark.parametrize(("share", "beta"), [(None, 0.3679), (SHARE, 2.2073)])
def test_dual_ascent_finds_the_multiplier_of_a_bottleneck_that_has_a_closed_form(share, beta):
    """A reward x ~ N(0, 1) seen through z ~ N(a x, s^2), its prior N(0, 1) fixed, read by w z: at KL <= 0.5, s^2 = e^-1. With
    the balanced gradient the posterior feels a sixth of the multiplier, which has to be six times as large."""

    def loss(p, log_beta):
        posterior = Normal(p["a"][None], p["log_s"][None])  # at x = 1, whose square is the mean one
        kl = losses.divergence(posterior, Normal(jnp.zeros(1), jnp.zeros(1)), share)
        reward = 0.5 * (1 - p["w"] * p["a"]) ** 2 + 0.5 * (p["w"] * jnp.exp(p["log_s"])) ** 2
        return reward + jax.lax.stop_gradient(jnp.exp(log_beta)) * (kl - 0.5), kl - 0.5

    p, found = descend(loss, {"a": jnp.float32(0.5), "log_s": jnp.float32(-0.3), "w": jnp.float32(0.5)}, 5_000)
    np.testing.assert_allclose(np.exp(2 * p["log_s"]), 0.3679, rtol=0.03)
    np.testing.assert_allclose(p["a"] ** 2, 1 - 0.3679, rtol=0.03)
    np.testing.assert_allclose(found, beta, rtol=0.03)


@pytest.mark.parametrize(("share", "kept"), [(SHARE, True), (0.5, False), (None, False)])
def test_a_prior_that_goes_farther_than_the_posterior_keeps_what_predicts_itself(share, kept):
    """x' = 0.95 x + sqrt(1 - 0.95^2) N(0, 1), which nothing rewards, by states of N(a x, s^2) and a prior of N(m state, p^2).
    The prior's share of the gradient asks a state to tell of the next one, k times as loud as what that costs: it comes to
    rest at s^2 (1 + k m^2) = p^2, where a state keeps log(1 + k m^2) / 2 nats, whatever their price. For k <= 1 none."""
    x, moved, noise = jnp.float32(list(itertools.product((1, -1), repeat=3))).T  # the mean squares are those of N(0, 1)
    after = 0.95 * x + (1 - 0.95**2) ** 0.5 * moved

    def loss(p):
        before = p["a"] * x + jnp.exp(p["log_s"]) * noise
        gaussian = lambda mean, log_std: Normal(mean[:, None], jnp.broadcast_to(log_std, (8, 1)))
        return losses.divergence(gaussian(p["a"] * after, p["log_s"]), gaussian(p["m"] * before, p["log_p"]), share).mean()

    start = {k: jnp.float32(v) for k, v in {"a": 1.0, "log_s": -1.2, "m": 0.9, "log_p": 0.0}.items()}
    down = lambda p, _: (jax.tree.map(lambda x, slope: x - 0.05 * slope, p, jax.grad(loss)(p)), None)
    p = jax.jit(lambda p: jax.lax.scan(down, p, None, 4_000)[0])(start)
    if kept:
        np.testing.assert_allclose(np.exp(2 * (p["log_p"] - p["log_s"])), 1 + 5 * p["m"] ** 2, rtol=1e-4)
        np.testing.assert_allclose(loss(p), np.log(1 + 5 * p["m"] ** 2) / 2, rtol=1e-4)
        np.testing.assert_allclose(loss(p), 0.8304, rtol=1e-3)
    else:
        np.testing.assert_allclose(loss(p), 0, atol=1e-4)


@pytest.mark.parametrize(("reconstructs", "of_y", "kl"), [(False, 0.0, 1.1513), (True, 0.9487, 2.3026)])
def test_what_only_a_reconstruction_asks_for_is_not_kept(reconstructs, of_y, kl):
    """Two latents see the rewarded x and an independent y, at a multiplier of 0.1."""
    corners = jnp.float32([[1, 1], [1, -1]])  # of (x, y): the mean squares are those of N(0, 1)

    def divergence(p):
        posterior = Normal(corners @ p["weights"].T, jnp.broadcast_to(p["log_s"], (2, 2)))
        return losses.divergence(posterior, Normal(jnp.zeros((2, 2)), jnp.zeros((2, 2))), None).mean()

    def error(head, p, wanted):
        seen = head @ p["weights"]  # the weights of x and y in what the head reads
        return 0.5 * ((seen - wanted) ** 2).sum() + 0.5 * (head**2 * jnp.exp(2 * p["log_s"])).sum()

    def loss(p, log_beta):
        total = error(p["reward"], p, jnp.float32([1, 0])) + 0.1 * divergence(p)
        return total + (error(p["decoder"], p, jnp.float32([0, 1])) if reconstructs else 0.0), jnp.float32(0)

    draw = lambda k, *shape: 0.5 * jax.random.normal(jax.random.key(k), shape)
    p, _ = descend(loss, {"weights": draw(0, 2, 2), "log_s": draw(1, 2), "reward": draw(2, 2), "decoder": draw(3, 2)}, 5_000)
    np.testing.assert_allclose(np.linalg.norm(p["weights"][:, 1]), of_y, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(p["weights"][:, 0]), 0.9487, atol=0.02)
    np.testing.assert_allclose(divergence(p), kl, rtol=0.03)
    if reconstructs:
        np.testing.assert_allclose(np.exp(2 * p["log_s"]), 0.1, rtol=0.03)
