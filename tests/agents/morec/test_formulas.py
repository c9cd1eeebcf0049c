"""What MOPO, MOBILE and MOREC compute, against numbers by hand and float64 numpy."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents, replay
from rlx.agents import model_based, morec, offpolicy, sac
from rlx.agents.model_based import deviation, lower, mixture, real_rows
from rlx.envs import scores
from rlx.nn.distributions import tanh_normal_sample
from rlx.types import Clock, Update

from ..numpy_nets import double, forward, heads
from ..settings import dataset, problem
from ..test_sac import transitions

pytestmark = pytest.mark.usefixtures("all_bits")
CLOCK = Clock(*[jnp.int32(0)] * 3)
TINY = {"hidden": (5,), "dynamics.hidden": (4,), "starts": 4, "horizon": 3}


def started(agent, seed=1):
    """A state whose networks are far from where they begin."""
    state = agent.init(jax.random.key(seed), {k: jnp.float32(v) for k, v in agent.hyper.items()})
    moved = lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    nets = {k: jax.tree.map(moved, state.learned[k]) for k in ("actor", "critics", "target")}
    return state._replace(learned={**state.learned, **nets})


def first_layer(learned):
    return np.asarray(learned["actor"]["params"]["Dense_0"]["kernel"])


@pytest.mark.slow
def test_the_value_after_a_stop_is_the_reward():
    """y = r + 0.99 x 10 where it goes on, and r where an imagined episode stopped for good."""
    batch = transitions()._replace(reward=jnp.ones(6), discount=jnp.float32([0, 0.99, 0.99, 0, 0.99, 0.99]))
    nets = offpolicy.networks((5,), 4)
    learned = sac.begin(nets, jax.random.key(0), 4, 2, jnp.float32(1.0))
    ten = jax.tree.map(jnp.zeros_like, learned["target"])
    ten["params"]["Dense_1"]["bias"] += 10.0
    y = sac.targets(nets, {**learned, "target": ten, "log_temperature": -jnp.inf}, batch, jax.random.key(0))
    np.testing.assert_allclose(y, [1, 10.9, 10.9, 1, 10.9, 10.9], rtol=1e-6)


def test_how_values_of_members_differ():
    assert float(deviation(jnp.float32([1, 2, 4, 5, 8]))) == pytest.approx(2.738613, abs=1e-5)
    y = lower(jnp.float32([1, -1, 5, 2]), jnp.float32([2, 1.5]), jnp.float32(2))
    np.testing.assert_array_equal(y, [1, 0, 1, 0])  # the first two are real, and none is below 0


def test_a_squashed_normal():
    """mean 0.2, standard deviation 0.5, 0.3 before the tanh."""
    key = jax.random.key(0)
    noise = jax.random.normal(key, (1,))
    mean = 0.3 - 0.5 * noise
    action, log_prob = tanh_normal_sample(key, mean, jnp.log(jnp.float32([0.5])))
    assert float(action[0]) == pytest.approx(0.291313, abs=1e-5)
    at_noise = 0.5 * float(noise[0] ** 2)  # the density where the noise is 0.2 instead
    assert float(log_prob) + at_noise - 0.5 * 0.2**2 == pytest.approx(-0.157111, abs=1e-5)


def test_a_batch_has_exactly_so_many_real_transitions():
    config = morec.Config(batch=256)
    assert real_rows(256, 0.05) == 12 and real_rows(256, 0.5) == 128 and real_rows(20, 0.15) == 3
    env = rlx.envs.make("rlx:point-mass")
    given = dataset(env)
    imagined = replay.relabel(given, lambda rows: {"reward": 100 + rows.reward})
    batch = mixture(config)({"discount": jnp.float32(0.9)}, CLOCK, {"data": given, "model": imagined}, jax.random.key(0))
    assert (batch.reward[:12] < 50).all() and (batch.reward[12:] > 50).all()
    assert (batch.index["data"].t[12:] == -1).all() and (batch.index["model"].t[12:] >= 0).all()


@pytest.mark.slow
def test_an_update_of_mobile():
    """Towards r + discount (min Q' - alpha log pi) - penalty U, not below 0; the actor follows the target critics."""
    agent = agents.make("mobile", None, problem("mobile"), **TINY, real_ratio=0.34, deterministic_backup=False)
    state, batch = started(agent), transitions()._replace(reward=jnp.float32([3, 1, 2, 4, -50, 2]))
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Update)]
    key = jax.random.key(7)
    new, out = jax.jit(phase.update)(state, CLOCK, batch, key)
    k = jax.random.split(key, 3)
    nets, learned = offpolicy.networks((5,), 4), state.learned
    soft = sac.targets(nets, learned, batch, k[0])
    disagreement = model_based.value_disagreement(nets, learned, learned["model"], batch.obs[2:], batch.action[2:], 10, k[1])
    y = np.maximum(0, double(soft) - 0.5 * np.r_[0, 0, double(disagreement)])
    assert y[4] == 0 and (double(disagreement) > 0).all()
    q = [forward(c, np.concatenate([batch.obs, batch.action], -1))[:, 0] for c in heads(learned["critics"])]
    assert float(out.metrics["critic/loss"]) == pytest.approx(float(sum(((x - y) ** 2).mean() for x in q)), rel=1e-4)
    assert float(out.metrics["critic/disagreement"]) == pytest.approx(float(disagreement.mean()), rel=1e-5)
    assert not np.array_equal(
        new.learned["actor"]["params"]["Dense_0"]["kernel"], learned["actor"]["params"]["Dense_0"]["kernel"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_batch_may_be_of_one_kind_alone(ratio):
    agent = agents.make("mobile", None, problem("mobile"), **TINY, real_ratio=ratio)
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Update)]
    _, out = jax.jit(phase.update)(started(agent), CLOCK, transitions(), jax.random.key(7))
    assert all(np.isfinite(x) for x in out.metrics.values()) and (out.metrics["critic/disagreement"] > 0) == (ratio == 0)


