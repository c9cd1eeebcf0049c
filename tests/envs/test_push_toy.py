"""The pushing toy: its motion and its pictures in numbers, and who solves it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rlx.envs
from rlx.envs.control import push_toy as toy

X = toy.Table(jnp.float32([0, 0.75]), jnp.float32([0, 0.2]), jnp.float32([0, 0.75]), jnp.float32(0), jnp.int32(0))


def moved(x, *action):
    return jax.tree.map(np.asarray, jax.jit(toy.advance)(toy.PARAMS, toy.renew(toy.PARAMS, x, None), jnp.float32(action)))


def test_finger_follows_the_command_within_its_reach():
    x = moved(X, 1, -1)
    np.testing.assert_allclose(x.command, [0.15, 0.6], atol=1e-6)
    np.testing.assert_allclose(x.finger, [0.15, 0.6], atol=1e-6)
    np.testing.assert_allclose(x.puck, [0, 0.2])
    assert x.force == 0 and x.successes == 0


def test_a_push_moves_the_puck_out_of_the_way_and_is_felt():
    """From 0.2 above the puck straight down by 0.15: the four moves of 0.0375 begin 0.0125 deep at the second."""
    above = X._replace(finger=jnp.float32([0, 0.4]), command=jnp.float32([0, 0.4]))
    x = moved(above, 0, 0.1)
    np.testing.assert_allclose(x.finger, [0, 0.25], atol=1e-6)
    np.testing.assert_allclose(x.puck, [0, 0.1], atol=1e-6)  # one radius ahead of the finger
    assert x.force == pytest.approx(150 * 0.1, abs=1e-3)  # the depths sum to how far the puck went


def test_leaning_on_a_wall_is_a_violation():
    x = moved(X._replace(finger=jnp.float32([0.75, 0]), command=jnp.float32([0.75, 0])), 1, 0)
    np.testing.assert_allclose(x.command, [0.875, 0], atol=1e-6)
    np.testing.assert_allclose(x.finger, [0.8, 0], atol=1e-6)
    assert x.force == pytest.approx(75, abs=1e-3) and toy.tell(toy.PARAMS, x)["violation"]
    again = moved(x, 0.7, 0)  # the force is of a decision
    assert again.force == 0 and not toy.tell(toy.PARAMS, again)["violation"]


def test_success_is_told_of_the_moment_and_solved_from_five_on():
    x = X._replace(puck=jnp.float32([0, -0.36]))
    told = []
    for _ in range(5):
        x = moved(x, 0, 0.75)
        told.append((bool(toy.tell(toy.PARAMS, x)["success"]), bool(toy.tell(toy.PARAMS, x)["solved"])))
    assert told == [(True, False)] * 4 + [(True, True)]
    away = moved(x._replace(puck=jnp.float32([0, -0.34])), 0, 0.75)
    assert not toy.tell(toy.PARAMS, away)["success"] and toy.tell(toy.PARAMS, away)["solved"]


@partial(jax.jit, static_argnums=(1, 2))
def played(key, behave, episodes):
    """Per episode: the return, whether it was solved, violations per decision."""
    env = rlx.envs.make("rlx:push-toy")

    def episode(key):
        keys = jax.random.split(key, 51)
        state, first = env.reset(env.params, keys[0])

        def one(carry, k):
            state, step = carry
            state, step = env.step(env.params, state, behave(step.obs, k), k)
            return (state, step), (step.reward, step.info["solved"], step.info["violation"])

        rewards, solved, violated = jax.lax.scan(one, (state, first), keys[1:])[1]
        return rewards.sum(), solved.any(), violated.mean()

    return jax.vmap(episode)(jax.random.split(key, episodes))


def script(noise, obs, key):
    return toy.expert(jnp, obs[:2], obs[4:]) + jnp.clip(noise * jax.random.normal(key, (2,)), -0.3, 0.3)


def test_script_solves_every_start_and_wide_actions_none():
    """The reference behaviours of the two ends: the script, and N(0, 2^2) clipped to the box, which breaks things."""
    returns, solved, violated = played(jax.random.key(0), partial(script, 0.0), 200)
    assert solved.mean() == 1.0 and violated.max() == 0.0
    assert float(returns.mean()) == pytest.approx(32.5, abs=1.0)
    returns, solved, violated = played(jax.random.key(1), lambda obs, k: 2 * jax.random.normal(k, (2,)), 200)
    assert solved.mean() <= 0.02 and float(violated.mean()) == pytest.approx(0.058, abs=0.01)


def test_script_with_noise_solves_nearly_all():
    """The reference behaviour between the two ends, of 2000 episodes; no further off than four deviations of the difference."""
    n = 1000
    returns, solved, violated = (np.asarray(x, float) for x in played(jax.random.key(2), partial(script, 0.1), n))
    spread = 4 * np.sqrt(1 / n + 1 / 2000)
    assert abs(solved.mean() - 0.918) < spread * np.sqrt(0.918 * 0.082)
    assert abs(returns.mean() - 16.5) < spread * returns.std() + 0.05  # half of the last digit
    assert abs(violated.mean() - 0.009) < spread * violated.std() + 0.0005


def test_sticky_success_counts_from_the_first_decision_in_the_goal_on():
    """The puck is there at once, pushed out, and back later: in one, four and five of six decisions."""
    x, told = X._replace(puck=jnp.float32([0, -0.36])), []
    for place in (-0.36, 0, 0, 0, 0, -0.36):
        x = moved(x._replace(puck=jnp.float32([0, place])), 0, 0.75)
        told.append([bool(toy.tell(toy.PARAMS, x)[k]) for k in ("success", "solved", "solved_sticky")])
    assert [t[0] for t in told] == [True, False, False, False, False, True]
    assert [t[2] for t in told] == [False] * 4 + [True] * 2 and not any(t[1] for t in told)
    assert x.successes % toy.SINCE == 2 and x.successes // toy.SINCE == 6
    never = X
    for _ in range(6):
        never = moved(never, 0, 0.75)
    assert never.successes == 0 and not toy.tell(toy.PARAMS, never)["solved_sticky"]


def test_pictures_show_finger_puck_and_goal():
    env = rlx.envs.make("rlx:push-toy", observe="proprio", discs=32)
    assert env.spec.obs["pixels"].shape == (32, 32, 3) and env.spec.obs["state"].shape == (4,)
    step = env.reset(env.params, jax.random.key(0))[1]
    assert step.obs["pixels"].dtype == jnp.uint8
    image = np.asarray(toy.picture(toy.PARAMS, X, 64), float) / 255
    area = (64 / (2 * toy.VIEW)) ** 2 * np.pi
    np.testing.assert_allclose(image.sum((0, 1)), [area * r**2 for r in (0.05, 0.15, 0.15)], rtol=0.05)
    at = toy.VIEW * ((np.arange(64) + 0.5) / 32 - 1)
    rows, columns = image.sum(1).T @ -at / image.sum((0, 1)), image.sum(0).T @ at / image.sum((0, 1))
    np.testing.assert_allclose(rows, [0.75, 0.2, -0.5], atol=0.01)  # up is up
    np.testing.assert_allclose(columns, 0, atol=0.01)


def test_the_rasteriser_shows_the_same():
    """Where the discs are: the puck is the darkest, and in front of the goal."""
    env = rlx.envs.make("rlx:push-toy", pixels="sdf", image=64)
    step = env.reset(env.params, jax.random.key(2))[1]
    image = np.asarray(step.obs["pixels"], float)
    at = toy.VIEW * ((np.arange(64) + 0.5) / 32 - 1)
    for mask, place, radius in (
        ((image.max(-1) < 160) & (image[..., 2] > 1.1 * image[..., 1]), step.obs["state"][4:], toy.RADIUS),
        ((image[..., 1] > 1.25 * image[..., 0]) & (image[..., 1] > 1.25 * image[..., 2]), toy.GOAL, toy.RADIUS),
        (image[..., 0] > 1.4 * image[..., 1], step.obs["state"][:2], toy.FINGER),
    ):
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([at[columns].mean(), -at[rows].mean()], place, atol=0.03)
        assert mask.mean() == pytest.approx(np.pi * radius**2 / (2 * toy.VIEW) ** 2, rel=0.25)


def test_options():
    assert rlx.envs.make("rlx:push-toy").spec.obs.shape == (6,)
    both = rlx.envs.make("rlx:push-toy", discs=16).spec.obs
    assert both["pixels"].shape == (16, 16, 3) and both["state"].shape == (6,)
    for wrong in ({"observe": "all"}, {"discs": 0}, {"discs": 2.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            rlx.envs.make("rlx:push-toy", **wrong)
    assert rlx.envs.check(rlx.envs.make("rlx:push-toy", discs=32, time_limit=15), steps=40).exact_resume
