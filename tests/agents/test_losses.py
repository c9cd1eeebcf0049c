"""The agents' losses against float64 numpy, and what a run must keep: seeds, traced values, retraces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import rlx.envs
from rlx import agents
from rlx.agents import offpolicy, ppo, sac, td3
from rlx.nn.distributions import tanh_normal_sample
from rlx.replay import Index, Transitions
from rlx.train import Options, run
from rlx.types import Clock, Problem

from .numpy_nets import double, forward, heads

pytestmark = pytest.mark.usefixtures("all_bits")  # formulas are compared with float64, and programs with each other

B, N, M = 6, 3, 2


def batch():
    k = jax.random.split(jax.random.key(5), 5)
    return Transitions(
        obs=jax.random.normal(k[0], (B, N)),
        action=jax.random.uniform(k[1], (B, M), minval=-1, maxval=1),
        reward=jax.random.normal(k[2], (B,)),
        discount=jnp.array([0.9, 0.9, 0.0, 0.81, 0.9, 0.0]),
        next_obs=jax.random.normal(k[3], (B, N)),
        terminated=jnp.array([0, 0, 1, 0, 0, 1], bool),
        extras={},
        weight=jnp.ones(B),
        index=Index(jnp.zeros(B, jnp.int32), jnp.zeros(B, jnp.int32)),
    )


def nets(out):
    """Modules, and parameters of an actor with ``out`` outputs, of critics and of their targets."""
    k, made = jax.random.split(jax.random.key(2), 3), offpolicy.networks((8,), out)
    critics = (made.critics.init(key, jnp.zeros(N + M)) for key in k[1:])
    return made, made.actor.init(k[0], jnp.zeros(N)), *critics


def q64(critics, obs, action):
    x = np.concatenate([np.float64(obs), np.float64(action)], -1)
    return [forward(c, x)[:, 0] for c in heads(double(critics))]


@pytest.mark.slow
def test_sac_losses():
    b, key = batch(), jax.random.key(1)
    made, actor, critics, target = nets(2 * M)
    learned = {"actor": actor, "critics": critics, "target": target, "log_temperature": jnp.log(jnp.float32(0.3))}
    # the same draw; its density is computed anew
    action, _ = tanh_normal_sample(key, *sac.policy(made.actor, actor, b.next_obs))
    mean, log_std = np.split(forward(double(actor), np.float64(b.next_obs)), 2, -1)
    log_std = -10 + 12 / (1 + np.exp(-log_std))
    a = np.float64(action)
    log_prob = (scipy.stats.norm.logpdf(np.arctanh(a), mean, np.exp(log_std)) - np.log1p(-(a**2))).sum(-1)
    y = np.float64(b.reward) + np.float64(b.discount) * (np.minimum(*q64(target, b.next_obs, a)) - 0.3 * log_prob)
    np.testing.assert_allclose(sac.targets(made, learned, b, key), y, rtol=2e-3, atol=2e-3)
    loss, _ = offpolicy.critic_loss(critics, made.critics, b, jnp.float32(y))
    expected = sum(((q - y) ** 2).mean() for q in q64(critics, b.obs, b.action))
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    action, log_prob32 = tanh_normal_sample(key, *sac.policy(made.actor, actor, b.obs))
    expected = (0.3 * np.float64(log_prob32) - np.minimum(*q64(critics, b.obs, action))).mean()
    loss, mean_log_prob = sac.actor_loss(actor, made, critics, jnp.float32(0.3), b.obs, key)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(mean_log_prob) == pytest.approx(np.float64(log_prob32).mean(), rel=1e-5)


def test_td3_losses():
    b, key = batch(), jax.random.key(1)
    made, actor, critics, target = nets(M)
    h = {"smoothing": jnp.float32(0.4), "smoothing_clip": jnp.float32(0.3)}
    noise = np.clip(0.4 * np.float64(jax.random.normal(key, (B, M))), -0.3, 0.3)
    a = np.clip(np.tanh(forward(double(actor), np.float64(b.next_obs))) + noise, -1, 1)
    y = np.float64(b.reward) + np.float64(b.discount) * np.minimum(*q64(target, b.next_obs, a))
    np.testing.assert_allclose(td3.targets(made, {"actor": actor, "critics": target}, b, h, key), y, rtol=1e-4, atol=1e-5)
    expected = -q64(critics, b.obs, np.tanh(forward(double(actor), np.float64(b.obs))))[0].mean()
    assert float(td3.actor_loss(actor, made, critics, b.obs)) == pytest.approx(expected, rel=1e-4)


def test_ppo_surrogate_by_hand():
    old, new = jnp.log(jnp.array([0.5, 0.5, 0.5, 0.5])), jnp.log(jnp.array([0.75, 0.75, 0.25, 0.525]))
    advantage = jnp.array([1.0, -1.0, -1.0, 2.0])
    # ratios 1.5, 1.5, 0.5, 1.05 with clip 0.2: min(1.5, 1.2), min(-1.5, -1.2), min(-0.5, -0.8), 2.1
    np.testing.assert_allclose(ppo.surrogate(new, old, advantage, 0.2), [1.2, -1.5, -0.8, 2.1], rtol=1e-6)


@pytest.mark.slow
def test_temperature_falls_when_entropy_is_above_target_and_rises_below():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum")})
    for target, falls in ((-50.0, True), (50.0, False)):
        agent = agents.make("sac", None, problem, hidden=(8,), target_entropy=target)
        state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
        b = batch()._replace(action=jnp.zeros((B, 1)))
        clock = Clock(jnp.int32(0), jnp.int32(0), jnp.int32(0))
        new, _ = agent.stages[1].phases[1].update(state, clock, b, jax.random.key(1))
        assert (new.learned["log_temperature"] < state.learned["log_temperature"]) == falls


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "td3", "ppo"])
def test_seeds_differ_and_repeat(name):
    problem = Problem({"train": rlx.envs.make("rlx:probe-match")})
    small = dict(agents.presets(name)["debug"])
    small |= {"env_steps": 256} if name == "ppo" else {"env_steps": 120, "prefill": 40, "eval_every": 10**6}
    agent = agents.make(name, None, problem, **small)
    go = lambda seed: jax.tree.leaves(run(agent, problem, jax.random.key(seed), options=Options(progress=False)).agent.learned)
    one, same, other = go(0), go(0), go(1)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_policy_delay_waits():
    problem = Problem({"train": rlx.envs.make("rlx:pendulum")})
    agent = agents.make("td3", None, problem, hidden=(8,), policy_delay=2)
    state = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    b, update = batch()._replace(action=jnp.zeros((B, 1))), agent.stages[1].phases[1].update
    at = lambda i: Clock(jnp.int32(0), jnp.int32(0), jnp.int32(i))
    waited, _ = update(state, at(0), b, jax.random.key(1))
    moved, _ = update(state, at(1), b, jax.random.key(1))
    same = lambda new: all(map(np.array_equal, jax.tree.leaves(new.learned["actor"]), jax.tree.leaves(state.learned["actor"])))
    assert same(waited) and not same(moved)
