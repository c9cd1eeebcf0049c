"""DBC and DeepMDP: their formulas by hand and in float64, what features learn from, pictures that are stacked."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import dbc, offpolicy
from rlx.train import Options, run
from rlx.types import Clock, Leaf, Problem, Spec, Step

from .numpy_nets import double, forward
from .td_jepa.worlds import PICTURES
from .test_sac import transitions

pytestmark = pytest.mark.usefixtures("all_bits")
LLVM_LEVEL = 1  # it compares programs
CLOCK = Clock(*[jnp.int32(0)] * 3)
SMALL = {"hidden": (5,), "model_hidden": (4,), "features": 3, "frames": 1}


def made(env: str = "rlx:point-mass", **settings):
    return agents.make("dbc", None, Problem({"train": rlx.envs.make(env)}), **SMALL | settings)


def started(agent, **hyper):
    return agent.init(jax.random.key(0), {k: jnp.float32(v) for k, v in {**agent.hyper, **hyper}.items()})


def updated(agent, **hyper):
    update = agent.stages[-1].phases[1].update
    return jax.jit(lambda s, b: update(s, CLOCK, b, jax.random.key(1)))(started(agent, **hyper), transitions())


def test_distances_are_hubers():
    np.testing.assert_allclose(dbc.huber(jnp.float32([0.5, 3, 1]), jnp.float32([0, 1, 2])), [0.125, 1.5, 0.5])


def test_features_lie_as_far_apart_as_rewards_and_futures_by_hand():
    z, after = jnp.float32([[0, 2], [1, 0]]), jnp.float32([[0, 0], [0, 3]])
    given = after, jnp.float32([1, 3]), jnp.float32(0.5), jnp.array([1, 0])
    # rewards are 1.5 apart, futures 0 and 2.5, so 1.5 and 2.75 are wanted; features are 0.5 and 1.5 apart
    np.testing.assert_allclose(dbc.bisimulation(z, *given), (1.0**2 + 1.25**2) / 2)
    slope = jax.grad(lambda z: dbc.bisimulation(z, *given))(z)
    # of each entry: 2 (d - wanted) d' / 4, twice, since each row is compared with the other
    np.testing.assert_allclose(slope, [[1.0, -1.25], [-1.0, 1.25]])
    others = jax.grad(lambda after, reward: dbc.bisimulation(z, after, reward, *given[2:]), (0, 1))(*given[:2])
    assert all((np.asarray(x) == 0).all() for x in others)  # rewards and futures are taken as they are


def test_what_features_are_taught_equals_float64():
    agent, batch = made(), transitions()
    method = agent.stages[-1].phases[1].update.__self__
    state, other = started(agent), jnp.array([1, 2, 3, 4, 5, 0])
    next_z = jnp.float32(np.random.default_rng(3).normal(size=(6, 3)))
    total, (z, said) = dbc.taught(state.learned["own"], method.net, batch, next_z, other, state.hyper, True)
    own = double(state.learned["own"])
    layers = own["encoder"]["params"]
    h = np.maximum(forward({"params": layers["MLP_0"]}, batch.obs), 0)
    h = forward({"params": layers["MLP_1"]}, h)
    wanted = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(z, wanted, rtol=1e-4, atol=1e-5)
    x = np.concatenate([wanted, batch.action], -1)
    after, reward = forward(own["dynamics"], x), forward(own["reward"], x)[:, 0]
    r = np.float64(batch.reward)
    np.testing.assert_allclose(said["model/dynamics_loss"], ((after - next_z) ** 2).mean(), rtol=1e-4)
    np.testing.assert_allclose(said["model/reward_loss"], ((reward - r) ** 2).mean(), rtol=1e-4)
    far = lambda a, b: np.where(abs(a - b) < 1, (a - b) ** 2 / 2, abs(a - b) - 0.5)
    apart = far(r, r[other])[:, None] + 0.99 * far(after, after[other])
    bisim = ((far(wanted, wanted[other]) - apart) ** 2).mean()
    np.testing.assert_allclose(said["model/bisim_loss"], bisim, rtol=1e-4)
    np.testing.assert_allclose(total, ((after - next_z) ** 2).mean() + ((reward - r) ** 2).mean() + 0.5 * bisim, rtol=1e-4)


def test_features_learn_from_values_and_the_model_and_not_from_the_policy():
    agent = made()
    moved = lambda **h: updated(agent, **h)[0].learned["own"]["encoder"]
    base, same = moved(), lambda a, b: all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
    assert same(base, moved(actor_lr=0.5, temperature_lr=0.5, critic_lr=0.5, tau=0.5))
    assert not same(base, moved(model_coef=0.0)) and not same(base, moved(bisim_coef=0.0))
    alone = updated(made(objective="none"))[0].learned["own"]["encoder"]
    assert same(alone, moved(model_coef=0.0, bisim_coef=0.0))  # of values alone
    assert not same(alone, started(agent).learned["own"]["encoder"])


def test_each_objective_says_what_it_learns():
    names = lambda objective: {k for k in updated(made(objective=objective))[1].metrics if k.startswith("model/")}
    assert names("none") == set()
    assert names("deepmdp") == {"model/dynamics_loss", "model/reward_loss"}
    assert names("dbc") == names("deepmdp") | {"model/bisim_loss"}


def test_targets_are_judged_by_the_features_that_follow_slowly():
    agent, batch = made(), transitions()
    state = started(agent)
    off = jax.tree.map(lambda x: x + 0.3, state.learned["target_encoder"])
    update = jax.jit(lambda s: agent.stages[-1].phases[1].update(s, CLOCK, batch, jax.random.key(1))[0].learned)
    base, moved = update(state), update(state._replace(learned={**state.learned, "target_encoder": off}))
    assert not np.array_equal(*(jax.tree.leaves(x["critics"])[0] for x in (base, moved)))
    tau = state.hyper["encoder_tau"]
    expected = jax.tree.map(lambda t, p: t + tau * (p - t), state.learned["target_encoder"], base["own"]["encoder"])
    jax.tree.map(np.testing.assert_allclose, base["target_encoder"], expected)


@pytest.mark.slow
def test_a_run_on_pictures_stacks_them_and_acting_sees_what_replay_gives():
    debug = agents.presets("dbc")["debug"]
    short = {"env_steps": 60, "prefill": 40, "batch": 8, "eval_every": 20, "frames": 2, "n_envs": 2}
    given = Problem({"train": rlx.envs.make(PICTURES, size=16)})
    agent = agents.make("dbc", None, given, **debug | short)
    result = run(agent, given, jax.random.key(0), options=Options(progress=False))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result.agent.learned) if np.issubdtype(x.dtype, np.floating))
    sampler, hyper = agent.stages[-1].phases[1].sample, result.agent.hyper
    batch = sampler(hyper, CLOCK, {"replay": result.sources["replay"]}, jax.random.key(2))
    assert batch.obs.shape == (8, 16, 16, 6) and batch.obs.dtype == np.uint8
    act = lambda carry, first: agent.act(result.agent, CLOCK, carry, last_of(batch, first), jax.random.key(0), "eval")
    seen = act(agent.carry(result.agent, 1), True)
    np.testing.assert_array_equal(seen[1][0], np.tile(batch.obs[0, ..., 3:], 2))  # the first picture is repeated
    seen = act(seen[1], False)
    assert seen[0].shape == (1, 2) and np.abs(seen[0]).max() <= 1


def last_of(batch, first):
    no = jnp.zeros(1, bool)
    return Step(batch.obs[:1, ..., 3:], jnp.zeros(1), no, no, no | first, {})


def test_what_it_cannot_look_at_is_one_message():
    env = rlx.envs.make("rlx:point-mass")
    for leaf, words in (
        ({"pixels": Leaf((32, 32, 1), np.uint8)}, "state=false"),
        (Leaf((32, 32, 3)), "uint8"),
        (Leaf((8, 32, 3), np.uint8), "at least 15"),
    ):
        other = dataclasses.replace(env, spec=Spec(leaf, env.spec.action, horizon=5))
        with pytest.raises(ValueError, match=words):
            dbc.make(dbc.Config(), Problem({"train": other}))
    with pytest.raises(ValueError, match="n_step=3; the model .* is of one step"):
        dbc.make(dbc.Config(n_step=3), Problem({"train": env}))
    assert isinstance(made().config, offpolicy.OffPolicyConfig)
