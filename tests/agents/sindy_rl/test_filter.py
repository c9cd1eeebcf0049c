"""Imagined episodes that a dynamics reward filters: which member predicts, where they stop, and when the reward is learned."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx import agents
from rlx.agents.sindy_rl.filtering import learned
from rlx.agents.sindy_rl.world import transitions
from rlx.types import Problem, Row
from tests.agents.sindy_rl.test_agent import SMALL

pytestmark = pytest.mark.filterwarnings("ignore:.*(sparse fit is far worse|refit of the dynamics was refused).*")
SCORER = {"filter.snapshots": 2, "filter.hidden": (8,), "filter.game.generator": (8,), "filter.game.batch": 32}
SCORER |= {"filter.game.steps": 80, "filter.game.snap_every": 40, "filter.game.discriminator_lr": 1e-2}
SCORER |= {"drop": 0, "distil": False}


@functools.cache
def made(**more):
    problem = Problem({"train": rlx.envs.make("rlx:cartpole-swingup", time_limit=60)})
    return agents.make("sindy_rl", None, problem, **{**SMALL, **SCORER, **more})


@functools.cache
def episodes():
    """Two of 100 decisions of a linear map, with noise."""
    rng, out = np.random.default_rng(0), []
    for _ in range(2):
        obs, action = [0.1 * rng.normal(size=5)], rng.uniform(-1, 1, (101, 1))
        for t in range(100):
            obs.append(0.9 * np.roll(obs[-1], 1) + 0.1 * action[t] + 0.05 * rng.normal(size=5))
        flags = np.zeros(101, bool)
        first = flags.copy()
        first[0] = True
        out.append(Row(np.float32(obs), np.zeros(101, np.float32), flags, flags, first, {}, np.float32(action), {}, ~flags))
    return out


def dyna_of(agent):
    return agent.stages[1].phases[0].fn.__self__


def fitted(agent, old=None, key=0):
    """The state after a fit to `episodes`."""
    h = {k: jnp.float32(v) for k, v in agent.hyper.items()}
    state = agent.init(jax.random.key(0), h) if old is None else old
    return dyna_of(agent).fit(state, episodes(), 0, jax.random.key(key), first=old is None)


def stepped(agent, state, action, **hyper):
    """One decision in the model: the first state, and what follows it."""
    state = state._replace(hyper={**state.hyper, **{k: jnp.float32(v) for k, v in hyper.items()}})
    env, params = dyna_of(agent).imagined, dyna_of(agent).imagine(state, {})
    began, step = env.reset(params, jax.random.key(1))
    return step.obs, env.step(params, began, action, jax.random.key(2))[1]


def test_the_member_of_the_highest_score_predicts():
    agent, action = made(**{"filter.selection": "argmax"}), jnp.float32([0.5])
    state = fitted(agent)
    obs, step = stepped(agent, state, action)
    scorer, model = state.learned["scorer"], state.learned["world"]["model"]["model"]["dynamics"]
    np.testing.assert_allclose(scorer.ranges.obs_high, np.max([e.obs[:-1].max(0) for e in episodes()], 0), rtol=1e-6)
    each = jax.vmap(dyna_of(agent).world.projected)(model.each(jnp.concatenate([obs, action])))
    scores = [float(scorer(obs, action, new)) for new in each]
    assert len(set(scores)) > 1
    np.testing.assert_allclose(step.obs, each[int(np.argmax(scores))], rtol=1e-5, atol=1e-6)
    assert float(step.info["score"]) == pytest.approx(max(scores), rel=1e-5)
    low, high = (stepped(agent, state, action, **{"filter.r_min": r})[1] for r in (max(scores) - 0.01, max(scores) + 0.01))
    assert not low.info["stopped"] and not low.terminated and high.info["stopped"] and high.terminated


def test_nothing_is_filtered_where_nothing_chooses_and_nothing_stops():
    """The same bits as without a filter, and without one there is no scorer."""
    agent, plain = made(**{"filter.selection": "random"}), made()
    state, without = fitted(agent), fitted(plain)
    assert "scorer" not in without.learned and "stopped" not in plain.envs["model"].spec.info
    for action in (jnp.float32([-0.7]), jnp.float32([0.4])):
        ours, theirs = stepped(agent, state, action, **{"filter.r_min": -np.inf})[1], stepped(plain, without, action)[1]
        np.testing.assert_array_equal(ours.obs, theirs.obs)
        assert ours.reward == theirs.reward and not ours.last


def test_the_reward_of_transitions_is_learned_anew_after_so_many_fits():
    agent = made(**{"filter.selection": "softmax", "filter.game_every": 2})
    state, changed = fitted(agent), []
    for key in range(1, 5):
        new = fitted(agent, state, key)
        changed.append(not np.array_equal(new.learned["scorer"].real, state.learned["scorer"].real))
        state = new
    assert changed == [False, True, False, True]  # fits 2 to 5: after the second and the fourth
    once = made(**{"filter.selection": "softmax"})
    again = fitted(once, fitted(once), 1)
    np.testing.assert_array_equal(again.learned["scorer"].real, fitted(once).learned["scorer"].real)


def test_a_game_that_nobody_learns_from():
    """At first it is raised, later the reward stays the one before."""
    agent = made(**{"filter.selection": "softmax", "filter.game.gap_min": 1e6})
    with pytest.raises(ValueError, match="tells real transitions from generated"):
        fitted(agent)
    old, rows = fitted(made(**{"filter.selection": "softmax"})).learned["scorer"], transitions(episodes())
    with pytest.warns(UserWarning, match="the dynamics reward stays the one before"):
        assert learned(agent.config, old, rows, jax.random.key(0), first=False) is old
