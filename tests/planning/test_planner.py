"""Acting by searches, from decision to decision, in models whose best actions are known."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics.env import Prediction
from rlx.planning import mppi, planner
from rlx.planning.mppi import Imagination
from rlx.planning.planner import Planner, Plans

pytestmark = pytest.mark.usefixtures("all_bits")
close = np.testing.assert_allclose
KEY = jax.random.key(0)
LINE = Planner(
    "eval", horizon=3, samples=200, proposals=0, value=False, elites=20, iterations=8, temperature=20.0, std_min=0.001
)


def step(x, action, key):
    """A point on a line that actions move; what is paid is the square of the distance from 0.6."""
    x = x + action[:, 0]
    return x, -((x - 0.6) ** 2)


TOWARDS = Imagination(step, lambda x, key: jnp.zeros((1, *x.shape)))


def act(c, x, plans, first=None, imagine=TOWARDS, explore=0.0, key=KEY):
    first = jnp.zeros(len(x), bool) if first is None else first
    return jax.jit(partial(planner.decide, c, lambda _: imagine))((), jnp.float32(x), plans, first, 1.0, explore, key)


def test_each_stream_goes_where_it_is_best():
    action, plans = act(LINE, [0.0, 0.9, 1.2], planner.blank(LINE, 3, 1))
    close(action[:, 0], [0.6, -0.3, -0.6], atol=0.05)
    close(plans.mean, np.zeros((3, 3, 1)), atol=0.15)  # what comes after, and nothing at the end
    close(plans.action, action)


def test_plans_are_forgotten_where_an_episode_begins():
    """A search of one candidate and no width does what it began with."""
    c = dataclasses.replace(LINE, samples=1, elites=1, iterations=1, momentum=1.0)
    old = Plans(jnp.full((2, 3, 1), 0.25), jnp.zeros((2, 1)), jnp.zeros(2, jnp.int32))
    action, plans = act(c, [0.0, 0.0], old, first=jnp.array([False, True]))
    close(action[:, 0], [0.25, 0.0], atol=1e-6)
    close(plans.mean[0, :, 0], [0.25, 0.25, 0.0], atol=1e-6)


def test_an_action_is_held_and_what_it_is_worth_is_summed():
    """Two decisions alike: what is best for both is neither the best for the first nor for the second."""
    c = dataclasses.replace(LINE, horizon=1, hold=2)
    plans, actions = planner.blank(c, 2, 1), []
    for x in ([0.0, 1.2], [9.0, 9.0], [0.0, 1.2]):  # in between nothing is looked at
        action, plans = act(c, x, plans)
        actions.append(action[:, 0])
    best = 0.6 * 3 / 5  # of -(u - 0.6)^2 - (2 u - 0.6)^2, and from the other side likewise
    close(actions[0], [best, -best], atol=0.03)
    np.testing.assert_array_equal(actions[1], actions[0])
    close(actions[2], [best, -best], atol=0.03)
    np.testing.assert_array_equal(plans.left, [1, 1])


def test_members_of_a_population_search_where_one_of_them_has_to():
    """Each by its own model, and not at all where all hold; what a `cond` of each would do is to search always."""
    searches, c = [], dataclasses.replace(LINE, horizon=1, hold=2, samples=40, elites=8)

    def towards(goal):
        def counted(x, action, key):
            jax.debug.callback(lambda: searches.append(1))
            return x + action[:, 0], -((x + action[:, 0] - goal) ** 2)

        return Imagination(counted, lambda x, key: jnp.zeros((1, *x.shape)))

    one = lambda goal, plans, key: planner.decide(c, towards, goal, jnp.zeros(2), plans, jnp.zeros(2, bool), 1.0, 0.0, key)
    act, plans = jax.jit(jax.vmap(one)), jax.tree.map(lambda x: jnp.stack([x] * 3), planner.blank(c, 2, 1))
    goals, each = jnp.float32([0.2, -0.4, 0.6]), jax.random.split(KEY, 3)
    action, plans = jax.block_until_ready(act(goals, plans, each))
    jax.effects_barrier()
    once = len(searches)
    close(action[..., 0], np.outer([0.2, -0.4, 0.6], [0.6, 0.6]), atol=0.05)  # of two decisions: 3 / 5 of the way
    assert once > 0
    same, plans = jax.block_until_ready(act(goals, plans, each))
    jax.effects_barrier()
    assert len(searches) == once
    np.testing.assert_array_equal(same, action)
    act(goals, plans._replace(left=jnp.int32([[1, 1], [1, 0], [1, 1]])), each)
    jax.effects_barrier()
    assert len(searches) == 2 * once


def test_streams_that_begin_at_other_times_hold_their_own():
    c = dataclasses.replace(LINE, horizon=1, hold=3)
    action, plans = act(c, [0.6, 0.6], Plans(jnp.zeros((2, 1, 1)), jnp.full((2, 1), 0.5), jnp.int32([2, 0])))
    close(action[:, 0], [0.5, 0.0], atol=0.03)
    np.testing.assert_array_equal(plans.left, [1, 2])


def test_held_rewards_are_discounted():
    paid = Imagination(lambda t, action, key: (t + 1, jnp.float32(t)), lambda t, key: jnp.zeros((1, *t.shape)))
    states, reward = planner.held(paid, 3, 0.5).step(jnp.int32([1, 2]), jnp.zeros((2, 1)), KEY)
    close(reward, [1 + 2 / 2 + 3 / 4, 2 + 3 / 2 + 4 / 4])
    np.testing.assert_array_equal(states, [4, 5])


def test_it_explores_by_the_noise_that_it_is_given():
    wide = dataclasses.replace(LINE, std_min=0.3)
    blank = planner.blank(wide, 64, 1)
    still, noisy = (np.asarray(act(wide, jnp.zeros(64), blank, explore=x)[0]) for x in (0.0, 1.0))
    assert still.std() < 0.1 and 0.2 < noisy.std() < 0.4 and abs(noisy).max() <= 1


class Walk:
    """A model of a point that actions move, and which is paid 1 a step."""

    def begin(self, params, key):
        return ()

    def predict(self, params, episode, obs, action, key):
        return Prediction(obs + action, jnp.float32(1))


@pytest.mark.parametrize(("leaving", "whole"), [(0.0, 1 + 1), (-7.0, 1 + (1 - 7))])
def test_nothing_counts_behind_the_end_of_an_episode(leaving, whole):
    """It ends at 2: two steps of three are paid, and with the price of leaving; what is ahead counts where it goes on alone."""
    imagine = mppi.imagined(
        Walk(), (), lambda obs, key: jnp.full((1, len(obs)), 100.0), None, lambda obs: (obs[:, 0] < 1.5).astype(float), leaving
    )
    start = jax.vmap(lambda obs: mppi.imagined_state(Walk(), (), obs, KEY))(jnp.zeros((2, 1)))
    actions = jnp.ones((3, 2, 1)).at[:, 1].set(0.25)
    close(mppi.returns(imagine, start, actions, 3, 1.0, KEY), [[whole, 3 + 100]])


def test_numbers_behind_the_end_of_an_episode_do_not_matter():
    class Broken(Walk):
        def predict(self, params, episode, obs, action, key):
            return Prediction(obs + action, jnp.where(obs[0] > 1.5, jnp.nan, 1.0))

    imagine = mppi.imagined(Broken(), (), lambda obs, key: obs.T / 0, None, lambda obs: (obs[:, 0] < 1.5).astype(float))
    start = jax.vmap(lambda obs: mppi.imagined_state(Broken(), (), obs, KEY))(jnp.zeros((1, 1)))
    close(mppi.returns(imagine, start, jnp.ones((4, 1, 1)), 4, 1.0, KEY), [[2.0]])


def test_settings_that_cannot_be():
    assert planner.modes(Planner()) == () and planner.modes(Planner("act")) == ("planner",)
    with pytest.raises(ValueError, match="std_min=2 is above std_max=1"):
        planner.modes(Planner("eval", std_min=2.0))
    with pytest.raises(ValueError, match="no 200 elites: give at most 136"):
        planner.modes(Planner("eval", elites=200))
