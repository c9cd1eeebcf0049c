"""Learned dynamics as an environment: how episodes end, and that nothing unsound is passed on."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.dynamics import Prediction, as_env, penalised
from rlx.envs import batch, begin, check, rollout


class Double(NamedTuple):
    """x' = gain x + a, with a member drawn per episode that is added; not a number beyond 50."""

    members: int = 1

    def begin(self, params, key):
        return jax.random.randint(key, (), 0, self.members)

    def predict(self, params, episode, obs, action, key):
        new = params * obs + action + episode
        return Prediction(jnp.where(new > 50, jnp.nan, new), -obs.sum())

    def disagreement(self, params, obs, action):
        return jnp.abs(obs).sum()


def made(gain=2.0, members=1, start=1.0, horizon=5, low=-8.0, high=8.0, **how):
    bounds = {"low": np.full(2, low), "high": np.full(2, high)}
    return as_env(Double(members), jnp.float32(gain), np.full((3, 2), start), actions=2, horizon=horizon, **bounds, **how)


def walk(env, action=0.0, steps=6):
    state, step = env.reset(env.params, jax.random.key(0))
    out = [step]
    for t in range(steps):
        state, step = env.step(env.params, state, jnp.full(2, action), jax.random.key(t))
        out.append(step)
    return jax.tree.map(lambda *xs: np.stack(xs), *out)


def test_a_state_on_the_bound_ends_the_episode():
    seen = walk(made())  # 1, 2, 4, 8
    assert seen.obs[:4, 0].tolist() == [1, 2, 4, 8]
    assert seen.terminated[:4].tolist() == [False, False, False, True] and not seen.truncated[:4].any()
    assert seen.info["exit"][:4].tolist() == [False, False, False, True]
    assert walk(made(low=1.0), steps=0).terminated.tolist() == [False]  # a start is never an exit


def test_ways_to_end():
    plain, cut, paid = (walk(made(exit=kind, exit_reward=-7.0)) for kind in ("terminate", "truncate", "penalty"))
    assert not cut.terminated[:4].any() and cut.truncated[:4].tolist() == [False, False, False, True]
    assert plain.reward[:4].tolist() == [0, -2, -4, -8] and paid.reward[:4].tolist() == [0, -2, -4, -15]
    late = walk(made(gain=1.0))
    assert late.truncated.tolist() == [False] * 5 + [True] * 2 and not late.terminated.any()


def test_what_is_not_finite_is_not_passed_on():
    seen = walk(made(gain=100.0, low=-np.inf, high=np.inf))
    assert seen.terminated[1] and np.isfinite(seen.obs).all() and np.isfinite(seen.reward).all()
    assert seen.obs[1].tolist() == [1, 1] and seen.reward[1] == 0
    poisoned = walk(made(gain=np.nan, low=-np.inf, high=np.inf))
    assert poisoned.terminated[1] and np.isfinite(poisoned.obs).all()


@pytest.mark.slow
def test_it_is_an_environment_and_params_are_traced():
    env = made(horizon=20)
    check(env)
    step = jax.jit(env.step)
    state, _ = env.reset(env.params, jax.random.key(0))
    for gain in (2.0, 3.0):
        _, arrived = step({**env.params, "model": jnp.float32(gain)}, state, jnp.zeros(2), jax.random.key(0))
        assert arrived.obs.tolist() == [gain, gain]
    assert step._cache_size() == 1


def test_one_member_rules_an_episode_and_batches_are_single_runs():
    env = made(gain=0.5, members=4, horizon=4)
    vec = batch(env, 8, starts="exact")
    policy = lambda carry, step, key: (jnp.zeros((8, 2)), carry, {})
    run = jax.jit(lambda key: rollout(vec, env.params, policy, begin(vec, env.params, (), key), key, 9)[1])
    rows = jax.tree.map(np.asarray, run(jax.random.key(1)))
    moved = rows.obs[1:] - 0.5 * rows.obs[:-1]  # the member, within an episode
    inside = ~rows.first[1:]
    for w in range(8):
        for start in np.flatnonzero(rows.first[:, w]):
            mine = moved[start : start + 4, w, 0][inside[start : start + 4, w]]
            assert len(set(np.round(mine, 5).tolist())) <= 1
    assert len(set(np.round(moved[inside], 4).ravel().tolist())) > 1  # and another one another
    np.testing.assert_array_equal(rows.obs, np.asarray(run(jax.random.key(1)).obs))  # the same key: the same run


def test_uncertainty_has_a_price():
    env = as_env(
        penalised(Double()),
        {"model": jnp.float32(2.0), "uncertainty_penalty": jnp.float32(0.5)},
        np.ones((1, 2)),
        actions=2,
        horizon=9,
    )
    assert walk(env, steps=2).reward.tolist() == [0, -3, -6]
    keen = {**env.params, "model": {**env.params["model"], "uncertainty_penalty": jnp.float32(-0.5)}}
    state, _ = env.reset(keen, jax.random.key(0))
    assert env.step(keen, state, jnp.zeros(2), jax.random.key(0))[1].reward == -1


def test_what_cannot_be():
    with pytest.raises(ValueError, match="'terminate', 'truncate' or 'penalty'"):
        made(exit="stop")
    with pytest.raises(ValueError, match=r"starts must be \[S, n\]"):
        as_env(Double(), jnp.float32(1), np.ones(2), actions=1, horizon=5)
    with pytest.raises(ValueError, match=r"low must have shape \[2\]"):
        as_env(Double(), jnp.float32(1), np.ones((1, 2)), actions=1, horizon=5, low=np.zeros(3))
    for low, high in ((np.array([-1.0, 2.0]), np.array([1.0, 2.0])), (-1.0, np.array([1.0, np.nan]))):
        with pytest.raises(ValueError, match=r"low must be below high; of observation 1 they are \S+ and (2.0|nan)"):
            as_env(Double(), jnp.float32(1), np.ones((1, 2)), actions=1, horizon=5, low=low, high=high)
