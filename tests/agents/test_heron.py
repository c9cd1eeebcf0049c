"""HERON: pairs and their labels, the reward's loss and one pass against float64 numpy, and what PPO is paid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents import heron, ppo
from rlx.nn.mlp import MLP
from rlx.nn.optim import optimizer
from rlx.preferences import hierarchy
from rlx.train import Options, run
from rlx.types import Clock, Problem

from .numpy_nets import forward
from .test_ppo import FIRST, T, W, rows

pytestmark = pytest.mark.usefixtures("all_bits")
KEY, NET = jax.random.key(0), MLP((5, 1))
SMALL = {"hidden": (5,), "n_envs": W, "steps": T, "epochs": 1, "minibatches": 1, "reward_hidden": (5,), "reward_minibatches": 2}


def test_states_are_compared_by_ranked_factors():
    """Every state that was arrived at, once as the first, beside another one; labels and weights as numpy has them."""
    given = rows()
    got = heron.compared(given, given.obs, ("reward", "-obs/2"), np.array([1.0, 0.3]), KEY)
    x = np.asarray(given.obs)[1:].reshape(-1, 4)
    there = ~FIRST[1:].reshape(-1)
    np.testing.assert_array_equal(got.first, x)
    second = np.array([np.flatnonzero((x == row).all(1))[0] for row in np.asarray(got.second)])
    assert (second != np.arange(len(x))).all() and len(set(second)) > 3
    factors = np.stack([np.asarray(given.reward, np.float64)[1:].reshape(-1), -x[:, 2].astype(np.float64)])
    apart, least = factors[:, second] - factors, np.array([1.0, 0.3]) * factors[:, there].std(1)
    for i in range(len(x)):
        level = next((k for k in range(2) if abs(apart[k, i]) > least[k]), 2)
        assert got.weight[i] == (level < 2 and there[i] and there[second[i]])
        assert level == 2 or got.label[i] == (apart[level, i] > 0)
    assert 0 < got.weight.sum() < there.sum()


def test_one_pass_in_numpy():
    """Bradley-Terry over the pairs that count, and Adam's first step, which is ``lr`` against the gradient's sign."""
    rng = np.random.default_rng(1)
    draw = lambda: jnp.float32(rng.normal(size=(6, 3)))
    given = heron.Compared(draw(), draw(), jnp.float32([1, 0, 1, 1, 0, 0]), jnp.float32([1, 1, 0, 1, 1, 0]))
    params = NET.init(KEY, jnp.zeros(3))
    gap = (forward(params, np.asarray(given.second)) - forward(params, np.asarray(given.first)))[:, 0]
    label, weight = np.asarray(given.label, np.float64), np.asarray(given.weight, np.float64)
    wanted = (weight * (np.logaddexp(0, gap) - label * gap)).sum() / 4
    value, right = heron.loss(params, NET, given)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert right == (weight * ((gap > 0) == (label > 0.5))).sum()
    new, _, metrics = heron.taught(NET, params, optimizer(0.0).init(params), given, jnp.float32(0.01), 1, KEY)
    np.testing.assert_allclose([metrics["reward/loss"], metrics["reward/decided"]], [wanted, 4 / 6], rtol=1e-5)
    moved = np.asarray(new["params"]["Dense_0"]["kernel"] - params["params"]["Dense_0"]["kernel"])
    felt = abs(moved) > 1e-5
    np.testing.assert_allclose(abs(moved[felt]), 0.01, rtol=1e-2)
    assert felt.any() and heron.loss(new, NET, given)[0] < wanted


def test_policies_are_paid_by_the_learned_reward_alone():
    reward, there = jnp.float32([[3, 9], [1, 2], [5, 4]]), jnp.array([[False, False], [True, True], [True, True]])
    each = np.asarray(heron.standardised(reward, there))
    np.testing.assert_allclose(each[1:], (np.array([[1, 2], [5, 4]]) - 3) / np.sqrt(2.5), rtol=1e-5)
    assert (each[0] == 0).all() and (heron.standardised(jnp.ones((3, 2)), there) == 0).all()

    agent = agents.make("heron", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), **SMALL, factors=("obs/1",))
    state = agent.init(KEY, {k: jnp.float32(v) for k, v in agent.hyper.items()})
    update, clock = jax.jit(agent.stages[0].phases[1].update), Clock(*[jnp.int32(0)] * 3)
    given = rows()
    one, out = update(state, clock, given, KEY)
    two, _ = update(state, clock, given._replace(reward=-7 * given.reward), KEY)
    jax.tree.map(np.testing.assert_array_equal, one.learned, two.learned)
    assert {"reward/loss", "reward/right", "reward/decided", "actor/loss"} <= out.metrics.keys()


@pytest.mark.slow
def test_what_factors_prefer_is_done():
    """Where a low velocity along x matters most, the best is to be as fast as can be the other way."""
    problem = Problem({"train": rlx.envs.make("rlx:point-mass", time_limit=2)})
    sizes = {"env_steps": 8_192, "n_envs": 16, "steps": 32, "minibatches": 4, "hidden": (16,), "eval_every": 10**6}
    more = {"reward_hidden": (16,), "reward_minibatches": 8, "eval_episodes": 1, "lr": 3e-3, "discount": 0.9}
    agent = agents.make("heron", None, problem, **sizes, **more, factors=("-obs/2", "obs/0"))
    learned = run(agent, problem, 0, options=Options(progress=False)).agent.learned
    net = ppo.actor_critic(agent.config, 2, categorical=False)
    push = net.policy(learned, net.normalized(learned, jnp.zeros(4))).mode()
    assert push[0] < -0.3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"factors": ("info/speed",)}, "no factor 'info/speed'.*they have reward"),
        ({"factors": ("obs/9",)}, "no factor 'obs/9'"),
        ({"margins": (1.0, 2.0)}, "1 factors and 2 margins"),
        ({"reward_minibatches": 3}, "heron: 10 rows .* do not divide into reward_minibatches=3"),
        ({"normalize_reward": True}, "heron: normalize_reward divides by true rewards"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        agents.make("heron", None, Problem({"train": rlx.envs.make("rlx:point-mass")}), **{**SMALL, **settings})


def test_levels_are_those_of_the_labeller_in_jax():
    rng = np.random.default_rng(2)
    apart, least = rng.normal(size=(3, 50)), np.array([1.0, 0.5, 0.8])
    for a, b in zip(
        hierarchy.by_level(np, apart, least), hierarchy.by_level(jnp, *map(jnp.float32, (apart, least))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert set(hierarchy.by_level(np, apart, least)[1]) == {0, 1, 2, 3}
