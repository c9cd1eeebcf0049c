"""The losses of model and behaviour as a whole, against numbers by hand and by numpy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.agents.repo import behaviour, world
from rlx.agents.repo.networks import BEHAVIOUR
from rlx.dynamics.rssm import Filtered
from rlx.nn.distributions import Normal, tanh_normal_entropy

from .test_agent import made, method_of, rows, started

pytestmark = pytest.mark.usefixtures("all_bits")
WEIGHTS = {"prior_train_steps": 3.0, "target_kl": 2.0, "free_nats": 3.0, "beta_gain": 0.0, "most_beta": np.inf}


@pytest.mark.parametrize(
    ("settings", "cost", "of_posterior", "of_prior"),
    [
        ({}, 0.5 * 1.0, 0.25 * 0.5, 0.75 * 0.5),  # beta (KL - target); a quarter of the gradient to the posterior
        ({"balanced": False}, 0.5 * 1.0, 0.5, 0.5),
        ({"bottleneck": "fixed"}, 0.5 * 1.0, 0.25 * 0.5, 0.75 * 0.5),
        ({"bottleneck": "free_nats"}, 4.0, (0, 1.0), (0, 1.0)),  # (max(1, 3) + 5) / 2: the first step's nats are free
    ],
)
def test_what_the_divergence_costs_and_whom(settings, cost, of_posterior, of_prior):
    """Two steps of 1 and 5 nats: unit Gaussians that are sqrt(2) and sqrt(10) apart."""
    net, away = method_of(**settings).net, np.sqrt([2.0, 10.0])
    h = {k: jnp.float32(v) for k, v in WEIGHTS.items()}

    def price(posterior, prior):
        normal = lambda mean: Normal(mean[:, None, None], jnp.zeros((2, 1, 1)))
        return world.bottleneck(net, Filtered(None, normal(posterior), normal(prior)), jnp.float32(0.5), h)

    given = jnp.float32(away), jnp.zeros(2)
    value, kl = price(*given)
    np.testing.assert_allclose([value, kl], [cost, 3.0], rtol=1e-5)
    slopes = jax.grad(lambda *x: price(*x)[0], (0, 1))(*given)  # of KL / 2 steps by the means: their distance / 2
    np.testing.assert_allclose(slopes[0], of_posterior * away / 2, rtol=1e-5)
    np.testing.assert_allclose(slopes[1], -(of_prior * away) / 2, rtol=1e-5)


def test_agreement_teaches_embeddings_by_way_of_the_latent_and_survives_pictures_that_are_all_alike():
    method, given = method_of(objective="barlow"), rows()
    state, flat = started(made(objective="barlow")), given._replace(obs=jax.tree.map(np.zeros_like, given.obs))
    model = {k: state.learned["params"][k] for k in method.net.world}

    @jax.jit
    def slopes(p, rows, cut):
        w = world.window(method.net, rows)
        noise = jax.random.normal(jax.random.key(1), (*w.reward.shape, method.net.noises))
        own = {**p, "rssm": jax.tree.map(lambda x: cut * x, p["rssm"])}
        return jax.grad(lambda e: world.loss({**own, "encoder": e}, method.net, w, noise, 0.3, state.hyper)[1].metrics[
            "model/barlow_loss"
        ])(p["encoder"])  # fmt: skip

    some = lambda tree: any(np.any(x) for x in jax.tree.leaves(tree))
    assert some(slopes(model, given, 1.0)) and not some(slopes(model, given, 0.0))  # a latent that sees nothing
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes(model, flat, 1.0)))


@pytest.mark.slow
def test_the_model_of_distractors_is_to_hide_rewards():
    """By as much as the weight of it grows the loss goes down by what the head has still wrong."""
    method, own = method_of(objective="tia", bottleneck="free_nats"), {"objective": "tia", "bottleneck": "free_nats"}
    state, w = started(made(**own)), world.window(method.net, rows())
    noise = jax.random.normal(jax.random.key(1), (*w.reward.shape, method.net.noises))
    model = {k: state.learned["params"][k] for k in method.net.world}

    @jax.jit
    def total(adversary):
        value, found = world.loss(model, method.net, w, noise, jnp.float32(1), {**state.hyper, "tia_adversary": adversary})
        return value, found.metrics

    (none, said), (once, _), (twice, _) = (total(jnp.float32(x)) for x in (0, 1, 2))
    wrong = said["other/reward_loss"]
    assert wrong > 0.5
    np.testing.assert_allclose([once - none, twice - once], [-wrong, -wrong], rtol=1e-3)


@functools.cache
def by_numpy(continues: bool) -> tuple[float, float, dict[str, float]]:
    """The loss of actor and value, that of the value alone, and both by float64 loops over what was imagined."""
    method = method_of(continues=continues)
    net, state = method.net, started(made(continues=continues), discount=0.9, return_lambda=0.8, entropy_coef=0.2)
    params, h = state.learned["params"], state.hyper
    own, model = {k: params[k] for k in BEHAVIOUR}, {k: params[k] for k in net.world}
    start, alive = jax.tree.map(lambda x: x + 0.3, net.rssm.blank(6)), jnp.arange(6) > 0
    noise = behaviour.noise(net, jax.random.key(2), 6)
    slow = {"value": jax.tree.map(lambda x: 1.1 * x, params["value"])}
    total, said = jax.jit(lambda: behaviour.loss(own, net, model, slow, start, alive, noise, h))()

    features = behaviour.imagined(net, params, start, noise).features
    head = lambda p, name: np.asarray(net.head(p, name, features), np.float64)
    reward, value, judged = head(model, "reward"), head(slow, "value"), head(own, "value")
    go = 1 / (1 + np.exp(-head(model, "continue"))) if continues else np.ones_like(reward)
    normal = net.policy(params, features)
    entropy = np.asarray(tanh_normal_entropy(normal.mean, normal.log_std, net.config.entropy_nodes), np.float64)
    steps, n = reward.shape
    actor, critic = 0.0, 0.0
    for i in range(n):
        returns, weight = [0.0] * (steps - 1) + [value[-1, i]], 1.0 if not continues else float(alive[i])
        for j in reversed(range(steps - 1)):
            returns[j] = reward[j, i] + 0.9 * go[j, i] * (0.2 * value[j + 1, i] + 0.8 * returns[j + 1])
        for j in range(steps):
            actor -= weight * (returns[j] + 0.2 * entropy[j, i]) / (steps * n)
            if j < steps - 1:
                critic += weight * (0.5 * (judged[j, i] - returns[j]) ** 2 + 0.5 * np.log(2 * np.pi)) / ((steps - 1) * n)
            weight *= go[j, i]
    return float(total), float(said["critic/loss"]), {"actor": actor, "critic": critic}


@pytest.mark.parametrize("continues", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_loss_of_behaviour_is_that_of_a_loop(continues):
    total, critic, wanted = by_numpy(continues)
    np.testing.assert_allclose(critic, wanted["critic"], rtol=1e-4)
    np.testing.assert_allclose(total - critic, wanted["actor"], rtol=1e-3)