@pytest.mark.slow
def test_the_disagreement_of_values_against_numpy():
    """With members that are sure of what comes, every draw is the mean."""
    agent = agents.make("mobile", None, problem("mobile"), **TINY)
    learned = started(agent).learned
    model = learned["model"]
    sure = dataclasses.replace(model, bounds=jax.tree.map(lambda x: jnp.full_like(x, -60.0), model.bounds))
    still = {**learned, "actor": jax.tree.map(jnp.zeros_like, learned["actor"])}
    still["actor"]["params"]["Dense_1"]["bias"] = jnp.float32([0.4, -0.2, -50, -50])  # as good as no noise
    batch, nets = transitions(), offpolicy.networks((5,), 4)
    found = model_based.value_disagreement(nets, still, sure, batch.obs, batch.action, 3, jax.random.key(0))
    z = jnp.concatenate([batch.obs, batch.action], -1)
    mean = double(sure.normals(z)[0][sure.elites])[..., :-1]
    new = double(batch.obs) + mean
    act = np.broadcast_to(np.tanh([0.4, -0.2]), (*new.shape[:-1], 2))
    flat = np.concatenate([new, act], -1).reshape(-1, 6)
    q = np.min([forward(c, flat).reshape(new.shape[:-1]) for c in heads(learned["target"])], 0)
    np.testing.assert_allclose(found, q.std(0, ddof=1), rtol=2e-3, atol=1e-5)


def test_the_actor_slows_down_to_nothing():
    agent = agents.make("mopo", None, problem("mopo"), **TINY, updates=100, block=10)
    [phase] = [p for p in agent.stages[-1].phases if isinstance(p, Update)]
    state, update = started(agent), jax.jit(phase.update)
    at = lambda cycle: CLOCK._replace(cycle=jnp.int32(cycle))
    step = lambda cycle: update(state, at(cycle), transitions(), jax.random.key(0))[0].learned
    size = lambda new: float(np.abs(first_layer(new) - first_layer(state.learned)).sum())
    assert size(step(5)) == pytest.approx(size(step(0)) / 2, rel=0.05) and size(step(10)) == 0


def test_scores_of_returns():
    own = scores.Reference(*scores.NEORL["walker2d"], "NeoRL's walker2d")
    assert float(scores.normalised("gym:HalfCheetah-v4", 5000)) == pytest.approx(42.53, abs=1e-4)
    assert float(scores.normalised("gym:Hopper-v4", 3000)) == pytest.approx(92.8009, abs=1e-4)
    assert float(scores.normalised(own, 5000)) == pytest.approx(97.2190, abs=1e-4)


def test_the_box_by_hand():
    env = rlx.envs.make("rlx:thermobox")
    arrive = env.spec.task.arrive
    at = lambda t, a: float(arrive(np, np.array([t], float), np.array([a], float))[0])
    assert [at(10, 1), at(10, -1), at(-2, 0)] == pytest.approx([9.12, 10.1, -2.15])
    for a in (-1, 0, 1):
        assert at(15 - 24.5 * (a + 1), a) == pytest.approx(15 - 24.5 * (a + 1))
    t = 5.0
    for _ in range(20):
        t = at(t, -1)
    assert t == pytest.approx(8.323920)
    calm = {**env.params, "sigma": np.float32(0)}
    state, step = env.reset(calm, jax.random.key(0))
    _, after = jax.jit(env.step)(calm, state, jnp.float32([0.5]), jax.random.key(1))
    assert float(after.obs[0]) == pytest.approx(at(float(step.obs[0]), 0.5), rel=1e-5)
    assert float(after.reward) == pytest.approx(-abs(float(after.obs[0]) + 2), rel=1e-5)
    assert env.spec.task.score(np, np.array([3.0]), np.zeros(1)) == -5
    warm = rlx.envs.make("rlx:thermobox", door="open", wanted=5.0, shift=20.0)
    assert float(warm.spec.task.arrive(np, np.array([10.0]), np.array([-1.0]))[0]) == pytest.approx(10.4)
    with pytest.raises(ValueError, match="door='ajar' is unknown"):
        rlx.envs.make("rlx:thermobox", door="ajar")
