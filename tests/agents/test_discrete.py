"""Actions that are one of several choices: PPO takes them, the others say who does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import ppo
from rlx.envs.probes import DISCRETE_PROBES
from rlx.replay import Index, Sequences
from rlx.train import Options, run
from rlx.types import Clock, Problem, Row, Step

from .numpy_nets import double, forward, slopes

SETTINGS = {"env_steps": 8_192, "n_envs": 8, "steps": 32, "minibatches": 4, "hidden": (32,), "lr": 3e-3, "eval_every": 10**6}
QUIET = Options(progress=False)


@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
def test_ppo_solves_the_probe(host):
    problem = Problem({"train": rlx.envs.make("rlx:probe-discrete", host=host)})
    agent = agents.make("ppo", None, problem, **SETTINGS)
    assert agent.modes == ("explore", "eval")
    state = run(agent, problem, jax.random.key(0), options=QUIET).agent
    signs = np.array([-1.0, 1.0], np.float32)
    no = jnp.zeros(2, bool)
    step = Step(jnp.stack([jnp.asarray(signs), jnp.zeros(2)], -1), jnp.zeros(2), no, no, ~no, {})
    choice, _, _ = agent.act(state, None, (), step, jax.random.key(0), "eval")
    assert choice.dtype == jnp.int32
    np.testing.assert_array_equal(choice, DISCRETE_PROBES["discrete"].action(signs))
    drawn, _, extras = agent.act(state, None, (), step, jax.random.key(1), "explore")
    np.testing.assert_array_equal(extras["raw"], drawn)


def test_ppo_learns_gymnasiums_cart_pole():
    """In 16 384 decisions from falling over after some 20 to standing for 100 at least."""
    problem = Problem({"train": rlx.envs.make("gym:CartPole-v1")})
    agent = agents.make("ppo", None, problem, env_steps=16_384, n_envs=8, steps=128, lr=1e-3, eval_every=10**6)
    state = run(agent, problem, jax.random.key(0), options=QUIET)
    assert float(state.best["score"]) > 100


@pytest.mark.usefixtures("all_bits")
def test_the_loss_and_its_gradient_equal_float64():
    """One minibatch of four decisions, one of which is not followed by its successor."""
    t, n, m = 5, 2, 3
    config = ppo.Config(n_envs=1, steps=t, epochs=1, minibatches=1, hidden=(5,), normalize_obs=False, max_grad_norm=1e9)
    net = ppo.actor_critic(config, m, categorical=True)
    rng = np.random.default_rng(0)
    params = {
        "actor": net.actor.init(jax.random.key(0), jnp.zeros(n)),
        "critic": net.critic.init(jax.random.key(1), jnp.zeros(n)),
    }
    params = {**jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params), "log_std": jnp.zeros(0)}
    h = {k: jnp.float32(v) for k, v in {"value_bound": 1e9, "value_error_clip": 1e9, "clip": 0.2}.items()}
    h |= {"value_coef": jnp.float32(0.5), "entropy_coef": jnp.float32(0.1)}
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))
    old = net.policy({**params, "actor": jax.tree.map(lambda x: 0.9 * x, params["actor"])}, obs := draw(t, n))
    choice, weight = jnp.array([0, 2, 1, 1, 0]), jnp.array([1.0, 1, 1, 0, 1])
    samples = ppo.Samples(obs, choice, old.log_prob(choice), old.logits, draw(t), draw(t), draw(t), weight)

    def slow(wide):
        logits = forward(wide["actor"], double(obs), "tanh")
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        ratio = np.exp(log_p[np.arange(t), choice] - double(samples.log_prob))
        gain = np.minimum(ratio * double(samples.advantage), np.clip(ratio, 0.8, 1.2) * double(samples.advantage))
        error = (forward(wide["critic"], double(obs), "tanh")[:, 0] - double(samples.value_target)) ** 2
        q = np.exp(double(old.logits)) / np.exp(double(old.logits)).sum(1, keepdims=True)
        kl, entropy = (q * (np.log(q) - log_p)).sum(1), -(np.exp(log_p) * log_p).sum(1)
        return ((-gain + 0.25 * error - 0.1 * entropy + 0.3 * kl) * double(weight)).sum() / 4

    slope = jax.value_and_grad(ppo.loss, has_aux=True)
    (total, metrics), grads = slope(params, params, net, config, samples, h, jnp.float32(0.3))
    np.testing.assert_allclose(total, slow(double(params)), rtol=1e-4)
    assert float(metrics["actor/kl"]) > 1e-4
    slopes(slow, double(params), grads, every=3)


def test_rows_of_choices_go_through_the_update():
    problem = Problem({"train": rlx.envs.make("rlx:probe-discrete")})
    agent = agents.make("ppo", None, problem, n_envs=2, steps=4, minibatches=2, hidden=(8,))
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    shape, no = (5, 2), jnp.zeros((5, 2), bool)
    choice = jnp.arange(10, dtype=jnp.int32).reshape(shape) % 3
    extras = {"raw": choice, "log_prob": jnp.full(shape, -1.1)}
    row = Row(jnp.ones((*shape, 2)), jnp.ones(shape), no, no, no, {}, choice, extras, ~no)
    batch = Sequences(*row, jnp.ones(2), Index(jnp.zeros(2, int), jnp.arange(2)))
    new, out = jax.jit(agent.stages[0].phases[1].update)(state, Clock(*[jnp.int32(0)] * 3), batch, jax.random.key(0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((new.learned, out.metrics)))


@pytest.mark.parametrize("name", ["sac", "td3", "sindy_rl", "tdmpc"])
def test_others_name_ppo(name):
    with pytest.raises(ValueError, match=f"{name} takes actions that are vectors, not one of 3 choices: ppo takes these"):
        agents.make(name, None, Problem({"train": rlx.envs.make("rlx:probe-discrete")}))
