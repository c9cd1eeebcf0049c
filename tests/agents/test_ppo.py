"""PPO's update against float64 loops, the borders of episodes, and its switches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import rlx.envs
from rlx import agents
from rlx.agents import ppo
from rlx.nn import normalize, optim
from rlx.replay import Index, Sequences
from rlx.types import Clock, Problem, Row

from .numpy_nets import double, forward, slopes

pytestmark = pytest.mark.usefixtures("all_bits")  # formulas are compared with float64, and programs with each other

T, W, N, M = 5, 2, 4, 2
CLOCK = Clock(*[jnp.int32(0)] * 3)
FIRST = np.array([[1, 0], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0]], bool)
TERMINATED = np.array([[0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]], bool)  # stream 0 ends at row 2
TRUNCATED = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool)  # stream 1 is cut at row 3


@functools.cache
def made(**changes):
    """An agent by its static settings; traced ones are for `started`, so that one program serves many tests."""
    problem = Problem({"train": rlx.envs.make("rlx:point-mass")})
    settings = {"hidden": (5,), "n_envs": W, "steps": T, "epochs": 1, "minibatches": 1, "max_grad_norm": 1e9, "log_std": -0.3}
    return agents.make("ppo", None, problem, **settings | {"discount": 0.9, "gae_lambda": 0.8} | changes)


def started(agent, **traced):
    assert traced.keys() <= agent.hyper.keys()
    hyper = {k: jnp.float32(v) for k, v in (agent.hyper | traced).items()}
    state = agent.init(jax.random.key(0), hyper)
    moved = lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    nets = {name: jax.tree.map(moved, state.learned[name]) for name in ppo.TRAINED}
    stats = normalize.Normalizer(jnp.float32(50), jnp.array([0.1, -0.2, 0.0, 0.3]), jnp.array([20.0, 30.0, 50.0, 10.0]))
    return state._replace(learned={**state.learned, **nets, "obs_stats": stats})


def rows(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))
    reward = jnp.where(FIRST, 0.0, draw(T + 1, W))
    raw = draw(T + 1, W, M)
    extras = {"raw": raw, "log_prob": -2 + 0.3 * draw(T + 1, W)}
    flags = jnp.asarray(TERMINATED), jnp.asarray(TRUNCATED), jnp.asarray(FIRST)
    row = Row(draw(T + 1, W, N), reward, *flags, {}, jnp.clip(raw, -1, 1), extras, jnp.ones((T + 1, W), bool))
    return Sequences(*row, jnp.ones(W), Index(jnp.zeros(W, int), jnp.arange(W)))


@functools.cache
def update_of(**changes):
    return jax.jit(made(**changes).stages[0].phases[1].update)


class Slow:
    """The same in float64 with loops: `samples` at the old parameters, then `loss` at any."""

    def __init__(self, agent, state, batch):
        self.config, self.h, self.batch = agent.config, {k: float(v) for k, v in state.hyper.items()}, double(batch)
        stats = double(state.learned["obs_stats"])
        self.obs = np.clip((self.batch.obs - stats.mean) / np.sqrt(stats.m2 / stats.count + 1e-8), -10, 10)
        self.nets = {k: double(state.learned[k]) for k in ppo.TRAINED}
        self.value = np.stack([self.v(self.nets, o) for o in self.obs])
        self.advantage, self.use = np.zeros((T, W)), np.zeros((T, W), bool)
        for w in range(W):
            for t in reversed(range(T)):
                if TERMINATED[t, w] or TRUNCATED[t, w]:
                    continue  # the action there was ignored
                self.use[t, w] = True
                going = not (TERMINATED[t + 1, w] or TRUNCATED[t + 1, w])
                tail = 0 if TERMINATED[t + 1, w] else self.value[t + 1, w]
                delta = self.batch.reward[t + 1, w] + self.h["discount"] * tail - self.value[t, w]
                later = self.advantage[t + 1, w] if going and t + 1 < T else 0
                self.advantage[t, w] = delta + self.h["discount"] * self.h["gae_lambda"] * later
        self.value_target = self.advantage[self.use] + self.value[:T][self.use]
        used = self.advantage[self.use]
        self.normal = (used - used.mean()) / used.std()
        self.old = [np.stack(x)[self.use] for x in zip(*(self.policy(self.nets, o) for o in self.obs[:T]), strict=True)]

    def v(self, nets, obs):
        return np.clip(forward(nets["critic"], obs, "tanh")[:, 0], -self.h["value_bound"], self.h["value_bound"])

    def policy(self, nets, obs):
        out = forward(nets["actor"], obs, "tanh")
        if not self.config.state_std:
            return out, np.broadcast_to(nets["log_std"], out.shape)
        return out[:, :M], np.clip(out[:, M:] + nets["log_std"], -5, 1)

    def parts(self, nets):
        obs, raw = self.obs[:T][self.use], self.batch.extras["raw"][:T][self.use]
        mean, log_std = self.policy(nets, obs)
        std, clip = np.exp(log_std), self.h["clip"]
        ratio = np.exp(stats.norm.logpdf(raw, mean, std).sum(-1) - self.batch.extras["log_prob"][:T][self.use])
        gain = np.minimum(ratio * self.normal, np.clip(ratio, 1 - clip, 1 + clip) * self.normal).mean()
        value, old = self.v(nets, obs), self.value[:T][self.use]
        error = (value - self.value_target) ** 2
        if self.config.value_clip:
            error = np.maximum(error, (np.clip(value, old - clip, old + clip) - self.value_target) ** 2)
        fit = 0.5 * np.minimum(error, self.h["value_error_clip"]).mean()
        entropy = stats.norm.entropy(mean, std).sum(-1).mean()
        m, s = self.old[0], np.exp(self.old[1])
        kl = (np.log(std / s) + (s**2 + (m - mean) ** 2) / (2 * std**2) - 0.5).sum(-1).mean()
        return gain, fit, entropy, kl

    def loss(self, nets):
        gain, fit, entropy, kl = self.parts(nets)
        return -gain + self.h["value_coef"] * fit - self.h["entropy_coef"] * entropy + self.h["kl_coef"] * kl


SWITCHES = {
    "plain": ({}, {}),
    "state_std": ({"state_std": True}, {"entropy_coef": 0.03}),
    "value_clip": ({"value_clip": True}, {"value_bound": 0.8}),
    "rllib": ({"state_std": True}, {"value_error_clip": 0.4, "kl_coef": 0.2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
def test_first_step_equals_float64(switch):
    static, traced = SWITCHES[switch]
    agent = made(**static)
    state, batch = started(agent, **traced), rows()
    slow = Slow(agent, state, batch)
    new, out = update_of(**static)(state, CLOCK, batch, jax.random.key(0))
    gain, fit, entropy, _ = slow.parts(slow.nets)
    got = [out.metrics[k] for k in ("actor/loss", "critic/loss", "actor/entropy", "actor/kl", "critic/return")]
    np.testing.assert_allclose(got, [-gain, fit, entropy, 0, slow.value_target.mean()], rtol=1e-4, atol=1e-5)
    unpack = optim.packing({k: state.learned[k] for k in ppo.TRAINED})[1]
    grads = jax.tree.map(lambda m: m / 0.1, unpack(optax.tree.get(new.learned["opt"], "mu")))  # of the first step
    slopes(slow.loss, slow.nets, grads, every=3)


def test_kl_is_that_from_the_policy_before_the_update():
    state, batch = started(made(), kl_coef=0.5, lr=0.05), rows()
    slow = Slow(made(), state, batch)
    once, _ = update_of()(state, CLOCK, batch, jax.random.key(0))
    _, out = update_of(epochs=2)(state, CLOCK, batch, jax.random.key(0))
    after = slow.parts({k: double(once.learned[k]) for k in slow.nets})[3]
    assert after > 1e-3
    np.testing.assert_allclose(out.metrics["actor/kl"], after / 2, rtol=1e-3)  # mean over two steps, 0 at the first


def test_rows_that_lead_nowhere_teach_nothing():
    """The action at a last row is ignored, and the reward of a first row belongs to nobody."""
    update, state, batch = update_of(), started(made()), rows()
    odd = batch.extras["raw"].at[2, 0].set(5.0).at[3, 1].set(-5.0)
    reward = batch.reward.at[3, 0].set(100.0).at[4, 1].set(100.0).at[0, 0].set(100.0)
    other = batch._replace(extras={**batch.extras, "raw": odd}, reward=reward)
    one, two = (update(state, CLOCK, b, jax.random.key(0))[0].learned for b in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    kernel = lambda learned: learned["critic"]["params"]["Dense_0"]["kernel"]
    touched = batch._replace(reward=batch.reward.at[2, 0].set(100.0))  # the terminal reward does count
    three = update(state, CLOCK, touched, jax.random.key(0))[0].learned
    assert not np.allclose(kernel(one), kernel(three))


def test_steps_stop_early_where_the_kl_is_large():
    def steps(**traced):
        state = started(made(), lr=0.05, **traced)
        return int(update_of(epochs=2)(state, CLOCK, rows(), jax.random.key(0))[0].learned["opt"][1].count)

    assert steps() == 2
    assert steps(early_stop_kl=1e-5) == 1


def test_packed_parameters_step_as_the_tree_does():
    rng = np.random.default_rng(0)
    some = lambda *shape: jnp.float32(rng.normal(size=shape))
    draw = lambda: {"b": [some(7)], "a": {"w": some(5, 3)}, "c": some()}
    tree, grads = draw(), draw()
    pack, unpack = optim.packing(tree, most=7)
    assert jax.tree.map(jnp.shape, pack(tree)) == ((8,), [(5, 3)])  # the small ones as one vector, the matrix as it is
    jax.tree.map(np.testing.assert_array_equal, unpack(pack(tree)), tree)
    chain = optim.optimizer(jnp.float32(0.1), max_grad_norm=0.5)
    step = lambda p, g: optim.apply_gradients(chain, p, g, chain.init(p))[0]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(close, unpack(step(pack(tree), pack(grads))), step(tree, grads))


def test_value_error_by_hand():
    value, target, old = jnp.array([1.0, 1.0, 3.0]), jnp.array([1.5, 0.0, 0.0]), jnp.array([0.0, 2.0, 2.5])
    plain = lambda v: ppo.value_error(v, target, 4.0, old, None)
    np.testing.assert_allclose(plain(value), [0.25, 1.0, 4.0])
    np.testing.assert_allclose(jax.grad(lambda v: plain(v).sum())(value), [-1.0, 2.0, 0.0])  # nothing beyond the bound
    # moved by at most 0.2 the values are 0.2, 1.8, 2.7: errors 1.69, 3.24, 7.29
    np.testing.assert_allclose(ppo.value_error(value, target, 100.0, old, 0.2), [1.69, 3.24, 9.0], rtol=1e-6)


def test_weight_of_the_kl_by_hand():
    weight = lambda kl, target: float(ppo.kl_weight(jnp.float32(0.2), jnp.float32(kl), jnp.float32(target)))
    got = [weight(0.03, 0.01), weight(0.015, 0.01), weight(0.004, 0.01), weight(5.0, 0.0)]
    assert got == pytest.approx([0.3, 0.2, 0.1, 0.2])
    state = started(made(), lr=0.05, kl_coef=0.2, adaptive_kl_target=1e-4)
    new, _ = update_of(epochs=2)(state, CLOCK, rows(), jax.random.key(0))
    assert float(new.learned["kl_scale"]) == 1.5


def test_statistics_see_each_row_once():
    """However rows come, observations and discounted rewards so far count as numpy counts them."""
    agent = made(normalize_reward=True)
    begun = agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    observe = jax.jit(agent.stages[0].phases[0].observe)
    every = Row(*rows(1)[:9])
    part = lambda a, b: jax.tree.map(lambda x: x[a:b], every)
    parts = observe(observe(begun, part(0, 2), jax.random.key(0)), part(2, 6), jax.random.key(0))
    obs = np.asarray(every.obs, np.float64).reshape(-1, N)
    np.testing.assert_allclose(parts.learned["obs_stats"].mean, obs.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(normalize.std(parts.learned["obs_stats"]), obs.std(0), rtol=1e-4)
    sums, running = [], np.zeros(W)
    for t in range(T + 1):
        running = np.where(FIRST[t], 0, np.asarray(every.reward[t], np.float64) + 0.9 * running)
        sums.extend(running[~FIRST[t]])
    np.testing.assert_allclose(normalize.std(parts.learned["return_stats"].stats), np.std(sums), rtol=1e-4)
    assert float(parts.learned["return_stats"].stats.count) == len(sums)


def test_the_scale_of_rewards_does_not_matter_where_they_are_normalised():
    agent = made(normalize_reward=True)
    observe, update = jax.jit(agent.stages[0].phases[0].observe), update_of(normalize_reward=True)
    batch = rows(2)

    def learned(scale):
        scaled = batch._replace(reward=batch.reward * scale)
        return update(observe(started(agent), Row(*scaled[:9]), jax.random.key(0)), CLOCK, scaled, jax.random.key(0))[0].learned

    one, many = learned(1.0), learned(1000.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one["critic"], many["critic"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one["actor"], many["actor"])
