"""SAC's formulas against numbers computed by hand and a float64 implementation of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import rlx.envs
from rlx import agents
from rlx.agents import offpolicy, sac
from rlx.replay import Index, Transitions
from rlx.types import Clock, Problem

from .numpy_nets import dense, double, forward, heads, slopes

pytestmark = pytest.mark.usefixtures("all_bits")  # formulas are compared with float64, and programs with each other

B, N, M = 6, 4, 2
CLOCK = Clock(*[jnp.int32(0)] * 3)
NETS = offpolicy.networks((5,), 2 * M)


@pytest.fixture(scope="module")
def agent():
    problem = Problem({"train": rlx.envs.make("rlx:point-mass")})
    return agents.make("sac", None, problem, hidden=(5,), init_temperature=0.3, temperature_lr=0.01, critic_lr=0.02, tau=0.25)


def transitions(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))
    discount = jnp.array([0.9, 0.0, 0.9, 0.81, 0.0, 0.9])
    flags = jnp.zeros(B, bool), {}, jnp.ones(B), Index(jnp.arange(B), jnp.zeros(B, int))
    return Transitions(draw(B, N), jnp.tanh(draw(B, M)), draw(B), discount, draw(B, N), *flags)


def started(agent, seed=0):
    """A state whose networks are all different from each other and whose policy is far from zero."""
    hyper = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    state = agent.init(jax.random.key(seed), hyper)
    shifted = lambda name, by: jax.tree.map(
        lambda x: x + by * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.learned[name]
    )
    return state._replace(learned={**state.learned, "actor": shifted("actor", 0.4), "target": shifted("target", 0.3)})


def policy(actor, obs, noise):
    """Action and log-probability in float64, from the density of the squashed sample itself."""
    mean, raw = np.split(forward(actor, obs), 2, -1)
    std = np.exp(-10 + 12 / (1 + np.exp(-raw)))
    x = mean + std * noise
    return np.tanh(x), (stats.norm.logpdf(x, mean, std) - np.log(1 - np.tanh(x) ** 2)).sum(-1)


def q_values(critics, obs, action):
    return [forward(c, np.concatenate([obs, action], -1))[:, 0] for c in heads(critics)]


def moment(state, name):
    """Adam's first moment."""
    return optax.tree.get(state.learned["opt"][name], "mu")


def noise_of(key):
    return np.asarray(jax.random.normal(key, (B, M)), np.float64)


def test_targets_by_hand():
    """Networks that are constants: Q' is (2, 3), the policy N(0, 1) before tanh."""
    nets = offpolicy.networks((), 2 * M)
    constant = lambda out: dense((jnp.zeros((N, len(out))), jnp.array(out)))
    critics = dense((jnp.zeros((2, N + M, 1)), jnp.array([[2.0], [3.0]])))
    raw = float(np.log((10 / 12) / (2 / 12)))  # log std 0
    learned = {"actor": constant([0.0, 0.0, raw, raw]), "target": critics, "log_temperature": jnp.log(0.5)}
    batch, key = transitions(), jax.random.key(4)
    x = noise_of(key)
    log_prob = (-0.5 * x**2 - 0.9189385332 - np.log(1 - np.tanh(x) ** 2)).sum(-1)
    want = np.asarray(batch.reward) + np.asarray(batch.discount) * (2 - 0.5 * log_prob)
    got = sac.targets(nets, learned, batch, key)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_array_equal(got[jnp.array([1, 4])], batch.reward[jnp.array([1, 4])])  # terminal: the reward alone


def test_losses_and_gradients_equal_float64(agent):
    learned, batch, key = started(agent).learned, transitions(1), jax.random.key(7)
    wide, obs, action = double(learned), *map(double, (batch.obs, batch.action))
    a, log_prob = policy(wide["actor"], double(batch.next_obs), noise_of(key))
    soft = np.minimum(*q_values(wide["target"], double(batch.next_obs), a)) - np.exp(wide["log_temperature"]) * log_prob
    y = double(batch.reward) + double(batch.discount) * soft
    np.testing.assert_allclose(sac.targets(NETS, learned, batch, key), y, rtol=1e-4)

    fit = lambda critics: sum(((q - y) ** 2).mean() for q in q_values(critics, obs, action))
    (loss, q_mean), grads = jax.value_and_grad(offpolicy.critic_loss, has_aux=True)(
        learned["critics"], NETS.critics, batch, jnp.float32(y)
    )
    np.testing.assert_allclose(
        [loss, q_mean], [fit(wide["critics"]), q_values(wide["critics"], obs, action)[0].mean()], rtol=1e-4
    )
    slopes(fit, wide["critics"], grads)

    def improve(actor):
        a, log_prob = policy(actor, obs, noise_of(key))
        return (0.3 * log_prob - np.minimum(*q_values(wide["critics"], obs, a))).mean()

    gradient = jax.value_and_grad(sac.actor_loss, has_aux=True)
    (loss, log_prob), grads = gradient(learned["actor"], NETS, learned["critics"], jnp.float32(0.3), batch.obs, key)
    np.testing.assert_allclose(loss, improve(wide["actor"]), rtol=1e-4)
    np.testing.assert_allclose(log_prob, policy(wide["actor"], obs, noise_of(key))[1].mean(), rtol=1e-4)
    slopes(improve, wide["actor"], grads)


def test_one_update(agent):
    """Critics go first, the actor follows the new critics, targets move by tau, the temperature towards the entropy asked."""
    state, batch, key = started(agent), transitions(2), jax.random.key(9)
    old, (k1, k2) = state.learned, jax.random.split(key)
    new, out = jax.jit(agent.stages[1].phases[1].update)(state, CLOCK, batch, key)
    y = sac.targets(NETS, old, batch, k1)
    grads = jax.grad(offpolicy.critic_loss, has_aux=True)(old["critics"], NETS.critics, batch, y)[0]
    close = lambda got, want: jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), got, want)
    close(moment(new, "critics"), jax.tree.map(lambda g: 0.1 * g, grads))
    critics = jax.tree.map(lambda p, g: p - 0.02 * g / (jnp.abs(g) + 1e-8), old["critics"], grads)  # Adam's first step
    close(new.learned["critics"], critics)
    grads, log_prob = jax.grad(sac.actor_loss, has_aux=True)(old["actor"], NETS, critics, jnp.float32(0.3), batch.obs, k2)
    close(moment(new, "actor"), jax.tree.map(lambda g: 0.1 * g, grads))
    close(new.learned["target"], jax.tree.map(lambda t, c: 0.75 * t + 0.25 * c, old["target"], critics))
    close(out.metrics["actor/entropy"], -log_prob)
    # d/dlog_temperature of -log_temperature (log pi + target), target = -1 per dimension
    close(moment(new, "log_temperature"), 0.1 * -(log_prob - M))
    assert float(new.learned["log_temperature"] - old["log_temperature"]) == pytest.approx(
        0.01 * np.sign(float(log_prob) - M), rel=1e-3
    )
